"""Exact, fast and lean losses for depth networks."""

from . import functional
from .dispatch import use_backend
from .explanation import explain
from .inverse import to_depth, to_inverse_depth
from .losses import *  # noqa: F403
from .losses import __all__ as _losses
from .spec import GradientSpec, LossSpec
from .version import __version__

__all__ = [
    "GradientSpec",
    "LossSpec",
    "__version__",
    "explain",
    "functional",
    "to_depth",
    "to_inverse_depth",
    "use_backend",
    *_losses,
]
