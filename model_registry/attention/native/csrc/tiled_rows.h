// Sixteen query rows against one tile of keys, in registers of 16 x 16: bfloat16 on CPUs that have them.
#pragma once

#include "softmax.h"
#include "tiles.h"

#if defined(WAVE_TILES)

// q . k of the rows from `q` on, in `scores`; `width` columns, a multiple of 32.
template <class Products>
INLINE void score_tiles(const uint32_t* q, const Tile<Products>& tile, int width,
                        float (&scores)[kTileSide][kTileKeys]) {
    const auto columns = [&](int n, auto count) {
        zero_sums<RowRegisters>(count);
        multiply_tiles<RowRegisters>(q, tile.units, tile.keys + n, kTileKeys, tile.units, count);
        store_sums<RowRegisters>(&scores[0][n], kTileKeys, count);
    };
    int n = 0;
    for (; n + 64 <= width; n += 64) columns(n, Together<4>());
    if (n < width) columns(n, Together<2>());
}

constexpr int kTermColumns = kTileKeys + kTileSide;

// q . p(t) of the rows from `projected` on: column c holds the distance `farthest` - c. The table runs along the keys,
// so for all rows it is read at one place; a row finds the term of a key at a column that depends on its query.
template <class Products>
INLINE void term_tiles(const uint32_t* projected, int64_t projected_units, int64_t farthest, int64_t columns,
                       const Table<Products>& table, float (&term)[kTileSide][kTermColumns]) {
    const auto some = [&](int64_t c, auto count) {
        const int64_t nearest = farthest - c - int64_t(count.size()) * kTileSide + 1;
        zero_sums<RowRegisters>(count);
        if (nearest < table.R)
            multiply_tiles<RowRegisters>(
                projected, projected_units, table.columns + kTableMargin + table.R - 1 - farthest + c, table.stride,
                table.ranks[(nearest < 0 ? 0 : nearest) / kRankSpan], count);
        store_sums<RowRegisters>(&term[0][c], kTermColumns, count);
    };
    int64_t c = 0;
    for (; c + 64 <= columns; c += 64) some(c, Together<4>());
    for (; c < columns; c += kTileSide) some(c, Together<1>());
}

// One tile of keys for `count` rows, at most 16, from row `row` on. All see the tile's first key.
template <class Products>
void attend_sixteen(const QueryRows<Products>& rows, int64_t row, int count, int64_t heads, int64_t position,
                    const Tile<Products>& tile, const Table<Products>& table) {
    constexpr int lanes = kLanes<Products>, step = kTileSide * Products::kPack;
    alignas(64) float scores[kTileSide][kTileKeys], term[kTileSide][kTermColumns];
    alignas(64) uint32_t weights[kTileSide][kTileKeys / Products::kPack];

    const int64_t first = position + row / heads, last = position + (row + count - 1) / heads;  // rows' positions
    const int64_t farthest = last - tile.first;
    const int seen = int(farthest + 1 < tile.count ? farthest + 1 : tile.count);
    const int width = (seen + step - 1) / step * step;
    score_tiles(rows.q + row * tile.units, tile, width, scores);

    // The first row's distances are by `last - first` less than the last row's, so its last key is the nearest one.
    const int64_t past_last = seen + last - first, columns = past_last < farthest + 1 ? past_last : farthest + 1;
    const bool near = farthest - columns + 1 < table.R;
    if (near)
        term_tiles(rows.projected + row * rows.projected_units, rows.projected_units, farthest,
                   (columns + kTileSide - 1) / kTileSide * kTileSide, table, term);

    for (int i = 0; i < count; ++i) {
        const int64_t of_row = position + (row + i) / heads, visible = of_row - tile.first + 1;
        const float* of_keys = term[i] + (last - of_row);
        for (int n = 0; n < width; n += lanes) {
            Vector<float> score = load(&scores[i][n]);
            if (near) score += load(of_keys + n);
            store(&scores[i][n], score * tile.scale);
        }
        const float factor = weigh<Products>(scores[i], weights[i], width / lanes, int(visible < seen ? visible : seen),
                                             rows.peak[row + i], rows.sum + (row + i) * lanes);
        float* output = rows.output + (row + i) * tile.padded_d;
        if (factor != 1)
            for (int64_t c = 0; c < tile.padded_d; c += lanes) store(output + c, load(output + c) * factor);
    }

    const auto columns_of_values = [&](int64_t c, auto together) {
        float* output = rows.output + row * tile.padded_d + c;
        load_sums<RowRegisters>(output, tile.padded_d, together);
        multiply_tiles<RowRegisters>(weights[0], kTileKeys / Products::kPack, tile.values + c, tile.padded_d,
                                     width / Products::kPack, together);
        store_sums<RowRegisters>(output, tile.padded_d, together);
    };
    int64_t c = 0;
    for (; c + 64 <= tile.padded_d; c += 64) columns_of_values(c, Together<4>());
    if (c < tile.padded_d) columns_of_values(c, Together<2>());
}

// All `queries` x `heads` rows of a query tile, sixteen at a time.
template <class Products>
void attend_by_sixteen(const QueryRows<Products>& rows, int64_t queries, int64_t heads, int64_t position,
                  const Tile<Products>& tile, const Table<Products>& table) {
    // Queries before the tile's first key see none of it.
    const int64_t first = tile.first > position ? tile.first - position : 0, end = queries * heads;
    for (int64_t row = first * heads; row < end; row += kTileSide)
        attend_sixteen<Products>(rows, row, int(end - row < kTileSide ? end - row : kTileSide), heads, position, tile,
                                 table);
}

#endif
