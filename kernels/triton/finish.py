"""Phase 4b: the loss, the metrics, and everything the backward needs per image, from the totals of all ranks.

    kappa_k = w_G F / (normaliser_k + eps) / levels counted;  F = the factor of the term's group in the total
    U0 = sum_k kappa_k sum s Sobel(a) + w_R sum sign(r), U1 likewise with z_p
    Kendall: total = sum exp(-s)/2 L + s/2, F = exp(-s)/2, d total/d s = 1/2 - exp(-s)/2 L

Runs in one program behind phase 4a; combining the terms costs no launch of its own. Saves `coefficients`:
HEAD numbers of the batch, then COEFFICIENTS numbers per image.
"""

import triton
import triton.language as tl

from .coefficients import (
    ABS_WEIGHT,
    COEFFICIENTS,
    DIFF_CENTRE,
    DIFF_SHIFT,
    DIFF_SLOPE,
    HEAD,
    KAPPA,
    LOG_CENTRE,
    LOG_SHIFT,
    LOG_SLOPE,
    MEAN_WEIGHT,
    POINT_THRESHOLD,
    POINT_WEIGHT,
    REL_WEIGHT,
    SCALE,
    SIGN_WEIGHT,
)
from .combine import combine
from .device import NUMBERS, SIZES, divide, share
from .joined import gradient_levels, joined, joined_moments, norm_l1, unit
from .levels import level_of
from .moments import ABS_COUNT, STATISTICS
from .pyramid import IMAGE, INV_N, INV_P, SIGN_MEAN
from .sobel import REL_ONE, REL_Z, U_ONE, U_Z
from .totals import (
    T_ABS_COUNT,
    T_ABS_FLOORED,
    T_ABSOLUTE,
    T_COUNT,
    T_DIFF_MEAN,
    T_DIFF_SPREAD,
    T_IMAGES,
    T_LOG_MEAN,
    T_LOG_SPREAD,
    T_POINT,
    T_POINT_COUNT,
    T_RELATIVE,
    T_STATISTICS,
    T_VISIBLE,
    collect,
    log_of_images,
    per_image_count,
    radicand,
    root,
)


@triton.jit
def _over(x, n):
    """x / n, and 0 for n = 0; NaN stays NaN."""
    on = n != 0
    return tl.where(on, divide(x, tl.where(on, n, 1.0)), 0.0)


@triton.jit
def _adjoints(sums, b, here, kappa, w_r, H, W, NQ, row, PLAN: tl.constexpr, ACC: tl.constexpr,
              TH: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, QB: tl.constexpr,
              LEVELS: tl.constexpr):  # fmt: skip
    """Of the images b [BC]: sum_k kappa_k sum s Sobel(a) and s Sobel(a z_p), sum sign(r), sum sign(r) z_p."""
    one = tl.zeros([BC], ACC)
    z = one
    rel_one = one
    rel_z = one
    k = tl.arange(0, 8)[None, :]
    for q0 in range(0, NQ, QB):
        q = q0 + tl.arange(0, QB)
        level = level_of(q, H, W, TH, 30 * S, LEVELS)
        weight = tl.sum(tl.where(level[:, None] == k, kappa[None, :], 0.0), 1)
        at = sums + b.to(tl.int64)[:, None] * NQ + q[None, :]
        keep = here[:, None] & (q < NQ)[None, :]
        # By selection, not by product: a group that is left out leaves out its NaN.
        counts = keep & (weight != 0)[None, :]
        z += tl.sum(tl.load(at + U_Z * row, mask=counts, other=0.0) * weight[None, :], 1)
        if PLAN.sobel_mask != "support":
            weight = weight * unit(level, PLAN, ACC)
            one += tl.sum(tl.load(at + U_ONE * row, mask=counts, other=0.0) * weight[None, :], 1)
        if PLAN.has_relative:
            keep = keep & (level == 0)[None, :] & (w_r != 0)[:, None]
            rel_one += tl.sum(tl.load(at + REL_ONE * row, mask=keep, other=0.0), 1)
            rel_z += tl.sum(tl.load(at + REL_Z * row, mask=keep, other=0.0), 1)
    return one, z, rel_one, rel_z


@triton.jit
def _finish(moments, images, sums, threshold, totals, weights, log_vars, total_out, terms, coefficients, B, H,
            W, NP, R, NQ, PLAN: tl.constexpr, BY_POINTER: tl.constexpr, SAVES: tl.constexpr,
            ACC: tl.constexpr, TH: tl.constexpr, S: tl.constexpr, NPP: tl.constexpr, BC: tl.constexpr,
            QB: tl.constexpr, LEVELS: tl.constexpr, WORLD: tl.constexpr, WP: tl.constexpr):  # fmt: skip
    zero = tl.full((), 0.0, ACC)
    n = joined(totals, T_COUNT, WORLD, WP)
    n_all = joined(totals, T_STATISTICS, WORLD, WP)
    size = joined(totals, T_IMAGES, WORLD, WP)
    a = zero
    r = zero
    g = zero
    d = zero
    log = zero
    point = zero
    levels = tl.zeros([8], ACC)
    kept = levels
    kappa = levels
    norm_a = zero + 1.0
    norm_r = norm_a
    if PLAN.has_absolute:
        ABS: tl.constexpr = PLAN.absolute
        if PLAN.plain:
            norm_a = joined(totals, T_ABS_FLOORED, WORLD, WP) + ABS.eps
        else:
            norm_a = norm_l1(joined(totals, T_ABS_COUNT, WORLD, WP), size, ABS, False)
        a = divide(joined(totals, T_ABSOLUTE, WORLD, WP), norm_a)
    if PLAN.has_relative:
        REL: tl.constexpr = PLAN.relative
        norm_r = norm_l1(n_all, size, REL, PLAN.plain)
        if PLAN.plain and REL.reduction == "pixels":
            norm_r = tl.where(n_all > 1, n_all, 1.0)
        elif PLAN.plain:
            norm_r = tl.where(size > 1, size, 1.0)
        r = divide(joined(totals, T_RELATIVE, WORLD, WP), norm_r)
    if PLAN.has_gradient:
        g, levels, kept, kappa = gradient_levels(totals, n_all, PLAN, WORLD, WP, ACC)
        g += joined(totals, T_VISIBLE, WORLD, WP)
    if PLAN.has_difference:
        DIFFERENCE: tl.constexpr = PLAN.difference
        diff_mean, spread = joined_moments(totals, T_DIFF_MEAN, T_DIFF_SPREAD, WORLD, WP)
        d = share(spread, n_all) + DIFFERENCE.alpha * diff_mean * diff_mean
    if PLAN.has_log:
        LOG: tl.constexpr = PLAN.log
        if LOG.reduction == "images":
            log = divide(LOG.scale * joined(totals, T_LOG_MEAN, WORLD, WP), tl.where(size > 1, size, 1.0))
        else:
            log_mean, spread = joined_moments(totals, T_LOG_MEAN, T_LOG_SPREAD, WORLD, WP)
            x, log_factor = radicand(n_all, log_mean, spread, LOG)
            log_root = root(x, n_all)
            log = LOG.scale * log_root
    if PLAN.has_pointwise:
        POINT: tl.constexpr = PLAN.pointwise
        norm_p = n_all
        if POINT.penalty.kind == "berhu-packnet":
            norm_p += joined(totals, T_POINT_COUNT, WORLD, WP)
        norm_p = tl.where(norm_p > 1, norm_p, 1.0)
        point = divide(joined(totals, T_POINT, WORLD, WP), norm_p)
    f_a, f_r, f_g, f_d, f_l, f_p = combine(
        terms, total_out, coefficients, weights, log_vars, n, a, r, g, d, log, point, levels, kept, PLAN,
        BY_POINTER, ACC
    )  # fmt: skip
    if SAVES:
        # Each rank's gradient is that of all ranks' equal losses.
        f_a = f_a * WORLD
        f_r = f_r * WORLD
        kappa = kappa * (f_g * WORLD)
        f_d = f_d * WORLD
        f_l = f_l * WORLD
        f_p = f_p * WORLD
        tl.store(coefficients + KAPPA + tl.arange(0, 8), kappa)
        for b0 in range(0, B, BC):
            b = b0 + tl.arange(0, BC)
            here = b < B
            row = coefficients + HEAD + b.to(tl.int64) * COEFFICIENTS
            if PLAN.has_absolute:
                w_a = tl.zeros([BC], ACC) + divide(f_a, norm_a)
                if ABS.reduction == "images" and not PLAN.plain:
                    n_abs = per_image_count(moments, ABS_COUNT, b, B, NP, R, NPP)
                    w_a = divide(w_a, tl.maximum(n_abs, 1).to(ACC))
                tl.store(row + ABS_WEIGHT, w_a, mask=here)
            if PLAN.codes:
                w_r = tl.zeros([BC], ACC) + divide(f_r, norm_r)
                if PLAN.has_relative:
                    if REL.reduction == "images":
                        n_b = per_image_count(moments, STATISTICS, b, B, NP, R, NPP)
                        w_r = divide(w_r, tl.maximum(n_b, 1).to(ACC))
                one, z, rel_one, rel_z = _adjoints(
                    sums, b, here, kappa, w_r, H, W, NQ, (tl.full((), 0, tl.int64) + NQ) * B, PLAN, ACC, TH,
                    S, BC, QB, LEVELS
                )  # fmt: skip
                image = images + b.to(tl.int64) * IMAGE
                # Without a factor also a NaN of the statistics is left out.
                wanted = here & ((w_r != 0) | (f_g + w_r * 0.0 != 0))
                scale = tl.load(image + INV_P, mask=wanted, other=0.0)
                inv_n = tl.load(image + INV_N, mask=here, other=0.0)
                u_one = one + w_r * rel_one
                u_z = z + w_r * rel_z
                mean = (u_one - tl.load(image + SIGN_MEAN, mask=here, other=0.0) * u_z) * inv_n
                tl.store(row + REL_WEIGHT, w_r, mask=here)
                tl.store(row + SCALE, scale, mask=here)
                if PLAN.standardised:
                    tl.store(row + MEAN_WEIGHT, mean, mask=here)
                    tl.store(row + SIGN_WEIGHT, u_z * inv_n, mask=here)
            if PLAN.has_difference:
                slope = _over(2.0 * f_d, n_all)
                tl.store(row + DIFF_SLOPE, tl.zeros([BC], ACC) + slope, mask=here)
                tl.store(row + DIFF_CENTRE, tl.zeros([BC], ACC) + diff_mean, mask=here)
                shift = slope * DIFFERENCE.alpha * diff_mean
                tl.store(row + DIFF_SHIFT, tl.zeros([BC], ACC) + shift, mask=here)
            if PLAN.has_log:
                if LOG.reduction == "images":
                    m_b, centre, root_b, factor_b = log_of_images(moments, b, B, NP, R, NPP, LOG, ACC)
                    slope_l = _over(
                        _over(divide(f_l * LOG.scale, tl.where(size > 1, size, 1.0)), m_b), root_b
                    )
                else:
                    centre = tl.zeros([BC], ACC) + log_mean
                    factor_b = tl.zeros([BC], ACC) + log_factor
                    slope_l = tl.zeros([BC], ACC) + _over(_over(f_l * LOG.scale, n_all), log_root)
                on = tl.zeros([BC], ACC) + f_l != 0
                slope_l = tl.where(on, slope_l, 0.0)
                centre = tl.where(on, centre, 0.0)
                tl.store(row + LOG_SLOPE, slope_l * factor_b, mask=here)
                tl.store(row + LOG_CENTRE, centre, mask=here)
                tl.store(row + LOG_SHIFT, slope_l * (1.0 - LOG.lam) * centre, mask=here)
            if PLAN.has_pointwise:
                tl.store(row + POINT_WEIGHT, tl.zeros([BC], ACC) + divide(f_p, norm_p), mask=here)
                if PLAN.berhu:
                    tl.store(row + POINT_THRESHOLD, tl.zeros([BC], ACC) + tl.load(threshold), mask=here)


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=NUMBERS)
def finish(
    moments,  # [.., R]
    images,  # [B, IMAGE]
    sums,  # [.., B * NQ]
    threshold,  # [1], berHu's c
    totals,  # [WORLD, TOTALS]
    weights,  # tuple
    log_vars,  # tuple of pointers
    total_out,  # [1]
    terms,  # [metrics]
    coefficients,  # [HEAD + B * COEFFICIENTS]
    B, H, W, NP, R, NQ, PLAN: tl.constexpr, BY_POINTER: tl.constexpr, COLLECT: tl.constexpr,
    COMBINE: tl.constexpr, SAVES: tl.constexpr, ACC: tl.constexpr, TH: tl.constexpr, S: tl.constexpr,
    NPP: tl.constexpr, BC: tl.constexpr, QC: tl.constexpr, QB: tl.constexpr, LEVELS: tl.constexpr,
    WORLD: tl.constexpr, WP: tl.constexpr,
):  # fmt: skip
    """Collect this rank's totals, combine those of all ranks, or both."""
    if COLLECT:
        collect(moments, sums, totals, B, H, W, NP, R, NQ, PLAN, ACC, TH, S, NPP, BC, QC, LEVELS)
    if COLLECT and COMBINE:
        tl.debug_barrier()  # The totals are read by threads that did not write them.
    if COMBINE:
        _finish(moments, images, sums, threshold, totals, weights, log_vars, total_out, terms, coefficients,
                B, H, W, NP, R, NQ, PLAN, BY_POINTER, SAVES, ACC, TH, S, NPP, BC, QB, LEVELS, WORLD,
                WP)  # fmt: skip
