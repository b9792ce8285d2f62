// The residual of the terms that are not aligned, and the way of a derivative back to the prediction.
//
//     e = p - g in the term's domain, or ln((p + offset)/(g + offset))
#pragma once
#include <type_traits>

#include "penalty.hpp"
#include "line.hpp"

namespace DL_ISA {

// The aligned residual of an image: the same bits wherever it is made again.
template <class T>
struct Fit {
    Vec<T> mu_p, mu_g, inv_p, inv_g;
    explicit Fit(const Image& i)
        : mu_p(all(T(i.mu_p))), mu_g(all(T(i.mu_g))), inv_p(all(T(i.inv_p))), inv_g(all(T(i.inv_g))) {}
    explicit Fit(const double* c)
        : mu_p(all(T(c[MU_P]))), mu_g(all(T(c[MU_G]))), inv_p(all(T(c[INV_P]))), inv_g(all(T(c[INV_G]))) {}
    INLINE Vec<T> residual(const Vec<T>& p, const Vec<T>& g) const { return of_centred(p - mu_p, g); }
    INLINE Vec<T> of_centred(const Vec<T>& dev_p, const Vec<T>& g) const {
        return dev_p * inv_p - (g - mu_g) * inv_g;
    }
};

// How much the pixels of a trim count: 1 below its threshold, `share` at it.
template <class T>
struct Trim {
    const bool on;
    const Vec<T> tau, share;
    Trim(bool on_, double tau_, double share_) : on(on_), tau(all(T(tau_))), share(all(T(share_))) {}
    struct Part {
        Mask<T> kept, tie;
        Vec<T> weight;
    };
    INLINE Part of(const Vec<T>& r, const Mask<T>& m) const {
        const Vec<T> d = abs(r), one = all(T(1));
        if (!on) return {m, m, select(m, one)};
        const Mask<T> below = m & (d < tau), tie = m & (d == tau);
        return {below | tie, tie, select(below, one, select(tie, share))};
    }
};

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

// A row of p and g as a pixel term compares them, and its pixels: the inputs, or rows made of them, so that a
// penalty's loop knows no domain. Of a logarithm p is the residual and g is 0: no penalty that reads p or g
// itself comes with one.
template <class T>
struct Compared {
    const Row<T>*p, *g;
    const Row<uint8_t>* m;

    explicit Compared(Arena& arena) : to_p(arena.row<T>()), to_g(arena.row<T>()) {}

    void read(const Pixel& term, const Line<T>& line, int64_t w) {
        m = term.absolute ? line.m_abs : line.m;
        p = &line.p, g = &line.g;
        if (as_given(term.domain)) return;
        convert(term.domain, line, w);
        made_p.padded(to_p), made_g.padded(to_g);
        p = &made_p, g = &made_g;
    }

private:
    T *const to_p, *const to_g;
    Row<T> made_p, made_g;

    void convert(const Domain& domain, const Line<T>& line, int64_t w) {
        if (domain.has_log) {
            residual_row(domain, line, *m, w, to_p);
            memset(to_g, 0, sizeof(T) * static_cast<size_t>(blocks(w)));
            return;
        }
        const Domain d = domain;  // Local copy: stores cannot alias it.
        for (int64_t x = 0; x < w; x += LANES) {
            const Mask<T> on = mask_of<T>(m->at(x));
            store(to_p + x, to_domain(load(line.p.at(x)), on, d));
            store(to_g + x, to_domain(load(line.g.at(x)), on, d));
        }
    }
};

// Calls f(x, at) for the blocks x of a piece of a row.
template <class T, class F>
INLINE void each_residual(const Compared<T>& row, int64_t begin, int64_t end, const F& f) {
    const uint8_t* on = row.m->at(begin) - begin;
    const T *p_row = row.p->at(begin) - begin, *g_row = row.g->at(begin) - begin;
    for (int64_t x = begin; x < end; x += LANES) {
        const Mask<T> m = mask_of<T>(on + x);
        const Vec<T> p = load(p_row + x), g = load(g_row + x);
        f(x, Given<T>{select(m, p - g), p, g, m});
    }
}

// The sum over the pixels m of a row of value(x, m).
template <class T, class F>
double sum_of(const Row<uint8_t>& m, int64_t w, const F& value) {
    Total<T> total;
    for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w)) {
        const uint8_t* on = m.at(o) - o;
        Vec<T> part = all(T(0));
        for (int64_t x = o; x < end; x += LANES) part = part + value(x, mask_of<T>(on + x));
        total.add(part);
    }
    return total;
}

// What a confidence adds to a term over the pixels m of a row: the sum of -alpha ln c.
template <class T>
double minus_logarithms(const Pixel& term, const Line<T>& line, const Row<uint8_t>& m, int64_t w) {
    const Weighed<T> weigh{line.weight.main};
    const Vec<T> by = all(static_cast<T>(-term.alpha));
    return sum_of<T>(m, w, [&](int64_t x, const Mask<T>& here) {
        return weigh(x, here, by * log(floored(load(line.c.at(x)), here)));
    });
}

// dL/dp from d = dL/dr at m.
template <bool LOG, class T>
INLINE Vec<T> through(Vec<T> d, const Vec<T>& given, Vec<T> p, const Mask<T>& m, const Domain& domain) {
    const Vec<T> by_given = slope(given, p, m, domain);
    Mask<T> inside = m;
    if (LOG) {
        if (domain.has_floor) inside = inside & (p >= all(T(domain.floor)));
        p = select(inside, p, all(T(1)));
        d = d / (p + all(T(domain.log)));
    }
    return select(inside, d) * by_given;
}

}  // namespace DL_ISA
