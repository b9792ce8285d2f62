// The k-th smallest of a quantity of each pixel, exactly: radix selection on the integers that are ordered as
// the numbers are.
//
//     medians of p and g, or the threshold of |r|; per pass a histogram of the next bits of the pixels that
//     match the bits found so far
//
// Reads the inputs in every pass (3 of float32, 6 of float64), and keeps nothing per pixel.
#pragma once
#include "residual.hpp"

namespace DL_ISA {

// The integers, unsigned: -0 as +0, NaN last.
template <class T>
INLINE Vec<Int<T>> ordered(const Vec<T>& given) {
    using I = Int<T>;
    constexpr int sign = static_cast<int>(8 * sizeof(T)) - 1;
    const Vec<T> x = given + all(T(0));
    const Vec<I> i = bits<I>(x), flip = shifted(i, -sign) | all(std::numeric_limits<I>::min());
    return bits<I>(select(x == x, bits<T>(i ^ flip), bits<T>(all(I(-1)))));
}

// Counts of the bins of one quantity in a band. Lanes take turns: an addition waits for the one before to
// the same bin.
struct Bins {
    static constexpr int WAYS = 4;
    uint32_t n[WAYS][BINS];
};

// Counts the keys of a block at the pixels `on`, by the bits from `shift` on, where those above are `prefix`.
template <class T>
INLINE void count_block(const Vec<T>& x, Mask<T> on, const Radix& radix, uint64_t prefix, Bins& bins) {
    using I = Int<T>;
    using U = std::make_unsigned_t<I>;
    const Vec<I> key = ordered(x);
    if (radix.shift + radix.width < static_cast<int>(8 * sizeof(T))) {
        const int above = radix.shift + radix.width;
        const U wanted = static_cast<U>(prefix) << above, mask = static_cast<U>(~U(0)) << above;
        on = on & equal<T>(key & all(static_cast<I>(mask)), all(static_cast<I>(wanted)));
    }
    unsigned left = lanes_of(on);
    if (!left) return;
    I lane[LANES];
    store(lane, key);
    const auto count = [&](int i) __attribute__((always_inline)) {
        bins.n[i % Bins::WAYS][static_cast<U>(lane[i]) >> radix.shift & ((1u << radix.width) - 1)]++;
    };
    if (left == 0xffff)
        for (int i = 0; i < LANES; i++) count(i);
    else
        for (; left; left &= left - 1) count(__builtin_ctz(left));
}

// Adds the counts of a band to those of its image.
inline void add_bins(const Bins& bins, int64_t* to) {
    for (int i = 0; i < BINS; i++) {
        int64_t n = 0;
        for (const auto& way : bins.n) n += way[i];
        if (n) __atomic_fetch_add(to + i, n, __ATOMIC_RELAXED);
    }
}

// One pass over a band.
template <class T>
void count(const Work& work, int64_t b, int band, char* memory) {
    const Selection& selection = work.selections[b];
    const Radix radix = radix_of(sizeof(T) == 8, work.pass);
    if (!selection.wanted) return;
    const int64_t w = work.call->W;
    const auto [y0, y1] = BandRows(band, work.call->H);
    Arena arena = arena_of<T>(memory, w);
    LineBuffers<T> buffers(arena, work);
    Line<T> line;
    Bins bins[2];
    memset(bins, 0, sizeof(Bins) * (work.of_residual ? 1 : 2));
    const Fit<T> fit(work.images[b]);
    const bool standardised = work.plan->alignment != ALIGN_NONE;
    for (int64_t y = y0; y < y1; y++) {
        read_line(work, b, y, buffers, line);
        for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w)) {
            const uint8_t* on = line.m->at(o) - o;
            const T *p_d = line.p_d->at(o) - o, *g_d = line.g_d->at(o) - o;
            for (int64_t x = o; x < end; x += LANES) {
                const Mask<T> m = mask_of<T>(on + x);
                if (!lanes_of(m)) continue;
                const Vec<T> p = load(p_d + x), g = load(g_d + x);
                if (work.of_residual) {
                    count_block(abs(standardised ? fit.residual(p, g) : p - g), m, radix, selection.prefix[0],
                                bins[0]);
                } else {
                    count_block(p, m, radix, selection.prefix[0], bins[0]);
                    count_block(g, m, radix, selection.prefix[1], bins[1]);
                }
            }
        }
    }
    int64_t* to = work.histograms + (b - work.first) * 2 * BINS;
    add_bins(bins[0], to);
    if (!work.of_residual) add_bins(bins[1], to + BINS);
}

}  // namespace DL_ISA
