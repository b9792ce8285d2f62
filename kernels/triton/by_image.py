"""The losses of the images, of a loss that is [B]: the sum of its terms' values, each with its factor."""

import triton
import triton.language as tl

from .. import plan as p
from .device import at_least_one, divide
from .moments import ABS_COUNT, ABSOLUTE, PIXEL
from .sobel import REL, RESPONSE
from .totals import (
    hidden_in_images,
    inverses_of_images,
    kept_of_images,
    levels_of_images,
    moments_of_images,
    numbers,
    per_image,
    pixels_of_images,
    relative_of_images,
    value_of,
)

MOMENTS = tl.constexpr(p.MOMENTS)
PIXELS = tl.constexpr(p.PIXELS)


@triton.jit
def _add(total, factor, value):
    """`total` [BC] with a term; selected, not multiplied: one that is left out must not add its NaN."""
    factor = factor + total * 0.0
    return total + tl.where(factor != 0, factor * value, 0.0)


@triton.jit
def losses_of_images(moments, images, sums, b, here, factors, counted, B, H, W, NP, R, NQ, PLAN: tl.constexpr,
                     HAS: tl.constexpr, ACC: tl.constexpr, TH: tl.constexpr, S: tl.constexpr,
                     NPP: tl.constexpr, BC: tl.constexpr, QB: tl.constexpr,
                     LEVELS: tl.constexpr):  # fmt: skip
    """The losses of the images b [BC]; `counted`: by how many levels a gradient term is divided."""
    total = tl.zeros([BC], ACC)
    row_q = (tl.full((), 0, tl.int64) + NQ) * B
    if PLAN.absolute is not None:
        n_abs = numbers(moments, ABS_COUNT, b, B, NP, R, NPP, HAS).to(ACC)
        a = divide(per_image(moments, ABSOLUTE, b, B, NP, R, NPP), at_least_one(n_abs))
        total = _add(total, factors[0], a)
    if PLAN.relative is not None:
        r = relative_of_images(sums, REL * row_q, b, here, H, W, NQ, PLAN, ACC, TH, S, BC, QB, LEVELS)
        kept = kept_of_images(moments, images, b, here, B, NP, R, NPP, PLAN, HAS, ACC)
        total = _add(total, factors[1], divide(r, at_least_one(kept)))
    if PLAN.has_gradient:
        response = levels_of_images(
            sums, RESPONSE * row_q, b, here, H, W, NQ, PLAN, ACC, TH, S, BC, QB, LEVELS
        )
        by = inverses_of_images(moments, sums, b, here, B, H, W, NP, R, NQ, PLAN, HAS, ACC, TH, S, NPP, BC,
                                QB, LEVELS)  # fmt: skip
        hidden = hidden_in_images(moments, b, B, NP, R, NPP, PLAN, HAS)
        g = divide(tl.sum(tl.where(by > 0, response * by, 0.0), 1), counted)
        total = _add(total, factors[2], g + hidden)
    for i in tl.static_range(len(PLAN.moments)):
        n, mean, spread = moments_of_images(moments, i, b, B, NP, R, NPP, HAS, ACC)
        x, inner, factor = value_of(n, mean, spread, PLAN.moments[i])
        total = _add(total, factors[MOMENTS + i], x)
    for i in tl.static_range(len(PLAN.pixels)):
        n = pixels_of_images(moments, i, b, B, NP, R, NPP, PLAN.pixels[i], HAS).to(ACC)
        x = divide(per_image(moments, PIXEL + i, b, B, NP, R, NPP), at_least_one(n))
        total = _add(total, factors[PIXELS + i], x)
    return total
