"""The backward, first launch: the adjoint Sobel of the coarse cells, ready to be added to pixels.

    A_k = kappa_k omega_k (Sx^T sx + Sy^T sy);   omega = 1/(pixels a cell samples), of support 1/count

Streams down rows; the halo of the codes holds the fold of the border, so that no column is masked. Saves
nothing; reads 0.33 bytes/pixel, writes 4 bytes/cell = 1.33 bytes/pixel in float32.
"""

import triton
import triton.language as tl

from .coefficients import KAPPA
from .device import NUMBERS, SIZES, divide
from .levels import locate


@triton.jit
def code_row(code, o):
    """Of one row of codes: adjoint differences of sx and smooth sums of sy along x, and the codes themselves.

    Sx^T: left neighbour less right; Sy^T: 1 2 1. The offset of sy (4 a unit, 16 in all) cancels between rows.
    """
    c_l = tl.load(code + o - 1).to(tl.int32)
    c = tl.load(code + o).to(tl.int32)
    c_r = tl.load(code + o + 1).to(tl.int32)
    return (c_l & 3) - (c_r & 3), (c_l & 12) + (c_r & 12) + 2 * (c & 12), c


@triton.jit
def beyond(d, s, d_edge, s_edge, outside, PLAN: tl.constexpr):
    """The row's d and s, or what stands for a row outside the image next to the edge row."""
    if PLAN.border == "replicate":
        return tl.where(outside, d_edge, d), tl.where(outside, 32 - s_edge, s)
    else:
        return tl.where(outside, 0, d), tl.where(outside, 16, s)


@triton.jit
def adjoint(d0, d1, d2, s0, s2):
    """Sx^T sx + Sy^T sy from three rows' differences and smooth sums, exact integers."""
    return d0 + d2 + 2 * d1 + ((s0 - s2) >> 2)


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=NUMBERS)
def coarse(
    code,  # uint8 [B, h, w + 2] of the levels k >= 1
    high,  # uint8, likewise of the levels k >= 3
    coefficients,
    cells,  # A_k: [B, h, w] of the levels k >= 1
    B,
    H,
    W,
    NQ,
    PLAN: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    LEVELS: tl.constexpr,
):
    """Write A_k of all cells."""
    i_p = tl.program_id(0)
    b = i_p // NQ
    level, h, w, y0, x0, o_cells, o_codes, o_highs = locate(i_p - b * NQ, b, B, H, W, 1, LEVELS, TH, TW)
    x = x0 + tl.arange(0, TW)
    x_c = tl.minimum(x, w - 1)
    stored_rows = tl.where(x < w, h, 0)
    kappa = tl.load(coefficients + KAPPA + level)
    if PLAN.sobel_mask != "support":
        if PLAN.downsample == "average":
            kappa = divide(kappa, (1 << (2 * level)).to(ACC))
        elif PLAN.downsample == "bilinear":
            kappa = kappa * 0.25
    HIGH: tl.constexpr = PLAN.wide_counts and LEVELS > 3
    zero = tl.zeros([TW], tl.int32)
    d0 = zero
    s0 = zero
    d1 = zero
    s1 = zero
    c1 = zero
    e1 = zero
    for i in tl.static_range(TH + 2):
        y = y0 + (i - 1)
        y_c = tl.minimum(tl.maximum(y, 0), h - 1).to(tl.int64)
        o = y_c * (w + 2) + x_c + 1
        d2, s2, c2 = code_row(code + o_codes, o)
        e2 = zero
        if HIGH and i >= 1 and i <= TH:
            e2 = tl.load(high + o_highs + o, mask=(x_c >= 0) & (level > 2), other=0).to(tl.int32)
        if i == 0:
            d2, s2 = beyond(d2, s2, d2, s2, y < 0, PLAN)
        else:
            d2, s2 = beyond(d2, s2, d1, s1, y >= h, PLAN)
        if i >= 2:
            a = adjoint(d0, d1, d2, s0, s2).to(ACC) * kappa
            if PLAN.sobel_mask == "support":
                a = a / ((c1 >> 4) + 1 + 16 * e1).to(ACC)
            o_a = (y - 1).to(tl.int64) * w + x
            tl.store(cells + o_cells + o_a, a, mask=y - 1 < stored_rows)
        d0 = d1
        d1 = d2
        s0 = s1
        s1 = s2
        c1 = c2
        e1 = e2
