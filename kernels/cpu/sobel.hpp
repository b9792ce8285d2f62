// Phase 3: the residual, its codes, the Sobel responses of every level and their adjoint, in one pass over
// rows.
//
//     r = (p - mu_p)/S_p - (g - mu_g)/S_g;  sx, sy = signs of the kept responses;  a = Sx^T sx + Sy^T sy
//     U1_k = sum a D_k(a_mask (p - mu_p)),  U0_k = sum a (pixels that the cell samples)
//
// Saves per pixel one byte of signs and one of a (|a| <= 16), per coarse cell a and the count: 2.41
// bytes/pixel.
#pragma once
#include "pyramid.hpp"

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

// Signs and, if `sums`, absolute sum of the responses that `keep` (0 or 1, whole blocks) selects.
template <class T>
double respond(const T* r0, const T* r1, const T* r2, const uint8_t* keep, int8_t* sx, int8_t* sy, int64_t w,
               int64_t& kept) {
    double response = 0;
    kept = 0;
    for (int64_t o = 0; o < w; o += STRETCH) {
        Vec<T> total = all(T(0));
        Mask<T> n = all(Int<T>(0));
        for (int64_t x = o; x < stretch_end(o, w); x += LANES) {
            const Mask<T> on = mask_of<T>(keep + x);
            const Vec<T> a0 = load(r0 + x - 1), b0 = load(r0 + x), c0 = load(r0 + x + 1);
            const Vec<T> a1 = load(r1 + x - 1), c1 = load(r1 + x + 1);
            const Vec<T> a2 = load(r2 + x - 1), b2 = load(r2 + x), c2 = load(r2 + x + 1);
            const Vec<T> gx = ((c0 + c2) + (c1 + c1)) - ((a0 + a2) + (a1 + a1));
            const Vec<T> gy = ((a2 + c2) + (b2 + b2)) - ((a0 + c0) + (b0 + b0));
            total = total + select(on, abs(gx) + abs(gy));
            n = n + on;
            to_bytes(sx + x, sign(gx, on));
            to_bytes(sy + x, sign(gy, on));
        }
        kept -= static_cast<int64_t>(sum(n));
        response += sum(total);
    }
    return response;
}

// The two sums along x of which the adjoint is made; beyond the border lies what folds back.
inline void along_x(const SignRow& row, int64_t w, bool replicate) {
    row.x[-1] = static_cast<int8_t>(replicate ? -row.x[0] : 0);
    row.x[w] = static_cast<int8_t>(replicate ? -row.x[w - 1] : 0);
    set_margin(row.y, w, replicate);
    const int8_t* __restrict__ x = row.x, * __restrict__ y = row.y;
    int8_t* __restrict__ difference = row.difference, * __restrict__ smooth = row.smooth;
    for (int64_t i = 0; i < w; i++) {
        difference[i] = static_cast<int8_t>(x[i - 1] - x[i + 1]);
        smooth[i] = static_cast<int8_t>(y[i - 1] + 2 * y[i] + y[i + 1]);
    }
}

inline void adjoint_row(const int8_t* __restrict__ d0, const int8_t* __restrict__ d1,
                        const int8_t* __restrict__ d2, const int8_t* __restrict__ s0,
                        const int8_t* __restrict__ s2, int8_t* __restrict__ out, int64_t w) {
    for (int64_t i = 0; i < w; i++) out[i] = static_cast<int8_t>(d0[i] + 2 * d1[i] + d2[i] + s0[i] - s2[i]);
}

// Which responses of row y count: `count` rows of coverage (support), or the half valid cells (centre).
inline void keep_row(const uint8_t* c0, const uint8_t* c1, const uint8_t* c2, uint8_t* __restrict__ out,
                     const Plan& plan, int64_t y, int64_t w, int64_t h) {
    const bool outside = plan.border == VALID && (y == 0 || y == h - 1);
    if (outside) {
        memset(out, 0, static_cast<size_t>(blocks(w)));
        return;
    }
    if (plan.mask == SUPPORT)
        for (int64_t i = 0; i < w; i++)
            out[i] = static_cast<uint8_t>((c0[i - 1] & c1[i - 1] & c2[i - 1]) & (c0[i] & c1[i] & c2[i]) &
                                          (c0[i + 1] & c1[i + 1] & c2[i + 1]));
    else if (plan.mask == CENTRE)
        memcpy(out, c1, static_cast<size_t>(w));
    else
        memset(out, 1, static_cast<size_t>(w));
    for (int64_t i = w; i < blocks(w); i++) out[i] = 0;
    if (plan.border == VALID) out[0] = out[w - 1] = 0;
}

// One level of an image, row by row. `Source` gives, at row y (all with margins):
//   residual(y), cover(y): coverage or half-validity, centred(y), sampled(y, x): pixels of a cell;
//   ready(y) makes rows up to y; store(y, a) takes the adjoint.
template <class T, class Source>
void sobel_rows(Source& source, const Plan& plan, int64_t y0, int64_t y1, int64_t h, int64_t w, Arena& arena,
                LevelBand& out) {
    const bool replicate = plan.border == REPLICATE;
    SignRow signs[3] = {SignRow(arena), SignRow(arena), SignRow(arena)};
    SignRow beyond(arena);
    T* none = arena.row<T>();
    uint8_t *uncovered = arena.row<uint8_t>(), *keep = arena.row<uint8_t>();
    int8_t* adjoint = arena.row<int8_t>();
    for (int64_t x = -MARGIN; x < blocks(w) + MARGIN; x++) none[x] = T(0), uncovered[x] = 0;
    memset(adjoint, 0, static_cast<size_t>(blocks(w)));
    const int64_t first = y0 > 0 ? y0 - 1 : 0, last = y1 < h ? y1 : h - 1;
    const SignRow *above = nullptr, *here = nullptr;
    for (int64_t y = first; y <= last + 1; y++) {
        const SignRow* below = nullptr;
        if (y <= last) {
            source.ready(y + 1 < h ? y + 1 : h - 1);
            const T* r1 = source.residual(y);
            const T* r0 = y > 0 ? source.residual(y - 1) : replicate ? r1 : none;
            const T* r2 = y + 1 < h ? source.residual(y + 1) : replicate ? r1 : none;
            const uint8_t* c1 = source.cover(y);
            const uint8_t* c0 = y > 0 ? source.cover(y - 1) : replicate ? c1 : uncovered;
            const uint8_t* c2 = y + 1 < h ? source.cover(y + 1) : replicate ? c1 : uncovered;
            keep_row(c0, c1, c2, keep, plan, y, w, h);
            const SignRow& row = signs[y % 3];
            int64_t kept;
            const double response = respond(r0, r1, r2, keep, row.x, row.y, w, kept);
            if (y >= y0 && y < y1) {
                out.response += response;
                out.kept += kept;
            }
            along_x(row, w, replicate);
            below = &row;
        }
        const int64_t centre = y - 1;
        if (centre >= y0 && centre < y1) {
            // Rows beyond the image: nothing, or what a replicated row folds back.
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
            adjoint_row(up->difference, here->difference, down->difference, up->smooth, down->smooth, adjoint,
                        w);
            const T* centred = source.centred(centre);
            if (centred) {
                for (int64_t o = 0; o < w; o += STRETCH) {
                    Vec<T> z = all(T(0));
                    for (int64_t x = o; x < stretch_end(o, w); x += LANES)
                        z = z + converted<T>(from_signs<Int<T>>(adjoint + x)) * load(centred + x);
                    out.u_z += sum(z);
                }
                out.u_one += source.weigh(centre, adjoint);
            }
            source.store(centre, adjoint);
        }
        above = here;
        here = below;
    }
}

// Level 0 of a band: makes the residual of a row when it is asked for, and with it the codes and the cells of
// the coarse levels that lie in the band.
template <class T>
struct FullResolution {
    static constexpr int SLOTS = 4;
    const Work& work;
    const Call& call;
    const Plan& plan;
    const Image& image;
    const int64_t b, y0, y1, w;
    LineBuffers<T> buffers;
    Line<T> line;
    T *r[SLOTS], *z[SLOTS];
    uint8_t *cover_[SLOTS], *read_[SLOTS];
    uint8_t* code_buffer;
    int64_t done;
    Band& out;
    uint8_t* codes;
    int8_t* saved;
    CellSums<T> cells;

    FullResolution(const Work& work_, int64_t b_, int64_t first, int64_t end, Arena& arena)
        : work(work_),
          call(*work_.call),
          plan(*work_.plan),
          image(work_.images[b_]),
          b(b_),
          y0(first),
          y1(end),
          w(call.W),
          buffers(arena),
          out(work_.bands[b_ * work_.bands_per_image + first / BAND]),
          cells(work_, b_, static_cast<int>(first / BAND), arena) {
        for (int i = 0; i < SLOTS; i++) {
            r[i] = arena.row<T>(), z[i] = arena.row<T>();
            cover_[i] = arena.row<uint8_t>(), read_[i] = arena.row<uint8_t>();
        }
        code_buffer = arena.row<uint8_t>();
        done = (y0 > 2 ? y0 - 2 : 0) - 1;
        codes = call.saves ? call.codes + b * work.layout->size + work.layout->code : nullptr;
        saved = call.saves
                    ? reinterpret_cast<int8_t*>(call.codes + b * work.layout->size + work.layout->adjoint)
                    : nullptr;
    }
    const T* residual(int64_t y) const { return r[y % SLOTS]; }
    const uint8_t* cover(int64_t y) const { return cover_[y % SLOTS]; }
    const T* centred(int64_t y) const { return plan.standardised ? z[y % SLOTS] : nullptr; }
    int64_t weigh(int64_t y, const int8_t* a) const {
        if (plan.mask == SUPPORT) return 0;
        const uint8_t* m = read_[y % SLOTS];
        int64_t total = 0;
        for (int64_t o = 0; o < w; o += STRETCH) {
            int32_t part = 0;
            for (int64_t x = o; x < stretch_end(o, w); x++) part += a[x] * m[x];
            total += part;
        }
        return total;
    }
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
        if (own)
            residual_row<true>(slot, y);
        else
            residual_row<false>(slot, y);
        set_margin(r[slot], w, plan.border == REPLICATE);
        set_margin(cover_[slot], w, plan.border == REPLICATE);
        if (own && plan.has[GRADIENT])
            for (int k = 1; k < plan.levels; k++)
                if (work.layout->active[k]) cells.pool(k, y, {r[slot], z[slot], cover_[slot], read_[slot]});
    }

    template <bool OWN>
    void residual_row(int slot, int64_t y) {
        const Vec<T> mu_p = all(T(image.mu_p)), mu_g = all(T(image.mu_g)), inv_p = all(T(image.inv_p)),
                     inv_g = all(T(image.inv_g));
        const Vec<T> zero = all(T(0)), inf = all(T(__builtin_inf()));
        const Mask<T> one = all(Int<T>(1));
        const bool standardised = plan.standardised, centre = plan.mask == CENTRE,
                   identity = plan.structure.conversion == IDENTITY;
        T* __restrict__ to_r = r[slot], * __restrict__ to_z = z[slot];
        uint8_t* __restrict__ to_cover = cover_[slot], * __restrict__ to_read = read_[slot];
        // Whole blocks go straight into `codes`; the last one may reach beyond the row.
        uint8_t* to_code = codes ? codes + y * w : code_buffer;
        for (int64_t o = 0; o < w; o += STRETCH) {
            Vec<T> relative = zero, signed_dev = zero;
            Mask<T> sum_r_ = all(Int<T>(0)), sum_p_ = sum_r_;
            for (int64_t x = o; x < stretch_end(o, w); x += LANES) {
                const Mask<T> m = mask_of<T>(line.m->at(x));
                Vec<T> p = load(line.p_d->at(x)), g = load(line.g_d->at(x));
                const Mask<T> s_d = sign(p - g, mask_of<T>(line.m_abs->at(x)));
                Mask<T> keep = m;
                if (centre) {
                    keep = identity ? m | ((abs(p) < inf) & (abs(g) < inf)) : all(Int<T>(-1));
                    if (x + LANES > w) keep = keep & mask_of<T>(buffers.ones + x);
                    // A conversion makes an invalid pixel depth 0, valid for the absolute term or not.
                    if (!identity) p = select(m, p), g = select(m, g);
                }
                const Vec<T> dev = p - mu_p;
                const Vec<T> residual = standardised ? dev * inv_p - (g - mu_g) * inv_g : p - g;
                ::DL_ISA::store(to_r + x, select(keep, residual));
                to_bytes(to_cover + x, m & one);
                if (standardised) {
                    ::DL_ISA::store(to_z + x, select(keep, dev));
                    to_bytes(to_read + x, keep & one);
                }
                if (!OWN) continue;
                const Mask<T> s_r = sign(residual, m), s_p = sign(dev, m);
                relative = relative + select(m, abs(residual));
                signed_dev = signed_dev + select(m, dev) * converted<T>(s_r);
                sum_r_ = sum_r_ + s_r;
                sum_p_ = sum_p_ + s_p;
                if (!codes) continue;
                const Mask<T> code = (s_r + one) + shifted(s_d + one, SIGN_D) + shifted(s_p + one, SIGN_P) +
                                     (m & all(Int<T>(VALID_BIT))) + (keep & all(Int<T>(READ_BIT)));
                if (x + LANES <= w)
                    to_bytes(to_code + x, code);
                else {
                    to_bytes(code_buffer, code);
                    memcpy(to_code + x, code_buffer, static_cast<size_t>(w - x));
                }
            }
            if (!OWN) continue;
            out.relative += sum(relative);
            out.sign_dev_r += sum(signed_dev);
            out.sign_r += static_cast<int64_t>(sum(sum_r_));
            out.sign_p += static_cast<int64_t>(sum(sum_p_));
        }
    }
};

template <class T>
void structure(const Work& work, int64_t b, int band, char* memory) {
    const Plan& plan = *work.plan;
    const int64_t h = work.call->H, w = work.call->W, y0 = static_cast<int64_t>(band) * BAND,
                  y1 = y0 + BAND < h ? y0 + BAND : h;
    Arena arena{memory, w};
    FullResolution<T> source(work, b, y0, y1, arena);
    LevelBand& out = work.levels[b * LEVELS * work.bands_per_image + band];
    if (plan.has[GRADIENT] && work.layout->active[0])
        sobel_rows<T>(source, plan, y0, y1, h, w, arena, out);
    else {
        source.done = y0 - 1;
        source.ready(y1 - 1);
    }
    out.cells = static_cast<double>(work.bands[b * work.bands_per_image + band].n_all);
}

// A coarse level, whose maps phase 3 has left.
template <class T>
struct CoarseLevel {
    const Work& work;
    const Plan& plan;
    const Pyramid& maps;
    const int64_t b, w;
    const int k;
    uint8_t* saved;
    const T* residual(int64_t y) const {
        return static_cast<const T*>(maps.residual[k]) + y * maps.stride[k] + MARGIN;
    }
    const uint8_t* cover(int64_t y) const { return maps.half[k] + y * maps.stride[k] + MARGIN; }
    const T* centred(int64_t y) const {
        return plan.standardised ? static_cast<const T*>(maps.centred[k]) + y * maps.stride[k] + MARGIN
                                 : nullptr;
    }
    const uint16_t* count(int64_t y) const { return maps.count[k] + y * maps.stride[k] + MARGIN; }
    int64_t weigh(int64_t y, const int8_t* a) const {
        if (plan.mask == SUPPORT) return 0;
        const uint16_t* n = count(y);
        int64_t total = 0;
        for (int64_t x = 0; x < w; x++) total += a[x] * static_cast<int32_t>(n[x]);
        return total;
    }
    void ready(int64_t) const {}
    void store(int64_t y, const int8_t* a) const {
        if (!saved) return;
        const bool support = plan.mask == SUPPORT;
        const uint16_t* n = count(y);
        if (k == 1)
            for (int64_t x = 0; x < w; x++)
                saved[y * w + x] = static_cast<uint8_t>(a[x] + ADJOINT_ZERO +
                                                        ((support && n[x] ? n[x] - 1 : 0) << ADJOINT_BITS));
        else {
            auto* words = reinterpret_cast<uint16_t*>(saved) + y * w;
            for (int64_t x = 0; x < w; x++)
                words[x] = static_cast<uint16_t>(a[x] + ADJOINT_ZERO +
                                                 ((support && n[x] ? n[x] - 1 : 0) << ADJOINT_BITS));
        }
    }
};

template <class T>
void level(const Work& work, int64_t b, int k, int band, char* memory) {
    const Layout& layout = *work.layout;
    const int64_t h = layout.h[k], w = layout.w[k], y0 = static_cast<int64_t>(band) * BAND,
                  y1 = y0 + BAND < h ? y0 + BAND : h;
    Arena arena{memory, w};
    uint8_t* saved = work.call->saves ? work.call->codes + b * layout.size + layout.cells[k] : nullptr;
    CoarseLevel<T> source{work, *work.plan, work.pyramids[b - work.first], b, w, k, saved};
    sobel_rows<T>(source, *work.plan, y0, y1, h, w, arena,
                  work.levels[(b * LEVELS + k) * work.bands_per_image + band]);
}

}  // namespace DL_ISA
