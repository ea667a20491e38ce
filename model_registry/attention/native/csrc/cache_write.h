// New keys and values into their slots of the paged cache: elements are copied as they are.
#pragma once

#include <cstdint>
#include <cstring>

// ../cache_writer.py has the same fields in the same order. Strides are in elements.
extern "C" struct CacheWrite {
    const void *key, *value;
    const int64_t* slots;
    void *k_cache, *v_cache;
    int64_t key_strides[3], value_strides[3], k_strides[4], v_strides[4];
    int64_t T, H_kv, d, num_blocks, block_size, element_bytes;
};

constexpr int64_t kTokensAlone = 64;  // fewer are written by one thread: to wake the others takes longer

template <class Element>
inline void write_row(Element* to, int64_t to_stride, const Element* from, int64_t from_stride, int64_t d) {
    if (to_stride == 1 && from_stride == 1)
        std::memcpy(to, from, d * sizeof(Element));
    else
        for (int64_t i = 0; i < d; ++i) to[i * to_stride] = from[i * from_stride];
}

// Tokens of negative slots are padding.
template <class Element>
void write_tokens(const CacheWrite& w) {
#pragma omp parallel for schedule(static) if (w.T > kTokensAlone)
    for (int64_t t = 0; t < w.T; ++t) {
        if (w.slots[t] < 0) continue;
        const int64_t block = w.slots[t] / w.block_size, slot = w.slots[t] % w.block_size;
        for (int64_t h = 0; h < w.H_kv; ++h) {
            write_row((Element*)w.k_cache + block * w.k_strides[0] + slot * w.k_strides[1] + h * w.k_strides[2],
                      w.k_strides[3], (const Element*)w.key + t * w.key_strides[0] + h * w.key_strides[1],
                      w.key_strides[2], w.d);
            write_row((Element*)w.v_cache + block * w.v_strides[0] + slot * w.v_strides[1] + h * w.v_strides[2],
                      w.v_strides[3], (const Element*)w.value + t * w.value_strides[0] + h * w.value_strides[1],
                      w.value_strides[2], w.d);
        }
    }
}
