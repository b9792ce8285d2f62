"""Phases 1b and 2b: medians of p and g of each image, or the threshold of a trim, one launch for each digit.

The first digit of medians is counted in phase 1, that of a trim beside medians in phase 2. The last launch of
medians leaves how far the pixels that differ in more than the last digit are from them: what is missing of
their mean deviations, the counts of that digit say. Each launch reads p, g, m (9 bytes/pixel in float32)
and makes the values again with the same code.
"""

import triton
import triton.language as tl

from .device import NUMBERS, SIZES_BUT_WIDTH, columns, corner, rows
from .histogram import BINS, count_digit, from_key, key_of, leave, narrowed, width_of
from .inputs import read
from .pyramid import BESIDE_G, BESIDE_P, centred
from .residual import to_structure
from .rows import counted, fit_of, residual_of


@triton.jit
def _beside(x, m, prefix, digit, ACC: tl.constexpr):
    """Distances of those x at m that have other digits than `prefix` from the least number with them."""
    width = width_of(digit, ACC.primitive_bitwidth).to(prefix.dtype)
    other = m & ((key_of(x) >> width) != prefix)
    return tl.where(other, tl.abs(x - from_key(prefix << width).to(ACC)), 0.0)


@triton.jit(do_not_specialize=(*SIZES_BUT_WIDTH, "digit"), do_not_specialize_on_alignment=NUMBERS)
def select(
    inputs,
    deviations,  # [.., R]
    counts,  # int [digits, 2 B, BINS], 0 before the first launch
    states,  # int64 [digits, 2 B, STATE]
    B,
    H,
    W,
    tiles_x,
    tiles,
    NP,
    R,
    digit,
    PLAN: tl.constexpr,
    HAS: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    STEP: tl.constexpr,
):
    """Medians: count one digit of the pixels that the digits before it have left."""
    i_p = tl.program_id(0)
    b = i_p // NP
    digit = tl.full((), 0, tl.int32) + digit
    at = 2 * b.to(tl.int64)
    each = 2 * (tl.full((), 0, tl.int64) + B)
    of_p = narrowed(counts, states, at, each, digit, 0.0, ACC)
    of_g = narrowed(counts, states, at + 1, each, digit, 0.0, ACC)
    leave(states, at, each, digit, of_p, i_p == b * NP)
    leave(states, at + 1, each, digit, of_g, i_p == b * NP)
    counts += digit * each * BINS
    beside_p = tl.zeros([STEP, TW], ACC)
    beside_g = beside_p
    for t in range(i_p - b * NP, tiles, NP):
        top, left = corner(t, tiles_x, TH, TW)
        x = columns(left, TW)
        for o in range(top, tl.minimum(top + TH, H), STEP):
            y = rows(o, STEP)
            ok = (y < H) & (x < W)
            p, g, m, v, v_abs, w = read(inputs, b, y, x, ok, PLAN, HAS, ACC)
            p, g = to_structure(p, g, m, PLAN)
            count_digit(counts, p, m, of_p.prefix, digit, at, ACC)
            count_digit(counts, g, m, of_g.prefix, digit, at + 1, ACC)
            beside_p += _beside(p, m, of_p.prefix, digit, ACC)
            beside_g += _beside(g, m, of_g.prefix, digit, ACC)
    # Those of the last digit are read.
    tl.store(deviations + BESIDE_P * R + i_p, tl.sum(beside_p))
    tl.store(deviations + BESIDE_G * R + i_p, tl.sum(beside_g))


@triton.jit(do_not_specialize=(*SIZES_BUT_WIDTH, "digit"), do_not_specialize_on_alignment=NUMBERS)
def select_kept(
    inputs,
    deviations,  # [.., R]
    images,  # [B, IMAGE]
    counts,  # int [digits, B or 1, BINS], 0 before the first launch
    states,  # int64 [digits, B or 1, STATE]
    B,
    H,
    W,
    tiles_x,
    tiles,
    NP,
    R,
    digit,
    PLAN: tl.constexpr,
    HAS: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    STEP: tl.constexpr,
    NPP: tl.constexpr,
):
    """A trim: count one digit of |r| of the pixels that the digits before it have left."""
    i_p = tl.program_id(0)
    b = i_p // NP
    digit = tl.full((), 0, tl.int32) + digit
    at = b.to(tl.int64)
    each = tl.full((), 0, tl.int64) + B
    first = i_p == b * NP
    if PLAN.trim_batch:
        at = at * 0
        each = at + 1
        first = i_p == 0
    found = narrowed(counts, states, at, each, digit, PLAN.trim, ACC)
    leave(states, at, each, digit, found, first)
    counts += digit * each * BINS
    fit = fit_of(deviations, images, b, False, NP, R, PLAN, NPP, ACC)
    for t in range(i_p - b * NP, tiles, NP):
        top, left = corner(t, tiles_x, TH, TW)
        x = columns(left, TW)
        for o in range(top, tl.minimum(top + TH, H), STEP):
            y = rows(o, STEP)
            ok = (y < H) & (x < W)
            p, g, m, v, v_abs, w = read(inputs, b, y, x, ok, PLAN, HAS, ACC)
            m = counted(m, fit, PLAN)
            dev_p, dev_g, keep = centred(p, g, m, ok, fit.mu_p, fit.mu_g, PLAN)
            z, r = residual_of(dev_p, dev_g, fit, PLAN)
            count_digit(counts, tl.abs(r), m, found.prefix, digit, at, ACC)
