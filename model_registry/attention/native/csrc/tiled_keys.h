// The scores of one query in registers of 16 x 16: keys' rows are the left factor, read where they lie in the cache.
#pragma once

#include "softmax.h"
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

// Products of the heads of `q_columns` with as many sixteens of keys as there are I; `keys` are the keys' rows, those of
// a sixteen `key_stride` bytes apart.
template <int Heads, std::size_t Vectors, int... I>
INLINE void multiply_tiled_keys(Vector<float> (&products)[Heads][Vectors], const uint32_t* q_columns, int64_t units,
                                const Bfloat16* const* keys, int64_t key_stride, std::integer_sequence<int, I...> groups) {
    constexpr int columns = single_columns(Heads), per_group = int(Vectors / sizeof...(I));
    zero_sums(groups);
    for (int64_t u = 0; u < units; u += kTileSide) {
        Tiles::load<kStaying>(q_columns + u * columns, columns * 4);
        ((Tiles::load<kTurns + I % kTurning>(keys[I * kTileSide] + u * 2, key_stride),
          Tiles::multiply_add<I, kTurns + I % kTurning, kStaying>()),
         ...);
    }
    alignas(64) float sums[sizeof...(I)][kTileSide][columns];
    (Tiles::store<I>(sums[I], columns * 4), ...);
    for (int g = 0; g < int(sizeof...(I)); ++g) {
        Vector<float> rows[columns * per_group], of_heads[columns][per_group];
        std::memcpy(rows, sums[g], sizeof rows);
        split_columns<columns, 1, per_group>(rows, of_heads);
        for (int h = 0; h < Heads; ++h) std::memcpy(&products[h][g * per_group], of_heads[h], sizeof of_heads[h]);
    }
}

#endif
