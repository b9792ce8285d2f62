"""G2-MonoDepth and its multi-scale gradient term, on depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

import torch.distributed as dist
from torch import Tensor

from ..checks import check_scales, one_of
from ..spec import Absolute, Backend, Gradient, GradientSpec, GtRange, Relative
from .base import DepthLoss, Metrics, refuse_unknown, resolve_gradient, single_group


class G2Loss(DepthLoss):
    """``A + R + 0.5 G`` of depth: absolute L1, L1 after robust standardisation, multi-scale Sobel of the
    latter's residual.

    Source: Wang et al., G2-MonoDepth, T-PAMI 2024. ``variant="published"`` is the authors' code,
    ``"document"`` the form that circulates in its descriptions; they are not interchangeable.

    Args:
        variant: ``"published"``: A and R pooled over the batch, G residual, nearest, valid, full, sum.
            ``"document"``: A and R means of the images' means, G centre, average, zero, level, mean.
        num_scales: levels of G (default 4); not beside a `gradient` that has another number.
        eps: added to the mean absolute deviation and to the pooled denominators.
        weights: of A, R and G.
        gradient: another form of G.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``absolute``, ``relative``, ``gradient``, ``gradient/scale_k``, ``gradient/support_k``,
    ``num_valid_pixels``, ``total_loss``.
    """

    input_domain = "depth"

    def __init__(
        self,
        variant: Literal["published", "document"] = "published",
        num_scales: int | None = None,
        eps: float = 1e-6,
        weights: tuple[float, float, float] = (1.0, 1.0, 0.5),
        gradient: GradientSpec | None = None,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        if not isinstance(weights, (tuple, list)) or len(weights) != 3:
            raise ValueError(f"weights must be three numbers, of A, R and G; got {weights!r}")
        published = one_of("variant", variant, ("published", "document")) == "published"
        reduction = "pixels" if published else "images"
        gradient = resolve_gradient(gradient, num_scales, "g2-published" if published else "g2-document")
        spec = single_group(
            Absolute(name="absolute", reduction=reduction, eps=eps),
            Relative(name="relative", reduction=reduction, eps=eps),
            Gradient(name="gradient", gradient=gradient, align_eps=eps, eps=eps),
        )
        super().__init__(
            spec, (*weights, 1.0), gt_range=gt_range, backend=backend, process_group=process_group
        )

    if TYPE_CHECKING:

        @overload
        def __call__(
            self,
            pred: Tensor,
            gt: Tensor,
            mask: Tensor | None = None,
            *,
            progress: float | None = 0.0,
            epoch: int = 0,
            abs_mask: Tensor | None = None,
            weight: Tensor | None = None,
            confidence: Tensor | None = None,
            return_metrics: Literal[False] = False,
        ) -> Tensor: ...
        @overload
        def __call__(
            self,
            pred: Tensor,
            gt: Tensor,
            mask: Tensor | None = None,
            *,
            progress: float | None = 0.0,
            epoch: int = 0,
            abs_mask: Tensor | None = None,
            weight: Tensor | None = None,
            confidence: Tensor | None = None,
            return_metrics: Literal[True],
        ) -> tuple[Tensor, Metrics]: ...
        def __call__(self, *args: Any, **kwargs: Any) -> Any: ...  # noqa: D102

    def forward(
        self,
        pred: Tensor,
        gt: Tensor,
        mask: Tensor | None = None,
        *,
        progress: float | None = 0.0,
        epoch: int = 0,
        abs_mask: Tensor | None = None,
        weight: Tensor | None = None,
        confidence: Tensor | None = None,
        return_metrics: bool = False,
        **unknown: Any,
    ) -> Tensor | tuple[Tensor, Metrics]:
        """As `DepthLoss.forward`, with `abs_mask`: the pixels of A (upstream: where the sparse *input* has
        depth).
        """
        if unknown:
            refuse_unknown(type(self), tuple(unknown))
        own = (), self.process_group
        result = self._evaluate(pred, gt, mask, abs_mask, progress, epoch, *own, weight, confidence)
        return self._finish(result, return_metrics)


class MultiScaleGradientLoss(DepthLoss):
    """The multi-scale Sobel term alone, of p - g, not standardised (the documented form of the G2 loss).

    Args:
        scales: the factors 1, 2, 4, ... (default (1, 2, 4, 8)).
        gradient: another form; default centre, average, zero, level, mean.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``gradient``, ``gradient/scale_k``, ``gradient/support_k``, ``num_valid_pixels``, ``total_loss``.
    """

    input_domain = "depth"

    def __init__(
        self,
        scales: tuple[int, ...] | None = None,
        gradient: GradientSpec | None = None,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        num_scales = None
        if scales is not None:
            if not isinstance(scales, (tuple, list)):
                raise ValueError(f"scales must be (1, 2, 4, ...); got {scales!r}")
            num_scales = check_scales("len(scales)", len(scales))
            if tuple(scales) != tuple(1 << k for k in range(num_scales)):
                raise ValueError(f"scales must be 1, 2, 4, ... without gaps; got {scales!r}")
        gradient = resolve_gradient(gradient, num_scales, "g2-document")
        spec = single_group(Gradient(name="gradient", gradient=gradient, align="none"))
        super().__init__(spec, gt_range=gt_range, backend=backend, process_group=process_group)
