"""Phase 1b: the lower medians of the valid p and g of each image, exactly: one launch for each digit.

    key(x): a whole number in the order of x, -0 as +0;  its digits of 11 bits from the top, the last shorter
    digit i: of the pixels whose first i digits are the median's, count how many have each value of the next

Counts are integers, so that atomics on them are deterministic; there are 2048 per digit, image and map,
however many pixels. Each launch reads p, g, m (9 bytes/pixel in float32) and makes the values again with the
same code.
"""

import triton
import triton.language as tl

from .device import NUMBERS, SIZES_BUT_WIDTH, columns, corner, image_count, pixels, rows, to_domain, valid
from .moments import STATISTICS

DIGIT = tl.constexpr(11)
BINS = tl.constexpr(1 << 11)
STATE = tl.constexpr(2)  # numbers that a launch leaves per image and map: the digits so far, and the rank


def digits(bits: int) -> int:
    """Digits, and so launches, of a float of so many bits."""
    return -(-bits // DIGIT.value)


@triton.jit
def _key(x):
    """A whole number without sign in the order of x; -0 is +0."""
    x = tl.where(x == 0, 0.0, x).to(x.dtype)
    if x.dtype == tl.float64:
        i = x.to(tl.int64, bitcast=True)
        return tl.where(i < 0, ~i, i ^ (tl.full((), 1, tl.int64) << 63)).to(tl.uint64, bitcast=True)
    else:
        i = x.to(tl.int32, bitcast=True)
        return tl.where(i < 0, ~i, i ^ (tl.full((), 1, tl.int32) << 31)).to(tl.uint32, bitcast=True)


@triton.jit
def _from_key(k):
    """The number whose key is k."""
    if k.dtype == tl.uint64:
        i = k.to(tl.int64, bitcast=True)
        return tl.where(i < 0, i ^ (tl.full((), 1, tl.int64) << 63), ~i).to(tl.float64, bitcast=True)
    else:
        i = k.to(tl.int32, bitcast=True)
        return tl.where(i < 0, i ^ (tl.full((), 1, tl.int32) << 31), ~i).to(tl.float32, bitcast=True)


@triton.jit
def _width(digit, BITS: tl.constexpr):
    """Bits of this digit: those that are left, for the last."""
    return tl.minimum(BITS - digit * DIGIT, DIGIT)


@triton.jit
def _narrowed(counts, states, at, each, n, digit, ACC: tl.constexpr):
    """Of the median of map `at` of `each`: the first `digit` digits, its rank among the pixels with them,
    and how many these are, n at the beginning.
    """
    BITS: tl.constexpr = ACC.primitive_bitwidth
    KEY: tl.constexpr = tl.uint64 if BITS == 64 else tl.uint32
    known = states + ((digit - 1) * each + at) * STATE
    later = digit > 1
    prefix = tl.load(known, mask=later, other=0)
    rank = tl.where(later, tl.load(known + 1, mask=later, other=0), tl.maximum(n - 1, 0) // 2)
    bins = tl.arange(0, BINS)
    begun = digit > 0
    counted = tl.load(counts + ((digit - 1) * each + at) * BINS + bins, mask=begun & (bins >= 0), other=0)
    ends = tl.cumsum(counted, 0).to(tl.int64)
    before = ends <= rank
    found = tl.sum(before.to(tl.int32))
    below = tl.max(tl.where(before, ends, 0))
    equal = tl.sum(tl.where(bins == found, counted, 0)).to(tl.int64)
    prefix = tl.where(begun, (prefix << _width(digit - 1, BITS).to(tl.int64)) | found, 0)
    rank = tl.where(begun, rank - below, rank)
    return prefix.to(KEY), rank, tl.where(begun, equal, n)


@triton.jit
def median(counts, states, b, B, n, WHICH: tl.constexpr, DIGITS: tl.constexpr, ACC: tl.constexpr):
    """Lower median of image b of p (WHICH 0) or g (1), 0 for an empty image; how many pixels equal it."""
    at = 2 * b.to(tl.int64) + WHICH
    each = 2 * (tl.full((), 0, tl.int64) + B)
    key, _, ties = _narrowed(counts, states, at, each, n, tl.full((), DIGITS, tl.int32), ACC)
    return tl.where(n > 0, _from_key(key), 0.0).to(ACC), ties.to(ACC)


@triton.jit
def _count(counts, x, m, prefix, digit, ACC: tl.constexpr):
    """Count the next digit of those x at m whose digits so far are `prefix`."""
    BITS: tl.constexpr = ACC.primitive_bitwidth
    width = _width(digit, BITS)
    key = _key(x)
    so_far = key >> tl.maximum(BITS - (digit + 1) * DIGIT, 0).to(key.dtype)
    hit = m & ((so_far >> width.to(key.dtype)) == prefix)
    value = so_far.to(tl.int32) & ((tl.full((), 1, tl.int32) << width) - 1)
    tl.atomic_add(counts + value, 1, mask=hit, sem="relaxed")


@triton.jit(do_not_specialize=(*SIZES_BUT_WIDTH, "digit"), do_not_specialize_on_alignment=NUMBERS)
def select(
    pred,  # maps [B, H, W]
    gt,
    mask,
    moments,  # [.., R]
    counts,  # int32 [digits, B, 2, BINS], 0 before the first launch
    states,  # int64 [digits, B, 2, STATE]
    B,
    H,
    W,
    tiles_x,
    tiles,
    NP,
    R,
    digit,
    PLAN: tl.constexpr,
    HAS_MASK: tl.constexpr,
    ACC: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    STEP: tl.constexpr,
    NPP: tl.constexpr,
):
    """Count one digit of the pixels that the digits before it have left."""
    i_p = tl.program_id(0)
    b = i_p // NP
    digit = tl.full((), 0, tl.int32) + digit
    n = image_count(moments, STATISTICS, b, NP, R, NPP, tl.int64)
    at = 2 * b.to(tl.int64)
    each = 2 * (tl.full((), 0, tl.int64) + B)
    prefix_p, rank_p, ties = _narrowed(counts, states, at, each, n, digit, ACC)
    prefix_g, rank_g, ties = _narrowed(counts, states, at + 1, each, n, digit, ACC)
    first = i_p == b * NP
    state = states + (digit * each + at) * STATE
    tl.store(state, prefix_p.to(tl.int64), mask=first)
    tl.store(state + 1, rank_p, mask=first)
    tl.store(state + 2, prefix_g.to(tl.int64), mask=first)
    tl.store(state + 3, rank_g, mask=first)
    counts += (digit * each + at) * BINS
    D: tl.constexpr = PLAN.structure
    for t in range(i_p - b * NP, tiles, NP):
        top, left = corner(t, tiles_x, TH, TW)
        x = columns(left, TW)
        for o in range(top, tl.minimum(top + TH, H), STEP):
            y = rows(o, STEP)
            ok = (y < H) & (x < W)
            p = tl.load(pixels(pred, b, y, x), mask=ok, other=0.0).to(ACC)
            g = tl.load(pixels(gt, b, y, x), mask=ok, other=0.0).to(ACC)
            m = ok
            if not PLAN.all_pixels:
                m = valid(pixels(mask, b, y, x), g, ok, HAS_MASK, PLAN.positive_gt)
            _count(counts, to_domain(p, m, D), m, prefix_p, digit, ACC)
            _count(counts + BINS, to_domain(g, m, D), m, prefix_g, digit, ACC)
