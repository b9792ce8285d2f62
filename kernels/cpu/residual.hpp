// The residual of the terms that are not aligned, and the way of a derivative back to the prediction.
//
//     e = p - g in the term's domain, or ln((p + offset)/(g + offset))
#pragma once
#include <type_traits>

#include "penalty.hpp"
#include "rows.hpp"

namespace DL_ISA {

// The residual of a term that is not aligned, of one row.
template <class T>
void residual_row(const Domain& domain, const Line<T>& line, const Row<uint8_t>& mask, int64_t w, T* to) {
    const Domain d = domain;  // of its own: what is stored may be anywhere, but not in here
    const auto each = [&](auto log_) __attribute__((always_inline)) {
        for (int64_t x = 0; x < w; x += LANES) {
            const Mask<T> m = mask_of<T>(mask.at(x));
            const Vec<T> p = to_domain(load(line.p.at(x)), m, d), g = to_domain(load(line.g.at(x)), m, d);
            store(to + x, decltype(log_)::value ? log_ratio(p, g, m, d) : p - g);
        }
    };
    if (d.has_log)
        each(std::true_type());
    else
        each(std::false_type());
}

// What a penalty makes of the largest residual.
template <class T>
T from_largest(const Pixel& term, const double* largest, int i) {
    T c = 0;
    if (term.largest)
        with_penalty(term.penalty, [&](auto kind) {
            c = static_cast<T>(decltype(kind)::from_largest(static_cast<double>(static_cast<T>(largest[i])),
                                                            static_cast<double>(static_cast<T>(term.a))));
        });
    return c;
}

// Calls f(x, at, whole) for the blocks x of a row; `whole`: whether p and g are the inputs as they are.
template <class T, class F>
INLINE void each_residual(const Pixel& term, const Line<T>& line, int64_t begin, int64_t end, const F& f) {
    const Domain d = term.domain;
    const Row<uint8_t>& mask = term.absolute ? *line.m_abs : *line.m;
    const uint8_t* on = mask.at(begin) - begin;
    const T *p_row = line.p.at(begin) - begin, *g_row = line.g.at(begin) - begin;
    if (d.conversion == IDENTITY && !d.has_log) {
        for (int64_t x = begin; x < end; x += LANES) {
            const Mask<T> m = mask_of<T>(on + x);
            const Vec<T> p = load(p_row + x), g = load(g_row + x);
            f(x, Given<T>{select(m, p - g), p, g, m}, std::true_type());
        }
        return;
    }
    for (int64_t x = begin; x < end; x += LANES) {
        const Mask<T> m = mask_of<T>(on + x);
        const Vec<T> p = to_domain(load(p_row + x), m, d), g = to_domain(load(g_row + x), m, d);
        const Vec<T> r = select(m, d.has_log ? log_ratio(p, g, m, d) : p - g);
        f(x, Given<T>{r, p, g, m}, std::false_type());
    }
}

// dL/dp from d = dL/dr at m.
template <class T>
INLINE Vec<T> through(Vec<T> d, const Vec<T>& given, Vec<T> p, const Mask<T>& m, const Domain& domain) {
    Mask<T> inside = m;
    if (domain.has_log) {
        if (domain.has_floor) inside = inside & (p >= all(T(domain.floor)));
        p = select(inside, p, all(T(1)));
        d = d / (p + all(T(domain.log)));
    }
    return select(inside, d) * slope(given, m, domain);
}

}  // namespace DL_ISA
