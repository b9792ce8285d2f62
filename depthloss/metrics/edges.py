"""Metrics of dense ground truth: the error near depth discontinuities, and the boundaries themselves."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .boundaries import DEPTH_PRO, exceeded
from .table import Meaning

EDGE_METRICS = {
    "edge_abs_rel": Meaning("", False, "abs_rel within 3 px of a depth discontinuity"),
    "flat_abs_rel": Meaning("", False, "abs_rel elsewhere"),
    "boundary_f1": Meaning("share", True, "F1 of the depth steps between neighbours, at ratios 1.05 to 1.25"),
    "boundary_precision": Meaning("share", True, "share of the predicted steps that are true"),
    "boundary_recall": Meaning("share", True, "share of the true steps that are predicted"),
}

RADIUS = 3  # pixels on either side of a discontinuity that are near it
SLANT = 0.2  # relative change of a step of inverse depth that a slanted plane may have
DENSE = 0.7  # least share of the valid pixels whose neighbour below, and to the right, is valid too


def is_dense(valid: Tensor) -> bool:
    """Return whether ground truth has enough neighbouring pixels to show its discontinuities.

    Args:
        valid: bool [H, W].
    """
    pairs = min(int(both.sum()) for both in _both_valid(valid))
    return pairs > 0 and pairs >= DENSE * int(valid.sum())


def edge_metrics(pred: Tensor, gt: Tensor, valid: Tensor, ratio: float) -> dict[str, float]:
    """Measure one image with dense ground truth.

    Args:
        pred: depth [H, W] in metres, > 0 or NaN.
        gt: depth [H, W] in metres.
        valid: bool [H, W].
        ratio: of neighbouring depths, beyond which there is a discontinuity.

    Returns:
        Those of `EDGE_METRICS` that the image has pixels or boundaries for.
    """
    near = near_discontinuities(gt, valid, ratio)
    error = (pred.double() - gt.double()).abs() / gt.double()
    parts = {"edge_abs_rel": error[valid & near], "flat_abs_rel": error[valid & ~near]}
    values = {name: float(part.mean()) for name, part in parts.items() if len(part)}
    if (scores := boundary_scores(pred, gt, valid)) is not None:
        names = ("boundary_f1", "boundary_precision", "boundary_recall")
        values |= dict(zip(names, scores, strict=True))
    return values


def near_discontinuities(gt: Tensor, valid: Tensor, ratio: float, radius: int = RADIUS) -> Tensor:
    """Return the pixels within `radius` pixels of a discontinuity, counted along rows and columns.

    A discontinuity lies between two neighbouring valid pixels, one of which is more than `ratio` times as
    deep as the other; these two are the first pixels on either side. A slanted plane, such as a road near the
    horizon, has such pixels and no discontinuity: planes are linear in inverse depth, so a step of inverse
    depth that goes on, within 20 %, from a pixel before or to a pixel after the two is none.

    Args:
        gt: depth [H, W] in metres.
        valid: bool [H, W].
        ratio: > 1.
        radius: >= 1.

    Returns:
        bool [H, W].
    """
    right = _jumps(gt, valid, ratio)
    down = _jumps(gt.T, valid.T, ratio).T
    near = torch.zeros_like(valid)
    near[:, 1:] |= right
    near[:, :-1] |= right
    near[1:] |= down
    near[:-1] |= down
    return F.max_pool2d(near[None].float(), 2 * radius - 1, stride=1, padding=radius - 1)[0] > 0


def _jumps(gt: Tensor, valid: Tensor, ratio: float) -> Tensor:
    """Discontinuities between column j and j + 1, bool [H, W - 1]."""
    inverse = gt.double().reciprocal()
    both = valid[:, 1:] & valid[:, :-1]
    jump = (inverse.log().diff(dim=1).abs() > math.log(ratio)) & both
    step, change = inverse.diff(dim=1), inverse.diff(dim=1, n=2).abs()
    straight = both[:, 1:] & both[:, :-1]
    jump[:, 1:] &= ~(straight & (change <= SLANT * step[:, 1:].abs()))
    jump[:, :-1] &= ~(straight & (change <= SLANT * step[:, :-1].abs()))
    return jump


def boundary_scores(pred: Tensor, gt: Tensor, valid: Tensor) -> tuple[float, float, float] | None:
    """Compare the boundaries of a prediction with the true ones; its scale does not matter.

    Two neighbouring pixels, taken in one order or the other, are a boundary at threshold t if the depth of
    the second is more than t times that of the first. Precision and recall count the boundaries of the whole
    image, F1 is their harmonic mean. Each is averaged over ten thresholds from 1.05 to 1.25 with weights
    proportional to t, as in Depth Pro (arXiv:2410.02073). Two things differ from the script of its authors:
    that averages four directions, so that a perfect prediction scores less than 1 where one of them has no
    boundary; and a threshold at which the ground truth has none is left out here. `depth_pro_f1` has the
    numbers of the script.

    Args:
        pred: depth [H, W] in metres; where it is NaN it has no boundary.
        gt: depth [H, W] in metres.
        valid: bool [H, W].

    Returns:
        F1, precision and recall; None if the ground truth has no boundary.
    """
    weights = DEPTH_PRO.to(gt.device)
    counts = torch.zeros(3, len(weights), dtype=torch.float64, device=gt.device)
    for of_pred, of_gt, both in zip(_log_steps(pred), _log_steps(gt), _both_valid(valid), strict=True):
        of_pred, of_gt = of_pred[both].nan_to_num(), of_gt[both]
        for sign in (1, -1):
            p, g = (torch.bucketize(sign * steps, weights.log()) for steps in (of_pred, of_gt))
            counts += torch.stack([exceeded(passed, weights) for passed in (torch.minimum(p, g), p, g)])
    hits, predicted, true = counts
    if not true.any():
        return None
    scores = torch.stack([2 * hits / (predicted + true), hits / predicted, hits / true]).nan_to_num()
    weights = weights * (true > 0)
    f1, precision, recall = (scores @ (weights / weights.sum())).tolist()
    return f1, precision, recall


def _log_steps(depth: Tensor) -> tuple[Tensor, Tensor]:
    logs = depth.double().log()
    return logs.diff(dim=1), logs.diff(dim=0)


def _both_valid(valid: Tensor) -> tuple[Tensor, Tensor]:
    return valid[:, 1:] & valid[:, :-1], valid[1:] & valid[:-1]
