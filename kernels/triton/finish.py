"""Phase 4b: the loss, the metrics, and everything the backward needs per image, from the totals of all ranks.

    kappa_k = w_G F / (normaliser_k + eps) / levels counted;  F = the factor of the term's group in the total
    U0 = sum_k kappa_k sum s Sobel(a) + w_R sum sign(r), U1 likewise with z_p
    Kendall: total = sum exp(-s)/2 L + s/2, F = exp(-s)/2, d total/d s = 1/2 - exp(-s)/2 L

Runs in one program behind phase 4a; combining the terms costs no launch of its own. Saves `coefficients`:
HEAD numbers of the batch, then COEFFICIENTS numbers per image.
"""

import triton
import triton.language as tl

from .. import plan as p
from .by_image import losses_of_images
from .coefficients import (
    ABS_WEIGHT,
    BY_G,
    BY_P,
    CENTRE,
    COEFFICIENTS,
    HEAD,
    INV_G,
    INV_P,
    KAPPA,
    LARGEST,
    LEVEL_WEIGHT,
    MEAN_WEIGHT,
    MU_G,
    MU_P,
    PIXEL_WEIGHT,
    REL_WEIGHT,
    SCALE,
    SHARE,
    SHIFT,
    SIGN_WEIGHT,
    SLOPE,
    TIE_WEIGHT,
)
from .combine import combine
from .device import NUMBERS, SIZES, at_least_one, divide
from .histogram import kept_of
from .joined import gradient_levels, joined, joined_moments, norm_of
from .levels import level_of, unit
from .moments import ABS_COUNT
from .penalty import from_largest
from .pyramid import DEVIATION, FREE, IMAGE, INV_N, OFFSET, SIGN_MEAN, TIES
from .pyramid import INV_G as INV_G_OF_IMAGE
from .pyramid import INV_P as INV_P_OF_IMAGE
from .pyramid import MU_G as MU_G_OF_IMAGE
from .pyramid import MU_P as MU_P_OF_IMAGE
from .pyramid import SHARE as SHARE_OF_IMAGE
from .pyramid import SLOPE as SLOPE_OF_IMAGE
from .sobel import REL_ONE, REL_Z, U_ONE, U_Z
from .totals import (
    T_ABS_COUNT,
    T_ABS_FLOORED,
    T_ABSOLUTE,
    T_ALIGNED,
    T_CONFIDENCE,
    T_COUNT,
    T_FITTED,
    T_IMAGES,
    T_MEAN,
    T_PIXEL,
    T_PIXEL_COUNT,
    T_PLAIN,
    T_PLAIN_RELATIVE,
    T_RELATIVE,
    T_SPREAD,
    T_STATISTICS,
    T_VISIBLE,
    collect,
    fitted_counts,
    inverses_of_images,
    kept_of_images,
    moments_of_images,
    numbers,
    pixels_of_images,
    value_of,
)

MOST = tl.constexpr(p.MOST)
MOMENTS = tl.constexpr(p.MOMENTS)
PIXELS = tl.constexpr(p.PIXELS)


@triton.jit
def _over(x, n):
    """x / n, and 0 for n = 0; NaN stays NaN."""
    on = n != 0
    return tl.where(on, divide(x, tl.where(on, n, 1.0)), 0.0)


@triton.jit
def _adjoints(sums, b, here, kappa, w_r, H, W, NQ, row, PLAN: tl.constexpr, ACC: tl.constexpr,
              TH: tl.constexpr, S: tl.constexpr, BC: tl.constexpr, QB: tl.constexpr,
              LEVELS: tl.constexpr):  # fmt: skip
    """Of the images b [BC]: sum_k kappa_k sum s Sobel(a) and s Sobel(a z_p), sum phi'(r), sum phi'(r) z_p;
    kappa [1 or BC, 8].
    """
    one = tl.zeros([BC], ACC)
    z = one
    rel_one = one
    rel_z = one
    k = tl.arange(0, 8)[None, :]
    b_row = sums + b.to(tl.int64)[:, None] * NQ
    for q0 in range(0, NQ, QB):
        q = q0 + tl.arange(0, QB)
        level = level_of(q, H, W, PLAN, TH, 30 * S, LEVELS)
        of_level = (level[:, None] == k)[None, :, :]
        weight = tl.sum(tl.where(of_level, kappa[:, None, :], 0.0), 2)
        at = b_row + q[None, :]
        keep = here[:, None] & (q < NQ)[None, :]
        # By selection, not by product: a group that is left out leaves out its NaN.
        counts = keep & (weight != 0)
        z += tl.sum(tl.load(at + U_Z * row, mask=counts, other=0.0) * weight, 1)
        if PLAN.sobel_mask != "support" and not PLAN.forward:
            weight = weight * unit(level, PLAN, ACC)[None, :]
            one += tl.sum(tl.load(at + U_ONE * row, mask=counts, other=0.0) * weight, 1)
        if PLAN.relative is not None:
            keep = keep & (level == 0)[None, :] & (w_r != 0)[:, None]
            rel_one += tl.sum(tl.load(at + REL_ONE * row, mask=keep, other=0.0), 1)
            rel_z += tl.sum(tl.load(at + REL_Z * row, mask=keep, other=0.0), 1)
    return one, z, rel_one, rel_z


@triton.jit
def _fit_coefficients(row, image, here, wanted, u_one, u_z, inv_n, PLAN: tl.constexpr):
    """What the backward needs of images whose p is fitted to g; U0 and U1 of each."""
    u_one = tl.where(wanted, u_one, 0.0)
    u_z = tl.where(wanted, u_z, 0.0)
    free = tl.load(image + FREE, mask=wanted, other=0.0) != 0
    deviation = tl.load(image + DEVIATION, mask=wanted, other=1.0)
    slope = tl.load(image + SLOPE_OF_IMAGE, mask=wanted, other=0.0)
    if PLAN.alignment.kind == "least-squares":
        by = tl.where(free, _over(_over(u_z * inv_n, deviation), deviation), 0.0)
        mean = u_one * inv_n
    else:
        # Beyond its bounds the slope is a constant, and the shift, by a0, is not.
        mu_p = tl.load(image + MU_P_OF_IMAGE, mask=wanted, other=0.0)
        by = _over(_over(tl.where(free, u_z, -mu_p * u_one) * inv_n, deviation), deviation)
        offset = tl.load(image + OFFSET, mask=wanted, other=0.0)
        # The backward takes g - mu_g, and multiplies by the bounded slope.
        mean = _over(
            slope * u_one * inv_n - by * offset, tl.load(image + INV_P_OF_IMAGE, mask=wanted, other=0.0)
        )
    tl.store(row + BY_G, by, mask=here)
    tl.store(row + BY_P, -2.0 * slope * by, mask=here)
    tl.store(row + MEAN_WEIGHT, mean, mask=here)


@triton.jit
def _moments_coefficients(row, here, moments, b, f, pooled, n_all, size, B, NP, R,
                          WHICH: tl.constexpr, T: tl.constexpr, HAS: tl.constexpr, NPP: tl.constexpr,
                          BC: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """What the backward needs of a moments term, of the images b [BC]; f: the term's factor in the total."""
    if T.root:
        f = f * T.scale
    else:
        f = 2.0 * f
    if T.images:
        n, centre, spread = moments_of_images(moments, WHICH, b, B, NP, R, NPP, HAS, ACC)
        _, inner, factor = value_of(n, centre, spread, T)
        if not T.images_sum:
            f = divide(f, tl.where(size > 1, size, 1.0))
    else:
        mean, root, unbiased = pooled
        none = tl.zeros([BC], ACC)
        n = none + n_all
        centre = none + mean
        inner = none + root
        factor = none + unbiased
    on = tl.zeros([BC], ACC) + f != 0
    slope = tl.where(on, _over(_over(f, n), inner), 0.0)
    centre = tl.where(on, centre, 0.0)
    tl.store(row + SLOPE + WHICH, slope * factor, mask=here)
    tl.store(row + CENTRE + WHICH, centre, mask=here)
    tl.store(row + SHIFT + WHICH, slope * T.mean_weight * centre, mask=here)


@triton.jit
def _finish(moments, images, sums, found, totals, weights, log_vars, total_out, terms, coefficients, B, H,
            W, NP, R, NQ, PLAN: tl.constexpr, HAS: tl.constexpr, BY_POINTER: tl.constexpr,
            SAVES: tl.constexpr, ACC: tl.constexpr, TH: tl.constexpr, S: tl.constexpr, NPP: tl.constexpr,
            BC: tl.constexpr, QB: tl.constexpr, LEVELS: tl.constexpr, WORLD: tl.constexpr,
            WP: tl.constexpr):  # fmt: skip
    M: tl.constexpr = len(PLAN.moments)
    P: tl.constexpr = len(PLAN.pixels)
    zero = tl.full((), 0.0, ACC)
    n = joined(totals, T_COUNT, WORLD, WP)
    n_all = joined(totals, T_STATISTICS, WORLD, WP)
    n_abs = joined(totals, T_ABS_COUNT, WORLD, WP)
    floored = joined(totals, T_ABS_FLOORED, WORLD, WP)
    size = joined(totals, T_IMAGES, WORLD, WP)
    a = zero
    r = zero
    g = zero
    levels = tl.zeros([8], ACC)
    kept = levels
    kappa = levels
    norm_a = zero + 1.0
    norm_r = norm_a
    levels_counted = norm_a
    if PLAN.absolute is not None:
        norm_a = norm_of(n_abs, floored, size, PLAN.absolute)
        a = divide(joined(totals, T_ABSOLUTE, WORLD, WP), norm_a)
    if PLAN.relative is not None:
        counted = n_all
        if PLAN.weighed or PLAN.alignment.min_pixels:
            counted = joined(totals, T_ALIGNED, WORLD, WP)
        if PLAN.trim_batch:
            counted = kept_of(counted.to(tl.int64), PLAN.trim).to(ACC)
        norm_r = norm_of(counted, floored, size, PLAN.relative)
        r = divide(joined(totals, T_RELATIVE, WORLD, WP), norm_r)
    if PLAN.has_gradient:
        fitted = n_all
        if PLAN.alignment.min_pixels or HAS.weight:
            fitted = joined(totals, T_FITTED, WORLD, WP)
        g, levels, kept, kappa, levels_counted = gradient_levels(totals, fitted, size, PLAN, WORLD, WP, ACC)
        g += joined(totals, T_VISIBLE, WORLD, WP)
    values = (a, r, g)
    shown = values
    if PLAN.relative_confidence is not None:
        shown = (a, divide(joined(totals, T_PLAIN_RELATIVE, WORLD, WP), norm_r), g)
    pooled = ()  # of the moments: mean, root, factor of V
    for i in tl.static_range(M):
        if PLAN.moments[i].images:
            x = joined(totals, T_MEAN + i, WORLD, WP)
            if not PLAN.moments[i].images_sum:
                x = divide(x, tl.where(size > 1, size, 1.0))
            pooled = pooled + ((zero, zero, zero),)
        else:
            centre, spread = joined_moments(totals, T_MEAN + i, T_SPREAD + i, WORLD, WP)
            x, inner, factor = value_of(n_all, centre, spread, PLAN.moments[i])
            pooled = pooled + ((centre, inner, factor),)
        values = values + (x,)
        shown = shown + (x,)
    for _ in tl.static_range(M, MOST):
        values = values + (zero,)
        shown = shown + (zero,)
    norms = ()
    for i in tl.static_range(P):
        again = zero
        if PLAN.pixels[i].counts:
            again = joined(totals, T_PIXEL_COUNT + i, WORLD, WP)
        if PLAN.pixels[i].absolute:
            norm = norm_of(n_abs + again, floored + again, size, PLAN.pixels[i])
        else:
            norm = norm_of(n_all + again, floored, size, PLAN.pixels[i])
        x = divide(joined(totals, T_PIXEL + i, WORLD, WP), norm)
        values = values + (x,)
        if PLAN.pixels[i].confidence is not None:
            x = divide(joined(totals, T_PLAIN + i, WORLD, WP), norm)
        shown = shown + (x,)
        norms = norms + (norm,)
    if PLAN.confidence_slot >= 0:
        mean = divide(joined(totals, T_CONFIDENCE, WORLD, WP), at_least_one(n))
        tl.store(terms + PLAN.confidence_slot, mean)
    factors = combine(
        terms,
        total_out,
        coefficients,
        weights,
        log_vars,
        n,
        values,
        shown,
        levels,
        kept,
        PLAN,
        BY_POINTER,
        ACC,
    )
    # Each rank's gradient is that of all ranks' equal losses; but of the losses of its own images.
    RANKS: tl.constexpr = 1 if PLAN.by_image else WORLD
    if PLAN.by_image:
        for b0 in range(0, B, BC):
            b = b0 + tl.arange(0, BC)
            losses = losses_of_images(moments, images, sums, b, b < B, factors, levels_counted, B, H, W, NP,
                                      R, NQ, PLAN, HAS, ACC, TH, S, NPP, BC, QB, LEVELS)  # fmt: skip
            tl.store(total_out + b, losses, mask=b < B)
        # The mean of the images is for the metrics only.
        kappa = kappa * tl.where(size > 1, size, 1.0)
        norm_a = zero + 1.0
        norm_r = norm_a
        size = norm_a
    if SAVES:
        f_g = factors[2] * RANKS
        kappa = kappa * f_g
        tl.store(coefficients + KAPPA + tl.arange(0, 8), kappa)
        for i in tl.static_range(P):
            if PLAN.pixels[i].largest:
                tl.store(coefficients + LARGEST + i, from_largest(tl.load(found + i), PLAN.pixels[i]))
        for b0 in range(0, B, BC):
            b = b0 + tl.arange(0, BC)
            here = b < B
            row = coefficients + HEAD + b.to(tl.int64) * COEFFICIENTS
            if PLAN.absolute is not None:
                w_a = tl.zeros([BC], ACC) + divide(factors[0] * RANKS, norm_a)
                if PLAN.absolute.by_image:
                    n_b = numbers(moments, ABS_COUNT, b, B, NP, R, NPP, HAS)
                    w_a = divide(w_a, at_least_one(n_b.to(ACC)))
                tl.store(row + ABS_WEIGHT, w_a, mask=here)
            if PLAN.codes:
                w_r = tl.zeros([BC], ACC) + divide(factors[1] * RANKS, norm_r)
                row_q = (tl.full((), 0, tl.int64) + NQ) * B
                if PLAN.relative is not None:
                    if PLAN.relative.by_image:
                        kept_b = kept_of_images(moments, images, b, here, B, NP, R, NPP, PLAN, HAS, ACC)
                        w_r = divide(w_r, at_least_one(kept_b))
                kappas = kappa[None, :]
                if PLAN.gradient_images:
                    kappas = kappas * inverses_of_images(moments, sums, b, here, B, H, W, NP, R, NQ, PLAN,
                                                         HAS, ACC, TH, S, NPP, BC, QB, LEVELS)  # fmt: skip
                    k = tl.arange(0, 8)[None, :]
                    tl.store(row[:, None] + LEVEL_WEIGHT + k, kappas, mask=here[:, None] & (k >= 0))
                one, z, rel_one, rel_z = _adjoints(
                    sums, b, here, kappas, w_r, H, W, NQ, row_q, PLAN, ACC, TH, S, BC, QB, LEVELS
                )  # fmt: skip
                image = images + b.to(tl.int64) * IMAGE
                # Without a factor also a NaN of the statistics is left out.
                wanted = here & ((w_r != 0) | (f_g + w_r * 0.0 != 0))
                if PLAN.alignment.min_pixels:
                    wanted = wanted & (fitted_counts(moments, b, B, NP, R, NPP, PLAN, HAS) > 0)
                scale = tl.load(image + INV_P_OF_IMAGE, mask=wanted, other=0.0)
                inv_n = tl.load(image + INV_N, mask=here, other=0.0)
                u_one = one + w_r * rel_one
                u_z = z + w_r * rel_z
                if PLAN.floored:
                    u_z = tl.where(tl.load(image + FREE, mask=here, other=0.0) != 0, u_z, 0.0)
                tl.store(row + REL_WEIGHT, w_r, mask=here)
                tl.store(row + SCALE, scale, mask=here)
                if PLAN.trim > 0:
                    share = tl.load(image + SHARE_OF_IMAGE, mask=wanted, other=0.0)
                    tl.store(row + SHARE, share, mask=here)
                if not PLAN.of_signs:
                    tl.store(row + MU_P, tl.load(image + MU_P_OF_IMAGE, mask=wanted, other=0.0), mask=here)
                    mu_g = tl.load(image + MU_G_OF_IMAGE, mask=wanted, other=0.0)
                    if PLAN.fits:
                        mu_g += tl.load(image + OFFSET, mask=wanted, other=0.0)
                    tl.store(row + MU_G, mu_g, mask=here)
                    tl.store(row + INV_P, scale, mask=here)
                    tl.store(row + INV_G, tl.load(image + INV_G_OF_IMAGE, mask=wanted, other=0.0), mask=here)
                    if not PLAN.fits:
                        tl.store(row + BY_P, scale * 0.0, mask=here)
                        tl.store(row + BY_G, scale * 0.0, mask=here)
                if PLAN.fits:
                    _fit_coefficients(row, image, here, wanted, u_one, u_z, inv_n, PLAN)
                elif PLAN.aligned:
                    of_centre = u_one - tl.load(image + SIGN_MEAN, mask=here, other=0.0) * u_z
                    if PLAN.detached:
                        tl.store(row + TIE_WEIGHT, u_one * 0.0, mask=here)
                    elif PLAN.by_median:
                        ties = tl.load(image + TIES, mask=here, other=0.0)
                        tl.store(row + TIE_WEIGHT, _over(of_centre, ties), mask=here)
                    else:
                        tl.store(row + MEAN_WEIGHT, of_centre * inv_n, mask=here)
                    tl.store(row + SIGN_WEIGHT, u_z * inv_n, mask=here)
            for i in tl.static_range(M):
                _moments_coefficients(
                    row, here, moments, b, factors[MOMENTS + i] * RANKS, pooled[i], n_all, size, B, NP, R, i,
                    PLAN.moments[i], HAS, NPP, BC, ACC
                )  # fmt: skip
            for i in tl.static_range(P):
                w = tl.zeros([BC], ACC) + factors[PIXELS + i] * RANKS
                if not PLAN.by_image:
                    w = divide(w, norms[i])
                if PLAN.pixels[i].by_image:
                    n_b = pixels_of_images(moments, i, b, B, NP, R, NPP, PLAN.pixels[i], HAS)
                    w = divide(w, at_least_one(n_b.to(ACC)))
                tl.store(row + PIXEL_WEIGHT + i, w, mask=here)


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=NUMBERS)
def finish(
    moments,  # [.., R]
    images,  # [B, IMAGE]
    sums,  # [.., B * NQ]
    found,  # [MOST], the largest residuals
    totals,  # [WORLD, TOTALS]
    weights,  # tuple
    log_vars,  # tuple of pointers
    total_out,  # [1], or [B] of a loss by image
    terms,  # [metrics]
    coefficients,  # [HEAD + B * COEFFICIENTS]
    B, H, W, NP, R, NQ, PLAN: tl.constexpr, HAS: tl.constexpr, BY_POINTER: tl.constexpr,
    COLLECT: tl.constexpr, COMBINE: tl.constexpr, SAVES: tl.constexpr, ACC: tl.constexpr,
    TH: tl.constexpr, S: tl.constexpr, NPP: tl.constexpr, BC: tl.constexpr, QC: tl.constexpr,
    QB: tl.constexpr, LEVELS: tl.constexpr, WORLD: tl.constexpr, WP: tl.constexpr,
):  # fmt: skip
    """Collect this rank's totals, combine those of all ranks, or both."""
    if COLLECT:
        collect(
            moments, images, sums, totals, B, H, W, NP, R, NQ, PLAN, HAS, ACC, TH, S, NPP, BC, QC, QB, LEVELS
        )
    if COLLECT and COMBINE:
        tl.debug_barrier()  # The totals are read by threads that did not write them.
    if COMBINE:
        _finish(moments, images, sums, found, totals, weights, log_vars, total_out, terms, coefficients,
                B, H, W, NP, R, NQ, PLAN, HAS, BY_POINTER, SAVES, ACC, TH, S, NPP, BC, QB, LEVELS, WORLD,
                WP)  # fmt: skip
