"""Phase 4a: from the partial sums of the programs to the totals of this rank's batch, in fixed order.

    N = sum n_b;  mean = sum n_j mean_j / N;  spread = sum spread_j + n_j (mean_j - mean)^2  (Chan)

`totals` [TOTALS] is what ranks exchange: the finishing phase reads one row per rank. Traffic: the partial
sums.
"""

import triton
import triton.language as tl

from .device import divide, share, spread_about
from .levels import level_of
from .moments import (
    ABS_COUNT,
    ABSOLUTE,
    BERHU,
    COUNT,
    DIFF_MEAN,
    DIFF_SPREAD,
    LOG_MEAN,
    LOG_SPREAD,
    MEAN_G,
    MEAN_P,
    POINT,
    POINT_COUNT,
    RESIDUAL,
    STATISTICS,
)
from .sobel import CELLS, KEPT, REL, RESPONSE

T_IMAGES = tl.constexpr(0)
T_COUNT = tl.constexpr(1)
T_ABS_COUNT = tl.constexpr(2)
T_ABS_FLOORED = tl.constexpr(3)  # sum over images of max(n_b, 1)
T_STATISTICS = tl.constexpr(4)
T_ABSOLUTE = tl.constexpr(5)
T_RELATIVE = tl.constexpr(6)
T_VISIBLE = tl.constexpr(7)  # NaN if a valid pixel of the structure terms is
T_DIFF_MEAN = tl.constexpr(8)
T_DIFF_SPREAD = tl.constexpr(9)
T_LOG_MEAN = tl.constexpr(10)  # reduction "images": the sum of the images' roots
T_LOG_SPREAD = tl.constexpr(11)
T_POINT = tl.constexpr(12)
T_POINT_COUNT = tl.constexpr(13)
T_RESPONSE = tl.constexpr(16)  # [8] levels, as the next two
T_KEPT = tl.constexpr(24)
T_CELLS = tl.constexpr(32)
TOTALS = tl.constexpr(40)


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
def radicand(n, mean, spread, T: tl.constexpr):
    """V + (1 - lam) mean^2 + eps of SILog, and the factor n/(n - 1) that V holds if unbiased."""
    factor = n * 0.0 + 1.0
    if T.unbiased:
        factor = divide(n, tl.where(n > 2, n - 1.0, 1.0))
    return share(spread, n) * factor + (1.0 - T.lam) * mean * mean + T.eps, factor


@triton.jit
def root(x, n):
    """sqrt(x), and 0 where x is 0 or nothing is valid; NaN stays NaN."""
    on = (n > 0) & (x != 0)
    x = tl.where(on, x, 1.0)
    r = tl.sqrt(x)  # an approximation in float32: one step of Newton's method
    return tl.where(on, tl.where(r > 0, 0.5 * (r + divide(x, r)), r), 0.0)


@triton.jit
def log_of_images(moments, b, B, NP, R, NPP: tl.constexpr, T: tl.constexpr, ACC: tl.constexpr):
    """Of the images b [BC]: n, mean of the log ratio, root of the radicand, factor of the variance."""
    n = per_image_count(moments, STATISTICS, b, B, NP, R, NPP).to(ACC)
    n_j = programs(moments, STATISTICS, b, B, NP, R, NPP)
    mean_j = programs(moments, LOG_MEAN, b, B, NP, R, NPP)
    mean = share(tl.sum(n_j * mean_j, 1), n)
    d = tl.where(n_j > 0, mean_j - mean[:, None], 0.0)
    shift = share(tl.sum(n_j * d, 1), n)
    spread = tl.sum(programs(moments, LOG_SPREAD, b, B, NP, R, NPP) + n_j * d * d, 1)
    spread = spread_about(spread, n, shift)
    x, factor = radicand(n, mean + shift, spread, T)
    return n, mean + shift, root(x, n), factor


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
def collect(
    moments,  # [.., R]
    sums,  # [.., B * NQ] of the Sobel phase
    totals,  # [TOTALS]
    B,
    H,
    W,
    NP,
    R,
    NQ,
    PLAN: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    S: tl.constexpr,
    NPP: tl.constexpr,
    BC: tl.constexpr,
    QC: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """Write the totals of this rank's batch. Runs in one program."""
    zero = tl.full((), 0.0, ACC)
    izero = tl.full((), 0, tl.int64)
    count = izero
    abs_count = izero
    abs_floored = izero
    statistics = izero
    absolute = zero
    relative = zero
    visible = zero
    roots = zero
    points = zero
    point_count = zero
    for b0 in range(0, B, BC):
        b = b0 + tl.arange(0, BC)
        here = b < B
        n_abs = per_image_count(moments, ABS_COUNT, b, B, NP, R, NPP)
        n = per_image_count(moments, STATISTICS, b, B, NP, R, NPP)
        count += tl.sum(per_image_count(moments, COUNT, b, B, NP, R, NPP))
        abs_count += tl.sum(n_abs)
        statistics += tl.sum(n)
        abs_floored += tl.sum(tl.where(here, tl.maximum(n_abs, 1), 0))
        if PLAN.has_absolute:
            a = per_image(moments, ABSOLUTE, b, B, NP, R, NPP)
            ABS: tl.constexpr = PLAN.absolute
            if ABS.reduction == "images" and not PLAN.plain:
                a = divide(a, tl.maximum(n_abs, 1).to(ACC))
            absolute += tl.sum(a)
        if PLAN.has_relative:
            r = tl.zeros([BC], ACC)
            for q0 in range(0, NQ, QC):
                q = q0 + tl.arange(0, QC)
                full_resolution = (q < NQ) & (level_of(q, H, W, TH, 30 * S, LEVELS) == 0)
                o = b.to(tl.int64)[:, None] * NQ + q[None, :]
                keep = here[:, None] & full_resolution[None, :]
                r += tl.sum(tl.load(sums + (izero + REL) * B * NQ + o, mask=keep, other=0.0), 1)
            RELATIVE: tl.constexpr = PLAN.relative
            if RELATIVE.reduction == "images":
                r = divide(r, tl.maximum(n, 1).to(ACC))
            relative += tl.sum(r)
        if PLAN.standardised:
            means = programs(moments, MEAN_P, b, B, NP, R, NPP) + programs(moments, MEAN_G, b, B, NP, R, NPP)
            visible += tl.sum(means * 0.0)
        elif PLAN.has_gradient:
            visible += tl.sum(programs(moments, RESIDUAL, b, B, NP, R, NPP) * 0.0)
        if PLAN.has_log:
            LOG: tl.constexpr = PLAN.log
            if LOG.reduction == "images":
                _, _, x, _ = log_of_images(moments, b, B, NP, R, NPP, LOG, ACC)
                roots += tl.sum(x)
        if PLAN.berhu:
            points += tl.sum(per_image(moments, BERHU, b, B, NP, R, NPP))
            point_count += tl.sum(per_image(moments, POINT_COUNT, b, B, NP, R, NPP))
        elif PLAN.has_pointwise:
            points += tl.sum(per_image(moments, POINT, b, B, NP, R, NPP))
    tl.store(totals + T_IMAGES, zero + B)
    tl.store(totals + T_COUNT, count.to(ACC))
    tl.store(totals + T_ABS_COUNT, abs_count.to(ACC))
    tl.store(totals + T_ABS_FLOORED, abs_floored.to(ACC))
    tl.store(totals + T_STATISTICS, statistics.to(ACC))
    tl.store(totals + T_ABSOLUTE, absolute)
    tl.store(totals + T_RELATIVE, relative)
    tl.store(totals + T_VISIBLE, visible)
    tl.store(totals + T_LOG_MEAN, roots)
    tl.store(totals + T_POINT, points)
    tl.store(totals + T_POINT_COUNT, point_count)
    n = statistics.to(ACC)
    if PLAN.has_difference:
        mean, spread = _pooled(moments, DIFF_MEAN, DIFF_SPREAD, n, B, NP, R, NPP, BC, ACC)
        tl.store(totals + T_DIFF_MEAN, mean)
        tl.store(totals + T_DIFF_SPREAD, spread)
    if PLAN.has_log:
        POOLED: tl.constexpr = PLAN.log
        if POOLED.reduction == "pixels":
            mean, spread = _pooled(moments, LOG_MEAN, LOG_SPREAD, n, B, NP, R, NPP, BC, ACC)
            tl.store(totals + T_LOG_MEAN, mean)
            tl.store(totals + T_LOG_SPREAD, spread)
    if PLAN.codes:
        levels = tl.arange(0, 8)
        response = tl.zeros([8], ACC)
        kept = tl.zeros([8], ACC)
        cells = tl.zeros([8], ACC)
        row = B * (izero + NQ)
        for i0 in range(0, B * NQ, QC):
            i = i0 + tl.arange(0, QC)
            level = level_of(i % NQ, H, W, TH, 30 * S, LEVELS)
            response += by_level(tl.load(sums + RESPONSE * row + i, mask=i < row, other=0.0), level)
            kept += by_level(tl.load(sums + KEPT * row + i, mask=i < row, other=0.0), level)
            if PLAN.counts_cells:
                cells += by_level(tl.load(sums + CELLS * row + i, mask=i < row, other=0.0), level)
        tl.store(totals + T_RESPONSE + levels, response)
        tl.store(totals + T_KEPT + levels, kept)
        tl.store(totals + T_CELLS + levels, cells)
