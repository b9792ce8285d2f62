"""The terms that are functions of one pixel, and their derivatives with respect to the prediction.

    e = p - g: |e|, e^2, |e|/g, |e|/p, berHu(|e|);   l = ln((p + offset)/(g + offset))
    of SSI 2/N ((e - mean) + alpha mean); of SILog scale/(root N) ((l - mean) + (1 - lam) mean)/(p + offset)

Nothing is saved for them: the backward reads p, g and m again.
"""

import triton
import triton.language as tl

from .device import divide, slope, to_domain


@triton.jit
def log_ratio(p, g, m, T: tl.constexpr):
    """ln((p + offset)/(g + offset)) at m; NaN where g + offset < 0."""
    p = tl.where(m, p, 1.0)
    g = tl.where(m, g, 1.0)
    if T.domain.floor is not None:
        inf = float("inf")
        p = tl.where(tl.abs(p) < inf, tl.where(p < T.domain.floor, T.domain.floor, p), float("nan"))
        g = tl.where(tl.abs(g) < inf, tl.where(g < T.domain.floor, T.domain.floor, g), float("nan"))
    p = p + T.domain.log
    g = g + T.domain.log
    ratio = tl.log(divide(p, tl.where(g >= 0, g, float("nan"))))
    return tl.where((p == g) & (g > 0), 0.0, ratio)  # x / x need not be 1 on a GPU


@triton.jit
def point(p, g, m, T: tl.constexpr):
    """f(p, g) of a pointwise term at m, 0 elsewhere; of berHu what its threshold is the maximum of."""
    e = tl.where(m, p - g, 0.0)
    if T.penalty.kind == "l2":
        return e * e
    elif T.penalty.kind == "abs-rel":
        return divide(tl.abs(e), tl.where(m, g, 1.0))
    elif T.penalty.kind == "abs-rel-packnet":
        return divide(tl.abs(e), tl.where(m, p, 1.0))
    elif T.penalty.kind == "berhu-packnet":
        return tl.where(m, e, float("-inf"))
    else:
        return tl.abs(e)


@triton.jit
def pointwise_gradient(p, g, m, diff_slope, diff_centre, diff_shift, log_slope, log_centre, log_shift,
                       point_weight, threshold, PLAN: tl.constexpr):  # fmt: skip
    """Gradient of the terms that re-read p, g and m: moments and pointwise terms, all weighted."""
    zero = tl.zeros_like(p)  # makes blocks of scalars: the interpreter cannot broadcast a scalar's comparison
    total = zero
    if PLAN.has_difference:
        D: tl.constexpr = PLAN.difference_domain
        on = m & ((diff_slope + zero) != 0)
        e = to_domain(p, on, D) - to_domain(g, on, D)
        d = (e - diff_centre) * diff_slope + diff_shift
        total += tl.where(on, d, 0.0) * slope(p, on, D)
    if PLAN.has_log:
        T: tl.constexpr = PLAN.log
        D_LOG: tl.constexpr = PLAN.log_domain
        on = m & (((log_slope + zero) != 0) | ((log_shift + zero) != 0))
        p_d = to_domain(p, on, D_LOG)
        ratio = log_ratio(p_d, to_domain(g, on, D_LOG), on, T)
        d = (ratio - log_centre) * log_slope + log_shift
        inside = on
        if T.domain.floor is not None:
            inside = on & (p_d >= T.domain.floor)
            p_d = tl.where(p_d < T.domain.floor, T.domain.floor, p_d)
        by_p = divide(d, tl.where(inside, p_d, 1.0) + T.domain.log)
        total += tl.where(inside, by_p, 0.0) * slope(p, on, D_LOG)
    if PLAN.has_pointwise:
        POINT: tl.constexpr = PLAN.pointwise
        D_POINT: tl.constexpr = PLAN.pointwise_domain
        on = m & ((point_weight + zero) != 0)
        p_d = to_domain(p, on, D_POINT)
        g_d = to_domain(g, on, D_POINT)
        e = tl.where(on, p_d - g_d, 0.0)
        d = tl.where(e > 0, 1.0, tl.where(e < 0, -1.0, 0.0)).to(p.dtype)
        if POINT.penalty.kind == "l2":
            d = 2.0 * e
        elif POINT.penalty.kind == "abs-rel":
            d = divide(d, tl.where(on, g_d, 1.0))
        elif POINT.penalty.kind == "abs-rel-packnet":
            q = divide(1.0, tl.where(on, p_d, 1.0))
            d = d * q - tl.abs(e) * q * q
        elif POINT.penalty.kind == "berhu":
            c = threshold + zero
            d = tl.where(tl.abs(e) <= c, d, divide(e, tl.where(c > 0, c, 1.0)))
        elif POINT.penalty.kind == "berhu-packnet":
            d = tl.where(tl.abs(e) > threshold, d + 2.0 * e, d)
        total += d * point_weight * slope(p, on, D_POINT)
    return total
