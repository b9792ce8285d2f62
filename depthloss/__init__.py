"""Exact, fast and lean losses for depth networks."""

from . import functional
from .losses import *  # noqa: F403
from .losses import __all__ as _losses
from .ops import use_backend
from .spec import GradientSpec, LossSpec
from .version import __version__

__all__ = ["GradientSpec", "LossSpec", "__version__", "functional", "use_backend", *_losses]
