"""From predictions at the valid pixels to depth: what a protocol fits, the bounds, and what they changed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import fits
from ..arrays import Array, Segments, chosen, count, double, finite, joined
from .frame import Frame, Matched, frames_of
from .sizes import sampled

if TYPE_CHECKING:
    from .protocol import Protocol

# Where a prediction is inverted, a smaller one counts as this; in metres, or in 1/metre.
NEAREST = 1e-6

# How scale and shift are fitted, by alignment of a protocol.
FITS: dict[str, fits.Fit] = {
    "median": fits.median,
    "median-ratio": fits.median_ratio,
    "scale-lstsq": fits.least_squares_scale,
    "lstsq": fits.least_squares,
    "disparity-lstsq": fits.least_squares,
    "l1-scale": fits.l1_scale(),
    "l1": fits.l1(),
}


def disparity(pred: Tensor, kind: str) -> Tensor:
    """Return the inverse depth of a prediction of a kind."""
    if kind in ("disparity", "inverse-depth"):
        return pred
    return (-pred).exp() if kind == "log-depth" else 1 / pred.clamp(min=NEAREST)


def frames(protocol: Protocol, matched: Sequence[Matched], kind: str) -> list[Frame]:
    """Align and clip predictions of a kind, each, or each clip, by itself."""
    by = protocol.aligned_by(kind)
    parts = Segments([len(one.g) for one in matched])
    p, g = joined([one.p for one in matched]), joined([one.g for one in matched])
    value = _quantity(protocol, p, kind, by)
    scales: list[dict[str, float]] = [{} for _ in matched]
    if by != "none":
        scale, shift = _fit(protocol, by, p, value, g, parts, matched)
        value = parts.spread(scale) * value + parts.spread(shift)
        scales = [{"scale": a, "shift": b} for a, b in zip(scale.tolist(), shift.tolist(), strict=True)]
    floors = [_floor(protocol, one.g) if by == "disparity-lstsq" else None for one in matched]
    floor = None if floors[0] is None else parts.spread(value.new_tensor(floors))
    depth, clipped = _bounded(protocol, value, floor)
    changed = [0] * len(matched) if clipped is None else parts.sum(clipped).tolist()
    converts = [
        functools.partial(_depth, protocol, kind, by, fitted, limit)
        for fitted, limit in zip(scales, floors, strict=True)
    ]
    return frames_of(matched, depth, parts, converts, protocol.min_pixels, scales, changed)


def _depth(
    protocol: Protocol, kind: str, by: str, fitted: dict[str, float], floor: float | None, pred: Tensor
) -> Tensor:
    """Depth of any values of a prediction whose alignment is known."""
    value = _quantity(protocol, double(pred), kind, by)
    if fitted:
        value = fitted["scale"] * value + fitted["shift"]
    return _bounded(protocol, value, None if floor is None else value.new_tensor([floor]))[0]


def _quantity(protocol: Protocol, pred: Tensor, kind: str, by: str) -> Tensor:
    """What is aligned: depth or inverse depth, NaN where the prediction is not finite."""
    known = finite(pred)
    if count(known) != known.numel():
        pred = torch.where(known, pred, torch.nan)
    if by == "disparity-lstsq":
        inverse = disparity(pred, kind)
        return inverse if protocol.disparity_min is None else inverse.clamp(min=protocol.disparity_min)
    if kind == "depth":
        return pred
    return pred.exp() if kind == "log-depth" else 1 / pred.clamp(min=NEAREST)


def _bounded(protocol: Protocol, value: Tensor, floor: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Depth of what was aligned, and where a bound changed it; None: nowhere."""
    clipped = None
    if floor is not None:
        clipped = value < floor
        value = 1 / torch.maximum(value, floor)
    low, high = protocol.bounds
    if low is None and high is None:
        return value, clipped
    bounded = value.clamp(low, high)
    changed = (bounded != value) & finite(value)
    return bounded, changed if clipped is None else clipped | changed


def _fit(
    protocol: Protocol,
    by: str,
    p: Tensor,
    value: Tensor,
    g: Tensor,
    parts: Segments,
    matched: Sequence[Matched],
) -> tuple[Tensor, Tensor]:
    """Fit each prediction over its finite values, and those alone that the protocol fits over."""
    target = 1 / g if by == "disparity-lstsq" else g
    fit = finite(value) & finite(target)
    if by == "disparity-lstsq":
        if protocol.fit_positive:
            fit &= p > 0
    elif protocol.fit_size is not None:
        fit &= torch.cat([_sample(torch.as_tensor(one.valid), protocol.fit_size) for one in matched])
    if count(fit) != len(fit):
        parts = Segments([count(part) for part in parts.split(fit)])
        value, target = chosen(value, fit), chosen(target, fit)
    weight = 1 / target if by in ("l1", "l1-scale") else None
    return fits.fitted(FITS[by], value, target, weight, parts)


def _sample(valid: Tensor, size: Sequence[int]) -> Tensor:
    """Which of the valid pixels of an image, or of each of a clip, are of its sample, bool [N]."""
    pictures = valid.reshape(-1, *valid.shape[-2:])
    return torch.cat([chosen(sampled(one, (size[0], size[1])), one) for one in pictures])


def _floor(protocol: Protocol, g: Array) -> float:
    if protocol.disparity_floor == "farthest":
        return 1 / float(g.max()) if len(g) else NEAREST
    if protocol.farthest:
        return 1 / protocol.farthest
    return NEAREST if protocol.disparity_floor is None else float(protocol.disparity_floor)
