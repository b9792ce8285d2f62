// Rows of the inputs, ready for arithmetic: any dtype and strides, masked, converted.
#pragma once
#include <cstdio>
#include <cstdlib>

#include "engine.h"
#include "vec.hpp"

namespace DL_ISA {

// A row in place for its whole blocks, and a copy of the rest, padded with zeros.
template <class T>
struct Row {
    const T* main;
    int64_t whole;
    alignas(64) T tail[LANES];
    INLINE const T* at(int64_t x) const { return x < whole ? main + x : tail; }  // x: where a piece begins
    void in_place(const T* p, int64_t w) {
        main = p;
        whole = w / LANES * LANES;
        if (whole == w) return;
        for (int i = 0; i < LANES; i++) tail[i] = whole + i < w ? p[whole + i] : T(0);
    }
    void padded(const T* p) {  // Holds whole blocks, as every row of the arena does.
        main = p;
        whole = INT64_MAX;
    }
};

// The rows of a band.
struct BandRows {
    int64_t begin, end;
    BandRows(int band, int64_t h)
        : begin(static_cast<int64_t>(band) * BAND), end(begin + BAND < h ? begin + BAND : h) {}
};

INLINE int64_t blocks(int64_t w) { return (w + LANES - 1) / LANES * LANES; }

// A row in pieces: its whole blocks, then the rest of it. At their ends the sums of the lanes go on into
// double or int64: in a row of any length float32 adds up no more than this, and a byte counts no further.
constexpr int64_t PIECE = 1024;
INLINE int64_t piece_end(int64_t x, int64_t w) {
    const int64_t whole = w / LANES * LANES;
    return x >= whole ? blocks(w) : whole - x < PIECE ? whole : x + PIECE;
}

// Prefetch distance in elements: hardware prefetching ends at the page.
constexpr int64_t AHEAD = 1024;

// Prefetch. Data that a forward reads for the last time bypass the outer caches, where they would evict the
// rest of the program: the Python interpreter alone costs 0.3 ms when read from memory.
template <bool LAST>
INLINE void ask(const void* p) {
    __builtin_prefetch(p, 0, LAST ? 0 : 3);
}

// Elements of a row in thread memory, with a margin on both sides. Rows begin at a cache line: a load that
// crosses a line costs two.
INLINE int64_t row_size(int64_t w) { return (w + 63) / 64 * 64 + 2 * MARGIN; }

// Working memory of a thread, in bytes: of the phase that needs most, structure, with LEVELS levels.
template <class T>
int64_t arena_bytes(int64_t w) {
    return row_size(w) * (40 * static_cast<int64_t>(sizeof(T)) + 20 * 2 + 40);
}

struct Arena {
    char* next;
    int64_t w;
    char* end;
    template <class T>
    T* row() {
        T* p = reinterpret_cast<T*>(next) + MARGIN;
        next += row_size(w) * static_cast<int64_t>(sizeof(T));
#ifdef DL_BOUNDS  // The builds for sanitizers, which do not see one thread's memory end in another's.
        if (next > end) {
            fprintf(stderr, "depthloss: a phase takes more rows than `arena_bytes` has\n");
            abort();
        }
#endif
        return p;
    }
};
template <class T>
Arena arena_of(char* memory, int64_t w) {
    return {memory, w, memory + arena_bytes<T>(w)};
}

// The margins of a row: zero, or a copy of its end.
template <class T>
INLINE void set_margin(T* row, int64_t w, bool replicate) {
    row[-1] = replicate ? row[0] : T(0);
    row[w] = replicate ? row[w - 1] : T(0);
}

// Zeros from the end of a row to that of its last block.
template <class T>
INLINE void clear_end(T* row, int64_t w) {
    if (w % LANES) memset(row + w, 0, sizeof(T) * static_cast<size_t>(blocks(w) - w));
}

template <class T>
INLINE T from_half(uint16_t h) {
    const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fffu) << 13;
    // Inf and NaN keep their exponent; a subnormal number is what it adds to 2^-14, as the mode of the caller
    // may flush it where a product reads it.
    const bool small = magnitude < 0x00800000u;
    uint32_t raw = magnitude + (magnitude >= 0x0f800000u ? 0x70000000u : small ? 0x38800000u : 0x38000000u);
    float x;
    memcpy(&x, &raw, 4);
    x -= small ? 6.103515625e-05f : 0.0f;
    memcpy(&raw, &x, 4);
    raw |= static_cast<uint32_t>(h & 0x8000u) << 16;
    memcpy(&x, &raw, 4);
    return static_cast<T>(x);
}
template <class T>
INLINE T from_bfloat(uint16_t h) {
    const uint32_t raw = static_cast<uint32_t>(h) << 16;
    float x;
    memcpy(&x, &raw, 4);
    return static_cast<T>(x);
}
INLINE uint16_t to_bfloat(float x) {
    uint32_t raw;
    memcpy(&raw, &x, 4);
    const uint32_t rounded = (raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16;
    return static_cast<uint16_t>((raw & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
INLINE uint16_t to_half(float x) {
    uint32_t raw;
    memcpy(&raw, &x, 4);
    const uint32_t sign = (raw >> 16) & 0x8000u, magnitude = raw & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or is more
    if (magnitude < 0x38800000u) {  // subnormal: adding 1/2 leaves the rounded bits at the end
        float y;
        memcpy(&y, &magnitude, 4);
        y += 0.5f;
        uint32_t bits;
        memcpy(&bits, &y, 4);
        return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
    }
    const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<uint16_t>(sign | (rounded >> 13));
}

template <class T, class S, class F>
INLINE void gather(const S* p, int64_t step, int64_t w, T* out, F convert) {
    if (step == 1)
        for (int64_t x = 0; x < w; x++) out[x] = convert(p[x]);
    else
        for (int64_t x = 0; x < w; x++) out[x] = convert(p[x * step]);
    for (int64_t x = w; x < blocks(w); x++) out[x] = T(0);
}

INLINE bool is_float(int dtype) { return dtype <= BFLOAT16; }

template <class T>
constexpr int own_dtype() {
    return sizeof(T) == 8 ? FLOAT64 : FLOAT32;
}

template <class T>
void convert(const Map& map, int64_t o, int64_t w, T* buffer, Row<T>& row) {
    const int64_t step = map.stride[2];
    const auto* half = static_cast<const uint16_t*>(map.data) + o;
    if (map.dtype == FLOAT32)
        gather<T>(static_cast<const float*>(map.data) + o, step, w, buffer,
                  [](float x) { return static_cast<T>(x); });
    else if (map.dtype == FLOAT64)
        gather<T>(static_cast<const double*>(map.data) + o, step, w, buffer,
                  [](double x) { return static_cast<T>(x); });
    else if (map.dtype == FLOAT16)
        gather<T>(half, step, w, buffer, [](uint16_t x) { return from_half<T>(x); });
    else
        gather<T>(half, step, w, buffer, [](uint16_t x) { return from_bfloat<T>(x); });
    row.padded(buffer);
}

// Row y of image b in the dtype of the arithmetic.
template <class T>
INLINE void read(const Map& map, int64_t b, int64_t y, int64_t w, T* buffer, Row<T>& row) {
    const int64_t o = b * map.stride[0] + y * map.stride[1];
    if (map.dtype == own_dtype<T>() && map.stride[2] == 1)
        row.in_place(static_cast<const T*>(map.data) + o, w);
    else
        convert(map, o, w, buffer, row);
}

template <class T>
void convert_mask(const Map& map, int64_t o, int64_t w, const Row<T>* positive, uint8_t* buffer,
                  Row<uint8_t>& row) {
    const int64_t step = map.stride[2];
    const auto* half = static_cast<const uint16_t*>(map.data) + o;
    if (map.dtype == NONE) {
        for (int64_t x = 0; x < w; x++) buffer[x] = 1;
        for (int64_t x = w; x < blocks(w); x++) buffer[x] = 0;
    } else if (map.dtype == BOOL || map.dtype == BYTE)
        gather<uint8_t>(static_cast<const uint8_t*>(map.data) + o, step, w, buffer,
                        [](uint8_t x) { return static_cast<uint8_t>(x != 0); });
    else if (map.dtype == FLOAT32)
        gather<uint8_t>(static_cast<const float*>(map.data) + o, step, w, buffer,
                        [](float x) { return static_cast<uint8_t>(x != 0); });
    else if (map.dtype == FLOAT64)
        gather<uint8_t>(static_cast<const double*>(map.data) + o, step, w, buffer,
                        [](double x) { return static_cast<uint8_t>(x != 0); });
    else  // Both halves: all bits but the sign.
        gather<uint8_t>(half, step, w, buffer,
                        [](uint16_t x) { return static_cast<uint8_t>((x & 0x7fff) != 0); });
    if (positive)
        for (int64_t x = 0; x < w; x += LANES) {
            const Vec<T> g = load(positive->at(x));
            const Bytes on = bytes_of((g > all(T(0))) & (g < all(T(__builtin_inf()))));
            store_as<Bytes>(buffer + x, load_as<Bytes>(buffer + x) & on);
        }
    row.padded(buffer);
}

// Row y of a mask as bytes 0 and 1; g > 0 and finite as well if `positive` is given.
template <class T>
INLINE void read_mask(const Map& map, int64_t b, int64_t y, int64_t w, const Row<T>* positive,
                      uint8_t* buffer, Row<uint8_t>& row) {
    const int64_t o = b * map.stride[0] + y * map.stride[1];
    if (map.dtype == BOOL && map.stride[2] == 1 && !positive)
        row.in_place(static_cast<const uint8_t*>(map.data) + o, w);
    else
        convert_mask(map, o, w, positive, buffer, row);
}

// 1/max(x, 1e-6), or 1/(x + 1e-6), before its bounds; an Inf becomes NaN, so that it shows behind them.
template <class T>
INLINE Vec<T> depth(const Vec<T>& x, const Domain& d) {
    const Vec<T> floor = all(T(1e-6)), one = all(T(1));
    const Vec<T> shows = select(abs(x) < all(T(__builtin_inf())), x, all(T(__builtin_nan(""))));
    return one / (d.conversion == SHIFTED_INVERSE ? shows + floor : select(shows < floor, floor, shows));
}

template <class T>
INLINE Vec<T> finite_or_nan(const Vec<T>& x) {
    return select(abs(x) < all(T(__builtin_inf())), x, all(T(__builtin_nan(""))));
}

template <class T>
INLINE Vec<T> clamped(Vec<T> y, const Domain& d) {
    if (d.has_minimum) y = select(y < all(T(d.minimum)), all(T(d.minimum)), y);
    if (d.has_maximum) y = select(y > all(T(d.maximum)), all(T(d.maximum)), y);
    return y;
}

// x in the domain at m, before a logarithm.
template <class T>
INLINE Vec<T> to_domain(const Vec<T>& x, const Mask<T>& m, const Domain& d) {
    if (d.conversion != IDENTITY) return select(m, clamped(depth(select(m, x, all(T(1))), d), d));
    if (!d.has_minimum && !d.has_maximum) return x;
    return select(m, clamped(finite_or_nan(select(m, x, all(T(1)))), d));
}

// Derivative of `to_domain`: 1 on the closed interval of the bounds; 0 outside m.
template <class T>
INLINE Vec<T> slope(const Vec<T>& given, const Mask<T>& m, const Domain& d) {
    const bool identity = d.conversion == IDENTITY;
    if (identity && !d.has_minimum && !d.has_maximum) return select(m, all(T(1)));
    const Vec<T> x = select(m, given, all(T(1))), y = identity ? x : depth(x, d);
    Mask<T> inside = m;
    if (d.conversion == INVERSE) inside = inside & (x >= all(T(1e-6)));
    if (d.has_minimum) inside = inside & (y >= all(T(d.minimum)));
    if (d.has_maximum) inside = inside & (y <= all(T(d.maximum)));
    return select(inside, identity ? all(T(1)) : all(T(0)) - y * y);
}

// The same, where the converted value is known: it spares a division if no clamp hides what it was.
template <class T>
INLINE Vec<T> slope(const Vec<T>& given, const Vec<T>& converted, const Mask<T>& m, const Domain& d) {
    if (d.conversion == IDENTITY || d.has_minimum || d.has_maximum) return slope(given, m, d);
    const Mask<T> inside = d.conversion == INVERSE ? m & (given >= all(T(1e-6))) : m;
    return select(inside, all(T(0)) - converted * converted);
}

}  // namespace DL_ISA
