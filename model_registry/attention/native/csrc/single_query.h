// One query: too few rows to pay for a packed tile, so keys and values go from their rows to the products in registers.
#pragma once

#include "softmax.h"

constexpr int kSingleHeads = 6;  // of one query; more heads than this pay for a packed tile

template <class Stored, class Products>
struct RowSource {
    const Stored* const* rows;  // of the tile's keys, repeating the last up to a whole vector
    Prefetch<Stored> ahead;
};

// Adds the products of `Heads` query rows with `lanes` keys.
template <class Stored, class Products, int Heads>
INLINE void multiply_keys(Vector<typename Products::Real> (&sum)[Heads][1], const typename Products::Unit* q,
                          int64_t units, const Stored* const* keys) {
    constexpr int lanes = kLanes<Products>;
    Vector<typename Products::Real> odd[Heads] = {};  // a second chain of sums hides the products' latency
    for (int64_t u = 0; u < units; u += lanes) {
        Vector<typename Products::Unit> square[lanes];
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) square[i] = RowReader<Stored, Products>::units(keys[i] + u * Products::kPack);
        transpose<typename Products::Unit>(square);
#pragma GCC unroll 16
        for (int i = 0; i < lanes; i += 2)
#pragma GCC unroll 8
            for (int h = 0; h < Heads; ++h) {
                sum[h][0] = Products::multiply_add(sum[h][0], broadcast(q[h * units + u + i]), square[i]);
                odd[h] = Products::multiply_add(odd[h], broadcast(q[h * units + u + i + 1]), square[i + 1]);
            }
    }
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h) sum[h][0] += odd[h];
}

// Adds the products of `Heads` rows of weights with the values of `depth` units of keys, in `Chunks` x kPack vectors
// of columns from `column` on.
template <class Stored, class Products, int Heads, int Chunks>
INLINE void multiply_values(typename Products::Real* output, int64_t padded_d, const typename Products::Real* factor,
                            const typename Products::Unit (&weights)[Heads][kTileKeys / Products::kPack], int64_t depth,
                            const RowSource<Stored, Products>& values, int64_t column) {
    constexpr int N = Chunks * Products::kPack, lanes = kLanes<Products>, step = lanes * Products::kPack;
    Vector<typename Products::Real> sum[Heads][N];
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) sum[h][j] = load(output + h * padded_d + column + j * lanes) * factor[h];
    for (int64_t k = 0; k < depth; ++k) {
        Vector<typename Products::Unit> columns[N];
#pragma GCC unroll 8
        for (int c = 0; c < Chunks; ++c) {
            const Stored* row = values.rows[k * Products::kPack] + column + c * step;
            if constexpr (Products::kPack == 1)
                columns[c] = RowReader<Stored, Products>::units(row);
            else
                interleave(load((const uint16_t*)row),
                           load((const uint16_t*)values.rows[k * 2 + 1] + column + c * step), columns + c * 2);
        }
        if (column == 0 && k % 8 == 0) values.ahead.fetch(int(k) * Products::kPack, 8 * Products::kPack);
#pragma GCC unroll 8
        for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 8
            for (int j = 0; j < N; ++j)
                sum[h][j] = Products::multiply_add(sum[h][j], broadcast(weights[h][k]), columns[j]);
    }
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) store(output + h * padded_d + column + j * lanes, sum[h][j]);
}

// One tile of keys for all `Heads` rows of one query.
template <class Stored, class Products, int Heads>
void attend_single(const QueryRows<Products>& rows, int64_t position, const Tile<Products>& tile,
                   const Table<Products>& table, const RowSource<Stored, Products>& keys,
                   const RowSource<Stored, Products>& values) {
    using Real = typename Products::Real;
    constexpr int lanes = kLanes<Products>;
    alignas(kVectorBytes) Real scores[Heads][kTileKeys];
    alignas(kVectorBytes) typename Products::Unit weights[Heads][kTileKeys / Products::kPack];
    Real factor[Heads];
    const int vectors = (tile.count + lanes - 1) / lanes;
    for (int v = 0; v < vectors; ++v) {
        Vector<Real> sum[Heads][1] = {};
        keys.ahead.fetch(v * lanes, lanes);
        add_position<Products, Heads, 1>(sum, rows, 0, position - tile.first - v * lanes, table);
        multiply_keys<Stored, Products, Heads>(sum, rows.q, tile.units, keys.rows + v * lanes);
#pragma GCC unroll 8
        for (int h = 0; h < Heads; ++h) store(&scores[h][v * lanes], sum[h][0] * tile.scale);
    }
    for (int h = 0; h < Heads; ++h)
        factor[h] = weigh<Products>(scores[h], weights[h], vectors, tile.count, rows.peak[h], rows.sum + h * lanes);
    constexpr int together = 4 / Products::kPack, step = lanes * Products::kPack;
    const int64_t depth = (tile.count + Products::kPack - 1) / Products::kPack;
    int64_t column = 0;
    for (; column + together * step <= tile.padded_d; column += together * step)
        multiply_values<Stored, Products, Heads, together>(rows.output, tile.padded_d, factor, weights, depth, values,
                                                           column);
    for (; column < tile.padded_d; column += step)
        multiply_values<Stored, Products, Heads, 1>(rows.output, tile.padded_d, factor, weights, depth, values, column);
}

template <class Stored, class Products>
void attend_single(const QueryRows<Products>& rows, int64_t heads, int64_t position, const Tile<Products>& tile,
                   const Table<Products>& table, const RowSource<Stored, Products>& keys,
                   const RowSource<Stored, Products>& values) {
    switch (heads) {
        case 1: return attend_single<Stored, Products, 1>(rows, position, tile, table, keys, values);
        case 2: return attend_single<Stored, Products, 2>(rows, position, tile, table, keys, values);
        case 3: return attend_single<Stored, Products, 3>(rows, position, tile, table, keys, values);
        case 4: return attend_single<Stored, Products, 4>(rows, position, tile, table, keys, values);
        case 5: return attend_single<Stored, Products, 5>(rows, position, tile, table, keys, values);
        case 6: return attend_single<Stored, Products, 6>(rows, position, tile, table, keys, values);
    }
}
