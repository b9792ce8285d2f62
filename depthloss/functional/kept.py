"""The modules behind the functional forms, kept by their arguments; nothing is kept of a call."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Collection
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, TypeAlias, TypeVar

import torch.distributed as dist
from torch import Tensor
from torch.compiler import is_compiling

from .. import dispatch, transforms
from ..checks import check_flag, check_known
from ..losses import DepthLoss
from ..losses.base import call_keywords
from ..spec import GradientSpec

Ranks: TypeAlias = dist.ProcessGroup | None
_MAX_MODULES = 64  # A keyword that follows a schedule must not pile them up.
_K = TypeVar("_K")
_V = TypeVar("_V")
_modules: dict[tuple[Any, ...], tuple[str, DepthLoss]] = {}  # With a name for each.
_traced = SimpleNamespace()  # Those of compiled graphs, by that name; of a dict, Dynamo would keep a copy.
_count = itertools.count()
_SEQUENCES = (tuple, list)
_AXES = tuple(field.name for field in fields(GradientSpec))


def _keep(kept: dict[_K, _V], key: _K, value: _V) -> None:
    while len(kept) >= _MAX_MODULES:
        kept.pop(next(iter(kept)), None)
    kept[key] = value


def _typed(values: Collection[Any]) -> tuple[Any, ...]:
    """Arguments as a key, in which True is not 1, nor within a tuple or a list."""
    return *map(type, values), *[_typed(x) if type(x) in _SEQUENCES else x for x in values]


def _find(cls: type[DepthLoss], axes: tuple[Any, ...], arguments: dict[str, Any]) -> tuple[str, DepthLoss]:
    """The module of these arguments and its name, built unless it is there."""
    key: tuple[Any, ...] = (cls, axes, *_typed(arguments.values()))
    try:
        found = _modules.get(key)
    except TypeError:  # Something that is no key is no argument of a loss either: building it says which.
        found = None
    if found is None:
        if axes:
            arguments = arguments | {"gradient": GradientSpec(**dict(zip(_AXES, axes, strict=True)))}
        # Of the call too, which the constructor would not name; a twin takes no confidence.
        call = [name for name in call_keywords(cls) if name != "confidence"]
        check_known(cls.__name__, [*inspect.signature(cls).parameters, *call], arguments, cls._other_names)
        found = f"{cls.__name__} {next(_count)}", cls(**arguments)
        _keep(_modules, key, found)
    return found


@transforms.constant  # Dynamo's graphs guard what `_traced` has under the name.
def _find_traced(cls: type[DepthLoss], axes: tuple[Any, ...], arguments: dict[str, Any]) -> str:
    """The name of that module, for a graph."""
    name, loss = _find(cls, axes, arguments)
    if not hasattr(_traced, name):
        _keep(vars(_traced), name, loss)
    return name


def kept(cls: type[DepthLoss], **arguments: Any) -> DepthLoss:
    """The module ``cls(**arguments)``, the same one for equal arguments of equal types.

    Raises:
        TypeError, ValueError: what the class raises.
    """
    axes: tuple[Any, ...] = ()
    g = arguments.get("gradient")
    if isinstance(g, GradientSpec):  # Dynamo makes constants of its axes, not of itself.
        axes = (g.stencil, g.mask, g.downsample, g.border, g.normalizer, g.combine, g.num_scales)
        arguments["gradient"] = None
    if is_compiling():
        return getattr(_traced, _find_traced(cls, axes, arguments))
    return _find(cls, axes, arguments)[1]


def call(
    loss: DepthLoss,
    pred: Tensor,
    gt: Tensor,
    mask: Tensor | None,
    progress: float | None,
    epoch: int,
    process_group: Ranks,
    return_metrics: bool,
    weight: Tensor | None = None,
    abs_mask: Tensor | None = None,
    log_vars: tuple[Tensor, ...] = (),
) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
    """What the module returns, with these ranks and log-variances, leaving it as it is."""
    group = dispatch.check_group(process_group)
    total, found = loss._evaluate(pred, gt, mask, abs_mask, progress, epoch, log_vars, group, weight)
    if return_metrics is not False and check_flag("return_metrics", return_metrics):
        return total, loss._named(found)
    return total
