"""Device functions that several phases share: addressing, domains, masks, signs and merges.

A map is a tuple (pointer, batch stride, row stride, column stride) of [B, H, W], a mask one of the same
shape. Prefixes: i_ program index, o_ offsets, m_ mask.
"""

import triton
import triton.language as tl

# Arguments by whose value no kernel is compiled again: batches come in many sizes, and so do images, except
# where it takes the width's divisibility to load several pixels at once.
SIZES_BUT_WIDTH = ("B", "H", "tiles_x", "tiles", "NP", "R", "NQ", "NT")
SIZES = (*SIZES_BUT_WIDTH, "W")
# Pointers to a few numbers, which may be views: their alignment is of no use.
NUMBERS = ("found", "totals", "total_out", "terms", "coefficients", "grad_output", "out_log_vars")
FLOOR = tl.constexpr(1e-6)  # of an inverse depth, in 1/m


@triton.jit
def divide(x, y):
    """x / y rounded to nearest; Triton's own division of float32 is off by up to 2 units in the last place.

    For what all pixels share, whose error does not average out, and for ratios whose logarithms cancel. A
    pixel's conversion takes Triton's, off by 1 at most for reciprocals: rounding costs a fifth of a kernel.
    """
    if y.dtype == tl.float32:
        return tl.div_rn(x, y)
    else:
        return x / y


@triton.jit
def image(x, b):
    """Pointer to image `b`."""
    return x[0] + b.to(tl.int64) * x[1]


@triton.jit
def pixels(x, b, y, x_):
    """Pointers to [b, y, x]; `y`, `x_` int64 blocks that broadcast."""
    return image(x, b) + (y * x[2] + x_ * x[3])


@triton.jit
def corner(t, width_in_tiles, TH: tl.constexpr, TW: tl.constexpr):
    """First row and column of tile `t`."""
    ty = t // width_in_tiles
    return ty * TH, (t - ty * width_in_tiles) * TW


@triton.jit
def rows(first, N: tl.constexpr):
    """N rows, int64 [N, 1]."""
    # Of the interpreter's loops the variable is an int without methods: hence the zero.
    return tl.full((), 0, tl.int64) + first + tl.arange(0, N)[:, None]


@triton.jit
def columns(first, N: tl.constexpr):
    """N columns, int64 [1, N]."""
    return tl.full((), 0, tl.int64) + first + tl.arange(0, N)[None, :]


@triton.jit
def places(top, left, N: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr):
    """int64 rows [1, TH, 1] and columns [N, 1, TW] of N blocks beside each other."""
    x = tl.arange(0, N)[:, None, None] * TW + tl.arange(0, TW)[None, None, :]
    return rows(top, TH)[None, :, :], tl.full((), 0, tl.int64) + left + x


@triton.jit
def valid(p_mask, g, ok, HAS_MASK: tl.constexpr, POSITIVE: tl.constexpr):
    """The valid pixels among `ok`: mask non-zero, and g > 0 and finite if POSITIVE."""
    m = ok
    if HAS_MASK:
        m = m & (tl.load(p_mask, mask=ok, other=0) != 0)
    if POSITIVE:
        # Of g < inf beside g > 0 LLVM makes a test of the class of g, which takes seven instructions.
        LARGEST: tl.constexpr = 1.7976931348623157e308 if g.dtype == tl.float64 else 3.4028234663852886e38
        m = m & (g > 0) & (g <= LARGEST)
    return m


@triton.jit
def _depth(x, D: tl.constexpr):
    """x, or the depth of the inverse depth x, before its bounds; an Inf becomes NaN, so that it shows behind
    them.
    """
    x = tl.where(tl.abs(x) < float("inf"), x, float("nan"))
    if D.conversion == "identity":
        return x
    elif D.conversion == "shifted-inverse":
        return 1.0 / (x + FLOOR)
    else:
        return 1.0 / tl.where(x < FLOOR, FLOOR, x)


@triton.jit
def to_domain(x, m, D: tl.constexpr):
    """x in the domain D at the pixels m; a conversion or bound selects first, an invalid pixel becomes 0."""
    if D.conversion == "identity" and not D.clamps:
        return x
    else:
        d = _depth(tl.where(m, x, 1.0), D)
        if D.minimum is not None:
            d = tl.where(d < D.minimum, D.minimum, d)
        if D.maximum is not None:
            d = tl.where(d > D.maximum, D.maximum, d)
        return tl.where(m, d, 0.0)


@triton.jit
def slope(x, m, D: tl.constexpr):
    """Derivative of `to_domain`, 1 on the closed interval of the bounds; 0 outside m."""
    if D.conversion == "identity" and not D.clamps:
        return tl.where(m, 1.0, 0.0).to(x.dtype)
    else:
        x = tl.where(m, x, 1.0)
        d = _depth(x, D)
        inside = m
        if D.conversion == "inverse":
            inside = inside & (x >= FLOOR)
        if D.minimum is not None:
            inside = inside & (d >= D.minimum)
        if D.maximum is not None:
            inside = inside & (d <= D.maximum)
        if D.conversion == "identity":
            return tl.where(inside, 1.0, 0.0).to(x.dtype)
        else:
            return tl.where(inside, -d * d, 0.0)


@triton.jit
def sign(x, m):
    """Sign of x at the pixels m, int32; 0 elsewhere, and for NaN."""
    return ((x > 0) & m).to(tl.int32) - ((x < 0) & m).to(tl.int32)


@triton.jit
def share(part, n):
    """part / n, and 0 for n = 0 (then part is 0)."""
    return divide(part, tl.where(n > 0, n, 1.0))


@triton.jit
def spread_about(spread, n, shift):
    """Sum of squared differences from a mean moved by `shift`, not below 0 by rounding. NaN stays NaN."""
    moved = spread - n * shift * shift
    return tl.where(moved < 0, 0.0, moved)


@triton.jit
def start(zero):
    """Sums of a quantity, none taken in: a block each for the first value, and two for what `add` does."""
    return zero, zero, zero


@triton.jit
def add(sums, x, m, first, w):
    """Sums of the differences of x at m from the first value at the same place, and of their squares, weighed
    if w is (weights,).

    As that value is one of the N at its place, the squares are at most N times the spread, whatever it is:
    about one value for all places, if it is an outlier, they would have no such bound, and cancel.
    """
    shift, total, squares = sums
    shift = tl.where(first, x, shift)
    d = tl.where(m, x - shift, 0.0)
    if len(w) == 0:
        return shift, total + d, squares + d * d
    else:
        more = tl.where(m, d * w[0], 0.0)
        return shift, total + more, squares + more * d


@triton.jit
def mean_and_spread(sums, n_j, n):
    """Mean, and squared differences from it, of what all places have taken in: n_j values each, n in all.

    Chan's merge, of differences from a rough mean, as the places' means would lose theirs by rounding. What
    is added to it at last takes its rounding away: the mean of a constant is that constant.
    """
    shift, total, squares = sums
    moved = total * share(1.0, n_j)
    rough = share(tl.sum(n_j * (shift + moved)), n)
    d = tl.where(n_j > 0, (shift - rough) + moved, 0.0)
    more = share(tl.sum(n_j * d), n)
    d -= more
    return rough + more, tl.sum(spread_about(squares, n_j, moved) + n_j * d * d)


@triton.jit
def image_count(part, row, b, NP, R, NPP: tl.constexpr, ACC: tl.constexpr):
    """What the NP programs of image `b` counted in `row` of part [rows, R = B * NP], summed in integers."""
    o = tl.arange(0, NPP)
    return tl.sum(tl.load(part + row * R + b * NP + o, mask=o < NP, other=0.0).to(tl.int64)).to(ACC)


@triton.jit
def image_number(part, row, b, NP, R, NPP: tl.constexpr, HAS: tl.constexpr, ACC: tl.constexpr):
    """Of the pixels of image `b` in `row` how many they are, or the sum of their weights."""
    if HAS.weight:
        return image_total(part, row, b, NP, R, NPP)
    else:
        return image_count(part, row, b, NP, R, NPP, ACC)


@triton.jit
def at_least_one(n):
    """A number of pixels as a divisor, 1 for 0. A sum of weights may be any positive number."""
    return tl.where(n != 0, n, 1.0)


@triton.jit
def image_total(part, row, b, NP, R, NPP: tl.constexpr):
    """Sum over the NP programs of image `b`."""
    o = tl.arange(0, NPP)
    return tl.sum(tl.load(part + row * R + b * NP + o, mask=o < NP, other=0.0))


@triton.jit
def image_mean(part, row_n, row, n, b, NP, R, NPP: tl.constexpr):
    """Mean of image `b` from its programs' counts and means; equal means merge without rounding."""
    o = tl.arange(0, NPP)
    n_j = tl.load(part + row_n * R + b * NP + o, mask=o < NP, other=0.0)
    mean_j = tl.load(part + row * R + b * NP + o, mask=o < NP, other=0.0)
    mean = share(tl.sum(n_j * mean_j), n)
    return mean + share(tl.sum(tl.where(n_j > 0, n_j * (mean_j - mean), 0.0)), n)
