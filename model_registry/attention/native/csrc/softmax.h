// Online softmax of a few query rows over one tile of keys, from scores in registers to the updated output.
#pragma once

#include "tile.h"

// The score of a key that a row may not see, and the peak of a row before its first key. No key scores as low, and it
// is finite: the difference of two infinities would be NaN.
constexpr double kMasked = -1e30;
// ../constants.py says what these are; Python packs the table with the same numbers.
constexpr int kRankSpan = WAVE_RANK_SPAN, kTableMargin = WAVE_TABLE_MARGIN, kMostLanes = WAVE_MOST_LANES;
static_assert(kTableMargin >= kTileKeys, "a vector of keys may lie a whole tile past the query");
static_assert(kMostLanes % (kVectorBytes / sizeof(float)) == 0, "a vector may not reach past a row of the projection");

// The table in units: column kTableMargin + R - 1 - t holds p(t), or its coordinates, so that it runs along the keys.
template <class Products>
struct Table {
    const typename Products::Unit* columns;  // [units][stride]
    const int32_t* ranks;                    // [R / kRankSpan rounded up]: units needed at distance t and beyond
    int64_t R, stride;
};

template <class Products>
struct Tile {
    const typename Products::Unit *keys, *values;
    int64_t first;  // position of the first key
    int count;
    int64_t units;     // of a key
    int64_t padded_d;  // of a value
    typename Products::Real scale;
    int64_t key_stride;  // bytes from a key's row in the cache to the next one's in its sixteen, 0 where that varies
};

// Rows of one query tile; row r is head r % G of query r / G.
template <class Products>
struct QueryRows {
    typename Products::Unit *q, *projected;  // [rows][units], [rows][projected_units]
    int64_t projected_units;
    typename Products::Unit* q_columns;  // of a single query: [units][single_columns(heads)]
    typename Products::Real *output, *peak, *sum;  // [rows][padded_d], [rows], [rows][lanes]
};

template <class Products, int M, int N>
INLINE void multiply(Vector<typename Products::Real> (&sum)[M][N], const typename Products::Unit* a, int64_t a_stride,
                     const typename Products::Unit* b, int64_t b_stride, int64_t depth) {
    using Unit = typename Products::Unit;
    for (int64_t k = 0; k < depth; ++k, b += b_stride) {
        Vector<Unit> columns[N];
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) columns[j] = load(b + j * kLanes<Products>);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
            Vector<Unit> row = broadcast(a[i * a_stride + k]);
#pragma GCC unroll 8
            for (int j = 0; j < N; ++j) sum[i][j] = Products::multiply_add(sum[i][j], row, columns[j]);
        }
    }
}

// Adds q . p(t) for the `Heads` rows of one query and N vectors of consecutive keys. `farthest` is the distance t of
// the first key; t falls by one from each key to the next.
template <class Products, int Heads, int N>
INLINE void add_position(Vector<typename Products::Real> (&sum)[Heads][N], const QueryRows<Products>& rows, int64_t row,
                         int64_t farthest, const Table<Products>& table) {
    const int64_t nearest = farthest - N * kLanes<Products> + 1;
    if (nearest >= table.R) return;
    multiply<Products, Heads, N>(sum, rows.projected + row * rows.projected_units, rows.projected_units,
                                 table.columns + kTableMargin + table.R - 1 - farthest, table.stride,
                                 table.ranks[(nearest < 0 ? 0 : nearest) / kRankSpan]);
}

// Scores of `Queries` x `Heads` rows from row `row` on against N vectors of keys from column `n` of the tile.
template <class Products, int Queries, int Heads, int N>
INLINE void score(const QueryRows<Products>& rows, int64_t row, int64_t position, const Tile<Products>& tile,
                  const Table<Products>& table, int n, typename Products::Real (&scores)[Queries * Heads][kTileKeys]) {
    constexpr int M = Queries * Heads;
    Vector<typename Products::Real> sum[M][N] = {};
    multiply<Products, M, N>(sum, rows.q + row * tile.units, tile.units, tile.keys + n, kTileKeys, tile.units);
#pragma GCC unroll 8
    for (int i = 0; i < Queries; ++i) {
        Vector<typename Products::Real> of_query[Heads][N];
        std::memcpy(&of_query, &sum[i * Heads], sizeof of_query);
        add_position<Products, Heads, N>(of_query, rows, row + i * Heads, position + i - tile.first - n, table);
        std::memcpy(&sum[i * Heads], &of_query, sizeof of_query);
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) store(&scores[i][n + j * kLanes<Products>], sum[i][j] * tile.scale);
}

// Weights 2^(score - peak) of one row, in place of its scores; returns the factor of what was summed before.
template <class Products>
INLINE typename Products::Real weigh(typename Products::Real* scores, typename Products::Unit* weights, int vectors,
                                     int visible, typename Products::Real& peak, typename Products::Real* sum) {
    using Real = typename Products::Real;
    constexpr int lanes = kLanes<Products>;
    for (int n = visible < 0 ? 0 : visible; n < vectors * lanes; ++n) scores[n] = Real(kMasked);
    Vector<Real> highest = load(scores);  // there is at least one key
    for (int v = 1; v < vectors; ++v) highest = maximum<Real>(highest, load(scores + v * lanes));
    const Real old = peak, tile_peak = across<Real>(highest, maximum<Real>);
    peak = tile_peak > old ? tile_peak : old;
    const Vector<Real> offset = broadcast(peak);
    Vector<Real> total = {};
    for (int v = 0; v < vectors; ++v) {
        Vector<Real> w = exp2_of_nonpositive<Products::kCoarse>(load(scores + v * lanes) - offset);
        total += w;
        Products::store_units(weights + v * lanes / Products::kPack, w);
    }
    const Real factor = old == peak ? 1 : exp2_of_nonpositive<false>(broadcast(old - peak))[0];
    store(sum, load(sum) * factor + total);
    return factor;
}

template <class Products, int M, int N>
INLINE void accumulate(typename Products::Real* output, int64_t padded_d, const typename Products::Real* factor,
                       const typename Products::Unit* weights, const typename Products::Unit* values, int64_t depth) {
    Vector<typename Products::Real> sum[M][N];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) sum[i][j] = load(output + i * padded_d + j * kLanes<Products>) * factor[i];
    multiply<Products, M, N>(sum, weights, kTileKeys / Products::kPack, values, padded_d, depth);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) store(output + i * padded_d + j * kLanes<Products>, sum[i][j]);
}

// One tile of keys for `Queries` queries from `position` on, and the `Heads` heads from row `row` on.
template <class Products, int Queries, int Heads>
void attend_rows(const QueryRows<Products>& rows, int64_t row, int64_t position, const Tile<Products>& tile,
                 const Table<Products>& table) {
    using Real = typename Products::Real;
    constexpr int M = Queries * Heads, lanes = kLanes<Products>;
    alignas(kVectorBytes) Real scores[M][kTileKeys];
    alignas(kVectorBytes) typename Products::Unit weights[M][kTileKeys / Products::kPack];
    Real factor[M];
    const int64_t last = position + Queries - tile.first;  // keys of the tile that the last query sees
    const int seen = int(last < tile.count ? last : tile.count), vectors = (seen + lanes - 1) / lanes;
    int v = 0;
    for (; v + 4 <= vectors; v += 4)
        score<Products, Queries, Heads, 4>(rows, row, position, tile, table, v * lanes, scores);
    for (; v < vectors; ++v) score<Products, Queries, Heads, 1>(rows, row, position, tile, table, v * lanes, scores);
    for (int i = 0; i < M; ++i) {
        const int64_t visible = position + i / Heads - tile.first + 1;
        factor[i] = weigh<Products>(scores[i], weights[i], vectors, int(visible < seen ? visible : seen),
                                    rows.peak[row + i], rows.sum + (row + i) * lanes);
    }
    const int64_t depth = (seen + Products::kPack - 1) / Products::kPack, width = tile.padded_d / lanes;
    Real* output = rows.output + row * tile.padded_d;
    int64_t c = 0;
    for (; c + 4 <= width; c += 4)
        accumulate<Products, M, 4>(output + c * lanes, tile.padded_d, factor, weights[0], tile.values + c * lanes,
                                   depth);
    for (; c + 2 <= width; c += 2)
        accumulate<Products, M, 2>(output + c * lanes, tile.padded_d, factor, weights[0], tile.values + c * lanes,
                                   depth);
    for (; c < width; ++c)
        accumulate<Products, M, 1>(output + c * lanes, tile.padded_d, factor, weights[0], tile.values + c * lanes,
                                   depth);
}

// All `queries` x `heads` rows of a query tile, in groups that fit in registers.
template <class Products>
void attend_tile(const QueryRows<Products>& rows, int64_t queries, int64_t heads, int64_t position,
                 const Tile<Products>& tile, const Table<Products>& table) {
    // Queries before the tile's first key see none of it.
    int64_t q = tile.first > position ? tile.first - position : 0;
    if (heads <= 3) {
        const int64_t together = heads == 1 ? 6 : heads == 2 ? 3 : 2;
        for (; q + together <= queries; q += together) {
            if (heads == 1) attend_rows<Products, 6, 1>(rows, q, position + q, tile, table);
            if (heads == 2) attend_rows<Products, 3, 2>(rows, q * 2, position + q, tile, table);
            if (heads == 3) attend_rows<Products, 2, 3>(rows, q * 3, position + q, tile, table);
        }
    }
    const int64_t groups = (heads + 5) / 6;
    for (; q < queries; ++q)
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t first = heads * g / groups, row = q * heads + first;
            switch (heads * (g + 1) / groups - first) {
                case 1: attend_rows<Products, 1, 1>(rows, row, position + q, tile, table); break;
                case 2: attend_rows<Products, 1, 2>(rows, row, position + q, tile, table); break;
                case 3: attend_rows<Products, 1, 3>(rows, row, position + q, tile, table); break;
                case 4: attend_rows<Products, 1, 4>(rows, row, position + q, tile, table); break;
                case 5: attend_rows<Products, 1, 5>(rows, row, position + q, tile, table); break;
                case 6: attend_rows<Products, 1, 6>(rows, row, position + q, tile, table); break;
            }
        }
}
