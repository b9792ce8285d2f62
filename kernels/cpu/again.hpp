// The backward of the terms that stand for themselves: it reads p, g, m and c again.
//
//     dL/dp = c' phi'(r) of a pixel term, slope (e - centre) + shift of moments;  dL/dc = phi - alpha/c
#pragma once
#include <type_traits>

#include "residual.hpp"

namespace DL_ISA {

// Adds what a pixel term of this weight has of dL/dc, phi - alpha/c, at the pixels m.
template <class T>
struct OfConfidence {
    const Vec<T> by, alpha;
    OfConfidence(const Pixel& term, double weight)
        : by(all(static_cast<T>(weight))), alpha(all(static_cast<T>(term.alpha))) {}
    INLINE void add(T* to, const Vec<T>& phi, const Vec<T>& c, const Mask<T>& m) const {
        const Mask<T> on = m & (c >= all(T(1e-6)));
        store(to, load(to) + select(on, (phi - alpha / select(on, c, all(T(1)))) * by));
    }
};

// Adds the gradient of the terms that read p, g and m again to a row; the first of them overwrites it.
template <class T>
struct AgainRow {
    const Plan& plan;
    const double* coefficients;  // of the image
    const double* largest;
    const int64_t w;
    T *const row, *const own;  // `own`: of a term whose domain is not the input, or that has a confidence
    T* const of_c;             // dL/dc, null if it is not wanted
    Compared<T> compared;
    bool empty = true;

    AgainRow(const Plan& plan_, const double* of_image, const double* largest_, int64_t w_, Arena& arena,
             T* of_c_)
        : plan(plan_),
          coefficients(of_image),
          largest(largest_),
          w(w_),
          row(arena.row<T>()),
          own(arena.row<T>()),
          of_c(of_c_),
          compared(arena) {}

    INLINE void add(int64_t x, const Vec<T>& d, bool first) {
        store(row + x, (first ? all(T(0)) : load(row + x)) + d);
    }

    void moments(int i, const Line<T>& line) {
        const double *slope_ = coefficients + MOMENTS_SLOPE + i, *centre = coefficients + MOMENTS_CENTRE + i,
                     *shift = coefficients + MOMENTS_SHIFT + i;
        if (*slope_ == 0 && *shift == 0) return;
        const Domain domain = plan.moment[i].domain;
        const Vec<T> by = all(T(*slope_)), from = all(T(*centre)), more = all(T(*shift));
        const auto each = [&](auto first, auto log_) __attribute__((always_inline)) {
            for (int64_t x = 0; x < w; x += LANES) {
                const Mask<T> m = mask_of<T>(line.m->at(x));
                const Vec<T> given = load(line.p.at(x)), p = to_domain(given, m, domain),
                             g = to_domain(load(line.g.at(x)), m, domain),
                             e = decltype(log_)::value ? log_ratio(p, g, m, domain) : p - g;
                add(x, through<decltype(log_)::value>((e - from) * by + more, given, p, m, domain),
                    decltype(first)::value);
            }
        };
        with(domain, each);
    }

    void pixel(int i, const Line<T>& line) {
        const double weight = coefficients[PIXEL_WEIGHT + i];
        if (weight == 0) return;
        const Pixel term = plan.pixel[i];
        compared.read(term, line, w);
        if (as_given(term.domain) && !term.confident) {
            empty ? slopes<true>(i, row) : slopes<false>(i, row);
            empty = false;
        } else {
            slopes<true>(i, own);
            if (term.confident) confide(i, line);
            const auto each = [&](auto first, auto log_) __attribute__((always_inline)) {
                const Domain domain = term.domain;  // Local copy: stores cannot alias it.
                for (int64_t x = 0; x < w; x += LANES) {
                    const Mask<T> m = mask_of<T>(compared.m->at(x));
                    const Vec<T> given = load(line.p.at(x)), p = decltype(log_)::value
                                                                     ? to_domain(given, m, domain)
                                                                     : load(compared.p->at(x));
                    add(x, through<decltype(log_)::value>(load(own + x), given, p, m, domain),
                        decltype(first)::value);
                }
            };
            with(term.domain, each);
        }
    }

    // Writes or adds dL/dp of pixel term i, p in its domain, to a row.
    template <bool FIRST>
    void slopes(int i, T* to) {
        const Pixel& term = plan.pixel[i];
        const Numbers<T> numbers{static_cast<T>(term.a), static_cast<T>(term.b),
                                 from_largest<T>(term, largest, i)};
        const Vec<T> by = all(T(coefficients[PIXEL_WEIGHT + i]));
        with_penalty(term.penalty, [&](auto kind) {
            const auto block = [&](int64_t x, const Given<T>& at) __attribute__((always_inline)) {
                const Vec<T> d = select(at.m, decltype(kind)::of(at, numbers).slope * by);
                store(to + x, FIRST ? d : load(to + x) + d);
            };
            for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w))
                each_residual(compared, o, end, block);
        });
    }

    // Multiplies the slopes of a term by its confidence, and adds its part of dL/dc.
    void confide(int i, const Line<T>& line) {
        const Pixel& term = plan.pixel[i];
        for (int64_t x = 0; x < w; x += LANES) {
            const Mask<T> m = mask_of<T>(compared.m->at(x));
            store(own + x, select(m, load(own + x) * floored(load(line.c.at(x)), m)));
        }
        if (!of_c) return;
        const Numbers<T> numbers{static_cast<T>(term.a), static_cast<T>(term.b),
                                 from_largest<T>(term, largest, i)};
        const OfConfidence<T> slope(term, coefficients[PIXEL_WEIGHT + i]);
        with_penalty(term.penalty, [&](auto kind) {
            const auto block = [&](int64_t x, const Given<T>& at) __attribute__((always_inline)) {
                slope.add(of_c + x, decltype(kind)::of(at, numbers).phi, load(line.c.at(x)), at.m);
            };
            for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w))
                each_residual(compared, o, end, block);
        });
    }

    template <class F>
    void with(const Domain& domain, const F& each) {
        if (domain.has_log)
            empty ? each(std::true_type(), std::true_type()) : each(std::false_type(), std::true_type());
        else
            empty ? each(std::true_type(), std::false_type()) : each(std::false_type(), std::false_type());
        empty = false;
    }

    void make(const Line<T>& line) {
        empty = true;
        for (int i = 0; i < plan.moments; i++) moments(i, line);
        for (int i = 0; i < plan.pixels; i++) pixel(i, line);
        if (empty) memset(row, 0, sizeof(T) * static_cast<size_t>(blocks(w)));
    }
};

}  // namespace DL_ISA
