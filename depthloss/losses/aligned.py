"""Losses after an alignment per image: least squares, median, and the trimmed form. They run on the reference
backend.
"""

from __future__ import annotations

import torch.distributed as dist

from ..checks import check_number
from ..spec import Backend, GradientMatching, GtRange, LeastSquares, MedianAlignment, TrimmedAlignment
from .base import DepthLoss, single_group


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
    """The scale- and shift-invariant loss: least-squares alignment per image, half MSE, plus gradient
    matching.

    Source: Ranftl et al., Towards Robust Monocular Depth Estimation (MiDaS), 2020. ``sum m (s p + b - g)^2 /
    (2 N)`` plus alpha times the forward differences of R = s p + b - g at R[::2^k] over pairs of valid
    pixels, each level divided by its valid pixels, summed over the levels. A constant prediction gets s = 0,
    b = mean g.

    Args:
        alpha: weight of the gradient matching.
        num_scales: its levels.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``ssi_mse``, ``gradient_matching``, ``num_valid_pixels``, ``total_loss``.
    """

    def __init__(
        self,
        alpha: float = 0.5,
        num_scales: int = 4,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        spec = single_group(
            LeastSquares(name="ssi_mse"), GradientMatching(name="gradient_matching", num_scales=num_scales)
        )
        super().__init__(
            spec,
            (1.0, check_number("alpha", alpha, low=0.0), 1.0),
            gt_range=gt_range,
            backend=backend,
            process_group=process_group,
        )


class AffineInvariantLoss(DepthLoss):
    """L1 of the maps standardised by median and mean absolute deviation over valid pixels.

    Source: Ranftl et al. 2020, with the median over *valid* pixels and a trim that does trim: per image the
    smallest floor((1 - trim) n) residuals are averaged; then the mean over the images, an empty image
    counting as 0.

    Args:
        trim: fraction of the pixels left out, in [0, 0.99].
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``affine_invariant``, ``num_valid_pixels``, ``total_loss``.
    """

    def __init__(
        self,
        trim: float = 0.0,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            single_group(MedianAlignment(name="affine_invariant", trim=trim)),
            gt_range=gt_range,
            backend=backend,
            process_group=process_group,
        )
