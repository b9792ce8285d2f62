"""Phase 3: Sobel responses of the residual at every level, as sign codes and sums.

    r = z_p - z_g, z = dev/S;  g = Sobel(D_k(a r));  sum |gx| + |gy|,  sum m |r|
    for the backward: U1 = sum sign(g) Sobel(D_k(a z_p)) + sum m sign(r) z_p, and U0, with 1 for z_p

A program streams down TH rows of S strips; a strip is 32 lanes that own 30 columns, so that neighbours are
one lane shuffle away and every input is read once. Saves per pixel a uint16: sx | sy | sign r | sign(p - g)
| sign dev_p, each plus 1 in two bits, bit 10 m, bit 11 a (mask centre); per coarse cell a byte: sx + 1 | sy
+ 1 | low 4 bits of (count - 1) (mask support); the high bits of a count that needs them in a byte of their
own. Rows have one halo cell on both sides, which holds what the adjoint of the border folds back. Reads 9
bytes/pixel and 10 bytes/cell, saves 2.33.
"""

import triton
import triton.language as tl

from .device import NUMBERS, SIZES, pixels
from .levels import locate
from .pyramid import IMAGE, MU_G, MU_P
from .rows import cell_row, image_statistics, pixel_row, unit_sign

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
VALID_BIT = tl.constexpr(1024)
READ_BIT = tl.constexpr(2048)


@triton.jit
def _along_row(x, left, right):
    """Difference and smooth sum of x [S, 32] along the row, from its neighbours' lanes."""
    x_l = tl.gather(x, left, 1)
    x_r = tl.gather(x, right, 1)
    # 2 x is exact: no rounding is fused away, here and below.
    return x_r - x_l, tl.fma(x, tl.full(x.shape, 2.0, x.dtype), x_l + x_r)


@triton.jit
def _sobel(d0, d1, d2, s0, s2):
    """Sobel responses in x and y from three rows' differences and smooth sums."""
    return tl.fma(d1, tl.full(d1.shape, 2.0, d1.dtype), d0 + d2), s2 - s0


@triton.jit
def _pair(a, b):
    """Sums along the lanes of two blocks, side by side; of two pairs, the pairs side by side."""
    if len(a.shape) == 2 and a.shape[1] == 32:
        return tl.join(tl.sum(a, 1), tl.sum(b, 1))
    else:
        return tl.join(a, b)


@triton.jit
def _strips(pred, gt, mask, abs_mask, level_p, level_g, info, code, high, has_high, b, y0, x0, h, w, mu_p,
            mu_g, inv_p, inv_g, LEVEL0: tl.constexpr, PLAN: tl.constexpr, HAS_MASK: tl.constexpr,
            HAS_ABS: tl.constexpr, CODES: tl.constexpr, HIGH: tl.constexpr, ACC: tl.constexpr,
            TH: tl.constexpr, S: tl.constexpr):  # fmt: skip
    """Stream down rows y0 - 1 .. y0 + TH of an image's level [h, w]; leave codes [h, w + 2].

    Returns:
        The sums of each lane [S, 32], by row.
    """
    lane = tl.arange(0, 32)[None, :]
    x = x0 + tl.arange(0, S)[:, None] * 30 + lane - 1
    left = tl.broadcast_to(tl.maximum(lane - 1, 0), [S, 32])
    right = tl.broadcast_to(tl.minimum(lane + 1, 31), [S, 32])
    own = (lane > 0) & (lane < 31) & (x < w)
    at_left = x == -1
    at_right = (x == w) & (lane > 1)
    source = tl.where(at_left, right, left)
    # A row y counts for a lane where y < its limit: one comparison for both directions.
    end = tl.minimum(h, y0 + TH)
    own_rows = tl.where(own, end, 0)
    stored_rows = tl.where(own | at_left | at_right, end, 0)
    inside_rows = tl.where((x >= 0) & (x < w), h, 0)
    answer_rows = own_rows
    if PLAN.border == "valid":
        answer_rows = tl.where(own & (x >= 1) & (x < w - 1), tl.minimum(end, h - 1), 0)
    x_c = tl.minimum(tl.maximum(x, 0), w - 1)
    zero = tl.zeros([S, 32], ACC)
    izero = tl.zeros([S, 32], tl.int32)
    older = tl.zeros([S, 32], ACC)
    iolder = tl.zeros([S, 32], tl.int32)
    four = tl.full([S, 32], 4.0, ACC)
    response, cells, u_one, u_z = zero, zero, zero, zero
    rel, rel_one, rel_z, kept = zero, zero, zero, izero
    # Of the rows y - 2 and y - 1: differences and smooth sums along x of r, of z_p and of the weight a. Each
    # begins with its own zero: Triton carries no variable that begins with the same value as its successor.
    rd0, rs0, zd0, zs0, wd0, ws0, c0 = older, older, older, older, older, older, iolder
    rd1, rs1, zd1, zs1, wd1, ws1, c1 = zero, zero, zero, zero, zero, zero, izero
    half1, low1, extra1 = izero, zero, izero
    first = tl.maximum(y0 - 1, 0).to(tl.int64)
    x_64 = x_c.to(tl.int64)
    p_pred = pixels(pred, b, first, x_64)
    p_gt = pixels(gt, b, first, x_64)
    p_mask = pixels(mask, b, first, x_64)
    p_abs = pixels(abs_mask, b, first, x_64)
    o = first * w + x_64
    o_code = y0.to(tl.int64) * (w + 2) + x + 1
    # Two rows at a time: what is carried changes places without a move.
    for pair in tl.range(0, (end - y0 + 3) // 2, num_stages=1):
        for i in tl.static_range(2):
            y = y0 + (2 * pair + i - 1)
            # Rows above the image, or above this program's own, are below no limit.
            y_own = tl.where(y < y0, h, y)
            ok = x_c >= 0
            if PLAN.border == "zero":
                ok = tl.where(y < 0, h, y) < inside_rows
            low = zero
            extra = izero
            if LEVEL0:
                dev_p, dev_g, m, keep, e = pixel_row(
                    p_pred, p_gt, p_mask, p_abs, ok, mu_p, mu_g, PLAN, HAS_MASK, HAS_ABS, ACC
                )
                z = dev_p * inv_p
                r = z - dev_g * inv_g
                cover = m.to(tl.int32)
                half = cover
                weight = tl.where(keep, 1.0, 0.0).to(ACC)
                own_r = tl.where(m & (y_own < own_rows), r, 0.0)
                rel += tl.abs(own_r)
                if CODES:
                    s_r = unit_sign(own_r)
                    rel_one += s_r
                    rel_z = tl.fma(s_r, z, rel_z)
                    # Exact products of small integers, here and below: nothing is rounded.
                    low = tl.fma(tl.fma(unit_sign(dev_p), four, unit_sign(e)), four, s_r)
                    extra = tl.where(m, 1024, 0)
                    if PLAN.reads_invalid:
                        extra = extra | tl.where(keep, 2048, 0)
                # The next row, which for a halo outside the image is this one again.
                step = ((y >= 0) & (y < h - 1)).to(tl.int64)
                p_pred += step * pred[2]
                p_gt += step * gt[2]
                p_mask += step * mask[2]
                p_abs += step * abs_mask[2]
            else:
                z, r, weight, cover, half, count = cell_row(level_p, level_g, info, o, ok, inv_p, inv_g, PLAN)
                extra = count - 1
                o += ((y >= 0) & (y < h - 1)).to(tl.int64) * w
            if PLAN.counts_cells:
                if PLAN.sobel_mask == "centre":
                    cells += tl.where((half != 0) & (y_own < own_rows), 1.0, 0.0)
                else:
                    cells += tl.where(y_own < own_rows, weight, 0.0)
            rd2, rs2 = _along_row(r, left, right)
            zd2 = zero
            zs2 = zero
            wd2 = zero
            ws2 = zero
            if CODES and PLAN.standardised:
                zd2, zs2 = _along_row(z, left, right)
            if PLAN.sobel_mask == "support":
                cover = cover & tl.gather(cover, left, 1) & tl.gather(cover, right, 1)
            elif CODES and PLAN.standardised:
                wd2, ws2 = _along_row(weight, left, right)
            if pair > 0:
                centre = y - 1
                if PLAN.border == "valid":
                    centre = tl.where(centre < 1, h, centre)
                counts = centre < answer_rows
                if PLAN.sobel_mask == "support":
                    counts = counts & ((c0 & c1 & cover) != 0)
                if PLAN.sobel_mask == "centre":
                    counts = counts & (half1 != 0)
                gx, gy = _sobel(rd0, rd1, rd2, rs0, rs2)
                gx = tl.where(counts, gx, 0.0)
                gy = tl.where(counts, gy, 0.0)
                response += tl.abs(gx) + tl.abs(gy)
                kept += counts.to(tl.int32)
                if CODES:
                    sx = unit_sign(gx)
                    sy = unit_sign(gy)
                    if PLAN.standardised:
                        zx, zy = _sobel(zd0, zd1, zd2, zs0, zs2)
                        u_z = tl.fma(sx, zx, tl.fma(sy, zy, u_z))
                    if PLAN.sobel_mask != "support" and PLAN.standardised:
                        wx, wy = _sobel(wd0, wd1, wd2, ws0, ws2)
                        u_one = tl.fma(sx, wx, tl.fma(sy, wy, u_one))
                    if LEVEL0:
                        # Every sign + 1: 1 + 4 + 16 + 64 + 256.
                        c = tl.fma(tl.fma(low1, four, sy), four, sx).to(tl.int32) + 341 + extra1
                    else:
                        c = tl.fma(sy, four, sx).to(tl.int32) + 5
                        if PLAN.sobel_mask == "support":
                            c = c | (extra1 & 15) << 4
                    if PLAN.border == "replicate":
                        # The halo takes its neighbour's code with sx negated.
                        folded = tl.gather(c, source, 1)
                        c = tl.where(own, c, folded + 2 - 2 * (folded & 3))
                    is_stored = y - 1 < stored_rows
                    tl.store(code + o_code, c.to(code.dtype.element_ty), mask=is_stored)
                    if HIGH:
                        tl.store(high + o_code, (extra1 >> 4).to(tl.uint8), mask=is_stored & has_high)
                    o_code += w + 2
            rd0, rd1 = rd1, rd2
            rs0, rs1 = rs1, rs2
            zd0, zd1 = zd1, zd2
            zs0, zs1 = zs1, zs2
            wd0, wd1 = wd1, wd2
            ws0, ws1 = ws1, ws2
            c0, c1 = c1, cover
            half1, low1, extra1 = half, low, extra
    return response, kept.to(ACC), cells, u_one, u_z, rel, rel_one, rel_z


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=NUMBERS)
def sobel(
    pred,  # maps [B, H, W]
    gt,
    mask,
    abs_mask,
    deviations,  # [.., R]
    images,  # [B, IMAGE]
    level_p,
    level_g,
    info,
    code0,  # uint16 [B, H, W + 2]
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
    """One program: TH rows of S strips of one level of one image."""
    i_p = tl.program_id(0)
    b = i_p // NQ
    q = i_p - b * NQ
    inv_p, inv_g = image_statistics(deviations, images, b, q == 0, NP, R, PLAN, NPP, ACC)
    mu_p = tl.load(images + b * IMAGE + MU_P)
    mu_g = tl.load(images + b * IMAGE + MU_G)
    level, h, w, y0, x0, cells, codes, highs = locate(q, b, B, H, W, 0, LEVELS, TH, 30 * S)
    R_Q = (tl.full((), 0, tl.int64) + NQ) * B
    HIGH: tl.constexpr = CODES and PLAN.two_byte_counts and LEVELS > 3
    if level == 0:
        response, kept, own_cells, u_one, u_z, rel, rel_one, rel_z = _strips(
            pred, gt, mask, abs_mask, level_p, level_g, info, code0 + codes, high, False, b, y0, x0, h, w,
            mu_p, mu_g, inv_p, inv_g, True, PLAN, HAS_MASK, HAS_ABS, CODES, False, ACC, TH, S
        )  # fmt: skip
    else:
        response, kept, own_cells, u_one, u_z, rel, rel_one, rel_z = _strips(
            pred, gt, mask, abs_mask, level_p + cells, level_g + cells, info + cells, code + codes,
            high + highs, level > 2, b, y0, x0, h, w, mu_p, mu_g, inv_p, inv_g, False, PLAN, HAS_MASK,
            HAS_ABS, CODES, HIGH, ACC, TH, S
        )  # fmt: skip
    # In the order of the rows above.
    first = _pair(_pair(response, kept), _pair(own_cells, u_one))
    second = _pair(_pair(u_z, rel), _pair(rel_one, rel_z))
    total = tl.reshape(tl.sum(tl.join(first, second), 0), [8])
    # join puts its second argument last: bit 2 of the position chose first.
    i = tl.arange(0, 8)
    row = (i & 1) << 2 | (i & 2) | (i >> 2)
    tl.store(sums + i_p + row * R_Q, total)
