"""Scale-adaptive losses on inverse depth."""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist

from ..checks import check_flag, check_number
from ..spec import (
    IDENTITY,
    Absolute,
    Backend,
    Domain,
    Gradient,
    GradientSpec,
    Group,
    GtRange,
    LossSpec,
    Relative,
    Term,
)
from .base import DepthLoss, resolve_gradient


def depth_domain(use_inv_depth: bool, min_depth: float | None, max_depth: float | None) -> Domain:
    """The domain of the structure terms: inverse depth as given, or depth clamped to the bounds."""
    depth = Domain("inverse", min_depth, max_depth)
    return IDENTITY if check_flag("use_inv_depth", use_inv_depth) else depth


def structure_terms(
    domain: Domain, gradient: GradientSpec, epsilon: float, use_absolute: bool
) -> tuple[tuple[Term, ...], Gradient]:
    """R (and A) and G of the scale-adaptive loss."""
    check_number("epsilon", epsilon, low=0.0, strict=True)
    pixel: tuple[Term, ...] = (Relative(name="scale_adaptive/relative", domain=domain, eps=epsilon),)
    if check_flag("use_absolute", use_absolute):
        pixel += (Absolute(name="scale_adaptive/absolute", domain=domain, eps=epsilon),)
    return pixel, Gradient(name="loss_sg", domain=domain, gradient=gradient, align_eps=epsilon, eps=epsilon)


class ScaleAdaptiveLoss(DepthLoss):
    """``(R + A) + lambda_sg * G`` of inverse depth, by default converted to depth 1/max(x, 1e-6).

    Source: the scale-adaptive loss of packnet-sfm-resnet-san's guide, with masked statistics and a gradient
    term that looks only at supported pixels; on dense data both agree with the source.

    Args:
        lambda_sg: weight of the gradient term.
        epsilon: added to the mean absolute deviation and the denominators.
        num_scales: levels of G (default 4); not beside a `gradient` that has another number.
        use_absolute: with A, the masked L1 in metres (or 1/m).
        use_inv_depth: compare inverse depth itself; no conversion, no bounds.
        min_depth: lower clamp in metres after the conversion, or None.
        max_depth: upper clamp in metres after the conversion, or None.
        statistics: ``"masked"``, or ``"all"``: mu, S, R and G over every pixel, as the source has it (dense
            data only).
        gradient: another form of G; default support, bilinear, replicate, level, mean.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``scale_adaptive/relative``, ``scale_adaptive/absolute``, ``gradient/scale_k``,
    ``gradient/support_k``, ``loss_sa``, ``loss_sg``, ``num_valid_pixels``, ``total_loss``.
    """

    def __init__(
        self,
        lambda_sg: float = 0.5,
        epsilon: float = 1e-8,
        num_scales: int | None = None,
        use_absolute: bool = True,
        use_inv_depth: bool = False,
        min_depth: float | None = None,
        max_depth: float | None = None,
        statistics: Literal["masked", "all"] = "masked",
        gradient: GradientSpec | None = None,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        pixel, sobel = structure_terms(
            depth_domain(use_inv_depth, min_depth, max_depth),
            resolve_gradient(gradient, num_scales, "scale-adaptive"),
            epsilon,
            use_absolute,
        )
        spec = LossSpec((Group(pixel, name="loss_sa"), Group((sobel,))), statistics)
        weights = (1.0,) * (len(pixel) + 1) + (1.0, check_number("lambda_sg", lambda_sg, low=0.0))
        super().__init__(spec, weights, gt_range=gt_range, backend=backend, process_group=process_group)
