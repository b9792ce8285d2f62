"""Phase 3: responses of the residual at every level, as sign codes and sums; the relative term.

    r = z_p - z_g, z = dev/S;  g = Sobel(D_k(a r));  sum |gx| + |gy|,  sum m |r|
    for the backward: U1 = sum sign(g) Sobel(D_k(a z_p)) + sum m sign(r) z_p, and U0, with 1 for z_p

Of a fit z_p is dev_p; of another penalty phi stands for |r|, and phi' for sign(r). A program streams down TH
rows of S strips; a strip is 32 lanes that own 30 columns, so that neighbours are one lane shuffle away and
every input is read once. Saves codes. Reads 9 bytes/pixel and 10 bytes/cell, saves 2.33; a level of forward
differences reads the pixels that it samples.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .codes import flags_of_pixel, folded_edge, pack_cell, pack_high, pack_pixel, signs_of_pixel
from .device import NUMBERS, SIZES, pixels
from .histogram import threshold
from .inputs import Inputs, confidence_at, weighed
from .levels import locate, unit
from .penalty import penalty
from .pyramid import IMAGE, KEPT, SHARE, TAU
from .rows import cell_row, fit_of, pixel_row, residual_of, unit_sign

# Rows of the sums that a program leaves.
RESPONSE = tl.constexpr(0)
KEPT_RESPONSES = tl.constexpr(1)
CELLS = tl.constexpr(2)  # the level's own normaliser
U_ONE = tl.constexpr(3)
U_Z = tl.constexpr(4)
REL = tl.constexpr(5)
REL_ONE = tl.constexpr(6)
REL_Z = tl.constexpr(7)
REL_PLAIN = tl.constexpr(8)  # of a relative term with a confidence: without it
ROWS = 9
LANES = 30  # columns that a strip owns


class Cells(NamedTuple):
    """What phase 2 leaves of a level, [h, w]: p, g and the counts."""

    p: Any
    g: Any
    info: Any


class Codes(NamedTuple):
    """Where the codes [h, w + 2] of a level go, and the high bits of its counts, where it has any."""

    code: Any
    high: Any
    has_high: Any


class Place(NamedTuple):
    """Image, level, the size of this, and the first row and column of a program in it."""

    b: Any
    level: Any
    h: Any
    w: Any
    y0: Any
    x0: Any


class Trim(NamedTuple):
    """The largest |r| that counts, and how much a pixel with it does."""

    tau: Any
    share: Any


@triton.jit
def _along_row(x, left, right, PLAN: tl.constexpr):
    """Difference and smooth sum of x [S, 32] along the row, from its neighbours' lanes; of forward
    differences that to the next, and x.
    """
    x_r = tl.gather(x, right, 1)
    if PLAN.forward:
        return x_r - x, x
    else:
        x_l = tl.gather(x, left, 1)
        # 2 x is exact: no rounding is fused away, here and below.
        return x_r - x_l, tl.fma(x, tl.full(x.shape, 2.0, x.dtype), x_l + x_r)


@triton.jit
def _responses(d0, d1, d2, s0, s1, s2, PLAN: tl.constexpr):
    """Responses in x and y from three rows' differences and smooth sums."""
    if PLAN.forward:
        return d1, s2 - s1
    else:
        return tl.fma(d1, tl.full(d1.shape, 2.0, d1.dtype), d0 + d2), s2 - s0


@triton.jit
def _pair(a, b):
    """Sums along the lanes of two blocks, side by side; of two pairs, the pairs side by side."""
    if len(a.shape) == 2 and a.shape[1] == 32:
        return tl.join(tl.sum(a, 1), tl.sum(b, 1))
    else:
        return tl.join(a, b)


@triton.jit
def _weighed(r, m, trim, w, c, PLAN: tl.constexpr):
    """Of the relative term at m: phi and phi' as far as the pixel counts, the sign of r where it does, the
    ties with the threshold of a trim, and phi without the confidence c.
    """
    phi, slope, _ = penalty(r, r, tl.zeros_like(r), m, 0.0, PLAN.relative)
    s_r = unit_sign(r)
    tie = m
    if PLAN.trim > 0:
        d = tl.abs(r)
        tie = m & (d == trim.tau)
        part = tl.where(m & (d < trim.tau), 1.0, tl.where(tie, trim.share, 0.0)).to(r.dtype)
        # A NaN among the trimmed must show.
        phi = tl.where(part > 0, part * phi, 0.0) + 0.0 * r
        slope = tl.where(part > 0, part * slope, 0.0)
        s_r = tl.where(part > 0, s_r, 0.0)
    plain = weighed(phi, m, w)
    if PLAN.relative_confidence is not None:
        c = confidence_at(c, m)
        phi = c * phi - PLAN.relative_confidence * tl.log(c)
        slope = c * slope
    return weighed(phi, m, w), weighed(slope, m, w), s_r, tie, plain


@triton.jit
def _strips(inputs, cells, out, at, fit, trim, LEVEL0: tl.constexpr, PLAN: tl.constexpr,
            HAS: tl.constexpr, CODES: tl.constexpr, HIGH: tl.constexpr,
            ACC: tl.constexpr, TH: tl.constexpr, S: tl.constexpr):  # fmt: skip
    """Stream down rows y0 - 1 .. y0 + TH of an image's level; leave its codes.

    Returns:
        The sums of each lane [S, 32], by row.
    """
    b, level, h, w, y0, x0 = at
    # A level of forward differences reads its pixels as level 0 does.
    OF_PIXELS: tl.constexpr = LEVEL0 or PLAN.strided
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
    if PLAN.edge == "valid":
        answer_rows = tl.where(own & (x >= 1) & (x < w - 1), tl.minimum(end, h - 1), 0)
    x_c = tl.minimum(tl.maximum(x, 0), w - 1)
    zero = tl.zeros([S, 32], ACC)
    izero = tl.zeros([S, 32], tl.int32)
    older = tl.zeros([S, 32], ACC)
    iolder = tl.zeros([S, 32], tl.int32)
    response, cells_, u_one, u_z = zero, zero, zero, zero
    rel, rel_one, rel_z, kept, plain = zero, zero, zero, izero, zero
    # Of the rows y - 2 and y - 1: differences and smooth sums along x of r, of z_p and of the weight a. Each
    # begins with its own zero: Triton carries no variable that begins with the same value as its successor.
    rd0, rs0, zd0, zs0, wd0, ws0, c0 = older, older, older, older, older, older, iolder
    rd1, rs1, zd1, zs1, wd1, ws1, c1 = zero, zero, zero, zero, zero, zero, izero
    half1, signs1, extra1 = izero, zero, izero
    first = tl.maximum(y0 - 1, 0).to(tl.int64)
    x_64 = x_c.to(tl.int64)
    step_y = tl.full((), 1, tl.int64)
    y_64, x_in = first, x_64
    unit_ = tl.full((), 1.0, ACC)
    if OF_PIXELS and not LEVEL0:
        step_y = step_y << level.to(tl.int64)
        y_64, x_in = first * step_y, x_64 * step_y
    elif not LEVEL0:
        unit_ = unit(level, PLAN, ACC)
    p_pred = pixels(inputs.pred, b, y_64, x_in)
    p_gt = pixels(inputs.gt, b, y_64, x_in)
    p_mask = pixels(inputs.mask, b, y_64, x_in)
    p_abs = pixels(inputs.abs_mask, b, y_64, x_in)
    p_weight = pixels(inputs.weight, b, y_64, x_in)
    p_confidence = pixels(inputs.confidence, b, y_64, x_in)
    o = first * w + x_64
    o_code = y0.to(tl.int64) * (w + 2) + x + 1
    # Two rows at a time: what is carried changes places without a move.
    for pair in tl.range(0, (end - y0 + 3) // 2, num_stages=1):
        for i in tl.static_range(2):
            y = y0 + (2 * pair + i - 1)
            # Rows above the image, or above this program's own, are below no limit.
            y_own = tl.where(y < y0, h, y)
            ok = x_c >= 0
            if PLAN.edge == "zero":
                ok = tl.where(y < 0, h, y) < inside_rows
            signs = zero
            extra = izero
            if OF_PIXELS:
                at_row = Inputs(p_pred, p_gt, p_mask, p_abs, p_weight, p_confidence)
                dev_p, dev_g, m, keep, e, w_pixel = pixel_row(at_row, ok, fit, PLAN, HAS, ACC)
                z, r = residual_of(dev_p, dev_g, fit, PLAN)
                cover = m.to(tl.int32)
                half = cover
                weight = tl.where(keep, 1.0, 0.0).to(ACC)
                if LEVEL0:
                    own_m = m & (y_own < own_rows)
                    own_r = tl.where(own_m, r, 0.0)
                    s_r = own_r
                    tie = own_m
                    if not PLAN.weighed and not (HAS.weight and PLAN.relative is not None):
                        rel += tl.abs(own_r)
                        if CODES:
                            s_r = unit_sign(own_r)
                            rel_one += s_r
                            rel_z = tl.fma(s_r, z, rel_z)
                    else:
                        confidence = own_r
                        if PLAN.relative_confidence is not None:
                            confidence = tl.load(p_confidence).to(ACC)
                        phi, slope, s_r, tie, without = _weighed(
                            own_r, own_m, trim, w_pixel, confidence, PLAN
                        )
                        rel += phi
                        plain += without
                        if CODES:
                            rel_one += slope
                            rel_z += tl.where(slope != 0, slope * z, slope)
                    if CODES:
                        signs = signs_of_pixel(s_r, unit_sign(e), unit_sign(dev_p))
                        extra = flags_of_pixel(m, keep, tie, PLAN)
                # The next row, which for a halo outside the image is this one again.
                step = tl.where((y >= 0) & (y < h - 1), step_y, 0)
                p_pred += step * inputs.pred[2]
                p_gt += step * inputs.gt[2]
                p_mask += step * inputs.mask[2]
                p_abs += step * inputs.abs_mask[2]
                p_weight += step * inputs.weight[2]
                p_confidence += step * inputs.confidence[2]
            else:
                z, r, weight, cover, half, count = cell_row(cells, o, ok, unit_, fit, PLAN)
                extra = count - 1
                o += ((y >= 0) & (y < h - 1)).to(tl.int64) * w
            if PLAN.counts_cells:
                if PLAN.sobel_mask == "centre":
                    cells_ += tl.where((half != 0) & (y_own < own_rows), 1.0, 0.0)
                else:
                    cells_ += tl.where(y_own < own_rows, weight, 0.0)
            rd2, rs2 = _along_row(r, left, right, PLAN)
            zd2 = zero
            zs2 = zero
            wd2 = zero
            ws2 = zero
            if CODES and PLAN.aligned:
                zd2, zs2 = _along_row(z, left, right, PLAN)
            if PLAN.sobel_mask == "support":
                cover = cover & tl.gather(cover, left, 1) & tl.gather(cover, right, 1)
            elif PLAN.forward:
                half = cover & tl.gather(cover, right, 1)
            elif CODES and PLAN.aligned:
                wd2, ws2 = _along_row(weight, left, right, PLAN)
            if pair > 0:
                centre = y - 1
                if PLAN.edge == "valid":
                    centre = tl.where(centre < 1, h, centre)
                counts = centre < answer_rows
                if PLAN.sobel_mask == "support":
                    counts = counts & ((c0 & c1 & cover) != 0)
                if PLAN.sobel_mask == "centre":
                    counts = counts & (half1 != 0)
                counts_x = counts
                counts_y = counts
                if PLAN.forward:
                    counts_x = counts & (half1 != 0)
                    counts_y = counts & ((c1 & cover) != 0)
                gx, gy = _responses(rd0, rd1, rd2, rs0, rs1, rs2, PLAN)
                gx = tl.where(counts_x, gx, 0.0)
                gy = tl.where(counts_y, gy, 0.0)
                response += tl.abs(gx) + tl.abs(gy)
                kept += counts_x.to(tl.int32)
                if PLAN.forward:
                    kept += counts_y.to(tl.int32)
                if CODES:
                    sx = unit_sign(gx)
                    sy = unit_sign(gy)
                    if PLAN.aligned:
                        zx, zy = _responses(zd0, zd1, zd2, zs0, zs1, zs2, PLAN)
                        u_z = tl.fma(sx, zx, tl.fma(sy, zy, u_z))
                    if PLAN.aligned and not PLAN.forward and PLAN.sobel_mask != "support":
                        wx, wy = _responses(wd0, wd1, wd2, ws0, ws1, ws2, PLAN)
                        u_one = tl.fma(sx, wx, tl.fma(sy, wy, u_one))
                    if LEVEL0:
                        c = pack_pixel(sx, sy, signs1, extra1)
                    else:
                        c = pack_cell(sx, sy, extra1, PLAN)
                    if PLAN.edge == "replicate":
                        c = folded_edge(c, own, source)
                    is_stored = y - 1 < stored_rows
                    tl.store(out.code + o_code, c.to(out.code.dtype.element_ty), mask=is_stored)
                    if HIGH:
                        tl.store(out.high + o_code, pack_high(extra1), mask=is_stored & out.has_high)
                    o_code += w + 2
            rd0, rd1 = rd1, rd2
            rs0, rs1 = rs1, rs2
            zd0, zd1 = zd1, zd2
            zs0, zs1 = zs1, zs2
            wd0, wd1 = wd1, wd2
            ws0, ws1 = ws1, ws2
            c0, c1 = c1, cover
            half1, signs1, extra1 = half, signs, extra
    return response, kept.to(ACC), cells_, u_one, u_z, rel, rel_one, rel_z, plain


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=NUMBERS)
def sobel(
    inputs,
    deviations,  # [.., R]
    images,  # [B, IMAGE]
    level_p,
    level_g,
    info,
    trimmed,  # of a trim, as the next: what `select` counted
    states,
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
    HAS: tl.constexpr,
    CODES: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    S: tl.constexpr,
    NPP: tl.constexpr,
    LEVELS: tl.constexpr,
    DIGITS: tl.constexpr,
):
    """One program: TH rows of S strips of one level of one image."""
    i_p = tl.program_id(0)
    b = i_p // NQ
    q = i_p - b * NQ
    fit = fit_of(deviations, images, b, q == 0, NP, R, PLAN, NPP, ACC)
    trim = Trim(fit.inv_p, fit.inv_p)
    if PLAN.trim > 0:
        which = b.to(tl.int64)
        each = tl.full((), 0, tl.int64) + B
        if PLAN.trim_batch:
            which = which * 0
            each = which + 1
        tau, share, kept_pixels = threshold(trimmed, states, which, each, PLAN.trim, DIGITS, ACC)
        trim = Trim(tau, share)
        row = images + b * IMAGE
        tl.store(row + TAU, tau, mask=q == 0)
        tl.store(row + SHARE, share, mask=q == 0)
        tl.store(row + KEPT, kept_pixels.to(ACC), mask=q == 0)
    level, h, w, y0, x0, o_cells, codes, highs = locate(q, b, B, H, W, 0, PLAN, LEVELS, TH, 30 * S)
    at = Place(b, level, h, w, y0, x0)
    R_Q = (tl.full((), 0, tl.int64) + NQ) * B
    HIGH: tl.constexpr = CODES and PLAN.two_byte_counts and LEVELS > 3
    cells = Cells(level_p + o_cells, level_g + o_cells, info + o_cells)
    if level == 0:
        response, kept, own_cells, u_one, u_z, rel, rel_one, rel_z, plain = _strips(
            inputs, cells, Codes(code0 + codes, high, False), at, fit, trim, True, PLAN, HAS,
            CODES, False, ACC, TH, S
        )  # fmt: skip
    else:
        response, kept, own_cells, u_one, u_z, rel, rel_one, rel_z, plain = _strips(
            inputs, cells, Codes(code + codes, high + highs, level > 2), at, fit, trim, False, PLAN, HAS,
            CODES, HIGH, ACC, TH, S
        )  # fmt: skip
    # In the order of the rows above.
    first = _pair(_pair(response, kept), _pair(own_cells, u_one))
    second = _pair(_pair(u_z, rel), _pair(rel_one, rel_z))
    total = tl.reshape(tl.sum(tl.join(first, second), 0), [8])
    # join puts its second argument last: bit 2 of the position chose first.
    i = tl.arange(0, 8)
    row = (i & 1) << 2 | (i & 2) | (i >> 2)
    tl.store(sums + i_p + row * R_Q, total)
    if PLAN.relative_confidence is not None:
        tl.store(sums + i_p + REL_PLAIN * R_Q, tl.sum(plain))
