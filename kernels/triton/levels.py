"""Where in the pyramid a program works: shared by the Sobel phase and its adjoint.

Buffers hold the levels one after another, each [B, h, w] (cells) or [B, h, w + 2] (codes, with a halo cell on
both sides of a row); the high bytes of counts begin at level 3.
"""

import triton
import triton.language as tl

from .device import divide


@triton.jit
def size_of(n, k, PLAN: tl.constexpr):
    """Cells of level k along n pixels."""
    # An int argument that equals 1 is a constant without methods: hence the zero.
    n = tl.full((), 0, tl.int32) + n
    if PLAN.strided:
        return (n + ((1 << k) - 1)) >> k
    else:
        return n >> k


@triton.jit
def unit(k, PLAN: tl.constexpr, ACC: tl.constexpr):
    """D_k(m) of one valid pixel: 1 over the pixels that a cell samples."""
    one = tl.full((), 1.0, ACC)
    if PLAN.downsample == "average":
        return divide(one, (1 << (2 * k)).to(ACC))
    elif PLAN.downsample == "bilinear":
        return tl.where(k > 0, 0.25 * one, one)
    else:
        return tl.zeros_like(k).to(ACC) + one


@triton.jit
def locate(q, b, B, H, W, FIRST: tl.constexpr, PLAN: tl.constexpr, LEVELS: tl.constexpr, TH: tl.constexpr,
           COLUMNS: tl.constexpr):  # fmt: skip
    """Of program q of image b over the levels FIRST.. in tiles of TH x COLUMNS.

    Returns:
        level, h, w, first row and column, and the offsets of image b's cells, codes and high bytes.
    """
    level = tl.full((), FIRST, tl.int32)
    first = tl.full((), 0, tl.int32)
    h = first
    w = first
    cells = tl.full((), 0, tl.int64)
    codes = cells
    highs = cells
    b64 = b.to(tl.int64)
    next_first = first
    next_cells = cells
    next_codes = cells
    next_highs = cells
    for k in tl.static_range(FIRST, LEVELS):
        h_k = size_of(H, k, PLAN)
        w_k = size_of(W, k, PLAN)
        n_cells = h_k.to(tl.int64) * w_k
        n_codes = h_k.to(tl.int64) * (w_k + 2)
        here = q >= next_first
        level = tl.where(here, k, level)
        first = tl.where(here, next_first, first)
        h = tl.where(here, h_k, h)
        w = tl.where(here, w_k, w)
        cells = tl.where(here, next_cells + b64 * n_cells, cells)
        codes = tl.where(here, next_codes + b64 * n_codes, codes)
        highs = tl.where(here, next_highs + b64 * n_codes, highs)
        next_first += tl.cdiv(w_k, COLUMNS) * tl.cdiv(h_k, TH)
        if k > 0:
            next_cells += n_cells * B
            next_codes += n_codes * B
        if k > 2:
            next_highs += n_codes * B
    t = q - first
    tiles_x = tl.cdiv(w, COLUMNS)
    return level, h, w, t // tiles_x * TH, t % tiles_x * COLUMNS, cells, codes, highs


@triton.jit
def level_of(q, H, W, PLAN: tl.constexpr, TH: tl.constexpr, COLUMNS: tl.constexpr, LEVELS: tl.constexpr):
    """The level that each of the programs q of an image works on, from level 0 on."""
    level = q * 0
    first = tl.full((), 0, tl.int32)
    for k in tl.static_range(LEVELS):
        level = tl.where(q >= first, k, level)
        h = size_of(H, k, PLAN)
        w = size_of(W, k, PLAN)
        first += tl.cdiv(w, COLUMNS) * tl.cdiv(h, TH)
    return level
