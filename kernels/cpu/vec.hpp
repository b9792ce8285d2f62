// LANES pixels at a time, in the registers of the instruction set that this file is compiled for: the vector
// types of GCC and Clang. Lane i of a sum holds the pixels i, i + LANES, ... whatever the width
// of a register is, so that every instruction set gives the same bits.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#if defined(__x86_64__)
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
struct Traits<uint16_t> {
    using Int = uint16_t;
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
    typedef T InMemory __attribute__((vector_size(REGISTER), aligned(sizeof(T)), may_alias));
    Register r[N];
};
// A byte per lane.
typedef int8_t Bytes __attribute__((vector_size(LANES)));

// As many bytes as a register has; unsigned, so that what lies beyond a row may overflow.
typedef uint8_t Wide __attribute__((vector_size(REGISTER)));
// Sixteen bits per lane.
typedef uint16_t Words __attribute__((vector_size(2 * LANES)));

#define EACH for (int i = 0; i < Vec<T>::N; i++)
#define INLINE inline __attribute__((always_inline))

template <class T>
INLINE Vec<T> load(const T* p) {
    Vec<T> x;
    EACH x.r[i] = reinterpret_cast<const typename Vec<T>::InMemory*>(p)[i];
    return x;
}
// Keeps a value that is used twice in a register: GCC would load it twice, and a load that crosses a cache
// line is slow.
template <class T>
INLINE Vec<T> load_once(const T* p) {
    Vec<T> x = load(p);
#if defined(__x86_64__)
    EACH asm("" : "+v"(x.r[i]));
#endif
    return x;
}
template <class T>
INLINE void store(T* p, const Vec<T>& x) {
    EACH reinterpret_cast<typename Vec<T>::InMemory*>(p)[i] = x.r[i];
}
// Non-temporal store to an address aligned to REGISTER; call `fence` before another thread reads it.
template <class T>
INLINE void stream(T* p, const Vec<T>& x) {
#if defined(__AVX512F__)
    EACH _mm512_stream_si512(reinterpret_cast<__m512i*>(p) + i, (__m512i)x.r[i]);
#elif defined(__AVX2__)
    EACH _mm256_stream_si256(reinterpret_cast<__m256i*>(p) + i, (__m256i)x.r[i]);
#elif defined(__x86_64__)
    EACH _mm_stream_si128(reinterpret_cast<__m128i*>(p) + i, (__m128i)x.r[i]);
#else
    store(p, x);
#endif
}
INLINE void fence() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}
// Unaligned load of any of the types above.
template <class V>
INLINE V load_as(const void* p) {
    V x;
    memcpy(&x, p, sizeof x);
    return x;
}
template <class V>
INLINE void store_as(void* p, const V& x) {
    memcpy(p, &x, sizeof x);
}
// A byte of -1 for each that is not zero, 0 for the others.
INLINE Bytes nonzero(const void* p) { return (Bytes)(load_as<Bytes>(p) != Bytes{}); }
template <class T>
INLINE Vec<T> all(T value) {
    Vec<T> x;
    EACH x.r[i] = value - typename Vec<T>::Register{};
    return x;
}
INLINE Bytes all_bytes(int value) { return static_cast<int8_t>(value) - Bytes{}; }
#define BINARY(op)                                                \
    template <class T>                                            \
    INLINE Vec<T> operator op(const Vec<T>& a, const Vec<T>& b) { \
        Vec<T> x;                                                 \
        EACH x.r[i] = a.r[i] op b.r[i];                           \
        return x;                                                 \
    }
BINARY(+)
BINARY(-)
BINARY(*)
BINARY(/)
BINARY(&)
BINARY(|)
BINARY(^)
#undef BINARY
template <class To, class T>
INLINE Vec<To> bits(const Vec<T>& x) {
    Vec<To> y;
    static_assert(sizeof y == sizeof x, "the same lanes");
    EACH y.r[i] = (typename Vec<To>::Register)x.r[i];
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
// x y + z, as FMA where available: identical, because the product is exact (flush-to-zero aside).
template <class T>
INLINE Vec<T> exact_multiply_add(const Vec<T>& x, const Vec<T>& y, const Vec<T>& z) {
    Vec<T> a;
#if defined(__AVX512F__)
    EACH if constexpr (sizeof(T) == 4) a.r[i] = _mm512_fmadd_ps(x.r[i], y.r[i], z.r[i]);
    else a.r[i] = _mm512_fmadd_pd(x.r[i], y.r[i], z.r[i]);
#elif defined(__FMA__)
    EACH if constexpr (sizeof(T) == 4) a.r[i] = _mm256_fmadd_ps(x.r[i], y.r[i], z.r[i]);
    else a.r[i] = _mm256_fmadd_pd(x.r[i], y.r[i], z.r[i]);
#else
    EACH a.r[i] = x.r[i] * y.r[i] + z.r[i];
#endif
    return a;
}
// Every STEP-th lane of the concatenation of x and y, from lane FROM.
template <int FROM, int STEP, class R, size_t... I>
INLINE R lanes(const R& x, const R& y, std::index_sequence<I...>) {
#if defined(__clang__)
    return __builtin_shufflevector(x, y, (FROM + STEP * static_cast<int>(I))...);
#else
    using Index = Int<std::decay_t<decltype(x[0])>>;
    typedef Index Order __attribute__((vector_size(sizeof(R))));
    return __builtin_shuffle(x, y, Order{static_cast<Index>(FROM + STEP * static_cast<int>(I))...});
#endif
}
template <int FROM, class T>
INLINE Vec<T> every_second(const Vec<T>& x, const Vec<T>& y) {
    constexpr int PER = Vec<T>::PER, N = Vec<T>::N;
    const auto at = [&](int i) __attribute__((always_inline)) { return i < N ? x.r[i] : y.r[i - N]; };
    Vec<T> z;
    EACH z.r[i] =
        lanes<FROM, 2>(at(2 * i), at(2 * i + 1), std::make_index_sequence<static_cast<size_t>(PER)>());
    return z;
}
template <int FROM>
INLINE Words every_second(const Words& x, const Words& y) {
    return lanes<FROM, 2>(x, y, std::make_index_sequence<LANES>());
}
// Bytes and words of memory as integers of a lane's width. Compilers take __builtin_convertvector apart into
// single bytes here: the one place for intrinsics.
#if defined(__x86_64__)
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
#elif defined(__x86_64__)
// Widens to words, double words, quad words: with zeros, or with the sign.
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
#if defined(__x86_64__)
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
INLINE Vec<T> from_signs(const int8_t* p) {
    return widened<T>(p);
}
template <class T>
INLINE Vec<T> from_words(const uint16_t* p) {
    return widened<T>(p);
}
// Narrows words to bytes; the values fit.
INLINE Bytes narrowed(const Words& x) {
#if defined(__x86_64__)
    __m128i half[2];
    memcpy(half, &x, sizeof half);
    return (Bytes)_mm_packs_epi16(half[0], half[1]);
#else
    Bytes y;
    for (int i = 0; i < LANES; i++) y[i] = static_cast<int8_t>(x[i]);
    return y;
#endif
}

// Some of the lanes of a Vec<T>: a bit of each where the instruction set has registers for them, else
// integers of its width, -1 or 0. Nothing else about T matters.
#if defined(__AVX512F__)
template <int SIZE>
struct MaskOf {
    uint16_t k;
};
#define BINARY(op)                                                    \
    template <int SIZE>                                               \
    INLINE MaskOf<SIZE> operator op(MaskOf<SIZE> a, MaskOf<SIZE> b) { \
        return {static_cast<uint16_t>(a.k op b.k)};                   \
    }
#define COMPARE(op, code)                                                              \
    INLINE MaskOf<4> operator op(const Vec<float>& a, const Vec<float>& b) {           \
        return {_mm512_cmp_ps_mask(a.r[0], b.r[0], code)};                             \
    }                                                                                  \
    INLINE MaskOf<8> operator op(const Vec<double>& a, const Vec<double>& b) {         \
        return {static_cast<uint16_t>(_mm512_cmp_pd_mask(a.r[0], b.r[0], code) |       \
                                      _mm512_cmp_pd_mask(a.r[1], b.r[1], code) << 8)}; \
    }
COMPARE(<, _CMP_LT_OQ)
COMPARE(>, _CMP_GT_OQ)
COMPARE(<=, _CMP_LE_OQ)
COMPARE(>=, _CMP_GE_OQ)
COMPARE(==, _CMP_EQ_OQ)
COMPARE(!=, _CMP_NEQ_UQ)
INLINE __m512 blend(uint16_t m, __m512 a, __m512 b) { return _mm512_mask_blend_ps(m, b, a); }
INLINE __m512d blend(uint16_t m, __m512d a, __m512d b) {
    return _mm512_mask_blend_pd(static_cast<__mmask8>(m), b, a);
}
INLINE __m512 keep(uint16_t m, __m512 a) { return _mm512_maskz_mov_ps(m, a); }
INLINE __m512d keep(uint16_t m, __m512d a) { return _mm512_maskz_mov_pd(static_cast<__mmask8>(m), a); }
template <class T>
INLINE Vec<T> select(MaskOf<sizeof(T)> m, const Vec<T>& a, const Vec<T>& b) {
    Vec<T> x;
    EACH x.r[i] = blend(static_cast<uint16_t>(m.k >> i * Vec<T>::PER), a.r[i], b.r[i]);
    return x;
}
template <class T>
INLINE Vec<T> select(MaskOf<sizeof(T)> m, const Vec<T>& a) {
    Vec<T> x;
    EACH x.r[i] = keep(static_cast<uint16_t>(m.k >> i * Vec<T>::PER), a.r[i]);
    return x;
}
INLINE Bytes bytes_of(uint16_t k) { return (Bytes)_mm_movm_epi8(k); }
template <int SIZE>
INLINE Bytes bytes_of(MaskOf<SIZE> m) {
    return bytes_of(m.k);
}
// The lanes whose byte at p has one of the bits.
template <class T>
INLINE MaskOf<sizeof(T)> mask_of(const uint8_t* p, int bits = 0xff) {
    return {_mm_test_epi8_mask((__m128i)load_as<Bytes>(p), (__m128i)all_bytes(bits))};
}
// Of bytes that are 0 or -1, the lanes that are not 0.
template <class T>
INLINE MaskOf<sizeof(T)> mask_of(const int8_t* p) {
    return {_mm_movepi8_mask((__m128i)load_as<Bytes>(p))};
}
#else
template <int SIZE>
struct MaskOf;
template <>
struct MaskOf<4> : Vec<int32_t> {};
template <>
struct MaskOf<8> : Vec<int64_t> {};
#define BINARY(op)                                                                  \
    template <int SIZE>                                                             \
    INLINE MaskOf<SIZE> operator op(const MaskOf<SIZE>& a, const MaskOf<SIZE>& b) { \
        MaskOf<SIZE> x;                                                             \
        for (int i = 0; i < MaskOf<SIZE>::N; i++) x.r[i] = a.r[i] op b.r[i];        \
        return x;                                                                   \
    }
#define COMPARE(op)                                                          \
    template <class T>                                                       \
    INLINE MaskOf<sizeof(T)> operator op(const Vec<T>& a, const Vec<T>& b) { \
        MaskOf<sizeof(T)> x;                                                 \
        EACH x.r[i] = a.r[i] op b.r[i];                                      \
        return x;                                                            \
    }
COMPARE(<)
COMPARE(>)
COMPARE(<=)
COMPARE(>=)
COMPARE(==)
COMPARE(!=)
template <class T>
INLINE Vec<T> select(const MaskOf<sizeof(T)>& m, const Vec<T>& a, const Vec<T>& b) {
    Vec<T> x;
    EACH x.r[i] = m.r[i] ? a.r[i] : b.r[i];
    return x;
}
template <class T>
INLINE Vec<T> select(const MaskOf<sizeof(T)>& m, const Vec<T>& a) {
    return bits<T>(bits<Int<T>>(a) & m);
}
// Narrows integers that fit to words, in an order of its own, and to bytes. Here too compilers take
// __builtin_convertvector apart into single bytes.
struct Packed {
    Words x;
};
#if defined(__AVX2__)
// The lower halves of both, then their upper ones.
INLINE Packed packed(const __m256i& a, const __m256i& b) { return {(Words)_mm256_packs_epi32(a, b)}; }
INLINE __m256i halved(const __m256i& a, const __m256i& b) {
    const __m256 x = _mm256_shuffle_ps((__m256)a, (__m256)b, 0x88);
    return _mm256_permute4x64_epi64((__m256i)x, 0xd8);
}
INLINE Packed packed(const Vec<int32_t>& x) { return packed((__m256i)x.r[0], (__m256i)x.r[1]); }
INLINE Packed packed(const Vec<int64_t>& x) {
    return packed(halved((__m256i)x.r[0], (__m256i)x.r[1]), halved((__m256i)x.r[2], (__m256i)x.r[3]));
}
INLINE Bytes bytes_of(const Packed& a) {
    const __m128i low = _mm256_castsi256_si128((__m256i)a.x),
                  high = _mm256_extracti128_si256((__m256i)a.x, 1);
    return (Bytes)_mm_shuffle_epi32(_mm_packs_epi16(low, high), 0xd8);
}
// The bytes of both that `keep` has.
INLINE void store_bytes(int8_t* to_a, int8_t* to_b, const Packed& a, const Packed& b, const Bytes& keep) {
    const __m256i mixed = _mm256_packs_epi16((__m256i)a.x, (__m256i)b.x),
                  order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7),
                  both = _mm256_and_si256(_mm256_permutevar8x32_epi32(mixed, order),
                                          _mm256_broadcastsi128_si256((__m128i)keep));
    store_as<Bytes>(to_a, (Bytes)_mm256_castsi256_si128(both));
    store_as<Bytes>(to_b, (Bytes)_mm256_extracti128_si256(both, 1));
}
#else
#if defined(__x86_64__)
template <class R>
INLINE Packed packed(const R& a, const R& b, const R& c, const R& d) {
    const __m128i x[2] = {_mm_packs_epi32((__m128i)a, (__m128i)b), _mm_packs_epi32((__m128i)c, (__m128i)d)};
    return {load_as<Words>(x)};
}
INLINE Packed packed(const Vec<int32_t>& x) { return packed(x.r[0], x.r[1], x.r[2], x.r[3]); }
INLINE Packed packed(const Vec<int64_t>& x) {
    const auto half = [&](int i) {
        return (__m128i)_mm_shuffle_ps((__m128)x.r[i], (__m128)x.r[i + 1], 0x88);
    };
    return packed(half(0), half(2), half(4), half(6));
}
#else
template <class I>
INLINE Packed packed(const Vec<I>& x) {
    Packed y;
    for (int i = 0; i < LANES; i++) y.x[i] = static_cast<uint16_t>(x.r[i / Vec<I>::PER][i % Vec<I>::PER]);
    return y;
}
#endif
INLINE Bytes bytes_of(const Packed& a) { return narrowed(a.x); }
INLINE void store_bytes(int8_t* to_a, int8_t* to_b, const Packed& a, const Packed& b, const Bytes& keep) {
    store_as<Bytes>(to_a, bytes_of(a) & keep);
    store_as<Bytes>(to_b, bytes_of(b) & keep);
}
#endif
template <int SIZE>
INLINE Bytes bytes_of(const MaskOf<SIZE>& m) {
    return bytes_of(packed(m));
}
// The lanes whose byte at p has one of the bits.
template <class T>
INLINE MaskOf<sizeof(T)> mask_of(const uint8_t* p, int bits = 0xff) {
    const Vec<Int<T>> x = widened<Int<T>>(p), zero = all(Int<T>(0));
    return bits == 0xff ? x > zero : (x & all(Int<T>(bits))) > zero;
}
// Of bytes that are 0 or -1, the lanes that are not 0.
template <class T>
INLINE MaskOf<sizeof(T)> mask_of(const int8_t* p) {
    return {widened<Int<T>>(p)};
}
#endif
BINARY(&)
BINARY(|)
#undef BINARY
#undef COMPARE
template <class T>
using Mask = MaskOf<sizeof(T)>;

// The lanes where two integers are equal; a bit for each lane of a mask.
#if defined(__AVX512F__)
template <class T>
INLINE MaskOf<sizeof(T)> equal(const Vec<Int<T>>& a, const Vec<Int<T>>& b) {
    if constexpr (sizeof(T) == 4)
        return {_mm512_cmpeq_epi32_mask((__m512i)a.r[0], (__m512i)b.r[0])};
    else
        return {static_cast<uint16_t>(_mm512_cmpeq_epi64_mask((__m512i)a.r[0], (__m512i)b.r[0]) |
                                      _mm512_cmpeq_epi64_mask((__m512i)a.r[1], (__m512i)b.r[1]) << 8)};
}
template <int SIZE>
INLINE unsigned lanes_of(MaskOf<SIZE> m) {
    return m.k;
}
#else
template <class T>
INLINE MaskOf<sizeof(T)> equal(const Vec<Int<T>>& a, const Vec<Int<T>>& b) {
    MaskOf<sizeof(T)> x;
    EACH x.r[i] = a.r[i] == b.r[i];
    return x;
}
template <int SIZE>
INLINE unsigned lanes_of(const MaskOf<SIZE>& m) {
    const Bytes bytes = bytes_of(m);
#if defined(__x86_64__)
    return static_cast<unsigned>(_mm_movemask_epi8((__m128i)bytes));
#else
    unsigned found = 0;
    for (int i = 0; i < LANES; i++) found |= static_cast<unsigned>(bytes[i] != 0) << i;
    return found;
#endif
}
#endif

INLINE int64_t sum(const Bytes& x) {
#if defined(__x86_64__)
    const __m128i halves = _mm_sad_epu8((__m128i)(x ^ all_bytes(-128)), _mm_setzero_si128());
    return _mm_cvtsi128_si64(halves) + _mm_cvtsi128_si64(_mm_unpackhi_epi64(halves, halves)) - 128 * LANES;
#else
    int32_t total = 0;
    for (int i = 0; i < LANES; i++) total += x[i];
    return total;
#endif
}
#if defined(__AVX512F__)
// -1, 0 or 1; 0 for NaN.
template <class T>
struct Sign {
    Vec<T> s;
    INLINE explicit Sign(const Vec<T>& x) { EACH s.r[i] = of(x.r[i]); }
    // By the class of x, from a table of four bits each: 8 is 0, 9 is -1, 10 is 1.
    static INLINE __m512 of(__m512 x) { return _mm512_fixupimm_ps(x, x, _mm512_set1_epi32(TABLE), 0); }
    static INLINE __m512d of(__m512d x) { return _mm512_fixupimm_pd(x, x, _mm512_set1_epi64(TABLE), 0); }
    static constexpr int TABLE = static_cast<int>(0xa9a9a888);
};

// a + s x; x is finite where s is 0.
template <class T>
INLINE Vec<T> plus(const Vec<T>& a, const Sign<T>& s, const Vec<T>& x) {
    return exact_multiply_add(s.s, x, a);
}

// Small integers, one per lane: the lower bits of numbers without fraction.
template <class T>
struct Small {
    static constexpr T ZERO =
        static_cast<T>(sizeof(T) == 4 ? 12582912.0 : 6755399441055744.0);  // 1.5 * 2^23, 2^52
    Vec<T> x;
    INLINE explicit Small(int value = 0) : x(all(ZERO + static_cast<T>(value))) {}
    INLINE void add(const Sign<T>& s, int shift = 0) { x = shift ? plus(x, s, all(T(1 << shift))) : x + s.s; }
    INLINE void add(MaskOf<sizeof(T)> m) { x = x + select(m, all(T(1))); }
    INLINE Bytes bytes() const { return lowest(x); }
    static INLINE Bytes lowest(const Vec<float>& y) {
        return (Bytes)_mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)y.r[0]);
    }
    static INLINE Bytes lowest(const Vec<double>& y) {
        return (Bytes)_mm_unpacklo_epi64(_mm512_maskz_cvtepi64_epi8(0xff, (__m512i)y.r[0]),
                                         _mm512_maskz_cvtepi64_epi8(0xff, (__m512i)y.r[1]));
    }
};
// The signs of a and of b, 0 where a byte of `keep` is not -1.
template <class T>
INLINE void store_signs(int8_t* to_a, int8_t* to_b, const Vec<T>& a, const Vec<T>& b, const int8_t* keep) {
    const MaskOf<sizeof(T)> on = mask_of<T>(keep);
    const auto signs = [&](const Vec<T>& x) __attribute__((always_inline)) {
        const __m128i one = (__m128i)all_bytes(1);
        const uint16_t positive = ((x > all(T(0))) & on).k, negative = ((x < all(T(0))) & on).k;
        return (Bytes)_mm_mask_sub_epi8(_mm_maskz_mov_epi8(positive, one), negative, __m128i{}, one);
    };
    store_as<Bytes>(to_a, signs(a));
    store_as<Bytes>(to_b, signs(b));
}
#else
template <class T>
struct Sign {
    Vec<Int<T>> s;
    INLINE explicit Sign(const Vec<T>& x) { EACH s.r[i] = (x.r[i] < T(0)) - (x.r[i] > T(0)); }
};
template <class T>
INLINE Vec<T> plus(const Vec<T>& a, const Sign<T>& s, const Vec<T>& x) {
    return exact_multiply_add(converted<T>(s.s), x, a);
}
template <class T>
struct Small {
    Packed all;
    INLINE explicit Small(int value = 0) : all{static_cast<uint16_t>(value) - Words{}} {}
    INLINE void add(const Sign<T>& s, int shift = 0) { all.x += packed(s.s).x << shift; }
    INLINE void add(const Mask<T>& m) { all.x -= packed(m).x; }
    INLINE Bytes bytes() const { return bytes_of(all); }
};
// The signs of a and of b, 0 where a byte of `keep` is not -1.
template <class T>
INLINE void store_signs(int8_t* to_a, int8_t* to_b, const Vec<T>& a, const Vec<T>& b, const int8_t* keep) {
    store_bytes(to_a, to_b, packed(Sign<T>(a).s), packed(Sign<T>(b).s), load_as<Bytes>(keep));
}
#endif
template <class T>
INLINE int64_t sum(const Small<T>& x) {
    return sum(x.bytes());
}

// Sixteen values by the four bits of a byte from SHIFT on; of a table that is eight values twice, by three
// of them, where that is faster.
template <class T>
struct Table {
    alignas(64) T value[16];
};
#if defined(__AVX512F__)
template <int SHIFT, bool TWICE = false>
INLINE Vec<float> look_up(const Table<float>& t, const Bytes& at) {
    const __m512i lane = _mm512_maskz_cvtepu8_epi32(0xffff, (__m128i)at);
    return {{_mm512_maskz_permutexvar_ps(0xffff, _mm512_maskz_srli_epi32(0xffff, lane, SHIFT),
                                         _mm512_load_ps(t.value))}};
}
template <int SHIFT, bool TWICE = false>
INLINE Vec<double> look_up(const Table<double>& t, const Bytes& at) {
    Vec<double> x;
    for (int i = 0; i < 2; i++) {
        const __m128i half = i ? _mm_srli_si128((__m128i)at, 8) : (__m128i)at;
        const __m512i lane = _mm512_maskz_srli_epi64(0xff, _mm512_maskz_cvtepu8_epi64(0xff, half), SHIFT);
        x.r[i] = _mm512_permutex2var_pd(_mm512_load_pd(t.value), lane, _mm512_load_pd(t.value + 8));
    }
    return x;
}
#else
#if defined(__AVX2__)
template <int SHIFT, bool TWICE = false>
INLINE Vec<float> look_up(const Table<float>& t, const Bytes& at) {
    Vec<float> x;
    for (int i = 0; i < 2; i++) {
        const __m256i lane = _mm256_cvtepu8_epi32(i ? _mm_srli_si128((__m128i)at, 8) : (__m128i)at);
        const __m256i index = _mm256_srli_epi32(lane, SHIFT);
        const __m256 low = _mm256_permutevar8x32_ps(_mm256_load_ps(t.value), index);
        if (TWICE) {
            x.r[i] = low;
            continue;
        }
        const __m256 high = _mm256_permutevar8x32_ps(_mm256_load_ps(t.value + 8), index);
        x.r[i] = _mm256_blendv_ps(low, high, (__m256)_mm256_slli_epi32(lane, 28 - SHIFT));
    }
    return x;
}
#endif
template <int SHIFT, bool TWICE = false, class T>
INLINE Vec<T> look_up(const Table<T>& t, const Bytes& at) {
    uint8_t index[LANES];
    T found[LANES];
    store_as<Bytes>(index, at);
    for (int i = 0; i < LANES; i++) found[i] = t.value[index[i] >> SHIFT & 15];
    return load(found);
}
#endif

INLINE Vec<double> doubles(const Vec<double>& x) { return x; }
INLINE Vec<double> doubles(const Vec<float>& x) {
    Vec<double> y;
    for (int i = 0; i < Vec<float>::N; i++) {
#if defined(__AVX512F__)
        y.r[2 * i] = _mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, x.r[i], 0));
        y.r[2 * i + 1] = _mm512_maskz_cvtps_pd(0xff, _mm512_maskz_extractf32x8_ps(0xff, x.r[i], 1));
#elif defined(__AVX2__)
        y.r[2 * i] = _mm256_cvtps_pd(_mm256_castps256_ps128(x.r[i]));
        y.r[2 * i + 1] = _mm256_cvtps_pd(_mm256_extractf128_ps(x.r[i], 1));
#elif defined(__x86_64__)
        y.r[2 * i] = _mm_cvtps_pd(x.r[i]);
        y.r[2 * i + 1] = _mm_cvtps_pd(_mm_movehl_ps(x.r[i], x.r[i]));
#else
        constexpr int n = Vec<double>::PER;
        for (int j = 0; j < 2 * n; j++) y.r[2 * i + j / n][j % n] = x.r[i][j];
#endif
    }
    return y;
}
// Sum of the lanes, by halves: the same order for every instruction set.
template <class T>
INLINE double sum(const Vec<T>& x) {
    const Vec<double> y = doubles(x);
    double lane[LANES];
    memcpy(lane, &y, sizeof lane);
    for (int n = LANES / 2; n; n /= 2)
        for (int i = 0; i < n; i++) lane[i] += lane[i + n];
    return lane[0];
}
// The sum over a row of adjoints (at most 16) times the pixels of a cell. Reads 2 * LANES bytes or LANES
// words at a time; functions of their own, as within a long one compilers keep the sum in memory.
#if defined(__AVX2__)
INLINE int64_t sum(__m256i lanes) {
    int32_t lane[8];
    memcpy(lane, &lanes, sizeof lane);
    int64_t total = 0;
    for (const int32_t x : lane) total += x;
    return total;
}
__attribute__((noinline)) inline int64_t sum_of_products(const int8_t* a, const uint8_t* zero_or_one,
                                                         int64_t w) {
    __m256i total = _mm256_setzero_si256();
    for (int64_t x = 0; x < w; x += 2 * LANES) {
        const __m256i pairs =
            _mm256_maddubs_epi16((__m256i)load_as<Words>(zero_or_one + x), (__m256i)load_as<Words>(a + x));
        total = _mm256_add_epi32(total, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return sum(total);
}
__attribute__((noinline)) inline int64_t sum_of_products(const int8_t* a, const uint16_t* count, int64_t w) {
    __m256i total = _mm256_setzero_si256();
    for (int64_t x = 0; x < w; x += LANES) {
        const __m256i words = _mm256_cvtepi8_epi16((__m128i)load_as<Bytes>(a + x));
        total = _mm256_add_epi32(total, _mm256_madd_epi16(words, (__m256i)load_as<Words>(count + x)));
    }
    return sum(total);
}
#else
template <class N>
int64_t sum_of_products(const int8_t* a, const N* count, int64_t w) {
    int64_t total = 0;
    for (int64_t x = 0; x < w; x++) total += a[x] * count[x];
    return total;
}
#endif

// Per-lane double accumulator, reduced once at the end: a reduction is slow.
template <class T>
struct Total {
    Vec<double> lanes = all(0.0);
    INLINE void add(const Vec<T>& x) { lanes = lanes + doubles(x); }
    INLINE void add(const Vec<T>& x, const Vec<T>& y) { lanes = lanes + doubles(x) * doubles(y); }
    INLINE operator double() const { return sum(lanes); }
};

// ln x to about 1 ulp: x = 2^k (1 + f), s = f / (2 + f), ln(1 + f) = f - (f^2/2 - s (f^2/2 + R)), where
// R = (2 artanh(s) - 2 s)/s = 2/3 s^2 + 2/5 s^4 + ...
template <class T>
INLINE Vec<T> log(const Vec<T>& given) {
    using I = Int<T>;
    constexpr bool wide = sizeof(T) == 8;
    constexpr int mantissa = wide ? 52 : 23, terms = wide ? 11 : 5;
    constexpr T smallest = static_cast<T>(wide ? 2.2250738585072014e-308 : 1.17549435e-38);
    constexpr T huge = static_cast<T>(wide ? 1.8014398509481984e16 : 33554432.0);  // 2^54, 2^25
    const Vec<T> zero = all(T(0)), one = all(T(1));
    const Mask<T> tiny = given < all(smallest);
    // Replaces arguments without a logarithm so that the integers below do not overflow; their result is NaN.
    const Vec<T> x = abs(select(tiny, given * all(huge), given));
    // The range starts at sqrt(1/2), so that f is small.
    const I half = wide ? I(0x3fe6a09e667f3bcd) : I(0x3f3504f3);
    const Vec<I> raw = bits<I>(x), over = raw - all(half);
    const Vec<I> k = shifted(over, -mantissa);
    const Vec<T> f = bits<T>(raw - shifted(k, mantissa)) - one;
    const Vec<T> s = f / (all(T(2)) + f), z = s * s, hfsq = all(T(0.5)) * f * f;
    Vec<T> R = all(T(2.0 / (2 * terms + 1)));
    for (int j = terms - 1; j >= 1; j--) R = R * z + all(T(2.0 / (2 * j + 1)));
    R = R * z;
    const Vec<T> e = converted<T>(k) - select(tiny, all(T(wide ? 54 : 25)));
    const T high = wide ? T(6.93147180369123816490e-01) : T(6.9313812256e-01);
    const T low = wide ? T(1.90821492927058770002e-10) : T(9.0580006145e-06);
    Vec<T> y = e * all(high) - ((hfsq - (s * (hfsq + R) + e * all(low))) - f);
    const T inf = __builtin_inf();
    y = select(given == zero, all(-inf), y);
    y = select((given < zero) | (given != given), all(T(__builtin_nan(""))), y);
    return select(given == all(inf), given, y);
}

// Square root, correctly rounded. The plain intrinsics of AVX-512 read a register that GCC calls
// uninitialised.
template <class T>
INLINE Vec<T> sqrt(const Vec<T>& x) {
    Vec<T> y;
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4)
        EACH y.r[i] = (typename Vec<T>::Register)_mm512_maskz_sqrt_ps(0xffff, (__m512)x.r[i]);
    else
        EACH y.r[i] = (typename Vec<T>::Register)_mm512_maskz_sqrt_pd(0xff, (__m512d)x.r[i]);
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4)
        EACH y.r[i] = (typename Vec<T>::Register)_mm256_sqrt_ps((__m256)x.r[i]);
    else
        EACH y.r[i] = (typename Vec<T>::Register)_mm256_sqrt_pd((__m256d)x.r[i]);
#else
    EACH for (int j = 0; j < Vec<T>::PER; j++) y.r[i][j] = std::sqrt(x.r[i][j]);
#endif
    return y;
}

// e^x - LESS, LESS 0 or 1, to about 2 ulp: x = k ln 2 + r, 2^k (e^r - 1) + (2^k - LESS), e^r - 1 by its
// series.
template <int LESS, class T>
INLINE Vec<T> exp_less(const Vec<T>& x) {
    using I = Int<T>;
    constexpr bool wide = sizeof(T) == 8;
    constexpr int mantissa = wide ? 52 : 23, terms = wide ? 13 : 7;
    const T limit = wide ? T(709.0) : T(88.0);
    const Vec<T> most = all(limit), least = all(-limit);
    const Vec<T> y = select(x > most, most, select(x < least, least, x));
    // Of a number that was added to it, the last bits are the rounded integer.
    const Vec<T> magic = all(T(wide ? 6755399441055744.0 : 12582912.0));
    const Vec<T> rounded = y * all(T(1.4426950408889634)) + magic, k = rounded - magic;
    const Vec<I> integer = bits<I>(rounded) - bits<I>(magic);
    const T high = wide ? T(6.93147180369123816490e-01) : T(6.9313812256e-01);
    const T low = wide ? T(1.90821492927058770002e-10) : T(9.0580006145e-06);
    const Vec<T> r = (y - k * all(high)) - k * all(low);
    Vec<T> series = all(T(1));
    for (int j = terms; j >= 2; j--) series = all(T(1)) + r * series * all(T(1.0 / j));
    const Vec<T> scale = bits<T>(shifted(integer + all(I(wide ? 1023 : 127)), mantissa));
    const Vec<T> value = scale * (r * series) + (scale - all(T(LESS)));
    return select(x > most, all(T(__builtin_inf())), select(x == x, value, x));
}

template <class T>
INLINE Vec<T> exp(const Vec<T>& x) {
    return exp_less<0>(x);
}
template <class T>
INLINE Vec<T> expm1(const Vec<T>& x) {
    return exp_less<1>(x);
}

// ln(1 + x) of x >= 0: the rounding of 1 + x is taken out again.
template <class T>
INLINE Vec<T> log1p(const Vec<T>& x) {
    const Vec<T> one = all(T(1)), u = one + x, added = u - one;
    const Mask<T> plain = (added > all(T(0))) & (x < all(T(__builtin_inf())));
    return select(plain, log(u) * (x / select(plain, added, one)), x);
}

#undef EACH
}  // namespace DL_ISA
