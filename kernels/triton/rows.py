"""What the Sobel phase reads: the statistics of an image, and rows of its residual at any level.

    z = dev_p/S_p;  r = z - dev_g/S_g;  S = sum m |dev|/n + eps, of medians perhaps max(sum m |dev|/n, eps)
    1/S = 0 for an empty image

At level 0 from p, g and m, at the others from the cells of phase 2.
"""

import triton
import triton.language as tl

from .device import divide, image_total, to_domain, valid
from .pyramid import DEV_G, DEV_P, DEV_SIGN, FREE, HALF, IMAGE, INV_G, INV_N, INV_P, SIGN_MEAN, centred


@triton.jit
def image_statistics(deviations, images, b, first, NP, R, PLAN: tl.constexpr, NPP: tl.constexpr,
                     ACC: tl.constexpr):  # fmt: skip
    """1/S of p and of g (0 for an empty image); the image's first program stores what later phases need."""
    row = images + b * IMAGE
    inv_n = tl.load(row + INV_N)
    inv_p = tl.full((), 1.0, ACC)
    inv_g = inv_p
    if PLAN.standardised:
        spread_p = image_total(deviations, DEV_P, b, NP, R, NPP) * inv_n
        spread_g = image_total(deviations, DEV_G, b, NP, R, NPP) * inv_n
        if PLAN.floored:
            free = spread_p >= PLAN.eps
            inv_p = divide(1.0, tl.where(spread_p < PLAN.eps, PLAN.eps, spread_p))
            inv_g = divide(1.0, tl.where(spread_g < PLAN.eps, PLAN.eps, spread_g))
            tl.store(row + FREE, tl.where(free, 1.0, 0.0), mask=first)
        else:
            inv_p = divide(1.0, spread_p + PLAN.eps)
            inv_g = divide(1.0, spread_g + PLAN.eps)
    # An empty image has no z.
    inv_p = tl.where(inv_n > 0, inv_p, 0.0)
    inv_g = tl.where(inv_n > 0, inv_g, 0.0)
    if first:
        tl.store(row + INV_P, inv_p)
        tl.store(row + INV_G, inv_g)
        if PLAN.standardised:
            tl.store(row + SIGN_MEAN, image_total(deviations, DEV_SIGN, b, NP, R, NPP) * inv_n)
    return inv_p, inv_g


@triton.jit
def unit_sign(x):
    """Sign of x in its own dtype: signs multiply exactly and are a code's digits in base 4. NaN stays NaN."""
    # x where it is 0: of a constant 0 the compiler makes a conversion from integers, which is slower.
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x)).to(x.dtype)


@triton.jit
def pixel_row(pred, gt, mask, abs_mask, ok, mu_p, mu_g, PLAN: tl.constexpr, HAS_MASK: tl.constexpr,
              HAS_ABS: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """dev_p, dev_g, the valid and the read pixels, and p - g over abs_mask; all pointers are inside."""
    p = tl.load(pred).to(ACC)
    g = tl.load(gt).to(ACC)
    everywhere = tl.full(p.shape, True, tl.int1)
    m = ok
    v = ok
    if HAS_MASK or PLAN.positive_gt:
        v = ok & valid(mask, g, everywhere, HAS_MASK, PLAN.positive_gt)
        if not PLAN.all_pixels:
            m = v
    dev_p, dev_g, keep = centred(p, g, m, ok, mu_p, mu_g, PLAN)
    e = tl.zeros_like(p)
    if PLAN.absolute is not None:
        if HAS_ABS:
            v = valid(abs_mask, g, everywhere, True, PLAN.positive_gt)
        D: tl.constexpr = PLAN.structure
        e = tl.where(v, to_domain(p, v, D) - to_domain(g, v, D), 0.0)
    return dev_p, dev_g, m, keep, e


@triton.jit
def cell_row(level_p, level_g, info, o, ok, inv_p, inv_g, PLAN: tl.constexpr):
    """Of one row of cells: z, r, the weight a, whether covered, whether half valid, and the count."""
    z = tl.load(level_p + o) * inv_p
    r = z
    if PLAN.standardised:
        r = z - tl.load(level_g + o) * inv_g
    count = tl.load(info + o).to(tl.int32)
    if PLAN.border == "zero":
        z = tl.where(ok, z, 0.0)
        r = tl.where(ok, r, 0.0)
        count = tl.where(ok, count, 0)
    half = count & HALF
    weight = count
    if PLAN.sobel_mask == "centre":
        weight = count & (HALF - 1)
    return z, r, weight.to(z.dtype), (count > 0).to(tl.int32), half, count
