"""The networks that `model.depth_net.name` chooses: those of this package, or a class of the user's own."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from jsonargparse import ArgumentParser
from torch import nn

from depthloss.training.configuration.sections import NETWORKS
from depthloss.training.errors import ConfigError, did_you_mean
from depthloss.training.models import input_parameter

KEY = "model.depth_net"
# Keys of the section `trainer` for which Lightning also takes a class to import.
_CLASSES = (("accelerator",), ("strategy",), ("plugins",), ("profiler",))
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def network_class(name: str) -> Any:
    """Return the network of a name; `package.module.Class` is imported, also from the current directory.

    Raises:
        ConfigError: there is none, or it is no `torch.nn.Module`.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{KEY}.name: the name of a network is needed, got {name!r}")
    if name in NETWORKS:
        return NETWORKS[name]
    module, _, leaf = name.rpartition(".")
    if not module:
        raise ConfigError(
            f"{KEY}.name: unknown network {name!r}{did_you_mean(name, NETWORKS)}, or package.module.Class of "
            "your own"
        )
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)
    try:
        there = vars(importlib.import_module(module))
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(
                f"{KEY}.name: {name}: no module {error.name!r} in {here}, on PYTHONPATH, or installed"
            ) from error
        raise ConfigError(f"{KEY}.name: {name}: importing {module} failed: {where(error)}") from error
    found = there.get(leaf)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        known = [k for k, v in there.items() if isinstance(v, type) and issubclass(v, nn.Module)]
        what = f"{name} is no class of torch.nn.Module" if found else f"{module} has no class {leaf!r}"
        raise ConfigError(f"{KEY}.name: {what}{known and did_you_mean(leaf, known) or ''}")
    return found


def where(error: BaseException) -> str:
    """Return an error of the user's own code as one line, with the place that raised it."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"


def keywords(network: Any) -> list[str]:
    """Return the keywords that the constructor of a network takes, those behind its `**kwargs` included."""
    added = ArgumentParser().add_class_arguments(network, "net", instantiate=False, fail_untyped=False)
    return [key.removeprefix("net.") for key in added]


def size_multiple(network: Any) -> int:
    """Return what H and W of the images must be multiples of, by a network's or its class's `size_multiple`.

    Raises:
        ConfigError: it is no whole number >= 1.
    """
    multiple = getattr(network, "size_multiple", 1)
    if isinstance(multiple, property):  # of the class: only an instance can tell
        return 1
    if isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1:
        raise ConfigError(f"{KEY}: its size_multiple must be a whole number >= 1, got {multiple!r}")
    return multiple


def check_shape(network: Any, name: str, shape: Collection[int]) -> None:
    """Check that the images have a size that the network takes.

    Raises:
        ConfigError: the size does not fit; the nearest that fits is named.
    """
    multiple = size_multiple(network)
    if not shape:
        raise ConfigError(f"datasets.image_shape: [H, W] is needed, got {shape!r}")
    if any(size < 1 or size % multiple for size in shape):
        near = [max(multiple, round(size / multiple) * multiple) for size in shape]
        raise ConfigError(
            f"datasets.image_shape: H and W must be multiples of {multiple} for {name}, got {list(shape)}; "
            f"the nearest is {near}"
        )


def takes_input(section: Any) -> bool | None:
    """Return whether the network of a section `model.depth_net` takes sparse depth; None = it can do without.

    An option `sparse_branch` says so; else whether its `forward` has an argument `input_depth`.
    """
    if (branch := getattr(section, "sparse_branch", None)) is not None:
        return branch
    return None if input_parameter(network_class(section.name)) else False


def needs_input(section: Any) -> bool:
    """Return whether the argument `input_depth` of the network of a section has no default."""
    parameter = input_parameter(network_class(section.name))
    return parameter is not None and parameter.default is parameter.empty


def check_trusted(tree: Mapping[str, Any], allowed: Collection[str | None], where: str, flag: str) -> None:
    """Check that a configuration from a checkpoint names no class to import that the command does not name.

    An import runs code, and a checkpoint may come from anyone.

    Args:
        tree: the configuration.
        allowed: names of networks that the command line names.
        where: the checkpoint, for the error.
        flag: the flag that names them, likewise.

    Raises:
        ConfigError: it names one.
    """
    model = tree.get("model")
    network = model.get("depth_net") if isinstance(model, Mapping) else None
    name = str(network.get("name", "ResNetSAN01")) if isinstance(network, Mapping) else "ResNetSAN01"
    if name not in NETWORKS and name not in allowed:
        raise ConfigError(
            f"{where}: its network is {name}, which is not of this package. To import it runs code, so the "
            f"command must name it: add {flag} {name} if you trust it"
        )
    for path, value in _values(tree):
        if name not in NETWORKS and path[:2] == ("model", "depth_net"):
            continue  # keywords of a class that is trusted
        if (
            any(part == "class_path" or "." in part for part in path)
            or "class_path" in str(value)
            or (path[:1] == ("trainer",) and path[1:2] in _CLASSES and _DOTTED.fullmatch(str(value)))
            or (path[:1] == ("config",) and value is not None)  # another file, which the parser would read
        ):
            key = ".".join(path)
            raise ConfigError(
                f"{where}: its configuration names classes to import ({key}), which runs code; only a "
                "configuration file that you give may"
            )


def _values(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _values(value, (*path, str(key)))
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _values(value, path)
    else:
        yield path, tree
