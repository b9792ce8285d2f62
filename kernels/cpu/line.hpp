// A line of pixels: the rows of all inputs, weighted, and of the structure terms' quantity.
#pragma once
#include "rows.hpp"

namespace DL_ISA {

// The rows of one line of pixels: inputs, the masks, and the structure terms' quantity.
template <class T>
struct Line {
    Row<T> p, g, converted_p, converted_g;
    // With weights: how much a pixel counts, 0 where no term reads it; c as it is given; both multiplied.
    Row<T> weight, c, sure;
    Row<uint8_t> valid, ones, given_abs;
    // One of each of the above.
    const Row<T>*p_d, *g_d;
    const Row<uint8_t>*m, *m_abs;
};

// What a line is read into.
template <class T>
struct LineBuffers {
    T *p, *g, *p_d, *g_d;
    uint8_t *valid, *ones, *m_abs;
    T *weight = nullptr, *c = nullptr, *sure = nullptr;
    LineBuffers(Arena& arena, const Work& work)
        : p(arena.row<T>()),
          g(arena.row<T>()),
          p_d(arena.row<T>()),
          g_d(arena.row<T>()),
          valid(arena.row<uint8_t>()),
          ones(arena.row<uint8_t>()),
          m_abs(arena.row<uint8_t>()) {
        for (int64_t x = 0; x < blocks(arena.w); x++) ones[x] = x < arena.w;
        if (weighs(*work.plan, *work.call))
            weight = arena.row<T>(), c = arena.row<T>(), sure = arena.row<T>();
    }
};

// ln((p + offset)/(g + offset)) at m; NaN where g + offset < 0.
template <class T>
INLINE Vec<T> log_ratio(Vec<T> p, Vec<T> g, const Mask<T>& m, const Domain& d) {
    const Vec<T> one = all(T(1)), nan = all(T(__builtin_nan(""))), inf = all(T(__builtin_inf()));
    p = select(m, p, one);
    g = select(m, g, one);
    if (d.has_floor) {
        const Vec<T> low = all(T(d.floor));
        p = select(abs(p) < inf, select(p < low, low, p), nan);
        g = select(abs(g) < inf, select(g < low, low, g), nan);
    }
    p = p + all(T(d.log));
    g = g + all(T(d.log));
    return log(p / select(g >= all(T(0)), g, nan));
}

// ln(x + offset) at m; 0 elsewhere.
template <class T>
INLINE Vec<T> log_of(const Vec<T>& given, const Mask<T>& m, const Domain& d) {
    Vec<T> x = select(m, given, all(T(1)));
    if (d.has_floor) {
        const Vec<T> low = all(T(d.floor));
        x = finite_or_nan(x);
        x = select(x < low, low, x);
    }
    return select(m, log(x + all(T(d.log))));
}

// The quantity of the structure terms. Of a logarithm that is not aligned p is the residual and g is 0.
template <class T>
void convert_line(const Plan& plan, int64_t w, LineBuffers<T>& to, Line<T>& line) {
    const Domain domain = plan.structure;  // Local copy: stores cannot alias it.
    const auto each = [&](const auto& then) __attribute__((always_inline)) {
        for (int64_t x = 0; x < w; x += LANES) {
            const Mask<T> m = mask_of<T>(line.m->at(x)), on = m | mask_of<T>(line.m_abs->at(x));
            Vec<T> p = to_domain(load(line.p.at(x)), on, domain),
                   g = to_domain(load(line.g.at(x)), on, domain);
            then(p, g, m);
            store(to.p_d + x, p);
            store(to.g_d + x, g);
        }
    };
    if (!domain.has_log)
        each([](Vec<T>&, Vec<T>&, const Mask<T>&) {});
    else if (plan.alignment == ALIGN_NONE)
        each([&](Vec<T>& p, Vec<T>& g, const Mask<T>& m) {
            p = select(m, log_ratio(p, g, m, domain)), g = all(T(0));
        });
    else
        each([&](Vec<T>& p, Vec<T>& g, const Mask<T>& m) {
            p = log_of(p, m, domain), g = log_of(g, m, domain);
        });
    line.converted_p.padded(to.p_d);
    line.converted_g.padded(to.g_d);
    line.p_d = &line.converted_p, line.g_d = &line.converted_g;
}

// A confidence as the terms take it: at least 1e-6; 1 at other pixels than m.
template <class T>
INLINE Vec<T> floored(const Vec<T>& c, const Mask<T>& m) {
    const Vec<T> floor = all(T(1e-6)), x = select(m, c, all(T(1)));
    return select(x < floor, floor, x);
}

// The weights of a line: a pixel of weight 0 becomes invalid, a negative weight NaN.
template <class T>
void weigh_line(const Work& work, int64_t b, int64_t y, LineBuffers<T>& to, Line<T>& line) {
    const Call& call = *work.call;
    const int64_t w = call.W;
    const bool given = call.weight.dtype != NONE, confident = work.plan->confident,
               apart = line.m_abs != line.m;
    Row<T> weights;
    if (given) read(call.weight, b, y, w, to.weight, weights);
    if (confident) read(call.confidence, b, y, w, to.c, line.c);
    const Vec<T> zero = all(T(0)), one = all(T(1)), nan = all(T(__builtin_nan("")));
    for (int64_t x = 0; x < w; x += LANES) {
        Mask<T> on = mask_of<T>(line.m->at(x)) | mask_of<T>(line.m_abs->at(x));
        Vec<T> weight = one;
        if (given) {
            const Vec<T> raw = load(weights.at(x));
            const Mask<T> counts = raw != zero;
            const Bytes some = bytes_of(counts) & all_bytes(1);
            store_as<Bytes>(to.valid + x, nonzero(line.m->at(x)) & some);
            if (apart) store_as<Bytes>(to.m_abs + x, nonzero(line.m_abs->at(x)) & some);
            weight = select(raw >= zero, raw, nan);
            on = on & counts;
        }
        store(to.weight + x, select(on, weight));
        if (confident) store(to.sure + x, select(on, weight * floored(load(line.c.at(x)), on)));
    }
    line.weight.padded(to.weight), line.sure.padded(to.sure);
    if (!given) return;
    line.valid.padded(to.valid);
    if (apart) line.given_abs.padded(to.m_abs);
}

// What a value at the pixels m counts in a sum: itself, or as much as its weight says.
struct Alike {
    template <class T>
    INLINE Vec<T> operator()(int64_t, const Mask<T>&, const Vec<T>& value) const {
        return value;
    }
};
template <class T>
struct Weighed {
    const T* weight;
    INLINE Vec<T> operator()(int64_t x, const Mask<T>& m, const Vec<T>& value) const {
        return select(m, value * load(weight + x));
    }
};

// Inputs only, without the quantity of the structure terms.
template <class T>
INLINE void read_given(const Work& work, int64_t b, int64_t y, LineBuffers<T>& to, Line<T>& line) {
    const Call& call = *work.call;
    const Plan& plan = *work.plan;
    const int64_t w = call.W;
    read(call.pred, b, y, w, to.p, line.p);
    read(call.gt, b, y, w, to.g, line.g);
    const Row<T>* positive = plan.positive_gt ? &line.g : nullptr;
    read_mask(call.mask, b, y, w, positive, to.valid, line.valid);
    line.m = line.m_abs = &line.valid;
    line.p_d = &line.p, line.g_d = &line.g;
    if (plan.all_pixels) {
        line.ones.padded(to.ones);
        line.m = &line.ones;
    }
    if (call.abs_mask.dtype != NONE) {
        read_mask(call.abs_mask, b, y, w, positive, to.m_abs, line.given_abs);
        line.m_abs = &line.given_abs;
    }
    if (to.weight) weigh_line(work, b, y, to, line);
}
template <class T>
INLINE void read_line(const Work& work, int64_t b, int64_t y, LineBuffers<T>& to, Line<T>& line) {
    read_given(work, b, y, to, line);
    if (!as_given(work.plan->structure)) convert_line(*work.plan, work.call->W, to, line);
}

}  // namespace DL_ISA
