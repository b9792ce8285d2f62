"""What the kernels are handed of a batch, and how a block of its pixels is read."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import triton
import triton.language as tl

from .device import pixels, valid


class Inputs(NamedTuple):
    """Maps [B, H, W], each a tuple (pointer, batch stride, row stride, column stride)."""

    pred: Any
    gt: Any
    mask: Any
    abs_mask: Any
    weight: Any
    confidence: Any


@dataclass(frozen=True)
class Has:
    """Which of them a call brings; a constant of a kernel."""

    mask: bool
    abs_mask: bool
    weight: bool


class Block(NamedTuple):
    """p and g in the type of the arithmetic, 0 outside the image; the pixels that the terms count, the valid
    ones among them, those of `abs_mask`, and (weights,) or ().
    """

    p: Any
    g: Any
    m: Any
    v: Any
    v_abs: Any
    w: Any


FLOOR = tl.constexpr(1e-6)  # of a confidence


@triton.jit
def weight_at(at, ok, ACC: tl.constexpr):
    """The weights at these pointers; a negative one is NaN, which shows."""
    w = tl.load(at, mask=ok, other=0.0).to(ACC)
    return tl.where(w >= 0, w, float("nan"))


@triton.jit
def weighed(x, m, w):
    """x, which is 0 outside m, times the weights there if there are any: w is () or (weights,)."""
    if len(w) == 0:
        return x
    else:
        return tl.where(m, x * w[0], 0.0)


@triton.jit
def confidence_at(c, m):
    """The confidences at m, at least their floor; 1 elsewhere."""
    return tl.where(m, tl.where(c < FLOOR, FLOOR, c), 1.0)


@triton.jit
def read(inputs, b, y, x, ok, PLAN: tl.constexpr, HAS: tl.constexpr, ACC: tl.constexpr):
    """The pixels [b, y, x] of which `ok` are inside the image; `y`, `x` int64 blocks that broadcast."""
    p = tl.load(pixels(inputs.pred, b, y, x), mask=ok, other=0.0).to(ACC)
    g = tl.load(pixels(inputs.gt, b, y, x), mask=ok, other=0.0).to(ACC)
    v = valid(pixels(inputs.mask, b, y, x), g, ok, HAS.mask, PLAN.positive_gt)
    m = v
    if PLAN.all_pixels:
        m = ok
    v_abs = v
    if HAS.abs_mask:
        v_abs = valid(pixels(inputs.abs_mask, b, y, x), g, ok, True, PLAN.positive_gt)
    if HAS.weight:
        w = weight_at(pixels(inputs.weight, b, y, x), ok, ACC)
        v = v & (w != 0)
        v_abs = v_abs & (w != 0)
        return Block(p, g, v, v, v_abs, (w,))
    else:
        return Block(p, g, m, v, v_abs, ())
