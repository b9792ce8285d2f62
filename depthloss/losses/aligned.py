"""Losses after an alignment per image: least squares, median, and the trimmed form."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch.distributed as dist

from ..checks import check_number, check_scales, one_of
from ..spec import Backend, Gradient, GradientSpec, GtRange, Penalty, Pixel, TrimmedAlignment
from .base import DepthLoss, single_group

Reduction: TypeAlias = Literal["pixels", "images", "none"]


def _matching(data: Pixel, num_scales: int) -> Gradient:
    """MiDaS gradient matching of the residual of `data`: forward differences over pairs of valid pixels."""
    return Gradient(
        name="gradient_matching",
        align=data.align,
        align_eps=data.align_eps,
        align_grad=data.align_grad,
        gradient=GradientSpec.preset("midas", num_scales=num_scales),
        reduction=data.reduction,
        eps=0.0,
        parts=False,
    )


class SSITrimLoss(DepthLoss):
    """L1 after a clamped least-squares alignment per image, the largest residuals trimmed away.

    Source: packnet-sfm-resnet-san. ``a0 = cov/(var + epsilon)``, ``b = mean g - a0 mean p``, ``a = clamp(a0,
    0.1, 10)``; ``|a p + b - g|`` sorted, the first floor((1 - trim) n) averaged; summed over images / B. An
    image with fewer than 100 valid pixels counts as 0.

    Args:
        trim: fraction of the pixels left out, in [0, 0.99].
        epsilon: added to the variance.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``ssi_trim``, ``num_valid_pixels``, ``total_loss``.
    """

    def __init__(
        self,
        trim: float = 0.2,
        epsilon: float = 1e-6,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            single_group(TrimmedAlignment(name="ssi_trim", trim=trim, eps=epsilon)),
            gt_range=gt_range,
            backend=backend,
            process_group=process_group,
        )


class ScaleShiftInvariantLoss(DepthLoss):
    """The scale- and shift-invariant loss: least-squares alignment per image, half MSE or L1, plus gradient
    matching.

    Source: Ranftl et al., Towards Robust Monocular Depth Estimation (MiDaS), 2020. ``sum m (s p + b - g)^2 /
    (2 N)`` plus alpha times the forward differences of R = s p + b - g at R[::2^k] over pairs of valid
    pixels, each level divided by its valid pixels, summed over the levels. A constant prediction gets s = 0,
    b = mean g.

    Args:
        alpha: weight of the gradient matching.
        num_scales: its levels.
        data: ``"half-l2"``, half the mean square, or ``"l1"``, the mean of |R| (diffusion-e2e-ft).
        reduction: ``"pixels"``, sums of the batch by counts of the batch; ``"images"``, the mean of the
            images' values, an empty one 0; ``"none"``, these values, [B].
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``ssi_mse`` (``ssi_l1``), ``gradient_matching``, ``num_valid_pixels``, ``total_loss``.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        num_scales: int = 4,
        data: Literal["half-l2", "l1"] = "half-l2",
        reduction: Reduction = "pixels",
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        one_of("data", data, ("half-l2", "l1"))
        one_of("reduction", reduction, ("pixels", "images", "none"))
        term = Pixel(
            name="ssi_l1" if data == "l1" else "ssi_mse",
            align="least-squares",
            penalty=Penalty(data),
            reduction=reduction,
        )
        super().__init__(
            single_group(term, _matching(term, check_scales("num_scales", num_scales))),
            (1.0, check_number("alpha", alpha, low=0.0), 1.0),
            gt_range=gt_range,
            backend=backend,
            process_group=process_group,
        )


class AffineInvariantLoss(DepthLoss):
    """L1 of the maps standardised by median and mean absolute deviation over valid pixels, with gradient
    matching.

    Source: Ranftl et al. 2020, with the median over *valid* pixels and a trim that does trim: per image the
    smallest floor((1 - trim) n) residuals are averaged; then the mean over the images, an empty image
    counting as 0. The gradient matching is that of `ScaleShiftInvariantLoss`, not trimmed.

    Args:
        trim: fraction of the pixels left out, in [0, 0.99].
        trim_over: ``"image"``, or ``"batch"``: one threshold for the whole batch, with reduction
            ``"pixels"``.
        alpha: weight of the gradient matching; 0 leaves it out. DPT and Depth Anything V1/V2 take 0.5.
        num_scales: its levels.
        align_grad: ``"full"``, or ``"detached"``: the median of the prediction is a constant (Metric3D v2).
        reduction: ``"images"``, the mean of the images' values; ``"pixels"``, sums of the batch by counts of
            the batch; ``"none"``, the images' values, [B].
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``affine_invariant``, ``gradient_matching`` with alpha > 0, ``num_valid_pixels``, ``total_loss``.
    """

    def __init__(
        self,
        trim: float = 0.0,
        trim_over: Literal["image", "batch"] = "image",
        alpha: float = 0.0,
        num_scales: int = 4,
        align_grad: Literal["full", "detached"] = "full",
        reduction: Reduction = "images",
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        one_of("reduction", reduction, ("pixels", "images", "none"))
        term = Pixel(
            name="affine_invariant",
            align="median",
            align_grad=align_grad,
            trim=trim,
            trim_over=trim_over,
            reduction=reduction,
        )
        matching = _matching(term, check_scales("num_scales", num_scales))
        terms = (term, matching) if check_number("alpha", alpha, low=0.0) else (term,)
        super().__init__(
            single_group(*terms),
            (1.0, alpha, 1.0) if alpha else (),
            gt_range=gt_range,
            backend=backend,
            process_group=process_group,
        )
