"""Alignment of predictions that know depth up to a scale, or up to a scale and a shift.

Each function fits a scale, or a scale and a shift, over the valid pixels of each map, in float64;
`Alignment.apply` multiplies and adds. Hand over depth or inverse depth, whichever is to be aligned, as
tensors or as arrays of NumPy. Formulas:

* median: of the target over that of the prediction (monodepth2, SfMLearner).
* least squares: MiDaS (arXiv:1907.01341, eq. 4), Marigold; centred, so that a large mean costs no digits.
* weighted L1: MoGe (arXiv:2410.19115, section 3.2), exact by sorting, truncated or not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import fits
from .arrays import Array, Segments, as_map, as_tensors, chosen, count, double, finite
from .checks import check_number


class Alignment(NamedTuple):
    """A fitted scale and shift, float64 [] of a map [H, W] or [B] of maps [B, H, W]."""

    scale: Tensor
    shift: Tensor

    def apply(self, pred: Array) -> Tensor:
        """Return scale · pred + shift, a float64 tensor in the shape of `pred`.

        Args:
            pred: anything of one map, [B, ...] of B maps.

        Raises:
            ValueError: it is of another number of maps.
        """
        if not isinstance(pred, Tensor):
            pred = torch.as_tensor(as_map(pred), device=self.scale.device)
        if self.scale.ndim and (pred.ndim < 2 or len(self.scale) not in (1, len(pred))):
            raise ValueError(
                f"pred must be [B, ...] of the B = {len(self.scale)} aligned maps; got {tuple(pred.shape)}"
            )
        scale, shift = (x.reshape(x.shape + (1,) * (pred.ndim - x.ndim)) for x in self)
        return scale * pred.double() + shift


def median(pred: Array, target: Array, mask: Array | None = None) -> Alignment:
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
    return _each(fits.median, pred, target, mask)


def median_ratio(pred: Array, target: Array, mask: Array | None = None) -> Alignment:
    """Fit a scale: the median of target / pred. Arguments, return and errors as of `median`."""
    return _each(fits.median_ratio, pred, target, mask)


def least_squares_scale(
    pred: Array, target: Array, mask: Array | None = None, weight: Array | None = None
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
    return _each(fits.least_squares_scale, pred, target, mask, weight)


def least_squares(
    pred: Array, target: Array, mask: Array | None = None, weight: Array | None = None
) -> Alignment:
    """Fit scale and shift: the minimum of Σ w (scale · pred + shift − target)².

    In depth, `pred` and `target` are depths; in disparity, inverse depths. Arguments and errors as of
    `least_squares_scale`.

    Returns:
        Scale and shift. A constant prediction has no scale to fit: scale 0, shift the mean of the target.
        Scale 1 and shift 0 without a valid pixel.
    """
    return _each(fits.least_squares, pred, target, mask, weight)


def l1_scale(
    pred: Array,
    target: Array,
    mask: Array | None = None,
    weight: Array | None = None,
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
    return _each(fits.l1_scale(truncation), pred, target, mask, weight)


def l1(
    pred: Array,
    target: Array,
    mask: Array | None = None,
    weight: Array | None = None,
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
    return _each(fits.l1(truncation), pred, target, mask, weight)


def _check_truncation(truncation: float | None) -> None:
    if truncation is not None:
        check_number("truncation", truncation, low=0.0, strict=True)


def _each(
    fit: fits.Fit, pred: Array, target: Array, mask: Array | None, weight: Array | None = None
) -> Alignment:
    """Fit every map by itself, in float64, over its valid pixels."""
    given = as_tensors({"pred": pred, "target": target, "mask": mask, "weight": weight})
    pred, target, mask, weight = (given.get(name) for name in ("pred", "target", "mask", "weight"))
    shapes = {name: tuple(x.shape) for name, x in given.items()}
    if len(set(shapes.values())) != 1 or pred.ndim not in (2, 3):
        raise ValueError(f"all maps must be [H, W] or [B, H, W] of one shape; got {shapes}")
    pred, target = double(pred), double(target)
    valid = finite(pred) & finite(target)
    if mask is not None:
        valid &= mask.to(pred.device) != 0
    if weight is not None:
        weight = double(weight)
        if not bool((weight[valid] >= 0).all()) or not bool(weight[valid].isfinite().all()):
            raise ValueError("weight must be finite and >= 0 at every valid pixel")
        valid &= weight != 0
    parts = Segments([count(one) for one in (valid if pred.ndim == 3 else valid[None])])
    p, t = chosen(pred, valid), chosen(target, valid)
    w = None if weight is None else chosen(weight, valid)
    scale, shift = fits.fitted(fit, p, t, w, parts)
    return Alignment(scale, shift) if pred.ndim == 3 else Alignment(scale[0], shift[0])
