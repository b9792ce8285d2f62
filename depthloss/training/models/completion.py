"""Training wrapper: flips, the supervised terms of both passes, and their sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import depthloss

from .output import NetworkError, input_parameter, inverse_depths


def flip_lr(x: Tensor, flip: Tensor) -> Tensor:
    """Mirror the samples of ``x [B, C, H, W]`` for which ``flip [B]`` is true; its own inverse."""
    return torch.where(flip.view(-1, 1, 1, 1), x.flip(-1), x)


class SemiSupCompletionModel(nn.Module):
    """Depth network with its supervised loss, on the RGB and on the RGB-D pass.

    ``loss = w·(sup(inv_depths) + weight_rgbd·sup(inv_depths_rgbd)) + depth_loss``

    The name is that of packnet-sfm, where ``supervised_loss_weight`` w < 1 adds 1 − w parts of a photometric
    loss. That needs a pose network, and there is none here: w = 1 is the only value that can be trained.

    Args:
        depth_net: maps ``(rgb, input_depth or None)``, or ``rgb`` if its ``forward`` has no ``input_depth``,
            to a dict with ``inv_depths`` and, in training with input depth, ``inv_depths_rgbd`` and
            ``depth_loss``, such as :class:`ResNetSAN01`; or to what :func:`inverse_depths` takes.
        supervised_loss: ``depthloss.SupervisedLoss``, or a module with its interface.
        supervised_loss_weight: w.
        weight_rgbd: weight of the RGB-D pass, ≥ 0.
        flip_lr_prob: probability that a training sample is mirrored, drawn per sample from torch's generator
            of the batch's device.

    Raises:
        ValueError: a weight or probability out of range, or ``supervised_loss_weight`` below 1.
    """

    def __init__(
        self,
        depth_net: nn.Module,
        supervised_loss: nn.Module,
        supervised_loss_weight: float = 1.0,
        weight_rgbd: float = 1.0,
        flip_lr_prob: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 < supervised_loss_weight <= 1:
            raise ValueError(
                f"supervised_loss_weight={supervised_loss_weight!r}: expected a weight in (0, 1]"
            )
        if supervised_loss_weight < 1:
            raise ValueError(
                f"supervised_loss_weight={supervised_loss_weight!r} leaves {1 - supervised_loss_weight:g} to "
                "a photometric loss between frames, which needs a pose network, and there is none here: set "
                "supervised_loss_weight=1.0"
            )
        if not weight_rgbd >= 0:
            raise ValueError(f"weight_rgbd={weight_rgbd!r}: expected a weight of at least 0")
        if not 0 <= flip_lr_prob <= 1:
            raise ValueError(f"flip_lr_prob={flip_lr_prob!r}: expected a probability in [0, 1]")
        self.depth_net = depth_net
        self.supervised_loss = supervised_loss
        self.supervised_loss_weight = supervised_loss_weight
        self.weight_rgbd = weight_rgbd
        self.flip_lr_prob = flip_lr_prob
        parameter = input_parameter(depth_net)
        self.takes_input = parameter is not None
        self.needs_input = self.takes_input and parameter.default is parameter.empty
        self._checked = False  # the values of the network's first batch in training

    def forward(self, batch: Mapping[str, Any], progress: float = 0.0, epoch: int = 0) -> dict[str, Any]:
        """Predict, and in training compute the loss.

        Args:
            batch: ``rgb [B, 3, H, W]`` in [0, 1]; optional ``input_depth [B, 1, H, W]`` (m, 0 = none); in
                training also ``depth [B, 1, H, W]`` (m, 0 = invalid) and optional ``mask [B, 1, H, W]``
                (true = keep).
            progress: share of the training that is done, for the loss's schedules.
            epoch: number of the epoch, likewise.

        Returns:
            In evaluation ``inv_depths``: one full-resolution map (1/m). In training ``loss`` (0-dim),
            ``metrics`` (0-dim, detached; those of the RGB-D pass under ``rgbd/``) and all maps ``inv_depths``
            and ``inv_depths_rgbd``, in the orientation of the batch.

        Raises:
            KeyError: the batch lacks ``rgb``, or in training ``depth``.
            NetworkError: what the network returned is no depth of the images, or it needs an input depth that
                the batch lacks.
        """
        needed = ("rgb", "depth") if self.training else ("rgb",)
        missing = [key for key in needed if key not in batch]
        if missing:
            raise KeyError(f"the batch lacks {' and '.join(missing)}: it has {', '.join(batch) or 'nothing'}")
        rgb, input_depth = batch["rgb"], batch.get("input_depth")
        if not self.training:
            return {"inv_depths": self.outputs(rgb, input_depth)["inv_depths"]}

        gt = depthloss.to_inverse_depth(batch["depth"], batch.get("mask"))
        flip = None
        if self.flip_lr_prob > 0:
            flip = torch.rand(rgb.shape[0], device=rgb.device) < self.flip_lr_prob
            rgb, gt = flip_lr(rgb, flip), flip_lr(gt, flip)
            input_depth = None if input_depth is None else flip_lr(input_depth, flip)

        output = self.outputs(rgb, input_depth, check_values=not self._checked)
        self._checked = True
        weights = {"inv_depths": ("", 1.0), "inv_depths_rgbd": ("rgbd/", self.weight_rgbd)}
        loss, metrics, result = 0.0, {}, {}
        for key, (prefix, weight) in weights.items():
            if key not in output:
                continue
            # The mask goes along for a method without the prefix "sparse-", which takes every pixel.
            supervised = self.supervised_loss(
                output[key], gt, return_logs=True, progress=progress, masks=gt > 0, epoch=epoch
            )
            # Multiplied even by 0: a skipped pass would leave parameters without a gradient.
            loss = loss + self.supervised_loss_weight * weight * supervised["loss"]
            metrics.update({prefix + name: value for name, value in supervised["metrics"].items()})
            result[key] = output[key] if flip is None else [flip_lr(x, flip) for x in output[key]]
        if "depth_loss" in output:
            loss = loss + output["depth_loss"]
            metrics["depth_loss"] = output["depth_loss"].detach()
        return {"loss": loss, "metrics": metrics, **result}

    def outputs(
        self, rgb: Tensor, input_depth: Tensor | None = None, check_values: bool = False
    ) -> dict[str, Any]:
        """Run the network and return what it gives, see :func:`inverse_depths`."""
        if self.needs_input and input_depth is None:
            raise NetworkError(
                f"{type(self.depth_net).__name__} needs input_depth, and the data has none: give it some, or "
                "give the argument of forward a default of None"
            )
        if input_depth is not None and not self.takes_input:
            raise NetworkError(f"{type(self.depth_net).__name__}: its forward has no argument input_depth")
        output = self.depth_net(rgb, input_depth) if self.takes_input else self.depth_net(rgb)
        return inverse_depths(self.depth_net, output, rgb, check_values)
