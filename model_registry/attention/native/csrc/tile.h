// Keys and values of one head, from the paged cache to a tile that the products read: keys by column, values by row.
#pragma once

#include "arithmetic.h"

constexpr int kTileKeys = 128;
constexpr int kPrefetchLocality = 2;  // to the L2 cache: rows of two tiles are more than the L1 cache holds

// Reads rows of `d` elements as units of `Products`, padded with zeros to a multiple of `kElements`.
template <class Stored, class Products>
struct RowReader {
    using Unit = typename Products::Unit;
    static constexpr int kElements = kRowUnits<Products> * Products::kPack;
    int64_t d, stride;
    Stored* padded;  // room for a padded row

    bool direct() const { return stride == 1 && d % kElements == 0; }
    int64_t row_units() const { return (d + kElements - 1) / kElements * kRowUnits<Products>; }

    const Stored* row(const Stored* from) const {
        if (direct()) return from;
        int64_t i = 0;
        for (; i < d; ++i) padded[i] = from[i * stride];
        for (; i % kElements; ++i) padded[i] = Stored{};
        return padded;
    }
    static INLINE Vector<Unit> units(const Stored* from) {
        if constexpr (sizeof(Stored) * Products::kPack == sizeof(Unit)) {
            Vector<Unit> v;
            std::memcpy(&v, from, kVectorBytes);
            return v;
        } else {
            alignas(kVectorBytes) Unit converted[kLanes<Products>];
            for (int i = 0; i < kLanes<Products>; ++i) converted[i] = Unit(from[i]);
            return load(converted);
        }
    }
};

// Rows that will be read next. `fetch` asks for some of them early, so that they arrive while others are worked on.
template <class Stored>
struct Prefetch {
    const Stored* const* rows;
    int count;
    int64_t d;

    INLINE void fetch(int first, int rows_now) const {
        const int last = first + rows_now < count ? first + rows_now : count;
        for (int64_t i = 0; i < d; i += 64 / int(sizeof(Stored)))
            for (int n = first; n < last; ++n) __builtin_prefetch(rows[n] + i, 0, kPrefetchLocality);
    }
};

// `keys[u][n]`: unit u of key n. `count` keys, then zeros to a whole vector.
template <class Stored, class Products>
void pack_keys(const RowReader<Stored, Products>& reader, const Stored* const* rows, int count,
               const Prefetch<Stored>& ahead, typename Products::Unit* keys) {
    using Unit = typename Products::Unit;
    constexpr int lanes = kLanes<Products>;
    const int64_t units = reader.row_units();
    for (int n = 0; n < count; n += lanes) {
        ahead.fetch(n, lanes);
        if (reader.direct() && n + lanes <= count) {
            for (int64_t u = 0; u < units; u += lanes) {
                Vector<Unit> square[lanes];
#pragma GCC unroll 16
                for (int i = 0; i < lanes; ++i) square[i] = reader.units(rows[n + i] + u * Products::kPack);
                transpose<Unit>(square);
#pragma GCC unroll 16
                for (int i = 0; i < lanes; ++i) store(keys + (u + i) * kTileKeys + n, square[i]);
            }
        } else {
            for (int i = 0; i < lanes; ++i) {
                const Stored* row = n + i < count ? reader.row(rows[n + i]) : nullptr;
                for (int64_t u = 0; u < units; u += lanes) {
                    Vector<Unit> part = row ? reader.units(row + u * Products::kPack) : Vector<Unit>{};
                    for (int j = 0; j < lanes; ++j) keys[(u + j) * kTileKeys + n + i] = part[j];
                }
            }
        }
    }
}

template <std::size_t... I>
INLINE void interleave(Vector<uint16_t> a, Vector<uint16_t> b, Vector<uint32_t>* to, std::index_sequence<I...>) {
    constexpr int lanes = sizeof...(I), half = lanes / 2;
    to[0] = (Vector<uint32_t>)__builtin_shufflevector(a, b, (int(I / 2) + (I & 1 ? lanes : 0))...);
    to[1] = (Vector<uint32_t>)__builtin_shufflevector(a, b, (int(I / 2) + half + (I & 1 ? lanes : 0))...);
}
// Two vectors of bfloat16 as two vectors of pairs: a[0] b[0] a[1] b[1] and so on.
INLINE void interleave(Vector<uint16_t> a, Vector<uint16_t> b, Vector<uint32_t>* to) {
    interleave(a, b, to, std::make_index_sequence<kVectorBytes / 2>());
}

// `values[n / kPack][i]`: element i of `kPack` keys from n on. `count` keys, then zeros to as many units as are summed
// over at once: a weight of zero times what an earlier tile left there could be NaN.
template <class Stored, class Products>
void pack_values(const RowReader<Stored, Products>& reader, const Stored* const* rows, int count,
                 const Prefetch<Stored>& ahead, int64_t padded_d, typename Products::Unit* values) {
    if constexpr (Products::kPack == 2) {
        constexpr int step = kVectorBytes / 2;
        alignas(kVectorBytes) static const uint16_t zeros[step] = {};
        Stored* const second = reader.padded + padded_d;
        for (int n = 0; n < count; n += 2, values += padded_d) {
            ahead.fetch(n, 2);
            RowReader<Stored, Products> other = reader;
            other.padded = second;
            const uint16_t* even = (const uint16_t*)reader.row(rows[n]);
            const uint16_t* odd = n + 1 < count ? (const uint16_t*)other.row(rows[n + 1]) : nullptr;
            for (int64_t i = 0; i < padded_d; i += step) {
                Vector<uint32_t> pairs[2];
                interleave(load(even + i), load(odd ? odd + i : zeros), pairs);
                store(values + i, pairs[0]);
                store(values + i + step / 2, pairs[1]);
            }
        }
    } else {
        for (int n = 0; n < count; ++n, values += padded_d) {
            ahead.fetch(n, 1);
            const Stored* row = reader.row(rows[n]);
            for (int64_t i = 0; i < padded_d; i += kLanes<Products>) store(values + i, reader.units(row + i));
        }
    }
    constexpr int at_once = Products::kPack * Products::kDepth;
    const int written = (count + Products::kPack - 1) / Products::kPack * Products::kPack;
    for (int n = written; n % at_once; n += Products::kPack, values += padded_d)
        std::memset(values, 0, padded_d * sizeof *values);
}
