// What a residual costs, and the slope of that: one function per kind of penalty, in one place.
//
// A function takes r, p, g in the term's domain at the pixels m (r is 0 elsewhere), and the penalty's numbers
// a, b and c, the last one made of the largest residual of the batch where the penalty needs it.
#pragma once
#include <cmath>
#include <limits>

#include "engine.h"

// Each as depthloss.spec names it, in its order.
#define PENALTIES(EACH_)                    \
    EACH_(L1, "l1")                         \
    EACH_(L2, "l2")                         \
    EACH_(HalfL2, "half-l2")                \
    EACH_(SmoothL1, "smooth-l1")            \
    EACH_(Huber, "huber")                   \
    EACH_(Charbonnier, "charbonnier")       \
    EACH_(Barron, "barron")                 \
    EACH_(AbsRel, "abs-rel")                \
    EACH_(AbsRelPacknet, "abs-rel-packnet") \
    EACH_(BerHu, "berhu")                   \
    EACH_(BerHuPacknet, "berhu-packnet")

#ifdef DL_ISA
#include "vec.hpp"

namespace DL_ISA {

template <class T>
struct Given {
    Vec<T> r, p, g;
    Mask<T> m;
};

template <class T>
struct Numbers {
    T a, b, c;
};

template <class T>
struct Cost {
    Vec<T> phi, slope;  // phi(r), and d phi/dp through r and beside it
    Mask<T> again;      // pixels that count once more, where COUNTS
};

struct Penalty {
    static constexpr bool COUNTS = false;
    // What the largest is sought of, at m, and c from it; -inf if there is no valid pixel.
    template <class T>
    static INLINE Vec<T> size(const Vec<T>& r) {
        return abs(r);
    }
    static double from_largest(double x, double) { return x; }
};

template <class T>
INLINE Vec<T> sign_of(const Vec<T>& r) {
    const Vec<T> zero = all(T(0)), one = all(T(1));
    return select(r > zero, one) - select(r < zero, one);
}

struct L1 : Penalty {
    template <class T>
    static INLINE Cost<T> of(const Given<T>& x, const Numbers<T>&) {
        return {abs(x.r), sign_of(x.r), {}};
    }
};

struct L2 : Penalty {
    template <class T>
    static INLINE Cost<T> of(const Given<T>& x, const Numbers<T>&) {
        return {x.r * x.r, x.r + x.r, {}};
    }
};

struct HalfL2 : Penalty {
    template <class T>
    static INLINE Cost<T> of(const Given<T>& x, const Numbers<T>&) {
        return {all(T(0.5)) * x.r * x.r, x.r, {}};
    }
};

// r^2/(2 beta) below beta, else d - beta/2.
struct SmoothL1 : Penalty {
    template <class T>
    static INLINE Cost<T> of(const Given<T>& x, const Numbers<T>& n) {
        const Vec<T> d = abs(x.r), beta = all(n.a);
        const Mask<T> small = d < beta;
        return {select(small, x.r * x.r * all(T(0.5) / n.a), d - all(T(0.5) * n.a)),
                select(small, x.r / beta, sign_of(x.r)),
                {}};
    }
};

// r^2/2 up to delta, else delta (d - delta/2).
struct Huber : Penalty {
    template <class T>
    static INLINE Cost<T> of(const Given<T>& x, const Numbers<T>& n) {
        const Vec<T> d = abs(x.r), delta = all(n.a);
        const Mask<T> small = d <= delta;
        return {select(small, all(T(0.5)) * x.r * x.r, delta * (d - all(T(0.5) * n.a))),
                select(small, x.r, delta * sign_of(x.r)),
                {}};
    }
};

// sqrt(r^2 + c^2) - c.
struct Charbonnier : Penalty {
    template <class T>
    static INLINE Cost<T> of(const Given<T>& x, const Numbers<T>& n) {
        const Vec<T> square = x.r * x.r, root = sqrt(square + all(n.a * n.a));
        return {square / (root + all(n.a)), x.r / root, {}};
    }
};

// The general robust loss of shape alpha and scale c; h = (r/c)^2/2.
struct Barron : Penalty {
    template <class T>
    static INLINE Cost<T> of(const Given<T>& x, const Numbers<T>& n) {
        const Vec<T> one = all(T(1)), scaled = x.r / all(n.b), h = all(T(0.5)) * scaled * scaled;
        const Vec<T> slope = scaled / all(n.b);  // of h
        if (n.a == 2) return {h, slope, {}};
        if (n.a == 0) return {log1p(h), slope / (one + h), {}};
        if (n.a < -std::numeric_limits<T>::max()) {
            const Vec<T> y = all(T(0)) - h;
            return {all(T(0)) - expm1(y), slope * exp(y), {}};
        }
        const T b = std::fabs(n.a - 2);
        const Vec<T> u = h * all(2 / b), ln = log1p(u);
        // The power alpha/2 - 1 of 1 + u. An exponent multiplies the rounding of ln: take the smaller one.
        const Vec<T> power = n.a < 1 ? exp(ln * all(n.a / 2)) / (one + u) : exp(ln * all(n.a / 2 - 1));
        return {expm1(ln * all(n.a / 2)) * all(b / n.a), slope * power, {}};
    }
};

struct AbsRel : Penalty {
    template <class T>
    static INLINE Cost<T> of(const Given<T>& x, const Numbers<T>&) {
        const Vec<T> g = select(x.m, x.g, all(T(1)));
        return {abs(x.r) / g, sign_of(x.r) / g, {}};
    }
};

struct AbsRelPacknet : Penalty {
    template <class T>
    static INLINE Cost<T> of(const Given<T>& x, const Numbers<T>&) {
        const Vec<T> p = select(x.m, x.p, all(T(1))), q = all(T(1)) / p;
        return {abs(x.r) / p, sign_of(x.r) * q - abs(x.r) * q * q, {}};
    }
};

// Reverse Huber: d up to c, then (d^2 + c^2)/(2c).
struct BerHu : Penalty {
    static double from_largest(double x, double a) { return a * (x < 0 ? 0 : x); }
    template <class T>
    static INLINE Cost<T> of(const Given<T>& x, const Numbers<T>& n) {
        const Vec<T> d = abs(x.r), c = all(n.c), divisor = all(n.c > 0 ? n.c : T(1));
        const Mask<T> small = d <= c;
        return {select(small, d, (d * d + c * c) / (divisor + divisor)),
                select(small, sign_of(x.r), x.r / divisor),
                {}};
    }
};

// d, and d + d^2 beyond c, which counts as two pixels.
struct BerHuPacknet : Penalty {
    static constexpr bool COUNTS = true;
    static double from_largest(double x, double a) { return a * x; }
    template <class T>
    static INLINE Vec<T> size(const Vec<T>& r) {
        return r;
    }
    template <class T>
    static INLINE Cost<T> of(const Given<T>& x, const Numbers<T>& n) {
        const Vec<T> d = abs(x.r), sign = sign_of(x.r);
        const Mask<T> large = x.m & (d > all(n.c));
        return {d + select(large, d * d), sign + select(large, x.r + x.r), large};
    }
};

// Calls f with the penalty of this number.
template <class F>
INLINE void with_penalty(int number, const F& f) {
    enum {
#define NUMBER(name, text) NUMBER_##name,
        PENALTIES(NUMBER)
#undef NUMBER
    };
    switch (number) {
#define CALL(name, text) \
    case NUMBER_##name:  \
        return f(name());
        PENALTIES(CALL)
#undef CALL
    }
}

}  // namespace DL_ISA
#endif
