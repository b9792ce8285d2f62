"""The residual of the terms that are not aligned, what the structure terms compare, and the way of a
derivative back to the prediction.

    e = p - g in the term's domain, or l = ln((p + offset)/(g + offset))
    pixel terms w phi'(e);   moments slope (e - mean) + shift;   of a logarithm / (p + offset)

Nothing is saved for them: the backward reads p, g and m again.
"""

import triton
import triton.language as tl

from .device import divide, slope, to_domain
from .inputs import FLOOR, confidence_at, weighed
from .penalty import penalty


@triton.jit
def _log_ratio(p, g, m, D: tl.constexpr):
    """ln((p + offset)/(g + offset)) at m; NaN where g + offset < 0."""
    p = tl.where(m, p, 1.0)
    g = tl.where(m, g, 1.0)
    if D.floor is not None:
        inf = float("inf")
        p = tl.where(tl.abs(p) < inf, tl.where(p < D.floor, D.floor, p), float("nan"))
        g = tl.where(tl.abs(g) < inf, tl.where(g < D.floor, D.floor, g), float("nan"))
    p = p + D.log
    g = g + D.log
    ratio = tl.log(divide(p, tl.where(g >= 0, g, float("nan"))))
    return tl.where((p == g) & (g > 0), 0.0, ratio)  # x / x need not be 1 on a GPU


@triton.jit
def residual(p, g, m, D: tl.constexpr):
    """Of p and g in the domain D before its logarithm, at m; elsewhere anything, 0 of a logarithm."""
    if D.log is None:
        return p - g
    else:
        return _log_ratio(p, g, m, D)


@triton.jit
def _log_of(x, m, D: tl.constexpr):
    """ln(x + offset) at m; 0 elsewhere."""
    x = tl.where(m, x, 1.0)
    if D.floor is not None:
        x = tl.where(tl.abs(x) < float("inf"), tl.where(x < D.floor, D.floor, x), float("nan"))
    return tl.where(m, tl.log(x + D.log), 0.0)


@triton.jit
def to_structure(p, g, m, PLAN: tl.constexpr):
    """p and g as the structure terms compare them, at m. Of a logarithm that is not aligned p is the residual
    and g is 0.
    """
    D: tl.constexpr = PLAN.structure
    p = to_domain(p, m, D)
    g = to_domain(g, m, D)
    if D.log is None:
        return p, g
    elif PLAN.aligned:
        return _log_of(p, m, D), _log_of(g, m, D)
    else:
        return tl.where(m, _log_ratio(p, g, m, D), 0.0), tl.zeros_like(g)


@triton.jit
def through_structure(d, p, m, D: tl.constexpr):
    """dL/dp from the derivative d by what the structure terms compare, at m."""
    if D.log is None:
        if D.conversion == "identity" and not D.clamps:
            return d
        else:
            return d * slope(p, m, D)
    else:
        return _through(d, p, to_domain(p, m, D), m, D)


@triton.jit
def _through(d, p, p_d, m, D: tl.constexpr):
    """dL/dp from d = dL/de at m."""
    if D.log is None:
        return tl.where(m, d, 0.0) * slope(p, m, D)
    else:
        inside = m
        if D.floor is not None:
            inside = m & (p_d >= D.floor)
            p_d = tl.where(p_d < D.floor, D.floor, p_d)
        by_p = divide(d, tl.where(inside, p_d, 1.0) + D.log)
        return tl.where(inside, by_p, 0.0) * slope(p, m, D)


@triton.jit
def moments_gradient(p, g, m, slope_, centre, shift, w, T: tl.constexpr):
    """Gradient of a moments term at m, weighted, and by the weights of the pixels in w."""
    zero = tl.zeros_like(p)  # makes blocks of scalars: the interpreter cannot broadcast a scalar's comparison
    on = m & (((slope_ + zero) != 0) | ((shift + zero) != 0))
    D: tl.constexpr = T.domain
    p_d = to_domain(p, on, D)
    e = residual(p_d, to_domain(g, on, D), on, D)
    return _through(weighed((e - centre) * slope_ + shift, on, w), p, p_d, on, D)


@triton.jit
def pixel_gradient(p, g, m, weight, c, confidence, T: tl.constexpr):
    """Gradient of a pixel term at m, weighted; and, of one with a confidence, that of the confidence."""
    zero = tl.zeros_like(p)
    weight = weight + zero
    on = m & (weight != 0)
    D: tl.constexpr = T.domain
    p_d = to_domain(p, on, D)
    g_d = to_domain(g, on, D)
    r = tl.where(on, residual(p_d, g_d, on, D), 0.0)
    phi, d, _ = penalty(r, p_d, g_d, on, c + zero, T)
    if T.confidence is None:
        return _through(d * weight, p, p_d, on, D), zero
    else:
        floored = confidence_at(confidence, on)
        by_c = of_confidence(phi, confidence, floored, on, weight, T)
        return _through(d * weight * floored, p, p_d, on, D), by_c


@triton.jit
def of_confidence(phi, given, floored, on, weight, T: tl.constexpr):
    """Gradient of the confidence of a term: weight (phi - alpha/c), 0 below the floor of c."""
    d = (phi - T.confidence / floored) * weight
    # A NaN is not below it.
    return tl.where(on & ~(given < FLOOR), d, 0.0)
