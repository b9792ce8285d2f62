"""Losses by name."""

from __future__ import annotations

import logging
from typing import Any

from ..checks import did_you_mean
from .aligned import AffineInvariantLoss, ScaleShiftInvariantLoss, SSITrimLoss
from .base import DepthLoss, check_keywords, resolve_gradient
from .g2 import G2Loss, MultiScaleGradientLoss
from .multi_domain import AdaptiveMultiDomainLoss, FixedMultiDomainLoss
from .pointwise import AbsRelLoss, BerHuLoss, L1Loss, MSELoss
from .progressive import SCHEDULES, ProgressiveScaleAdaptiveLoss
from .scale_adaptive import ScaleAdaptiveLoss
from .ssi import SILOG_PRESETS, EnhancedSSILoss, ProgressiveEnhancedSSILoss, SILogLoss, SSILoss, SSISilogLoss

_log = logging.getLogger("depthloss")

LOSSES: dict[str, type[DepthLoss]] = {
    "g2": G2Loss,
    "scale-adaptive": ScaleAdaptiveLoss,
    "scale-adaptive-progressive": ProgressiveScaleAdaptiveLoss,
    "gradient": MultiScaleGradientLoss,
    "ssi": SSILoss,
    "silog": SILogLoss,
    "ssi-silog": SSISilogLoss,
    "enhanced-ssi": EnhancedSSILoss,
    "progressive-ssi": ProgressiveEnhancedSSILoss,
    "ssi-trim": SSITrimLoss,
    "berhu": BerHuLoss,
    "abs-rel": AbsRelLoss,
    "l1": L1Loss,
    "mse": MSELoss,
    "scale-shift-invariant": ScaleShiftInvariantLoss,
    "affine-invariant": AffineInvariantLoss,
    "adaptive-multi-domain": AdaptiveMultiDomainLoss,
    "fixed-multi-domain": FixedMultiDomainLoss,
}
_ALIASES = {"abs_rel": "abs-rel"}
# What takes the place of a preset gradient term under "sparse-": a bilinear cell looks at four of its pixels,
# and finds next to nothing on sparse ground truth (bench/results/sparse_gradient.md).
_TAKE_THE_SPARSE_GRADIENT = ("scale-adaptive", "adaptive-multi-domain", "fixed-multi-domain")


def available_losses() -> tuple[str, ...]:
    """The names that `build_loss` knows, without the optional prefix ``sparse-``."""
    return tuple(LOSSES)


def find_loss(name: str) -> tuple[str, str]:
    """The prefix of a name (``"sparse-"`` or none) and the name of the loss in `LOSSES`.

    Raises:
        ValueError: unknown name.
        TypeError: no name at all.
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be the name of a loss, one of {', '.join(LOSSES)}; got {name!r}")
    prefix, base = ("sparse-", name[7:]) if name.startswith("sparse-") else ("", name)
    base = _ALIASES.get(base, base)
    if base in SILOG_PRESETS:
        raise ValueError(f"{base!r} is a preset: build_loss('{prefix}silog', preset={base!r})")
    if base not in LOSSES:
        near = did_you_mean(base, LOSSES, prefix)
        raise ValueError(
            f"unknown loss {name!r}{near}; each also with the prefix 'sparse-'. What "
            "published models train with is built by depthloss.recipe"
        )
    return prefix, base


def loss_class(name: str) -> type[DepthLoss]:
    """The class of a loss by its registry name."""
    return LOSSES[find_loss(name)[1]]


def build_loss(name: str, **kwargs: Any) -> DepthLoss:
    """Build a loss by its registry name.

    Args:
        name: one of `available_losses()`, matched exactly; with the prefix ``sparse-`` only pixels with a
            positive and finite gt are valid, and a gradient term that is support, bilinear by default becomes
            support, average.
        **kwargs: keywords of the loss's class. ``scale-adaptive`` with ``alpha_schedule`` or
            ``scale_schedule`` builds ``scale-adaptive-progressive``.

    Raises:
        ValueError: unknown name.
        TypeError: unknown keyword.
    """
    prefix, base = find_loss(name)
    if base == "scale-adaptive" and any(key in kwargs for key in SCHEDULES):
        base = "scale-adaptive-progressive"
        _log.info("%s with a schedule builds %s%s", name, prefix, base)
    check_keywords(base, LOSSES[base], kwargs)
    if prefix and base in _TAKE_THE_SPARSE_GRADIENT and kwargs.get("gradient") is None:
        kwargs["gradient"] = resolve_gradient(None, kwargs.get("num_scales"), "sparse")
    loss = LOSSES[base](**kwargs)
    if prefix:
        loss.require_positive_gt()
    return loss
