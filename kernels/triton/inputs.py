"""What the kernels are handed of a batch, and how a block of its pixels is read."""

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


class Block(NamedTuple):
    """p and g in the type of the arithmetic, 0 outside the image; the pixels that the terms count, the valid
    ones among them, and those of `abs_mask`.
    """

    p: Any
    g: Any
    m: Any
    v: Any
    v_abs: Any


@triton.jit
def read(inputs, b, y, x, ok, PLAN: tl.constexpr, HAS_MASK: tl.constexpr, HAS_ABS: tl.constexpr,
         ACC: tl.constexpr):  # fmt: skip
    """The pixels [b, y, x] of which `ok` are inside the image; `y`, `x` int64 blocks that broadcast."""
    p = tl.load(pixels(inputs.pred, b, y, x), mask=ok, other=0.0).to(ACC)
    g = tl.load(pixels(inputs.gt, b, y, x), mask=ok, other=0.0).to(ACC)
    v = valid(pixels(inputs.mask, b, y, x), g, ok, HAS_MASK, PLAN.positive_gt)
    m = v
    if PLAN.all_pixels:
        m = ok
    v_abs = v
    if HAS_ABS:
        v_abs = valid(pixels(inputs.abs_mask, b, y, x), g, ok, True, PLAN.positive_gt)
    return Block(p, g, m, v, v_abs)
