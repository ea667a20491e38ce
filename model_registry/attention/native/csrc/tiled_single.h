// One query in registers of 16 x 16: keys are read where they lie in the cache, values are packed.
//
// In vectors a key costs 24 cycles for its scores and 20 for its values on such a CPU (4 heads of 64 dimensions, by
// llvm-mca): the shuffles that transpose keys, and one product for each vector, head and value. Here 16 keys take 2
// products of 16 cycles and no transposition, and 32 values take 4, on rows that were interleaved once for all heads.
#pragma once

#include "single_query.h"
#include "tiles.h"

#if defined(WAVE_TILES)

template <int Parity, std::size_t... I>
INLINE Vector<float> every_second(Vector<float> a, Vector<float> b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, int(2 * I + Parity)...);
}
// Columns of 16 rows of `Columns` numbers, which `rows` holds one after the other: column `j` goes to columns[j * Step].
template <int Columns, int Step, std::size_t N>
INLINE void split_columns(const Vector<float> (&rows)[Columns * N], Vector<float> (*columns)[N]) {
    if constexpr (Columns == 1) {
        std::memcpy(columns[0], rows, sizeof rows);
    } else {
        constexpr auto lanes = std::make_index_sequence<kVectorBytes / 4>();
        Vector<float> even[Columns / 2 * N], odd[Columns / 2 * N];
#pragma GCC unroll 16
        for (std::size_t i = 0; i < Columns / 2 * N; ++i) {
            even[i] = every_second<0>(rows[2 * i], rows[2 * i + 1], lanes);
            odd[i] = every_second<1>(rows[2 * i], rows[2 * i + 1], lanes);
        }
        split_columns<Columns / 2, Step * 2, N>(even, columns);
        split_columns<Columns / 2, Step * 2, N>(odd, columns + Step);
    }
}

// q . k of the heads of `q_columns` and as many sixteens of keys as there are I. `keys` are the keys' rows, those of a
// sixteen `key_stride` bytes apart.
template <int Heads, std::size_t Vectors, int... I>
INLINE void multiply_sixteens(Vector<float> (&products)[Heads][Vectors], const uint32_t* q_columns, int64_t units,
                              const Bfloat16* const* keys, int64_t key_stride, std::integer_sequence<int, I...> together) {
    using R = KeyRegisters;
    constexpr int columns = single_columns(Heads), of_sixteen = int(Vectors / sizeof...(I));
    zero_sums<R>(together);
    for (int64_t u = 0; u < units; u += kTileSide) {
        Tiles::load<R::kStaying>(q_columns + u * columns, columns * 4);
        ((Tiles::load<R::kTurns + I>(keys[I * kTileSide] + u * 2, key_stride),
          Tiles::multiply_add<R::kSums + I, R::kTurns + I, R::kStaying>()),
         ...);
    }
    alignas(64) float sums[sizeof...(I)][kTileSide][columns];
    (Tiles::store<R::kSums + I>(sums[I], columns * 4), ...);
    for (int i = 0; i < int(sizeof...(I)); ++i) {
        Vector<float> rows[columns * of_sixteen], of_heads[columns][of_sixteen];
        std::memcpy(rows, sums[i], sizeof rows);
        split_columns<columns, 1, of_sixteen>(rows, of_heads);
        for (int h = 0; h < Heads; ++h) std::memcpy(&products[h][i * of_sixteen], of_heads[h], sizeof of_heads[h]);
    }
}

// One tile of keys for all `Heads` rows of one query. `pack` packs the tile's values; it is called when the scores are
// done, as the values arrive meanwhile.
template <class Products, int Heads, class Pack>
void attend_single_tiled(const QueryRows<Products>& rows, int64_t position, const Tile<Products>& tile,
                         const Table<Products>& table, const RowSource<Bfloat16, Products>& keys, const Pack& pack) {
    constexpr int lanes = kLanes<Products>, step = kTileSide * Products::kPack;
    alignas(64) float scores[Heads][kTileKeys];
    alignas(64) uint32_t weights[Heads][kTileKeys / Products::kPack];
    const int width = (tile.count + step - 1) / step * step;

    const auto add_term_and_store = [&](Vector<float>(&sum)[Heads][1], int n) {
        add_position<Products, Heads, 1>(sum, rows, 0, position - tile.first - n, table);
        for (int h = 0; h < Heads; ++h) store(&scores[h][n], sum[h][0] * tile.scale);
    };
    const auto sixteens = [&](int n, auto together) {
        constexpr int vectors = int(together.size()) * kTileSide / lanes;
        Vector<float> products[Heads][vectors];
        keys.ahead.fetch(n, vectors * lanes);
        multiply_sixteens<Heads>(products, rows.q_columns, tile.units, keys.rows + n, tile.key_stride, together);
        for (int i = 0; i < vectors; ++i) {
            Vector<float> sum[Heads][1];
            for (int h = 0; h < Heads; ++h) sum[h][0] = products[h][i];
            add_term_and_store(sum, n + i * lanes);
        }
    };
    int n = 0;
    const int regular = tile.key_stride ? tile.count : 0;  // keys whose rows lie at equal distances by sixteens
    for (; n + 2 * kTileSide <= regular; n += 2 * kTileSide) sixteens(n, Together<2>());
    for (; n + kTileSide <= regular; n += kTileSide) sixteens(n, Together<1>());
    for (; n < tile.count; n += lanes) {
        Vector<float> sum[Heads][1] = {};
        keys.ahead.fetch(n, lanes);
        multiply_keys<Bfloat16, Products, Heads>(sum, rows.q, tile.units, keys.rows + n);
        add_term_and_store(sum, n);
    }

    for (int h = 0; h < Heads; ++h) {
        const float factor = weigh<Products>(scores[h], weights[h], width / lanes, tile.count, rows.peak[h],
                                             rows.sum + h * lanes);
        float* output = rows.output + h * tile.padded_d;
        if (factor != 1)
            for (int64_t c = 0; c < tile.padded_d; c += lanes) store(output + c, load(output + c) * factor);
    }
    pack();
    for (int64_t c = 0; c < tile.padded_d; c += step) {
        load_sums<ValueRegisters>(rows.output + c, tile.padded_d, Together<2>());
        multiply_tiles<ValueRegisters>(weights[0], kTileKeys / Products::kPack, tile.values + c, tile.padded_d,
                                       width / Products::kPack, Together<2>());
        store_sums<ValueRegisters>(rows.output + c, tile.padded_d, Together<2>());
    }
}

template <class Products, class Pack>
void attend_single_tiled(const QueryRows<Products>& rows, int64_t heads, int64_t position, const Tile<Products>& tile,
                         const Table<Products>& table, const RowSource<Bfloat16, Products>& keys, const Pack& pack) {
    switch (heads) {
        case 1: return attend_single_tiled<Products, 1>(rows, position, tile, table, keys, pack);
        case 2: return attend_single_tiled<Products, 2>(rows, position, tile, table, keys, pack);
        case 3: return attend_single_tiled<Products, 3>(rows, position, tile, table, keys, pack);
        case 4: return attend_single_tiled<Products, 4>(rows, position, tile, table, keys, pack);
        case 5: return attend_single_tiled<Products, 5>(rows, position, tile, table, keys, pack);
        case 6: return attend_single_tiled<Products, 6>(rows, position, tile, table, keys, pack);
    }
}

#endif
