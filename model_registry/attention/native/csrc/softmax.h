// Online softmax of a few query rows over one tile of keys, from scores in registers to the updated output.
#pragma once

#include "tile.h"

constexpr double kMasked = -1e30;  // a score that no key has; finite, so that a row that sees no key stays finite
// ../constants.py says what these are; Python packs the table with the same numbers.
constexpr int kRankSpan = WAVE_RANK_SPAN, kTableMargin = WAVE_TABLE_MARGIN, kMostLanes = WAVE_MOST_LANES;
static_assert(kTableMargin >= kTileKeys, "a vector of keys may lie a whole tile past the query");
static_assert(kMostLanes % (kVectorBytes / sizeof(float)) == 0, "a vector may not reach past a row of the projection");

// The table in units: column kTableMargin + R - 1 - t holds p(t), or its coordinates, so that it runs along the keys.
template <class P>
struct Table {
    const typename P::Unit* columns;  // [units][stride]
    const int32_t* ranks;             // [R / kRankSpan rounded up]: units needed at distance t and beyond
    int64_t R, stride;
};

template <class P>
struct Tile {
    const typename P::Unit *keys, *values;
    int64_t first;  // position of the first key
    int count;
    int64_t units;     // of a key
    int64_t padded_d;  // of a value
    typename P::Real scale;
};

// Rows of one query tile; row r is head r % G of query r / G.
template <class P>
struct Rows {
    typename P::Unit *q, *projected;  // [rows][units], [rows][projected_units]
    int64_t projected_units;
    typename P::Real *output, *peak, *sum;  // [rows][padded_d], [rows], [rows][lanes]
};

template <class P, int M, int N>
INLINE void multiply(Vector<typename P::Real> (&sum)[M][N], const typename P::Unit* a, int64_t a_stride,
                     const typename P::Unit* b, int64_t b_stride, int64_t depth) {
    using Unit = typename P::Unit;
    for (int64_t k = 0; k < depth; ++k, b += b_stride) {
        Vector<Unit> columns[N];
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) columns[j] = load(b + j * kLanes<P>);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
            Vector<Unit> row = broadcast(a[i * a_stride + k]);
#pragma GCC unroll 8
            for (int j = 0; j < N; ++j) sum[i][j] = P::multiply_add(sum[i][j], row, columns[j]);
        }
    }
}

// Adds the position term of one query's `Heads` rows against N vectors of keys, of which `farthest` is the first's
// distance.
template <class P, int Heads, int N>
INLINE void add_position(Vector<typename P::Real> (&sum)[Heads][N], const Rows<P>& rows, int64_t row, int64_t farthest,
                         const Table<P>& table) {
    const int64_t nearest = farthest - N * kLanes<P> + 1;
    if (nearest >= table.R) return;
    multiply<P, Heads, N>(sum, rows.projected + row * rows.projected_units, rows.projected_units,
                          table.columns + kTableMargin + table.R - 1 - farthest, table.stride,
                          table.ranks[(nearest < 0 ? 0 : nearest) / kRankSpan]);
}

// Scores of `Queries` x `Heads` rows from row `row` on against N vectors of keys from column `n` of the tile.
template <class P, int Queries, int Heads, int N>
INLINE void score(const Rows<P>& rows, int64_t row, int64_t position, const Tile<P>& tile, const Table<P>& table, int n,
                  typename P::Real (&scores)[Queries * Heads][kTileKeys]) {
    constexpr int M = Queries * Heads;
    Vector<typename P::Real> sum[M][N] = {};
    multiply<P, M, N>(sum, rows.q + row * tile.units, tile.units, tile.keys + n, kTileKeys, tile.units);
#pragma GCC unroll 8
    for (int i = 0; i < Queries; ++i) {
        Vector<typename P::Real> of_query[Heads][N];
        std::memcpy(&of_query, &sum[i * Heads], sizeof of_query);
        add_position<P, Heads, N>(of_query, rows, row + i * Heads, position + i - tile.first - n, table);
        std::memcpy(&sum[i * Heads], &of_query, sizeof of_query);
    }
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) store(&scores[i][n + j * kLanes<P>], sum[i][j] * tile.scale);
}

// Weights 2^(score - peak) of one row, in place of its scores; returns the factor of what was summed before.
template <class P>
INLINE typename P::Real weigh(typename P::Real* scores, typename P::Unit* weights, int vectors, int visible,
                              typename P::Real& peak, typename P::Real* sum) {
    using Real = typename P::Real;
    constexpr int lanes = kLanes<P>;
    for (int n = visible < 0 ? 0 : visible; n < vectors * lanes; ++n) scores[n] = Real(kMasked);
    Vector<Real> highest = load(scores);  // there is at least one key
    for (int v = 1; v < vectors; ++v) highest = maximum<Real>(highest, load(scores + v * lanes));
    const Real old = peak, tile_peak = across<Real>(highest, maximum<Real>);
    peak = tile_peak > old ? tile_peak : old;
    const Vector<Real> offset = broadcast(peak);
    Vector<Real> total = {};
    for (int v = 0; v < vectors; ++v) {
        Vector<Real> w = exp2_of_nonpositive<P::kCoarse>(load(scores + v * lanes) - offset);
        total += w;
        P::store_units(weights + v * lanes / P::kPack, w);
    }
    const Real factor = old == peak ? 1 : exp2_of_nonpositive<false>(broadcast(old - peak))[0];
    store(sum, load(sum) * factor + total);
    return factor;
}

template <class P, int M, int N>
INLINE void accumulate(typename P::Real* output, int64_t padded_d, const typename P::Real* factor,
                       const typename P::Unit* weights, const typename P::Unit* values, int64_t depth) {
    Vector<typename P::Real> sum[M][N];
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) sum[i][j] = load(output + i * padded_d + j * kLanes<P>) * factor[i];
    multiply<P, M, N>(sum, weights, kTileKeys / P::kPack, values, padded_d, depth);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) store(output + i * padded_d + j * kLanes<P>, sum[i][j]);
}

// One tile of keys for `Queries` queries from `position` on, and the `Heads` heads from row `row` on.
template <class P, int Queries, int Heads>
void attend_rows(const Rows<P>& rows, int64_t row, int64_t position, const Tile<P>& tile, const Table<P>& table) {
    using Real = typename P::Real;
    constexpr int M = Queries * Heads, lanes = kLanes<P>;
    alignas(kVectorBytes) Real scores[M][kTileKeys];
    alignas(kVectorBytes) typename P::Unit weights[M][kTileKeys / P::kPack];
    Real factor[M];
    const int64_t last = position + Queries - tile.first;  // keys of the tile that the last query sees
    const int seen = int(last < tile.count ? last : tile.count), vectors = (seen + lanes - 1) / lanes;
    int v = 0;
    for (; v + 4 <= vectors; v += 4) score<P, Queries, Heads, 4>(rows, row, position, tile, table, v * lanes, scores);
    for (; v < vectors; ++v) score<P, Queries, Heads, 1>(rows, row, position, tile, table, v * lanes, scores);
    for (int i = 0; i < M; ++i) {
        const int64_t visible = position + i / Heads - tile.first + 1;
        factor[i] = weigh<P>(scores[i], weights[i], vectors, int(visible < seen ? visible : seen), rows.peak[row + i],
                             rows.sum + (row + i) * lanes);
    }
    const int64_t depth = (seen + P::kPack - 1) / P::kPack, width = tile.padded_d / lanes;
    Real* output = rows.output + row * tile.padded_d;
    int64_t c = 0;
    for (; c + 4 <= width; c += 4)
        accumulate<P, M, 4>(output + c * lanes, tile.padded_d, factor, weights[0], tile.values + c * lanes, depth);
    for (; c + 2 <= width; c += 2)
        accumulate<P, M, 2>(output + c * lanes, tile.padded_d, factor, weights[0], tile.values + c * lanes, depth);
    for (; c < width; ++c)
        accumulate<P, M, 1>(output + c * lanes, tile.padded_d, factor, weights[0], tile.values + c * lanes, depth);
}

// All `queries` x `heads` rows of a query tile, in groups that fit in registers.
template <class P>
void attend_tile(const Rows<P>& rows, int64_t queries, int64_t heads, int64_t position, const Tile<P>& tile,
                 const Table<P>& table) {
    // Queries before the tile's first key see none of it.
    int64_t q = tile.first > position ? tile.first - position : 0;
    if (heads <= 3) {
        const int64_t together = heads == 1 ? 6 : heads == 2 ? 3 : 2;
        for (; q + together <= queries; q += together) {
            if (heads == 1) attend_rows<P, 6, 1>(rows, q, position + q, tile, table);
            if (heads == 2) attend_rows<P, 3, 2>(rows, q * 2, position + q, tile, table);
            if (heads == 3) attend_rows<P, 2, 3>(rows, q * 3, position + q, tile, table);
        }
    }
    const int64_t groups = (heads + 5) / 6;
    for (; q < queries; ++q)
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t first = heads * g / groups, row = q * heads + first;
            switch (heads * (g + 1) / groups - first) {
                case 1: attend_rows<P, 1, 1>(rows, row, position + q, tile, table); break;
                case 2: attend_rows<P, 1, 2>(rows, row, position + q, tile, table); break;
                case 3: attend_rows<P, 1, 3>(rows, row, position + q, tile, table); break;
                case 4: attend_rows<P, 1, 4>(rows, row, position + q, tile, table); break;
                case 5: attend_rows<P, 1, 5>(rows, row, position + q, tile, table); break;
                case 6: attend_rows<P, 1, 6>(rows, row, position + q, tile, table); break;
            }
        }
}
