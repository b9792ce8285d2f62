"""Alignment of a prediction to its ground truth, for networks that know depth up to scale and shift."""

from __future__ import annotations

import torch
from torch import Tensor

# Where depth is inverted, a smaller predicted depth counts as this one; in metres.
NEAREST = 1e-6


def align(pred: Tensor, gt: Tensor, valid: Tensor, alignment: str, max_depth: float) -> Tensor:
    """Return the prediction of one image, aligned.

    "median" multiplies depth by median(gt) / median(pred). "lstsq" replaces inverse depth by s / pred + t,
    s and t those of the least squares against 1 / gt; where that is below 1 / max_depth, depth is max_depth.
    Both look at the valid pixels with a finite prediction; without any the prediction stays as it is.

    Args:
        pred: [H, W] in metres.
        gt: [H, W] in metres.
        valid: bool [H, W], the pixels that count.
        alignment: "none", "median" or "lstsq".
        max_depth: in metres.

    Returns:
        float64 [H, W] in metres; a pixel that was not finite still is not.
    """
    pred = pred.double()
    used = valid & pred.isfinite()
    p, g = pred[used], gt[used].double()
    if alignment == "none" or not len(p):
        return pred
    if alignment == "median":
        return pred * (_median(g) / _median(p).clamp(min=NEAREST))
    x, y = 1 / p.clamp(min=NEAREST), 1 / g
    spread = x - x.mean()
    variance = spread.square().sum()
    # A constant prediction has no scale to fit.
    scale = torch.where(variance > 0, (spread * y).sum() / variance, 0.0)
    inverse = scale / pred.clamp(min=NEAREST) + (y.mean() - scale * x.mean())
    return torch.where(pred.isfinite(), 1 / inverse.clamp(min=1 / max_depth), pred)


def _median(x: Tensor) -> Tensor:
    # torch.median takes the lower one of two in the middle.
    ordered = x.sort().values
    return (ordered[(len(x) - 1) // 2] + ordered[len(x) // 2]) / 2
