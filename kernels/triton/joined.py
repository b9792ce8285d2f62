"""Phase 4b, first part: the totals of all ranks together, and the gradient term's levels from them."""

import triton
import triton.language as tl

from .device import at_least_one, divide, share, spread_about
from .totals import T_CELLS, T_KEPT, T_RESPONSE, T_STATISTICS, TOTALS, level_inverses


@triton.jit
def joined(totals, item, WORLD: tl.constexpr, WP: tl.constexpr):
    """Sum of one total over the ranks."""
    r = tl.arange(0, WP)
    return tl.sum(tl.load(totals + r * TOTALS + item, mask=r < WORLD, other=0.0))


@triton.jit
def joined_levels(totals, item, WORLD: tl.constexpr, WP: tl.constexpr):
    """Sums [8] of the totals of all levels over the ranks."""
    r = tl.arange(0, WP)[:, None]
    at = totals + r * TOTALS + item + tl.arange(0, 8)[None, :]
    return tl.sum(tl.load(at, mask=(r < WORLD) & (tl.arange(0, 8)[None, :] >= 0), other=0.0), 0)


@triton.jit
def joined_moments(totals, item_mean, item_spread, WORLD: tl.constexpr, WP: tl.constexpr):
    """Mean and spread of the joined batch (Chan)."""
    r = tl.arange(0, WP)
    here = r < WORLD
    n_r = tl.load(totals + r * TOTALS + T_STATISTICS, mask=here, other=0.0)
    mean_r = tl.load(totals + r * TOTALS + item_mean, mask=here, other=0.0)
    spread_r = tl.load(totals + r * TOTALS + item_spread, mask=here, other=0.0)
    n = tl.sum(n_r)
    mean = share(tl.sum(n_r * mean_r), n)
    d = tl.where(n_r > 0, mean_r - mean, 0.0)
    shift = share(tl.sum(n_r * d), n)
    return mean + shift, spread_about(tl.sum(spread_r + n_r * d * d), n, shift)


@triton.jit
def gradient_levels(
    totals, n, images, PLAN: tl.constexpr, WORLD: tl.constexpr, WP: tl.constexpr, ACC: tl.constexpr
):
    """Of the gradient term: its value, its levels, kept responses and kappa [8], all still without w F; by
    how many levels it is divided.
    """
    k = tl.arange(0, 8)
    response = joined_levels(totals, T_RESPONSE, WORLD, WP)
    kept = joined_levels(totals, T_KEPT, WORLD, WP)
    cells = kept
    if PLAN.counts_cells:
        cells = joined_levels(totals, T_CELLS, WORLD, WP)
    inverse = level_inverses(kept, cells, n, k, PLAN, ACC)
    if PLAN.gradient_images:
        # The images' ratios are added up already.
        inverse = kept * 0.0 + divide(1.0, tl.where(images > 1, images, 1.0))
        inverse = tl.where(k < PLAN.levels, inverse, 0.0)
    levels = tl.where(inverse > 0, response * inverse, 0.0)
    counted = tl.full((), 1.0, ACC)
    if PLAN.combine == "mean":
        if PLAN.sobel_mask == "support":
            counted = tl.maximum(tl.sum((kept > 0).to(tl.int32)), 1).to(ACC)
        else:
            counted = tl.full((), PLAN.levels, ACC)
        inverse = divide(inverse, counted)
        value = divide(tl.sum(levels), counted)
    else:
        value = tl.sum(levels)
    return value, levels, kept, inverse, counted


@triton.jit
def _denominator(n, EPS: tl.constexpr):
    """n + eps; max(n, 1) where eps is 0."""
    if EPS > 0:
        return n + EPS
    else:
        return at_least_one(n)


@triton.jit
def norm_of(n, floored, images, T: tl.constexpr):
    """What the sum of a pixel term is divided by: its pixels n, `floored`, the images, or nothing."""
    if T.norm == "images":
        return tl.where(images > 1, images, 1.0)
    elif T.norm == "images-sum":
        return images * 0.0 + 1.0
    elif T.norm == "floored":
        return _denominator(floored, T.eps)
    else:
        return _denominator(n, T.eps)
