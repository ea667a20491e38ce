// One query: too few rows to pay for a packed tile, so keys and values go from their rows to the products in registers.
#pragma once

#include "softmax.h"

template <std::size_t... I>
INLINE void interleave(Vector<uint16_t> a, Vector<uint16_t> b, Vector<uint32_t>* to, std::index_sequence<I...>) {
    constexpr int lanes = sizeof...(I), half = lanes / 2;
    to[0] = (Vector<uint32_t>)__builtin_shufflevector(a, b, (int(I / 2) + (I & 1 ? lanes : 0))...);
    to[1] = (Vector<uint32_t>)__builtin_shufflevector(a, b, (int(I / 2) + half + (I & 1 ? lanes : 0))...);
}

template <class Stored, class P>
struct Source {
    const Stored* const* rows;  // of the tile's keys, repeating the last up to a whole vector
    Ahead<Stored> ahead;
};

// Adds the products of `Heads` query rows with `lanes` keys.
template <class Stored, class P, int Heads>
INLINE void multiply_keys(Vector<typename P::Real> (&sum)[Heads][1], const typename P::Unit* q, int64_t units,
                          const Stored* const* keys) {
    constexpr int lanes = kLanes<P>;
    Vector<typename P::Real> odd[Heads] = {};  // a second chain of sums hides the products' latency
    for (int64_t u = 0; u < units; u += lanes) {
        Vector<typename P::Unit> square[lanes];
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i) square[i] = RowReader<Stored, P>::units(keys[i] + u * P::kPack);
        transpose<typename P::Unit>(square);
#pragma GCC unroll 16
        for (int i = 0; i < lanes; i += 2)
#pragma GCC unroll 8
            for (int h = 0; h < Heads; ++h) {
                sum[h][0] = P::multiply_add(sum[h][0], broadcast(q[h * units + u + i]), square[i]);
                odd[h] = P::multiply_add(odd[h], broadcast(q[h * units + u + i + 1]), square[i + 1]);
            }
    }
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h) sum[h][0] += odd[h];
}

// Adds the products of `Heads` rows of weights with the values of `depth` units of keys, in `Chunks` x kPack vectors
// of columns from `column` on.
template <class Stored, class P, int Heads, int Chunks>
INLINE void multiply_values(typename P::Real* output, int64_t padded_d, const typename P::Real* factor,
                            const typename P::Unit (&weights)[Heads][kTileKeys / P::kPack], int64_t depth,
                            const Source<Stored, P>& values, int64_t column) {
    constexpr int N = Chunks * P::kPack, lanes = kLanes<P>, step = lanes * P::kPack;
    Vector<typename P::Real> sum[Heads][N];
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) sum[h][j] = load(output + h * padded_d + column + j * lanes) * factor[h];
    for (int64_t k = 0; k < depth; ++k) {
        Vector<typename P::Unit> columns[N];
#pragma GCC unroll 8
        for (int c = 0; c < Chunks; ++c) {
            const Stored* row = values.rows[k * P::kPack] + column + c * step;
            if constexpr (P::kPack == 1)
                columns[c] = RowReader<Stored, P>::units(row);
            else
                interleave(load((const uint16_t*)row), load((const uint16_t*)values.rows[k * 2 + 1] + column + c * step),
                           columns + c * 2, std::make_index_sequence<kVectorBytes / 2>());
        }
        if (column == 0 && k % 8 == 0) values.ahead.fetch(int(k) * P::kPack, 8 * P::kPack);
#pragma GCC unroll 8
        for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 8
            for (int j = 0; j < N; ++j) sum[h][j] = P::multiply_add(sum[h][j], broadcast(weights[h][k]), columns[j]);
    }
#pragma GCC unroll 8
    for (int h = 0; h < Heads; ++h)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) store(output + h * padded_d + column + j * lanes, sum[h][j]);
}

// One tile of keys for all `Heads` rows of one query.
template <class Stored, class P, int Heads>
void attend_single(const Rows<P>& rows, int64_t position, const Tile<P>& tile, const Table<P>& table,
                   const Source<Stored, P>& keys, const Source<Stored, P>& values) {
    using Real = typename P::Real;
    constexpr int lanes = kLanes<P>;
    alignas(kVectorBytes) Real scores[Heads][kTileKeys];
    alignas(kVectorBytes) typename P::Unit weights[Heads][kTileKeys / P::kPack];
    Real factor[Heads];
    const int vectors = (tile.count + lanes - 1) / lanes;
    for (int v = 0; v < vectors; ++v) {
        Vector<Real> sum[Heads][1] = {};
        keys.ahead.fetch(v * lanes, lanes);
        add_position<P, Heads, 1>(sum, rows, 0, position - tile.first - v * lanes, table);
        multiply_keys<Stored, P, Heads>(sum, rows.q, tile.units, keys.rows + v * lanes);
#pragma GCC unroll 8
        for (int h = 0; h < Heads; ++h) store(&scores[h][v * lanes], sum[h][0] * tile.scale);
    }
    for (int h = 0; h < Heads; ++h)
        factor[h] = weigh<P>(scores[h], weights[h], vectors, tile.count, rows.peak[h], rows.sum + h * lanes);
    constexpr int together = 4 / P::kPack, step = lanes * P::kPack;
    const int64_t depth = (tile.count + P::kPack - 1) / P::kPack;
    int64_t column = 0;
    for (; column + together * step <= tile.padded_d; column += together * step)
        multiply_values<Stored, P, Heads, together>(rows.output, tile.padded_d, factor, weights, depth, values, column);
    for (; column < tile.padded_d; column += step)
        multiply_values<Stored, P, Heads, 1>(rows.output, tile.padded_d, factor, weights, depth, values, column);
}

constexpr int64_t kSingleHeads = 6;  // more heads than this pay for a packed tile

template <class Stored, class P>
void attend_single(const Rows<P>& rows, int64_t heads, int64_t position, const Tile<P>& tile, const Table<P>& table,
                   const Source<Stored, P>& keys, const Source<Stored, P>& values) {
    switch (heads) {
        case 1: return attend_single<Stored, P, 1>(rows, position, tile, table, keys, values);
        case 2: return attend_single<Stored, P, 2>(rows, position, tile, table, keys, values);
        case 3: return attend_single<Stored, P, 3>(rows, position, tile, table, keys, values);
        case 4: return attend_single<Stored, P, 4>(rows, position, tile, table, keys, values);
        case 5: return attend_single<Stored, P, 5>(rows, position, tile, table, keys, values);
        case 6: return attend_single<Stored, P, 6>(rows, position, tile, table, keys, values);
    }
}
