"""The supervised loss of packnet-sfm: one loss over the scales of a network's inverse depth."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import ops
from .registry import build_loss


class SupervisedLoss(nn.Module):
    """``(1/n) sum_{i<n} f(pred_i, gt_i)`` over n = min(supervised_num_scales, scales given), on inverse
    depth.

    The ground truth and the masks are matched to each scale by nearest; a loss of depth converts by itself,
    selecting first. Nothing of the caller's is changed.

    Args:
        supervised_method: name of the loss, see `build_loss`; ``sparse-`` in front = only pixels with gt > 0.
        supervised_num_scales: how many scales count.
        **kwargs: keywords of the loss.

    Raises:
        ValueError: unknown method, or supervised_num_scales < 1.
        TypeError: unknown keyword.

    Attributes:
        loss_func: the loss itself.
    """

    def __init__(self, supervised_method: str, supervised_num_scales: int = 4, **kwargs: object) -> None:
        super().__init__()
        if (
            isinstance(supervised_num_scales, bool)
            or not isinstance(supervised_num_scales, int)
            or supervised_num_scales < 1
        ):
            raise ValueError(f"supervised_num_scales must be an integer >= 1; got {supervised_num_scales!r}")
        self.supervised_method = supervised_method
        self.supervised_num_scales = supervised_num_scales
        self.loss_func = build_loss(supervised_method, **kwargs)
        self.loss_func.accept_inverse_depth()

    def clamp_parameters_(self) -> None:
        """Bring the loss's learnable parameters back into their bounds. Call it after each optimiser step."""
        self.loss_func.clamp_parameters_()

    def forward(
        self,
        inv_depths: Sequence[Tensor] | Tensor,
        gt_inv_depth: Tensor,
        return_logs: bool = False,
        progress: float | None = 0.0,
        masks: Tensor | None = None,
        *,
        epoch: int = 0,
    ) -> dict:
        """Evaluate the loss.

        Args:
            inv_depths: predictions [B, 1, H_i, W_i] in 1/m, finest first; or one of them.
            gt_inv_depth: [B, 1, H, W] in 1/m; 0 = invalid for a ``sparse-`` method.
            return_logs: taken for packnet-sfm's sake; the metrics are always returned.
            progress: fraction of the training done, a plain number.
            masks: [B, 1, H, W], non-zero = valid; None = every pixel.
            epoch: epoch of the training.

        Returns:
            ``{"loss": 0-dim tensor, "metrics": {name: detached 0-dim tensor}}``; the metrics of scale i begin
            with ``scale_i/``, and ``supervised_loss`` is the loss.
        """
        inv_depths = [inv_depths] if isinstance(inv_depths, Tensor) else list(inv_depths)
        if not inv_depths:
            raise ValueError("inv_depths must hold at least one prediction; got an empty list")
        if masks is not None and not isinstance(masks, Tensor):
            raise TypeError(f"masks must be one tensor for all scales, or None; got {type(masks).__name__}")
        losses, metrics = [], {}
        for i, pred in enumerate(inv_depths[: self.supervised_num_scales]):
            size = tuple(pred.shape[-2:])
            gt, mask = (
                x if x is None or tuple(x.shape[-2:]) == size else ops.nearest(x, *size)
                for x in (gt_inv_depth, masks)
            )
            losses.append(self.loss_func(pred, gt, mask, progress=progress, epoch=epoch))
            metrics.update((f"scale_{i}/{name}", value) for name, value in self.loss_func.metrics.items())
        loss = torch.stack(losses).mean()
        metrics["supervised_loss"] = loss.detach()
        return {"loss": loss, "metrics": metrics}
