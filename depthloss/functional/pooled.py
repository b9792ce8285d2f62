"""Losses of the pixels' errors, their moments and their ranks, as functions."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor

from ..losses import (
    AbsRelLoss,
    AffineInvariantLoss,
    BerHuLoss,
    EnhancedSSILoss,
    L1Loss,
    MSELoss,
    ProgressiveEnhancedSSILoss,
    ScaleShiftInvariantLoss,
    SILogLoss,
    SSILoss,
    SSISilogLoss,
    SSITrimLoss,
)
from ..losses.aligned import Reduction
from ..losses.base import Metrics
from ..losses.ssi import SILogPreset
from ..spec import Backend, GradientSpec, GtRange
from .kept import Ranks, call, kept

# Several parameters in a line: every signature stands here three times, twice for those who check types.
# fmt: off


@overload
def ssi_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.85, gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def ssi_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.85, gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def ssi_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.85, gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.SSILoss` as a function."""
    loss = kept(SSILoss, alpha=alpha, gt_range=gt_range, backend=backend, **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def silog_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    lam: float | None = None, scale: float | None = None, eps: float | None = None,
    offset: float | None = None, unbiased: bool | None = None,
    reduction: Literal["pixels", "images", "none"] | None = None,
    clamp: float | Literal["preset"] | None = "preset", root: bool = True,
    preset: SILogPreset | None = None, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def silog_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    lam: float | None = None, scale: float | None = None, eps: float | None = None,
    offset: float | None = None, unbiased: bool | None = None,
    reduction: Literal["pixels", "images", "none"] | None = None,
    clamp: float | Literal["preset"] | None = "preset", root: bool = True,
    preset: SILogPreset | None = None, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def silog_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    lam: float | None = None, scale: float | None = None, eps: float | None = None,
    offset: float | None = None, unbiased: bool | None = None,
    reduction: Literal["pixels", "images", "none"] | None = None,
    clamp: float | Literal["preset"] | None = "preset", root: bool = True,
    preset: SILogPreset | None = None, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.SILogLoss` as a function."""
    loss = kept(SILogLoss, lam=lam, scale=scale, eps=eps, offset=offset, unbiased=unbiased,
        reduction=reduction, clamp=clamp, root=root, preset=preset, gt_range=gt_range, backend=backend,
        **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def ssi_silog_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.85, silog_ratio2: float = 0.85, silog_scale: float = 1.0, ssi_weight: float = 0.7,
    silog_weight: float = 0.3, gradient_weight: float = 0.0, gradient: GradientSpec | None = None,
    min_depth: float | None = None, max_depth: float | None = None, min_valid: int = 100,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def ssi_silog_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.85, silog_ratio2: float = 0.85, silog_scale: float = 1.0, ssi_weight: float = 0.7,
    silog_weight: float = 0.3, gradient_weight: float = 0.0, gradient: GradientSpec | None = None,
    min_depth: float | None = None, max_depth: float | None = None, min_valid: int = 100,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def ssi_silog_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.85, silog_ratio2: float = 0.85, silog_scale: float = 1.0, ssi_weight: float = 0.7,
    silog_weight: float = 0.3, gradient_weight: float = 0.0, gradient: GradientSpec | None = None,
    min_depth: float | None = None, max_depth: float | None = None, min_valid: int = 100,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.SSISilogLoss` as a function."""
    loss = kept(SSISilogLoss, alpha=alpha, silog_ratio2=silog_ratio2, silog_scale=silog_scale,
        ssi_weight=ssi_weight, silog_weight=silog_weight, gradient_weight=gradient_weight, gradient=gradient,
        min_depth=min_depth, max_depth=max_depth, min_valid=min_valid, gt_range=gt_range, backend=backend,
        **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def enhanced_ssi_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.85, l1_weight: float = 0.2, ssi_weight: float = 0.8, adaptive_weighting: bool = True,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def enhanced_ssi_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.85, l1_weight: float = 0.2, ssi_weight: float = 0.8, adaptive_weighting: bool = True,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def enhanced_ssi_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.85, l1_weight: float = 0.2, ssi_weight: float = 0.8, adaptive_weighting: bool = True,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.EnhancedSSILoss` as a function."""
    loss = kept(EnhancedSSILoss, alpha=alpha, l1_weight=l1_weight, ssi_weight=ssi_weight,
        adaptive_weighting=adaptive_weighting, gt_range=gt_range, backend=backend, **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def progressive_enhanced_ssi_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.85, max_l1_weight: float = 0.3, transition_epochs: int = 15, gt_range: GtRange = None,
    backend: Backend = "auto", process_group: Ranks = None, return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def progressive_enhanced_ssi_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.85, max_l1_weight: float = 0.3, transition_epochs: int = 15, gt_range: GtRange = None,
    backend: Backend = "auto", process_group: Ranks = None, return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def progressive_enhanced_ssi_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.85, max_l1_weight: float = 0.3, transition_epochs: int = 15, gt_range: GtRange = None,
    backend: Backend = "auto", process_group: Ranks = None, return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.ProgressiveEnhancedSSILoss` as a function."""
    loss = kept(ProgressiveEnhancedSSILoss, alpha=alpha, max_l1_weight=max_l1_weight,
        transition_epochs=transition_epochs, gt_range=gt_range, backend=backend, **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def ssi_trim_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    trim: float = 0.2, epsilon: float = 1e-6, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def ssi_trim_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    trim: float = 0.2, epsilon: float = 1e-6, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def ssi_trim_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    trim: float = 0.2, epsilon: float = 1e-6, gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.SSITrimLoss` as a function."""
    loss = kept(SSITrimLoss, trim=trim, epsilon=epsilon, gt_range=gt_range, backend=backend,
        **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def berhu_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    threshold: float = 0.2, variant: Literal["laina", "packnet"] = "laina", gt_range: GtRange = None,
    backend: Backend = "auto", process_group: Ranks = None, return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def berhu_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    threshold: float = 0.2, variant: Literal["laina", "packnet"] = "laina", gt_range: GtRange = None,
    backend: Backend = "auto", process_group: Ranks = None, return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def berhu_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    threshold: float = 0.2, variant: Literal["laina", "packnet"] = "laina", gt_range: GtRange = None,
    backend: Backend = "auto", process_group: Ranks = None, return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.BerHuLoss` as a function."""
    loss = kept(BerHuLoss, threshold=threshold, variant=variant, gt_range=gt_range,
        backend=backend, **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def abs_rel_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    variant: Literal["standard", "packnet"] = "standard", gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def abs_rel_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    variant: Literal["standard", "packnet"] = "standard", gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def abs_rel_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    variant: Literal["standard", "packnet"] = "standard", gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.AbsRelLoss` as a function."""
    loss = kept(AbsRelLoss, variant=variant, gt_range=gt_range, backend=backend, **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def l1_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def l1_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def l1_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.L1Loss` as a function."""
    loss = kept(L1Loss, gt_range=gt_range, backend=backend, **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def mse_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def mse_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def mse_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.MSELoss` as a function."""
    loss = kept(MSELoss, gt_range=gt_range, backend=backend, **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def scale_shift_invariant_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.5, num_scales: int = 4, data: Literal["half-l2", "l1"] = "half-l2",
    reduction: Reduction = "pixels", gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def scale_shift_invariant_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.5, num_scales: int = 4, data: Literal["half-l2", "l1"] = "half-l2",
    reduction: Reduction = "pixels", gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def scale_shift_invariant_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    alpha: float = 0.5, num_scales: int = 4, data: Literal["half-l2", "l1"] = "half-l2",
    reduction: Reduction = "pixels", gt_range: GtRange = None, backend: Backend = "auto",
    process_group: Ranks = None, return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.ScaleShiftInvariantLoss` as a function."""
    loss = kept(ScaleShiftInvariantLoss, alpha=alpha, num_scales=num_scales, data=data,
        reduction=reduction, gt_range=gt_range, backend=backend,
        **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)


@overload
def affine_invariant_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    trim: float = 0.0, trim_over: Literal["image", "batch"] = "image", alpha: float = 0.0,
    num_scales: int = 4, align_grad: Literal["full", "detached"] = "full", reduction: Reduction = "images",
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[False] = False
) -> Tensor: ...
@overload
def affine_invariant_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    trim: float = 0.0, trim_over: Literal["image", "batch"] = "image", alpha: float = 0.0,
    num_scales: int = 4, align_grad: Literal["full", "detached"] = "full", reduction: Reduction = "images",
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: Literal[True]
) -> tuple[Tensor, Metrics]: ...
def affine_invariant_loss(
    pred: Tensor, gt: Tensor, mask: Tensor | None = None, *, progress: float | None = 0.0, epoch: int = 0,
    weight: Tensor | None = None,
    trim: float = 0.0, trim_over: Literal["image", "batch"] = "image", alpha: float = 0.0,
    num_scales: int = 4, align_grad: Literal["full", "detached"] = "full", reduction: Reduction = "images",
    gt_range: GtRange = None, backend: Backend = "auto", process_group: Ranks = None,
    return_metrics: bool = False, **unknown: object
) -> Tensor | tuple[Tensor, Metrics]:
    """`depthloss.AffineInvariantLoss` as a function."""
    loss = kept(AffineInvariantLoss, trim=trim, trim_over=trim_over, alpha=alpha,
        num_scales=num_scales, align_grad=align_grad, reduction=reduction, gt_range=gt_range, backend=backend,
        **unknown)
    return call(loss, pred, gt, mask, progress, epoch, process_group, return_metrics, weight)
