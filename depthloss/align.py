"""Alignment of predictions that know depth up to a scale, or up to a scale and a shift.

Each function fits a scale, or a scale and a shift, over the valid pixels of each map, in float64;
`Alignment.apply` multiplies and adds. Hand over depth or inverse depth, whichever is to be aligned. Formulas:

* median: of the target over that of the prediction (monodepth2, SfMLearner).
* least squares: MiDaS (arXiv:1907.01341, eq. 4), Marigold; centred, so that a large mean costs no digits.
* weighted L1: MoGe (arXiv:2410.19115, section 3.2), exact by sorting, truncated or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .arrays import chosen, count, finite
from .checks import check_number

# From the prediction, the target and the weight at the valid pixels, float64 [N], to scale and shift.
Fit = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, "Tensor | float"]]


class Alignment(NamedTuple):
    """A fitted scale and shift, float64 [] of a map [H, W] or [B] of maps [B, H, W]."""

    scale: Tensor
    shift: Tensor

    def apply(self, pred: Tensor) -> Tensor:
        """Return scale · pred + shift, float64 in the shape of `pred`."""
        scale, shift = (x.reshape(x.shape + (1,) * (pred.ndim - x.ndim)) for x in self)
        return scale * pred.double() + shift


def median(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Alignment:
    """Fit a scale: the median of the target over the median of the prediction; the mean of two middle ones.

    Args:
        pred: [H, W] or [B, H, W].
        target: likewise, in the quantity of `pred`.
        mask: likewise, non-zero = valid; None = every pixel. Pixels where `pred` or `target` is not finite
            count nowhere.

    Returns:
        Scale and shift 0; scale 1 without a valid pixel, infinite where the median of the prediction is 0.

    Raises:
        ValueError: the shapes differ, or are neither [H, W] nor [B, H, W].
    """
    return _each(lambda p, t, w: (_median(t) / _median(p), 0.0), pred, target, mask)


def median_ratio(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Alignment:
    """Fit a scale: the median of target / pred. Arguments, return and errors as of `median`."""
    return _each(lambda p, t, w: (_median(t / p), 0.0), pred, target, mask)


def least_squares_scale(
    pred: Tensor, target: Tensor, mask: Tensor | None = None, weight: Tensor | None = None
) -> Alignment:
    """Fit a scale: the minimum of Σ w (scale · pred − target)².

    Args:
        pred: [H, W] or [B, H, W].
        target: likewise.
        mask: likewise; see `median`.
        weight: likewise, >= 0; None = 1.

    Returns:
        Scale and shift 0; scale 1 without a valid pixel, 0 where the prediction is 0.

    Raises:
        ValueError: as of `median`, or a weight of a valid pixel is negative or not finite.
    """

    def fit(p: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, float]:
        square = (w * p * p).sum()
        return torch.where(square > 0, (w * p * t).sum() / square, 0.0), 0.0

    return _each(fit, pred, target, mask, weight)


def least_squares(
    pred: Tensor, target: Tensor, mask: Tensor | None = None, weight: Tensor | None = None
) -> Alignment:
    """Fit scale and shift: the minimum of Σ w (scale · pred + shift − target)².

    In depth, `pred` and `target` are depths; in disparity, inverse depths. Arguments and errors as of
    `least_squares_scale`.

    Returns:
        Scale and shift. A constant prediction has no scale to fit: scale 0, shift the mean of the target.
        Scale 1 and shift 0 without a valid pixel.
    """

    def fit(p: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        total = w.sum()
        of_p, of_t = ((w * x).sum() / total for x in (p, t))
        spread = p - of_p
        variance = (w * spread.square()).sum()
        # What is left of a constant prediction after its mean is rounding.
        varies = variance > total * (16 * torch.finfo(p.dtype).eps * p.abs().max()) ** 2
        scale = torch.where(varies, (w * spread * (t - of_t)).sum() / variance, 0.0)
        return scale, of_t - scale * of_p

    return _each(fit, pred, target, mask, weight)


def l1_scale(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    truncation: float | None = None,
) -> Alignment:
    """Fit a scale: the exact minimum of Σ min(truncation, w |scale · pred − target|), by sorting.

    Of several minima it is the lowest one. O(N log N).

    Args:
        pred: [H, W] or [B, H, W].
        target: likewise.
        mask: likewise; see `median`.
        weight: likewise, >= 0; None = 1. MoGe takes 1 / target.
        truncation: of the weighted residual of a pixel, > 0; None = none.

    Returns:
        Scale and shift 0; scale 1 without a valid pixel, 0 where the prediction is 0.

    Raises:
        ValueError: as of `least_squares_scale`, or the truncation is not > 0.
    """
    _check_truncation(truncation)
    return _each(lambda p, t, w: (_l1_slope(p, t, w, truncation)[0], 0.0), pred, target, mask, weight)


def l1(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    truncation: float | None = None,
) -> Alignment:
    """Fit scale and shift: the exact minimum of Σ min(truncation, w |scale · pred + shift − target|).

    Such a line goes through two pixels. Without truncation the sum is convex: its minimum over the shift, a
    weighted median, is bisected over the scale, O(N log N). With truncation every pixel is tried as the first
    of the two, and the second is found by sorting, O(N² log N): hand over a sample, as MoGe does (64 x 64).

    Arguments and errors as of `l1_scale`.

    Returns:
        Scale and shift. A constant prediction has scale 0 (without truncation the shift is then the weighted
        median of the target). Scale 1 and shift 0 without a valid pixel.
    """
    _check_truncation(truncation)

    def fit(p: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        anchors = torch.arange(len(p), device=p.device) if truncation else _convex_anchors(p, t, w)
        return _best_line(p, t, w, anchors, truncation)

    return _each(fit, pred, target, mask, weight)


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


def _convex_anchors(p: Tensor, t: Tensor, w: Tensor) -> Tensor:
    """Two pixels, through one of which goes the line of least weighted L1.

    Over the scale, the minimum over the shift is convex and piecewise linear; a piece ends where the line
    through the weighted median of the residuals meets another pixel. So the pixels that are the medians on
    both sides of the minimum are on the best line.
    """
    # Equal residuals stay in the order that they have at a scale a little larger: `look` is its derivative.
    order = p.argsort(descending=True)
    p, t, w = p[order], t[order], w[order]

    def look(scale: float) -> tuple[int, float]:
        """The median's pixel, and the derivative −Σ w sign(r) p, signs balanced by that of the median."""
        rank = (t - scale * p).argsort(stable=True)
        total = w[rank].cumsum(0)
        place = int(torch.searchsorted(total, total[-1:] / 2).clamp(max=len(p) - 1))
        weight, source = w[rank], p[rank] - p[rank[place]]
        return int(rank[place]), float((weight * source)[:place].sum() - (weight * source)[place:].sum())

    width = float(p.max() - p.min())
    high = float(t.max() - t.min()) / width + 1.0 if width else 1.0
    low = -high
    while width and look(high)[1] < 0:
        low, high = high, 2 * high
    while width and look(low)[1] > 0:
        low, high = 2 * low, low
    while low < (middle := low + (high - low) / 2) < high:
        low, high = (middle, high) if look(middle)[1] < 0 else (low, middle)
    return order[[look(low)[0], look(high)[0]]]


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


def _check_truncation(truncation: float | None) -> None:
    if truncation is not None:
        check_number("truncation", truncation, low=0.0, strict=True)


def _each(
    fit: Fit, pred: Tensor, target: Tensor, mask: Tensor | None, weight: Tensor | None = None
) -> Alignment:
    """Fit every map by itself, in float64, over its valid pixels."""
    given = {"pred": pred, "target": target, "mask": mask, "weight": weight}
    shapes = {name: tuple(x.shape) for name, x in given.items() if x is not None}
    if len(set(shapes.values())) != 1 or pred.ndim not in (2, 3):
        raise ValueError(f"all maps must be [H, W] or [B, H, W] of one shape; got {shapes}")
    pred, target = _double(pred), _double(target)
    valid = finite(pred) & finite(target)
    if mask is not None:
        valid &= mask.to(pred.device) != 0
    if weight is None:
        weight = torch.ones_like(pred)
    else:
        weight = _double(weight)
        if not bool((weight[valid] >= 0).all()) or not bool(weight[valid].isfinite().all()):
            raise ValueError("weight must be finite and >= 0 at every valid pixel")
        valid &= weight != 0
    if pred.ndim == 2:
        return Alignment(*_fitted(fit, pred, target, valid, weight))
    found = [_fitted(fit, *maps) for maps in zip(pred, target, valid, weight, strict=True)]
    return Alignment(*(torch.stack(x) for x in zip(*found, strict=True)))


def _fitted(fit: Fit, pred: Tensor, target: Tensor, valid: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    if not count(valid):
        return pred.new_ones(()), pred.new_zeros(())
    scale, shift = fit(*(chosen(x, valid) for x in (pred, target, weight)))
    return scale, torch.as_tensor(shift, dtype=pred.dtype, device=pred.device)


def _double(x: Tensor) -> Tensor:
    # MPS has no float64.
    return (x.cpu() if x.device.type == "mps" else x).detach().double()
