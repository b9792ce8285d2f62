// What the phases of the engine share beside layout.h, which is what its callers know too.
#pragma once
#include "layout.h"

// Whether nearest cells of levels up to k sample every second one of the level below, along both axes.
static inline bool nests(const Call& call, int k) {
    const int64_t f = int64_t(1) << k;
    return call.W % f == 0 && call.H % f == 0;
}

// The larger of two; NaN if one is.
static inline double larger(double a, double b) { return a != a || a >= b ? a : b; }

// Sums of a band of an image. Each mean comes with its number of pixels.
struct Spread {
    double n, mean, sum;  // sum of squared differences from the mean
};

// Written by neighbouring threads: each gets its own cache lines.
constexpr int APART = 128;

struct alignas(APART) Band {
    int64_t n, n_abs, n_all;
    double base_p, base_g;  // a valid pixel of it: p and g are sums of differences from them
    double absolute, p, g, visible;
    Spread moment[MOST];
    double pixel[MOST], largest[MOST];
    int64_t again[MOST];  // pixels that count once more
    double dev_p, dev_g;
    double relative, sign_dev_r;  // sum |r|, sum sign(r) (p - mu)
    int64_t sign_r, sign_p;
};

struct alignas(APART) LevelBand {
    double response, u_z, cells;
    int64_t kept, u_one;
};

// Statistics of one image, in the order in which the phases need them.
struct Image {
    double mu_p, mu_g, inv_p, inv_g;
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
};

// The phases for one instruction set and one arithmetic type; `arena` is memory of the thread.
struct Phases {
    void (*largest)(const Work&, int64_t b, int band, char* arena);
    void (*moments)(const Work&, int64_t b, int band, char* arena);
    void (*deviations)(const Work&, int64_t b, int band, char* arena);
    void (*structure)(const Work&, int64_t b, int band, char* arena);
    void (*level)(const Work&, int64_t b, int k, int band, char* arena);
    void (*gradient)(const Work&, int64_t b, int band, char* arena);
    int64_t (*arena_bytes)(int64_t w);
};

void collect(const Work& work, double* totals);
void combine(const Work& work);
