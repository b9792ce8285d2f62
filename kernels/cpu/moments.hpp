// Phases 1 and 2: the sums that need no mean, then the absolute deviations from the mean.
//
//     n, mean p, mean g; sum |p - g| over abs_mask; of each moments term n, mean and sum (e - mean)^2 of its
//     residual e; of each pixel term sum phi(e);  then sum m |p - mu_p|, sum m |g - mu_g|
//
// Reads p, g, m twice for structure terms, else once (9 bytes/pixel in float32), writes a record per band.
#pragma once
#include <array>
#include <cmath>
#include <type_traits>
#include <utility>

#include "residual.hpp"

namespace DL_ISA {

// Chan's merge of two groups of values.
INLINE void merge(Spread& a, const Spread& b) {
    const double n = a.n + b.n;
    if (b.n == 0) return;
    const double d = b.mean - a.mean, share = b.n / n;
    a.mean += d * share;
    a.sum += b.sum + d * d * (a.n * share);
    a.n = n;
}

// n, mean and squared differences of the masked values of a row; n is the sum of what they count.
template <class T, class Weigh>
Spread spread_of(const T* x, const Row<uint8_t>& m, int64_t w, double n, const Weigh& weigh) {
    if (n == 0) return {0, 0, 0};
    double total = 0, shifts = 0, all_squares = 0;
    for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w)) {
        const uint8_t* on = m.at(o) - o;
        Vec<T> part = all(T(0));
        for (int64_t i = o; i < end; i += LANES) {
            const Mask<T> here = mask_of<T>(on + i);
            part = part + weigh(i, here, select(here, load(x + i)));
        }
        total += sum(part);
    }
    double mean = total / n;
    const Vec<T> centre = all(static_cast<T>(mean));
    for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w)) {
        const uint8_t* on = m.at(o) - o;
        Vec<T> shift = all(T(0)), square = all(T(0));
        for (int64_t i = o; i < end; i += LANES) {
            const Mask<T> here = mask_of<T>(on + i);
            const Vec<T> d = select(here, load(x + i) - centre);
            shift = shift + weigh(i, here, d);
            square = square + weigh(i, here, d * d);
        }
        shifts += sum(shift);
        all_squares += sum(square);
    }
    const double moved = shifts / n, squares = all_squares - n * moved * moved;
    mean = static_cast<double>(static_cast<T>(mean)) + moved;
    return {n, mean, squares < 0 ? 0 : squares};
}

// How many bytes of a row are not zero.
inline int64_t count_of(const Row<uint8_t>& m, int64_t w) {
    int64_t n = 0;
    for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w)) {
        const uint8_t* on = m.at(o) - o;
        Bytes part{};
        for (int64_t x = o; x < end; x += LANES) part += nonzero(on + x);
        n -= sum(part);
    }
    return n;
}

// The first byte of a row that is not zero; there is one.
inline int64_t first_of(const Row<uint8_t>& m) {
    for (int64_t x = 0;; x++) {
        const int64_t o = x / LANES * LANES;
        if (m.at(o)[x - o]) return x;
    }
}

// Adds the penalties of one row to `total`, and the pixels that count once more to `again`.
template <class T, class Weigh>
void pixel_row(const Pixel& term, const Compared<T>& row, int64_t w, T c, const Weigh& weigh, Total<T>& total,
               int64_t& again) {
    const Numbers<T> numbers{static_cast<T>(term.a), static_cast<T>(term.b), c};
    with_penalty(term.penalty, [&](auto kind_) {
        using Kind = decltype(kind_);
        for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w)) {
            Vec<T> sum_phi = all(T(0));
            Small<T> n;
            each_residual(row, o, end, [&](int64_t x, const Given<T>& at) __attribute__((always_inline)) {
                ask<false>(row.p->main + x + AHEAD);
                ask<false>(row.g->main + x + AHEAD);
                const Cost<T> cost = Kind::of(at, numbers);
                sum_phi = sum_phi + weigh(x, at.m, select(at.m, cost.phi));
                if constexpr (Kind::COUNTS) n.add(cost.again);
            });
            total.add(sum_phi);
            if constexpr (Kind::COUNTS) again += sum(n);
        }
    });
}

// The moments and pixel terms of a line; `row_n` is what its pixels count together.
template <class T, class Weigh>
void terms_of_line(const Work& work, const Line<T>& line, double row_n, const T* c, const Weigh& weigh,
                   T* values, Compared<T>& compared, Total<T>* pixels, Total<T>* plain, Band& out) {
    const Plan& plan = *work.plan;
    const int64_t w = work.call->W;
    for (int i = 0; i < plan.moments; i++) {
        residual_row(plan.moment[i].domain, line, *line.m, w, values);
        merge(out.moment[i], spread_of(values, *line.m, w, row_n, weigh));
    }
    for (int i = 0; i < plan.pixels; i++) {
        const Pixel& term = plan.pixel[i];
        compared.read(term, line, w);
        if constexpr (!std::is_same<Weigh, Alike>::value)
            if (term.confident) {
                pixel_row(term, compared, w, c[i], weigh, plain[i], out.again[i]);
                pixel_row(term, compared, w, c[i], Weigh{line.sure.main}, pixels[i], out.again[i]);
                out.pixel[i] += minus_logarithms(term, line, *compared.m, w);
                continue;
            }
        pixel_row(term, compared, w, c[i], weigh, pixels[i], out.again[i]);
    }
}

// Before phase 1, for penalties that need it: the largest residual, NaN if there is one.
template <class T>
void largest(const Work& work, int64_t b, int band, char* memory) {
    const Call& call = *work.call;
    const Plan& plan = *work.plan;
    const int64_t w = call.W;
    const auto [y0, y1] = BandRows(band, call.H);
    Arena arena = arena_of<T>(memory, w);
    LineBuffers<T> buffers(arena, work);
    Line<T> line;
    Compared<T> row(arena);
    const Vec<T> none = all(T(-__builtin_inf()));
    Vec<T> most[MOST] = {none, none, none, none};
    for (int64_t y = y0; y < y1; y++) {
        read_given(work, b, y, buffers, line);
        for (int i = 0; i < plan.pixels; i++) {
            if (!plan.pixel[i].largest) continue;
            Vec<T> here = most[i];
            row.read(plan.pixel[i], line, w);
            with_penalty(plan.pixel[i].penalty, [&](auto kind) {
                const auto block = [&](int64_t, const Given<T>& at) __attribute__((always_inline)) {
                    const Vec<T> size = select(at.m, decltype(kind)::size(at.r), none);
                    here = select(here >= size, here, select(here < size, size, size + here));
                };
                for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w))
                    each_residual(row, o, end, block);
            });
            most[i] = here;
        }
    }
    Band& out = work.bands[b * work.bands_per_image + band];
    for (int i = 0; i < MOST; i++) {
        T lanes[LANES];
        store(lanes, most[i]);
        out.largest[i] = -__builtin_inf();
        for (const T x : lanes) out.largest[i] = larger(out.largest[i], static_cast<double>(x));
    }
}

template <class T>
void moments(const Work& work, int64_t b, int band, char* memory) {
    const Call& call = *work.call;
    const Plan& plan = *work.plan;
    const int64_t w = call.W;
    const auto [y0, y1] = BandRows(band, call.H);
    Arena arena = arena_of<T>(memory, w);
    LineBuffers<T> buffers(arena, work);
    Line<T> line;
    T* values = arena.row<T>();
    Compared<T> compared(arena);
    const Vec<T> zero = all(T(0));
    const bool has_absolute = plan.has_absolute, gradient = plan.has_gradient, structure = plan.codes,
               standardised = plan.alignment != ALIGN_NONE;
    const bool weighted = weighs(plan, call);
    Total<T> pixels[MOST], plain[MOST];
    T c[MOST] = {};
    for (int i = 0; i < plan.pixels; i++) c[i] = from_largest<T>(plan.pixel[i], call.largest, i);
    Band out{};
    // Sums of differences from one valid value: exact for a constant image.
    T base_p = 0, base_g = 0;
    bool found = false;
    Total<T> all_p, all_g, all_absolute, all_visible;
    for (int64_t y = y0; y < y1; y++) {
        read_line(work, b, y, buffers, line);
        if (!found && count_of(*line.m, w)) {
            const int64_t x = first_of(*line.m), o = x / LANES * LANES;
            base_p = line.p_d->at(o)[x - o], base_g = line.g_d->at(o)[x - o];
            found = true;
        }
        const Vec<T> from_p = all(base_p), from_g = all(base_g);
        int64_t row_n = structure ? 0 : count_of(*line.m, w);
        for (int64_t o = 0, end = piece_end(0, w); structure && o < w; o = end, end = piece_end(o, w)) {
            const uint8_t *on = line.m->at(o) - o, *on_abs = line.m_abs->at(o) - o;
            const T *p_d = line.p_d->at(o) - o, *g_d = line.g_d->at(o) - o;
            Vec<T> sum_p = zero, sum_g = zero, absolute = zero, visible = zero;
            Small<T> n;
            // A second instantiation for the common case, without branches in the loop.
            const auto block = [&](int64_t x, auto common_,
                                   const auto& weigh) __attribute__((always_inline)) {
                constexpr bool common = decltype(common_)::value;
                ask<false>(p_d + x + AHEAD);
                ask<false>(g_d + x + AHEAD);
                const Mask<T> m = mask_of<T>(on + x);
                const Vec<T> p = load(p_d + x), g = load(g_d + x);
                n.add(m);
                if (common || standardised) {
                    sum_p = sum_p + weigh(x, m, select(m, p - from_p));
                    sum_g = sum_g + weigh(x, m, select(m, g - from_g));
                } else if (gradient) {
                    visible = visible + select(m, p - g);
                }
                if (common || has_absolute) {
                    const Mask<T> counted = common ? m : mask_of<T>(on_abs + x);
                    absolute = absolute + weigh(x, counted, select(counted, abs(p - g)));
                }
            };
            const Weighed<T> weigh{line.weight.main};
            if (weighted)
                for (int64_t x = o; x < end; x += LANES) block(x, std::false_type(), weigh);
            else if (standardised && has_absolute && on == on_abs)
                for (int64_t x = o; x < end; x += LANES) block(x, std::true_type(), Alike());
            else
                for (int64_t x = o; x < end; x += LANES) block(x, std::false_type(), Alike());
            row_n += sum(n);
            all_p.add(sum_p);
            all_g.add(sum_g);
            all_absolute.add(absolute);
            all_visible.add(visible);
        }
        out.n_all += row_n;
        out.n += line.m == &line.valid ? row_n : count_of(line.valid, w);
        out.n_abs += line.m_abs == line.m ? row_n : count_of(*line.m_abs, w);
        if (!weighted) {
            terms_of_line(work, line, static_cast<double>(row_n), c, Alike(), values, compared, pixels, plain,
                          out);
            continue;
        }
        const Weighed<T> weigh{line.weight.main};
        const auto weight_of = [&](int64_t x, const Mask<T>& m) { return weigh(x, m, all(T(1))); };
        const double weight = sum_of<T>(*line.m, w, weight_of);
        out.weight += weight;
        out.weight_abs += line.m_abs == line.m ? weight : sum_of<T>(*line.m_abs, w, weight_of);
        if (plan.confident)
            out.confidence += sum_of<T>(
                line.valid, w, [&](int64_t x, const Mask<T>& m) { return select(m, load(line.c.at(x))); });
        terms_of_line(work, line, weight, c, weigh, values, compared, pixels, plain, out);
    }
    if (!weighted)
        out.weight = static_cast<double>(out.n_all), out.weight_abs = static_cast<double>(out.n_abs);
    out.p = all_p, out.g = all_g, out.absolute = all_absolute, out.visible = all_visible;
    for (int i = 0; i < plan.pixels; i++) out.pixel[i] += pixels[i], out.plain[i] = plain[i];
    out.base_p = static_cast<double>(base_p);
    out.base_g = static_cast<double>(base_g);
    work.bands[b * work.bands_per_image + band] = out;
}

// Over a band the sums of N values of a pixel, given its mask, p - mu_p and g - mu_g. WIDE: each is given as
// two factors, which are multiplied in double.
template <int N, class T, bool WIDE = false, class F>
std::array<Total<T>, N> centred_sums(const Work& work, int64_t b, int band, char* memory, const F& values) {
    const int64_t w = work.call->W;
    const auto [y0, y1] = BandRows(band, work.call->H);
    Arena arena = arena_of<T>(memory, w);
    LineBuffers<T> buffers(arena, work);
    Line<T> line;
    const Image& image = work.images[b];
    const Vec<T> mu_p = all(static_cast<T>(image.mu_p)), mu_g = all(static_cast<T>(image.mu_g));
    const bool weighted = weighs(*work.plan, *work.call);
    std::array<Total<T>, N> totals;
    const auto add = [&](const auto& weigh) __attribute__((always_inline)) {
        for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w)) {
            const uint8_t* on = line.m->at(o) - o;
            const T *p_d = line.p_d->at(o) - o, *g_d = line.g_d->at(o) - o;
            std::array<Vec<T>, N> sums;
            for (auto& sum : sums) sum = all(T(0));
            for (int64_t x = o; x < end; x += LANES) {
                const Mask<T> m = mask_of<T>(on + x);
                const auto here = values(m, load(p_d + x) - mu_p, load(g_d + x) - mu_g);
                for (int i = 0; i < N; i++)
                    if constexpr (WIDE)
                        totals[i].add(weigh(x, m, here[i].first), here[i].second);
                    else
                        sums[i] = sums[i] + weigh(x, m, here[i]);
            }
            for (int i = 0; !WIDE && i < N; i++) totals[i].add(sums[i]);
        }
    };
    for (int64_t y = y0; y < y1; y++) {
        read_line(work, b, y, buffers, line);
        if (weighted)
            add(Weighed<T>{line.weight.main});
        else
            add(Alike());
    }
    return totals;
}

template <class T>
void deviations(const Work& work, int64_t b, int band, char* memory) {
    Band& out = work.bands[b * work.bands_per_image + band];
    if (!weighs(*work.plan, *work.call)) {
        const auto [p, g] = centred_sums<2, T>(
            work, b, band, memory,
            [](const Mask<T>& m, const Vec<T>& p, const Vec<T>& g) __attribute__((always_inline)) {
                return std::array<Vec<T>, 2>{select(m, abs(p)), select(m, abs(g))};
            });
        out.dev_p = p, out.dev_g = g;
        return;
    }
    // Signs are counted with the codes; their weights are added up here.
    const auto [p, g, sign] = centred_sums<3, T>(
        work, b, band, memory,
        [](const Mask<T>& m, const Vec<T>& p, const Vec<T>& g) __attribute__((always_inline)) {
            return std::array<Vec<T>, 3>{select(m, abs(p)), select(m, abs(g)), select(m, sign_of(p))};
        });
    out.dev_p = p, out.dev_g = g, out.sign_dev = sign;
}

// Phase 2 of a fit by least squares.
template <class T>
void products(const Work& work, int64_t b, int band, char* memory) {
    const auto [p, g, pg, pp] = centred_sums<4, T>(
        work, b, band, memory,
        [](const Mask<T>& m, const Vec<T>& dev_p, const Vec<T>& dev_g) __attribute__((always_inline)) {
            const Vec<T> p = select(m, dev_p), g = select(m, dev_g);
            return std::array<Vec<T>, 4>{p, g, p * g, p * p};
        });
    Band& out = work.bands[b * work.bands_per_image + band];
    out.dev_p = p, out.dev_g = g, out.covariance = pg, out.variance = pp;
    if constexpr (std::is_same<T, float>::value) {
        // Of numbers beyond 1e18 or below 1e-18 the products leave the range of float32.
        const double least = 0x1p-120 * out.weight;
        if (std::isfinite(out.covariance) && std::isfinite(out.variance) && out.variance >= least) return;
        const auto [wide_pg, wide_pp] = centred_sums<2, T, true>(
            work, b, band, memory,
            [](const Mask<T>& m, const Vec<T>& dev_p, const Vec<T>& dev_g) __attribute__((always_inline)) {
                const Vec<T> p = select(m, dev_p), g = select(m, dev_g);
                return std::array<std::pair<Vec<T>, Vec<T>>, 2>{{{p, g}, {p, p}}};
            });
        out.covariance = wide_pg, out.variance = wide_pp;
    }
}

}  // namespace DL_ISA
