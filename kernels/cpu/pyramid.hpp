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

// Unscaled sums of the cells that are not yet complete.
template <class T>
struct CellSums {
    const Work& work;
    const Plan& plan;
    const int64_t b;
    const int band;
    T *sum_r[LEVELS], *sum_z[LEVELS];
    uint16_t *sum_m[LEVELS], *sum_read[LEVELS];

    CellSums(const Work& work_, int64_t b_, int band_, Arena& arena)
        : work(work_), plan(*work_.plan), b(b_), band(band_) {
        for (int k = 1; k < plan.levels; k++) {
            sum_r[k] = arena.row<T>(), sum_z[k] = arena.row<T>();
            sum_m[k] = arena.row<uint16_t>(), sum_read[k] = arena.row<uint16_t>();
        }
    }

    // Adds row y to the cells of level k; writes them when it is their last.
    void pool(int k, int64_t y, const PixelRow<T>& from) {
        const int64_t f = int64_t(1) << k, h_k = work.layout->h[k], w_k = work.layout->w[k];
        const bool standard = plan.standardised;
        if (plan.downsample == NEAREST) {
            const int64_t H = work.call->H, row = (y * h_k + H - 1) / H;
            if (row >= h_k || row * H / h_k != y) return;
            if (k > 1 && nests(*work.call, k))
                pick(k, sum_r[k - 1], sum_z[k - 1], sum_m[k - 1], sum_read[k - 1]);
            else
                pick(k, from.r, from.z, from.m, from.read);
            return write(k, row, 1);
        }
        const int64_t row = y >> k, phase = y & (f - 1);
        if (row >= h_k) return;
        if (plan.downsample == BILINEAR) {
            const int64_t o = f / 2 - 1;
            if (phase != o && phase != o + 1) return;
            add(k, from.r + o, standard ? from.z + o : nullptr, from.m + o, from.read + o, f, w_k,
                phase == o);
            if (phase == o + 1) write(k, row, 4);
            return;
        }
        // Cells of cells: level k - 1 is complete where its rows end.
        if (k == 1)
            add(1, from.r, standard ? from.z : nullptr, from.m, from.read, 2, w_k, phase == 0);
        else {
            const int64_t below = f / 2 - 1;
            if ((phase & below) != below) return;
            add(k, sum_r[k - 1], standard ? sum_z[k - 1] : nullptr, sum_m[k - 1], sum_read[k - 1], 2, w_k,
                phase == below);
        }
        if (phase == f - 1) write(k, row, f * f);
    }

    template <class N>
    void pick(int k, const T* r, const T* z, const N* m, const N* read) {
        pick(k, r, sum_r[k]);
        pick(k, m, sum_m[k]);
        if (plan.standardised) pick(k, z, sum_z[k]);
        if (plan.standardised && plan.mask == CENTRE) pick(k, read, sum_read[k]);
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

    // Sums of neighbouring pairs `step` apart, onto what is there or anew.
    template <class N>
    void add(int k, const T* from_r, const T* from_z, const N* from_m, const N* from_read, int64_t step,
             int64_t n, bool anew) {
        pairs(from_r, sum_r[k], step, n, anew);
        pairs(from_m, sum_m[k], step, n, anew);
        if (from_z) pairs(from_z, sum_z[k], step, n, anew);
        if (from_z && plan.mask == CENTRE) pairs(from_read, sum_read[k], step, n, anew);
    }
    template <class From, class To>
    static void pairs(const From* __restrict__ from, To* __restrict__ to, int64_t step, int64_t n,
                      bool anew) {
        const auto each = [&](int64_t apart) __attribute__((always_inline)) {
            if (anew)
                for (int64_t j = 0; j < n; j++)
                    to[j] = static_cast<To>(from[j * apart] + from[j * apart + 1]);
            else
                for (int64_t j = 0; j < n; j++)
                    to[j] = static_cast<To>(to[j] + (from[j * apart] + from[j * apart + 1]));
        };
        if (step == 2)
            each(2);
        else
            each(step);
    }

    // One row of cells, from sums over `area` pixels.
    void write(int k, int64_t row, int64_t area) {
        const Pyramid& to = work.pyramids[b - work.first];
        const int64_t n = work.layout->w[k], o = row * to.stride[k] + EDGE;
        T* __restrict__ to_r = static_cast<T*>(to.residual[k]) + o;
        uint16_t* __restrict__ to_count = to.count[k] + o;
        uint8_t* __restrict__ half = to.half[k] + o;
        const T* __restrict__ from_r = sum_r[k], * __restrict__ from_z = sum_z[k];
        const uint16_t* __restrict__ m = sum_m[k];
        const bool support = plan.mask == SUPPORT;
        const T share = T(1) / static_cast<T>(area);
        if (support)
            for (int64_t j = 0; j < n; j++) to_r[j] = from_r[j] / static_cast<T>(m[j] ? m[j] : 1);
        else
            for (int64_t j = 0; j < n; j++) to_r[j] = from_r[j] * share;
        if (plan.standardised) {
            T* __restrict__ to_z = static_cast<T*>(to.centred[k]) + o;
            if (support)
                for (int64_t j = 0; j < n; j++) to_z[j] = from_z[j] / static_cast<T>(m[j] ? m[j] : 1);
            else
                for (int64_t j = 0; j < n; j++) to_z[j] = from_z[j] * share;
            for (int64_t j = n; j < blocks(n); j++) to_z[j] = 0;
        }
        memcpy(to_count, plan.mask == CENTRE && plan.standardised ? sum_read[k] : sum_m[k],
               2 * static_cast<size_t>(n));
        if (plan.mask == CENTRE)
            for (int64_t j = 0; j < n; j++) half[j] = 2 * m[j] > area;
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
