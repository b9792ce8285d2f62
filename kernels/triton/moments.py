"""Phase 1: what can be summed before the mean of an image is known.

    n = sum m, mean p, mean g; sum |p - g| over abs_mask; n, mean and sum (x - mean)^2 of e = p - g and of
    l = ln((p + o)/(g + o)); sum f(p, g) of a pointwise term

Saves `part` [rows, B * programs]: the row numbers are below. Means and spreads are centred in each tile and
merged by Chan's rule. Reads p, g, m (9 bytes/pixel in float32), writes 48 bytes/program.
"""

import triton
import triton.language as tl

from .device import NUMBERS, SIZES_BUT_WIDTH, mean_and_spread, merge, pixels, share, tile, to_domain, valid
from .pointwise import log_ratio, point

COUNT = tl.constexpr(0)
ABS_COUNT = tl.constexpr(1)
ABSOLUTE = tl.constexpr(2)
MEAN_P = tl.constexpr(3)
MEAN_G = tl.constexpr(4)
RESIDUAL = tl.constexpr(5)  # sum (p - g): makes a valid NaN show in a gradient term that is not standardised
DIFF_MEAN = tl.constexpr(6)
DIFF_SPREAD = tl.constexpr(7)
LOG_MEAN = tl.constexpr(8)
LOG_SPREAD = tl.constexpr(9)
POINT = tl.constexpr(10)
POINT_COUNT = tl.constexpr(11)  # pixels above berHu's threshold
STATISTICS = tl.constexpr(12)  # pixels of every term but the absolute one: all of them, or the valid ones
BERHU = tl.constexpr(13)
ROWS = 14


@triton.jit
def largest(x):
    """Maximum of the block x; NaN if it holds one."""
    return tl.where(tl.sum((x != x).to(tl.int32)) > 0, float("nan"), tl.max(x))


@triton.jit(do_not_specialize=SIZES_BUT_WIDTH, do_not_specialize_on_alignment=NUMBERS)
def moments(
    pred,  # maps [B, H, W]
    gt,
    mask,
    abs_mask,
    part,  # [ROWS, R]
    H,
    W,
    tiles_x,
    tiles,
    NP,
    R,
    PLAN: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_ABS: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
):
    """Leave what a program's pixels sum to, in `part` at its own column."""
    i_p = tl.program_id(0)
    b = i_p // NP
    zero = tl.full((), 0.0, ACC)
    n = zero
    n_abs = zero
    n_all = zero
    absolute = zero
    residual = zero
    mean_p = zero
    mean_g = zero
    diff_mean = zero
    diff_spread = zero
    log_mean = zero
    log_spread = zero
    point_sum = zero
    POINTWISE: tl.constexpr = PLAN.pointwise
    if PLAN.berhu:
        point_sum = zero + float("-inf")
    for t in range(i_p - b * NP, tiles, NP):
        y, x = tile(t, tiles_x, TH, TW)
        ok = (y < H) & (x < W)
        p = tl.load(pixels(pred, b, y, x), mask=ok, other=0.0).to(ACC)
        g = tl.load(pixels(gt, b, y, x), mask=ok, other=0.0).to(ACC)
        v = valid(pixels(mask, b, y, x), g, ok, HAS_MASK, PLAN.positive_gt)
        m = v
        if PLAN.plain:
            m = ok
        v_abs = v
        if HAS_ABS:
            v_abs = valid(pixels(abs_mask, b, y, x), g, ok, True, PLAN.positive_gt)
        n_v = tl.sum(v.to(tl.int32)).to(ACC)
        n_m = tl.sum(m.to(tl.int32)).to(ACC)
        n += n_v
        n_abs += tl.sum(v_abs.to(tl.int32)).to(ACC)
        if PLAN.has_structure:
            STRUCTURE: tl.constexpr = PLAN.structure
            p_d = to_domain(p, m | v_abs, STRUCTURE)
            g_d = to_domain(g, m | v_abs, STRUCTURE)
            if PLAN.has_absolute:
                absolute += tl.sum(tl.where(v_abs, tl.abs(p_d - g_d), 0.0))
            if PLAN.standardised:
                new_p, _ = mean_and_spread(p_d, m, n_m)
                new_g, _ = mean_and_spread(g_d, m, n_m)
                mean_p, _ = merge(n_all, mean_p, zero, n_m, new_p, zero)
                mean_g, _ = merge(n_all, mean_g, zero, n_m, new_g, zero)
            elif PLAN.has_gradient:
                residual += tl.sum(tl.where(m, p_d - g_d, 0.0))
        if PLAN.has_difference:
            DIFFERENCE: tl.constexpr = PLAN.difference_domain
            e = to_domain(p, m, DIFFERENCE) - to_domain(g, m, DIFFERENCE)
            new_mean, new_spread = mean_and_spread(e, m, n_m)
            diff_mean, diff_spread = merge(n_all, diff_mean, diff_spread, n_m, new_mean, new_spread)
        if PLAN.has_log:
            LOG: tl.constexpr = PLAN.log
            LOG_DOMAIN: tl.constexpr = PLAN.log_domain
            r = log_ratio(to_domain(p, m, LOG_DOMAIN), to_domain(g, m, LOG_DOMAIN), m, LOG)
            new_mean, new_spread = mean_and_spread(r, m, n_m)
            log_mean, log_spread = merge(n_all, log_mean, log_spread, n_m, new_mean, new_spread)
        if PLAN.has_pointwise:
            POINT_DOMAIN: tl.constexpr = PLAN.pointwise_domain
            f = point(to_domain(p, m, POINT_DOMAIN), to_domain(g, m, POINT_DOMAIN), m, POINTWISE)
            if PLAN.berhu:
                new = largest(tl.where(ok, f, float("-inf")))
                point_sum = tl.where((new > point_sum) | (new != new), new, point_sum)
            else:
                point_sum += tl.sum(f)
        n_all += n_m
    row = part + i_p
    tl.store(row + COUNT * R, n)
    tl.store(row + ABS_COUNT * R, n_abs)
    tl.store(row + STATISTICS * R, n_all)
    tl.store(row + ABSOLUTE * R, absolute)
    tl.store(row + MEAN_P * R, mean_p)
    tl.store(row + MEAN_G * R, mean_g)
    tl.store(row + RESIDUAL * R, residual)
    tl.store(row + DIFF_MEAN * R, diff_mean)
    tl.store(row + DIFF_SPREAD * R, diff_spread)
    tl.store(row + LOG_MEAN * R, log_mean)
    tl.store(row + LOG_SPREAD * R, log_spread)
    tl.store(row + POINT * R, point_sum)


@triton.jit
def berhu_threshold(part, R, T: tl.constexpr, RP: tl.constexpr, ACC: tl.constexpr):
    """c = threshold * the largest error of the batch, from the programs' maxima."""
    c = tl.full((), float("-inf"), ACC)
    for o in range(0, R, RP):
        i = o + tl.arange(0, RP)
        new = largest(tl.load(part + POINT * R + i, mask=i < R, other=float("-inf")))
        c = tl.where((new > c) | (new != new), new, c)
    if T.penalty.kind == "berhu":
        c = tl.where(c < 0, 0.0, c)
    return T.penalty.a * c


@triton.jit(do_not_specialize=SIZES_BUT_WIDTH, do_not_specialize_on_alignment=NUMBERS)
def rank_threshold(part, threshold, R, T: tl.constexpr, RP: tl.constexpr, ACC: tl.constexpr):
    """berHu's c of this rank's batch, for the ranks to compare."""
    tl.store(threshold, berhu_threshold(part, R, T, RP, ACC))


@triton.jit(do_not_specialize=SIZES_BUT_WIDTH, do_not_specialize_on_alignment=NUMBERS)
def berhu(
    pred,
    gt,
    mask,
    part,
    threshold,  # [1]
    H,
    W,
    tiles_x,
    tiles,
    NP,
    R,
    PLAN: tl.constexpr,
    HAS_MASK: tl.constexpr,
    GIVEN: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    RP: tl.constexpr,
):
    """Sum of berHu over a program's pixels, behind the maxima in row POINT; GIVEN: c is in `threshold`."""
    i_p = tl.program_id(0)
    b = i_p // NP
    T: tl.constexpr = PLAN.pointwise
    DOMAIN: tl.constexpr = PLAN.pointwise_domain
    if GIVEN:
        c = tl.load(threshold)
    else:
        c = berhu_threshold(part, R, T, RP, ACC)
        tl.store(threshold, c, mask=i_p == 0)
    total = tl.full((), 0.0, ACC)
    count = tl.full((), 0.0, ACC)
    for t in range(i_p - b * NP, tiles, NP):
        y, x = tile(t, tiles_x, TH, TW)
        ok = (y < H) & (x < W)
        p = tl.load(pixels(pred, b, y, x), mask=ok, other=0.0).to(ACC)
        g = tl.load(pixels(gt, b, y, x), mask=ok, other=0.0).to(ACC)
        m = valid(pixels(mask, b, y, x), g, ok, HAS_MASK, PLAN.positive_gt)
        if PLAN.plain:
            m = ok
        d = tl.abs(tl.where(m, to_domain(p, m, DOMAIN) - to_domain(g, m, DOMAIN), 0.0))
        large = m & (d > c)
        if T.penalty.kind == "berhu":
            total += tl.sum(tl.where(d <= c, d, share(d * d + c * c, 2.0 * c)))
        else:
            total += tl.sum(d + tl.where(large, d * d, 0.0))
        count += tl.sum(large.to(tl.int32)).to(ACC)
    # Not into POINT: other programs still read its maxima.
    tl.store(part + BERHU * R + i_p, total)
    tl.store(part + POINT_COUNT * R + i_p, count)
