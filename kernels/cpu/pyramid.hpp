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
            pick(k, from.r, sum_r[k]);
            pick(k, from.m, sum_m[k]);
            if (standard) pick(k, from.z, sum_z[k]);
            if (standard && plan.mask == CENTRE) pick(k, from.read, sum_read[k]);
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

    template <class From, class To>
    void pick(int k, const From* __restrict__ from, To* __restrict__ to) const {
        const int64_t n = work.layout->w[k];
        const int* columns = work.columns[k];
        if (k == 1 && work.call->W % 2 == 0)
            for (int64_t j = 0; j < n; j++) to[j] = from[2 * j];
        else
            for (int64_t j = 0; j < n; j++) to[j] = from[columns[j]];
    }

    // Sums of neighbouring pairs `step` apart, onto what is there or anew.
    template <class N>
    void add(int k, const T* __restrict__ from_r, const T* __restrict__ from_z, const N* __restrict__ from_m,
             const N* __restrict__ from_read, int64_t step, int64_t n, bool anew) {
        T* __restrict__ to_r = sum_r[k], * __restrict__ to_z = sum_z[k];
        uint16_t* __restrict__ to_m = sum_m[k], * __restrict__ to_read = sum_read[k];
        if (anew) {
            memset(to_r, 0, sizeof(T) * static_cast<size_t>(n));
            memset(to_z, 0, sizeof(T) * static_cast<size_t>(n));
            memset(to_m, 0, 2 * static_cast<size_t>(n));
            memset(to_read, 0, 2 * static_cast<size_t>(n));
        }
        if (step == 2)
            pairs(from_r, from_z, from_m, from_read, to_r, to_z, to_m, to_read, 2, n);
        else
            pairs(from_r, from_z, from_m, from_read, to_r, to_z, to_m, to_read, step, n);
    }
    template <class N>
    INLINE void pairs(const T* __restrict__ from_r, const T* __restrict__ from_z,
                      const N* __restrict__ from_m, const N* __restrict__ from_read, T* __restrict__ to_r,
                      T* __restrict__ to_z, uint16_t* __restrict__ to_m, uint16_t* __restrict__ to_read,
                      int64_t step, int64_t n) {
        for (int64_t j = 0; j < n; j++) to_r[j] += from_r[j * step] + from_r[j * step + 1];
        for (int64_t j = 0; j < n; j++)
            to_m[j] = static_cast<uint16_t>(to_m[j] + from_m[j * step] + from_m[j * step + 1]);
        if (!from_z) return;
        for (int64_t j = 0; j < n; j++) to_z[j] += from_z[j * step] + from_z[j * step + 1];
        if (plan.mask == CENTRE)
            for (int64_t j = 0; j < n; j++)
                to_read[j] =
                    static_cast<uint16_t>(to_read[j] + from_read[j * step] + from_read[j * step + 1]);
    }

    // One row of cells, from sums over `area` pixels.
    void write(int k, int64_t row, int64_t area) {
        const Pyramid& to = work.pyramids[b - work.first];
        const int64_t n = work.layout->w[k], o = row * to.stride[k] + MARGIN;
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
        if (plan.mask == CENTRE)
            for (int64_t j = 0; j < n; j++) cells += half[j];
        else
            for (int64_t j = 0; j < n; j++) cells += m[j];
        work.levels[(b * LEVELS + k) * work.bands_per_image + band].cells += cells;
        for (int64_t j = n; j < blocks(n); j++) to_r[j] = 0;
        set_margin(to_r, n, plan.border == REPLICATE);
        set_margin(half, n, plan.border == REPLICATE);
    }
};

}  // namespace DL_ISA
