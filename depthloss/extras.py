"""Names that need packages of the extra `train`: imported when they are asked for."""

from __future__ import annotations

import importlib
from typing import Any


def lazily(package: str, module: str, names: tuple[str, ...], name: str) -> Any:
    """Return `name` of a module that imports torchmetrics; what `__getattr__` of its package calls.

    Raises:
        AttributeError: it is none of `names`.
        ImportError: torchmetrics is missing.
    """
    if name not in names:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{package}.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torchmetrics":
            raise
        raise ImportError(f"{package}.{name} needs torchmetrics: pip install 'depthloss[train]'") from error
