// Phase 5, the backward: from the codes to the gradient of every pixel.
//
//     u = w_R sign(r) + a_mask sum_k kappa_k D_k^T(a_k / pixels);
//     dL/dd = (u - m/n (U0 + (sign(dev) - q) U1))/S + w_A sign(p - g);   dL/dp = grad_output (dd/dp dL/dd +
//     ...);   with weights all but the adjoint of the gradient term is multiplied by w, and n is sum w m
//
// Reads the codes (2.41 bytes/pixel), p for a converted domain, and p, g, m for terms other than L1, w and c.
// Saves nothing.
#pragma once
#include <type_traits>

#include "again.hpp"
#include "codes.hpp"

namespace DL_ISA {

// The contribution of the coarse levels to the pixels of a row.
template <class T>
struct CoarseRows {
    const Work& work;
    const Plan& plan;
    const int64_t b;
    const double* kappa;  // of the image
    const double scale;
    const int64_t w;
    T *extra, *zeros, *cell[LEVELS];
    bool any = false, nested;

    CoarseRows(const Work& work_, int64_t b_, const double* of_image, Arena& arena)
        : work(work_),
          plan(*work_.plan),
          b(b_),
          kappa(of_image + LEVEL_WEIGHT),
          scale(of_image[SCALE]),
          w(work_.call->W),
          extra(arena.row<T>()),
          zeros(arena.row<T>()) {
        for (int k = 1; k < plan.levels; k++) {
            cell[k] = arena.row<T>();
            any = any || on(k);
        }
        for (int64_t x = 0; x < blocks(w); x++) extra[x] = zeros[x] = 0;
        nested = plan.downsample == AVERAGE || plan.downsample == STRIDED ||
                 (plan.downsample == NEAREST && plan.levels > 0 && nests(*work.call, plan.levels - 1));
    }
    bool on(int k) const { return work.layout->active[k] && kappa[k] != 0; }

    // kappa_k a / pixels of one row of cells, times the scale of the image.
    void cells(int k, int64_t row) {
        const int64_t n = work.layout->w[k];
        const double unit = plan.downsample == BILINEAR  ? 4
                            : plan.downsample == AVERAGE ? double(int64_t(1) << (2 * k))
                                                         : 1;
        const T weight = static_cast<T>(kappa[k] * scale), share = static_cast<T>(kappa[k] * scale / unit);
        T* __restrict__ to = cell[k];
        const bool support = plan.gradient_mask == SUPPORT;
        with_cells(cell_codes(work, b, k), k, row, n, [&](const auto* p) __attribute__((always_inline)) {
            if (support)
                for (int64_t j = 0; j < n; j++)
                    to[j] =
                        weight * static_cast<T>(unpack_adjoint(p[j])) / static_cast<T>(unpack_count(p[j]));
            else
                for (int64_t j = 0; j < n; j++) to[j] = share * static_cast<T>(unpack_adjoint(p[j]));
        });
    }

    // The contribution to row y, in whole blocks; rows come in order, starting at a multiple of BAND.
    const T* row(int64_t y) {
        if (!any) return zeros;
        if (nested) return nest(y);
        if (plan.downsample == BILINEAR) return middle(y);
        for (int64_t x = 0; x < w; x++) extra[x] = 0;
        for (int k = 1; k < plan.levels; k++) {
            if (!on(k)) continue;
            const int64_t H = work.call->H, h_k = work.layout->h[k], w_k = work.layout->w[k],
                          row = (y * h_k + H - 1) / H;
            if (row >= h_k || row * H / h_k != y) continue;
            cells(k, row);
            for (int64_t j = 0; j < w_k; j++) extra[work.columns[k][j]] += cell[k][j];
        }
        return extra;
    }

    // A bilinear cell contributes to the two columns and two rows in its middle; at level 1 that is all of
    // it.
    const T* middle(int64_t y) {
        int64_t done = 0;
        for (int k = 1; k < plan.levels; k++) {
            const int64_t f = int64_t(1) << k, o = f / 2 - 1, phase = y & (f - 1), row = y >> k,
                          w_k = work.layout->w[k];
            const bool gives = on(k) && row < work.layout->h[k] && (phase == o || phase == o + 1);
            if (gives && phase == o) cells(k, row);
            if (k == 1) {
                if (gives) spread(cell[1], w_k, extra, false, true), done = 2 * w_k;
                for (int64_t x = done; x < w; x++) extra[x] = 0;
            } else if (gives && k == 2)
                add_to_middle<4>(cell[k], w_k, extra);
            else if (gives)
                for (int64_t j = 0; j < w_k; j++) {
                    extra[j * f + o] += cell[k][j];
                    extra[j * f + o + 1] += cell[k][j];
                }
        }
        return extra;
    }

    // To the middle two of each F columns; the others get 0, so that the loop vectorises.
    template <int F>
    static void add_to_middle(const T* __restrict__ from, int64_t n, T* __restrict__ to) {
        for (int64_t j = 0; j < n; j++)
            for (int i = 0; i < F; i++) to[j * F + i] += i == F / 2 - 1 || i == F / 2 ? from[j] : T(0);
    }

    // Cells of cells: a level's row is made where it begins, with the coarser ones added. A cell of an
    // average gives to both columns and both rows, one of nearest to the first.
    const T* nest(int64_t y) {
        const bool both = plan.downsample == AVERAGE;
        if (y & 1) return both ? extra : zeros;
        for (int k = plan.levels - 1; k >= 1; k--) {
            const int64_t f = int64_t(1) << k, row = y >> k, w_k = work.layout->w[k];
            if (y & (f - 1)) continue;
            const bool here = on(k) && row < work.layout->h[k];
            if (here)
                cells(k, row);
            else
                for (int64_t j = 0; j < w_k; j++) cell[k][j] = 0;
            const bool begins = both || !(y & (2 * f - 1));
            if (begins && k + 1 < plan.levels && (row >> 1) < work.layout->h[k + 1])
                spread(cell[k + 1], work.layout->w[k + 1], cell[k], true, both);
        }
        for (int64_t x = 2 * work.layout->w[1]; x < w; x++) extra[x] = 0;
        spread(cell[1], work.layout->w[1], extra, false, both);
        return extra;
    }
    static void spread(const T* __restrict__ from, int64_t n, T* __restrict__ to, bool onto, bool both) {
        const auto each = [&](bool second) __attribute__((always_inline)) {
            if (onto)
                for (int64_t j = 0; j < n; j++) {
                    to[2 * j] += from[j];
                    to[2 * j + 1] += second ? from[j] : T(0);
                }
            else
                for (int64_t j = 0; j < n; j++) to[2 * j] = from[j], to[2 * j + 1] = second ? from[j] : T(0);
        };
        if (both)
            each(true);
        else
            each(false);
    }
};

// Multiplies a row by the weights of its pixels; what is 0 stays so.
template <class T>
void weigh_row(T* row, const Line<T>& line, int64_t w) {
    for (int64_t x = 0; x < w; x += LANES) {
        const Vec<T> d = load(row + x);
        store(row + x, select(d != all(T(0)), d * load(line.weight.main + x)));
    }
}

template <class T>
INLINE void put(void* data, int dtype, int64_t o, T x) {
    if (dtype == FLOAT32)
        static_cast<float*>(data)[o] = static_cast<float>(x);
    else if (dtype == FLOAT64)
        static_cast<double*>(data)[o] = static_cast<double>(x);
    else if (dtype == FLOAT16)
        static_cast<uint16_t*>(data)[o] = to_half(static_cast<float>(x));
    else
        static_cast<uint16_t*>(data)[o] = to_bfloat(static_cast<float>(x));
}

// Writes row y of a map.
template <class T>
void put_row(const Map& map, int64_t b, int64_t y, int64_t w, const T* row) {
    const int64_t o = b * map.stride[0] + y * map.stride[1];
    if (map.dtype == own_dtype<T>() && map.stride[2] == 1)
        memcpy(static_cast<T*>(map.data) + o, row, sizeof(T) * static_cast<size_t>(w));
    else
        for (int64_t x = 0; x < w; x++) put(map.data, map.dtype, o + x * map.stride[2], row[x]);
}

// What the codes of an aligned residual do not say: of a fit BY_P (p - mu_p) + BY_G (g - mu_g), of a penalty
// other than L1, or with a confidence, its slope; adds to dL/dc, if `of_c` is not null.
template <class T>
void fit_row(const Plan& plan, const double* c, const Line<T>& line, int64_t w, T* to, T* of_c) {
    const Fit<T> fit(c);
    const Trim<T> trim(plan.relative.trim > 0, c[TAU], c[SHARE]);
    const Vec<T> by_p = all(T(c[BY_P])), by_g = all(T(c[BY_G])), by = all(T(c[REL_WEIGHT] * c[SCALE])),
                 zero = all(T(0));
    const Numbers<T> numbers{static_cast<T>(plan.relative.a), static_cast<T>(plan.relative.b), T(0)};
    const bool linear = c[BY_P] != 0 || c[BY_G] != 0, aligned = plan.alignment != ALIGN_NONE;
    for (int64_t x = 0; x < w; x += LANES) {
        const Vec<T> d =
            (load(line.p_d->at(x)) - fit.mu_p) * by_p + (load(line.g_d->at(x)) - fit.mu_g) * by_g;
        store(to + x, linear ? select(mask_of<T>(line.m->at(x)), d) : zero);
    }
    if (!plan.has_relative || c[REL_WEIGHT] == 0) return;
    const OfConfidence<T> of_confidence(plan.relative, c[REL_WEIGHT]);
    with_penalty(plan.relative.penalty, [&](auto kind) {
        const auto each = [&](auto confident_) __attribute__((always_inline)) {
            for (int64_t x = 0; x < w; x += LANES) {
                const Mask<T> m = mask_of<T>(line.m->at(x));
                const Vec<T> p = load(line.p_d->at(x)), g = load(line.g_d->at(x)),
                             r = select(m, aligned ? fit.residual(p, g) : p - g);
                const Cost<T> cost = decltype(kind)::of(Given<T>{r, r, zero, m}, numbers);
                if constexpr (decltype(confident_)::value) {
                    const Vec<T> given = load(line.c.at(x));
                    store(to + x, load(to + x) + select(m, cost.slope * (floored(given, m) * by)));
                    if (of_c) of_confidence.add(of_c + x, cost.phi, given, m);
                } else {
                    const auto part = trim.of(r, m);
                    store(to + x, load(to + x) + select(part.kept, cost.slope * (part.weight * by)));
                }
            }
        };
        if (plan.relative.confident)
            each(std::true_type());
        else if constexpr (!std::is_same<decltype(kind), L1>::value)
            each(std::false_type());
    });
}

// Bytes. A larger gradient would leave the cache before it is read, and evict other data.
constexpr int64_t KEPT_IN_CACHE = 8 << 20;

template <class T>
void gradient(const Work& work, int64_t b, int band, char* memory) {
    const Call& call = *work.call;
    const Plan& plan = *work.plan;
    const int64_t w = call.W;
    const auto [y0, y1] = BandRows(band, call.H);
    const double* c = call.coefficients + HEAD + b * COEFFICIENTS;
    Arena arena = arena_of<T>(memory, w);
    LineBuffers<T> buffers(arena, work);
    Line<T> line;
    CoarseRows<T> coarse(work, b, c, arena);
    T *out = arena.row<T>(), *of_c = call.grad_confidence.dtype != NONE ? arena.row<T>() : nullptr;
    AgainRow<T> again(plan, c, call.coefficients + LARGEST, w, arena, of_c);
    uint8_t* code_tail = arena.row<uint8_t>();
    int8_t* adjoint_tail = arena.row<int8_t>();
    const bool has_structure = plan.codes, reads_again = plan.moments || plan.pixels;
    const bool converts = has_structure && !as_given(plan.structure);
    const bool fitted = has_structure && !plan.of_signs, trimmed = has_structure && plan.relative.trim > 0;
    const int reads = plan.gradient_mask == CENTRE && as_given(plan.structure) ? READ_BIT : VALID_BIT;
    const bool sobel = plan.has_gradient && work.layout->active[0];
    const uint8_t* codes = pixel_codes(work, b);
    const int8_t* adjoints = adjoint_codes(work, b);
    T* of_fit = arena.row<T>();
    const bool weighted = weighs(plan, call);
    const Vec<T> kappa = all(T(c[LEVEL_WEIGHT] * c[SCALE])),
                 upstream = all(T(call.grad_output[plan.by_image ? b : 0])), zero = all(T(0));
    enum Terms { ANY, WEIGHTED, PLAIN, CONVERTED, AGAIN };
    const std::integral_constant<int, ANY> any;
    const std::integral_constant<int, WEIGHTED> any_weighted;
    const std::integral_constant<int, AGAIN> only_again;
    const std::true_type yes;
    const std::false_type no;
    bool is_l1 = false;
    with_penalty(plan.relative.penalty, [&](auto kind) { is_l1 = std::is_same<decltype(kind), L1>::value; });
    const Domain domain = plan.structure;  // of its own: what is stored may be anywhere, but not in here
    const Fold<T> fold(c, plan.alignment != ALIGN_NONE, !fitted || (is_l1 && !plan.relative.confident));
    const bool in_place = call.grad.dtype == own_dtype<T>() && call.grad.stride[2] == 1;
    const bool large = in_place && call.B * call.H * w * static_cast<int64_t>(sizeof(T)) > KEPT_IN_CACHE;
    for (int64_t y = y0; y < y1; y++) {
        if (fitted)
            read_line(work, b, y, buffers, line);
        else if (reads_again || weighted)
            read_given(work, b, y, buffers, line);
        if (of_c) memset(of_c, 0, sizeof(T) * static_cast<size_t>(blocks(w)));
        if (fitted) fit_row(plan, c, line, w, of_fit, of_c);
        if (reads_again) {
            again.make(line);
            if (weighted) weigh_row(again.row, line, w);
        } else if (converts && !fitted)
            read(call.pred, b, y, w, buffers.p, line.p);
        const T* given = converts ? line.p.main : nullptr;  // as far as whole blocks go
        const T* extra = sobel ? coarse.row(y) : nullptr;
        const int64_t o_out = b * call.grad.stride[0] + y * call.grad.stride[1];
        T* to = in_place ? static_cast<T*>(call.grad.data) + o_out : out;
        // Separate instantiations for a loss of only these terms and whole blocks, on the input as it is or
        // CONVERTED: no branches in the loop.
        const auto block = [&](int64_t x, auto terms_, auto partial_,
                               auto past_) __attribute__((always_inline)) {
            constexpr int terms = decltype(terms_)::value;
            constexpr bool simple = terms == PLAIN || terms == CONVERTED, partial = decltype(partial_)::value,
                           past = decltype(past_)::value;
            constexpr bool by_weight = terms == WEIGHTED;
            Vec<T> total = zero;
            if (terms != AGAIN && (simple || has_structure)) {
                const uint8_t* code = codes + y * w + x;
                if (partial) {
                    memset(code_tail, NO_SIGN, LANES);
                    memcpy(code_tail, code, static_cast<size_t>(w - x));
                    code = code_tail;
                }
                const Bytes field = load_as<Bytes>(code);
                total = fold.of(field);
                if (by_weight) {
                    if (trimmed) total = total + fold.tie(code);
                    if (fitted) total = total + load(of_fit + x);
                    total = select(total != zero, total * load(line.weight.main + x));
                }
                if (simple || sobel) {
                    const int8_t* a = adjoints + y * w + x;
                    if (partial) {
                        memcpy(adjoint_tail, a, static_cast<size_t>(w - x));
                        a = adjoint_tail;
                    }
                    const Vec<T> u = converted<T>(from_signs<Int<T>>(a)) * kappa + load(extra + x);
                    total = total + select(mask_of<T>(code, reads), u);
                }
                if (!simple && !by_weight && trimmed) total = total + fold.tie(code);
                if (!simple && !by_weight && fitted) total = total + load(of_fit + x);
                if (simple ? terms == CONVERTED : converts) {
                    // Selected, not multiplied: the slope of a pixel that no term reads may be NaN.
                    const Mask<T> some = touched<T>(field);
                    const Vec<T> p = load(simple ? given + x : line.p.at(x));
                    total = select(total != zero,
                                   !simple && domain.has_log
                                       ? through<true>(total, p, to_domain(p, some, domain), some, domain)
                                       : total * slope(p, some, domain));
                }
            }
            if (terms == AGAIN)
                total = load(again.row + x);
            else if (!simple && reads_again)
                total = total + load(again.row + x);
            total = total * upstream;
            if (past)
                stream(to + x, total);
            else if (!partial || !in_place)
                store(to + x, total);
            else {
                T lanes[LANES];
                store(lanes, total);
                memcpy(to + x, lanes, sizeof(T) * static_cast<size_t>(w - x));
            }
        };
        const int64_t whole = w / LANES * LANES;
        const auto row_of = [&](auto terms, auto past) __attribute__((always_inline)) {
            for (int64_t x = 0; x < whole; x += LANES) block(x, terms, no, past);
        };
        const bool aligned = large && reinterpret_cast<uintptr_t>(to) % REGISTER == 0;
        if (!has_structure && aligned)
            row_of(only_again, yes);
        else if (!has_structure)
            row_of(only_again, no);
        else if (weighted)
            row_of(any_weighted, no);
        else if (!sobel || reads_again || fitted || trimmed || domain.has_log)
            row_of(any, no);
        else if (converts)
            row_of(std::integral_constant<int, CONVERTED>(), no);
        else if (aligned)
            row_of(std::integral_constant<int, PLAIN>(), yes);
        else
            row_of(std::integral_constant<int, PLAIN>(), no);
        if (whole < w) weighted ? block(whole, any_weighted, yes, no) : block(whole, any, yes, no);
        if (!in_place && call.grad.dtype != NONE) put_row(call.grad, b, y, w, out);
        if (!of_c) continue;
        weigh_row(of_c, line, w);
        for (int64_t x = 0; x < w; x += LANES) store(of_c + x, load(of_c + x) * upstream);
        put_row(call.grad_confidence, b, y, w, of_c);
    }
    if (large) fence();
}

}  // namespace DL_ISA
