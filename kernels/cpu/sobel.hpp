// Phase 3: the residual, its codes, the Sobel responses of every level and their adjoint, in one pass over
// rows.
//
//     r = (p - mu_p)/S_p - (g - mu_g)/S_g;  sx, sy = signs of the kept responses;  a = Sx^T sx + Sy^T sy
//     U1_k = sum a D_k(a_mask (p - mu_p)),  U0_k = sum a (pixels that the cell samples)
//
// Saves per pixel one byte of signs and one of a (|a| <= 16), per coarse cell a and the count: 2.41
// bytes/pixel.
#pragma once
#include "codes.hpp"
#include "forward.hpp"
#include "pyramid.hpp"
#include "residual.hpp"

namespace DL_ISA {

// The signs of one row of responses and their sums along x, with a margin for the fold of the border.
struct SignRow {
    int8_t *x, *y, *difference, *smooth;
    explicit SignRow(Arena& arena)
        : x(arena.row<int8_t>()),
          y(arena.row<int8_t>()),
          difference(arena.row<int8_t>()),
          smooth(arena.row<int8_t>()) {}
};

// [1 2 1] and [-1 0 1] along x. gy is the difference of two rows of the first, gx the sum [1 2 1] of three
// rows of the second. Rows need one valid element before and after them.
template <class T>
struct Across {
    T *smooth, *slope;
    explicit Across(Arena& arena) : smooth(arena.row<T>()), slope(arena.row<T>()) {}
    explicit Across(T* zeros) : smooth(zeros), slope(zeros) {}  // of a row of zeros
};
static_assert(MARGIN > 0 && EDGE > 0, "margins of a number");
template <class T>
INLINE Vec<T> one_two_one(const Vec<T>& a, const Vec<T>& b, const Vec<T>& c) {
    return (a + c) + (b + b);  // Not contracted: 2 b may overflow.
}
template <class T>
INLINE std::pair<Vec<T>, Vec<T>> across(const T* r) {
    const Vec<T> left = load_once(r - 1), right = load_once(r + 1);
    return {one_two_one(left, load(r), right), right - left};
}
template <class T>
void across(const T* r, const Across<T>& to, int64_t w) {
    for (int64_t x = 0; x < w; x += LANES) {
        const auto [smooth, slope] = across(r + x);
        store(to.smooth + x, smooth), store(to.slope + x, slope);
    }
}

// Signs and absolute sum of the responses that `keep` (0 or -1, whole blocks) selects, of the row above r;
// makes `below` of r, which may lie where `above` does.
template <class T>
void respond(const T* r, const Across<T> above, const Across<T> here, const Across<T> below,
             const int8_t* keep, int8_t* sx, int8_t* sy, int64_t w, Total<T>& response, int64_t& kept) {
    for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w)) {
        Vec<T> total = all(T(0));
        Bytes n{};
        for (int64_t x = o; x < end; x += LANES) {
            const auto [smooth, slope] = across(r + x);
            const Vec<T> gx = one_two_one(load(above.slope + x), load(here.slope + x), slope),
                         gy = smooth - load(above.smooth + x);
            store(below.smooth + x, smooth), store(below.slope + x, slope);
            total = total + select(mask_of<T>(keep + x), abs(gx) + abs(gy));
            n -= load_as<Bytes>(keep + x);
            store_signs(sx + x, sy + x, gx, gy, keep + x);
        }
        kept += sum(n);
        response.add(total);
    }
}

// The two sums along x of which the adjoint is made; beyond the border lies what folds back. Works on whole
// registers of a thread's own rows.
static_assert(MARGIN % REGISTER == 0, "rows of whole registers");
inline void along_x(const SignRow& row, int64_t w, bool replicate) {
    row.x[-1] = static_cast<int8_t>(replicate ? -row.x[0] : 0);
    row.x[w] = static_cast<int8_t>(replicate ? -row.x[w - 1] : 0);
    set_margin(row.y, w, replicate);
    const SignRow to = row;  // What is stored may be anywhere, but not in here.
    for (int64_t i = 0; i < w; i += REGISTER) {
        const Wide y = load_as<Wide>(to.y + i);
        store_as<Wide>(to.difference + i, load_as<Wide>(to.x + i - 1) - load_as<Wide>(to.x + i + 1));
        store_as<Wide>(to.smooth + i, (load_as<Wide>(to.y + i - 1) + load_as<Wide>(to.y + i + 1)) + (y + y));
    }
}

inline void adjoint_row(const SignRow up, const SignRow here, const SignRow down, int8_t* out, int64_t w) {
    for (int64_t i = 0; i < w; i += REGISTER) {
        const Wide d = load_as<Wide>(here.difference + i);
        store_as<Wide>(out + i, (load_as<Wide>(up.difference + i) + load_as<Wide>(down.difference + i)) +
                                    (d + d) +
                                    (load_as<Wide>(up.smooth + i) - load_as<Wide>(down.smooth + i)));
    }
    memset(out + w, 0, static_cast<size_t>(-w & (REGISTER - 1)));
}

// Which responses of row y count, by its row of coverage (support: all nine cells) or of half valid cells
// (centre) and those beside it, which have room for a V before and behind them.
template <class V>
void keep_row(const uint8_t* c0, const uint8_t* c1, const uint8_t* c2, int8_t* out, const Plan& plan,
              int64_t y, int64_t w, int64_t h) {
    const auto each = [&](auto covered) __attribute__((always_inline)) {
        for (int64_t i = 0; i < w; i += static_cast<int64_t>(sizeof(V)))
            store_as<V>(out + i, V{} - covered(i));
    };
    const auto here = [&](int64_t x) __attribute__((always_inline)) { return load_as<V>(c1 + x); };
    const auto column = [&](int64_t x) __attribute__((always_inline)) {
        return load_as<V>(c0 + x) & here(x) & load_as<V>(c2 + x);
    };
    const bool outside = plan.border == VALID && (y == 0 || y == h - 1);
    if (outside)
        memset(out, 0, static_cast<size_t>(w));
    else if (plan.gradient_mask == SUPPORT)
        each([&](int64_t i)
                 __attribute__((always_inline)) { return column(i - 1) & column(i) & column(i + 1); });
    else if (plan.gradient_mask == CENTRE)
        each(here);
    else
        memset(out, -1, static_cast<size_t>(w));
    clear_end(out, w);
    if (plan.border == VALID) out[0] = out[w - 1] = 0;
}

// One level of an image, row by row. `Source` gives, at row y (all with margins):
//   residual(y), cover(y): coverage or half-validity, with room for a Covered at both ends; centred(y);
//   sampled(y): the pixels that a cell samples; ready(y) makes rows up to y; store(y, a) takes the adjoint.
template <class T, class Source>
void sobel_rows(Source& source, const Plan& plan, int64_t y0, int64_t y1, int64_t h, int64_t w, Arena& arena,
                LevelBand& out) {
    const bool replicate = plan.border == REPLICATE, counts = plan.gradient_mask != SUPPORT;
    SignRow signs[3] = {SignRow(arena), SignRow(arena), SignRow(arena)};
    SignRow beyond(arena);
    T* none = arena.row<T>();
    const Across<T> rows[2] = {Across<T>(arena), Across<T>(arena)}, nothing(none);
    uint8_t* uncovered = arena.row<uint8_t>();
    int8_t *keep = arena.row<int8_t>(), *adjoint = arena.row<int8_t>();
    for (int64_t x = -MARGIN; x < blocks(w) + MARGIN; x++) none[x] = T(0), uncovered[x] = 0;
    memset(adjoint, 0, static_cast<size_t>(blocks(w)));
    const int64_t first = y0 > 0 ? y0 - 1 : 0, last = y1 < h ? y1 : h - 1;
    const SignRow *above = nullptr, *here = nullptr;
    Total<T> response, ignored, u_z;
    int64_t u_one = 0;
    int64_t ignored_kept = 0;
    source.ready(first);
    for (int64_t y = first > 0 ? first - 1 : 0; y <= first; y++) across(source.residual(y), rows[y % 2], w);
    for (int64_t y = first; y <= last + 1; y++) {
        const SignRow* below = nullptr;
        if (y <= last) {
            const int64_t next = y + 1 < h ? y + 1 : h - 1;
            source.ready(next);
            const T* r = y + 1 < h ? source.residual(y + 1) : replicate ? source.residual(y) : none;
            const uint8_t* c1 = source.cover(y);
            const uint8_t* c0 = y > 0 ? source.cover(y - 1) : replicate ? c1 : uncovered;
            const uint8_t* c2 = y + 1 < h ? source.cover(y + 1) : replicate ? c1 : uncovered;
            keep_row<typename Source::Covered>(c0, c1, c2, keep, plan, y, w, h);
            const SignRow& row = signs[y % 3];
            const Across<T>& r_above = y > 0 ? rows[(y + 1) % 2] : replicate ? rows[0] : nothing;
            const bool own = y >= y0 && y < y1;
            respond(r, r_above, rows[y % 2], rows[(y + 1) % 2], keep, row.x, row.y, w,
                    own ? response : ignored, own ? out.kept : ignored_kept);
            along_x(row, w, replicate);
            below = &row;
        }
        const int64_t centre = y - 1;
        if (centre >= y0 && centre < y1) {
            // Rows outside the image: zero, or the fold of a replicated row.
            const auto edge = [&](const SignRow& row) -> const SignRow* {
                for (int64_t x = 0; x < w; x++) {
                    beyond.difference[x] = replicate ? row.difference[x] : int8_t(0);
                    beyond.smooth[x] = static_cast<int8_t>(replicate ? -row.smooth[x] : 0);
                }
                return &beyond;
            };
            // An image of one row has both edges; they cancel in what `smooth` adds and double `difference`.
            const SignRow* up = above;
            const SignRow* down = below;
            if (!up) up = edge(*here);
            if (!down) down = edge(*here);
            adjoint_row(*up, *here, *down, adjoint, w);
            const T* centred = source.centred(centre);
            for (int64_t o = 0, end = piece_end(0, w); centred && o < w; o = end, end = piece_end(o, w)) {
                // Two accumulators hide the add latency.
                const auto product = [&](int64_t x) __attribute__((always_inline)) {
                    return converted<T>(from_signs<Int<T>>(adjoint + x)) * load(centred + x);
                };
                Vec<T> even = all(T(0)), odd = even;
                int64_t x = o;
                for (; x + LANES < end; x += 2 * LANES)
                    even = even + product(x), odd = odd + product(x + LANES);
                if (x < end) even = even + product(x);
                u_z.add(even + odd);
            }
            if (centred && counts) u_one += sum_of_products(adjoint, source.sampled(centre), w);
            source.store(centre, adjoint);
        }
        above = here;
        here = below;
    }
    out.response = response, out.u_z = u_z, out.u_one = u_one;
}

// Level 0 of a band: computes the residual of a row on demand, with its codes and the cells of the coarse
// levels inside the band.
template <class T>
struct FullResolution {
    static constexpr int SLOTS = 3;  // rows around the one whose adjoint is made; of the residual two do
    using Covered = Wide;
    const Work& work;
    const Call& call;
    const Plan& plan;
    const Image& image;
    const int64_t b, y0, y1, w;
    LineBuffers<T> buffers;
    Line<T> line;
    T *r[2], *z[SLOTS];
    uint8_t *cover_[SLOTS], *read_[SLOTS];  // which pixels are valid, and which are read: may be one row
    uint8_t* code_buffer;
    int64_t done;
    Band& out;
    uint8_t* codes;
    int8_t* saved;
    Cells<T> cells;
    Total<T> relative_, plain_, sign_dev_r, slope_, slope_dev, visible;
    double logarithms = 0;
    const bool weighed;  // of the relative term more than signs and |r| counts

    FullResolution(const Work& work_, int64_t b_, int64_t first, int64_t end, Arena& arena)
        : work(work_),
          call(*work_.call),
          plan(*work_.plan),
          image(work_.images[b_]),
          b(b_),
          y0(first),
          y1(end),
          w(call.W),
          buffers(arena, work_),
          out(work_.bands[b_ * work_.bands_per_image + first / BAND]),
          cells(work_, b_, static_cast<int>(first / BAND), arena),
          weighed(plan.has_relative &&
                  (!plan.of_signs || plan.relative.trim > 0 || weighs(plan, *work_.call))) {
        for (auto& row : r) row = arena.row<T>();
        for (int i = 0; i < SLOTS; i++) {
            z[i] = arena.row<T>();
            cover_[i] = arena.row<uint8_t>();
            read_[i] = plan.gradient_mask == CENTRE ? arena.row<uint8_t>() : cover_[i];
            // Read by `sum_of_products` past the last block.
            memset(read_[i] + blocks(w), 0, LANES);
        }
        code_buffer = arena.row<uint8_t>();
        done = (y0 > 2 ? y0 - 2 : 0) - 1;
        codes = call.saves ? pixel_codes(work, b) : nullptr;
        saved = call.saves ? adjoint_codes(work, b) : nullptr;
    }
    PixelRow<T> pixels(int64_t y) const {
        const int64_t i = y % SLOTS;
        return {r[y % 2], z[i], cover_[i], read_[i]};
    }
    const T* residual(int64_t y) const { return r[y % 2]; }
    const uint8_t* cover(int64_t y) const { return cover_[y % SLOTS]; }
    const T* centred(int64_t y) const { return plan.alignment != ALIGN_NONE ? z[y % SLOTS] : nullptr; }
    const uint8_t* sampled(int64_t y) const { return read_[y % SLOTS]; }
    void store(int64_t y, const int8_t* a) const {
        if (saved) memcpy(saved + y * w, a, static_cast<size_t>(w));
    }
    void ready(int64_t y) {
        while (done < y) make(++done);
    }

    void make(int64_t y) {
        read_line(work, b, y, buffers, line);
        const bool own = y >= y0 && y < y1;
        const int slot = static_cast<int>(y % SLOTS);
        if (plan.gradient_mask != CENTRE)
            residual_row<VALID_ONES>(slot, y, own);
        else if (as_given(plan.structure))
            residual_row<FINITE_ONES>(slot, y, own);
        else
            residual_row<EVERY_ONE>(slot, y, own);
        if (own && weighed) weigh_row(slot, y);
        set_margin(r[y % 2], w, plan.border == REPLICATE);
        set_margin(cover_[slot], w, plan.border == REPLICATE);
        if (own && plan.has_gradient)
            for (int k = 1; k < plan.levels; k++)
                if (const int64_t row = cells.completes(k, y); row >= 0 && work.layout->active[k])
                    cells.pool(k, row, pixels(y > 0 ? y - 1 : 0), pixels(y));
    }

    // The relative term of a row that is there: penalty and trim, whose pixels keep their signs in the codes,
    // weights and confidence.
    void weigh_row(int slot, int64_t y) {
        if (!weighs(plan, call)) return weigh_row(slot, y, Alike(), Alike());
        const Weighed<T> weigh{line.weight.main}, sure{line.sure.main};
        weigh_row(slot, y, weigh, plan.relative.confident ? sure : weigh);
        if (plan.relative.confident) logarithms += minus_logarithms(plan.relative, line, *line.m, w);
    }

    // `sure`: what a pixel counts in the loss, `weigh`: in the plain sum.
    template <class Weigh>
    void weigh_row(int slot, int64_t y, const Weigh& weigh, const Weigh& sure) {
        const T *row = r[y % 2], *dev = z[slot];
        const uint8_t* on = cover_[slot];
        uint8_t* code = codes ? codes + y * w : nullptr;
        const Trim<T> trim(plan.relative.trim > 0, image.tau, image.share);
        const bool centred = plan.alignment != ALIGN_NONE;
        const Numbers<T> numbers{static_cast<T>(plan.relative.a), static_cast<T>(plan.relative.b), T(0)};
        const Vec<T> zero = all(T(0));
        with_penalty(plan.relative.penalty, [&](auto kind) {
            for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w)) {
                Vec<T> phi = zero, plain = zero, slope = zero, slope_z = zero, shown = zero;
                for (int64_t x = o; x < end; x += LANES) {
                    const Mask<T> m = mask_of<T>(on + x);
                    const Vec<T> here = select(m, load(row + x));
                    const auto part = trim.of(here, m);
                    const Cost<T> cost = decltype(kind)::of(Given<T>{here, here, zero, m}, numbers);
                    const Vec<T> by = sure(x, m, select(part.kept, cost.slope) * part.weight),
                                 size = select(part.kept, cost.phi) * part.weight;
                    phi = phi + sure(x, m, size);
                    if constexpr (!std::is_same<Weigh, Alike>::value) plain = plain + weigh(x, m, size);
                    slope = slope + by;
                    if (centred) slope_z = slope_z + select(part.kept, by * load(dev + x));
                    if (!trim.on) continue;
                    shown = shown + here;
                    if (code) mark(code, x, bytes_of(part.kept), bytes_of(part.tie));
                }
                relative_.add(phi);
                plain_.add(plain);
                slope_.add(slope);
                slope_dev.add(slope_z);
                visible.add(shown);
            }
        });
    }

    // The codes of a block that is trimmed, over those that it has; it may reach beyond the row.
    void mark(uint8_t* code, int64_t x, const Bytes& kept, const Bytes& tie) const {
        uint8_t block[LANES];
        const auto n = static_cast<size_t>(w - x < LANES ? w - x : LANES);
        memcpy(block, code + x, n);
        store_as<Bytes>(block, pack_trim(load_as<Bytes>(block), kept, tie));
        memcpy(code + x, block, n);
    }

    // Which pixels the Sobel filter reads: of mask centre also invalid ones, where they are finite; a
    // conversion makes an invalid pixel depth 0, valid for the absolute term or not.
    enum Reads { VALID_ONES, FINITE_ONES, EVERY_ONE };

    template <Reads READS>
    void residual_row(int slot, int64_t y, bool own) {
        if (!own)
            plan.alignment != ALIGN_NONE ? residual_row<READS, true, false>(slot, y)
                                         : residual_row<READS, false, false>(slot, y);
        else
            plan.alignment != ALIGN_NONE ? residual_row<READS, true, true>(slot, y)
                                         : residual_row<READS, false, true>(slot, y);
    }

    template <Reads READS, bool STANDARD, bool OWN>
    void residual_row(int slot, int64_t y) {
        const Fit<T> fit(image);
        const Vec<T> zero = all(T(0)), inf = all(T(__builtin_inf()));
        const Bytes one = all_bytes(1);
        T* __restrict__ to_r = r[y % 2], * __restrict__ to_z = z[slot];
        uint8_t* __restrict__ to_cover = cover_[slot], * __restrict__ to_read = read_[slot];
        // Whole blocks go straight into `codes`; the last one may reach beyond the row.
        uint8_t* to_code = codes ? codes + y * w : nullptr;
        for (int64_t o = 0, end = piece_end(0, w); o < w; o = end, end = piece_end(o, w)) {
            const uint8_t *on = line.m->at(o) - o, *on_abs = line.m_abs->at(o) - o;
            const T *p_d = line.p_d->at(o) - o, *g_d = line.g_d->at(o) - o;
            uint8_t* const code_row = !to_code || o + LANES <= w ? to_code : code_buffer - o;
            Vec<T> relative = zero, signed_dev = zero;
            Small<T> sum_r, sum_p;
            for (int64_t x = o; x < end; x += 64) ask<true>(on + x + AHEAD);
            for (int64_t x = o; x < end; x += LANES) {
                // A shorter prefetch distance: other data compete for the first-level cache here.
                ask<true>(p_d + x + AHEAD / 2);
                ask<true>(g_d + x + AHEAD / 2);
                const Mask<T> m = mask_of<T>(on + x);
                Vec<T> p = load(p_d + x), g = load(g_d + x);
                // Without mask registers, building a mask is slower than testing whether it is unchanged.
                const Sign<T> s_d(select(REGISTER < 64 && on == on_abs ? m : mask_of<T>(on_abs + x), p - g));
                Mask<T> keep = m;
                if (READS == FINITE_ONES) keep = m | ((abs(p) < inf) & (abs(g) < inf));
                if (READS == EVERY_ONE) p = select(m, p), g = select(m, g);
                const Vec<T> dev = p - fit.mu_p;
                const Vec<T> residual = STANDARD ? fit.of_centred(dev, g) : p - g;
                const Vec<T> valid_r = select(m, residual), valid_dev = select(m, dev);
                const auto read_of = [&](const Vec<T>& all_of,
                                         const Vec<T>& valid) __attribute__((always_inline)) {
                    return READS == VALID_ONES ? valid : READS == EVERY_ONE ? all_of : select(keep, all_of);
                };
                ::DL_ISA::store(to_r + x, read_of(residual, valid_r));
                if (STANDARD) ::DL_ISA::store(to_z + x, read_of(dev, valid_dev));
                const Bytes bytes_m = nonzero(on + x), bytes_keep = READS == VALID_ONES  ? bytes_m
                                                                    : READS == EVERY_ONE ? all_bytes(-1)
                                                                                         : bytes_of(keep);
                store_as<Bytes>(to_cover + x, bytes_m & one);
                if (STANDARD && READS != VALID_ONES) store_as<Bytes>(to_read + x, bytes_keep & one);
                if (!OWN) continue;
                const Sign<T> s_r(valid_r), s_p(valid_dev);
                relative = plus(relative, s_r, valid_r);
                signed_dev = plus(signed_dev, s_r, valid_dev);
                sum_r.add(s_r);
                sum_p.add(s_p);
                if (!to_code) continue;
                store_as<Bytes>(code_row + x,
                                pack<READS != VALID_ONES, T>(s_r, s_d, s_p, bytes_m, bytes_keep));
            }
            if (!OWN) continue;
            if (code_row != to_code) memcpy(to_code + o, code_buffer, static_cast<size_t>(w - o));
            if (!weighed) relative_.add(relative);
            sign_dev_r.add(signed_dev);
            out.sign_r += sum(sum_r);
            out.sign_p += sum(sum_p);
        }
        if (READS == VALID_ONES) return;
        clear_end(to_r, w);
        if (STANDARD) clear_end(to_z, w), clear_end(to_read, w);
    }
};

template <class T>
void structure(const Work& work, int64_t b, int band, char* memory) {
    const Plan& plan = *work.plan;
    const int64_t h = work.call->H, w = work.call->W;
    const auto [y0, y1] = BandRows(band, h);
    Arena arena = arena_of<T>(memory, w);
    FullResolution<T> source(work, b, y0, y1, arena);
    LevelBand& out = work.levels[b * LEVELS * work.bands_per_image + band];
    if (plan.has_gradient && work.layout->active[0] && plan.forward)
        forward_rows<T>(source, y0, y1, h, w, arena, out);
    else if (plan.has_gradient && work.layout->active[0])
        sobel_rows<T>(source, plan, y0, y1, h, w, arena, out);
    else {
        source.done = y0 - 1;
        source.ready(y1 - 1);
    }
    Band& sums = source.out;
    sums.relative = source.relative_ + 0 * source.visible + source.logarithms;
    sums.plain_r = source.plain_, sums.sign_dev_r = source.sign_dev_r;
    sums.slope = source.slope_, sums.slope_dev = source.slope_dev;
    source.cells.count();
    out.cells = static_cast<double>(work.bands[b * work.bands_per_image + band].n_all);
}

// A coarse level, from the maps of phase 3.
template <class T>
struct CoarseLevel {
    using Covered = Bytes;
    const Work& work;
    const Plan& plan;
    const Pyramid& maps;
    const int64_t b, w;
    const int k;
    uint8_t* saved;
    const T* residual(int64_t y) const { return static_cast<const T*>(maps.residual[k]) + maps.place(k, y); }
    const uint8_t* cover(int64_t y) const { return maps.half[k] + maps.place(k, y); }
    const T* centred(int64_t y) const {
        return plan.alignment != ALIGN_NONE ? static_cast<const T*>(maps.centred[k]) + maps.place(k, y)
                                            : nullptr;
    }
    const uint16_t* sampled(int64_t y) const { return maps.count[k] + maps.place(k, y); }
    void ready(int64_t) const {}
    void store(int64_t y, const int8_t* a) const {
        if (saved)
            with_cells(saved, k, y, w, [&](auto* to) __attribute__((always_inline)) { put(y, a, to); });
    }
    template <class Cell>
    INLINE void put(int64_t y, const int8_t* __restrict__ a, Cell* __restrict__ to) const {
        const uint16_t* __restrict__ n = sampled(y);
        const int64_t end = w;
        if (plan.gradient_mask == SUPPORT)
            for (int64_t x = 0; x < end; x++) to[x] = pack_cell<Cell>(a[x], n[x]);
        else
            for (int64_t x = 0; x < end; x++) to[x] = pack_cell<Cell>(a[x]);
    }
};

// Of a level the rows that follow band `band` of the image: they need no cells but its own and those above,
// as the last two that may be there wait for the next one.
inline int64_t level_begin(const Work& work, int k, int band) {
    const int64_t h = work.layout->h[k], made = int64_t(band) * BAND * h / work.call->H;
    return band >= work.bands_per_image ? h : made > HALO ? made - HALO : 0;
}

template <class T>
void level(const Work& work, int64_t b, int k, int band, char* memory) {
    const Layout& layout = *work.layout;
    const int64_t h = layout.h[k], w = layout.w[k], y0 = level_begin(work, k, band),
                  y1 = level_begin(work, k, band + 1);
    if (!layout.active[k] || y0 == y1) return;
    Arena arena = arena_of<T>(memory, w);
    uint8_t* saved = work.call->saves ? cell_codes(work, b, k) : nullptr;
    CoarseLevel<T> source{work, *work.plan, work.pyramids[b - work.first], b, w, k, saved};
    LevelBand& out = work.levels[(b * LEVELS + k) * work.bands_per_image + band];
    if (work.plan->forward)
        forward_rows<T>(source, y0, y1, h, w, arena, out);
    else
        sobel_rows<T>(source, *work.plan, y0, y1, h, w, arena, out);
}

}  // namespace DL_ISA
