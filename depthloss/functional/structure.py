"""Losses with a multi-scale gradient term, as functions."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from ..losses import (
    AdaptiveMultiDomainLoss,
    FixedMultiDomainLoss,
    G2Loss,
    MultiScaleGradientLoss,
    ProgressiveScaleAdaptiveLoss,
    ScaleAdaptiveLoss,
)
from ..losses.base import Metrics
from ..spec import Backend, GradientSpec, GtRange
from .kept import Ranks, call, kept

# Several parameters in a line: every signature stands here three times, twice for those who check types.
# fmt: off


@overload
def g2_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None, abs_mask: Tensor | None = None,
    variant: Literal["published", "document"] = "published", num_scales: int | None = None,
    eps: float = 1e-6, weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
    gradient: GradientSpec | None = None, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def g2_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None, abs_mask: Tensor | None = None,
    variant: Literal["published", "document"] = "published", num_scales: int | None = None,
    eps: float = 1e-6, weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
    gradient: GradientSpec | None = None, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def g2_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None, abs_mask: Tensor | None = None,
    variant: Literal["published", "document"] = "published", num_scales: int | None = None,
    eps: float = 1e-6, weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
    gradient: GradientSpec | None = None, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.G2Loss` as a function."""
    loss = kept(G2Loss, variant=variant, num_scales=num_scales, eps=eps, weights=weights,
        gradient=gradient, gt_range=gt_range, backend=backend, **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight, abs_mask)


@overload
def scale_adaptive_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    lambda_sg: float = 0.5, epsilon: float = 1e-8, num_scales: int | None = None, use_absolute: bool = True,
    use_inv_depth: bool = False, min_depth: float | None = None, max_depth: float | None = None,
    statistics: Literal["masked", "all"] = "masked", gradient: GradientSpec | None = None,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def scale_adaptive_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    lambda_sg: float = 0.5, epsilon: float = 1e-8, num_scales: int | None = None, use_absolute: bool = True,
    use_inv_depth: bool = False, min_depth: float | None = None, max_depth: float | None = None,
    statistics: Literal["masked", "all"] = "masked", gradient: GradientSpec | None = None,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def scale_adaptive_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    lambda_sg: float = 0.5, epsilon: float = 1e-8, num_scales: int | None = None, use_absolute: bool = True,
    use_inv_depth: bool = False, min_depth: float | None = None, max_depth: float | None = None,
    statistics: Literal["masked", "all"] = "masked", gradient: GradientSpec | None = None,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.ScaleAdaptiveLoss` as a function."""
    loss = kept(ScaleAdaptiveLoss, lambda_sg=lambda_sg, epsilon=epsilon, num_scales=num_scales,
        use_absolute=use_absolute, use_inv_depth=use_inv_depth, min_depth=min_depth, max_depth=max_depth,
        statistics=statistics, gradient=gradient, gt_range=gt_range, backend=backend, **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def progressive_scale_adaptive_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    min_depth: float | None = 0.1, max_depth: float | None = 100.0, lambda_sg: float = 0.5,
    use_inv_depth: bool = False, alpha_schedule: Literal["linear", "constant", "none"] = "linear",
    scale_schedule: Literal["linear", "constant"] = "linear", num_scales: int = 4, eps: float = 1e-6,
    downsample: Literal["bilinear", "average"] = "bilinear", gt_range: GtRange = None,
    backend: Backend = "auto", process_group: Ranks = None, return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def progressive_scale_adaptive_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    min_depth: float | None = 0.1, max_depth: float | None = 100.0, lambda_sg: float = 0.5,
    use_inv_depth: bool = False, alpha_schedule: Literal["linear", "constant", "none"] = "linear",
    scale_schedule: Literal["linear", "constant"] = "linear", num_scales: int = 4, eps: float = 1e-6,
    downsample: Literal["bilinear", "average"] = "bilinear", gt_range: GtRange = None,
    backend: Backend = "auto", process_group: Ranks = None, return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def progressive_scale_adaptive_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    min_depth: float | None = 0.1, max_depth: float | None = 100.0, lambda_sg: float = 0.5,
    use_inv_depth: bool = False, alpha_schedule: Literal["linear", "constant", "none"] = "linear",
    scale_schedule: Literal["linear", "constant"] = "linear", num_scales: int = 4, eps: float = 1e-6,
    downsample: Literal["bilinear", "average"] = "bilinear", gt_range: GtRange = None,
    backend: Backend = "auto", process_group: Ranks = None, return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.ProgressiveScaleAdaptiveLoss` as a function."""
    loss = kept(ProgressiveScaleAdaptiveLoss, min_depth=min_depth, max_depth=max_depth,
        lambda_sg=lambda_sg, use_inv_depth=use_inv_depth, alpha_schedule=alpha_schedule,
        scale_schedule=scale_schedule, num_scales=num_scales, eps=eps, downsample=downsample,
        gt_range=gt_range, backend=backend, **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def multi_scale_gradient_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    scales: tuple[int, ...] | None = None, gradient: GradientSpec | None = None, gt_range: GtRange = None,
    backend: Backend = "auto", process_group: Ranks = None, return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def multi_scale_gradient_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    scales: tuple[int, ...] | None = None, gradient: GradientSpec | None = None, gt_range: GtRange = None,
    backend: Backend = "auto", process_group: Ranks = None, return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def multi_scale_gradient_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    scales: tuple[int, ...] | None = None, gradient: GradientSpec | None = None, gt_range: GtRange = None,
    backend: Backend = "auto", process_group: Ranks = None, return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.MultiScaleGradientLoss` as a function."""
    loss = kept(MultiScaleGradientLoss, scales=scales, gradient=gradient, gt_range=gt_range,
        backend=backend, **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def adaptive_multi_domain_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    lambda_sg: float = 0.1, num_scales: int | None = None, use_absolute: bool = True,
    use_inv_depth: bool = False, ssi_weight: float = 0.7, silog_weight: float = 0.3, alpha_ssi: float = 0.85,
    beta_silog: float = 0.15, min_depth: float | None = 0.05, max_depth: float | None = 100.0,
    min_valid: int = 100, log_var_bounds: tuple[float, float] = (-10.0, 10.0),
    gradient: GradientSpec | None = None, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, log_var_structure: Tensor | None = None, log_var_scale: Tensor | None = None,
    return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def adaptive_multi_domain_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    lambda_sg: float = 0.1, num_scales: int | None = None, use_absolute: bool = True,
    use_inv_depth: bool = False, ssi_weight: float = 0.7, silog_weight: float = 0.3, alpha_ssi: float = 0.85,
    beta_silog: float = 0.15, min_depth: float | None = 0.05, max_depth: float | None = 100.0,
    min_valid: int = 100, log_var_bounds: tuple[float, float] = (-10.0, 10.0),
    gradient: GradientSpec | None = None, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, log_var_structure: Tensor | None = None, log_var_scale: Tensor | None = None,
    return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def adaptive_multi_domain_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    lambda_sg: float = 0.1, num_scales: int | None = None, use_absolute: bool = True,
    use_inv_depth: bool = False, ssi_weight: float = 0.7, silog_weight: float = 0.3, alpha_ssi: float = 0.85,
    beta_silog: float = 0.15, min_depth: float | None = 0.05, max_depth: float | None = 100.0,
    min_valid: int = 100, log_var_bounds: tuple[float, float] = (-10.0, 10.0),
    gradient: GradientSpec | None = None, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, log_var_structure: Tensor | None = None, log_var_scale: Tensor | None = None,
    return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.AdaptiveMultiDomainLoss` as a function."""
    loss = kept(AdaptiveMultiDomainLoss, lambda_sg=lambda_sg, num_scales=num_scales,
        use_absolute=use_absolute, use_inv_depth=use_inv_depth, ssi_weight=ssi_weight,
        silog_weight=silog_weight, alpha_ssi=alpha_ssi, beta_silog=beta_silog, min_depth=min_depth,
        max_depth=max_depth, min_valid=min_valid, log_var_bounds=log_var_bounds, gradient=gradient,
        gt_range=gt_range, backend=backend, **unknown)
    log_vars = tuple(pred.new_zeros(()) if v is None else v for v in (log_var_structure, log_var_scale))
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight,
        log_vars=log_vars)


@overload
def fixed_multi_domain_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    w_structure: float = 0.4, w_scale: float = 0.6, lambda_sg: float = 0.1, num_scales: int | None = None,
    use_absolute: bool = True, use_inv_depth: bool = False, ssi_weight: float = 0.7,
    silog_weight: float = 0.3, alpha_ssi: float = 0.85, beta_silog: float = 0.15,
    min_depth: float | None = 0.05, max_depth: float | None = 100.0, min_valid: int = 100,
    gradient: GradientSpec | None = None, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def fixed_multi_domain_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    w_structure: float = 0.4, w_scale: float = 0.6, lambda_sg: float = 0.1, num_scales: int | None = None,
    use_absolute: bool = True, use_inv_depth: bool = False, ssi_weight: float = 0.7,
    silog_weight: float = 0.3, alpha_ssi: float = 0.85, beta_silog: float = 0.15,
    min_depth: float | None = 0.05, max_depth: float | None = 100.0, min_valid: int = 100,
    gradient: GradientSpec | None = None, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def fixed_multi_domain_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    w_structure: float = 0.4, w_scale: float = 0.6, lambda_sg: float = 0.1, num_scales: int | None = None,
    use_absolute: bool = True, use_inv_depth: bool = False, ssi_weight: float = 0.7,
    silog_weight: float = 0.3, alpha_ssi: float = 0.85, beta_silog: float = 0.15,
    min_depth: float | None = 0.05, max_depth: float | None = 100.0, min_valid: int = 100,
    gradient: GradientSpec | None = None, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.FixedMultiDomainLoss` as a function."""
    loss = kept(FixedMultiDomainLoss, w_structure=w_structure, w_scale=w_scale,
        lambda_sg=lambda_sg, num_scales=num_scales, use_absolute=use_absolute, use_inv_depth=use_inv_depth,
        ssi_weight=ssi_weight, silog_weight=silog_weight, alpha_ssi=alpha_ssi, beta_silog=beta_silog,
        min_depth=min_depth, max_depth=max_depth, min_valid=min_valid, gradient=gradient, gt_range=gt_range,
        backend=backend, **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)
