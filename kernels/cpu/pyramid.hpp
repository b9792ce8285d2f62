// Phase 3, its first product: the cells of the coarse levels, made of the residual's rows as they come.
//
//     R_k = D_k(m r), of mask support D_k(m r)/D_k(m);  the same of p - mu_p for U1; how many pixels a cell
//     samples
//
// Writes (2 * 4 + 3) bytes/cell = 3.7 bytes/pixel, freed after the forward.
#pragma once
#include "rows.hpp"

namespace DL_ISA {

// One row of pixels: residual, p - mu_p, which are valid, which are read.
template <class T>
struct PixelRow {
    const T *r, *z;
    const uint8_t *m, *read;
};

// The cells of a band, row by row. Levels are made of each other where their cells nest.
template <class T>
struct Cells {
    const Work& work;
    const Plan& plan;
    const Pyramid* const maps;  // null without gradient term
    const int64_t b;
    const int band;
    // Unscaled sums of the last even and the last odd row of a level, which make a row of the next.
    T *sum_r[LEVELS][2], *sum_z[LEVELS][2];
    uint16_t *sum_m[LEVELS][2], *sum_read[LEVELS][2];

    Cells(const Work& work_, int64_t b_, int band_, Arena& arena)
        : work(work_),
          plan(*work_.plan),
          maps(work_.pyramids ? work_.pyramids + (b_ - work_.first) : nullptr),
          b(b_),
          band(band_) {
        for (int k = 1; k < plan.levels; k++)
            for (int odd = 0; odd < 2; odd++) {
                sum_r[k][odd] = arena.row<T>(), sum_z[k][odd] = arena.row<T>();
                sum_m[k][odd] = arena.row<uint16_t>(), sum_read[k][odd] = arena.row<uint16_t>();
            }
    }
    T* residual(int k, int64_t row) const { return static_cast<T*>(maps->residual[k]) + maps->place(k, row); }
    T* centred(int k, int64_t row) const { return static_cast<T*>(maps->centred[k]) + maps->place(k, row); }

    // Row y, below `above`: makes the row of cells of level k that it completes, if any.
    void pool(int k, int64_t y, const PixelRow<T>& above, const PixelRow<T>& from) {
        const int64_t f = int64_t(1) << k, h_k = work.layout->h[k];
        if (plan.downsample == NEAREST) {
            const int64_t H = work.call->H, row = (y * h_k + H - 1) / H;
            if (row >= h_k || row * H / h_k != y) return;
            if (k > 1 && nests(*work.call, k))
                pick(k, row, residual(k - 1, 2 * row), plan.standardised ? centred(k - 1, 2 * row) : nullptr,
                     sum_m[k - 1][0], sum_read[k - 1][0]);
            else
                pick(k, row, from.r, from.z, from.m, from.read);
            return finish(k, row, 1);
        }
        const int64_t row = y >> k, last = plan.downsample == BILINEAR ? f / 2 : f - 1;
        if (row >= h_k || (y & (f - 1)) != last) return;
        if (plan.downsample == BILINEAR || k == 1) {
            const int64_t o = plan.downsample == BILINEAR ? f / 2 - 1 : 0;
            add(k, row, above.r + o, from.r + o, above.z + o, from.z + o, above.m + o, from.m + o,
                above.read + o, from.read + o, plan.downsample == BILINEAR ? f : 2);
        } else
            add(k, row, sum_r[k - 1][0], sum_r[k - 1][1], sum_z[k - 1][0], sum_z[k - 1][1], sum_m[k - 1][0],
                sum_m[k - 1][1], sum_read[k - 1][0], sum_read[k - 1][1], 2);
        finish(k, row, plan.downsample == BILINEAR ? 4 : f * f);
    }

    // A cell that is one pixel is where it belongs at once.
    template <class N>
    void pick(int k, int64_t row, const T* r, const T* z, const N* m, const N* read) {
        const int odd = row & 1;
        pick(k, r, residual(k, row));
        pick(k, m, sum_m[k][odd]);
        if (plan.standardised) pick(k, z, centred(k, row));
        if (plan.standardised && plan.mask == CENTRE) pick(k, read, sum_read[k][odd]);
    }
    template <class From, class To>
    void pick(int k, const From* __restrict__ from, To* __restrict__ to) const {
        const int64_t n = work.layout->w[k];
        const int* columns = work.columns[k];
        if (nests(*work.call, k))
            for (int64_t j = 0; j < n; j++) to[j] = from[2 * j];
        else
            for (int64_t j = 0; j < n; j++) to[j] = from[columns[j]];
    }

    // Sums over two rows of pairs `step` apart; of mask support they are divided by their counts.
    template <class N>
    void add(int k, int64_t row, const T* r0, const T* r1, const T* z0, const T* z1, const N* m0, const N* m1,
             const N* read0, const N* read1, int64_t step) {
        const int odd = row & 1;
        const int64_t n = work.layout->w[k];
        const T share = T(1) / static_cast<T>(plan.downsample == BILINEAR ? 4 : int64_t(1) << (2 * k));
        const auto scale = [&](const T* __restrict__ sum, T* __restrict__ to) __attribute__((always_inline)) {
            const uint16_t* __restrict__ m = sum_m[k][odd];
            if (plan.mask == SUPPORT)
                for (int64_t j = 0; j < n; j++) to[j] = sum[j] / static_cast<T>(m[j] ? m[j] : 1);
            else
                for (int64_t j = 0; j < n; j++) to[j] = sum[j] * share;
        };
        quads(m0, m1, sum_m[k][odd], step, n);
        quads(r0, r1, sum_r[k][odd], step, n);
        scale(sum_r[k][odd], residual(k, row));
        if (!plan.standardised) return;
        quads(z0, z1, sum_z[k][odd], step, n);
        scale(sum_z[k][odd], centred(k, row));
        if (plan.mask == CENTRE) quads(read0, read1, sum_read[k][odd], step, n);
    }
    // Of bytes that are 0 or 1, two at a time.
    static void quads(const uint8_t* above, const uint8_t* from, uint16_t* __restrict__ to, int64_t step,
                      int64_t n) {
        typedef uint16_t Pair __attribute__((aligned(1), may_alias));
        const auto each = [&](int64_t apart) __attribute__((always_inline)) {
            for (int64_t j = 0; j < n; j++) {
                const uint16_t pair =
                    static_cast<uint16_t>(*reinterpret_cast<const Pair*>(above + j * apart) +
                                          *reinterpret_cast<const Pair*>(from + j * apart));
                to[j] = static_cast<uint16_t>((pair & 0xff) + (pair >> 8));
            }
        };
        if (step == 2)
            each(2);
        else
            each(step);
    }
    template <class From, class To>
    static void quads(const From* __restrict__ above, const From* __restrict__ from, To* __restrict__ to,
                      int64_t step, int64_t n) {
        const auto each = [&](int64_t apart) __attribute__((always_inline)) {
            for (int64_t j = 0; j < n; j++) {
                const int64_t i = j * apart;
                to[j] = static_cast<To>((above[i] + from[i]) + (above[i + 1] + from[i + 1]));
            }
        };
        if (step == 2)
            each(2);
        else
            each(step);
    }

    // What else a row of cells needs: counts, which are valid, margins.
    void finish(int k, int64_t row, int64_t area) {
        const int64_t n = work.layout->w[k];
        T* to_r = residual(k, row);
        uint16_t* __restrict__ to_count = maps->count[k] + maps->place(k, row);
        uint8_t* __restrict__ half = maps->half[k] + maps->place(k, row);
        const uint16_t* __restrict__ m = sum_m[k][row & 1];
        if (plan.standardised)
            for (int64_t j = n; j < blocks(n); j++) centred(k, row)[j] = 0;
        memcpy(to_count, plan.mask == CENTRE && plan.standardised ? sum_read[k][row & 1] : m,
               2 * static_cast<size_t>(n));
        const uint16_t most = static_cast<uint16_t>(area / 2);
        if (plan.mask == CENTRE)
            for (int64_t j = 0; j < n; j++) half[j] = m[j] > most;
        else
            for (int64_t j = 0; j < n; j++) half[j] = m[j] > 0;
        int64_t cells = 0;
        for (int64_t o = 0; o < n; o += PIECE) {
            const int64_t end = n - o < PIECE ? n : o + PIECE;
            uint32_t part = 0;
            if (plan.mask == CENTRE)
                for (int64_t j = o; j < end; j++) part += half[j];
            else
                for (int64_t j = o; j < end; j++) part += m[j];
            cells += part;
        }
        work.levels[(b * LEVELS + k) * work.bands_per_image + band].cells += cells;
        for (int64_t j = n; j < blocks(n); j++) to_r[j] = 0, to_count[j] = 0;
        set_margin(to_r, n, plan.border == REPLICATE);
        set_margin(half, n, plan.border == REPLICATE);
    }
};

}  // namespace DL_ISA
