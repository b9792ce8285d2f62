"""The scale-adaptive loss of several sizes of the maps, weighted by the progress of the training."""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist
from torch import Tensor

from .. import dispatch
from ..checks import check_number, check_scales, fraction_done, one_of
from ..maps import bilinear, convert, masked_average, nearest, select, valid_pixels, working_dtype
from ..spec import (
    IDENTITY,
    INVERSE_DEPTH_FLOOR,
    Absolute,
    Backend,
    Gradient,
    GradientSpec,
    Group,
    GtRange,
    LossSpec,
    Relative,
)
from .base import DepthLoss, Metrics
from .scale_adaptive import depth_domain

SCHEDULES = {"alpha_schedule": ("linear", "constant", "none"), "scale_schedule": ("linear", "constant")}


class ProgressiveScaleAdaptiveLoss(DepthLoss):
    """``sum_s w_s(t) ((1 - lambda) R_s + lambda G_s) + alpha(t) A``: each scale standardised by itself,
    weighted by progress t.

    Source: the integration analysis of packnet-sfm-resnet-san, which names the schedules without defining
    them; the definitions are ours. K evaluations.

    Args:
        min_depth: lower clamp in metres.
        max_depth: upper clamp in metres.
        lambda_sg: share of the gradient term in each scale, 0 to 1.
        use_inv_depth: compare inverse depth itself; no conversion, no bounds.
        alpha_schedule: weight of the absolute term: ``"linear"`` (1+t)/2, ``"constant"`` 1, ``"none"`` 0.
        scale_schedule: ``"linear"``: w_s proportional to 1 + (1-t) s, coarse first, equal at t = 1;
            ``"constant"``: 1/K.
        num_scales: K.
        eps: added to the mean absolute deviation and the denominators.
        downsample: how scale s is made. ``"bilinear"``: the prediction bilinearly, gt and mask by nearest. It
            reads predictions at invalid pixels, and on scattered ground truth its gradient term sees next to
            nothing. ``"average"``: of both maps the mean over the valid pixels of each cell, valid where
            there is one.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``scale{s}_loss``, ``scale{s}_l1``, ``scale{s}_grad``, ``gradient/support_k``, ``absolute``,
    ``alpha_t``, ``num_valid_pixels``, ``total_loss``.
    """

    def __init__(
        self,
        min_depth: float | None = 0.1,
        max_depth: float | None = 100.0,
        lambda_sg: float = 0.5,
        use_inv_depth: bool = False,
        alpha_schedule: Literal["linear", "constant", "none"] = "linear",
        scale_schedule: Literal["linear", "constant"] = "linear",
        num_scales: int = 4,
        eps: float = 1e-6,
        downsample: Literal["bilinear", "average"] = "bilinear",
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        for name, value in (("alpha_schedule", alpha_schedule), ("scale_schedule", scale_schedule)):
            one_of(name, value, SCHEDULES[name])
        self.domain = depth_domain(use_inv_depth, min_depth, max_depth)
        self.lambda_sg = check_number("lambda_sg", lambda_sg, low=0.0, high=1.0)
        self.alpha_schedule, self.scale_schedule = alpha_schedule, scale_schedule
        self.downsample = one_of("downsample", downsample, ("bilinear", "average"))
        check_number("eps", eps, low=0.0, strict=True)
        one_level = GradientSpec.preset("scale-adaptive", num_scales=1)
        groups = [
            Group(
                (
                    Relative(name=f"scale{s}_l1", eps=eps),
                    Gradient(name=f"scale{s}_grad", gradient=one_level, align_eps=eps, eps=eps),
                ),
                name=f"scale{s}_loss",
            )
            for s in range(check_scales("num_scales", num_scales))
        ]
        absolute = Group((Absolute(name="absolute", weight_name="alpha_t", eps=eps),))
        self.levels = (LossSpec((groups[0], absolute)), *(LossSpec((group,)) for group in groups[1:]))
        super().__init__(self.levels[0], gt_range=gt_range, backend=backend, process_group=process_group)

    def schedules(self, progress: float | None) -> tuple[float, tuple[float, ...]]:
        """alpha(t) and the weights w_s(t), t = progress clamped to [0, 1]; None counts as 1, the end of the
        training.
        """
        t = 1.0 if progress is None else fraction_done(progress)
        alpha = {"linear": (1.0 + t) / 2.0, "constant": 1.0, "none": 0.0}[self.alpha_schedule]
        raw = [
            1.0 + (1.0 - t) * s if self.scale_schedule == "linear" else 1.0 for s in range(len(self.levels))
        ]
        return alpha, tuple(w / sum(raw) for w in raw)

    def term_weights(self, progress: float | None = 0.0, epoch: int = 0) -> dict[str, float]:
        """As `DepthLoss.term_weights`."""
        alpha, shares = self.schedules(progress)
        weights = {}
        for s, share in enumerate(shares):
            weights[f"scale{s}_l1"] = share * (1.0 - self.lambda_sg)
            weights[f"scale{s}_grad"] = share * self.lambda_sg
        return {**weights, "absolute": alpha}

    def gradient_weight(self, progress: float | None = 0.0, epoch: int = 0) -> float:
        """As `DepthLoss.gradient_weight`."""
        return self.lambda_sg

    def _at_scale(self, s: int, p: Tensor, g: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(p, g, m) at 1/2^s of their size."""
        if s == 0:
            return p, g, m
        if self.downsample == "average":
            p, g, m = masked_average(1 << s, m, p, g)
            return p, g, m
        size = p.shape[1] >> s, p.shape[2] >> s
        return bilinear(p, 1 << s), nearest(g, *size), nearest(m, *size)

    def _evaluate(
        self,
        pred: Tensor,
        gt: Tensor,
        mask: Tensor | None,
        abs_mask: Tensor | None,
        progress: float | None,
        epoch: int,
        log_vars: tuple[Tensor, ...],
        process_group: dist.ProcessGroup | None,
        weight: Tensor | None = None,
        confidence: Tensor | None = None,
    ) -> tuple[Tensor, Metrics]:
        if weight is not None or confidence is not None:
            raise ValueError(
                f"{type(self).__name__} takes no weight and no confidence: its scales resample the maps. Use "
                "scale-adaptive"
            )
        dispatch.check_inputs(pred, gt, mask)
        alpha, shares = self.schedules(progress)
        dtype = working_dtype(pred, gt)
        p, g = dispatch.as_maps(pred), dispatch.as_maps(gt)
        m = valid_pixels(g, dispatch.as_maps(mask), self.spec.positive_gt, self.spec.gt_range)
        read = m
        if self.downsample == "bilinear":
            # Reads the finite predictions at invalid pixels; the others, and those without a depth, count as
            # 0.
            read = m | (p.isfinite() if self.domain == IDENTITY else p.isfinite() & (p > INVERSE_DEPTH_FLOOR))
        p = select(read, convert(p.to(dtype), read, self.domain))
        g = convert(g.to(dtype), m, self.domain)
        losses: list[Tensor] = []
        metrics: Metrics = {}
        for s, spec in enumerate(self.levels):
            maps = self._at_scale(s, p, g, m)
            weights = (
                1.0 - self.lambda_sg,
                self.lambda_sg,
                *((alpha,) if s == 0 else ()),
                shares[s],
                *((1.0,) if s == 0 else ()),
            )
            loss, terms = dispatch.evaluate(*maps, None, spec, weights, (), process_group, self.backend)
            losses.append(loss)
            level = dict(zip(spec.metric_names, terms.unbind(), strict=True))
            level[f"gradient/support_{s + 1}"] = level.pop("gradient/support_1")
            del level["gradient/scale_1"]
            for name, value in level.items():
                metrics.setdefault(name, value)
        total = sum(losses[1:], losses[0])
        return total, {**metrics, "total_loss": total.detach()}
