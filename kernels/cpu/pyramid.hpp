// Phase 3, first part: the cells of the coarse levels, built from the residual row by row.
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
    // Unscaled sums of the last even and odd row of a level; together they are a row of the next.
    T *sum_r[LEVELS][2], *sum_z[LEVELS][2];
    uint16_t *sum_m[LEVELS][2], *sum_read[LEVELS][2];
    Vec<int32_t> cells[LEVELS];
    bool nested[LEVELS];

    Cells(const Work& work_, int64_t b_, int band_, Arena& arena)
        : work(work_),
          plan(*work_.plan),
          maps(work_.pyramids ? work_.pyramids + (b_ - work_.first) : nullptr),
          b(b_),
          band(band_) {
        for (int k = 1; k < plan.levels; k++) {
            cells[k] = all(0);
            nested[k] = plan.downsample == STRIDED || nests(*work.call, k);
            for (int odd = 0; odd < 2; odd++) {
                sum_r[k][odd] = arena.row<T>(), sum_z[k][odd] = arena.row<T>();
                sum_m[k][odd] = arena.row<uint16_t>(), sum_read[k][odd] = arena.row<uint16_t>();
            }
        }
    }
    T* residual(int k, int64_t row) const { return static_cast<T*>(maps->residual[k]) + maps->place(k, row); }
    T* centred(int k, int64_t row) const { return static_cast<T*>(maps->centred[k]) + maps->place(k, row); }

    // Totals of the band: pixels, or for mask centre cells.
    void count() const {
        for (int k = 1; k < plan.levels; k++) {
            int32_t lane[LANES];
            memcpy(lane, &cells[k], sizeof lane);
            double& total = work.levels[(b * LEVELS + k) * work.bands_per_image + band].cells;
            for (int i = 0; i < LANES; i++) total += lane[i];
        }
    }

    // The row of cells of level k that row y completes, or -1.
    int64_t completes(int k, int64_t y) const {
        const int64_t f = int64_t(1) << k, H = work.call->H, h_k = work.layout->h[k];
        int64_t row = y >> k;
        if (plan.downsample == STRIDED) {
            if (y & (f - 1)) return -1;
        } else if (plan.downsample != NEAREST) {
            if ((y & (f - 1)) != (plan.downsample == BILINEAR ? f / 2 : f - 1)) return -1;
        } else if (nested[k]) {
            if (y & (f - 1)) return -1;
        } else {
            row = (y * h_k + H - 1) / H;
            if (row >= h_k || row * H / h_k != y) return -1;
        }
        return row < h_k ? row : -1;
    }

    // Computes the row of cells of level k that row y, below `above`, completes.
    void pool(int k, int64_t row, const PixelRow<T>& above, const PixelRow<T>& from) {
        const int64_t f = int64_t(1) << k;
        if (plan.downsample == NEAREST || plan.downsample == STRIDED) {
            if (k > 1 && nested[k])
                pick(k, row, residual(k - 1, 2 * row),
                     plan.alignment != ALIGN_NONE ? centred(k - 1, 2 * row) : nullptr, sum_m[k - 1][0],
                     sum_read[k - 1][0]);
            else
                pick(k, row, from.r, from.z, from.m, from.read);
            return finish(k, row, 1);
        }
        if (plan.downsample == BILINEAR || k == 1) {
            const int64_t o = plan.downsample == BILINEAR ? f / 2 - 1 : 0;
            add(k, row, above.r + o, from.r + o, above.z + o, from.z + o, above.m + o, from.m + o,
                above.read + o, from.read + o, plan.downsample == BILINEAR ? f : 2);
        } else
            add(k, row, sum_r[k - 1][0], sum_r[k - 1][1], sum_z[k - 1][0], sum_z[k - 1][1], sum_m[k - 1][0],
                sum_m[k - 1][1], sum_read[k - 1][0], sum_read[k - 1][1], 2);
        finish(k, row, plan.downsample == BILINEAR ? 4 : f * f);
    }

    // A cell of one pixel is written to its place directly.
    template <class N>
    void pick(int k, int64_t row, const T* r, const T* z, const N* m, const N* read) {
        const int odd = row & 1;
        pick(k, r, residual(k, row));
        pick(k, m, sum_m[k][odd]);
        if (plan.alignment != ALIGN_NONE) pick(k, z, centred(k, row));
        if (plan.alignment != ALIGN_NONE && plan.gradient_mask == CENTRE) pick(k, read, sum_read[k][odd]);
    }
    template <class From, class To>
    void pick(int k, const From* __restrict__ from, To* __restrict__ to) const {
        const int64_t n = work.layout->w[k];
        const int* columns = work.columns[k];
        if (nested[k])
            for (int64_t j = 0; j < n; j += LANES) every_second(from + 2 * j, to + j);
        else
            for (int64_t j = 0; j < n; j++) to[j] = from[columns[j]];
    }

    // Sums over two rows of pairs `step` apart; of mask support they are divided by their counts.
    template <class N>
    void add(int k, int64_t row, const T* r0, const T* r1, const T* z0, const T* z1, const N* m0, const N* m1,
             const N* read0, const N* read1, int64_t step) {
        const int odd = row & 1;
        const int64_t n = work.layout->w[k];
        const Vec<T> share =
            all(T(1) / static_cast<T>(plan.downsample == BILINEAR ? 4 : int64_t(1) << (2 * k)));
        uint16_t* const m = sum_m[k][odd];
        const auto maps = [&](const T* above, const T* below, T* sums, T* to) __attribute__((always_inline)) {
            quads(above, below, sums, step, n);
            if (plan.gradient_mask == SUPPORT)
                for (int64_t j = 0; j < n; j += LANES) {
                    const Vec<T> count = converted<T>(from_words<Int<T>>(m + j));
                    store(to + j, load(sums + j) / select(count > all(T(0)), count, all(T(1))));
                }
            else
                for (int64_t j = 0; j < n; j += LANES) store(to + j, load(sums + j) * share);
        };
        quads(m0, m1, m, step, n);
        maps(r0, r1, sum_r[k][odd], residual(k, row));
        if (!plan.alignment != ALIGN_NONE) return;
        maps(z0, z1, sum_z[k][odd], centred(k, row));
        if (plan.gradient_mask == CENTRE) quads(read0, read1, sum_read[k][odd], step, n);
    }

    // Every second element; a byte becomes a word.
    static void every_second(const T* from, T* to) {
        store(to, DL_ISA::every_second<0>(load(from), load(from + LANES)));
    }
    static void every_second(const uint8_t* from, uint16_t* to) {
        const Words x = load_as<Words>(from);
        store_as<Words>(to, __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? x & 0xff : x >> 8);
    }
    static void every_second(const uint16_t* from, uint16_t* to) {
        store_as<Words>(to, DL_ISA::every_second<0>(load_as<Words>(from), load_as<Words>(from + LANES)));
    }
    // Sums of neighbours in the sum of two rows; bytes are 0 or 1.
    static void quad(const T* above, const T* from, T* to) {
        const Vec<T> x = load(above) + load(from), y = load(above + LANES) + load(from + LANES);
        store(to, DL_ISA::every_second<0>(x, y) + DL_ISA::every_second<1>(x, y));
    }
    static void quad(const uint8_t* above, const uint8_t* from, uint16_t* to) {
        const Words x = load_as<Words>(above) + load_as<Words>(from);
        store_as<Words>(to, (x & 0xff) + (x >> 8));
    }
    static void quad(const uint16_t* above, const uint16_t* from, uint16_t* to) {
        const Words x = load_as<Words>(above) + load_as<Words>(from),
                    y = load_as<Words>(above + LANES) + load_as<Words>(from + LANES);
        store_as<Words>(to, DL_ISA::every_second<0>(x, y) + DL_ISA::every_second<1>(x, y));
    }
    // The same for every second pair.
    static void quad_of_four(const T* above, const T* from, T* to) {
        const auto pairs = [&](int64_t i) __attribute__((always_inline)) {
            const Vec<T> x = load(above + i) + load(from + i),
                         y = load(above + i + LANES) + load(from + i + LANES);
            return std::pair(DL_ISA::every_second<0>(x, y), DL_ISA::every_second<1>(x, y));
        };
        const auto [even, odd] = pairs(0);
        const auto [more_even, more_odd] = pairs(2 * LANES);
        store(to, DL_ISA::every_second<0>(even, more_even) + DL_ISA::every_second<0>(odd, more_odd));
    }
    template <class N>
    static void quad_of_four(const N* above, const N* from, uint16_t* to) {
        uint16_t sums[2 * LANES];
        quad(above, from, sums), quad(above + 2 * LANES, from + 2 * LANES, sums + LANES);
        every_second(sums, to);
    }
    // Reads up to 4 * LANES behind a row's end: its margin.
    static_assert(MARGIN >= 4 * LANES, "a margin of four blocks");
    template <class From, class To>
    static void quads(const From* above, const From* from, To* to, int64_t step, int64_t n) {
        if (step == 2)
            for (int64_t j = 0; j < n; j += LANES) quad(above + 2 * j, from + 2 * j, to + j);
        else if (step == 4)
            for (int64_t j = 0; j < n; j += LANES) quad_of_four(above + 4 * j, from + 4 * j, to + j);
        else
            for (int64_t j = 0; j < n; j++) {
                const int64_t i = j * step;
                to[j] = static_cast<To>((above[i] + from[i]) + (above[i + 1] + from[i + 1]));
            }
    }

    // The rest of a row of cells: counts, validity, margins.
    void finish(int k, int64_t row, int64_t area) {
        const int64_t n = work.layout->w[k];
        T* to_r = residual(k, row);
        uint16_t* to_count = maps->count[k] + maps->place(k, row);
        uint8_t* half = maps->half[k] + maps->place(k, row);
        uint16_t* const m = sum_m[k][row & 1];
        uint16_t* const read =
            plan.gradient_mask == CENTRE && plan.alignment != ALIGN_NONE ? sum_read[k][row & 1] : m;
        clear_end(to_r, n), clear_end(m, n), clear_end(read, n);
        if (plan.alignment != ALIGN_NONE) clear_end(centred(k, row), n);
        const bool centre = plan.gradient_mask == CENTRE;
        Vec<int32_t> total = cells[k];
        const uint16_t most = static_cast<uint16_t>(centre ? area / 2 : 0);
        for (int64_t j = 0; j < n; j += LANES) {
            const Words count = load_as<Words>(m + j);
            store_as<Words>(to_count + j, load_as<Words>(read + j));
            store_as<Bytes>(half + j, narrowed((Words)(count > most)) & all_bytes(1));
            total = total + (centre ? widened<int32_t>(half + j) : from_words<int32_t>(m + j));
        }
        cells[k] = total;
        set_margin(to_r, n, plan.border == REPLICATE);
        set_margin(half, n, plan.border == REPLICATE);
    }
};

}  // namespace DL_ISA
