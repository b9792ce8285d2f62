"""Phase 2: what the scales of an image are made of, and the pyramid of the centred inputs.

    dev = d - mu;  mean: sum m |dev_p|, sum m |dev_g|, sum m sign(dev_p)
    fits: sum m dev_p^2, sum m dev_p dev_g
    D_k(a dev_p), D_k(a dev_g) for k >= 1

Of medians the sums come from their selection, and a trim begins to count here.

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
    columns,
    corner,
    divide,
    image_count,
    image_mean,
    image_number,
    image_total,
    places,
    sign,
)
from .histogram import count_digit, median
from .inputs import read, weighed
from .moments import COUNT as PIXELS
from .moments import MEAN_G, MEAN_P, STATISTICS
from .residual import to_structure

DEV_P = tl.constexpr(0)
DEV_G = tl.constexpr(1)
DEV_SIGN = tl.constexpr(2)
# Of medians, from their selection: sums of the distances of the pixels that differ in more than the last
# digit, from the least number with the median's digits.
BESIDE_P = tl.constexpr(0)
BESIDE_G = tl.constexpr(1)
ROWS = 3
# Per image, for later phases: means or medians, what both are multiplied by, mean sign of dev_p, pixels and
# 1/n; the pixels that equal the median of p; 1, or 0 where the scale is a constant; of a fit the root of the
# variance with eps, its slope before the bounds, and what these move the residual by; of a trim its
# threshold, the share of a pixel there, and how many pixels it keeps.
MU_P = tl.constexpr(0)
MU_G = tl.constexpr(1)
INV_P = tl.constexpr(2)
INV_G = tl.constexpr(3)
SIGN_MEAN = tl.constexpr(4)
INV_N = tl.constexpr(5)
TIES = tl.constexpr(6)
FREE = tl.constexpr(7)
COUNT = tl.constexpr(8)
DEVIATION = tl.constexpr(9)
SLOPE = tl.constexpr(10)
OFFSET = tl.constexpr(11)
TAU = tl.constexpr(12)
SHARE = tl.constexpr(13)
KEPT = tl.constexpr(14)
IMAGE = tl.constexpr(16)
HALF = tl.constexpr(2048)  # bit 11: more than half of the cell's pixels are valid


@triton.jit
def centred(p, g, m, inside, mu_p, mu_g, PLAN: tl.constexpr):
    """dev_p, dev_g (0 where the residual is not read) and the pixels that are read."""
    D: tl.constexpr = PLAN.structure
    p, g = to_structure(p, g, m, PLAN)
    keep = m
    if PLAN.sobel_mask == "centre":
        if D.conversion == "identity" and not D.clamps:
            finite = (tl.abs(p) < float("inf")) & (tl.abs(g) < float("inf"))
            keep = (m | finite) & inside
        else:
            keep = inside
    return tl.where(keep, p - mu_p, 0.0), tl.where(keep, g - mu_g, 0.0), keep


@triton.jit
def _read(inputs, b, y, x, ok, mu_p, mu_g, PLAN: tl.constexpr, HAS: tl.constexpr, ACC: tl.constexpr):
    p, g, m, v, v_abs, w = read(inputs, b, y, x, ok, PLAN, HAS, ACC)
    dev_p, dev_g, keep = centred(p, g, m, ok, mu_p, mu_g, PLAN)
    if not PLAN.aligned:
        # Nothing stands between p and g: pooled apart, they would cancel.
        dev_p = tl.where(keep, dev_p - dev_g, 0.0)
        dev_g = dev_p
    return dev_p, dev_g, m, keep, w


@triton.jit
def _fours(x):
    """Sums of four columns each, which one lane holds: [N, h, w] -> [N, h, w/4]."""
    return tl.sum(tl.reshape(x, [x.shape[0], x.shape[1], x.shape[2] // 4, 4]), 3)


@triton.jit
def _pool(x):
    """Sums over 2x2 cells: [N, h, w] -> [N, h/2, w/2]."""
    N: tl.constexpr = x.shape[0]
    h: tl.constexpr = x.shape[1] // 2
    w: tl.constexpr = x.shape[2] // 2
    return tl.sum(tl.sum(tl.reshape(x, [N, h, 2, w, 2]), 4), 2)


@triton.jit
def _even_columns(x):
    """Every other one: [N, h, w] -> [N, h, w/2]."""
    even, _ = tl.split(tl.reshape(x, [x.shape[0], x.shape[1], x.shape[2] // 2, 2]))
    return even


@triton.jit
def _store(level_p, level_g, info, o, ok, dev_p, dev_g, counts, AREA: tl.constexpr, PLAN: tl.constexpr):
    """One level's block of cells, from sums over the AREA pixels that a cell samples."""
    count = counts & 65535
    if PLAN.sobel_mask == "support":
        scale = 1.0 / tl.where(count > 0, count, 1).to(dev_p.dtype)
    else:
        scale = 1.0 / AREA
    tl.store(level_p + o, dev_p * scale, mask=ok)
    if PLAN.aligned:
        tl.store(level_g + o, dev_g * scale, mask=ok)
    if PLAN.sobel_mask == "centre":
        count = (counts >> 16) | tl.where(2 * count > AREA, HALF, 0)
    tl.store(info + o, count.to(tl.int16), mask=ok)


@triton.jit
def _pooled(level_p, level_g, info, dev_p, dev_g, counts, b, top, left, B, H, W, PLAN: tl.constexpr,
            LEVELS: tl.constexpr):  # fmt: skip
    """Store the cells of the levels 1 .. LEVELS - 1 of pixels [N, TH, TW] from row `top`, column `left`."""
    N: tl.constexpr = dev_p.shape[0]
    TH: tl.constexpr = dev_p.shape[1]
    TW: tl.constexpr = dev_p.shape[2]
    one = tl.full((), 1, tl.int64)  # An int argument that equals 1 is a constant without methods.
    base = tl.full((), 0, tl.int64)
    for k in tl.static_range(1, LEVELS):
        h = H >> k
        w = W >> k
        dev_p = _pool(dev_p)
        dev_g = _pool(dev_g)
        counts = _pool(counts)
        y, x = places(top >> k, left >> k, N, TH >> k, TW >> k)
        o = base + b.to(tl.int64) * h * w + y * w + x
        _store(level_p, level_g, info, o, (y < h) & (x < w), dev_p, dev_g, counts, 4**k, PLAN)
        base += one * B * h * w


@triton.jit
def _even(level_p, level_g, info, dev_p, dev_g, counts, b, y, left, H, W, PLAN: tl.constexpr):
    """Store the cells of level 1 that sample the nearest pixel: that of even rows y and columns."""
    h = H >> 1
    w = W >> 1
    x = columns(left >> 1, dev_p.shape[2] // 2)[None, :, :]
    ok = (y % 2 == 0) & (y < 2 * h) & (x < w)
    o = b.to(tl.int64) * h * w + (y >> 1) * w + x
    p = _even_columns(dev_p)
    g = _even_columns(dev_g)
    _store(level_p, level_g, info, o, ok, p, g, _even_columns(counts), 1, PLAN)


@triton.jit
def _sample(inputs, b, y, x, ok, k, h, w, H, W, mu_p, mu_g, PLAN: tl.constexpr,
            HAS: tl.constexpr, DIVIDES: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Sums over the pixels that the cells y, x of the levels k sample: 1 (nearest) or the central 2x2."""
    if PLAN.downsample == "nearest":
        if DIVIDES:
            y = y << k
            x = x << k
        else:
            y = y * H // h
            x = x * W // w
        p, g, m, keep, w = _read(inputs, b, y, x, ok, mu_p, mu_g, PLAN, HAS, ACC)
        return p, g, m.to(tl.int32) + tl.where(keep, 65536, 0)
    else:
        y = (y << k) + ((1 << k) // 2 - 1)
        x = (x << k) + ((1 << k) // 2 - 1)
        p, g, m, keep, w = _read(inputs, b, y, x, ok, mu_p, mu_g, PLAN, HAS, ACC)
        counts = m.to(tl.int32) + tl.where(keep, 65536, 0)
        for i in tl.static_range(1, 4):
            more_p, more_g, m, keep, w = _read(
                inputs, b, y + i // 2, x + i % 2, ok, mu_p, mu_g, PLAN, HAS, ACC
            )
            p += more_p
            g += more_g
            counts += m.to(tl.int32) + tl.where(keep, 65536, 0)
        return p, g, counts


@triton.jit
def _sampled(inputs, level_p, level_g, info, b, top, left, B, H, W, mu_p, mu_g, PLAN: tl.constexpr,
             HAS: tl.constexpr, DIVIDES: tl.constexpr, ACC: tl.constexpr, FIRST: tl.constexpr,
             LEVELS: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):  # fmt: skip
    """Store a tile's cells of the levels FIRST .. LEVELS - 1, in blocks that hold cells of any of them."""
    N: tl.constexpr = TH * TW // 32 if TH * TW > 1024 else 32
    one = tl.full((), 1, tl.int64)
    cells = tl.full((), 0, tl.int32)
    for k in tl.static_range(FIRST, LEVELS):
        cells += (TH >> k) * (TW >> k)
    for o in range(0, cells, N):
        i = o + tl.arange(0, N)
        level = tl.zeros([N], tl.int32)
        first = level
        base = tl.zeros([N], tl.int64)
        next_first = tl.full((), 0, tl.int32)
        next_base = tl.full((), 0, tl.int64)
        for k in tl.static_range(1, LEVELS):
            if k >= FIRST:
                here = i >= next_first
                level = tl.where(here, k, level)
                first = tl.where(here, next_first, first)
                base = tl.where(here, next_base, base)
                next_first += (TH >> k) * (TW >> k)
            next_base += one * B * (H >> k) * (W >> k)
        i -= first
        row = (i << level) // TW
        y = (row + (top >> level)).to(tl.int64)
        x = ((i & ((TW >> level) - 1)) + (left >> level)).to(tl.int64)
        h = H >> level
        w = W >> level
        ok = (row < (TH >> level)) & (y < h) & (x < w)
        p, g, counts = _sample(inputs, b, y, x, ok, level, h, w, H, W, mu_p, mu_g, PLAN, HAS, DIVIDES, ACC)
        at = base + b.to(tl.int64) * h * w + y * w + x
        _store(level_p, level_g, info, at, ok, p, g, counts, 1 if PLAN.downsample == "nearest" else 4, PLAN)


@triton.jit
def _by_median(histograms, states, deviations, row, first, b, B, n, NP, R, WHICH: tl.constexpr,
               PLAN: tl.constexpr, NPP: tl.constexpr, DIGITS: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """Median and 1/S of p (WHICH 0) or g (1); the `first` program stores what later phases need."""
    at = 2 * b.to(tl.int64) + WHICH
    each = 2 * (tl.full((), 0, tl.int64) + B)
    t, ties, near, signs, below, above, off = median(histograms, states, at, each, DIGITS, ACC)
    beside = image_total(deviations, BESIDE_P + WHICH, b, NP, R, NPP)
    # About the median, not about the least number with its digits.
    spread = (beside + (below - above).to(ACC) * off) + near
    spread = divide(spread, tl.where(n > 0, n, 1.0))
    # An infinite scale would make every pixel 0, and hide that.
    spread = tl.where(tl.abs(spread) < float("inf"), spread, float("nan"))
    if PLAN.floored:
        inv = divide(1.0, tl.where(spread < PLAN.eps, PLAN.eps, spread))
    else:
        inv = divide(1.0, spread + PLAN.eps)
    inv = tl.where(n > 0, inv, 0.0)
    tl.store(row + INV_P + WHICH, inv, mask=first)
    if WHICH == 0:
        tl.store(row + TIES, ties, mask=first)
        q = (above - below + signs).to(ACC)
        tl.store(row + SIGN_MEAN, divide(q, tl.where(n > 0, n, 1.0)), mask=first)
        if PLAN.floored:
            tl.store(row + FREE, tl.where(spread >= PLAN.eps, 1.0, 0.0), mask=first)
    return t, inv


@triton.jit(do_not_specialize=SIZES_BUT_WIDTH, do_not_specialize_on_alignment=NUMBERS)
def pyramid(
    inputs,
    moments,  # [.., R]
    histograms,  # what `select` counted, as the next; of medians only
    states,
    deviations,  # [ROWS, R], of fits in float64
    trimmed,  # int [digits, selections, BINS], of a trim beside medians only
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
    HAS: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    STEP: tl.constexpr,
    NPP: tl.constexpr,
    LEVELS: tl.constexpr,
    DIVIDES: tl.constexpr,
    DIGITS: tl.constexpr,
):
    """Leave an image's absolute deviations, in parts, and its cells."""
    i_p = tl.program_id(0)
    b = i_p // NP
    zero = tl.full((), 0.0, ACC)
    mu_p = zero
    mu_g = zero
    n = zero
    inv_p = zero
    inv_g = zero
    first = i_p == b * NP
    row = images + b * IMAGE
    if PLAN.aligned or first:
        n = image_number(moments, STATISTICS, b, NP, R, NPP, HAS, ACC)
    if PLAN.by_median:
        mu_p, inv_p = _by_median(histograms, states, deviations, row, first, b, B, n, NP, R, 0, PLAN, NPP,
                                 DIGITS, ACC)  # fmt: skip
        mu_g, inv_g = _by_median(histograms, states, deviations, row, first, b, B, n, NP, R, 1, PLAN, NPP,
                                 DIGITS, ACC)  # fmt: skip
    elif PLAN.centred:
        mu_p = image_mean(moments, STATISTICS, MEAN_P, n, b, NP, R, NPP)
        mu_g = image_mean(moments, STATISTICS, MEAN_G, n, b, NP, R, NPP)
    inv_n = tl.where(n != 0, divide(1.0, tl.where(n != 0, n, 1.0)), 0.0)
    tl.store(row + INV_N, inv_n, mask=first)
    tl.store(row + MU_P, mu_p, mask=first)
    tl.store(row + MU_G, mu_g, mask=first)
    if PLAN.alignment.min_pixels:
        if HAS.weight:
            tl.store(row + COUNT, image_count(moments, PIXELS, b, NP, R, NPP, ACC), mask=first)
        else:
            tl.store(row + COUNT, n, mask=first)
    # The levels below NEAR are made of the pixels of a block: all of average, else one. What is pooled more
    # than once is in squares, of which a warp has whole ones: most sums need no shared memory.
    NEAR: tl.constexpr = LEVELS if PLAN.downsample == "average" else (2 if LEVELS > 2 else LEVELS)
    WIDTH: tl.constexpr = STEP if NEAR > 2 and STEP < TW else TW
    # In float64 products neither leave the range nor round: an error of a slope is one of every pixel.
    none = tl.zeros([TW // WIDTH, STEP, WIDTH // 4], tl.float64 if PLAN.fits else ACC)
    sum_p = none
    sum_g = none
    sum_sign = tl.zeros([TW // WIDTH, STEP, WIDTH // 4], ACC if HAS.weight else tl.int32)
    for t in range(i_p - b * NP, tiles, NP):
        top, left = corner(t, tiles_x, TH, TW)
        for o in range(top, tl.minimum(top + TH, H), STEP):
            y, x = places(o, left, TW // WIDTH, STEP, WIDTH)
            ok = (y < H) & (x < W)
            dev_p, dev_g, m, keep, w = _read(inputs, b, y, x, ok, mu_p, mu_g, PLAN, HAS, ACC)
            if PLAN.by_median and PLAN.trim > 0:
                r = tl.abs(dev_p * inv_p - dev_g * inv_g)
                at = b
                if PLAN.trim_batch:
                    at = b * 0
                count_digit(trimmed, r, m, 0, 0, at, ACC)
            if PLAN.fits:
                wide_p = tl.where(m, dev_p, 0.0).to(tl.float64)
                sum_p += _fours(weighed(wide_p * wide_p, m, w))
                sum_g += _fours(weighed(wide_p * tl.where(m, dev_g, 0.0).to(tl.float64), m, w))
            if PLAN.by_mean:
                sum_p += _fours(weighed(tl.where(m, tl.abs(dev_p), 0.0), m, w))
                sum_g += _fours(weighed(tl.where(m, tl.abs(dev_g), 0.0), m, w))
                if HAS.weight:
                    sum_sign += _fours(weighed(sign(dev_p, m).to(ACC), m, w))
                else:
                    sum_sign += _fours(sign(dev_p, m))
            # Both counts in one integer, so that they are pooled together: a cell has at most 1024 pixels.
            counts = m.to(tl.int32) + tl.where(keep, 65536, 0)
            if LEVELS > 1 and PLAN.downsample == "nearest":
                _even(level_p, level_g, info, dev_p, dev_g, counts, b, y, left, H, W, PLAN)
            elif NEAR > 1:
                _pooled(level_p, level_g, info, dev_p, dev_g, counts, b, o, left, B, H, W, PLAN, NEAR)
        if NEAR < LEVELS:
            _sampled(
                inputs, level_p, level_g, info, b, top, left, B, H, W, mu_p, mu_g, PLAN, HAS,
                DIVIDES, ACC, NEAR, LEVELS, TH, TW
            )  # fmt: skip
    part = deviations + i_p
    if PLAN.by_mean or PLAN.fits:
        tl.store(part + DEV_P * R, tl.sum(sum_p))
        tl.store(part + DEV_G * R, tl.sum(sum_g))
    if PLAN.by_mean:
        tl.store(part + DEV_SIGN * R, tl.sum(sum_sign).to(ACC))
