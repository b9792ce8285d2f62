"""Exact, fast and lean losses for depth networks."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

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

# Modules that are loaded when they are first asked for: evaluation, which a training does not need.
_LATER = ("align", "metrics", "protocols")

if TYPE_CHECKING:
    from . import align as align
    from . import metrics as metrics
    from . import protocols as protocols
else:

    def __getattr__(name: str) -> ModuleType:
        if name in _LATER:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LATER})
