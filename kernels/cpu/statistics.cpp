// Statistics of an image, from the sums of its bands, in double: means, scales, fits, medians, trims.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "engine.h"

// Relative to a valid pixel: the mean of a constant image is exactly its constant.
void set_means(const Work& work, int64_t b) {
    double p = 0, g = 0, n = 0, base_p = 0, base_g = 0;
    for (int i = 0; i < work.bands_per_image; i++) {
        const Band& band = work.bands[b * work.bands_per_image + i];
        const double here = band.weight;
        if (here == 0) continue;
        if (n == 0) base_p = band.base_p, base_g = band.base_g;
        p += band.p + (band.base_p - base_p) * here;
        g += band.g + (band.base_g - base_g) * here;
        n += here;
    }
    Image& image = work.images[b];
    image = Image{};
    image.inv_p = image.inv_g = 1;
    image.kept = n;
    const int align = work.plan->alignment;
    if (align != ALIGN_NONE && align != ALIGN_MEDIAN && n != 0)
        image.mu_p = base_p + p / n, image.mu_g = base_g + g / n;
}

void set_scales(const Work& work, int64_t b) {
    double p = 0, g = 0, n = 0;
    for (int i = 0; i < work.bands_per_image; i++) {
        const Band& band = work.bands[b * work.bands_per_image + i];
        p += band.dev_p, g += band.dev_g, n += band.weight;
    }
    Image& image = work.images[b];
    const Plan& plan = *work.plan;
    const auto scale = [&](double x) {
        // An infinite scale would make every pixel 0 and hide its cause.
        if (plan.alignment == ALIGN_MEDIAN && !std::isfinite(x)) return x - x;
        return plan.alignment == ALIGN_MEDIAN && plan.scale_floor_max ? (x < plan.eps ? plan.eps : x)
                                                                      : x + plan.eps;
    };
    image.inv_p = n != 0 ? 1 / scale(p / n) : 0;
    image.inv_g = n != 0 ? 1 / scale(g / n) : 0;
    image.fixed = plan.alignment == ALIGN_MEDIAN && plan.scale_floor_max && n > 0 && p / n < plan.eps;
}

// Slope and offset of a fit, as statistics of a residual.
void set_fit(const Work& work, int64_t b) {
    const Plan& plan = *work.plan;
    double p = 0, g = 0, pg = 0, pp = 0, n = 0, pixels = 0;
    for (int i = 0; i < work.bands_per_image; i++) {
        const Band& band = work.bands[b * work.bands_per_image + i];
        p += band.dev_p, g += band.dev_g, pg += band.covariance, pp += band.variance;
        n += band.weight, pixels += static_cast<double>(band.n_all);
    }
    Image& image = work.images[b];
    image.off = pixels < plan.min_pixels;
    image.inv_p = image.inv_g = 0;
    if (image.off || n == 0) {
        image.kept = 0;
        return;
    }
    const auto rounded = [&](double x) { return work.call->in_double ? x : double(static_cast<float>(x)); };
    const double covariance = pg - p * g / n, variance = std::max(pp - p * p / n, 0.0);
    const double mean_p = rounded(image.mu_p) + p / n, mean_g = rounded(image.mu_g) + g / n;
    image.mu_p = mean_p, image.mu_g = image.mean_g = mean_g;
    image.inv_g = 1;
    if (plan.alignment == ALIGN_LEAST_SQUARES) {
        const double eps = work.call->in_double ? std::numeric_limits<double>::epsilon()
                                                : double(std::numeric_limits<float>::epsilon()),
                     least = 4 * eps * mean_p;
        // A prediction that varies by no more than rounding; NaN goes on.
        image.fixed = variance / n <= least * least;
        image.spread = variance;
        image.inv_p = image.fixed ? 0 : covariance / variance;
    } else {
        image.spread = variance + plan.eps * n;
        image.slope = covariance / image.spread;
        const double slope = image.slope < 0.1 ? 0.1 : image.slope > 10 ? 10 : image.slope;
        image.inv_p = slope;
        image.mu_g = mean_g + (slope - image.slope) * mean_p;
    }
}

// The number that a key of the selection stands for.
double number_of(uint64_t key, bool in_double) {
    if (in_double) {
        const uint64_t raw = key >> 63 ? key ^ (uint64_t(1) << 63) : ~key;
        double x;
        memcpy(&x, &raw, sizeof x);
        return x;
    }
    const uint32_t k = static_cast<uint32_t>(key), raw = k >> 31 ? k ^ 0x80000000u : ~k;
    float x;
    memcpy(&x, &raw, sizeof x);
    return x;
}

// Goes on with the bin in which the number of that rank lies, and clears the bins.
void refine(Selection& s, int i, const Radix& radix, int64_t* bins) {
    int64_t at = 0, below = 0;
    for (; at < (1 << radix.width) - 1 && below + bins[at] <= s.rank[i]; at++) below += bins[at];
    s.rank[i] -= below, s.below[i] += below, s.ties[i] = bins[at];
    s.prefix[i] = s.prefix[i] << radix.width | static_cast<uint64_t>(at);
    std::fill(bins, bins + BINS, 0);
}

// Pixels that a trim keeps of n, as Python's int((1 - trim) * n).
double kept_of(double n, double trim) { return std::floor((1 - trim) * n); }

// The threshold of a trim, from the selection of the largest |r| that it keeps.
void set_trim(Image& image, const Selection& s, double kept, double image_kept, bool in_double) {
    image.kept = image_kept;
    image.tau = s.wanted ? number_of(s.prefix[0], in_double) : -1;
    image.share = s.wanted ? (kept - static_cast<double>(s.below[0])) / static_cast<double>(s.ties[0]) : 0;
}
