"""Losses by name."""

from __future__ import annotations

import inspect
import logging

from .aligned import AffineInvariantLoss, ScaleShiftInvariantLoss, SSITrimLoss
from .base import DepthLoss
from .g2 import G2Loss, MultiScaleGradientLoss
from .multi_domain import AdaptiveMultiDomainLoss, FixedMultiDomainLoss
from .pointwise import AbsRelLoss, BerHuLoss, L1Loss, MSELoss
from .scale_adaptive import SCHEDULES, ProgressiveScaleAdaptiveLoss, ScaleAdaptiveLoss
from .ssi import EnhancedSSILoss, ProgressiveEnhancedSSILoss, SILogLoss, SSILoss, SSISilogLoss

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
_DEPTH_BOUNDS = ("min_depth", "max_depth")


def available_losses() -> tuple[str, ...]:
    """The names that `build_loss` knows, without the optional prefix ``sparse-``."""
    return tuple(LOSSES)


def build_loss(name: str, **kwargs: object) -> DepthLoss:
    """Build a loss by its registry name.

    Args:
        name: one of `available_losses()`, matched exactly; with the prefix ``sparse-`` only pixels with gt >
            0 are valid.
        **kwargs: keywords of the loss's class. ``min_depth`` and ``max_depth`` are dropped by losses that
            have none. ``scale-adaptive`` with ``alpha_schedule`` or ``scale_schedule`` builds
            ``scale-adaptive-progressive``.

    Raises:
        ValueError: unknown name.
        TypeError: unknown keyword.
    """
    prefix, base = ("sparse-", name[7:]) if name.startswith("sparse-") else ("", name)
    base = _ALIASES.get(base, base)
    if base not in LOSSES:
        raise ValueError(
            f"unknown loss {name!r}; known: {', '.join(LOSSES)}, each also with the prefix 'sparse-'"
        )
    if base == "scale-adaptive" and any(key in kwargs for key in SCHEDULES):
        base = "scale-adaptive-progressive"
        _log.info("%s with a schedule builds %s%s", name, prefix, base)
    parameters = inspect.signature(LOSSES[base]).parameters
    unknown = [key for key in kwargs if key not in parameters and key not in _DEPTH_BOUNDS]
    if unknown:
        raise TypeError(
            f"{base} has no keyword {', '.join(map(repr, unknown))}; it has: {', '.join(parameters)}"
        )
    loss = LOSSES[base](**{key: value for key, value in kwargs.items() if key in parameters})
    if prefix:
        loss.require_positive_gt()
    return loss
