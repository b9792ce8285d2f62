// LANES pixels at a time, in the registers of the instruction set that this file is compiled for: the vector
// types of GCC and Clang. Lane i of a sum holds the pixels i, i + LANES, ... whatever the width
// of a register is, so that every instruction set gives the same bits.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace DL_ISA {

constexpr int LANES = 16;
#if defined(__AVX512F__)
constexpr int REGISTER = 64;
#elif defined(__AVX2__)
constexpr int REGISTER = 32;
#else
constexpr int REGISTER = 16;
#endif

template <class T>
struct Traits;
template <>
struct Traits<float> {
    using Int = int32_t;
};
template <>
struct Traits<double> {
    using Int = int64_t;
};
template <>
struct Traits<int32_t> {
    using Int = int32_t;
};
template <>
struct Traits<int64_t> {
    using Int = int64_t;
};
template <class T>
using Int = typename Traits<T>::Int;

template <class T>
struct Vec {
    static constexpr int PER = REGISTER / static_cast<int>(sizeof(T)), N = LANES / PER;
    typedef T Register __attribute__((vector_size(REGISTER)));
    typedef uint8_t Bytes __attribute__((vector_size(PER)));
    Register r[N];
};
template <class T>
using Mask = Vec<Int<T>>;

#define EACH for (int i = 0; i < Vec<T>::N; i++)
#define INLINE inline __attribute__((always_inline))

template <class T>
INLINE Vec<T> load(const T* p) {
    Vec<T> x;
    memcpy(&x, p, sizeof x);
    return x;
}
template <class T>
INLINE void store(T* p, const Vec<T>& x) {
    memcpy(p, &x, sizeof x);
}
template <class T>
INLINE Vec<T> all(T value) {
    Vec<T> x;
    EACH x.r[i] = value - typename Vec<T>::Register{};
    return x;
}
#define BINARY(op)                                                \
    template <class T>                                            \
    INLINE Vec<T> operator op(const Vec<T>& a, const Vec<T>& b) { \
        Vec<T> x;                                                 \
        EACH x.r[i] = a.r[i] op b.r[i];                           \
        return x;                                                 \
    }
BINARY(+)
BINARY(-)
BINARY(*) BINARY(/) BINARY(&) BINARY(|)
#undef BINARY
#define COMPARE(op)                                                \
    template <class T>                                             \
    INLINE Mask<T> operator op(const Vec<T>& a, const Vec<T>& b) { \
        Mask<T> x;                                                 \
        EACH x.r[i] = a.r[i] op b.r[i];                            \
        return x;                                                  \
    }
    COMPARE(<) COMPARE(>) COMPARE(<=) COMPARE(>=) COMPARE(==) COMPARE(!=)
#undef COMPARE
        template <class T>
        INLINE Vec<T> select(const Mask<T>& m, const Vec<T>& a, const Vec<T>& b) {
    Vec<T> x;
    EACH x.r[i] = m.r[i] ? a.r[i] : b.r[i];
    return x;
}
template <class T>
INLINE Vec<T> select(const Mask<T>& m, const Vec<T>& a) {
    return select(m, a, all(T(0)));
}
template <class To, class T>
INLINE Vec<To> bits(const Vec<T>& x) {
    Vec<To> y;
    static_assert(sizeof y == sizeof x, "the same lanes");
    memcpy(&y, &x, sizeof y);
    return y;
}
template <class T>
INLINE Vec<T> abs(const Vec<T>& x) {
    constexpr Int<T> sign = sizeof(T) == 4 ? Int<T>(0x7fffffff) : Int<T>(0x7fffffffffffffff);
    return bits<T>(bits<Int<T>>(x) & all(sign));
}
template <class T>
INLINE Vec<T> shifted(const Vec<T>& x, int left) {
    Vec<T> y;
    EACH y.r[i] = left >= 0 ? x.r[i] << left : x.r[i] >> -left;
    return y;
}
template <class To, class T>
INLINE Vec<To> converted(const Vec<T>& x) {
    Vec<To> y;
    EACH y.r[i] = __builtin_convertvector(x.r[i], typename Vec<To>::Register);
    return y;
}
// Bytes and words of memory as integers of a lane's width. Compilers take __builtin_convertvector apart into
// single bytes here: the one place for intrinsics.
#if defined(__SSE2__)
template <int BYTES>
INLINE __m128i some(const void* p) {
    if constexpr (BYTES == 16)
        return _mm_loadu_si128(static_cast<const __m128i*>(p));
    else {
        int64_t x = 0;
        memcpy(&x, p, BYTES);
        return _mm_cvtsi64_si128(x);
    }
}
#endif
#if defined(__AVX512F__)
#define WIDEN(from, Narrow)                                                               \
    INLINE __m512i widen(const Narrow* p, int32_t) {                                      \
        return _mm512_maskz_cvtep##from##_epi32(0xffff, some_of<sizeof(Narrow) * 16>(p)); \
    }                                                                                     \
    INLINE __m512i widen(const Narrow* p, int64_t) {                                      \
        return _mm512_maskz_cvtep##from##_epi64(0xff, some<sizeof(Narrow) * 8>(p));       \
    }
template <int BYTES>
INLINE auto some_of(const void* p) {
    if constexpr (BYTES == 32)
        return _mm256_loadu_si256(static_cast<const __m256i*>(p));
    else
        return some<BYTES>(p);
}
#elif defined(__AVX2__)
#define WIDEN(from, Narrow)                                             \
    INLINE __m256i widen(const Narrow* p, int32_t) {                    \
        return _mm256_cvtep##from##_epi32(some<sizeof(Narrow) * 8>(p)); \
    }                                                                   \
    INLINE __m256i widen(const Narrow* p, int64_t) {                    \
        return _mm256_cvtep##from##_epi64(some<sizeof(Narrow) * 4>(p)); \
    }
#elif defined(__SSE2__)
// To words, to double words, to quad words: a zero or the sign comes between.
INLINE __m128i words(const uint8_t* p) { return _mm_unpacklo_epi8(some<4>(p), _mm_setzero_si128()); }
INLINE __m128i words(const int8_t* p) {
    return _mm_srai_epi16(_mm_unpacklo_epi8(_mm_setzero_si128(), some<4>(p)), 8);
}
INLINE __m128i words(const uint16_t* p) { return some<8>(p); }
INLINE __m128i half_words(const uint8_t* p) { return _mm_unpacklo_epi8(some<2>(p), _mm_setzero_si128()); }
INLINE __m128i half_words(const int8_t* p) {
    return _mm_srai_epi16(_mm_unpacklo_epi8(_mm_setzero_si128(), some<2>(p)), 8);
}
INLINE __m128i half_words(const uint16_t* p) { return some<4>(p); }
template <class Narrow>
INLINE __m128i longs(__m128i w) {
    const __m128i high = sizeof(Narrow) == 1 && Narrow(-1) < 0 ? _mm_srai_epi16(w, 15) : _mm_setzero_si128();
    return _mm_unpacklo_epi16(w, high);
}
#define WIDEN(from, Narrow)                                                            \
    INLINE __m128i widen(const Narrow* p, int32_t) { return longs<Narrow>(words(p)); } \
    INLINE __m128i widen(const Narrow* p, int64_t) {                                   \
        const __m128i x = longs<Narrow>(half_words(p));                                \
        return _mm_unpacklo_epi32(x, _mm_srai_epi32(x, 31));                           \
    }
#endif
#if defined(__SSE2__)
WIDEN(u8, uint8_t)
WIDEN(i8, int8_t)
WIDEN(u16, uint16_t)
#undef WIDEN
    template <class T, class Narrow>
    INLINE Vec<T> widened(const Narrow* p) {
    Vec<T> x;
    EACH {
        const auto y = widen(p + i * Vec<T>::PER, T());
        memcpy(&x.r[i], &y, sizeof y);
    }
    return x;
}
#else
template <class T, class Narrow>
INLINE Vec<T> widened(const Narrow* p) {
    Vec<T> x;
    EACH for (int j = 0; j < Vec<T>::PER; j++) x.r[i][j] = p[i * Vec<T>::PER + j];
    return x;
}
#endif
template <class T>
INLINE Vec<T> from_bytes(const uint8_t* p) {
    return widened<T>(p);
}
template <class T>
INLINE Vec<T> from_signs(const int8_t* p) {
    return widened<T>(p);
}
template <class T>
INLINE Vec<T> from_words(const uint16_t* p) {
    return widened<T>(p);
}
template <class T>
INLINE void to_bytes(void* p, const Vec<T>& x) {
    EACH {
        typename Vec<T>::Bytes piece = __builtin_convertvector(x.r[i], typename Vec<T>::Bytes);
        memcpy(static_cast<char*>(p) + i * Vec<T>::PER, &piece, sizeof piece);
    }
}
template <class T>
INLINE Mask<T> mask_of(const uint8_t* p) {
    return from_bytes<Int<T>>(p) != all(Int<T>(0));
}
// Sum of the lanes, in their order.
template <class T>
INLINE double sum(const Vec<T>& x) {
    T lane[LANES];
    memcpy(lane, &x, sizeof lane);
    double total = 0;
    for (int i = 0; i < LANES; i++) total += static_cast<double>(lane[i]);
    return total;
}
// -1, 0 or 1 at the pixels m; 0 elsewhere, and for NaN. A true comparison is -1.
template <class T>
INLINE Mask<T> sign(const Vec<T>& x, const Mask<T>& m) {
    const Vec<T> zero = all(T(0));
    return ((x < zero) & m) - ((x > zero) & m);
}

// ln x to 1 ulp or so: x = 2^k (1 + f), s = f / (2 + f), ln(1 + f) = f - (f^2/2 - s (f^2/2 + R)), where
// R = (2 artanh(s) - 2 s)/s = 2/3 s^2 + 2/5 s^4 + ...
template <class T>
INLINE Vec<T> log(const Vec<T>& given) {
    using I = Int<T>;
    constexpr bool wide = sizeof(T) == 8;
    constexpr int mantissa = wide ? 52 : 23, terms = wide ? 11 : 5;
    constexpr I bias = wide ? 1023 : 127;
    constexpr T smallest = static_cast<T>(wide ? 2.2250738585072014e-308 : 1.17549435e-38);
    constexpr T huge = static_cast<T>(wide ? 1.8014398509481984e16 : 33554432.0);  // 2^54, 2^25
    const Vec<T> zero = all(T(0)), one = all(T(1));
    const Mask<T> tiny = given < all(smallest);
    const Vec<T> x = select(tiny, given * all(huge), given);
    // From sqrt(1/2) on, so that f is small.
    const I half = wide ? I(0x3fe6a09e667f3bcd) : I(0x3f3504f3);
    const Vec<I> raw = bits<I>(x), over = raw - all(half);
    Vec<I> k = shifted(over, -mantissa);
    const Vec<T> f = bits<T>(raw - shifted(k, mantissa)) - one;
    k = k - select<I>(tiny, all(I(wide ? 54 : 25)), all(I(0)));
    (void)bias;
    const Vec<T> s = f / (all(T(2)) + f), z = s * s, hfsq = all(T(0.5)) * f * f;
    Vec<T> R = all(T(2.0 / (2 * terms + 1)));
    for (int j = terms - 1; j >= 1; j--) R = R * z + all(T(2.0 / (2 * j + 1)));
    R = R * z;
    const Vec<T> e = converted<T>(k);
    const T high = wide ? T(6.93147180369123816490e-01) : T(6.9313812256e-01);
    const T low = wide ? T(1.90821492927058770002e-10) : T(9.0580006145e-06);
    Vec<T> y = e * all(high) - ((hfsq - (s * (hfsq + R) + e * all(low))) - f);
    const T inf = __builtin_inf();
    y = select(given == zero, all(-inf), y);
    y = select((given < zero) | (given != given), all(T(__builtin_nan(""))), y);
    return select(given == all(inf), given, y);
}

#undef EACH
}  // namespace DL_ISA
