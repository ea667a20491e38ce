// Vectors of the width this file is compiled for, and the three ways to multiply: float, double, pairs of bfloat16.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#define INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VectorOf {
    typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
INLINE Vector<T> load(const T* from) {
    Vector<T> v;
    std::memcpy(&v, from, kVectorBytes);
    return v;
}
template <class T>
INLINE void store(T* to, Vector<T> v) {
    std::memcpy(to, &v, kVectorBytes);
}
template <class T>
INLINE Vector<T> broadcast(T x) {
    return x - Vector<T>{};  // not x + 0, which would turn -0 into +0
}

struct Bfloat16 {
    uint16_t bits;
    explicit operator float() const {
        uint32_t wide = uint32_t(bits) << 16;
        float x;
        std::memcpy(&x, &wide, 4);
        return x;
    }
    static Bfloat16 from(float x) {
        uint32_t wide;
        std::memcpy(&wide, &x, 4);
        if (x != x) return {uint16_t((wide >> 16) | 0x40)};
        return {uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16)};
    }
};

struct Float16 {
    uint16_t bits;
    explicit operator float() const {
        uint32_t magnitude = uint32_t(bits & 0x7fff) << 13;
        float x;
        std::memcpy(&x, &magnitude, 4);
        x *= 0x1p112f;  // the difference of the exponents' biases; exact, also for subnormal numbers
        uint32_t wide;
        std::memcpy(&wide, &x, 4);
        wide |= magnitude >= 0x0f800000 ? 0x7f800000 : 0;  // infinity and NaN
        wide |= uint32_t(bits & 0x8000) << 16;
        std::memcpy(&x, &wide, 4);
        return x;
    }
    static Float16 from(float x) {
        uint32_t wide;
        std::memcpy(&wide, &x, 4);
        uint16_t sign = uint16_t((wide >> 16) & 0x8000);
        wide &= 0x7fffffff;
        if (wide > 0x7f800000) return {uint16_t(sign | 0x7e00)};
        if (wide >= 0x477ff000) return {uint16_t(sign | 0x7c00)};  // 65520 and up round to infinity
        if (wide < 0x38800000) {                                   // subnormal: the addition rounds at bit 2^-24
            float y;
            std::memcpy(&y, &wide, 4);
            y += 0.5f;
            std::memcpy(&wide, &y, 4);
            return {uint16_t(sign | (wide - 0x3f000000))};
        }
        return {uint16_t(sign | ((wide - 0x38000000 + 0xfff + ((wide >> 13) & 1)) >> 13))};
    }
};

template <class Stored, class Real>
INLINE Stored stored_from(Real x) {
    if constexpr (sizeof(Stored) == 2)
        return Stored::from(x);
    else
        return x;
}

// What products need that work in vectors alone: nothing that lives as long as a task.
struct VectorsOnly {
    VectorsOnly(bool, int64_t) {}
};

// Products of `Unit`s, summed as `Real`s. A unit holds `kPack` neighbours along the dimension that is summed over, and
// `kDepth` units are summed over at once.
struct FloatProducts {
    using Real = float;
    using Unit = float;
    using Registers = VectorsOnly;
    static constexpr int kPack = 1, kDepth = 1;
    static constexpr bool kCoarse = false;
    static INLINE Vector<float> multiply_add(Vector<float> sum, Vector<float> a, Vector<float> b) { return sum + a * b; }
    static INLINE void store_units(float* to, Vector<float> v) { store(to, v); }
};
struct DoubleProducts {
    using Real = double;
    using Unit = double;
    using Registers = VectorsOnly;
    static constexpr int kPack = 1, kDepth = 1;
    static constexpr bool kCoarse = false;
    static INLINE Vector<double> multiply_add(Vector<double> sum, Vector<double> a, Vector<double> b) { return sum + a * b; }
    static INLINE void store_units(double* to, Vector<double> v) { store(to, v); }
};
#if defined(__AVX512BF16__) || defined(WAVE_EMULATED_TILES)
struct Bfloat16PairProducts {
    using Real = float;
    using Unit = uint32_t;
    using Registers = VectorsOnly;
    static constexpr int kPack = 2, kDepth = 1;
    static constexpr bool kCoarse = true;
#if defined(__AVX512BF16__)
    static INLINE Vector<float> multiply_add(Vector<float> sum, Vector<uint32_t> a, Vector<uint32_t> b) {
        return (Vector<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
    }
    static INLINE void store_units(uint32_t* to, Vector<float> v) {
        const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
        std::memcpy(to, &rounded, sizeof rounded);
    }
#else
    static INLINE Vector<float> multiply_add(Vector<float> sum, Vector<uint32_t> a, Vector<uint32_t> b) {
        sum += (Vector<float>)(a << 16) * (Vector<float>)(b << 16);
        return sum + (Vector<float>)(a & 0xffff0000) * (Vector<float>)(b & 0xffff0000);
    }
    static INLINE void store_units(uint32_t* to, Vector<float> v) {
        Bfloat16 rounded[kVectorBytes / 4];
        for (int i = 0; i < kVectorBytes / 4; ++i) rounded[i] = Bfloat16::from(v[i]);
        std::memcpy(to, rounded, sizeof rounded);
    }
#endif
};
#endif

// Lanes of one arithmetic's vectors.
template <class Products>
constexpr int kLanes = kVectorBytes / int(sizeof(typename Products::Real));

// Units that rows are padded to a multiple of: a vector of them, or as many as are summed over at once.
template <class Products>
constexpr int kRowUnits = kLanes<Products> > Products::kDepth ? kLanes<Products> : Products::kDepth;

// 2^x for x <= 0, to the precision of a float, or of a bfloat16 with 6 bits to spare if `Coarse`.
template <bool Coarse>
INLINE Vector<float> exp2_of_nonpositive(Vector<float> x) {
    const Vector<float> lowest = broadcast(-126.0f);
    x = x < lowest ? lowest : x;  // in this order, so that NaN stays
    const float magic = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are x rounded to an integer
    Vector<float> rounded = x + magic;
    Vector<float> f = x - (rounded - magic), p;
    if constexpr (Coarse) {
        p = f * 0.009560510206485845f + 0.055917039174870224f;
        p = p * f + 0.2402498110953727f;
        p = p * f + 0.69312196769606f;
        p = p * f + 0.9999991908565833f;
    } else {
        p = f * 0.00015337576838842464f + 0.0013399860363395102f;
        p = p * f + 0.009618519534335871f;
        p = p * f + 0.05550328997517005f;
        p = p * f + 0.24022646608714168f;
        p = p * f + 0.69314720560051f;
        p = p * f + 1.0f;
    }
    return (Vector<float>)((Vector<int32_t>)p + ((Vector<int32_t>)rounded << 23));
}
template <bool Coarse>
INLINE Vector<double> exp2_of_nonpositive(Vector<double> x) {
    for (int i = 0; i < kVectorBytes / 8; ++i) x[i] = std::exp2(x[i]);
    return x;
}

template <class Real>
INLINE Vector<Real> maximum(Vector<Real> a, Vector<Real> b) {
    return a > b ? a : b;
}
template <int Distance, class T, std::size_t... I>
INLINE Vector<T> swapped(Vector<T> v, std::index_sequence<I...>) {
    return __builtin_shufflevector(v, v, int(I ^ Distance)...);
}
// All lanes of `v` combined.
template <class Real, int Distance = kVectorBytes / sizeof(Real) / 2, class Combine>
INLINE Real across(Vector<Real> v, Combine combine) {
    if constexpr (Distance == 0) {
        return v[0];
    } else {
        v = combine(v, swapped<Distance, Real>(v, std::make_index_sequence<kVectorBytes / sizeof(Real)>()));
        return across<Real, Distance / 2>(v, combine);
    }
}

template <int Distance, class T, std::size_t... I>
INLINE void exchange(Vector<T>& a, Vector<T>& b, std::index_sequence<I...>) {
    constexpr int lanes = sizeof...(I);
    Vector<T> low = __builtin_shufflevector(a, b, (I & Distance ? lanes + int(I) - Distance : int(I))...);
    b = __builtin_shufflevector(a, b, (I & Distance ? lanes + int(I) : int(I) + Distance)...);
    a = low;
}
// Transposes a square of as many vectors as a vector has lanes.
template <class T, int Distance = 1>
INLINE void transpose(Vector<T>* rows) {
    constexpr int lanes = kVectorBytes / sizeof(T);
    if constexpr (Distance < lanes) {
#pragma GCC unroll 16
        for (int i = 0; i < lanes; ++i)
            if (!(i & Distance)) exchange<Distance, T>(rows[i], rows[i + Distance], std::make_index_sequence<lanes>());
        transpose<T, Distance * 2>(rows);
    }
}
