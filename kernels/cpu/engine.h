// The plain C interface of the engine, and what its phases share. Plain data only: binding.py mirrors it.
#pragma once
#include <cstdint>

constexpr int LEVELS = 6;
constexpr int MOST = 4;  // moments terms, and pixel terms, beside the structure
constexpr int GROUPS = 3 + 2 * MOST;
constexpr int ENTRIES = 3 + 2 * MOST;
constexpr int BAND = 64;  // rows that are summed on their own: the same for any number of threads

// Where the value of a term lies among those of a loss.
enum Value { ABSOLUTE, RELATIVE, GRADIENT, MOMENTS, PIXELS = MOMENTS + MOST, VALUES = PIXELS + MOST };
enum Dtype { FLOAT32, FLOAT64, FLOAT16, BFLOAT16, BOOL, BYTE, NONE };
enum Conversion { IDENTITY, INVERSE, SHIFTED };
enum SobelMask { RESIDUAL, CENTRE, SUPPORT };
enum Downsample { NEAREST, AVERAGE, BILINEAR };
enum Border { VALID, ZERO, REPLICATE };
enum Normalizer { FULL, LEVEL, KEPT };
// What the sum of a pixel term is divided by: its pixels, the images after each one's pixels, or its pixels
// with at least one an image.
enum Norm { BY_PIXELS, BY_IMAGES, FLOORED };

extern "C" {

// A map [B, H, W]; strides in elements. BOOL bytes are 0 or 1, BYTE anything; NONE is no mask.
struct Map {
    void* data;
    int64_t stride[3];
    int32_t dtype, unused;
};

struct Domain {
    int32_t conversion, has_minimum, has_maximum, has_log, has_floor, unused;
    double minimum, maximum, log, floor;
};

// A penalty is numbered by its place in penalty.hpp.
struct Pixel {
    int32_t penalty, norm, absolute, largest, counts, unused;
    double a, b, eps;
    Domain domain;
};

struct Moments {
    int32_t root, unbiased, images, unused;
    double mean_weight, scale, eps;
    Domain domain;
};

// A term in its group: where its value lies, which weight is its own, where its metrics go (-1: nowhere).
struct Entry {
    int32_t value, weight, slot, weight_slot, always, unused;
};

struct Group {
    int32_t entries, min_valid, weight, slot, sigma_slot, weight_slot;
    Entry entry[ENTRIES];
};

// A loss as depthloss.kernels.plan lays it out.
struct Plan {
    int32_t codes, has_absolute, has_relative, has_gradient, pixels, moments, largest;
    int32_t standardised, all_pixels, positive_gt, absolute_norm, relative_norm;
    int32_t mask, downsample, border, normalizer, mean, levels, parts;
    int32_t groups, num_log_vars, num_metrics, count_slot, total_slot;
    double eps, absolute_eps, relative_eps, gradient_eps;
    double low, high;  // bounds of the log-variances
    Domain structure;
    Pixel pixel[MOST];
    Moments moment[MOST];
    Group group[GROUPS];
};

// One call. `codes` and `coefficients` are what the forward keeps for the backward.
struct Call {
    Map pred, gt, mask, abs_mask, grad;
    int64_t B, H, W;
    int32_t wide;   // arithmetic in double
    int32_t saves;  // a backward will follow
    int32_t threads, world;
    const double* weights;
    const double* log_vars;
    const double* largest;  // [MOST] residuals of the batch, where a penalty needs them
    double* totals;         // [world, TOTALS]
    void* terms;     // [num_metrics] and one number, in the type of the arithmetic
    void* total;
    uint8_t* codes;
    double* coefficients;
    double grad_output;
};
}

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

// Totals that ranks exchange.
enum Total {
    T_IMAGES,
    T_COUNT,
    T_ABS_COUNT,
    T_ABS_FLOORED,
    T_STATISTICS,
    T_ABSOLUTE,
    T_RELATIVE,
    T_VISIBLE,
    T_MEAN,  // by images: the sum of the images' values
    T_SPREAD = T_MEAN + MOST,
    T_PIXEL = T_SPREAD + MOST,
    T_AGAIN = T_PIXEL + MOST,
    T_RESPONSE = T_AGAIN + MOST,
    T_KEPT = T_RESPONSE + LEVELS,
    T_CELLS = T_KEPT + LEVELS,
    TOTALS = T_CELLS + LEVELS
};

// `coefficients`: HEAD numbers of the batch, then COEFFICIENTS per image.
enum Coefficient {
    ABS_WEIGHT,
    REL_WEIGHT,
    SCALE,
    MEAN_WEIGHT,
    SIGN_WEIGHT,
    MOMENTS_SLOPE,
    MOMENTS_CENTRE = MOMENTS_SLOPE + MOST,
    MOMENTS_SHIFT = MOMENTS_CENTRE + MOST,
    PIXEL_WEIGHT = MOMENTS_SHIFT + MOST,
    COEFFICIENTS = PIXEL_WEIGHT + MOST
};
constexpr int KAPPA = 0, LOG_VAR = LEVELS, LARGEST = LOG_VAR + GROUPS, HEAD = LARGEST + MOST;

void collect(const Work& work, double* totals);
void combine(const Work& work);

// Bits of a pixel's code: a sign + 1 at each of the first three, then flags.
constexpr int SIGN_R = 0, SIGN_D = 2, SIGN_P = 4, VALID_BIT = 64, READ_BIT = 128;
// A coarse cell: the adjoint + 16, and above it the count - 1.
constexpr int ADJOINT_BITS = 6, ADJOINT_ZERO = 16;
