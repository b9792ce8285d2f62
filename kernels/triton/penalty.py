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
