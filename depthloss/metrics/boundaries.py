"""Boundary F1 as published: scores of the depth steps between neighbouring pixels, at ten ratios."""

from __future__ import annotations

import torch
from torch import Tensor

DEPTH_PRO = torch.linspace(1.05, 1.25, 10, dtype=torch.float64)
# MoGe's script has its thresholds in float32.
MOGE = torch.linspace(0.05, 0.25, 10).double()


def depth_pro_f1(pred: Tensor, gt: Tensor, valid: Tensor) -> float:
    """Scale-invariant boundary F1 of Depth Pro (arXiv:2410.02073): the numbers of its code, `SI_boundary_F1`.

    In each of four directions a pixel is a boundary at threshold t if its inverse depth is more than t times
    that of its neighbour. Precision and recall are means over the directions; one without a boundary counts
    0. F1 is averaged over ten thresholds from 1.05 to 1.25 with weights proportional to them. Both pixels
    must be valid; the code has no mask.

    Args:
        pred: depth [H, W]; anything below 1e-6 counts as that, and a NaN has no boundary.
        gt: depth [H, W], likewise.
        valid: bool [H, W].

    Returns:
        From 0 to 1; 0 if the ground truth has no boundary.
    """
    thresholds = DEPTH_PRO.to(gt.device)
    p, g = (1 / x.double().clamp(min=1e-6) for x in (pred, gt))
    precision, recall = torch.zeros(2, len(thresholds), dtype=torch.float64, device=gt.device)
    for first, second in _neighbours([(0, 1), (1, 0)]):
        both = valid[first] & valid[second]
        for a, b in ((first, second), (second, first)):
            hits, predicted, true = _counts((p[a] / p[b])[both], (g[a] / g[b])[both], thresholds)
            precision += hits / predicted.clamp(min=1) / 4
            recall += hits / true.clamp(min=1) / 4
    f1 = (2 * precision * recall / (precision + recall)).nan_to_num()
    return float((f1 * thresholds).sum() / thresholds.sum())


def moge_f1(pred: Tensor, gt: Tensor, valid: Tensor, radius: int = 1) -> float:
    """Boundary F1 of MoGe (arXiv:2410.19115), the numbers of `boundary_f1` of its code.

    Two pixels at most `radius` apart, the first of which is `radius` off the border, are a boundary at t if
    the second is more than 1 + t times as deep. Precision and recall count all such pairs; F1 is averaged
    over ten t from 0.05 to 0.25 with weights proportional to t.

    Args:
        pred: depth [H, W]; where it is NaN it has no boundary.
        gt: depth [H, W].
        valid: bool [H, W].
        radius: in pixels, >= 1.

    Returns:
        From 0 to 1; 0 if the ground truth has no boundary, or no pixel so far off the border.
    """
    h, w = gt.shape
    if min(h, w) <= 2 * radius:
        return 0.0
    thresholds = (1 + MOGE).to(gt.device)
    steps = [
        (y, x)
        for y in range(-radius, radius + 1)
        for x in range(-radius, radius + 1)
        if 0 < y * y + x * x <= radius * radius
    ]
    inner = slice(radius, h - radius), slice(radius, w - radius)
    totals = torch.zeros(3, len(thresholds), dtype=torch.float64, device=gt.device)
    for y, x in steps:
        other = slice(radius + y, h - radius + y), slice(radius + x, w - radius + x)
        both = valid[inner] & valid[other]
        p, g = ((depth[other].double() / depth[inner].double())[both] for depth in (pred, gt))
        totals += torch.stack(_counts(p, g, thresholds))
    hits, predicted, true = totals
    precision, recall = hits / predicted.clamp(min=1e-12), hits / true.clamp(min=1e-12)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    weights = MOGE.to(gt.device)
    return float((f1 * weights).sum() / weights.sum())


def _neighbours(steps: list[tuple[int, int]]) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Where the first and the second pixel of each pair lie, (y, x) apart."""
    return [
        ((slice(None, -y or None), slice(None, -x or None)), (slice(y, None), slice(x, None)))
        for y, x in steps
    ]


def _counts(of_pred: Tensor, of_gt: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many ratios exceed each threshold: in both maps, in the prediction, in the ground truth."""
    p, g = (torch.bucketize(x.nan_to_num(nan=0.0), thresholds) for x in (of_pred, of_gt))
    return exceeded(torch.minimum(p, g), thresholds), exceeded(p, thresholds), exceeded(g, thresholds)


def exceeded(passed: Tensor, thresholds: Tensor) -> Tensor:
    """Of the number of thresholds that each step exceeds: how many steps exceed each of the thresholds."""
    histogram = torch.bincount(passed, minlength=len(thresholds) + 1)
    return histogram.flip(0).cumsum(0).flip(0)[1:].double()
