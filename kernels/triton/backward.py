"""The backward, first launch: the adjoint Sobel of the coarse cells, ready to be added to pixels.

    A_k = kappa_k omega_k (Sx^T sx + Sy^T sy);   omega = 1/(pixels a cell samples), of support 1/count

Streams down rows; the halo of the codes holds the fold of the border, so that no column is masked. Saves
nothing; reads 0.33 bytes/pixel, writes 4 bytes/cell = 1.33 bytes/pixel in float32.
"""

import triton
import triton.language as tl

from .codes import adjoint, beyond, unpack_count, unpack_row
from .coefficients import COEFFICIENTS, HEAD, KAPPA, LEVEL_WEIGHT
from .device import NUMBERS, SIZES, divide
from .levels import locate


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
    level, h, w, y0, x0, o_cells, o_codes, o_highs = locate(i_p - b * NQ, b, B, H, W, 1, PLAN, LEVELS, TH, TW)
    x = x0 + tl.arange(0, TW)
    x_c = tl.minimum(x, w - 1)
    end = tl.minimum(y0 + TH, h)
    stored_rows = tl.where(x < w, end, 0)
    if PLAN.gradient_images:
        kappa = tl.load(coefficients + HEAD + b.to(tl.int64) * COEFFICIENTS + LEVEL_WEIGHT + level)
    else:
        kappa = tl.load(coefficients + KAPPA + level)
    if PLAN.sobel_mask != "support":
        if PLAN.downsample == "average":
            kappa = divide(kappa, (1 << (2 * level)).to(ACC))
        elif PLAN.downsample == "bilinear":
            kappa = kappa * 0.25
    HIGH: tl.constexpr = PLAN.two_byte_counts and LEVELS > 3
    # Each of what is carried over two rows begins with its own zero: see `sobel._strips`.
    zero = tl.zeros([TW], tl.int32)
    d0 = tl.zeros([TW], tl.float32)
    s0 = d0
    d1 = tl.zeros([TW], tl.float32)
    s1, c1, e1 = d1, zero, zero
    code += o_codes
    high += o_highs
    o = tl.maximum(y0 - 1, 0).to(tl.int64) * (w + 2) + x_c + 1
    o_a = o_cells + y0.to(tl.int64) * w + x
    for pair in tl.range(0, (end - y0 + 3) // 2, num_stages=1):
        for i in tl.static_range(2):
            y = y0 + (2 * pair + i - 1)
            d2, s2, c2 = unpack_row(code + o, PLAN)
            d2, s2 = beyond(d2, s2, (y < 0) | (y >= h), PLAN)
            e2 = zero
            if HIGH:
                e2 = tl.load(high + o, mask=(x_c >= 0) & (level > 2), other=0).to(tl.int32)
            # A row outside the image is its edge row.
            o += ((y >= 0) & (y < h - 1)).to(tl.int64) * (w + 2)
            if pair > 0:
                a = adjoint(d0, d1, d2, s0, s1, s2, PLAN).to(ACC) * kappa
                if PLAN.sobel_mask == "support":
                    a = a / unpack_count(c1, e1).to(ACC)
                tl.store(cells + o_a, a, mask=y - 1 < stored_rows)
                o_a += w
            d0, s0, d1, s1, c1, e1 = d1, s1, d2, s2, c2, e2
