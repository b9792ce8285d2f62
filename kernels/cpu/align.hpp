// Phases 1 and 2 over images: what their residuals are made with, and what their trims keep.
#pragma once
#include <algorithm>
#include <vector>

#include "engine.h"
#include "threads.h"

namespace {

// Threads and their memory.
struct Crew {
    int threads;
    bool turns;  // as of `parallel`
    char* arenas;
    int64_t arena;
    // One phase over a number of bands.
    template <class Phase>
    void run(const Work& work, int64_t first, int64_t count, bool backwards, const Phase& phase) const {
        const int64_t bands = work.bands_per_image;
        parallel(count, turns, threads, backwards, [&](int64_t i, int worker) {
            const int64_t band = first + i;
            phase(work, band / bands, static_cast<int>(band % bands), arenas + worker * arena);
        });
    }
};

// The selections of so many images from `work.first` on; of the medians both, else of |r|.
void select(const Phases& run, Work work, int64_t images, bool of_residual, const Crew& crew) {
    const int passes = radix_passes(work.call->in_double);
    work.of_residual = of_residual;
    for (work.pass = 0; work.pass < passes; work.pass++) {
        crew.run(work, work.first * work.bands_per_image, images * work.bands_per_image, work.pass % 2 == 0,
                 run.count);
        for (int64_t b = 0; b < images; b++)
            for (int i = 0; i < (of_residual ? 1 : 2); i++)
                refine(work.selections[work.first + b], i, radix_of(work.call->in_double, work.pass),
                       work.histograms + (2 * b + i) * BINS);
    }
}

// Phases 1 and 2 over so many images from `work.first` on: what their residuals are made with.
void align(const Phases& run, const Work& work, int64_t images, const Crew& crew) {
    const Plan& plan = *work.plan;
    const int64_t first = work.first * work.bands_per_image, all = images * work.bands_per_image;
    // Each pass begins where the last one ended: what it reads first is still in the cache. That of the
    // structure goes down, as a level needs the band above, and the backward goes up.
    crew.run(work, first, all, plan.codes && plan.alignment == ALIGN_NONE, run.moments);
    if (!plan.codes) return;
    for (int64_t b = 0; b < images; b++) set_means(work, work.first + b);
    const auto image_of = [&](int64_t b) -> Image& { return work.images[work.first + b]; };
    const auto selection_of = [&](int64_t b) -> Selection& { return work.selections[work.first + b]; };
    if (plan.alignment == ALIGN_MEDIAN) {
        for (int64_t b = 0; b < images; b++) {
            const auto n = static_cast<int64_t>(image_of(b).kept), middle = n > 0 ? (n - 1) / 2 : 0;
            selection_of(b) = Selection{{0, 0}, {middle, middle}, {0, 0}, {0, 0}, n > 0};
        }
        select(run, work, images, false, crew);
        for (int64_t b = 0; b < images; b++) {
            const Selection& found = selection_of(b);
            if (!found.wanted) continue;
            image_of(b).mu_p = number_of(found.prefix[0], work.call->in_double);
            image_of(b).mu_g = number_of(found.prefix[1], work.call->in_double);
            image_of(b).ties = static_cast<double>(found.ties[0]);
        }
    }
    if (plan.alignment == ALIGN_MEAN || plan.alignment == ALIGN_MEDIAN) {
        crew.run(work, first, all, true, run.deviations);
        for (int64_t b = 0; b < images; b++) set_scales(work, work.first + b);
    } else if (plan.alignment != ALIGN_NONE) {
        crew.run(work, first, all, true, run.products);
        for (int64_t b = 0; b < images; b++) set_fit(work, work.first + b);
    }
    if (plan.relative.trim == 0 || plan.relative.trim_batch) return;
    for (int64_t b = 0; b < images; b++) {
        const double kept = kept_of(image_of(b).kept, plan.relative.trim);
        selection_of(b) = Selection{{0, 0}, {static_cast<int64_t>(kept) - 1, 0}, {0, 0}, {0, 0}, kept > 0};
    }
    select(run, work, images, true, crew);
    for (int64_t b = 0; b < images; b++) {
        const double kept = kept_of(image_of(b).kept, plan.relative.trim);
        set_trim(image_of(b), selection_of(b), kept, kept, work.call->in_double);
    }
}

// The one threshold of all images of all ranks; returns how many pixels it keeps.
double trim_batch(const Phases& run, Work work, const Crew& crew) {
    const Call& call = *work.call;
    const double trim = work.plan->relative.trim;
    int64_t all = 0;
    for (int64_t b = 0; b < call.B; b++) all += static_cast<int64_t>(work.images[b].kept);
    if (call.reduce) call.reduce(&all, 1);
    const double kept = kept_of(static_cast<double>(all), trim);
    Selection found{{0, 0}, {static_cast<int64_t>(kept) - 1, 0}, {0, 0}, {0, 0}, kept > 0};
    work.first = 0;
    work.of_residual = true;
    std::vector<int64_t> bins(BINS);
    for (work.pass = 0; found.wanted && work.pass < radix_passes(call.in_double); work.pass++) {
        for (int64_t b = 0; b < call.B; b++) {
            work.selections[b] = found;
            work.selections[b].wanted = work.images[b].kept > 0;
        }
        crew.run(work, 0, call.B * work.bands_per_image, work.pass % 2 == 0, run.count);
        std::fill(bins.begin(), bins.end(), 0);
        for (int64_t b = 0; b < call.B; b++)
            for (int i = 0; i < BINS; i++) {
                int64_t& n = work.histograms[2 * b * BINS + i];
                bins[static_cast<size_t>(i)] += n, n = 0;
            }
        if (call.reduce) call.reduce(bins.data(), BINS);
        refine(found, 0, radix_of(call.in_double, work.pass), bins.data());
    }
    for (int64_t b = 0; b < call.B; b++)
        set_trim(work.images[b], found, kept, work.images[b].kept, call.in_double);
    return kept;
}

}  // namespace
