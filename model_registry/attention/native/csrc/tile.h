// Keys and values of one head, from the paged cache to a tile that the products read: keys by column, values by row.
#pragma once

#include "arithmetic.h"

constexpr int kTileKeys = 128;
constexpr int kPrefetchLocality = 2;  // to the L2 cache: rows of two tiles are more than the L1 cache holds

// Reads rows of `d` elements as units of `P`, padded with zeros to whole vectors.
template <class Stored, class P>
struct RowReader {
    using Unit = typename P::Unit;
    static constexpr int kStep = kLanes<P> * P::kPack;  // elements in a vector of units
    int64_t d, stride;
    Stored* padded;  // room for a padded row

    bool direct() const { return stride == 1 && d % kStep == 0; }

    const Stored* row(const Stored* from) const {
        if (direct()) return from;
        int64_t i = 0;
        for (; i < d; ++i) padded[i] = from[i * stride];
        for (; i % kStep; ++i) padded[i] = Stored{};
        return padded;
    }
    static INLINE Vector<Unit> units(const Stored* from) {
        if constexpr (sizeof(Stored) * P::kPack == sizeof(Unit)) {
            Vector<Unit> v;
            std::memcpy(&v, from, kVectorBytes);
            return v;
        } else {
            alignas(kVectorBytes) Unit converted[kLanes<P>];
            for (int i = 0; i < kLanes<P>; ++i) converted[i] = Unit(from[i]);
            return load(converted);
        }
    }
};

// Rows that are read next: memory is asked for them while others are worked on.
template <class Stored>
struct Ahead {
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
template <class Stored, class P>
void pack_keys(const RowReader<Stored, P>& reader, const Stored* const* rows, int count, const Ahead<Stored>& ahead,
               typename P::Unit* keys) {
    using Unit = typename P::Unit;
    constexpr int lanes = kLanes<P>;
    for (int n = 0; n < count; n += lanes) {
        ahead.fetch(n, lanes);
        if (reader.direct() && n + lanes <= count) {
            for (int64_t u = 0; u * P::kPack < reader.d; u += lanes) {
                Vector<Unit> square[lanes];
#pragma GCC unroll 16
                for (int i = 0; i < lanes; ++i) square[i] = reader.units(rows[n + i] + u * P::kPack);
                transpose<Unit>(square);
#pragma GCC unroll 16
                for (int i = 0; i < lanes; ++i) store(keys + (u + i) * kTileKeys + n, square[i]);
            }
        } else {
            for (int i = 0; i < lanes; ++i) {
                const Stored* row = n + i < count ? reader.row(rows[n + i]) : nullptr;
                for (int64_t u = 0; u * P::kPack < reader.d; u += lanes) {
                    Vector<Unit> part = row ? reader.units(row + u * P::kPack) : Vector<Unit>{};
                    for (int j = 0; j < lanes; ++j) keys[(u + j) * kTileKeys + n + i] = part[j];
                }
            }
        }
    }
}

template <std::size_t... I>
INLINE void interleave(const uint16_t* even, const uint16_t* odd, uint32_t* to, std::index_sequence<I...>) {
    constexpr int lanes = sizeof...(I), half = lanes / 2;
    const Vector<uint16_t> a = load(even), b = load(odd);
    store((uint16_t*)to, (Vector<uint16_t>)__builtin_shufflevector(a, b, (int(I / 2) + (I & 1 ? lanes : 0))...));
    store((uint16_t*)to + lanes, (Vector<uint16_t>)__builtin_shufflevector(a, b, (int(I / 2) + half + (I & 1 ? lanes : 0))...));
}

// `values[n / kPack][i]`: element i of `kPack` keys from n on. `count` keys, then zeros to a whole unit.
template <class Stored, class P>
void pack_values(const RowReader<Stored, P>& reader, const Stored* const* rows, int count, const Ahead<Stored>& ahead,
                 int64_t padded_d, typename P::Unit* values) {
    if constexpr (P::kPack == 2) {
        constexpr int step = kVectorBytes / 2;
        alignas(kVectorBytes) static const uint16_t zeros[step] = {};
        Stored* const second = reader.padded + padded_d;
        for (int n = 0; n < count; n += 2, values += padded_d) {
            ahead.fetch(n, 2);
            RowReader<Stored, P> other = reader;
            other.padded = second;
            const uint16_t* even = (const uint16_t*)reader.row(rows[n]);
            const uint16_t* odd = n + 1 < count ? (const uint16_t*)other.row(rows[n + 1]) : nullptr;
            for (int64_t i = 0; i < padded_d; i += step)
                interleave(even + i, odd ? odd + i : zeros, values + i, std::make_index_sequence<step>());
        }
    } else {
        for (int n = 0; n < count; ++n, values += padded_d) {
            ahead.fetch(n, 1);
            const Stored* row = reader.row(rows[n]);
            for (int64_t i = 0; i < padded_d; i += kLanes<P>) store(values + i, reader.units(row + i));
        }
    }
}
