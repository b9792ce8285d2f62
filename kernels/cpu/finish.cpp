// Phase 4: from the bands' sums to the loss, the metrics and what the backward needs per image; in double.
//
//     kappa_k = w_G F / (normaliser_k + eps) / levels counted;  F = the factor of the term's group in the
//     total Kendall: total = sum exp(-s)/2 L + s/2, F = exp(-s)/2, d total/d s = 1/2 - exp(-s)/2 L
#include <algorithm>
#include <cmath>

#include "engine.h"

namespace {

double over(double x, double n) { return n != 0 ? x / n : 0; }
// A count as a divisor. A sum of weights may be any positive number.
double at_least_one(double n) { return n == 0 ? 1 : n; }

void merge(Spread& a, const Spread& b) {
    if (b.n == 0) return;
    const double n = a.n + b.n, d = b.mean - a.mean, part = b.n / n;
    a.mean += d * part;
    a.sum += b.sum + d * d * (a.n * part);
    a.n = n;
}

// The sums of an image over its bands, in their order.
Band band_sums(const Work& work, int64_t b) {
    Band total{};
    for (int i = 0; i < work.bands_per_image; i++) {
        const Band& x = work.bands[b * work.bands_per_image + i];
        total.n += x.n, total.n_abs += x.n_abs, total.n_all += x.n_all;
        total.weight += x.weight, total.weight_abs += x.weight_abs;
        total.absolute += x.absolute, total.p += x.p, total.g += x.g, total.visible += x.visible;
        for (int k = 0; k < MOST; k++) {
            merge(total.moment[k], x.moment[k]);
            total.pixel[k] += x.pixel[k], total.plain[k] += x.plain[k], total.again[k] += x.again[k];
        }
        total.dev_p += x.dev_p, total.dev_g += x.dev_g;
        total.relative += x.relative, total.plain_r += x.plain_r, total.sign_dev_r += x.sign_dev_r;
        total.confidence += x.confidence, total.sign_dev += x.sign_dev;
        total.slope += x.slope, total.slope_dev += x.slope_dev;
        total.sign_r += x.sign_r, total.sign_p += x.sign_p;
    }
    return total;
}

LevelBand level_sums(const Work& work, int64_t b, int k) {
    LevelBand total{};
    for (int i = 0; i < work.bands_per_image; i++) {
        const LevelBand& x = work.levels[(b * LEVELS + k) * work.bands_per_image + i];
        total.response += x.response, total.u_z += x.u_z, total.cells += x.cells;
        total.kept += x.kept, total.u_one += x.u_one;
    }
    return total;
}

// Of a moments term: its value, the root in it (1 without), and the factor n/(n - 1) that V holds if
// unbiased.
struct Moment {
    double value, root, factor;
};
Moment moment_of(const Spread& s, const Moments& term) {
    const double factor = term.unbiased ? s.n / (s.n > 2 ? s.n - 1 : 1) : 1;
    const double x = over(s.sum, s.n) * factor + term.mean_weight * s.mean * s.mean;
    if (!term.root) return {x, 1, factor};
    const double inner = x + term.eps, root = s.n != 0 && inner != 0 ? std::sqrt(inner) : 0;
    return {term.scale * root, root, factor};
}

// D_k(m) of one valid pixel: 1/(number of pixels that a cell samples).
double unit(const Plan& plan, int k) {
    if (plan.downsample == AVERAGE) return 1.0 / static_cast<double>(int64_t(1) << (2 * k));
    return plan.downsample == BILINEAR && k ? 0.25 : 1;
}

// What the sum of a pixel term is divided by.
double norm_of(int norm, double eps, double n, double floored, double images) {
    if (norm == BY_IMAGES) return at_least_one(images);
    if (norm == BY_IMAGES_SUM) return 1;
    if (norm == BY_FLOORED) n = floored;
    return eps > 0 ? n + eps : at_least_one(n);
}

bool by_image(int norm) { return norm == BY_IMAGES || norm == BY_IMAGES_SUM; }

// What a level of the gradient term is divided by, but for its eps.
double normaliser(const Plan& plan, int k, double n, double kept, double cells) {
    if (plan.normalizer == FULL) return n;
    if (plan.normalizer == LEVEL && plan.gradient_mask != SUPPORT)
        return cells * (plan.gradient_mask == RESIDUAL ? unit(plan, k) : 1);
    return kept;
}
// With it; infinite for a level that counts nothing.
double divisor(const Plan& plan, double norm, double kept) {
    if (!(norm > 0 && kept > 0)) return INFINITY;
    return plan.normalizer == KEPT ? norm : norm + plan.gradient_eps;
}

double clamped(double v, const Plan& plan) { return std::min(std::max(v, plan.low), plan.high); }

// The value of every term and its metric, the levels of the gradient term, and what the backward needs of
// them; `images` is what a mean of images divides by.
struct Numbers {
    double term[VALUES] = {}, shown[VALUES] = {};
    double level[LEVELS] = {}, kept[LEVELS] = {}, kappa[LEVELS] = {};
    double counted = 1, n = 0, n_all = 0, images = 0, norm_a = 1, norm_r = 1, norm[MOST] = {};
    Spread spread[MOST] = {};
    Moment moment[MOST] = {};
};

double joined(const Call& call, int item) {
    double total = 0;
    for (int r = 0; r < call.world; r++) total += call.totals[r * TOTALS + item];
    return total;
}

Spread joined_spread(const Call& call, int mean, int spread) {
    Spread total{};
    for (int r = 0; r < call.world; r++) {
        const double* t = call.totals + r * TOTALS;
        merge(total, {t[T_STATISTICS], t[mean], t[spread]});
    }
    return total;
}

void gradient_term(const Plan& plan, const Call& call, Numbers& v) {
    const double fitted = joined(call, T_FITTED);
    double counted = 0, sum = 0;
    for (int k = 0; k < plan.levels; k++) {
        const double kept = joined(call, T_KEPT + k);
        v.kept[k] = kept;
        const double norm = normaliser(plan, k, fitted, kept, joined(call, T_CELLS + k)),
                     by = plan.gradient_images ? at_least_one(v.images) : divisor(plan, norm, kept);
        v.kappa[k] = 1 / by;
        v.level[k] = std::isinf(by) ? 0 : joined(call, T_RESPONSE + k) / by;
        sum += v.level[k];
        counted += kept > 0;
    }
    if (plan.mean) {
        v.counted = plan.gradient_mask == SUPPORT ? std::max(counted, 1.0) : plan.levels;
        for (double& kappa : v.kappa) kappa /= v.counted;
        sum /= v.counted;
    }
    v.term[GRADIENT] = sum + joined(call, T_VISIBLE);
}

Numbers numbers_of(const Work& work) {
    const Plan& plan = *work.plan;
    const Call& call = *work.call;
    Numbers v;
    v.n = joined(call, T_COUNT), v.n_all = joined(call, T_STATISTICS), v.images = joined(call, T_IMAGES);
    const double n_abs = joined(call, T_ABS_COUNT), floored = joined(call, T_ABS_FLOORED);
    if (plan.has_absolute) {
        v.norm_a = norm_of(plan.absolute_norm, plan.absolute_eps, n_abs, floored, v.images);
        v.term[ABSOLUTE] = joined(call, T_ABSOLUTE) / v.norm_a;
    }
    if (plan.has_relative) {
        const bool batch = plan.relative.trim > 0 && plan.relative.trim_batch;
        const double n = batch ? work.batch_kept : joined(call, T_ALIGNED);
        v.norm_r = norm_of(plan.relative.norm, plan.relative.eps, n, floored, v.images);
        v.term[RELATIVE] = joined(call, T_RELATIVE) / v.norm_r;
    }
    if (plan.has_gradient) gradient_term(plan, call, v);
    for (int i = 0; i < plan.moments; i++) {
        const Moments& term = plan.moment[i];
        if (term.images) {
            v.term[MOMENTS + i] = joined(call, T_MEAN + i) / (term.images_sum ? 1 : at_least_one(v.images));
            continue;
        }
        v.spread[i] = joined_spread(call, T_MEAN + i, T_SPREAD + i);
        v.moment[i] = moment_of(v.spread[i], term);
        v.term[MOMENTS + i] = v.moment[i].value;
    }
    for (int i = 0; i < plan.pixels; i++) {
        const Pixel& term = plan.pixel[i];
        const double again = term.counts ? joined(call, T_AGAIN + i) : 0;
        v.norm[i] = norm_of(term.norm, term.eps, (term.absolute ? n_abs : v.n_all) + again, floored + again,
                            v.images);
        v.term[PIXELS + i] = joined(call, T_PIXEL + i) / v.norm[i];
    }
    for (int i = 0; i < VALUES; i++) v.shown[i] = v.term[i];
    if (plan.has_relative && plan.relative.confident)
        v.shown[RELATIVE] = joined(call, T_PLAIN_RELATIVE) / v.norm_r;
    for (int i = 0; i < plan.pixels; i++)
        if (plan.pixel[i].confident) v.shown[PIXELS + i] = joined(call, T_PLAIN + i) / v.norm[i];
    return v;
}

void put(const Call& call, void* to, int i, double value) {
    if (call.in_double)
        static_cast<double*>(to)[i] = value;
    else
        static_cast<float*>(to)[i] = static_cast<float>(value);
}

// Adds up the groups; leaves the metrics, the gradients of the log-variances, and each term's factor.
void add_groups(const Plan& plan, const Call& call, const Numbers& v, double* factor) {
    double total = 0, precisions = 0;
    const bool kendall = plan.num_log_vars > 0;
    const auto term = [&](int slot, double value) { put(call, call.terms, slot, value); };
    for (int i = 0; i < plan.num_log_vars; i++) precisions += std::exp(-clamped(call.log_vars[i], plan));
    for (int i = 0; i < plan.groups; i++) {
        const Group& group = plan.group[i];
        const bool open = v.n >= group.min_valid, on = open && v.n >= 1;
        const double s = kendall ? clamped(call.log_vars[i], plan) : 0, precision = std::exp(-s);
        const double outer = kendall ? (on ? 0.5 * precision : 0) : call.weights[group.weight];
        double loss = 0;
        for (int e = 0; e < group.entries; e++) {
            const Entry& entry = group.entry[e];
            const bool gate = open || entry.always;
            const double weight = call.weights[entry.weight], value = gate ? v.term[entry.place] : 0;
            term(entry.slot, gate ? v.shown[entry.place] : 0);
            if (entry.weight_slot >= 0) term(entry.weight_slot, weight);
            if (entry.place == GRADIENT && plan.parts) {
                const int part = entry.slot + 1 + (entry.weight_slot >= 0);
                for (int k = 0; k < plan.levels; k++) {
                    term(part + k, gate ? v.level[k] : 0);
                    term(part + plan.levels + k, gate || plan.gradient_mask == RESIDUAL ? v.kept[k] : 0);
                }
            }
            loss += weight * value;
            factor[entry.place] = gate ? outer * weight : 0;
        }
        if (group.slot >= 0) term(group.slot, loss);
        if (kendall) {
            if (on) total += 0.5 * precision * loss + 0.5 * s;
            call.coefficients[LOG_VAR + i] = on ? 0.5 - 0.5 * precision * loss : 0;
            term(group.sigma_slot, std::exp(0.5 * s));
            term(group.weight_slot, precision / precisions);
        } else
            total += outer * loss;
    }
    term(plan.count_slot, v.n);
    term(plan.total_slot, total);
    if (plan.confidence_slot >= 0) term(plan.confidence_slot, joined(call, T_CONFIDENCE) / at_least_one(v.n));
    if (!plan.by_image) put(call, call.total, 0, total);
}

// What the sum of an image's pixels is divided by in a mean of images.
double pixels_of(const Band& sums, const Pixel& term, int i) {
    return at_least_one((term.absolute ? sums.weight_abs : sums.weight) + static_cast<double>(sums.again[i]));
}

// What the structure terms' backward needs: U0 = sum u, U1 = sum u (p - mu), u = dL/dr.
void structure_coefficients(const Work& work, int64_t b, const Band& sums, const Numbers& v, const double* f,
                            const double* kappa, double* c) {
    const Plan& plan = *work.plan;
    const Image& image = work.images[b];
    const double n = sums.weight;
    const bool aligned = plan.alignment != ALIGN_NONE;
    double w_r = f[RELATIVE] / v.norm_r;
    if (by_image(plan.relative.norm)) w_r /= at_least_one(image.kept);
    if (image.off) return;
    c[REL_WEIGHT] = w_r;
    // Selected, not multiplied: a term that is left out must not add its NaN.
    if (w_r == 0 && f[GRADIENT] == 0) return;
    c[SCALE] = image.inv_p;
    c[MU_P] = image.mu_p, c[MU_G] = image.mu_g, c[INV_P] = image.inv_p, c[INV_G] = image.inv_g;
    c[TAU] = image.tau, c[SHARE] = image.share;
    double one = 0, z = 0;
    for (int k = 0; plan.has_gradient && k < plan.levels; k++) {
        if (kappa[k] == 0) continue;
        const LevelBand level = level_sums(work, b, k);
        double weight = kappa[k];
        if (plan.gradient_images) {
            const double kept = static_cast<double>(level.kept);
            weight /=
                divisor(plan, normaliser(plan, k, static_cast<double>(sums.n_all), kept, level.cells), kept);
        }
        c[LEVEL_WEIGHT + k] = weight;
        z += weight * level.u_z;
        one += weight * unit(plan, k) * static_cast<double>(level.u_one);
    }
    if (!aligned || n == 0) return;
    const bool weighted = weighs(plan, *work.call);
    if (w_r != 0) {
        const bool weighed = !plan.of_signs || plan.relative.trim > 0 || weighted;
        one += w_r * (weighed ? sums.slope : static_cast<double>(sums.sign_r));
        z += w_r * (weighed ? sums.slope_dev : sums.sign_dev_r);
    }
    if (plan.alignment == ALIGN_MEAN || plan.alignment == ALIGN_MEDIAN) {
        z *= image.inv_p;
        if (image.fixed) z = 0;
        c[SIGN_WEIGHT] = z / n;
        const double shift = one - (weighted ? sums.sign_dev : static_cast<double>(sums.sign_p)) / n * z;
        if (plan.alignment == ALIGN_MEAN)
            c[MEAN_WEIGHT] = shift / n;
        else if (!plan.detached)
            c[TIE_WEIGHT] = shift / image.ties;
        return;
    }
    const bool fit = plan.alignment == ALIGN_LEAST_SQUARES;
    if (image.fixed) return;  // The slope is 0, and so is the gradient.
    const double a0 = fit ? image.inv_p : image.slope;
    const bool free = fit || (a0 >= 0.1 && a0 <= 10);
    const double by = (fit ? z : (free ? z : 0) - (free ? 0 : image.mu_p * one)) / image.spread;
    c[BY_G] = by, c[BY_P] = -2 * a0 * by;
    // The backward takes g - mu_g, and multiplies by the slope.
    c[MEAN_WEIGHT] = image.inv_p != 0 ? (a0 * one / n - by * (image.mu_g - image.mean_g)) / image.inv_p : 0;
}

void image_coefficients(const Work& work, int64_t b, const Numbers& v, const double* f, const double* kappa) {
    const Plan& plan = *work.plan;
    const Call& call = *work.call;
    double* c = call.coefficients + HEAD + b * COEFFICIENTS;
    std::fill(c, c + COEFFICIENTS, 0.0);
    const Band sums = band_sums(work, b);
    const double images = at_least_one(v.images);
    if (plan.has_absolute) {
        c[ABS_WEIGHT] = f[ABSOLUTE] / v.norm_a;
        if (by_image(plan.absolute_norm)) c[ABS_WEIGHT] /= at_least_one(sums.weight_abs);
    }
    if (plan.codes) structure_coefficients(work, b, sums, v, f, kappa, c);
    for (int i = 0; i < plan.moments; i++) {
        const Moments& term = plan.moment[i];
        const double factor = f[MOMENTS + i];
        if (factor == 0) continue;
        const Spread& spread = term.images ? sums.moment[i] : v.spread[i];
        const Moment moment = term.images ? moment_of(spread, term) : v.moment[i];
        const double whole =
            factor * (term.root ? term.scale : 2) / (term.images && !term.images_sum ? images : 1);
        const double slope = over(over(whole, spread.n), moment.root);
        c[MOMENTS_SLOPE + i] = slope * moment.factor;
        c[MOMENTS_CENTRE + i] = spread.mean;
        c[MOMENTS_SHIFT + i] = slope * term.mean_weight * spread.mean;
    }
    for (int i = 0; i < plan.pixels; i++) {
        const Pixel& term = plan.pixel[i];
        c[PIXEL_WEIGHT + i] = f[PIXELS + i] / v.norm[i];
        if (by_image(term.norm)) c[PIXEL_WEIGHT + i] /= pixels_of(sums, term, i);
    }
}

// The same for the losses of the images: their mean is taken for the metrics only.
Numbers of_images(Numbers v) {
    v.images = v.norm_a = v.norm_r = 1;
    for (double& norm : v.norm) norm = 1;
    for (double& kappa : v.kappa) kappa = 1 / v.counted;
    return v;
}

void put_coefficients(const Work& work, const Numbers& v, const double* factor) {
    const Plan& plan = *work.plan;
    const Call& call = *work.call;
    double kappa[LEVELS];
    for (int k = 0; k < LEVELS; k++)
        kappa[k] = call.coefficients[KAPPA + k] = factor[GRADIENT] == 0 ? 0 : v.kappa[k] * factor[GRADIENT];
    for (int i = 0; i < plan.pixels; i++)
        if (plan.pixel[i].largest) call.coefficients[LARGEST + i] = call.largest[i];
    for (int64_t b = 0; b < call.B; b++) image_coefficients(work, b, v, factor, kappa);
}

// What an image adds to the totals: its values, where a term is by image, or its sums.
struct Share {
    double value[VALUES] = {}, plain[VALUES] = {}, visible = 0;
    double level[LEVELS] = {}, kept[LEVELS] = {}, cells[LEVELS] = {};
};

Share share_of(const Work& work, int64_t b, const Band& sums) {
    const Plan& plan = *work.plan;
    const Image& image = work.images[b];
    const double n = static_cast<double>(sums.n_all);
    Share share;
    share.value[ABSOLUTE] =
        by_image(plan.absolute_norm) ? sums.absolute / at_least_one(sums.weight_abs) : sums.absolute;
    if (plan.has_relative && !image.off) {
        const double by = by_image(plan.relative.norm) ? at_least_one(image.kept) : 1;
        share.value[RELATIVE] = sums.relative / by, share.plain[RELATIVE] = sums.plain_r / by;
    }
    // 0, or NaN if a valid pixel of the gradient term is.
    if (!image.off) share.visible = 0 * (plan.alignment != ALIGN_NONE ? sums.p + sums.g : sums.visible);
    for (int i = 0; i < plan.moments; i++)
        if (plan.moment[i].images) share.value[MOMENTS + i] = moment_of(sums.moment[i], plan.moment[i]).value;
    for (int i = 0; i < plan.pixels; i++) {
        const Pixel& term = plan.pixel[i];
        const double by = by_image(term.norm) ? pixels_of(sums, term, i) : 1;
        share.value[PIXELS + i] = sums.pixel[i] / by, share.plain[PIXELS + i] = sums.plain[i] / by;
    }
    for (int k = 0; k < plan.levels; k++) {
        const LevelBand level = level_sums(work, b, k);
        const double kept = static_cast<double>(level.kept);
        const double by =
            plan.gradient_images ? divisor(plan, normaliser(plan, k, n, kept, level.cells), kept) : 1;
        if (image.off && plan.gradient_mask != RESIDUAL) continue;
        share.kept[k] = kept;
        if (image.off) continue;
        share.level[k] = std::isinf(by) ? 0 : level.response / by;
        share.cells[k] = level.cells;
    }
    return share;
}

// The losses of the images, each the sum of its terms' values.
void put_images(const Work& work, const Numbers& v, const double* factor) {
    const Plan& plan = *work.plan;
    const Call& call = *work.call;
    for (int64_t b = 0; b < call.B; b++) {
        Share share = share_of(work, b, band_sums(work, b));
        for (int k = 0; k < plan.levels; k++) share.value[GRADIENT] += share.level[k] / v.counted;
        share.value[GRADIENT] += share.visible;
        double total = 0;
        // Selected, not multiplied: a group that is left out must not add its NaN.
        for (int i = 0; i < plan.groups; i++)
            for (int e = 0; v.n >= plan.group[i].min_valid && e < plan.group[i].entries; e++) {
                const int place = plan.group[i].entry[e].place;
                total += factor[place] * share.value[place];
            }
        put(call, call.total, static_cast<int>(b), total);
    }
}

}  // namespace

// The totals of this rank's batch.
void collect(const Work& work, double* totals) {
    const Plan& plan = *work.plan;
    Spread pooled[MOST] = {};
    std::fill(totals, totals + TOTALS, 0.0);
    totals[T_IMAGES] = static_cast<double>(work.call->B);
    for (int64_t b = 0; b < work.call->B; b++) {
        const Band sums = band_sums(work, b);
        const Image& image = work.images[b];
        const Share share = share_of(work, b, sums);
        totals[T_COUNT] += static_cast<double>(sums.n);
        totals[T_ABS_COUNT] += sums.weight_abs;
        totals[T_ABS_FLOORED] += at_least_one(sums.weight_abs);
        totals[T_STATISTICS] += sums.weight;
        totals[T_CONFIDENCE] += sums.confidence;
        totals[T_ABSOLUTE] += share.value[ABSOLUTE];
        totals[T_RELATIVE] += share.value[RELATIVE];
        totals[T_PLAIN_RELATIVE] += share.plain[RELATIVE];
        totals[T_ALIGNED] += image.kept;
        totals[T_FITTED] += image.off ? 0 : static_cast<double>(sums.n_all);
        totals[T_VISIBLE] += share.visible;
        for (int i = 0; i < plan.moments; i++)
            if (plan.moment[i].images)
                totals[T_MEAN + i] += share.value[MOMENTS + i];
            else
                merge(pooled[i], sums.moment[i]);
        for (int i = 0; i < plan.pixels; i++) {
            totals[T_PIXEL + i] += share.value[PIXELS + i];
            totals[T_PLAIN + i] += share.plain[PIXELS + i];
            totals[T_AGAIN + i] += static_cast<double>(sums.again[i]);
        }
        for (int k = 0; k < plan.levels; k++) {
            totals[T_KEPT + k] += share.kept[k];
            totals[T_RESPONSE + k] += share.level[k];
            totals[T_CELLS + k] += share.cells[k];
        }
    }
    for (int i = 0; i < plan.moments; i++)
        if (!plan.moment[i].images) totals[T_MEAN + i] = pooled[i].mean, totals[T_SPREAD + i] = pooled[i].sum;
}

// The loss, the metrics and the coefficients, from the totals of all ranks.
void combine(const Work& work) {
    const Plan& plan = *work.plan;
    const Call& call = *work.call;
    const Numbers v = numbers_of(work);
    double factor[VALUES] = {};
    add_groups(plan, call, v, factor);
    if (plan.by_image) {
        put_images(work, v, factor);
        if (call.saves) put_coefficients(work, of_images(v), factor);
    } else if (call.saves) {
        // Every rank has the same loss, and DDP averages: hence the factor world size.
        for (double& f : factor) f *= call.world;
        put_coefficients(work, v, factor);
    }
}
