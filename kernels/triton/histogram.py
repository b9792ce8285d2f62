"""The k-th smallest of a quantity of each pixel, exactly: radix selection, one histogram for each digit.

    key(x): a whole number in the order of x, -0 as +0;  its digits of 11 bits from the top, the last shorter
    digit i: of the pixels whose first i digits are those sought, count how many have each value of the next

Counts are integers, so that atomics on them are deterministic; a selection has 2048 per digit, however many
pixels. `counts` is [digits, selections, BINS], `states` int64 [digits, selections, STATE].
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from .device import divide

DIGIT = tl.constexpr(11)
BINS = tl.constexpr(1 << 11)
CHUNK = tl.constexpr(256)  # bins that are read at a time
# What a launch leaves of each selection: the digits so far, the rank among the pixels with them, all pixels.
STATE = tl.constexpr(3)


def digits(bits: int) -> int:
    """Digits of a float of so many bits."""
    return -(-bits // DIGIT.value)


class Found(NamedTuple):
    """A selection so far: the digits known, the rank sought among the pixels that have them, how many these
    are, and how many pixels there are.
    """

    prefix: Any
    rank: Any
    ties: Any
    n: Any


@triton.jit
def key_of(x):
    """A whole number without sign in the order of x; -0 is +0."""
    x = tl.where(x == 0, 0.0, x).to(x.dtype)
    if x.dtype == tl.float64:
        i = x.to(tl.int64, bitcast=True)
        return tl.where(i < 0, ~i, i ^ (tl.full((), 1, tl.int64) << 63)).to(tl.uint64, bitcast=True)
    else:
        i = x.to(tl.int32, bitcast=True)
        return tl.where(i < 0, ~i, i ^ (tl.full((), 1, tl.int32) << 31)).to(tl.uint32, bitcast=True)


@triton.jit
def from_key(k):
    """The number whose key is k."""
    if k.dtype == tl.uint64:
        i = k.to(tl.int64, bitcast=True)
        return tl.where(i < 0, i ^ (tl.full((), 1, tl.int64) << 63), ~i).to(tl.float64, bitcast=True)
    else:
        i = k.to(tl.int32, bitcast=True)
        return tl.where(i < 0, i ^ (tl.full((), 1, tl.int32) << 31), ~i).to(tl.float32, bitcast=True)


@triton.jit
def width_of(digit, BITS: tl.constexpr):
    """Bits of this digit: those that are left, for the last."""
    return tl.minimum(BITS - digit * DIGIT, DIGIT)


@triton.jit
def count_digit(counts, x, m, prefix, digit, at, ACC: tl.constexpr):
    """Count the next digit of those x at m whose digits so far are `prefix`, in the histogram `at`."""
    BITS: tl.constexpr = ACC.primitive_bitwidth
    zero = tl.full((), 0, tl.int32)
    width = width_of(zero + digit, BITS)
    key = key_of(x)
    so_far = key >> tl.maximum(BITS - (zero + digit + 1) * DIGIT, 0).to(key.dtype)
    hit = m & ((so_far >> width.to(key.dtype)) == prefix)
    value = so_far.to(tl.int32) & ((tl.full((), 1, tl.int32) << width) - 1)
    bins = counts + (tl.full((), 0, tl.int64) + at) * BINS
    tl.atomic_add(bins + value, 1, mask=hit, sem="relaxed")


@triton.jit
def rank_sought(n, TRIM: tl.constexpr):
    """Place among n sorted pixels, from 0: that of the lower median, or of the last that a trim keeps."""
    if TRIM == 0:
        return tl.maximum(n - 1, 0) // 2
    else:
        return kept_of(n, TRIM) - 1


@triton.jit
def kept_of(n, TRIM: tl.constexpr):
    """floor((1 - trim) n) in double precision, as Python's int((1 - trim) * n)."""
    KEPT: tl.constexpr = 1.0 - TRIM
    return (n.to(tl.float64) * tl.full((), KEPT, tl.float64)).to(tl.int64)


@triton.jit
def _total(counted):
    """Sum of all counts of a histogram."""
    n = tl.full((), 0, tl.int64)
    for o in range(0, BINS, CHUNK):
        n += tl.sum(tl.load(counted + o + tl.arange(0, CHUNK)).to(tl.int64))
    return n


@triton.jit
def narrowed(counts, states, at, each, digit, TRIM: tl.constexpr, ACC: tl.constexpr):
    """Selection `at` of `each`, from the counts of the digit before `digit`; before the first one nothing."""
    BITS: tl.constexpr = ACC.primitive_bitwidth
    KEY: tl.constexpr = tl.uint64 if BITS == 64 else tl.uint32
    zero = tl.full((), 0, tl.int64)
    before = tl.where(digit > 0, digit - 1, 0) * each + at
    counted = counts + before * BINS
    prefix, rank, n, below = zero, zero, zero, zero
    found = tl.full((), 0, tl.int32)
    if digit > 0:
        if digit > 1:
            known = states + before * STATE
            prefix = tl.load(known)
            rank = tl.load(known + 1)
            n = tl.load(known + 2)
        else:
            n = _total(counted)
            rank = rank_sought(n, TRIM)
        ends = zero
        for o in range(0, BINS, CHUNK):
            here = tl.load(counted + o + tl.arange(0, CHUNK)).to(tl.int64)
            to = ends + tl.cumsum(here, 0)
            passed = to <= rank
            found += tl.sum(passed.to(tl.int32))
            below = tl.maximum(below, tl.max(tl.where(passed, to, 0)))
            ends += tl.sum(here)
        found = tl.minimum(found, BINS - 1)
        prefix = (prefix << width_of(digit - 1, BITS).to(tl.int64)) | found
    ties = tl.load(counted + found).to(tl.int64)
    return Found(prefix.to(KEY), rank - below, ties, n)


@triton.jit
def leave(states, at, each, digit, found, here):
    """Store what is known before `digit` is counted, for the launches that follow."""
    state = states + (digit * each + at) * STATE
    tl.store(state, found.prefix.to(tl.int64), mask=here)
    tl.store(state + 1, found.rank, mask=here)
    tl.store(state + 2, found.n, mask=here)


@triton.jit
def median(counts, states, at, each, DIGITS: tl.constexpr, ACC: tl.constexpr):
    """Lower median `at` of `each`, 0 of no pixels; how many pixels equal it; sums of x - median and of its
    sign over the pixels that share all digits but the last, the pixels below and above these, and the
    median less the least number with these digits.
    """
    BITS: tl.constexpr = ACC.primitive_bitwidth
    KEY: tl.constexpr = tl.uint64 if BITS == 64 else tl.uint32
    found = narrowed(counts, states, at, each, tl.full((), DIGITS, tl.int32), 0.0, ACC)
    some = found.n > 0
    t = tl.where(some, from_key(found.prefix), 0.0).to(ACC)
    last = (DIGITS - 1) * each + at
    first = tl.load(states + last * STATE) << width_of(tl.full((), DIGITS - 1, tl.int32), BITS).to(tl.int64)
    near = t * 0.0
    signs = tl.full((), 0, tl.int64)
    same = signs
    for o in range(0, BINS, CHUNK):
        bins = o + tl.arange(0, CHUNK)
        counted = tl.load(counts + last * BINS + bins).to(tl.int64)
        d = tl.where(counted > 0, from_key((first + bins).to(KEY)).to(ACC) - t, 0.0)
        near += tl.sum(counted.to(ACC) * tl.abs(d))
        signs += tl.sum(tl.where(d > 0, counted, 0)) - tl.sum(tl.where(d < 0, counted, 0))
        same += tl.sum(counted)
    below = rank_sought(found.n, 0.0) - tl.load(states + last * STATE + 1)
    above = found.n - below - same
    off = tl.where(some, t - from_key(first.to(KEY)).to(ACC), 0.0)
    return t, found.ties.to(ACC), near, signs, below, above, off


@triton.jit
def threshold(counts, states, at, each, TRIM: tl.constexpr, DIGITS: tl.constexpr, ACC: tl.constexpr):
    """Of a trim: the largest value kept, -1 if none; how much a pixel with it counts; the pixels kept."""
    found = narrowed(counts, states, at, each, tl.full((), DIGITS, tl.int32), TRIM, ACC)
    kept = kept_of(found.n, TRIM)
    some = kept > 0
    tau = tl.where(some, from_key(found.prefix), -1.0).to(ACC)
    share = tl.where(some, divide((found.rank + 1).to(ACC), tl.maximum(found.ties, 1).to(ACC)), 0.0)
    return tau, share.to(ACC), kept
