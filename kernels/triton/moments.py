"""Phase 1: what can be summed before the mean of an image is known.

    n = sum m, mean p, mean g; sum |p - g| over abs_mask; of each moments term mean and sum (e - mean)^2; of
    each pixel term sum phi(e), or the largest e where its penalty needs that first

Saves `part` [rows, B * programs]: the row numbers are below, and those of terms that there are not stay
unwritten. A program goes down its tile STEP rows at a time; every place of this block has its own sums, about
its own first value, which Chan's rule merges at the end. Reads p, g, m (9 bytes/pixel in float32).
"""

import triton
import triton.language as tl

from ..plan import MOST
from .device import (
    NUMBERS,
    SIZES_BUT_WIDTH,
    add,
    columns,
    corner,
    mean_and_spread,
    pixels,
    rows,
    start,
    to_domain,
)
from .histogram import count_digit
from .inputs import confidence_at, read, weighed
from .penalty import from_largest, penalty, sized
from .residual import residual, to_structure

COUNT = tl.constexpr(0)
ABS_COUNT = tl.constexpr(1)
# Of pixels with weights the sum of these, as ABS_COUNT; COUNT is that of the pixels.
STATISTICS = tl.constexpr(2)  # pixels of every term but the absolute ones: all of them, or the valid ones
ABSOLUTE = tl.constexpr(3)
MEAN_P = tl.constexpr(4)
MEAN_G = tl.constexpr(5)
RESIDUAL = tl.constexpr(6)  # sum (p - g): makes a valid NaN show where there is no mean
MEAN = tl.constexpr(7)  # [MOST] moments, as the next
SPREAD = tl.constexpr(7 + MOST)
PIXEL = tl.constexpr(7 + 2 * MOST)  # [MOST] pixel terms, as the next two
PIXEL_COUNT = tl.constexpr(7 + 3 * MOST)  # pixels that count once more
LARGEST = tl.constexpr(7 + 4 * MOST)
PLAIN = tl.constexpr(7 + 5 * MOST)  # of pixel terms with a confidence: without it
CONFIDENCE = tl.constexpr(7 + 6 * MOST)
ROWS = 8 + 6 * MOST


@triton.jit
def largest(x):
    """Maximum of the block x; NaN if it holds one."""
    return tl.where(tl.sum((x != x).to(tl.int32)) > 0, float("nan"), tl.max(x))


@triton.jit
def _larger(old, new):
    """The larger of two; NaN if one is."""
    return tl.where((new > old) | (new != new), new, old)


@triton.jit
def _moments_sums(sums, p, g, m, first, w, D: tl.constexpr):
    """`sums` with the residuals of a moments term at m."""
    return add(sums, residual(to_domain(p, m, D), to_domain(g, m, D), m, D), m, first, w)


@triton.jit
def _pixel_sum(total, p, g, m, w, c, T: tl.constexpr):
    """`total` with the residuals of a pixel term at m: their penalties, or the largest of them; of a term
    with a confidence c the sums with it and without.
    """
    D: tl.constexpr = T.domain
    p_d = to_domain(p, m, D)
    g_d = to_domain(g, m, D)
    r = tl.where(m, residual(p_d, g_d, m, D), 0.0)
    if T.largest:
        return _larger(total, sized(r, m, T))
    else:
        phi, _, _ = penalty(r, p_d, g_d, m, 0.0, T)
        if T.confidence is None:
            return total + weighed(phi, m, w)
        else:
            both, plain = total
            c = confidence_at(c, m)
            return both + weighed(c * phi - T.confidence * tl.log(c), m, w), plain + weighed(phi, m, w)


@triton.jit(do_not_specialize=SIZES_BUT_WIDTH, do_not_specialize_on_alignment=NUMBERS)
def moments(
    inputs,
    part,  # [ROWS, R]
    counts,  # int [digits, 2 B, BINS], of medians only
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
):
    """Leave what a program's pixels sum to, in `part` at its own column."""
    M: tl.constexpr = len(PLAN.moments)
    P: tl.constexpr = len(PLAN.pixels)
    i_p = tl.program_id(0)
    b = i_p // NP
    # What the places of the block have taken in; statistics, valid, and valid for the absolute term.
    n = tl.zeros([STEP, TW], tl.int32)
    n_valid = n
    n_abs = n
    confident = tl.zeros([STEP, TW], ACC)
    n_w = confident
    n_w_abs = confident
    zero = tl.zeros([STEP, TW], ACC)
    absolute = zero
    difference = zero
    sums_p = start(zero)
    sums_g = start(zero)
    sums = ()
    for _ in tl.static_range(M):
        sums = sums + (start(zero),)
    totals = ()
    for i in tl.static_range(P):
        if PLAN.pixels[i].largest:
            totals = totals + (zero + float("-inf"),)
        elif PLAN.pixels[i].confidence is not None:
            totals = totals + ((zero, zero),)
        else:
            totals = totals + (zero,)
    for t in range(i_p - b * NP, tiles, NP):
        top, left = corner(t, tiles_x, TH, TW)
        x = columns(left, TW)
        for o in range(top, tl.minimum(top + TH, H), STEP):
            y = rows(o, STEP)
            ok = (y < H) & (x < W)
            p, g, m, v, v_abs, w = read(inputs, b, y, x, ok, PLAN, HAS, ACC)
            c = g
            if PLAN.confident:
                c = tl.load(pixels(inputs.confidence, b, y, x), mask=ok, other=0.0).to(ACC)
                confident += tl.where(v, c, 0.0)
            if PLAN.all_pixels:
                n_valid += v.to(tl.int32)
            if HAS.abs_mask:
                n_abs += v_abs.to(tl.int32)
            if HAS.weight:
                n_w += tl.where(m, w[0], 0.0)
                n_w_abs += tl.where(v_abs, w[0], 0.0)
            first = m & (n == 0)
            n += m.to(tl.int32)
            if PLAN.codes:
                p_d, g_d = to_structure(p, g, m | v_abs, PLAN)
                if PLAN.absolute is not None:
                    absolute += weighed(tl.where(v_abs, tl.abs(p_d - g_d), 0.0), v_abs, w)
                if PLAN.centred:
                    sums_p = add(sums_p, p_d, m, first, w)
                    sums_g = add(sums_g, g_d, m, first, w)
                else:
                    difference += tl.where(m, p_d - g_d, 0.0)
                if PLAN.by_median:
                    count_digit(counts, p_d, m, 0, 0, 2 * b, ACC)
                    count_digit(counts, g_d, m, 0, 0, 2 * b + 1, ACC)
            new_sums = ()
            for i in tl.static_range(M):
                new_sums = new_sums + (_moments_sums(sums[i], p, g, m, first, w, PLAN.moments[i].domain),)
            sums = new_sums
            new_totals = ()
            for i in tl.static_range(P):
                if PLAN.pixels[i].absolute:
                    new_totals = new_totals + (_pixel_sum(totals[i], p, g, v_abs, w, c, PLAN.pixels[i]),)
                else:
                    new_totals = new_totals + (_pixel_sum(totals[i], p, g, m, w, c, PLAN.pixels[i]),)
            totals = new_totals
    row = part + i_p
    n_j = n.to(ACC)
    count = tl.sum(n).to(ACC)
    valid_count = count
    if PLAN.all_pixels:
        valid_count = tl.sum(n_valid).to(ACC)
    abs_count = valid_count
    if HAS.abs_mask:
        abs_count = tl.sum(n_abs).to(ACC)
    tl.store(row + COUNT * R, valid_count)
    if HAS.weight:
        n_j = n_w
        count = tl.sum(n_w)
        abs_count = tl.sum(n_w_abs)
    if PLAN.confident:
        tl.store(row + CONFIDENCE * R, tl.sum(confident))
    tl.store(row + STATISTICS * R, count)
    tl.store(row + ABS_COUNT * R, abs_count)
    if PLAN.absolute is not None:
        tl.store(row + ABSOLUTE * R, tl.sum(absolute))
    if PLAN.centred:
        mean, _ = mean_and_spread(sums_p, n_j, count)
        tl.store(row + MEAN_P * R, mean)
        mean, _ = mean_and_spread(sums_g, n_j, count)
        tl.store(row + MEAN_G * R, mean)
    elif PLAN.codes:
        tl.store(row + RESIDUAL * R, tl.sum(difference))
    for i in tl.static_range(M):
        mean, spread = mean_and_spread(sums[i], n_j, count)
        tl.store(row + (MEAN + i) * R, mean)
        tl.store(row + (SPREAD + i) * R, spread)
    for i in tl.static_range(P):
        if PLAN.pixels[i].largest:
            tl.store(row + (LARGEST + i) * R, largest(totals[i]))
        elif PLAN.pixels[i].confidence is not None:
            tl.store(row + (PIXEL + i) * R, tl.sum(totals[i][0]))
            tl.store(row + (PLAIN + i) * R, tl.sum(totals[i][1]))
        else:
            tl.store(row + (PIXEL + i) * R, tl.sum(totals[i]))


@triton.jit
def _largest_of_rank(part, i, R, RP: tl.constexpr, ACC: tl.constexpr):
    """The largest residual of pixel term i, from the programs' largest."""
    x = tl.full((), float("-inf"), ACC)
    for o in range(0, R, RP):
        at = o + tl.arange(0, RP)
        x = _larger(x, largest(tl.load(part + (LARGEST + i) * R + at, mask=at < R, other=float("-inf"))))
    return x


@triton.jit(do_not_specialize=SIZES_BUT_WIDTH, do_not_specialize_on_alignment=NUMBERS)
def rank_largest(part, found, R, PLAN: tl.constexpr, RP: tl.constexpr, ACC: tl.constexpr):
    """The largest residuals [MOST] of this rank's batch, for the ranks to compare."""
    for i in tl.static_range(len(PLAN.pixels)):
        if PLAN.pixels[i].largest:
            tl.store(found + i, _largest_of_rank(part, i, R, RP, ACC))


@triton.jit
def _term_by_largest(inputs, part, found, H, W, tiles_x, tiles, NP, R, WHICH: tl.constexpr,
                     PLAN: tl.constexpr, HAS: tl.constexpr, GIVEN: tl.constexpr,
                     ACC: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, STEP: tl.constexpr,
                     RP: tl.constexpr):  # fmt: skip
    T: tl.constexpr = PLAN.pixels[WHICH]
    D: tl.constexpr = T.domain
    i_p = tl.program_id(0)
    b = i_p // NP
    if GIVEN:
        found_ = tl.load(found + WHICH)
    else:
        found_ = _largest_of_rank(part, WHICH, R, RP, ACC)
        tl.store(found + WHICH, found_, mask=i_p == 0)
    c = from_largest(found_, T)
    total = tl.zeros([STEP, TW], ACC)
    count = tl.zeros([STEP, TW], tl.int32)
    for t in range(i_p - b * NP, tiles, NP):
        top, left = corner(t, tiles_x, TH, TW)
        x = columns(left, TW)
        for o in range(top, tl.minimum(top + TH, H), STEP):
            y = rows(o, STEP)
            ok = (y < H) & (x < W)
            p, g, m, v, v_abs, w = read(inputs, b, y, x, ok, PLAN, HAS, ACC)
            if T.absolute:
                m = v_abs
            p_d = to_domain(p, m, D)
            g_d = to_domain(g, m, D)
            phi, _, again = penalty(tl.where(m, residual(p_d, g_d, m, D), 0.0), p_d, g_d, m, c, T)
            total += weighed(tl.where(m, phi, 0.0), m, w)
            count += again.to(tl.int32)
    tl.store(part + (PIXEL + WHICH) * R + i_p, tl.sum(total))
    if T.counts:
        tl.store(part + (PIXEL_COUNT + WHICH) * R + i_p, tl.sum(count).to(ACC))


@triton.jit(do_not_specialize=SIZES_BUT_WIDTH, do_not_specialize_on_alignment=NUMBERS)
def by_largest(
    inputs,
    part,
    found,  # [MOST]
    H,
    W,
    tiles_x,
    tiles,
    NP,
    R,
    PLAN: tl.constexpr,
    HAS: tl.constexpr,
    GIVEN: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    STEP: tl.constexpr,
    RP: tl.constexpr,
):
    """Sums of the penalties that need the largest residual; GIVEN: it is that of all ranks, in `found`."""
    for i in tl.static_range(len(PLAN.pixels)):
        if PLAN.pixels[i].largest:
            _term_by_largest(
                inputs, part, found, H, W, tiles_x, tiles, NP, R, i, PLAN, HAS, GIVEN, ACC, TH,
                TW, STEP, RP
            )  # fmt: skip
