"""The backward: from sign codes and per-image coefficients to the gradient of pred.

    u = w_R sign(r) + a sum_k D_k^T( kappa_k omega_k (Sx^T sx + Sy^T sy) );   omega = 1/D_k(m) for support, else 1
    dL/dd = (u - m/n (U0 + (sign(dev) - q) U1))/S + w_A sign(p - g);   dL/dp = grad_output dd/dp dL/dd + pointwise

First launch: A_k = kappa_k omega_k (adjoint Sobel) for the coarse cells, 4 bytes/cell. Second launch: the pixels.
Both stream down rows; the halo of the codes holds the fold of the border, so no column is masked. Saves
nothing; reads 2.33 + 1.33 bytes/pixel and, for a converted domain, p, for pointwise terms p, g, m; writes the
gradient (4 bytes/pixel in float32).
"""

import triton
import triton.language as tl

from .device import image, sign, slope, to_domain, valid
from .finish import (
    ABS_WEIGHT,
    COEFFICIENTS,
    DIFF_CENTRE,
    DIFF_SHIFT,
    DIFF_SLOPE,
    HEAD,
    KAPPA,
    LOG_CENTRE,
    LOG_SHIFT,
    LOG_SLOPE,
    LOG_VAR,
    MEAN_WEIGHT,
    POINT_THRESHOLD,
    POINT_WEIGHT,
    REL_WEIGHT,
    SCALE,
    SIGN_WEIGHT,
)
from .moments import log_ratio
from .sobel import READ_BIT, VALID_BIT


@triton.jit
def _code_row(code, o):
    """Of one row of codes: adjoint differences of sx and smooth sums of sy along x, and the codes themselves.

    Sx^T: left neighbour less right; Sy^T: 1 2 1. The offset of sy (4 a unit, 16 in all) cancels between rows.
    """
    c_l = tl.load(code + o - 1).to(tl.int32)
    c = tl.load(code + o).to(tl.int32)
    c_r = tl.load(code + o + 1).to(tl.int32)
    return (c_l & 3) - (c_r & 3), (c_l & 12) + (c_r & 12) + 2 * (c & 12), c


@triton.jit
def _beyond(d, s, d_edge, s_edge, outside, BORDER: tl.constexpr):
    """The row's d and s, or what stands for a row outside the image next to the edge row."""
    if BORDER == "replicate":
        return tl.where(outside, d_edge, d), tl.where(outside, 32 - s_edge, s)
    else:
        return tl.where(outside, 0, d), tl.where(outside, 16, s)


@triton.jit
def coarse(
    code,  # uint8 [B, h, w + 2] of the levels k >= 1
    high,
    coefficients,  # [COEFFICIENTS + .., ...]
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
    i_p = tl.program_id(0)
    b = i_p // NQ
    q = i_p - b * NQ
    level = tl.full((), 1, tl.int32)
    first = tl.full((), 0, tl.int32)
    next_first = first
    h = level
    w = level
    o_cells = tl.full((), 0, tl.int64)
    o_codes = o_cells
    o_highs = o_cells
    b64 = b.to(tl.int64)
    next_cells = o_cells
    next_codes = o_cells
    next_highs = o_cells
    for k in tl.static_range(1, LEVELS):
        h_k = (tl.full((), 0, tl.int32) + H) >> k
        w_k = (tl.full((), 0, tl.int32) + W) >> k
        here = q >= next_first
        level = tl.where(here, k, level)
        first = tl.where(here, next_first, first)
        h = tl.where(here, h_k, h)
        w = tl.where(here, w_k, w)
        o_cells = tl.where(here, next_cells + b64 * h_k * w_k, o_cells)
        o_codes = tl.where(here, next_codes + b64 * h_k * (w_k + 2), o_codes)
        o_highs = tl.where(here, next_highs + b64 * h_k * (w_k + 2), o_highs)
        next_first += tl.cdiv(w_k, TW) * tl.cdiv(h_k, TH)
        next_cells += h_k.to(tl.int64) * w_k * B
        next_codes += h_k.to(tl.int64) * (w_k + 2) * B
        if k > 2:
            next_highs += h_k.to(tl.int64) * (w_k + 2) * B
    t = q - first
    tiles_x = tl.cdiv(w, TW)
    y0 = t // tiles_x * TH
    x = t % tiles_x * TW + tl.arange(0, TW)
    x_c = tl.minimum(x, w - 1)
    kappa = tl.load(coefficients + KAPPA + level).to(ACC)
    # Each pixel's share of its cell's value, but for the count of mask support.
    if PLAN.sobel_mask != "support":
        if PLAN.downsample == "average":
            kappa = kappa / (one_like(level) << (2 * level)).to(ACC)
        elif PLAN.downsample == "bilinear":
            kappa = kappa * 0.25
    HIGH: tl.constexpr = PLAN.sobel_mask == "support" and PLAN.downsample == "average" and LEVELS > 3
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
        d2, s2, c2 = _code_row(code + o_codes, o)
        e2 = zero
        if HIGH and i >= 1 and i <= TH:
            e2 = tl.load(high + o_highs + o, mask=(x_c >= 0) & (level > 2), other=0).to(tl.int32)
        BORDER: tl.constexpr = PLAN.border
        if i == 0:
            d2, s2 = _beyond(d2, s2, d2, s2, y < 0, BORDER)
        else:
            d2, s2 = _beyond(d2, s2, d1, s1, y >= h, BORDER)
        if i >= 2:
            a = (d0 + d2 + 2 * d1 + ((s0 - s2) >> 2)).to(ACC) * kappa
            if PLAN.sobel_mask == "support":
                a = a / ((c1 >> 4) + 1 + 16 * e1).to(ACC)
            o_a = (y - 1).to(tl.int64) * w + x
            tl.store(cells + o_cells + o_a, a, mask=(x < w) & (y - 1 < h))
        d0 = d1
        d1 = d2
        s0 = s1
        s1 = s2
        c1 = c2
        e1 = e2


@triton.jit
def one_like(x):
    """The integer 1 as a tensor."""
    return x * 0 + 1


@triton.jit
def _cell_value(cells, b64, B, H, W, y, x, I: tl.constexpr, K: tl.constexpr, PLAN: tl.constexpr,
                TH: tl.constexpr, ACC: tl.constexpr):  # fmt: skip
    """What level K adds to the pixels x of row y = (a multiple of TH) + I: its cell's A_k where sampled."""
    F: tl.constexpr = 2**K
    # Bilinear reads the central 2x2 of a cell; which rows those are is known where tiles hold whole cells.
    CENTRAL: tl.constexpr = PLAN.downsample == "bilinear" and K > 1
    SKIP: tl.constexpr = CENTRAL and TH % F == 0 and (I + 1 - F // 2) % F > 1
    if SKIP:
        return tl.zeros_like(x).to(ACC)
    else:
        zero = tl.full((), 0, tl.int64)
        h = (zero + H) >> K
        w = (zero + W) >> K
        if PLAN.downsample == "nearest":
            y_k = (y * h + H - 1) // H
            x_k = (x * w + W - 1) // W
            hit = (y_k < h) & (x_k < w) & (y_k * H // h == y) & (x_k * W // w == x)
        else:
            y_k = y >> K
            x_k = x >> K
            hit = (y_k < h) & (x_k < w)
            if CENTRAL:
                hit = hit & (((y + 1 - F // 2) & (F - 1)) < 2) & (((x + 1 - F // 2) & (F - 1)) < 2)
        base = b64 * h * w
        for k in tl.static_range(1, K):
            base += ((zero + H) >> k) * ((zero + W) >> k) * B
        return tl.load(cells + (base + y_k * w + x_k), mask=hit, other=0.0)


@triton.jit
def _pointwise(p, g, m, image_row, PLAN: tl.constexpr):
    """Gradient of the terms that re-read p, g and m: moments and pointwise terms, all weighted."""
    zero = tl.zeros_like(p)  # makes blocks of scalars: the interpreter cannot broadcast a scalar's comparison
    total = zero
    if PLAN.has_difference:
        D: tl.constexpr = PLAN.difference_domain
        scale = tl.load(image_row + DIFF_SLOPE)
        on = m & ((scale + zero) != 0)
        e = to_domain(p, on, D) - to_domain(g, on, D)
        d = (e - tl.load(image_row + DIFF_CENTRE)) * scale + tl.load(image_row + DIFF_SHIFT)
        total += tl.where(on, d, 0.0) * slope(p, on, D)
    if PLAN.has_log:
        T: tl.constexpr = PLAN.log
        D_LOG: tl.constexpr = PLAN.log_domain
        scale = tl.load(image_row + LOG_SLOPE)
        shift = tl.load(image_row + LOG_SHIFT)
        on = m & (((scale + zero) != 0) | ((shift + zero) != 0))
        p_d = to_domain(p, on, D_LOG)
        ratio = log_ratio(p_d, to_domain(g, on, D_LOG), on, T)
        d = (ratio - tl.load(image_row + LOG_CENTRE)) * scale + shift
        inside = on
        if T.clamp is not None:
            inside = on & (p_d >= T.clamp)
            p_d = tl.where(p_d < T.clamp, T.clamp, p_d)
        total += tl.where(inside, d / (tl.where(inside, p_d, 1.0) + T.offset), 0.0) * slope(p, on, D_LOG)
    if PLAN.has_pointwise:
        POINT: tl.constexpr = PLAN.pointwise
        D_POINT: tl.constexpr = PLAN.pointwise_domain
        scale = tl.load(image_row + POINT_WEIGHT)
        on = m & ((scale + zero) != 0)
        p_d = to_domain(p, on, D_POINT)
        g_d = to_domain(g, on, D_POINT)
        e = tl.where(on, p_d - g_d, 0.0)
        d = tl.where(e > 0, 1.0, tl.where(e < 0, -1.0, 0.0)).to(p.dtype)
        if POINT.kind == "mse":
            d = 2.0 * e
        elif POINT.kind == "abs-rel":
            d = d / tl.where(on, g_d, 1.0)
        elif POINT.kind == "abs-rel-packnet":
            q = 1.0 / tl.where(on, p_d, 1.0)
            d = d * q - tl.abs(e) * q * q
        elif POINT.kind == "berhu":
            c = tl.load(image_row + POINT_THRESHOLD)
            d = tl.where(tl.abs(e) <= c, d, e / tl.where(c > 0, c, 1.0))
        elif POINT.kind == "berhu-packnet":
            c = tl.load(image_row + POINT_THRESHOLD)
            d = tl.where(tl.abs(e) > c, d + 2.0 * e, d)
        total += d * scale * slope(p, on, D_POINT)
    return total


@triton.jit
def _structure(c, u, sign_abs, image_row, ACC: tl.constexpr):
    """dL/dd of the absolute, relative and gradient terms, from a code and the sum over levels u."""
    sign_r = ((c >> 4) & 3) - 1
    sign_dev = ((c >> 8) & 3) - 1
    u = tl.where((c & READ_BIT) != 0, u, 0.0)
    u += sign_r.to(ACC) * tl.load(image_row + REL_WEIGHT)
    mean = tl.load(image_row + MEAN_WEIGHT) + sign_dev.to(ACC) * tl.load(image_row + SIGN_WEIGHT)
    u -= tl.where((c & VALID_BIT) != 0, mean, 0.0)
    return u * tl.load(image_row + SCALE) + sign_abs.to(ACC) * tl.load(image_row + ABS_WEIGHT)


@triton.jit
def gradient(
    pred,  # maps [B, H, W]
    gt,
    mask,
    abs_mask,
    code0,  # int16 [B, H, W + 2]
    cells,  # A_k of the levels k >= 1
    coefficients,
    grad_output,  # [1]
    out,  # map [B, H, W]
    out_log_vars,
    B,
    H,
    W,
    NT,
    PLAN: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_ABS: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    LEVELS: tl.constexpr,
):
    i_p = tl.program_id(0)
    b = i_p // NT
    t = i_p - b * NT
    b64 = b.to(tl.int64)
    tiles_x = tl.cdiv(W, TW)
    y0 = t // tiles_x * TH
    x = (t % tiles_x).to(tl.int64) * TW + tl.arange(0, TW)
    x_c = tl.minimum(x, W - 1)
    upstream = tl.load(grad_output).to(ACC)
    G: tl.constexpr = PLAN.num_log_vars
    for i in tl.static_range(G):
        d_log_var = tl.load(coefficients + LOG_VAR + i).to(ACC) * upstream
        tl.store(out_log_vars + i, d_log_var, mask=i_p == 0)
    image_row = coefficients + HEAD + b64 * COEFFICIENTS
    kappa = tl.load(coefficients + KAPPA).to(ACC)
    code0 += b64 * H * (W + 2)
    d0 = tl.zeros([TW], tl.int32)
    s0 = d0
    d1 = d0
    s1 = d0
    c1 = d0
    BORDER: tl.constexpr = PLAN.border
    for i in tl.static_range(TH + 2):
        y = y0 + (i - 1)
        d2 = d0
        s2 = s0
        c2 = c1
        if PLAN.codes:
            y_c = tl.minimum(tl.maximum(y, 0), H - 1).to(tl.int64)
            d2, s2, c2 = _code_row(code0, y_c * (W + 2) + x_c + 1)
            if i == 0:
                d2, s2 = _beyond(d2, s2, d2, s2, y < 0, BORDER)
            else:
                d2, s2 = _beyond(d2, s2, d1, s1, y >= H, BORDER)
        if i >= 2:
            y_o = (y - 1).to(tl.int64)
            ok = (x < W) & (y_o < H)
            g = tl.zeros([TW], ACC)
            total = g
            if PLAN.reads_pred:
                p = tl.load(image(pred, b) + y_o * pred[2] + x * pred[3], mask=ok, other=0.0).to(ACC)
            if PLAN.reads_inputs:
                g = tl.load(image(gt, b) + y_o * gt[2] + x * gt[3], mask=ok, other=0.0).to(ACC)
                o_m = y_o * mask[2] + x * mask[3]
                v = valid(image(mask, b) + o_m, g, ok, HAS_MASK, PLAN.positive_gt)
                m = v
                if PLAN.plain:
                    m = ok
                total = _pointwise(p, g, m, image_row, PLAN)
            if PLAN.has_structure:
                STRUCTURE: tl.constexpr = PLAN.structure
                if PLAN.codes:
                    u = (d0 + d2 + 2 * d1 + ((s0 - s2) >> 2)).to(ACC) * kappa
                    for k in tl.static_range(1, LEVELS):
                        u += _cell_value(cells, b64, B, H, W, y_o, x, i - 2, k, PLAN, TH, ACC)
                    sign_abs = ((c1 >> 6) & 3) - 1
                    d = _structure(c1, u, sign_abs, image_row, ACC)
                    touched = ((c1 & VALID_BIT) != 0) | (sign_abs != 0)
                else:
                    if HAS_ABS:
                        o_m = y_o * abs_mask[2] + x * abs_mask[3]
                        v = valid(image(abs_mask, b) + o_m, g, ok, True, PLAN.positive_gt)
                    e = to_domain(p, v, STRUCTURE) - to_domain(g, v, STRUCTURE)
                    d = sign(e, v).to(ACC) * tl.load(image_row + ABS_WEIGHT)
                    touched = v
                if STRUCTURE.conversion != "identity":
                    d = d * slope(p, touched, STRUCTURE)
                total += d
            p_out = image(out, b) + y_o * out[2] + x * out[3]
            tl.store(p_out, (total * upstream).to(out[0].dtype.element_ty), mask=ok)
        d0 = d1
        d1 = d2
        s0 = s1
        s1 = s2
        c1 = c2
