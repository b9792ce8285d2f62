"""A user's code. It checks clean, and `tests/test_dispatch.py` runs it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import assert_type

import depthloss
from depthloss import functional


def modules(pred: Tensor, gt: Tensor, mask: Tensor | None) -> Tensor:
    loss = depthloss.G2Loss("document", weights=(1.0, 1.0, 0.5), gt_range=(0.1, None), backend="auto")
    total = assert_type(loss(pred, gt, mask, progress=0.5, epoch=3, abs_mask=mask), Tensor)
    value, metrics = loss(pred, gt, return_metrics=True)
    assert_type(metrics["absolute"], Tensor)
    assert_type(loss.metrics, dict[str, Tensor])
    named = depthloss.build_loss("sparse-silog", preset="bts")
    assert_type(named, depthloss.DepthLoss)
    assert_type(named(pred, gt), Tensor)
    assert_type(named.term_weights(progress=None), dict[str, float])
    preset = depthloss.SILogLoss.preset("zoedepth", lam=0.5)
    learnt = depthloss.AdaptiveMultiDomainLoss(log_var_bounds=(-5.0, 5.0))
    learnt.clamp_parameters_()
    return total + value + preset(pred, gt, mask) + learnt(pred, gt)


def gradients(pred: Tensor, gt: Tensor) -> Tensor:
    gradient = depthloss.GradientSpec.preset("scale-adaptive", num_scales=2)
    losses = [
        depthloss.ScaleAdaptiveLoss(gradient=replace(gradient, border="zero")),
        depthloss.MultiScaleGradientLoss(scales=(1, 2)),
        depthloss.ProgressiveScaleAdaptiveLoss(scale_schedule="constant", num_scales=2),
    ]
    return torch.stack([loss(pred, gt) for loss in losses]).sum()


def functions(pred: Tensor, gt: Tensor, mask: Tensor | None) -> Tensor:
    total = assert_type(functional.ssi_loss(pred, gt, mask, alpha=0.5), Tensor)
    value, metrics = functional.g2_loss(pred, gt, variant="published", return_metrics=True)
    assert_type(metrics, dict[str, Tensor])
    log_var = torch.zeros((), requires_grad=True)
    return total + value + functional.adaptive_multi_domain_loss(pred, gt, log_var_scale=log_var)


def scales(preds: list[Tensor], gt: Tensor) -> Tensor:
    result = depthloss.SupervisedLoss("sparse-l1", supervised_num_scales=2)(preds, gt)
    assert_type(result["metrics"], dict[str, Tensor])
    return assert_type(result["loss"], Tensor)


def main(pred: Tensor, gt: Tensor, mask: Tensor | None) -> float:
    with depthloss.use_backend("reference"):
        total = modules(pred, gt, mask) + gradients(pred, gt) + functions(pred, gt, mask)
    total = total + scales([pred, pred[..., ::2, ::2]], depthloss.to_inverse_depth(gt, mask))
    found = depthloss.explain(depthloss.L1Loss(), pred, gt, mask)
    return total.item() + assert_type(found.total, float)
