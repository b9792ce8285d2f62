"""Phase 4a: from the partial sums of the programs to the totals of this rank's batch, in fixed order.

    N = sum n_b;  mean = sum n_j mean_j / N;  spread = sum spread_j + n_j (mean_j - mean)^2  (Chan)

`totals` [TOTALS] is what ranks exchange: the finishing phase reads one row per rank. Traffic: the partial
sums.
"""

import triton
import triton.language as tl

from .. import layout
from .device import at_least_one, divide, share, spread_about
from .levels import level_of, unit
from .moments import (
    ABS_COUNT,
    ABSOLUTE,
    CONFIDENCE,
    COUNT,
    MEAN,
    MEAN_G,
    MEAN_P,
    PIXEL,
    PIXEL_COUNT,
    PLAIN,
    RESIDUAL,
    SPREAD,
    STATISTICS,
)
from .pyramid import IMAGE, KEPT
from .sobel import CELLS, KEPT_RESPONSES, REL, REL_PLAIN, RESPONSE

T_IMAGES = tl.constexpr(layout.TOTAL["IMAGES"])
T_COUNT = tl.constexpr(layout.TOTAL["COUNT"])
T_ABS_COUNT = tl.constexpr(layout.TOTAL["ABS_COUNT"])
T_ABS_FLOORED = tl.constexpr(layout.TOTAL["ABS_FLOORED"])  # sum over images of max(n_b, 1)
T_STATISTICS = tl.constexpr(layout.TOTAL["STATISTICS"])
T_ABSOLUTE = tl.constexpr(layout.TOTAL["ABSOLUTE"])
T_RELATIVE = tl.constexpr(layout.TOTAL["RELATIVE"])
T_VISIBLE = tl.constexpr(layout.TOTAL["VISIBLE"])  # NaN if a valid pixel of the structure terms is
T_ALIGNED = tl.constexpr(
    layout.TOTAL["ALIGNED"]
)  # pixels that the relative term counts, before a trim of all
T_FITTED = tl.constexpr(layout.TOTAL["FITTED"])  # of images that are large enough
T_MEAN = tl.constexpr(layout.TOTAL["MEAN"])  # of the moments terms; by images: the sum of the images' values
T_SPREAD = tl.constexpr(layout.TOTAL["SPREAD"])
T_PIXEL = tl.constexpr(layout.TOTAL["PIXEL"])  # of the pixel terms, as the next
T_PIXEL_COUNT = tl.constexpr(layout.TOTAL["AGAIN"])
T_RESPONSE = tl.constexpr(layout.TOTAL["RESPONSE"])  # of the levels, as the next two
T_KEPT = tl.constexpr(layout.TOTAL["KEPT"])
T_CELLS = tl.constexpr(layout.TOTAL["CELLS"])
# Of the terms with a confidence: without it; and the sum of the confidences.
T_PLAIN = tl.constexpr(layout.TOTAL["PLAIN"])
T_PLAIN_RELATIVE = tl.constexpr(layout.TOTAL["PLAIN_RELATIVE"])
T_CONFIDENCE = tl.constexpr(layout.TOTAL["CONFIDENCE"])
TOTALS = tl.constexpr(layout.TOTAL["SIZE"])


@triton.jit
def programs(part, row, b, B, NP, R, NPP: tl.constexpr):
    """Row `row` of the images b [BC]: [BC, NPP], 0 where there is no such image or program."""
    o = tl.arange(0, NPP)[None, :]
    return tl.load(part + row * R + b[:, None] * NP + o, mask=(b[:, None] < B) & (o < NP), other=0.0)


@triton.jit
def per_image(part, row, b, B, NP, R, NPP: tl.constexpr):
    """Sums over the programs of the images b: [BC]."""
    return tl.sum(programs(part, row, b, B, NP, R, NPP), 1)


@triton.jit
def per_image_count(part, row, b, B, NP, R, NPP: tl.constexpr):
    """Counts of the images b, int64 [BC]."""
    return tl.sum(programs(part, row, b, B, NP, R, NPP).to(tl.int64), 1)


@triton.jit
def numbers(part, row, b, B, NP, R, NPP: tl.constexpr, HAS: tl.constexpr):
    """Of the pixels of the images b: how many, int64 [BC], or the sums of their weights."""
    if HAS.weight:
        return per_image(part, row, b, B, NP, R, NPP)
    else:
        return per_image_count(part, row, b, B, NP, R, NPP)


@triton.jit
def root(x, n):
    """sqrt(x), and 0 where x is 0 or nothing is valid; NaN stays NaN."""
    on = (n != 0) & (x != 0)
    x = tl.where(on, x, 1.0)
    r = tl.sqrt(x)  # an approximation in float32: one step of Newton's method
    return tl.where(on, tl.where(r > 0, 0.5 * (r + divide(x, r)), r), 0.0)


@triton.jit
def value_of(n, mean, spread, T: tl.constexpr):
    """Of a moments term: its value, the root in it (1 without), and the factor n/(n - 1) that V holds if
    unbiased.
    """
    factor = n * 0.0 + 1.0
    if T.unbiased:
        factor = divide(n, tl.where(n > 2, n - 1.0, 1.0))
    x = share(spread, n) * factor + T.mean_weight * mean * mean
    if T.root:
        r = root(x + T.eps, n)
        return T.scale * r, r, factor
    else:
        return x, n * 0.0 + 1.0, factor


@triton.jit
def moments_of_images(moments, i, b, B, NP, R, NPP: tl.constexpr, HAS: tl.constexpr, ACC: tl.constexpr):
    """Of the images b [BC]: n, mean and spread of moments term i."""
    n = numbers(moments, STATISTICS, b, B, NP, R, NPP, HAS).to(ACC)
    n_j = programs(moments, STATISTICS, b, B, NP, R, NPP)
    mean_j = programs(moments, MEAN + i, b, B, NP, R, NPP)
    mean = share(tl.sum(n_j * mean_j, 1), n)
    d = tl.where(n_j > 0, mean_j - mean[:, None], 0.0)
    shift = share(tl.sum(n_j * d, 1), n)
    spread = tl.sum(programs(moments, SPREAD + i, b, B, NP, R, NPP) + n_j * d * d, 1)
    return n, mean + shift, spread_about(spread, n, shift)


@triton.jit
def pixels_of_images(moments, i, b, B, NP, R, NPP: tl.constexpr, T: tl.constexpr, HAS: tl.constexpr):
    """What the pixels of the images b [BC] count in pixel term i; those that count once more twice."""
    if T.absolute:
        n = numbers(moments, ABS_COUNT, b, B, NP, R, NPP, HAS)
    else:
        n = numbers(moments, STATISTICS, b, B, NP, R, NPP, HAS)
    if T.counts:
        n += per_image_count(moments, PIXEL_COUNT + i, b, B, NP, R, NPP)
    return n


@triton.jit
def _pooled(
    moments, row_mean, row_spread, n, B, NP, R, NPP: tl.constexpr, BC: tl.constexpr, ACC: tl.constexpr
):
    """Mean and spread of a quantity over all images, from the programs' means and spreads."""
    zero = tl.full((), 0.0, ACC)
    mean = zero
    for b0 in range(0, B, BC):
        b = b0 + tl.arange(0, BC)
        n_j = programs(moments, STATISTICS, b, B, NP, R, NPP)
        mean += tl.sum(share(n_j * programs(moments, row_mean, b, B, NP, R, NPP), n))
    shift = zero
    spread = zero
    for b0 in range(0, B, BC):
        b = b0 + tl.arange(0, BC)
        n_j = programs(moments, STATISTICS, b, B, NP, R, NPP)
        d = tl.where(n_j > 0, programs(moments, row_mean, b, B, NP, R, NPP) - mean, 0.0)
        shift += tl.sum(share(n_j * d, n))
        spread += tl.sum(programs(moments, row_spread, b, B, NP, R, NPP) + n_j * d * d)
    return mean + shift, spread_about(spread, n, shift)


@triton.jit
def by_level(x, level):
    """Sums [8] of the values x [Q] by their level."""
    return tl.sum(tl.where(level[:, None] == tl.arange(0, 8)[None, :], x[:, None], 0.0), 0)


@triton.jit
def fitted_counts(moments, b, B, NP, R, NPP: tl.constexpr, PLAN: tl.constexpr, HAS: tl.constexpr):
    """The pixels of the images b, int64 [BC], but 0 of one that is too small for the alignment."""
    if HAS.weight:
        n = per_image_count(moments, COUNT, b, B, NP, R, NPP)
    else:
        n = per_image_count(moments, STATISTICS, b, B, NP, R, NPP)
    if PLAN.alignment.min_pixels:
        n = tl.where(n >= PLAN.alignment.min_pixels, n, 0)
    return n


@triton.jit
def kept_of_images(moments, images, b, here, B, NP, R, NPP: tl.constexpr, PLAN: tl.constexpr,
                   HAS: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """The pixels that the relative term counts of the images b [BC]; a trim over the batch is left out."""
    n = fitted_counts(moments, b, B, NP, R, NPP, PLAN, HAS).to(ACC)
    if PLAN.trim > 0 and not PLAN.trim_batch:
        # Of an image without a row no program has left it.
        return tl.load(images + b.to(tl.int64) * IMAGE + KEPT, mask=here & (n > 0), other=0.0)
    else:
        if HAS.weight:
            n = tl.where(n > 0, per_image(moments, STATISTICS, b, B, NP, R, NPP), 0.0)
        return n


@triton.jit
def levels_of_images(sums, row, b, here, H, W, NQ, PLAN: tl.constexpr, ACC: tl.constexpr, TH: tl.constexpr,
                     S: tl.constexpr, BC: tl.constexpr, QB: tl.constexpr, LEVELS: tl.constexpr):  # fmt: skip
    """Sums [BC, 8] over the programs of the images b, by level, of what the Sobel phase left at `row`."""
    total = tl.zeros([BC, 8], ACC)
    for q0 in range(0, NQ, QB):
        q = q0 + tl.arange(0, QB)
        level = level_of(q, H, W, PLAN, TH, 30 * S, LEVELS)
        keep = here[:, None] & (q < NQ)[None, :]
        x = tl.load(sums + row + b.to(tl.int64)[:, None] * NQ + q[None, :], mask=keep, other=0.0)
        on = level[:, None] == tl.arange(0, 8)[None, :]
        total += tl.sum(tl.where(on[None, :, :], x[:, :, None], 0.0), 1)
    return total


@triton.jit
def level_inverses(kept, cells, n, k, PLAN: tl.constexpr, ACC: tl.constexpr):
    """1 over what each level k of a gradient term is divided by; 0 of one that counts nothing."""
    norm = kept
    if PLAN.normalizer == "full":
        norm = kept * 0.0 + n
    elif PLAN.counts_cells:
        norm = cells
        if PLAN.sobel_mask == "residual":
            norm = norm * unit(k, PLAN, ACC)
    on = (norm > 0) & (kept > 0) & (k < PLAN.levels)
    if PLAN.normalizer != "kept":
        norm = norm + PLAN.gradient_eps
    return tl.where(on, divide(1.0, tl.where(on, norm, 1.0)), 0.0)


@triton.jit
def inverses_of_images(moments, sums, b, here, B, H, W, NP, R, NQ, PLAN: tl.constexpr, HAS: tl.constexpr,
                       ACC: tl.constexpr, TH: tl.constexpr, S: tl.constexpr, NPP: tl.constexpr,
                       BC: tl.constexpr, QB: tl.constexpr, LEVELS: tl.constexpr):  # fmt: skip
    """`level_inverses` [BC, 8] of the images b."""
    row_q = (tl.full((), 0, tl.int64) + NQ) * B
    kept = levels_of_images(sums, KEPT_RESPONSES * row_q, b, here, H, W, NQ, PLAN, ACC, TH, S, BC, QB, LEVELS)
    cells = kept
    if PLAN.counts_cells:
        cells = levels_of_images(sums, CELLS * row_q, b, here, H, W, NQ, PLAN, ACC, TH, S, BC, QB, LEVELS)
    n = fitted_counts(moments, b, B, NP, R, NPP, PLAN, HAS).to(ACC)
    return level_inverses(kept, cells, n[:, None], tl.arange(0, 8)[None, :], PLAN, ACC)


@triton.jit
def relative_of_images(sums, row, b, here, H, W, NQ, PLAN: tl.constexpr, ACC: tl.constexpr, TH: tl.constexpr,
                       S: tl.constexpr, BC: tl.constexpr, QC: tl.constexpr,
                       LEVELS: tl.constexpr):  # fmt: skip
    """Sums [BC] over the programs of level 0 of the images b, of what the Sobel phase left at `row`."""
    r = tl.zeros([BC], ACC)
    for q0 in range(0, NQ, QC):
        q = q0 + tl.arange(0, QC)
        full_resolution = (q < NQ) & (level_of(q, H, W, PLAN, TH, 30 * S, LEVELS) == 0)
        at = sums + row + b.to(tl.int64)[:, None] * NQ + q[None, :]
        r += tl.sum(tl.load(at, mask=here[:, None] & full_resolution[None, :], other=0.0), 1)
    return r


@triton.jit
def hidden_in_images(moments, b, B, NP, R, NPP: tl.constexpr, PLAN: tl.constexpr, HAS: tl.constexpr):
    """0 [BC], or NaN of an image with a valid pixel that is, of those that the structure terms count."""
    if PLAN.centred:
        parts = programs(moments, MEAN_P, b, B, NP, R, NPP) + programs(moments, MEAN_G, b, B, NP, R, NPP)
    else:
        parts = programs(moments, RESIDUAL, b, B, NP, R, NPP)
    hidden = tl.sum(parts * 0.0, 1)
    if PLAN.alignment.min_pixels:
        hidden = tl.where(fitted_counts(moments, b, B, NP, R, NPP, PLAN, HAS) > 0, hidden, 0.0)
    return hidden


@triton.jit
def collect(
    moments,  # [.., R]
    images,  # [B, IMAGE]
    sums,  # [.., B * NQ] of the Sobel phase
    totals,  # [TOTALS]
    B,
    H,
    W,
    NP,
    R,
    NQ,
    PLAN: tl.constexpr,
    HAS: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    S: tl.constexpr,
    NPP: tl.constexpr,
    BC: tl.constexpr,
    QC: tl.constexpr,
    QB: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """Write the totals of this rank's batch. Runs in one program."""
    M: tl.constexpr = len(PLAN.moments)
    P: tl.constexpr = len(PLAN.pixels)
    zero = tl.full((), 0.0, ACC)
    izero = tl.full((), 0, tl.int64)
    count = izero
    number = zero if HAS.weight else izero
    abs_count = number
    abs_floored = izero
    statistics = number
    plain_relative = zero
    confidence = zero
    absolute = zero
    relative = zero
    visible = zero
    aligned = zero
    fitted = izero
    response = tl.zeros([8], ACC)
    row_q = B * (izero + NQ)
    values = ()
    for _ in tl.static_range(M):
        values = values + (zero,)
    pixels = ()
    pixel_counts = ()
    plains = ()
    for _ in tl.static_range(P):
        pixels = pixels + (zero,)
        plains = plains + (zero,)
        pixel_counts = pixel_counts + (zero,)
    for b0 in range(0, B, BC):
        b = b0 + tl.arange(0, BC)
        here = b < B
        n_abs = numbers(moments, ABS_COUNT, b, B, NP, R, NPP, HAS)
        n = numbers(moments, STATISTICS, b, B, NP, R, NPP, HAS)
        count += tl.sum(per_image_count(moments, COUNT, b, B, NP, R, NPP))
        if PLAN.of_abs_mask:
            abs_count += tl.sum(n_abs)
        statistics += tl.sum(n)
        if PLAN.floors_counts and not HAS.weight:
            abs_floored += tl.sum(tl.where(here, tl.maximum(n_abs, 1), 0))
        if PLAN.confident:
            confidence += tl.sum(per_image(moments, CONFIDENCE, b, B, NP, R, NPP))
        if PLAN.absolute is not None:
            a = per_image(moments, ABSOLUTE, b, B, NP, R, NPP)
            if PLAN.absolute.by_image:
                a = divide(a, at_least_one(n_abs.to(ACC)))
            absolute += tl.sum(a)
        if PLAN.relative is not None:
            r = relative_of_images(sums, REL * row_q, b, here, H, W, NQ, PLAN, ACC, TH, S, BC, QC, LEVELS)
            kept_pixels = kept_of_images(moments, images, b, here, B, NP, R, NPP, PLAN, HAS, ACC)
            if PLAN.relative.by_image:
                r = divide(r, at_least_one(kept_pixels))
            relative += tl.sum(r)
            aligned += tl.sum(kept_pixels)
            if PLAN.relative_confidence is not None:
                row = REL_PLAIN * row_q
                r = relative_of_images(sums, row, b, here, H, W, NQ, PLAN, ACC, TH, S, BC, QC, LEVELS)
                if PLAN.relative.by_image:
                    r = divide(r, at_least_one(kept_pixels))
                plain_relative += tl.sum(r)
        if PLAN.alignment.min_pixels or HAS.weight:
            fitted += tl.sum(fitted_counts(moments, b, B, NP, R, NPP, PLAN, HAS))
        if PLAN.codes:
            visible += tl.sum(hidden_in_images(moments, b, B, NP, R, NPP, PLAN, HAS))
        if PLAN.gradient_images:
            sums_of = levels_of_images(
                sums, RESPONSE * row_q, b, here, H, W, NQ, PLAN, ACC, TH, S, BC, QB, LEVELS
            )
            by = inverses_of_images(moments, sums, b, here, B, H, W, NP, R, NQ, PLAN, HAS, ACC, TH, S, NPP,
                                    BC, QB, LEVELS)  # fmt: skip
            response += tl.sum(tl.where(by > 0, sums_of * by, 0.0), 0)
        new_values = ()
        for i in tl.static_range(M):
            if PLAN.moments[i].images:
                n_i, mean, spread = moments_of_images(moments, i, b, B, NP, R, NPP, HAS, ACC)
                # No `_`: a loop over tensors may not bind again what the static loops above have bound.
                x, inner, factor = value_of(n_i, mean, spread, PLAN.moments[i])
                new_values = new_values + (values[i] + tl.sum(x),)
            else:
                new_values = new_values + (values[i],)
        values = new_values
        new_pixels = ()
        new_counts = ()
        new_plains = ()
        for i in tl.static_range(P):
            x = per_image(moments, PIXEL + i, b, B, NP, R, NPP)
            divisor = zero + 1.0
            if PLAN.pixels[i].by_image:
                n_i = pixels_of_images(moments, i, b, B, NP, R, NPP, PLAN.pixels[i], HAS)
                divisor = at_least_one(n_i.to(ACC))
                x = divide(x, divisor)
            new_pixels = new_pixels + (pixels[i] + tl.sum(x),)
            if PLAN.pixels[i].confidence is not None:
                plain = divide(per_image(moments, PLAIN + i, b, B, NP, R, NPP), divisor)
                new_plains = new_plains + (plains[i] + tl.sum(plain),)
            else:
                new_plains = new_plains + (plains[i],)
            if PLAN.pixels[i].counts:
                more = tl.sum(per_image(moments, PIXEL_COUNT + i, b, B, NP, R, NPP))
                new_counts = new_counts + (pixel_counts[i] + more,)
            else:
                new_counts = new_counts + (pixel_counts[i],)
        pixels = new_pixels
        pixel_counts = new_counts
        plains = new_plains
    tl.store(totals + T_IMAGES, zero + B)
    tl.store(totals + T_COUNT, count.to(ACC))
    tl.store(totals + T_STATISTICS, statistics.to(ACC))
    # What no term of the plan has is not read either.
    if PLAN.of_abs_mask:
        tl.store(totals + T_ABS_COUNT, abs_count.to(ACC))
    if PLAN.floors_counts:
        tl.store(totals + T_ABS_FLOORED, abs_floored.to(ACC))
    if PLAN.absolute is not None:
        tl.store(totals + T_ABSOLUTE, absolute)
    if PLAN.relative is not None:
        tl.store(totals + T_RELATIVE, relative)
    if PLAN.codes:
        tl.store(totals + T_VISIBLE, visible)
    if PLAN.weighed or PLAN.alignment.min_pixels:
        tl.store(totals + T_ALIGNED, aligned)
    if PLAN.confident:
        tl.store(totals + T_CONFIDENCE, confidence)
    if PLAN.relative_confidence is not None:
        tl.store(totals + T_PLAIN_RELATIVE, plain_relative)
    if PLAN.alignment.min_pixels or HAS.weight:
        tl.store(totals + T_FITTED, fitted.to(ACC))
    n = statistics.to(ACC)
    for i in tl.static_range(M):
        if PLAN.moments[i].images:
            tl.store(totals + T_MEAN + i, values[i])
        else:
            mean, spread = _pooled(moments, MEAN + i, SPREAD + i, n, B, NP, R, NPP, BC, ACC)
            tl.store(totals + T_MEAN + i, mean)
            tl.store(totals + T_SPREAD + i, spread)
    for i in tl.static_range(P):
        tl.store(totals + T_PIXEL + i, pixels[i])
        if PLAN.pixels[i].counts:
            tl.store(totals + T_PIXEL_COUNT + i, pixel_counts[i])
        if PLAN.pixels[i].confidence is not None:
            tl.store(totals + T_PLAIN + i, plains[i])
    if PLAN.codes:
        levels = tl.arange(0, 8)
        kept = tl.zeros([8], ACC)
        cells = tl.zeros([8], ACC)
        row = row_q
        for i0 in range(0, B * NQ, QC):
            at = i0 + tl.arange(0, QC)
            level = level_of(at % NQ, H, W, PLAN, TH, 30 * S, LEVELS)
            if not PLAN.gradient_images:
                response += by_level(tl.load(sums + RESPONSE * row + at, mask=at < row, other=0.0), level)
            kept += by_level(tl.load(sums + KEPT_RESPONSES * row + at, mask=at < row, other=0.0), level)
            if PLAN.counts_cells:
                cells += by_level(tl.load(sums + CELLS * row + at, mask=at < row, other=0.0), level)
        tl.store(totals + T_RESPONSE + levels, response)
        tl.store(totals + T_KEPT + levels, kept)
        if PLAN.counts_cells:
            tl.store(totals + T_CELLS + levels, cells)
