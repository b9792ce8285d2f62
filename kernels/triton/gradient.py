"""The backward, second launch: the gradient of every pixel.

    u = w_R sign(r) + a (kappa_0 (Sx^T sx + Sy^T sy) + sum_k A_k of the cells that sample the pixel)
    dL/dd = (u - m/n (U0 + (sign(dev) - q) U1))/S + w_A sign(p - g);   dL/dp = grad_output (dd/dp dL/dd + ..)

Reads the codes (2 bytes/pixel) and A_k (1.33); p for a converted domain; p, g, m for terms that are no L1.
Writes the gradient; everything is float32 or wider until it is stored.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .codes import adjoint, beyond, fold, part_of_trim, touched, unpack_row, unpack_valid
from .coefficients import (
    ABS_WEIGHT,
    BY_G,
    BY_P,
    CENTRE,
    COEFFICIENTS,
    HEAD,
    INV_G,
    INV_P,
    KAPPA,
    LARGEST,
    LEVEL_WEIGHT,
    LOG_VAR,
    MEAN_WEIGHT,
    MU_G,
    MU_P,
    PIXEL_WEIGHT,
    REL_WEIGHT,
    SCALE,
    SHARE,
    SHIFT,
    SIGN_WEIGHT,
    SLOPE,
    TIE_WEIGHT,
)
from .device import NUMBERS, SIZES, image, valid
from .inputs import confidence_at, weighed, weight_at
from .levels import size_of
from .penalty import penalty
from .residual import moments_gradient, of_confidence, pixel_gradient, through_structure, to_structure


class Weights(NamedTuple):
    """What the structure terms' signs are multiplied by, in an image."""

    absolute: Any
    relative: Any
    scale: Any
    mean: Any
    sign: Any
    share: Any


class Fitted(NamedTuple):
    """What the residual of an image is made with, and of a fit the weights of p and g about their means."""

    mu_p: Any
    mu_g: Any
    inv_p: Any
    inv_g: Any
    by_p: Any
    by_g: Any


@triton.jit
def _cells_of_row(cells, old, b, B, H, W, y, first, x, K: tl.constexpr, PLAN: tl.constexpr,
                  DIVIDES: tl.constexpr):  # fmt: skip
    """What level K adds to the pixels x of row y; `old` is that of row y - 1, unless y is the `first` row.

    Average: every pixel of a cell; bilinear: its central 2x2; nearest: the pixel that it samples.
    """
    F: tl.constexpr = 2**K
    FIRST: tl.constexpr = F // 2 - 1 if PLAN.downsample == "bilinear" else 0
    ROWS: tl.constexpr = F if PLAN.downsample == "average" else (2 if PLAN.downsample == "bilinear" else 1)
    KNOWN: tl.constexpr = DIVIDES or PLAN.downsample != "nearest"
    row_of_cell = (y - FIRST) & (F - 1)
    found = old
    new = first | (row_of_cell == 0)
    if not KNOWN:
        new = y >= 0
    if new:
        h = size_of(H, K, PLAN)
        w = size_of(W, K, PLAN)
        y_k = y >> K
        x_k = x >> K
        hit_y = y_k < h
        hit_x = x_k < w
        if not KNOWN:
            y_k = ((y.to(tl.int64) * h + H - 1) // H).to(tl.int32)
            x_k = ((x.to(tl.int64) * w + W - 1) // W).to(tl.int32)
            hit_y = (y_k < h) & (y_k.to(tl.int64) * H // h == y)
            hit_x = (x_k < w) & (x_k.to(tl.int64) * W // w == x)
        elif ROWS < F:
            hit_y = hit_y & (row_of_cell < ROWS)
            hit_x = hit_x & (((x - FIRST) & (F - 1)) < ROWS)
        base = b.to(tl.int64) * h * w + y_k.to(tl.int64) * w
        for k in tl.static_range(1, K):
            base += size_of(H, k, PLAN).to(tl.int64) * size_of(W, k, PLAN) * B
        found = tl.load(cells + base + x_k, mask=hit_x & hit_y, other=0.0)
    elif row_of_cell >= ROWS:
        found = tl.zeros_like(old)
    return found


@triton.jit
def _again(code, p, g, m, w, c, fitted, weights, PLAN: tl.constexpr):
    """What the codes do not say of an aligned residual: of a fit what depends on p and g, of a penalty other
    than L1 its slope; and, of one with a confidence c, the gradient of that.
    """
    zero = tl.zeros_like(p)
    p_d, g_d = to_structure(p, g, m, PLAN)
    dev_p = tl.where(m, p_d - fitted.mu_p, 0.0)
    dev_g = tl.where(m, g_d - fitted.mu_g, 0.0)
    d = zero
    by_c = zero
    if PLAN.fits:
        by_p = fitted.by_p + zero
        by_g = fitted.by_g + zero
        d = weighed(tl.where((by_p != 0) | (by_g != 0), dev_p * by_p + dev_g * by_g, 0.0), m, w)
    if PLAN.relative is not None:
        weight = weights.relative * weights.scale + zero
        on = m & (weight != 0)
        r = tl.where(on, dev_p * fitted.inv_p - dev_g * fitted.inv_g, 0.0)
        phi, slope, _ = penalty(r, r, zero, on, zero, PLAN.relative)
        if PLAN.trim > 0:
            weight = weight * part_of_trim(code, weights.share)
        if PLAN.relative_confidence is not None:
            floored = confidence_at(c, on)
            slope = slope * floored
            plain = weighed(weights.relative + zero, on, w)
            by_c = of_confidence(phi, c, floored, on & (plain != 0), plain, PLAN.relative)
        d += weighed(tl.where(on, slope * weight, 0.0), on, w)
    return d, by_c


@triton.jit(do_not_specialize=SIZES, do_not_specialize_on_alignment=NUMBERS)
def gradient(
    inputs,
    code0,  # uint16 [B, H, W + 2]
    cells,  # A_k of the levels k >= 1
    coefficients,
    grad_output,  # [1], or [B] of a loss by image
    out,  # map [B, H, W], as the next
    out_confidence,
    out_log_vars,
    B,
    H,
    W,
    NT,
    PLAN: tl.constexpr,
    HAS: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    ROUND: tl.constexpr,
    LEVELS: tl.constexpr,
    DIVIDES: tl.constexpr,
    WANTS_CONFIDENCE: tl.constexpr,
):
    """Write the gradient of pred, of the confidence if it is wanted, and of the log-variances."""
    i_p = tl.program_id(0)
    b = i_p // NT
    t = i_p - b * NT
    b64 = b.to(tl.int64)
    tiles_x = tl.cdiv(W, TW)
    y0 = t // tiles_x * TH
    x = t % tiles_x * TW + tl.arange(0, TW)
    x_c = tl.minimum(x, W - 1)
    x_o = x.to(tl.int64)
    rows = tl.where(x < W, tl.minimum(y0 + TH, H), 0)
    if PLAN.by_image:
        grad_output += b64
    upstream = tl.load(grad_output).to(ACC)
    G: tl.constexpr = PLAN.num_log_vars
    for i in tl.static_range(G):
        d_log_var = tl.load(coefficients + LOG_VAR + i).to(ACC) * upstream
        tl.store(out_log_vars + i, d_log_var, mask=i_p == 0)
    STRUCTURE: tl.constexpr = PLAN.structure
    image_row = coefficients + HEAD + b64 * COEFFICIENTS
    kappa = tl.load(coefficients + KAPPA)
    if PLAN.gradient_images:
        kappa = tl.load(image_row + LEVEL_WEIGHT)
    none = kappa * 0.0
    w_a, w_r, scale, mean, w_s, share = none, none, none, none, none, none
    if PLAN.absolute is not None:
        w_a = tl.load(image_row + ABS_WEIGHT)
    if PLAN.codes:
        w_r = tl.load(image_row + REL_WEIGHT)
        scale = tl.load(image_row + SCALE)
    if PLAN.codes and PLAN.aligned:
        if PLAN.by_median:
            mean = tl.load(image_row + TIE_WEIGHT)
        else:
            mean = tl.load(image_row + MEAN_WEIGHT)
        if not PLAN.fits:
            w_s = tl.load(image_row + SIGN_WEIGHT)
    if PLAN.trim > 0:
        share = tl.load(image_row + SHARE)
    of_image = Weights(w_a, w_r, scale, mean, w_s, share)
    fitted = Fitted(none, none, none, none, none, none)
    if PLAN.codes and not PLAN.of_signs:
        fitted = Fitted(
            tl.load(image_row + MU_P), tl.load(image_row + MU_G), tl.load(image_row + INV_P),
            tl.load(image_row + INV_G), tl.load(image_row + BY_P), tl.load(image_row + BY_G)
        )  # fmt: skip
    of_moments = ()
    for i in tl.static_range(len(PLAN.moments)):
        slope_i = tl.load(image_row + SLOPE + i)
        of_moments = of_moments + (
            (slope_i, tl.load(image_row + CENTRE + i), tl.load(image_row + SHIFT + i)),
        )
    of_pixels = ()
    for i in tl.static_range(len(PLAN.pixels)):
        c = none
        if PLAN.pixels[i].largest:
            c = tl.load(coefficients + LARGEST + i)
        of_pixels = of_pixels + ((tl.load(image_row + PIXEL_WEIGHT + i), c),)
    p_code = code0 + (b64 * H + tl.maximum(y0 - 1, 0)) * (W + 2)
    first_row = y0.to(tl.int64)
    p_out = image(out, b) + first_row * out[2]
    pred, gt, mask, abs_mask, weight, confidence = inputs
    p_pred = image(pred, b) + first_row * pred[2]
    p_gt = image(gt, b) + first_row * gt[2]
    p_mask = image(mask, b) + first_row * mask[2]
    p_abs = image(abs_mask, b) + first_row * abs_mask[2]
    p_weight = image(weight, b) + first_row * weight[2]
    p_confidence = image(confidence, b) + first_row * confidence[2]
    p_out_confidence = image(out_confidence, b) + first_row * out_confidence[2]
    # Each of what is carried over two rows begins with its own zero: see `sobel._strips`.
    d0 = tl.zeros([TW], tl.float32)
    s0 = d0
    d1 = tl.zeros([TW], tl.float32)
    s1 = d1
    c1 = tl.zeros([TW], tl.int32)
    a1 = tl.zeros([TW], ACC)
    a2 = a1
    a3 = a1
    a4 = a1
    a5 = a1
    end = tl.minimum(y0 + TH, H)
    for o in tl.range(0, end - y0 + 2, ROUND, num_stages=1):
        for i in tl.static_range(ROUND):
            y = y0 + (o + i - 1)
            d2 = d0
            s2 = s0
            c2 = c1
            if PLAN.codes:
                d2, s2, c2 = unpack_row(p_code + (x_c + 1), PLAN)
                d2, s2 = beyond(d2, s2, (y < 0) | (y >= H), PLAN)
                # A row outside the image is its edge row.
                p_code += ((y >= 0) & (y < H - 1)).to(tl.int64) * (W + 2)
            if o > 1:
                ok = y - 1 < rows
                g = tl.zeros([TW], ACC)
                total = g
                again = g
                c_pixel = g
                by_c = g
                w = ()
                if HAS.weight:
                    w = (weight_at(p_weight + x_o * weight[3], ok, ACC),)
                if PLAN.confident:
                    c_pixel = tl.load(p_confidence + x_o * confidence[3], mask=ok, other=0.0).to(ACC)
                if PLAN.reads_pred:
                    p = tl.load(p_pred + x_o * pred[3], mask=ok, other=0.0).to(ACC)
                if PLAN.reads_inputs:
                    g = tl.load(p_gt + x_o * gt[3], mask=ok, other=0.0).to(ACC)
                    v = valid(p_mask + x_o * mask[3], g, ok, HAS.mask, PLAN.positive_gt)
                    if HAS.weight:
                        v = v & (w[0] != 0)
                    m = v
                    if PLAN.all_pixels:
                        m = ok
                    v_abs = v
                    if HAS.abs_mask:
                        v_abs = valid(p_abs + x_o * abs_mask[3], g, ok, True, PLAN.positive_gt)
                        if HAS.weight:
                            v_abs = v_abs & (w[0] != 0)
                    for j in tl.static_range(len(PLAN.moments)):
                        slope_j, centre_j, shift_j = of_moments[j]
                        total += moments_gradient(p, g, m, slope_j, centre_j, shift_j, w, PLAN.moments[j])
                    for j in tl.static_range(len(PLAN.pixels)):
                        w_j, c_j = of_pixels[j]
                        m_j = v_abs if PLAN.pixels[j].absolute else m
                        if HAS.weight:
                            w_j = weighed(w_j + tl.zeros_like(g), m_j, w)
                        more, more_c = pixel_gradient(p, g, m_j, w_j, c_j, c_pixel, PLAN.pixels[j])
                        total += more
                        by_c += more_c
                if PLAN.codes:
                    if not PLAN.of_signs:
                        again, more_c = _again(c1, p, g, unpack_valid(c1), w, c_pixel, fitted, of_image, PLAN)
                        by_c += more_c
                    u = adjoint(d0, d1, d2, s0, s1, s2, PLAN).to(ACC) * kappa
                    first = y - 1 == y0
                    if LEVELS > 1:
                        a1 = _cells_of_row(cells, a1, b, B, H, W, y - 1, first, x, 1, PLAN, DIVIDES)
                        u += a1
                    if LEVELS > 2:
                        a2 = _cells_of_row(cells, a2, b, B, H, W, y - 1, first, x, 2, PLAN, DIVIDES)
                        u += a2
                    if LEVELS > 3:
                        a3 = _cells_of_row(cells, a3, b, B, H, W, y - 1, first, x, 3, PLAN, DIVIDES)
                        u += a3
                    if LEVELS > 4:
                        a4 = _cells_of_row(cells, a4, b, B, H, W, y - 1, first, x, 4, PLAN, DIVIDES)
                        u += a4
                    if LEVELS > 5:
                        a5 = _cells_of_row(cells, a5, b, B, H, W, y - 1, first, x, 5, PLAN, DIVIDES)
                        u += a5
                    d = fold(c1, u, again, w, of_image, PLAN, ACC)
                    if STRUCTURE.converts:
                        d = through_structure(d, p, touched(c1), STRUCTURE)
                    total += d
                tl.store(p_out + x_o * out[3], (total * upstream).to(out[0].dtype.element_ty), mask=ok)
                if WANTS_CONFIDENCE:
                    p_c = p_out_confidence + x_o * out_confidence[3]
                    tl.store(p_c, (by_c * upstream).to(out_confidence[0].dtype.element_ty), mask=ok)
                p_out_confidence += out_confidence[2]
                p_weight += weight[2]
                p_confidence += confidence[2]
                p_out += out[2]
                p_pred += pred[2]
                p_gt += gt[2]
                p_mask += mask[2]
                p_abs += abs_mask[2]
            d0, s0, d1, s1, c1 = d1, s1, d2, s2, c2
