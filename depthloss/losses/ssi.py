"""Losses of pooled moments: SSI, SILog, their sum, and SSI mixed with a depth L1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, TypeAlias

import torch.distributed as dist

from ..checks import as_float, check_flag, check_number, did_you_mean, fraction_done
from ..spec import (
    Backend,
    DifferenceMoments,
    Domain,
    Gradient,
    GradientSpec,
    Group,
    GtRange,
    LogMoments,
    LossSpec,
    Moments,
    Pointwise,
    Term,
)
from .base import DepthLoss, resolve_gradient, single_group

SILogPreset: TypeAlias = Literal[
    "packnet", "bts", "adabins", "zoedepth", "depth-anything-v2", "mmseg", "toolbox-sig", "unidepth"
]
_SILOG: dict[str, Any] = {
    "lam": 0.85,
    "scale": 10.0,
    "eps": 1e-8,
    "offset": 0.0,
    "unbiased": False,
    "reduction": "pixels",
    "clamp": None,
    "positive_gt": False,
}
# What differs from that in the form of a published project; docs/losses.md has their sources.
SILOG_PRESETS: dict[str, dict[str, Any]] = {
    "packnet": {"eps": 0.0},
    "bts": {"eps": 0.0},
    "adabins": {"eps": 0.0, "unbiased": True},
    "zoedepth": {"eps": 0.0, "offset": 1e-7, "unbiased": True},
    "depth-anything-v2": {"lam": 0.5, "scale": 1.0, "eps": 0.0},
    "mmseg": {
        "lam": 0.5, "scale": 1.0, "eps": 0.0, "reduction": "images", "clamp": 1e-6, "positive_gt": True
    },
    "toolbox-sig": {"scale": 1.0, "eps": 0.0, "offset": 1e-3, "unbiased": True, "positive_gt": True},
    "unidepth": {"scale": 1.0, "eps": 1e-4, "offset": 1e-4, "reduction": "images"},
}  # fmt: skip


class SSILoss(DepthLoss):
    """``Var(e) + alpha * mean(e)^2`` of e = p - g, pooled over the batch.

    Keeps the name of its source (packnet-sfm-resnet-san), but is NOT invariant to scale or shift: it is the
    mean squared error less (1 - alpha) mean(e)^2. For an invariant loss use `ScaleShiftInvariantLoss`.

    Args:
        alpha: weight of the squared mean.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``ssi_component``, ``num_valid_pixels``, ``total_loss``.
    """

    def __init__(
        self,
        alpha: float = 0.85,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            single_group(DifferenceMoments(name="ssi_component", alpha=alpha)),
            gt_range=gt_range,
            backend=backend,
            process_group=process_group,
        )


class SILogLoss(DepthLoss):
    """``scale * sqrt(V + (1 - lam) * mean(l)^2 + eps)`` of l = ln(p + offset) - ln(t + offset), V its centred
    variance.

    Source: Eigen et al. 2014. Published projects use very different numbers under this name: choose theirs by
    `preset`. The same value for depth and inverse depth without offset and clamp. ln of a value <= 0 at a
    valid pixel is NaN and shows, so one prediction of exactly 0.0 makes the loss NaN: `clamp` prevents it. A
    radicand of 0 has a zero gradient.

    Args:
        lam: 1 = scale invariant, 0 = plain log RMSE; in [0, 1]. BTS calls it variance_focus, Depth Anything
            lambd, ZoeDepth 1 - beta, UniDepth 1 - integrated. None = the preset's, else 0.85.
        scale: factor in front. None = the preset's, else 10.
        eps: added under the root. None = the preset's, else 1e-8.
        offset: added inside the logarithms. None = the preset's, else 0.
        unbiased: V with n - 1. None = the preset's, else false.
        reduction: ``"pixels"``: one root of the pooled batch; ``"images"``: mean of the images' roots, empty
            = 0; ``"none"``: the images' roots, [B]. None = the preset's, else ``"pixels"``.
        clamp: floor of p and t, or None; ``"preset"`` = the preset's, else None.
        root: False: ``V + (1 - lam) * mean(l)^2``, where scale defaults to 1 and eps to 0 (Metric3D, with
            lam 0.5).
        preset: the form of a published project: ``"packnet"``, ``"bts"``, ``"adabins"``, ``"zoedepth"``,
            ``"depth-anything-v2"``, ``"mmseg"``, ``"toolbox-sig"`` or ``"unidepth"``. ``"mmseg"`` and
            ``"toolbox-sig"`` count only pixels with a positive, finite gt, as their originals do.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Raises:
        ValueError: unknown preset, or a scale other than 1 or an eps other than 0 without a root.

    Metrics: ``silog_component``, ``num_valid_pixels``, ``total_loss``.
    """

    input_domain = "either"
    _other_names = DepthLoss._other_names | {
        "variance_focus": "lam",
        "lambd": "lam",
        "beta": "lam=1 - beta",
        "integrated": "lam=1 - integrated",
    }

    def __init__(
        self,
        lam: float | None = None,
        scale: float | None = None,
        eps: float | None = None,
        offset: float | None = None,
        unbiased: bool | None = None,
        reduction: Literal["pixels", "images", "none"] | None = None,
        clamp: float | Literal["preset"] | None = "preset",
        root: bool = True,
        *,
        preset: SILogPreset | None = None,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        if preset is not None and (not isinstance(preset, str) or preset not in SILOG_PRESETS):
            raise ValueError(f"unknown SILog preset {preset!r}{did_you_mean(preset, SILOG_PRESETS)}")
        given: dict[str, Any] = {"lam": lam, "scale": scale, "eps": eps, "offset": offset}
        given |= {"unbiased": unbiased, "reduction": reduction}
        form = _SILOG | (SILOG_PRESETS[preset] if preset is not None else {})
        form |= {key: value for key, value in given.items() if value is not None}
        form |= {} if clamp == "preset" else {"clamp": clamp}
        positive_gt = form.pop("positive_gt")
        if not check_flag("root", root):
            form |= {"scale": 1.0 if scale is None else scale, "eps": 0.0 if eps is None else eps}
        super().__init__(
            single_group(LogMoments(name="silog_component", root=root, **form)),
            gt_range=gt_range,
            backend=backend,
            process_group=process_group,
        )
        if positive_gt:
            self.require_positive_gt()

    @classmethod
    def preset(cls, name: SILogPreset, **overrides: Any) -> SILogLoss:
        """``SILogLoss(preset=name, **overrides)``."""
        return cls(preset=name, **overrides)


def scale_terms(
    alpha: float, silog_ratio2: float, silog_scale: float, min_depth: float | None, max_depth: float | None
) -> tuple[Moments, Moments]:
    """SSI of inverse depth and SILog of the depth clamped to [min or 1e-3, max or 100]."""
    check_number("silog_ratio2", silog_ratio2, low=0.0, high=1.0)
    check_number("silog_scale", silog_scale, low=0.0)
    low = min_depth is not None and check_number("min_depth", min_depth, low=0.0)
    high = max_depth is not None and check_number("max_depth", max_depth, low=0.0)
    domain = Domain("inverse", low or 1e-3, high or 100.0)
    return (
        DifferenceMoments(name="ssi_component", weight_name="ssi_weight_used", alpha=alpha),
        LogMoments(
            name="silog_component",
            weight_name="silog_weight_used",
            domain=domain,
            lam=silog_ratio2,
            scale=silog_scale,
            eps=1e-8,
        ),
    )


class SSISilogLoss(DepthLoss):
    """``ssi_weight * SSI + silog_weight * SILog (+ gradient_weight * G)`` of inverse depth.

    Source: packnet-sfm-resnet-san. SSI compares inverse depth, SILog depth clamped to [min_depth or 1e-3,
    max_depth or 100] m, G the clamped depths, not standardised.

    Args:
        alpha: of SSI.
        silog_ratio2: lam of SILog.
        silog_scale: scale of SILog; 10 is the source's older form.
        ssi_weight: weight of SSI.
        silog_weight: weight of SILog.
        gradient_weight: weight of G; 0 leaves it out.
        gradient: form of G; default support, average, replicate, level, mean, 4 levels.
        min_depth: lower clamp in metres.
        max_depth: upper clamp in metres.
        min_valid: with fewer valid pixels in the whole batch the loss is exactly 0.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Raises:
        ValueError: min_depth >= max_depth after the defaults are put in.

    Metrics: ``ssi_component``, ``silog_component``, ``gradient_component``, ``*_weight_used``,
    ``gradient/scale_k``, ``gradient/support_k``, ``num_valid_pixels``, ``total_loss``.
    """

    def __init__(
        self,
        alpha: float = 0.85,
        silog_ratio2: float = 0.85,
        silog_scale: float = 1.0,
        ssi_weight: float = 0.7,
        silog_weight: float = 0.3,
        gradient_weight: float = 0.0,
        gradient: GradientSpec | None = None,
        min_depth: float | None = None,
        max_depth: float | None = None,
        min_valid: int = 100,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        terms: tuple[Term, ...] = scale_terms(alpha, silog_ratio2, silog_scale, min_depth, max_depth)
        weights: tuple[float, ...] = (
            check_number("ssi_weight", ssi_weight),
            check_number("silog_weight", silog_weight),
        )
        gradient = resolve_gradient(gradient, None, "sparse")
        if check_number("gradient_weight", gradient_weight, low=0.0):
            terms += (
                Gradient(
                    name="gradient_component",
                    weight_name="gradient_weight_used",
                    domain=replace(terms[1].domain, log=None),
                    gradient=gradient,
                    align="none",
                    eps=1e-8,
                ),
            )
            weights += (gradient_weight,)
        spec = LossSpec((Group(terms, min_valid=min_valid),))
        super().__init__(
            spec, (*weights, 1.0), gt_range=gt_range, backend=backend, process_group=process_group
        )


class _SSIWithL1(DepthLoss):
    """``w_s * SSI(inverse depth) + w_l * mean |1/(p + 1e-6) - 1/(g + 1e-6)|``."""

    def __init__(self, alpha: float, **common: Any) -> None:
        spec = single_group(
            DifferenceMoments(name="ssi_component", weight_name="ssi_weight_used", alpha=alpha),
            Pointwise(
                name="l1_component", weight_name="l1_weight_used", kind="l1", domain=Domain("shifted-inverse")
            ),
        )
        super().__init__(spec, **common)


class EnhancedSSILoss(_SSIWithL1):
    """``w_s * SSI(inverse depth) + w_l * mean |1/(p + 1e-6) - 1/(g + 1e-6)|``, weights following the progress
    t.

    Source: packnet-sfm-resnet-san. ``w_s = (0.8 + 0.1 (1-t))/1.1``, ``w_l = (0.2 + 0.1 t)/1.1``; with
    ``progress=None`` or ``adaptive_weighting=False`` the fixed weights (there, 0.8 and 0.2 stand for
    `ssi_weight` and `l1_weight`).

    Args:
        alpha: of SSI.
        l1_weight: weight of the depth L1.
        ssi_weight: weight of SSI.
        adaptive_weighting: follow the progress.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``ssi_component``, ``l1_component``, ``ssi_weight_used``, ``l1_weight_used``,
    ``num_valid_pixels``, ``total_loss``.
    """

    def __init__(
        self,
        alpha: float = 0.85,
        l1_weight: float = 0.2,
        ssi_weight: float = 0.8,
        adaptive_weighting: bool = True,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(alpha, gt_range=gt_range, backend=backend, process_group=process_group)
        self.l1_weight, self.ssi_weight = (
            check_number("l1_weight", l1_weight, low=0.0),
            check_number("ssi_weight", ssi_weight, low=0.0),
        )
        self.adaptive_weighting = check_flag("adaptive_weighting", adaptive_weighting)

    def weights(self, progress: float | None, epoch: int) -> tuple[float, ...]:
        """(w_s, w_l) at this progress, and the group's 1."""
        if progress is None or not self.adaptive_weighting:
            return self.ssi_weight, self.l1_weight, 1.0
        t = fraction_done(progress)
        w_s, w_l = self.ssi_weight + 0.1 * (1.0 - t), self.l1_weight + 0.1 * t
        return w_s / (w_s + w_l), w_l / (w_s + w_l), 1.0


class ProgressiveEnhancedSSILoss(_SSIWithL1):
    """SSI of inverse depth, with a depth L1 that grows over the first epochs.

    Source: packnet-sfm-resnet-san. ``w_l = max_l1_weight * min(1, epoch/transition_epochs)``, ``w_s = 1 -
    w_l``.

    Args:
        alpha: of SSI.
        max_l1_weight: weight of the depth L1 after the transition.
        transition_epochs: length of the transition.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: as `EnhancedSSILoss`.
    """

    def __init__(
        self,
        alpha: float = 0.85,
        max_l1_weight: float = 0.3,
        transition_epochs: int = 15,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(alpha, gt_range=gt_range, backend=backend, process_group=process_group)
        self.max_l1_weight = check_number("max_l1_weight", max_l1_weight, low=0.0, high=1.0)
        self.transition_epochs = check_number("transition_epochs", transition_epochs, low=0.0, strict=True)

    def weights(self, progress: float | None, epoch: int) -> tuple[float, ...]:
        """(w_s, w_l) at this epoch, and the group's 1."""
        share = as_float("epoch", epoch, "a number") / self.transition_epochs
        w_l = self.max_l1_weight * min(1.0, max(0.0, share))
        return 1.0 - w_l, w_l, 1.0
