"""Phase 3: Sobel responses of the residual at every level, as sign codes and sums.

    r = z_p - z_g, z = dev/S;  g = Sobel(D_k(a r));  sum |gx| + |gy|,  sum m |r|
    U1 of the backward by adjointness: sum sign(g) Sobel(D_k(a z_p)), sum m sign(r) z_p; U0 likewise with 1 for z_p

A program streams down TH rows of S strips; a strip is 32 lanes that own 30 columns, so that neighbours are one
lane shuffle away and every input is read once. Saves per pixel an int16: sx | sy | sign r | sign(p - g) | sign
dev_p, two bits each (sign + 1), bit 10 m, bit 11 a; per coarse cell a byte: sx | sy | low 4 bits of (count - 1);
the high bits of a count that needs them in a byte of their own. Rows have one halo cell on both sides, which
holds what the adjoint of the border folds back. Reads 9 bytes/pixel and 10 bytes/cell, saves 2.33 bytes/pixel.
"""

import triton
import triton.language as tl

from .device import image, image_count, image_total, sign, to_domain, valid
from .moments import STATISTICS
from .pyramid import (
    DEV_G,
    DEV_P,
    DEV_SIGN,
    HALF,
    IMAGE,
    INV_G,
    INV_N,
    INV_P,
    MU_G,
    MU_P,
    SIGN_MEAN,
    centred,
)

# Rows of the sums that a program leaves.
RESPONSE = tl.constexpr(0)
KEPT = tl.constexpr(1)
CELLS = tl.constexpr(2)  # the level's own normaliser
U_ONE = tl.constexpr(3)
U_Z = tl.constexpr(4)
REL = tl.constexpr(5)
REL_ONE = tl.constexpr(6)
REL_Z = tl.constexpr(7)
ROWS = 8
LANES = 30  # columns that a strip owns
NEUTRAL = tl.constexpr(5)  # the code of sx = sy = 0
VALID_BIT = tl.constexpr(1024)
READ_BIT = tl.constexpr(2048)


@triton.jit
def _signed(s, x):
    """sign(s) * x, without a product."""
    return tl.where(s > 0, x, tl.where(s < 0, -x, 0.0))


@triton.jit
def _level0_row(pred, gt, mask, abs_mask, b, y, x, mu_p, mu_g, PLAN: tl.constexpr, HAS_MASK: tl.constexpr,
                HAS_ABS: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """dev_p, dev_g, the valid and the read pixels, and sign(p - g) of one row, all taps inside the image."""
    ok = x >= 0
    p = tl.load(image(pred, b) + y * pred[2] + x * pred[3]).to(ACC)
    g = tl.load(image(gt, b) + y * gt[2] + x * gt[3]).to(ACC)
    v = valid(image(mask, b) + y * mask[2] + x * mask[3], g, ok, HAS_MASK, PLAN.positive_gt)
    m = v
    if PLAN.plain:
        m = ok
    dev_p, dev_g, keep = centred(p, g, m, ok, mu_p, mu_g, PLAN)
    s = tl.zeros_like(m.to(tl.int32))
    if PLAN.has_absolute:
        if HAS_ABS:
            v = valid(image(abs_mask, b) + y * abs_mask[2] + x * abs_mask[3], g, ok, True, PLAN.positive_gt)
        D: tl.constexpr = PLAN.structure
        s = sign(to_domain(p, v, D) - to_domain(g, v, D), v)
    return dev_p, dev_g, m, keep, s


@triton.jit
def _strips(
    pred,
    gt,
    mask,
    abs_mask,
    level_p,  # [h, w] of this image and level
    level_g,
    info,
    code,  # [h, w + 2], likewise
    high,
    has_high,
    sums,  # [.., R] at this program
    R,
    b,
    y0,
    x0,
    h,
    w,
    mu_p,
    mu_g,
    inv_p,
    inv_g,
    LEVEL0: tl.constexpr,
    PLAN: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_ABS: tl.constexpr,
    CODES: tl.constexpr,
    HIGH: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    S: tl.constexpr,
):
    lane = tl.arange(0, 32)[None, :]
    x = x0 + tl.arange(0, S)[:, None] * 30 + lane - 1
    left = tl.broadcast_to(tl.maximum(lane - 1, 0), [S, 32])
    right = tl.broadcast_to(tl.minimum(lane + 1, 31), [S, 32])
    own = (lane > 0) & (lane < 31) & (x < w)
    at_left = x == -1
    at_right = (x == w) & (lane > 1)
    source = tl.where(at_left, right, tl.where(at_right, left, tl.broadcast_to(lane, [S, 32])))
    x_in = (x >= 0) & (x < w)
    x_c = tl.minimum(tl.maximum(x, 0), w - 1).to(tl.int64)
    zero = tl.zeros([S, 32], ACC)
    izero = tl.zeros([S, 32], tl.int32)
    response = zero
    u_z = zero
    rel = zero
    rel_z = zero
    kept = izero
    cells = izero
    u_one = izero
    rel_one = izero
    # Of the rows y - 2 and y - 1: differences and smooth sums along x of r, of z_p and of the weight a.
    rd0 = zero
    rd1 = zero
    rs0 = zero
    rs1 = zero
    zd0 = zero
    zd1 = zero
    zs0 = zero
    zs1 = zero
    wd0 = izero
    wd1 = izero
    ws0 = izero
    ws1 = izero
    c0 = izero
    c1 = izero
    k1 = izero
    low1 = izero
    for i in tl.static_range(TH + 2):
        y = y0 + (i - 1)
        y_c = tl.minimum(tl.maximum(y, 0), h - 1).to(tl.int64)
        mine = own & (y < h)
        low = izero
        if LEVEL0:
            dev_p, dev_g, m, keep, s_abs = _level0_row(
                pred, gt, mask, abs_mask, b, y_c, x_c, mu_p, mu_g, PLAN, HAS_MASK, HAS_ABS, ACC
            )
            weight = keep.to(tl.int32)
            cover = m.to(tl.int32)
            z = dev_p * inv_p
            r = z - dev_g * inv_g
            if i >= 1 and i <= TH:
                s_r = sign(r, m)
                if CODES:
                    low = (s_r + 1) << 4 | (s_abs + 1) << 6 | (sign(dev_p, m) + 1) << 8 | cover << 10 | weight << 11
                own_r = tl.where(mine & m, r, 0.0)
                rel += tl.abs(own_r)
                rel_one += tl.where(mine, s_r, 0)
                rel_z += _signed(own_r, z)
        else:
            o = y_c * w + x_c
            z = tl.load(level_p + o) * inv_p
            r = z - tl.load(level_g + o) * inv_g
            count = tl.load(info + o).to(tl.int32)
            weight = count
            cover = (count > 0).to(tl.int32)
            if PLAN.sobel_mask == "centre":
                weight = count & (HALF - 1)
                cover = (count & HALF) >> 11
            if PLAN.sobel_mask == "support":
                low = ((count - 1) & 15) << 4 | ((count - 1) >> 4) << 8
        if PLAN.border != "replicate":
            inside = x_in & (y >= 0) & (y < h)
            z = tl.where(inside, z, 0.0)
            r = tl.where(inside, r, 0.0)
            weight = tl.where(inside, weight, 0)
            cover = tl.where(inside, cover, 0)
        k2 = cover
        if PLAN.counts_cells and i >= 1 and i <= TH:
            if PLAN.sobel_mask == "residual":
                cells += tl.where(mine, weight, 0)
            else:
                cells += tl.where(mine, cover, 0)
        r_l = tl.gather(r, left, 1)
        r_r = tl.gather(r, right, 1)
        rd2 = r_r - r_l
        rs2 = tl.fma(r, tl.full([S, 32], 2.0, ACC), r_l + r_r)  # 2 r is exact: no rounding is fused away
        z_l = tl.gather(z, left, 1)
        z_r = tl.gather(z, right, 1)
        zd2 = z_r - z_l
        zs2 = tl.fma(z, tl.full([S, 32], 2.0, ACC), z_l + z_r)
        wd2 = izero
        ws2 = izero
        if PLAN.sobel_mask == "support":
            cover = cover & tl.gather(cover, left, 1) & tl.gather(cover, right, 1)
        else:
            w_l = tl.gather(weight, left, 1)
            w_r = tl.gather(weight, right, 1)
            wd2 = w_r - w_l
            ws2 = w_l + w_r + 2 * weight
        if i >= 2:
            keep_response = own & (y - 1 < h)
            if PLAN.border == "valid":
                keep_response = keep_response & (y >= 2) & (y < h) & (x >= 1) & (x < w - 1)
            if PLAN.sobel_mask == "support":
                keep_response = keep_response & ((c0 & c1 & cover) != 0)
            if PLAN.sobel_mask == "centre":
                keep_response = keep_response & (k1 != 0)
            two = tl.full([S, 32], 2.0, ACC)
            gx = tl.where(keep_response, tl.fma(rd1, two, rd0 + rd2), 0.0)
            gy = tl.where(keep_response, rs2 - rs0, 0.0)
            response += tl.abs(gx) + tl.abs(gy)
            kept += keep_response.to(tl.int32)
            sx = (gx > 0).to(tl.int32) - (gx < 0).to(tl.int32)
            sy = (gy > 0).to(tl.int32) - (gy < 0).to(tl.int32)
            if CODES:
                u_z += _signed(gx, tl.fma(zd1, two, zd0 + zd2)) + _signed(gy, zs2 - zs0)
                if PLAN.sobel_mask != "support":
                    u_one += sx * (wd0 + wd2 + 2 * wd1) + sy * (ws2 - ws0)
                c = (sx + 1) | (sy + 1) << 2 | low1
                if PLAN.border == "replicate":
                    folded = tl.gather(c, source, 1)
                    c = tl.where(at_left | at_right, folded + 2 - 2 * (folded & 3), c)
                else:
                    c = tl.where(at_left | at_right, NEUTRAL, c)
                write = (own | at_left | at_right) & (y - 1 < h)
                o = (y - 1).to(tl.int64) * (w + 2) + x + 1
                tl.store(code + o, c.to(code.dtype.element_ty), mask=write)
                if HIGH:
                    tl.store(high + o, (low1 >> 8).to(tl.uint8), mask=write & has_high)
        rd0 = rd1
        rd1 = rd2
        rs0 = rs1
        rs1 = rs2
        zd0 = zd1
        zd1 = zd2
        zs0 = zs1
        zs1 = zs2
        wd0 = wd1
        wd1 = wd2
        ws0 = ws1
        ws1 = ws2
        c0 = c1
        c1 = cover
        k1 = k2
        low1 = low
    tl.store(sums + RESPONSE * R, tl.sum(response))
    tl.store(sums + KEPT * R, tl.sum(kept).to(ACC))
    if PLAN.counts_cells:
        tl.store(sums + CELLS * R, tl.sum(cells).to(ACC))
    if CODES:
        tl.store(sums + U_ONE * R, tl.sum(u_one).to(ACC))
        tl.store(sums + U_Z * R, tl.sum(u_z))
    if LEVEL0:
        tl.store(sums + REL * R, tl.sum(rel))
        if CODES:
            tl.store(sums + REL_ONE * R, tl.sum(rel_one).to(ACC))
            tl.store(sums + REL_Z * R, tl.sum(rel_z))


@triton.jit
def image_statistics(moments, deviations, images, b, first, NP, R, PLAN: tl.constexpr, NPP: tl.constexpr,
                     ACC: tl.constexpr):  # fmt: skip
    """1/S of p and of g (0 for an empty image); the image's first program stores what later phases need."""
    n = image_count(moments, STATISTICS, b, NP, R, NPP, ACC)
    inv_n = tl.where(n > 0, 1.0 / tl.where(n > 0, n, 1.0), 0.0)
    inv_p = tl.full((), 1.0, ACC)
    inv_g = inv_p
    if PLAN.standardised:
        inv_p = 1.0 / (image_total(deviations, DEV_P, b, NP, R, NPP) * inv_n + PLAN.eps)
        inv_g = 1.0 / (image_total(deviations, DEV_G, b, NP, R, NPP) * inv_n + PLAN.eps)
    # An empty image has no z.
    inv_p = tl.where(n > 0, inv_p, 0.0)
    inv_g = tl.where(n > 0, inv_g, 0.0)
    row = images + b * IMAGE
    tl.store(row + INV_P, inv_p, mask=first)
    tl.store(row + INV_G, inv_g, mask=first)
    tl.store(row + SIGN_MEAN, image_total(deviations, DEV_SIGN, b, NP, R, NPP) * inv_n, mask=first)
    tl.store(row + INV_N, inv_n, mask=first)
    return inv_p, inv_g


@triton.jit
def sobel(
    pred,  # maps [B, H, W]
    gt,
    mask,
    abs_mask,
    moments,  # [.., R]
    deviations,  # [.., R]
    images,  # [B, IMAGE]
    level_p,
    level_g,
    info,
    code0,  # int16 [B, H, W + 2]
    code,  # uint8, [B, h, w + 2] of the levels k >= 1
    high,  # uint8, likewise of the levels k >= 3
    sums,  # [ROWS, B * NQ]
    B,
    H,
    W,
    NP,
    R,
    NQ,
    PLAN: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_ABS: tl.constexpr,
    CODES: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    S: tl.constexpr,
    NPP: tl.constexpr,
    LEVELS: tl.constexpr,
):
    i_p = tl.program_id(0)
    b = i_p // NQ
    q = i_p - b * NQ
    inv_p, inv_g = image_statistics(moments, deviations, images, b, q == 0, NP, R, PLAN, NPP, ACC)
    mu_p = tl.load(images + b * IMAGE + MU_P)
    mu_g = tl.load(images + b * IMAGE + MU_G)
    # Which level, and which tile of it.
    level = tl.full((), 0, tl.int32)
    first = level
    next_first = level
    h = level + H
    w = level + W
    cells = tl.full((), 0, tl.int64)
    codes = cells
    highs = cells
    b64 = b.to(tl.int64)
    next_cells = cells
    next_codes = codes
    next_highs = highs
    for k in tl.static_range(LEVELS):
        h_k = (tl.full((), 0, tl.int32) + H) >> k
        w_k = (tl.full((), 0, tl.int32) + W) >> k
        here = q >= next_first
        level = tl.where(here, k, level)
        first = tl.where(here, next_first, first)
        h = tl.where(here, h_k, h)
        w = tl.where(here, w_k, w)
        cells = tl.where(here, next_cells + b64 * h_k * w_k, cells)
        codes = tl.where(here, next_codes + b64 * h_k * (w_k + 2), codes)
        highs = tl.where(here, next_highs + b64 * h_k * (w_k + 2), highs)
        next_first += tl.cdiv(w_k, 30 * S) * tl.cdiv(h_k, TH)
        if k > 0:
            next_cells += h_k.to(tl.int64) * w_k * B
            next_codes += h_k.to(tl.int64) * (w_k + 2) * B
        if k > 2:
            next_highs += h_k.to(tl.int64) * (w_k + 2) * B
    t = q - first
    tiles_x = tl.cdiv(w, 30 * S)
    y0 = t // tiles_x * TH
    x0 = t % tiles_x * (30 * S)
    HIGH: tl.constexpr = CODES and PLAN.sobel_mask == "support" and PLAN.downsample == "average" and LEVELS > 3
    if level == 0:
        _strips(pred, gt, mask, abs_mask, level_p, level_g, info, code0 + b64 * h * (w + 2), high, False,
                sums + i_p, B * NQ, b, y0, x0, h, w, mu_p, mu_g, inv_p, inv_g, True, PLAN, HAS_MASK, HAS_ABS,
                CODES, False, ACC, TH, S)  # fmt: skip
    else:
        _strips(pred, gt, mask, abs_mask, level_p + cells, level_g + cells, info + cells, code + codes,
                high + highs, level > 2, sums + i_p, B * NQ, b, y0, x0, h, w, mu_p, mu_g, inv_p, inv_g, False,
                PLAN, HAS_MASK, HAS_ABS, CODES, HIGH, ACC, TH, S)  # fmt: skip
