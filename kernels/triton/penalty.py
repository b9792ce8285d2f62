"""What a residual costs, and the slope of that: one function per kind of penalty, in one place.

A function takes r, p, g in the term's domain at the pixels m (r is 0 elsewhere), the penalty's numbers in T,
and c, made of the largest residual of the batch where the penalty needs it. It returns phi, d phi/dp (through
r and beside it), and the pixels that count once more.
"""

import triton
import triton.language as tl

from .device import divide, share


@triton.jit
def _sign(r):
    return tl.where(r > 0, 1.0, tl.where(r < 0, -1.0, 0.0)).to(r.dtype)


@triton.jit
def _l1(r, p, g, m, c, T: tl.constexpr):
    return tl.abs(r), _sign(r), r != r


@triton.jit
def _l2(r, p, g, m, c, T: tl.constexpr):
    return r * r, 2.0 * r, r != r


@triton.jit
def _half_l2(r, p, g, m, c, T: tl.constexpr):
    return 0.5 * r * r, r, r != r


@triton.jit
def _smooth_l1(r, p, g, m, c, T: tl.constexpr):
    d = tl.abs(r)
    phi = tl.where(d < T.a, r * r * (0.5 / T.a), d - 0.5 * T.a)
    return phi, tl.where(d < T.a, r * (1.0 / T.a), _sign(r)), r != r


@triton.jit
def _huber(r, p, g, m, c, T: tl.constexpr):
    d = tl.abs(r)
    phi = tl.where(d <= T.a, 0.5 * r * r, (d - 0.5 * T.a) * T.a)
    return phi, tl.where(d <= T.a, r, _sign(r) * T.a), r != r


@triton.jit
def _charbonnier(r, p, g, m, c, T: tl.constexpr):
    square = r * r
    root = tl.sqrt(square + T.a * T.a)
    return divide(square, root + T.a), divide(r, root), r != r


@triton.jit
def _expm1(x):
    """e^x - 1: by its series where e^x would cancel."""
    series = x * (
        1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720 + x * (1 / 5040))))))
    )
    if x.dtype == tl.float64:
        tail = 1 / 40320 + x * (1 / 362880 + x * (1 / 3628800 + x * (1 / 39916800 + x * (1 / 479001600))))
        square = x * x
        fourth = square * square
        series = series + fourth * fourth * tail
    return tl.where(tl.abs(x) < 0.25, series, tl.exp(x) - 1.0)


@triton.jit
def _log1p(x):
    """ln(1 + x) of x >= 0: the rounding of 1 + x is taken out again."""
    u = 1.0 + x
    added = u - 1.0
    plain = (added > 0) & (x < float("inf"))
    return tl.where(plain, tl.log(u) * divide(x, tl.where(plain, added, 1.0)), x)


@triton.jit
def _barron(r, p, g, m, c, T: tl.constexpr):
    scaled = divide(r, tl.zeros_like(r) + T.b)
    h = 0.5 * scaled * scaled
    slope = divide(scaled, tl.zeros_like(r) + T.b)
    if T.a == 2:
        return h, slope, r != r
    elif T.a == 0:
        return _log1p(h), divide(slope, 1.0 + h), r != r
    elif T.a == float("-inf"):
        return -_expm1(-h), slope * tl.exp(-h), r != r
    else:
        b: tl.constexpr = 2 - T.a if T.a < 2 else T.a - 2
        u = h * (2 / b)
        ln = _log1p(u)
        phi = _expm1(ln * (T.a / 2)) * (b / T.a)
        # The power alpha/2 - 1 of 1 + u. An exponent multiplies the rounding of ln: take the smaller one.
        if T.a < 1:
            power = divide(tl.exp(ln * (T.a / 2)), 1.0 + u)
        else:
            power = tl.exp(ln * (T.a / 2 - 1))
        return phi, slope * power, r != r


@triton.jit
def _abs_rel(r, p, g, m, c, T: tl.constexpr):
    g = tl.where(m, g, 1.0)
    return divide(tl.abs(r), g), divide(_sign(r), g), r != r


@triton.jit
def _abs_rel_packnet(r, p, g, m, c, T: tl.constexpr):
    p = tl.where(m, p, 1.0)
    q = divide(1.0, p)
    return divide(tl.abs(r), p), _sign(r) * q - tl.abs(r) * q * q, r != r


@triton.jit
def _berhu(r, p, g, m, c, T: tl.constexpr):
    d = tl.abs(r)
    phi = tl.where(d <= c, d, share(d * d + c * c, 2.0 * c))
    return phi, tl.where(d <= c, _sign(r), divide(r, tl.where(c > 0, c, 1.0))), r != r


@triton.jit
def _berhu_packnet(r, p, g, m, c, T: tl.constexpr):
    d = tl.abs(r)
    large = m & (d > c)
    return d + tl.where(large, d * d, 0.0), tl.where(large, _sign(r) + 2.0 * r, _sign(r)), large


@triton.jit
def penalty(r, p, g, m, c, T: tl.constexpr):
    """phi(r), d phi/dp, and the pixels that count once more."""
    if T.kind == "l1":
        return _l1(r, p, g, m, c, T)
    elif T.kind == "l2":
        return _l2(r, p, g, m, c, T)
    elif T.kind == "half-l2":
        return _half_l2(r, p, g, m, c, T)
    elif T.kind == "smooth-l1":
        return _smooth_l1(r, p, g, m, c, T)
    elif T.kind == "huber":
        return _huber(r, p, g, m, c, T)
    elif T.kind == "charbonnier":
        return _charbonnier(r, p, g, m, c, T)
    elif T.kind == "barron":
        return _barron(r, p, g, m, c, T)
    elif T.kind == "abs-rel":
        return _abs_rel(r, p, g, m, c, T)
    elif T.kind == "abs-rel-packnet":
        return _abs_rel_packnet(r, p, g, m, c, T)
    elif T.kind == "berhu":
        return _berhu(r, p, g, m, c, T)
    elif T.kind == "berhu-packnet":
        return _berhu_packnet(r, p, g, m, c, T)
    else:
        tl.static_assert(False, "no such penalty")


@triton.jit
def sized(r, m, T: tl.constexpr):
    """What the largest residual is sought of: |r|, or r itself; -inf outside m."""
    if T.kind == "berhu-packnet":
        return tl.where(m, r, float("-inf"))
    else:
        return tl.where(m, tl.abs(r), float("-inf"))


@triton.jit
def from_largest(x, T: tl.constexpr):
    """c, from the largest residual of the batch; -inf if it has no valid pixel."""
    if T.kind == "berhu":
        x = tl.where(x < 0, 0.0, x)
    return T.a * x
