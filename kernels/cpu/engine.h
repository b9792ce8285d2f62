// What the phases of the engine share beside layout.h, which is what its callers know too.
#pragma once
#include "layout.h"

// Whether the quantity of a domain is the input.
static inline bool as_given(const Domain& d) {
    return d.conversion == IDENTITY && !d.has_minimum && !d.has_maximum && !d.has_log;
}

// Whether nearest cells of levels up to k sample every second one of the level below, along both axes.
static inline bool nests(const Call& call, int k) {
    const int64_t f = int64_t(1) << k;
    return call.W % f == 0 && call.H % f == 0;
}

// Whether lines have weights: those that are given, or ones beside a confidence.
static inline bool weighs(const Plan& plan, const Call& call) {
    return call.weight.dtype != NONE || plan.confident;
}

// The larger of two; NaN if one is.
static inline double larger(double a, double b) { return a != a || a >= b ? a : b; }

// Sums of a band of an image. Each mean comes with its number of pixels, or the sum of their weights.
struct Spread {
    double n, mean, sum;  // sum of squared differences from the mean
};

// Written by neighbouring threads: each gets its own cache lines.
constexpr int APART = 128;

struct alignas(APART) Band {
    int64_t n, n_abs, n_all;
    double weight, weight_abs;  // n_all and n_abs, with weights their sums; so is every sum below
    double base_p, base_g;      // a valid pixel of it: p and g are sums of differences from them
    double absolute, p, g, visible;
    Spread moment[MOST];
    double pixel[MOST], largest[MOST];
    int64_t again[MOST];          // pixels that count once more
    double plain[MOST], plain_r;  // of terms with a confidence: the sums without it
    double confidence;            // sum of c over the valid pixels
    double dev_p, dev_g;          // of a fit: sums of p - mu and g - mu, which rounding leaves
    double covariance, variance;  // sums of (p - mu)(g - mu), (p - mu)^2
    double relative, sign_dev_r;  // sum |r|, sum sign(r) (p - mu)
    double slope, slope_dev;      // sum phi'(r), sum phi'(r) (p - mu), where signs do not say it
    int64_t sign_r, sign_p;
    double sign_dev;  // sign_p where pixels have weights
};

struct alignas(APART) LevelBand {
    double response, u_z, cells;
    int64_t kept, u_one;
};

// What an image's residual is made with, (p - mu_p) inv_p - (g - mu_g) inv_g, and what the backward needs of
// its alignment and its trim.
struct Image {
    double mu_p, mu_g, inv_p, inv_g;
    double ties;            // pixels at the median of p
    double mean_g, spread;  // of a fit: mean of g, what its slope was divided by
    double slope;           // of packnet-trim: before its clamp
    double tau, share;      // the largest |r| that a trim keeps, and how much a pixel there counts
    double kept;            // the pixels that the relative term counts, or the sum of their weights
    bool fixed, off;        // S is its floor; too few pixels
};

// Bits of the keys that a pass of the selection looks at.
constexpr int BINS = 2048;
struct Radix {
    int shift, width;
};
static inline Radix radix_of(bool in_double, int pass) {
    constexpr Radix single[] = {{21, 11}, {10, 11}, {0, 10}};
    constexpr Radix twice[] = {{53, 11}, {42, 11}, {31, 11}, {20, 11}, {10, 10}, {0, 10}};
    return in_double ? twice[pass] : single[pass];
}
static inline int radix_passes(bool in_double) { return in_double ? 6 : 3; }

// Where the selection of an image is: of p and g, or of |r|.
struct Selection {
    uint64_t prefix[2];
    int64_t rank[2], below[2], ties[2];
    bool wanted;
};

// Where the parts of `codes` of an image lie: one byte a pixel, the adjoint of level 0, the coarse levels.
struct Layout {
    int64_t code, adjoint, cells[LEVELS], size, h[LEVELS], w[LEVELS];
    int active[LEVELS];
};

constexpr int HALO = 2;     // rows above and below that an adjoint reads
constexpr int MARGIN = 64;  // elements before and behind a row
constexpr int EDGE = 16;    // the same of a row of a pyramid, which there are many of

// The maps of the levels k >= 1 of one image, freed after the forward: rows of `stride` with a margin. They
// hold as many rows as are in flight: row y lies at y % rows.
struct Pyramid {
    void* residual[LEVELS];
    void* centred[LEVELS];
    uint16_t* count[LEVELS];  // pixels that a cell samples: valid ones; of mask centre the ones it reads
    uint8_t* half[LEVELS];    // mask centre: more than half valid
    int64_t stride[LEVELS], rows[LEVELS];
    int64_t place(int k, int64_t y) const {
        const int64_t row = y < rows[k] ? y : y % rows[k];  // Mostly all are there; a division takes long.
        return row * stride[k] + EDGE;
    }
};

// Everything a phase needs for one image.
struct Work {
    const Plan* plan;
    const Call* call;
    const Layout* layout;
    const int* columns[LEVELS];  // nearest, and not all levels nest: the column that a cell samples
    Image* images;
    Band* bands;        // [B, bands]
    LevelBand* levels;  // [B, LEVELS, bands]
    Pyramid* pyramids;  // of the images in flight
    int64_t first;      // the first of them
    int bands_per_image;
    Selection* selections;
    int64_t* histograms;  // of the images in flight, two each
    int pass;
    bool of_residual;
    double batch_kept;  // pixels that a trim over the batch keeps, of all ranks
};

// The phases for one instruction set and one arithmetic type; `arena` is memory of the thread.
struct Phases {
    void (*largest)(const Work&, int64_t b, int band, char* arena);
    void (*moments)(const Work&, int64_t b, int band, char* arena);
    void (*deviations)(const Work&, int64_t b, int band, char* arena);
    void (*products)(const Work&, int64_t b, int band, char* arena);
    void (*count)(const Work&, int64_t b, int band, char* arena);
    void (*structure)(const Work&, int64_t b, int band, char* arena);
    void (*level)(const Work&, int64_t b, int k, int band, char* arena);
    void (*gradient)(const Work&, int64_t b, int band, char* arena);
    int64_t (*arena_bytes)(int64_t w);
};

// Phase 1 and 2 of an image, from the sums of its bands: what its residual is made with.
void set_means(const Work& work, int64_t b);
void set_scales(const Work& work, int64_t b);
void set_fit(const Work& work, int64_t b);
// The selection: the number that a key stands for; a pass; the pixels that a trim keeps, and its threshold.
double number_of(uint64_t key, bool in_double);
void refine(Selection& s, int i, const Radix& radix, int64_t* bins);
double kept_of(double n, double trim);
void set_trim(Image& image, const Selection& s, double kept, double image_kept, bool in_double);

// Phase 4.
void collect(const Work& work, double* totals);
void combine(const Work& work);
