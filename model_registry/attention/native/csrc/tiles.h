// Registers of 16 rows of 64 bytes and the product of two of them: AMX's instructions, or the same in plain C++.
//
// Both have the same functions, and give the same bits: the emulation lets any machine check the code that uses them.
// A product takes 16 x 16 sums over 32 bfloat16 in 16 cycles. Its left factor has a row of the result in each row, its
// right factor pairs of neighbours along the dimension that is summed over: `keys` and `values` of tile.h are such.
#pragma once

#include "arithmetic.h"

#include <cstdlib>

constexpr int kTileSide = 16;  // rows of a register, and 32-bit units in a row
constexpr int kTileRegisters = 8;

// Which registers hold what. In a product of a row of registers one factor stays, and the others come in turn.
struct RowRegisters {  // query rows: they stay as the left factor, keys or values come as the right one
    static constexpr int kSums = 0, kStaying = 4, kTurns = 5, kTurning = 3;
};
struct KeyRegisters {  // one query: keys come as the left factor, and its heads stay as columns of the right one
    static constexpr int kSums = 0, kStaying = 2, kTurns = 6, kTurning = 2;
};
struct ValueRegisters {  // one query, beside KeyRegisters: weights stay as the left factor, values come as the right one
    static constexpr int kSums = 4, kStaying = 3, kTurns = 6, kTurning = 2;
};
// Columns that hold the heads of one query.
constexpr int single_columns(int64_t heads) { return heads <= 4 ? 4 : 8; }

// What `ldtilecfg` reads.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    static TileShapes of_rows(int64_t rows) {
        const int used = rows < kTileSide ? int(rows) : kTileSide;
        TileShapes shapes;
        for (int i = 0; i < kTileRegisters; ++i) shapes.set(i, i < RowRegisters::kTurns ? used : kTileSide, kTileSide);
        return shapes;
    }
    static TileShapes of_single(int heads) {
        TileShapes shapes;
        for (int i = 0; i < kTileRegisters; ++i) {
            if (i <= KeyRegisters::kStaying)
                shapes.set(i, kTileSide, single_columns(heads));
            else
                shapes.set(i, i < ValueRegisters::kTurns ? heads : kTileSide, kTileSide);
        }
        return shapes;
    }

private:
    void set(int register_, int row_count, int columns) {
        rows[register_] = uint8_t(row_count);
        row_bytes[register_] = uint16_t(columns * 4);
    }
};
static_assert(sizeof(TileShapes) == 64, "the size that the instruction reads");

#if defined(WAVE_EMULATED_TILES)
// Registers of the thread. An operation on shapes that do not fit each other ends the process, as a CPU would.
class Tiles {
public:
    static void configure(const TileShapes& shapes) {
        Registers& r = registers();
        std::memset(&r, 0, sizeof r);
        std::memcpy(r.rows, shapes.rows, sizeof r.rows);
        std::memcpy(r.row_bytes, shapes.row_bytes, sizeof r.row_bytes);
    }
    static void release() { std::memset(&registers(), 0, sizeof(Registers)); }

    template <int I>
    static void zero() {
        std::memset(registers().data[I], 0, sizeof registers().data[I]);
    }
    template <int I>
    static void load(const void* from, int64_t stride) {
        Registers& r = registers();
        require(r.rows[I] > 0);
        zero<I>();
        for (int m = 0; m < r.rows[I]; ++m) std::memcpy(r.data[I][m], (const char*)from + m * stride, r.row_bytes[I]);
    }
    template <int I>
    static void store(void* to, int64_t stride) {
        const Registers& r = registers();
        require(r.rows[I] > 0);
        for (int m = 0; m < r.rows[I]; ++m) std::memcpy((char*)to + m * stride, r.data[I][m], r.row_bytes[I]);
    }
    // The instruction sums the products of first and of second elements apart, from zero, and adds both to the sum in
    // the end. Numbers under the least normal one are zeros, read or written.
    template <int Sum, int Left, int Right>
    static void multiply_add() {
        Registers& r = registers();
        require(r.rows[Sum] == r.rows[Left] && r.row_bytes[Sum] == r.row_bytes[Right]);
        require(r.row_bytes[Left] == r.rows[Right] * 4);
        for (int m = 0; m < r.rows[Sum]; ++m) {
            float first[kTileSide] = {}, second[kTileSide] = {};
            for (int k = 0; k < r.rows[Right]; ++k) {
                const float a = low(r.data[Left][m][k]), b = high(r.data[Left][m][k]);
                for (int n = 0; n < r.row_bytes[Sum] / 4; ++n) {
                    first[n] = normal(first[n] + a * low(r.data[Right][k][n]));
                    second[n] = normal(second[n] + b * high(r.data[Right][k][n]));
                }
            }
            for (int n = 0; n < r.row_bytes[Sum] / 4; ++n) {
                float sum;
                std::memcpy(&sum, &r.data[Sum][m][n], sizeof sum);
                sum = normal(normal(sum) + normal(first[n] + second[n]));
                std::memcpy(&r.data[Sum][m][n], &sum, sizeof sum);
            }
        }
    }

private:
    struct Registers {
        uint8_t rows[16];
        uint16_t row_bytes[16];
        uint32_t data[kTileRegisters][kTileSide][kTileSide];
    };
    static Registers& registers() {
        static thread_local Registers of_thread;
        return of_thread;
    }
    static void require(bool fits) {
        if (!fits) std::abort();
    }
    static float normal(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
    static float high(uint32_t pair) {
        pair &= 0xffff0000;
        float x;
        std::memcpy(&x, &pair, sizeof x);
        return normal(x);
    }
    static float low(uint32_t pair) { return high(pair << 16); }
};
#elif defined(__AMX_BF16__)
// Written as assembler with "memory": the intrinsics of GCC 12 do not say that they read and write memory.
struct Tiles {
    static INLINE void configure(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
    static INLINE void release() { asm volatile("tilerelease"); }

    template <int I>
    static INLINE void zero() {
        asm volatile("tilezero %%tmm%c0" : : "i"(I));
    }
    template <int I>
    static INLINE void load(const void* from, int64_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(I) : "memory");
    }
    template <int I>
    static INLINE void store(void* to, int64_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(I) : "memory");
    }
    template <int Sum, int Left, int Right>
    static INLINE void multiply_add() {
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sum), "i"(Left), "i"(Right));
    }
};
#endif

#if defined(WAVE_EMULATED_TILES) || defined(__AMX_BF16__)
#define WAVE_TILES

// The registers of a task. They are given back with it: a thread that holds none has less to save when it is switched.
class ConfiguredTiles {
public:
    ConfiguredTiles(bool single, int64_t rows) {
        Tiles::configure(single ? TileShapes::of_single(int(rows)) : TileShapes::of_rows(rows));
    }
    ~ConfiguredTiles() { Tiles::release(); }
    ConfiguredTiles(const ConfiguredTiles&) = delete;
    ConfiguredTiles& operator=(const ConfiguredTiles&) = delete;
};

template <class Registers, int... I>
INLINE void zero_sums(std::integer_sequence<int, I...>) {
    (Tiles::zero<Registers::kSums + I>(), ...);
}
template <class Registers, int... I>
INLINE void load_sums(const float* from, int64_t stride, std::integer_sequence<int, I...>) {
    (Tiles::load<Registers::kSums + I>(from + I * kTileSide, stride * 4), ...);
}
template <class Registers, int... I>
INLINE void store_sums(float* to, int64_t stride, std::integer_sequence<int, I...>) {
    (Tiles::store<Registers::kSums + I>(to + I * kTileSide, stride * 4), ...);
}
// Adds to the sums the rows of `left` [rows][depth] times as many registers of columns of `right` [depth][..] as there
// are I. `depth` and the strides are in units; a depth that is no multiple of 16 is rounded up.
template <class Registers, int... I>
INLINE void multiply_tiles(const uint32_t* left, int64_t left_stride, const uint32_t* right, int64_t right_stride,
                           int64_t depth, std::integer_sequence<int, I...>) {
    constexpr int staying = Registers::kStaying, turns = Registers::kTurns, turning = Registers::kTurning;
    for (int64_t k = 0; k < depth; k += kTileSide, right += kTileSide * right_stride) {
        Tiles::load<staying>(left + k, left_stride * 4);
        ((Tiles::load<turns + I % turning>(right + I * kTileSide, right_stride * 4),
          Tiles::multiply_add<Registers::kSums + I, staying, turns + I % turning>()),
         ...);
    }
}
// How many registers are worked on together, as a type.
template <int Count>
using Together = std::make_integer_sequence<int, Count>;

// Pairs of bfloat16 that are multiplied in registers of 16 x 16.
struct Bfloat16TileProducts : Bfloat16PairProducts {
    using Registers = ConfiguredTiles;
    static constexpr int kDepth = kTileSide;
};
#endif
