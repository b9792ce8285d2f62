"""The supervised loss of packnet-sfm: one loss over the scales of a network's inverse depth."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from ..checks import check_number, check_whole, fraction_done
from ..maps import nearest
from .base import Metrics, refuse_unknown
from .recipes import recipe
from .registry import LOSSES, build_loss, find_loss

# The forms of packnet-sfm's own methods.
_PACKNET = {
    "l1": {},
    "mse": {},
    "berhu": {"variant": "packnet"},
    "silog": {"preset": "packnet"},
    "abs-rel": {"variant": "packnet"},
}
# What its models hand to their supervised loss, and this ignores: keywords of the models and of other losses.
_PACKNET_IGNORES = frozenset(
    "C1 C2 automask_loss clip_loss depth_net disp_norm flip_lr_prob max_depth min_depth num_scales "
    "occ_reg_weight padding_mode photometric_reduce_op pose_net rotation_mode smooth_loss_weight "
    "ssim_loss_weight supervised_loss_weight upsample_depth_maps velocity_loss_weight weight_rgbd".split()
)


class Supervised(TypedDict):
    """What `SupervisedLoss` returns."""

    loss: Tensor
    metrics: Metrics


class SupervisedLoss(nn.Module):
    """``(1/n) sum_{i<n} f(pred_i, gt_i)`` over n = min(supervised_num_scales, scales given), on inverse
    depth.

    The ground truth and the masks are matched to each scale by nearest; a loss of depth converts by itself,
    selecting first. Nothing of the caller's is changed.

    Args:
        supervised_method: name of the loss, see `build_loss`; ``sparse-`` in front = only pixels with a
            positive and finite gt; or ``recipe/NAME``, see `recipe`. May be left out with
            ``convention="packnet"``, whose default is ``"sparse-l1"``.
        supervised_num_scales: how many scales count.
        progressive_scaling: s > 0: one scale fewer after each share s of the training, the coarsest first,
            and at least one is left; 0 = all, always. (packnet-sfm documents it, and does not do it.)
        convention: None, or ``"packnet"``: a drop-in for the class of packnet-sfm (TRI-ML), with its forms of
            ``berhu``, ``silog`` and ``abs_rel`` and a loss of shape [1]. Losses that it does not have are
            those of this library. It takes the keywords that the original ignores, and ignores them:
            ``C1``, ``C2``, ``automask_loss``, ``clip_loss``, ``depth_net``, ``disp_norm``, ``flip_lr_prob``,
            ``max_depth`` and ``min_depth`` (but to a loss that has bounds they are given), ``num_scales``
            (of its photometric loss), ``occ_reg_weight``, ``padding_mode``, ``photometric_reduce_op``,
            ``pose_net``, ``rotation_mode``, ``smooth_loss_weight``, ``ssim_loss_weight``,
            ``supervised_loss_weight``, ``upsample_depth_maps``, ``velocity_loss_weight``, ``weight_rgbd``.
        **kwargs: keywords of the loss.

    Raises:
        ValueError: unknown method or convention, supervised_num_scales < 1, or progressive_scaling < 0.
        TypeError: unknown keyword.

    Attributes:
        RECIPE: what stands in front of the name of a recipe.
        loss_func: the loss itself.
        logs: ``{"supervised_num_scales": n}``, the scales that counted in the last call.
    """

    RECIPE = "recipe/"

    def __init__(
        self,
        supervised_method: str | None = None,
        supervised_num_scales: int = 4,
        progressive_scaling: float = 0.0,
        *,
        convention: Literal["packnet"] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if convention not in (None, "packnet"):
            raise ValueError(f"convention must be None or 'packnet'; got {convention!r}")
        if supervised_method is None:
            if convention is None:
                raise TypeError("supervised_method is missing: give the name of a loss, as 'sparse-silog'")
            supervised_method = "sparse-l1"
        if not isinstance(supervised_method, str):
            raise TypeError(f"supervised_method must be the name of a loss; got {supervised_method!r}")
        of_recipe = supervised_method.startswith(self.RECIPE)
        if convention == "packnet" and not of_recipe:
            _, base = find_loss(supervised_method)
            bounds = {"min_depth", "max_depth"} & inspect.signature(LOSSES[base]).parameters.keys()
            kwargs = _PACKNET.get(base, {}) | {
                key: value for key, value in kwargs.items() if key not in _PACKNET_IGNORES or key in bounds
            }
        self.supervised_method = supervised_method
        self.supervised_num_scales = self._scales = check_whole(
            "supervised_num_scales", supervised_num_scales, 1
        )
        self.progressive_scaling = check_number("progressive_scaling", progressive_scaling, low=0.0)
        self.convention = convention
        if of_recipe:
            self.loss_func = recipe(supervised_method.removeprefix(self.RECIPE), **kwargs)
        else:
            self.loss_func = build_loss(supervised_method, **kwargs)
        if self.loss_func.spec.confidence:
            raise ValueError(
                f"{supervised_method!r} needs a confidence with each call, which SupervisedLoss has not: "
                "call the loss itself"
            )
        self.loss_func.accept_inverse_depth()

    @property
    def logs(self) -> dict[str, int]:
        """The scales that counted in the last call, as packnet-sfm's models ask for them."""
        return {"supervised_num_scales": self._scales}

    def num_scales(self, progress: float | None) -> int:
        """The scales that count at this progress; None is the end of the training."""
        if not self.progressive_scaling:
            return self.supervised_num_scales
        t = 1.0 if progress is None else fraction_done(progress)
        passed = sum(self.progressive_scaling * (i + 1) < t for i in range(self.supervised_num_scales - 1))
        return self.supervised_num_scales - passed

    def clamp_parameters_(self) -> None:
        """Bring the loss's learnable parameters back into their bounds. Call it after each optimiser step."""
        self.loss_func.clamp_parameters_()

    if TYPE_CHECKING:  # nn.Module's own returns Any.

        def __call__(  # noqa: D102
            self,
            inv_depths: Sequence[Tensor] | Tensor,
            gt_inv_depth: Tensor,
            return_logs: bool = False,
            progress: float | None = 0.0,
            masks: Tensor | None = None,
            *,
            epoch: int = 0,
            weight: Sequence[Tensor] | Tensor | None = None,
        ) -> Supervised: ...

    def forward(
        self,
        inv_depths: Sequence[Tensor] | Tensor,
        gt_inv_depth: Tensor,
        return_logs: bool = False,
        progress: float | None = 0.0,
        masks: Tensor | None = None,
        *,
        epoch: int = 0,
        weight: Sequence[Tensor] | Tensor | None = None,
        **unknown: Any,
    ) -> Supervised:
        """Evaluate the loss.

        Args:
            inv_depths: predictions [B, 1, H_i, W_i] in 1/m, finest first; or one of them.
            gt_inv_depth: [B, 1, H, W] in 1/m; 0 = invalid for a ``sparse-`` method.
            return_logs: True or False, taken for packnet-sfm's sake; the metrics are always returned.
            progress: fraction of the training done, a plain number; for the schedules of the loss and
                `progressive_scaling`.
            masks: [B, 1, H, W], non-zero = valid; None = every pixel.
            epoch: epoch of the training.
            weight: [B, 1, H, W], how much each pixel counts, matched to each scale by nearest; or a list of
                one map per scale. See `DepthLoss.forward`.
            **unknown: refused, with the keywords there are.

        Returns:
            ``{"loss": 0-dim tensor ([1] in the convention of packnet), "metrics": {name: detached 0-dim
            tensor}}``; the metrics of scale i begin with ``scale_i/``, and ``supervised_loss`` is the loss.

        Raises:
            TypeError: something that is no tensor, a mask in the place of `return_logs`, or an unknown
                keyword.
            ValueError: what the loss refuses, no prediction, or not as many weights as predictions.
        """
        if unknown:
            refuse_unknown(type(self), tuple(unknown))
        if not isinstance(return_logs, (int, type(None))):
            kind = type(return_logs).__name__
            raise TypeError(f"return_logs must be True or False; got {kind}: give a mask as masks=")
        inv_depths = as_scales("inv_depths", inv_depths)
        if not isinstance(gt_inv_depth, Tensor):
            raise TypeError(f"gt_inv_depth must be a torch.Tensor; got {type(gt_inv_depth).__name__}")
        if masks is not None and not isinstance(masks, Tensor):
            raise TypeError(f"masks must be one tensor for all scales, or None; got {type(masks).__name__}")
        weights = weight_of_scales(weight, len(inv_depths))
        losses: list[Tensor] = []
        metrics: Metrics = {}
        scales = min(self.num_scales(progress), len(inv_depths))
        if scales != self._scales:
            self._scales = scales
        for i, pred in enumerate(inv_depths[:scales]):
            size = pred.shape[-2:]
            gt = at_size(gt_inv_depth, size)
            mask, w = (None if x is None else at_size(x, size) for x in (masks, weights[i]))
            losses.append(self.loss_func(pred, gt, mask, progress=progress, epoch=epoch, weight=w))
            metrics.update((f"scale_{i}/{name}", value) for name, value in self.loss_func.metrics.items())
        loss = torch.stack(losses).mean()
        metrics["supervised_loss"] = loss.detach()
        return {"loss": loss.unsqueeze(0) if self.convention == "packnet" else loss, "metrics": metrics}


def as_scales(name: str, preds: object) -> list[Tensor]:
    """`preds`, one prediction or several of them, as a list; `name` is for the error."""
    several = isinstance(preds, Iterable) and not isinstance(preds, (Tensor, Mapping))
    found: list[Any] = list(preds) if several else [preds]  # type: ignore[call-overload]
    if wrong := [type(x).__name__ for x in found if not isinstance(x, Tensor)]:
        got = f"{type(preds).__name__}{f' with {wrong[0]}' if several else ''}"
        raise TypeError(f"{name} must be a tensor or a list of tensors; got {got}")
    if not found:
        raise ValueError(f"{name} must hold at least one prediction; got an empty list")
    return found


def weight_of_scales(weight: Sequence[Tensor] | Tensor | None, scales: int) -> list[Tensor | None]:
    """The weight of each scale, before it is brought to its size."""
    if weight is None or isinstance(weight, Tensor):
        return [weight] * scales
    if not isinstance(weight, Sequence) or not all(isinstance(x, Tensor) for x in weight):
        raise TypeError(
            f"weight must be a tensor, or a list of one per prediction; got {type(weight).__name__}"
        )
    if len(weight) != scales:
        raise ValueError(f"weight must be one tensor, or one per prediction: got {len(weight)} for {scales}")
    return list(weight)


def at_size(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """`x` [..., H, W] at another size by nearest; itself where it has it."""
    return x if x.shape[-2:] == size else nearest(x, *size)
