"""What the residual of an image is made with, and rows of it at any level.

    r = (p - mu_p) inv_p - (g - mu_g) inv_g
    mean, median    1/inv = S = sum m |dev|/n + eps, of medians perhaps max(sum m |dev|/n, eps)
    least squares   inv_p = C/V, inv_g = 1;  packnet: inv_p = clamp(a0), a0 = C/(V + eps), the shift by a0

inv = 0 for an empty image. At level 0 from p, g and m, at the others from the cells of phase 2.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .device import divide, image_total, to_domain, valid
from .inputs import weight_at
from .pyramid import (
    COUNT,
    DEV_G,
    DEV_P,
    DEV_SIGN,
    DEVIATION,
    FREE,
    HALF,
    IMAGE,
    INV_G,
    INV_N,
    INV_P,
    MU_G,
    MU_P,
    OFFSET,
    SIGN_MEAN,
    SLOPE,
    centred,
)


class Fit(NamedTuple):
    """What the residual of an image is made with; `offset`: what it is moved by beside it, that the cells
    lack; 1 if the image counts, or 0.
    """

    mu_p: Any
    mu_g: Any
    inv_p: Any
    inv_g: Any
    offset: Any
    on: Any


@triton.jit
def _slope(spread, covariance, mu_p, PLAN: tl.constexpr, ACC: tl.constexpr):
    """Of a fit, from variance and covariance in float64: its slope, what moves it beyond the means, whether
    it depends on p, the variance with eps, and the slope before its bounds.
    """
    if PLAN.alignment.kind == "least-squares":
        EPS: tl.constexpr = 2.0**-52 if ACC == tl.float64 else 2.0**-23
        least = 4.0 * EPS * mu_p.to(tl.float64)
        # A prediction that varies by no more than rounding has no slope; NaN goes on.
        fixed = spread <= least * least
        slope = tl.where(fixed, 0.0, divide(covariance, tl.where(fixed, 1.0, spread)))
        return slope, slope * 0.0, tl.where(fixed, 0.0, 1.0), spread, slope
    else:
        spread = spread + PLAN.eps
        a0 = divide(covariance, tl.where(spread != 0, spread, 1.0))
        slope = tl.where(a0 < 0.1, 0.1, tl.where(a0 > 10.0, 10.0, a0))
        free = tl.where((a0 >= 0.1) & (a0 <= 10.0), 1.0, 0.0)
        return slope, (slope - a0) * mu_p, free, spread, a0


@triton.jit
def fit_of(deviations, images, b, first, NP, R, PLAN: tl.constexpr, NPP: tl.constexpr, ACC: tl.constexpr):
    """What the residual of image b is made with; the `first` program stores what later phases need."""
    row = images + b * IMAGE
    inv_n = tl.load(row + INV_N)
    mu_p = tl.load(row + MU_P)
    mu_g = tl.load(row + MU_G)
    inv_p = tl.full((), 1.0, ACC)
    inv_g = inv_p
    offset = inv_p * 0.0
    on = inv_n != 0
    if PLAN.by_median:
        inv_p = tl.load(row + INV_P)
        inv_g = tl.load(row + INV_G)
    elif PLAN.by_mean:
        spread_p = image_total(deviations, DEV_P, b, NP, R, NPP) * inv_n
        spread_g = image_total(deviations, DEV_G, b, NP, R, NPP) * inv_n
        inv_p = divide(1.0, spread_p + PLAN.eps)
        inv_g = divide(1.0, spread_g + PLAN.eps)
    elif PLAN.fits:
        spread_p = image_total(deviations, DEV_P, b, NP, R, NPP) * inv_n
        covariance = image_total(deviations, DEV_G, b, NP, R, NPP) * inv_n
        inv_p, offset, free, spread, slope = _slope(spread_p, covariance, mu_p, PLAN, ACC)
        # Its root is in the range of ACC.
        deviation = tl.sqrt(spread).to(ACC)
        inv_p = inv_p.to(ACC)
        offset = offset.to(ACC)
        slope = slope.to(ACC)
        if PLAN.alignment.min_pixels:
            on = on & (tl.load(row + COUNT) >= PLAN.alignment.min_pixels)
        offset = tl.where(on, offset, 0.0)
    # An empty image has no residual.
    inv_p = tl.where(on, inv_p, 0.0)
    inv_g = tl.where(on, inv_g, 0.0)
    # Of medians the phase before has stored it.
    if first and not PLAN.by_median:
        tl.store(row + INV_P, inv_p)
        tl.store(row + INV_G, inv_g)
        if PLAN.by_mean:
            tl.store(row + SIGN_MEAN, image_total(deviations, DEV_SIGN, b, NP, R, NPP) * inv_n)
        if PLAN.fits:
            tl.store(row + OFFSET, offset)
            tl.store(row + FREE, free)
            tl.store(row + DEVIATION, deviation)
            tl.store(row + SLOPE, slope)
    return Fit(mu_p, mu_g + offset, inv_p, inv_g, offset, on.to(tl.int32))


@triton.jit
def counted(m, fit, PLAN: tl.constexpr):
    """The pixels m of an image, but none of one that is too small for its alignment."""
    if PLAN.alignment.min_pixels:
        # A block of integers: the interpreter cannot broadcast a scalar's comparison.
        return m & ((tl.full(m.shape, 0, tl.int32) + fit.on) != 0)
    else:
        return m


@triton.jit
def unit_sign(x):
    """Sign of x in its own dtype: signs multiply exactly and are a code's digits in base 4. NaN stays NaN."""
    # x where it is 0: of a constant 0 the compiler makes a conversion from integers, which is slower.
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x)).to(x.dtype)


@triton.jit
def residual_of(dev_p, dev_g, fit, PLAN: tl.constexpr):
    """What the backward multiplies signs by, z_p or of a fit dev_p, and r."""
    z = dev_p * fit.inv_p
    r = z - dev_g * fit.inv_g
    if PLAN.fits:
        z = dev_p
    return z, r


@triton.jit
def pixel_row(at, ok, fit, PLAN: tl.constexpr, HAS: tl.constexpr, ACC: tl.constexpr):
    """dev_p, dev_g, the valid and the read pixels, p - g over abs_mask, and (weights,) or (); all pointers
    `at` are inside.
    """
    p = tl.load(at.pred).to(ACC)
    g = tl.load(at.gt).to(ACC)
    everywhere = tl.full(p.shape, True, tl.int1)
    m = ok
    v = ok
    if HAS.mask or PLAN.positive_gt:
        v = ok & valid(at.mask, g, everywhere, HAS.mask, PLAN.positive_gt)
        if not PLAN.all_pixels:
            m = v
    w = ()
    if HAS.weight:
        w = (weight_at(at.weight, everywhere, ACC),)
        v = v & (w[0] != 0)
        m = v
    m = counted(m, fit, PLAN)
    e = tl.zeros_like(p)
    if PLAN.absolute is not None and HAS.abs_mask:
        v = valid(at.abs_mask, g, everywhere, True, PLAN.positive_gt)
        if HAS.weight:
            v = v & (w[0] != 0)
    dev_p, dev_g, keep = centred(p, g, m, ok, fit.mu_p, fit.mu_g, PLAN)
    if PLAN.absolute is not None:
        D: tl.constexpr = PLAN.structure
        e = tl.where(v, to_domain(p, v, D) - to_domain(g, v, D), 0.0)
    return dev_p, dev_g, m, keep, e, w


@triton.jit
def cell_row(cells, o, ok, unit, fit, PLAN: tl.constexpr):
    """Of one row of cells: z, r, the weight a, whether covered, whether half valid, and the count."""
    z = tl.load(cells.p + o)
    if PLAN.aligned:
        z, r = residual_of(z, tl.load(cells.g + o), fit, PLAN)
    else:
        z = z * fit.inv_p
        r = z
    count = tl.load(cells.info + o).to(tl.int32)
    if PLAN.alignment.min_pixels:
        on = counted(count >= 0, fit, PLAN)
        z = tl.where(on, z, 0.0)
        r = tl.where(on, r, 0.0)
        count = tl.where(on, count, 0)
    if PLAN.border == "zero":
        z = tl.where(ok, z, 0.0)
        r = tl.where(ok, r, 0.0)
        count = tl.where(ok, count, 0)
    half = count & HALF
    weight = count
    if PLAN.sobel_mask == "centre":
        weight = count & (HALF - 1)
    weight = weight.to(z.dtype)
    if PLAN.alignment.kind == "packnet-trim":
        # The cells hold p and g about their means.
        if PLAN.sobel_mask == "support":
            r += tl.where(count > 0, fit.offset, 0.0)
        else:
            r += fit.offset * (weight * unit)
    return z, r, weight, (count > 0).to(tl.int32), half, count
