"""Phase 2: absolute deviations, and the pyramid of the centred inputs.

    dev = d - mu;  sum m |dev_p|, sum m |dev_g|, sum m sign(dev_p);  D_k(a dev_p), D_k(a dev_g) for k >= 1

Downsampling is linear, so the pyramid needs mu but not yet the MAD. a = m for mask residual, the finite
pixels for centre, m / D_k(m) for support. Saves `deviations` [ROWS, B * programs], `images` [B, IMAGE] and,
per cell of the levels k >= 1, the two values and an int16: the valid pixels (centre: the finite ones, and
bit 11 = more than half valid). Reads 9 bytes/pixel, writes 10 bytes/cell = 3.3 bytes/pixel, freed after
phase 3.
"""

import triton
import triton.language as tl

from .device import (
    NUMBERS,
    SIZES_BUT_WIDTH,
    divide,
    image_count,
    image_mean,
    pixels,
    sign,
    tile,
    to_domain,
    valid,
)
from .moments import MEAN_G, MEAN_P, STATISTICS

DEV_P = tl.constexpr(0)
DEV_G = tl.constexpr(1)
DEV_SIGN = tl.constexpr(2)
ROWS = 3
# Per image, for later phases: means, 1/S of both, mean sign of dev_p, 1/n.
MU_P = tl.constexpr(0)
MU_G = tl.constexpr(1)
INV_P = tl.constexpr(2)
INV_G = tl.constexpr(3)
SIGN_MEAN = tl.constexpr(4)
INV_N = tl.constexpr(5)
IMAGE = tl.constexpr(8)
HALF = tl.constexpr(2048)  # bit 11: more than half of the cell's pixels are valid


@triton.jit
def centred(p, g, m, inside, mu_p, mu_g, PLAN: tl.constexpr):
    """dev_p, dev_g (0 where the residual is not read) and the pixels that are read."""
    D: tl.constexpr = PLAN.structure
    p = to_domain(p, m, D)
    g = to_domain(g, m, D)
    keep = m
    if PLAN.sobel_mask == "centre":
        if D.conversion == "identity":
            finite = (tl.abs(p) < float("inf")) & (tl.abs(g) < float("inf"))
            keep = (m | finite) & inside
        else:
            keep = inside
    return tl.where(keep, p - mu_p, 0.0), tl.where(keep, g - mu_g, 0.0), keep


@triton.jit
def _read(
    pred, gt, mask, b, y, x, ok, mu_p, mu_g, PLAN: tl.constexpr, HAS_MASK: tl.constexpr, ACC: tl.constexpr
):
    p = tl.load(pixels(pred, b, y, x), mask=ok, other=0.0).to(ACC)
    g = tl.load(pixels(gt, b, y, x), mask=ok, other=0.0).to(ACC)
    m = ok
    if not PLAN.plain:
        m = valid(pixels(mask, b, y, x), g, ok, HAS_MASK, PLAN.positive_gt)
    dev_p, dev_g, keep = centred(p, g, m, ok, mu_p, mu_g, PLAN)
    if not PLAN.standardised:
        # Nothing stands between p and g: pooled apart, they would cancel.
        dev_p = tl.where(keep, dev_p - dev_g, 0.0)
        dev_g = dev_p
    return dev_p, dev_g, m, keep


@triton.jit
def _pool(x, TH: tl.constexpr, TW: tl.constexpr):
    """Sums over 2x2 cells: [TH, TW] -> [TH/2, TW/2]."""
    return tl.sum(tl.sum(tl.reshape(x, [TH // 2, 2, TW // 2, 2]), 3), 1)


@triton.jit
def _store(level_p, level_g, info, o, ok, dev_p, dev_g, counts, AREA: tl.constexpr, PLAN: tl.constexpr):
    """One level's block of cells, from sums over the AREA pixels that a cell samples."""
    count = counts & 65535
    if PLAN.sobel_mask == "support":
        scale = 1.0 / tl.where(count > 0, count, 1).to(dev_p.dtype)
    else:
        scale = 1.0 / AREA
    tl.store(level_p + o, dev_p * scale, mask=ok)
    if PLAN.standardised:
        tl.store(level_g + o, dev_g * scale, mask=ok)
    if PLAN.sobel_mask == "centre":
        count = (counts >> 16) | tl.where(2 * count > AREA, HALF, 0)
    tl.store(info + o, count.to(tl.int16), mask=ok)


@triton.jit
def _sample(pred, gt, mask, b, y, x, ok, h, w, H, W, mu_p, mu_g, K: tl.constexpr, PLAN: tl.constexpr,
            HAS_MASK: tl.constexpr, DIVIDES: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Sums over the pixels that the cells y, x of level K sample: 1 (nearest) or the central 2x2."""
    F: tl.constexpr = 2**K
    if PLAN.downsample == "nearest":
        if DIVIDES:
            y = y * F
            x = x * F
        else:
            y = y * H // h
            x = x * W // w
        p, g, m, keep = _read(pred, gt, mask, b, y, x, ok, mu_p, mu_g, PLAN, HAS_MASK, ACC)
        return p, g, m.to(tl.int32) + tl.where(keep, 65536, 0)
    else:
        y = y * F + (F // 2 - 1)
        x = x * F + (F // 2 - 1)
        p, g, m, keep = _read(pred, gt, mask, b, y, x, ok, mu_p, mu_g, PLAN, HAS_MASK, ACC)
        counts = m.to(tl.int32) + tl.where(keep, 65536, 0)
        for i in tl.static_range(1, 4):
            more_p, more_g, m, keep = _read(
                pred, gt, mask, b, y + i // 2, x + i % 2, ok, mu_p, mu_g, PLAN, HAS_MASK, ACC
            )
            p += more_p
            g += more_g
            counts += m.to(tl.int32) + tl.where(keep, 65536, 0)
        return p, g, counts


@triton.jit(do_not_specialize=SIZES_BUT_WIDTH, do_not_specialize_on_alignment=NUMBERS)
def pyramid(
    pred,  # maps [B, H, W]
    gt,
    mask,
    moments,  # [.., R]
    deviations,  # [ROWS, R]
    images,  # [B, IMAGE]
    level_p,  # [cells of all levels k >= 1]
    level_g,
    info,
    B,
    H,
    W,
    tiles_x,
    tiles,
    NP,
    R,
    PLAN: tl.constexpr,
    HAS_MASK: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    NPP: tl.constexpr,
    LEVELS: tl.constexpr,
    DIVIDES: tl.constexpr,
):
    """Leave an image's absolute deviations, in parts, and its cells."""
    i_p = tl.program_id(0)
    b = i_p // NP
    zero = tl.full((), 0.0, ACC)
    mu_p = zero
    mu_g = zero
    n = zero
    first = i_p == b * NP
    if PLAN.standardised or first:
        n = image_count(moments, STATISTICS, b, NP, R, NPP, ACC)
    if PLAN.standardised:
        mu_p = image_mean(moments, STATISTICS, MEAN_P, n, b, NP, R, NPP)
        mu_g = image_mean(moments, STATISTICS, MEAN_G, n, b, NP, R, NPP)
    inv_n = tl.where(n > 0, divide(1.0, tl.where(n > 0, n, 1.0)), 0.0)
    tl.store(images + b * IMAGE + INV_N, inv_n, mask=first)
    tl.store(images + b * IMAGE + MU_P, mu_p, mask=first)
    tl.store(images + b * IMAGE + MU_G, mu_g, mask=first)
    sum_p = zero
    sum_g = zero
    sum_sign = tl.full((), 0, tl.int32)
    one = tl.full((), 1, tl.int64)  # An int argument that equals 1 is a constant without methods.
    for t in range(i_p - b * NP, tiles, NP):
        y, x = tile(t, tiles_x, TH, TW)
        ok = (y < H) & (x < W)
        dev_p, dev_g, m, keep = _read(pred, gt, mask, b, y, x, ok, mu_p, mu_g, PLAN, HAS_MASK, ACC)
        if PLAN.standardised:
            sum_p += tl.sum(tl.where(m, tl.abs(dev_p), 0.0))
            sum_g += tl.sum(tl.where(m, tl.abs(dev_g), 0.0))
            sum_sign += tl.sum(sign(dev_p, m))
        # Both counts in one integer, so that they are pooled together: a cell has at most 1024 pixels.
        counts = m.to(tl.int32) + tl.where(keep, 65536, 0)
        base = tl.full((), 0, tl.int64)
        ty = (t // tiles_x).to(tl.int64)
        tx = (t % tiles_x).to(tl.int64)
        for k in tl.static_range(1, LEVELS):
            h = H >> k
            w = W >> k
            rows = ty * (TH >> k) + tl.arange(0, TH >> k)[:, None]
            columns = tx * (TW >> k) + tl.arange(0, TW >> k)[None, :]
            inside = (rows < h) & (columns < w)
            o = base + b.to(tl.int64) * h * w + rows * w + columns
            if PLAN.downsample == "average":
                dev_p = _pool(dev_p, TH >> (k - 1), TW >> (k - 1))
                dev_g = _pool(dev_g, TH >> (k - 1), TW >> (k - 1))
                counts = _pool(counts, TH >> (k - 1), TW >> (k - 1))
                _store(level_p, level_g, info, o, inside, dev_p, dev_g, counts, 4**k, PLAN)
            elif PLAN.downsample == "bilinear" and k == 1:
                # The central 2x2 of a 2x2 cell is all of it.
                cell_p = _pool(dev_p, TH, TW)
                cell_g = _pool(dev_g, TH, TW)
                _store(level_p, level_g, info, o, inside, cell_p, cell_g, _pool(counts, TH, TW), 4, PLAN)
            else:
                cell_p, cell_g, n_cell = _sample(
                    pred, gt, mask, b, rows, columns, inside, h, w, H, W, mu_p, mu_g, k, PLAN, HAS_MASK,
                    DIVIDES, ACC
                )  # fmt: skip
                if PLAN.downsample == "nearest":
                    _store(level_p, level_g, info, o, inside, cell_p, cell_g, n_cell, 1, PLAN)
                else:
                    _store(level_p, level_g, info, o, inside, cell_p, cell_g, n_cell, 4, PLAN)
            base += one * B * h * w
    row = deviations + i_p
    tl.store(row + DEV_P * R, sum_p)
    tl.store(row + DEV_G * R, sum_g)
    tl.store(row + DEV_SIGN * R, sum_sign.to(ACC))
