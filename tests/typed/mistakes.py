"""Mistakes that a type checker must report: a comment that ignores nothing is an error. Nothing runs this."""

from __future__ import annotations

from torch import Tensor

import depthloss
from depthloss import functional


def mistakes(pred: Tensor, gt: Tensor, mask: Tensor) -> None:
    loss = depthloss.G2Loss(variant="paper")  # type: ignore[arg-type]
    depthloss.G2Loss(num_scale=3)  # type: ignore[call-arg]
    depthloss.G2Loss(weights=(1.0, 1.0))  # type: ignore[arg-type]
    depthloss.L1Loss(backend="cuda")  # type: ignore[arg-type]
    depthloss.L1Loss(gt_range=80.0)  # type: ignore[arg-type]
    depthloss.SILogLoss(preset="adabin")  # type: ignore[arg-type]
    depthloss.GradientSpec("sobel")  # type: ignore[call-arg]
    depthloss.GradientSpec(mask="center")  # type: ignore[arg-type]
    depthloss.GradientSpec.preset("g2")  # type: ignore[arg-type]
    depthloss.use_backend("fast")  # type: ignore[arg-type]
    loss(pred, gt, mask, 0.5)  # type: ignore[call-overload]
    loss(pred, gt, masks=mask)  # type: ignore[call-overload]
    loss(pred, gt.tolist(), [mask])  # type: ignore[call-overload]
    loss(pred, gt).item().backward()  # type: ignore[union-attr]
    loss(pred, gt, return_metrics=True).backward()  # type: ignore[attr-defined]
    depthloss.L1Loss()(pred, gt, abs_mask=mask)  # type: ignore[call-overload]
    depthloss.SupervisedLoss("l1")([pred], gt)["losses"]  # type: ignore[typeddict-item]
    functional.ssi_loss(pred, gt, alhpa=0.5)  # type: ignore[call-overload]
    functional.ssi_loss(pred, gt, mask, 0.5)  # type: ignore[call-overload]
    functional.ssi_loss(pred, gt, alpha="0.5", return_metrics=True)  # type: ignore[call-overload]
    functional.ssi_loss(pred, gt, return_metrics=True).backward()  # type: ignore[attr-defined]
    functional.g2_loss(pred, gt, variant="paper")  # type: ignore[call-overload]
    depthloss.to_depth(gt, mask=True)  # type: ignore[arg-type]
