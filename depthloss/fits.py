"""Fits of scale and shift over the valid pixels of maps that lie one after the other, float64.

`depthloss.align` documents them and is what to call; here is the arithmetic alone. Each takes the prediction
and the target [N], the weight [N] (None = 1) and `Segments`, and returns scale and shift [maps].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .arrays import Segments

Fit = Callable[[Tensor, Tensor, "Tensor | None", Segments], tuple[Tensor, Tensor]]
# Of one map: from its prediction, target and weight to scale and shift, 0-dim.
Single = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, "Tensor | float"]]


def fitted(fit: Fit, p: Tensor, t: Tensor, w: Tensor | None, parts: Segments) -> tuple[Tensor, Tensor]:
    """Fit each map; scale 1 and shift 0 of one without a pixel."""
    empty = torch.tensor([not n for n in parts.lengths], device=p.device)
    if empty.all():
        return torch.ones_like(empty, dtype=p.dtype), torch.zeros_like(empty, dtype=p.dtype)
    scale, shift = fit(p, t, w, parts)
    return torch.where(empty, 1.0, scale), torch.where(empty, 0.0, shift)


def _one_by_one(single: Single) -> Fit:
    @functools.wraps(single)
    def fit(p: Tensor, t: Tensor, w: Tensor | None, parts: Segments) -> tuple[Tensor, Tensor]:
        maps = zip(*(parts.split(x) for x in (p, t, torch.ones_like(p) if w is None else w)), strict=True)
        found = [single(*one) if len(one[0]) else (1.0, 0.0) for one in maps]
        scale, shift = (
            torch.stack([torch.as_tensor(x, dtype=p.dtype, device=p.device) for x in of])
            for of in zip(*found, strict=True)
        )
        return scale, shift

    return fit


def _times(w: Tensor | None, x: Tensor) -> Tensor:
    return x if w is None else w * x


def least_squares_scale(p: Tensor, t: Tensor, w: Tensor | None, parts: Segments) -> tuple[Tensor, Tensor]:
    """The minimum of Σ w (scale · p − t)²; scale 0 of a prediction that is 0."""
    weighted = _times(w, p)
    square, product = parts.sum(weighted * p), parts.sum(weighted * t)
    return torch.where(square > 0, product / square, 0.0), torch.zeros_like(square)


def least_squares(p: Tensor, t: Tensor, w: Tensor | None, parts: Segments) -> tuple[Tensor, Tensor]:
    """The minimum of Σ w (scale · p + shift − t)²; scale 0 of a constant prediction."""
    total = parts.sum(torch.ones_like(p) if w is None else w)
    of_p, of_t = (parts.sum(_times(w, x)) / total for x in (p, t))
    deviation = p - parts.spread(of_p)
    weighted = _times(w, deviation)
    variance = parts.sum(weighted * deviation)
    # What is left of a constant prediction after its mean is rounding.
    varies = variance > total * (16 * torch.finfo(p.dtype).eps * parts.max(p.abs())) ** 2
    scale = torch.where(varies, parts.sum(weighted * (t - parts.spread(of_t))) / variance, 0.0)
    return scale, of_t - scale * of_p


@_one_by_one
def median(p: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, float]:
    """The median of the target over that of the prediction."""
    return _median(t) / _median(p), 0.0


@_one_by_one
def median_ratio(p: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, float]:
    """The median of target / prediction."""
    return _median(t / p), 0.0


def l1_scale(truncation: float | None = None) -> Fit:
    """The exact minimum of Σ min(truncation, w |scale · p − t|)."""
    return _one_by_one(lambda p, t, w: (_l1_slope(p, t, w, truncation)[0], 0.0))


def l1(truncation: float | None = None) -> Fit:
    """The exact minimum of Σ min(truncation, w |scale · p + shift − t|)."""

    def single(p: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        anchors = torch.arange(len(p), device=p.device) if truncation else _convex_anchors(p, t, w)
        return _best_line(p, t, w, anchors, truncation)

    return _one_by_one(single)


def _best_line(
    p: Tensor, t: Tensor, w: Tensor, anchors: Tensor, truncation: float | None
) -> tuple[Tensor, Tensor]:
    """The best of the lines through one of the pixels `anchors` and another pixel."""
    found = []
    for part in anchors.split(max(1, 2**19 // len(p))):
        x, y = p - p[part, None], t - t[part, None]
        scale, loss = _l1_slope(x, y, w.expand_as(x), truncation)
        best = loss.argmin()
        found.append(torch.stack([loss[best], scale[best], t[part[best]] - scale[best] * p[part[best]]]))
    _, scale, shift = found[int(torch.stack(found)[:, 0].argmin())]
    return scale, shift


class _Look(NamedTuple):
    """At a scale: the pixel of the weighted median, the minimum over the shift, its slope a little above.

    The slope is −Σ w sign(r) p, with the signs balanced by that of the median.
    """

    scale: float
    pixel: int
    slope: float
    value: float


def _halved(low: _Look, high: _Look, middle: _Look) -> tuple[_Look, _Look]:
    return (middle, high) if middle.slope < 0 else (low, middle)


def _closer(look: Callable[[float], _Look], low: _Look, high: _Look) -> tuple[_Look, _Look]:
    """Two scales with the minimum between them, as a rule a few floating-point numbers apart.

    Where the tangents of both ends meet, and where a slope between theirs is 0, are tried in turn: the first
    finds the kink of two neighbouring pieces at once, the second is fast while there are many between.
    """
    found = low.scale
    for turn in range(60):
        if not low.slope < 0 < high.slope:
            return low, high
        if turn % 2:
            drop = high.value - low.value - low.slope * (high.scale - low.scale)
            found = high.scale - drop / (high.slope - low.slope)
        else:
            found = low.scale - low.slope * (high.scale - low.scale) / (high.slope - low.slope)
        if not low.scale < found < high.scale:
            break
        new = look(found)
        tangent = max(end.value + end.slope * (found - end.scale) for end in (low, high))
        low, high = _halved(low, high, new)
        if new.value <= tangent * (1 + 1e-14):
            break
    step = 2 * math.ulp(max(-low.scale, high.scale))
    while step < high.scale - low.scale:
        for scale in (found - step, found + step):
            if low.scale < scale < high.scale:
                low, high = _halved(low, high, look(scale))
        step *= 16
    return low, high


def _convex_anchors(p: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """Two pixels, through one of which goes the line of least weighted L1.

    Over the scale, the minimum over the shift is convex and piecewise linear; a piece ends where the line
    through the weighted median of the residuals meets another pixel. So the pixels that are the medians on
    both sides of the minimum are on the best line.
    """
    # Equal residuals stay in the order that they have at a scale a little larger: `look` is its derivative.
    order = p.argsort(descending=True)
    p, t, w = p[order], t[order], w[order]

    def look(scale: float) -> _Look:
        rank = (t - scale * p).argsort(stable=True)
        weight, source = w[rank], p[rank]
        total = weight.cumsum(0)
        place = int(torch.searchsorted(total, total[-1:] / 2).clamp(max=len(p) - 1))
        turned = weight * (source - source[place])
        residual = t[rank] - scale * source
        value = (weight * (residual - residual[place]).abs()).sum()
        return _Look(
            scale, int(rank[place]), float(turned[:place].sum() - turned[place:].sum()), float(value)
        )

    width = float(p.max() - p.min())
    high = look(float(t.max() - t.min()) / width + 1.0 if width else 1.0)
    low = look(-high.scale)
    while width and high.slope < 0:
        low, high = high, look(2 * high.scale)
    while width and low.slope > 0:
        low, high = look(2 * low.scale), low
    low, high = _closer(look, low, high)
    while low.scale < (middle := low.scale + (high.scale - low.scale) / 2) < high.scale:
        low, high = _halved(low, high, look(middle))
    return order[[low.pixel, high.pixel]]


def _l1_slope(x: Tensor, y: Tensor, w: Tensor, truncation: float | None) -> tuple[Tensor, Tensor]:
    """The a that minimises Σ min(truncation, w |a x − y|) over the last dimension, and the minimum.

    It is one of the ratios y / x. Without truncation it is their median with the weights w |x|. With it, the
    slope of the sum changes at three places per pixel, by −w |x| where its residual leaves the truncation, by
    2 w |x| at the ratio, and by −w |x| where it is truncated again: two running sums over these places in
    order are the value of the sum at each ratio.
    """
    k = w * x.abs()
    ratio = torch.where(k > 0, y / x, 0.0)
    if truncation is None:
        place = _weighted_median(ratio, k)
    else:
        reach = torch.where(k > 0, truncation / k, 0.0)
        places, order = torch.cat([ratio - reach, ratio, ratio + reach], -1).sort(-1)
        turn = torch.cat([-k, 2 * k, -k], -1).gather(-1, order)
        slopes, offsets = turn.cumsum(-1), (turn * places).cumsum(-1)
        last = torch.searchsorted(places, ratio, right=True) - 1
        value = ratio * slopes.gather(-1, last) - offsets.gather(-1, last)
        place = torch.where(k > 0, value, torch.inf).argmin(-1)
    scale = ratio.gather(-1, place[..., None])
    loss = w * (scale * x - y).abs()
    return scale[..., 0], (loss if truncation is None else loss.clamp(max=truncation)).sum(-1)


def _weighted_median(x: Tensor, w: Tensor) -> Tensor:
    """The place of the lower weighted median in the last dimension."""
    order = x.argsort(-1)
    total = w.gather(-1, order).cumsum(-1)
    place = torch.searchsorted(total, total[..., -1:] / 2).clamp(max=x.shape[-1] - 1)
    return order.gather(-1, place)[..., 0]


def _median(x: Tensor) -> Tensor:
    # torch.median takes the lower one of two in the middle.
    ordered = x.sort().values
    return (ordered[(len(x) - 1) // 2] + ordered[len(x) // 2]) / 2
