"""The tree of a configuration file and the arguments that override it, before they are parsed."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from depthloss.training.configuration.networks import keywords, network_class
from depthloss.training.configuration.sections import (
    OPEN_SECTIONS,
    QUICK_START,
    RECIPE,
    Option,
    RangeConfig,
    chooser,
    open_options,
)
from depthloss.training.data import dataset_options
from depthloss.training.errors import ConfigError
from depthloss.training.files import check_depth, read_yaml

log = logging.getLogger("depthloss.training")


def read(config_file: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the tree of a configuration: of a YAML file, the mapping itself, or for None the quick start's.

    Raises:
        ConfigError: the file cannot be read, or holds no mapping.
    """
    if config_file is None:
        return QUICK_START
    if isinstance(config_file, Mapping):
        check_depth("the configuration", config_file)
        return dict(config_file)
    tree = read_yaml(Path(config_file))
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{config_file}: a mapping such as 'trainer: {{max_epochs: 3}}' is needed, got {tree!r}"
        )
    return tree


def without_null_sections(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Read `test: null` as no data set, and any other section that is null as an empty one."""
    sections = {
        *OPEN_SECTIONS,
        *"model ema datasets trainer checkpoint tensorboard wandb".split(),
        *("datasets.augmentation", "datasets.augmentation.sparsity"),
    }
    sections |= {
        f"model.{key}" for key in ("params", "depth_net", "optimizer", "optimizer.depth", "scheduler")
    }
    found = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            value = without_null_sections(value, f"{key}.")
        elif value is None and key in sections:
            value = {"dataset": None} if key in OPEN_SECTIONS and key != "model.loss" else {}
        elif key in sections:
            raise ConfigError(f"{key}: a mapping with the keys of the section is needed, got {value!r}")
        found[name] = value
    return found


def spell_out_null(arguments: list[str]) -> list[str]:
    """Read `--datasets.test null` as `--datasets.test.dataset null`."""
    found = list(arguments)
    for i, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag[2:] in OPEN_SECTIONS and (value if equals else "".join(arguments[i + 1 : i + 2])) == "null":
            found[i] = f"{flag}.dataset{equals}{value}"
    return found


def leave_out(
    section: str,
    tree: dict[str, Any],
    before: Any,
    now: Any,
    options: Mapping[str, Option],
    flags: Container[str],
) -> dict[str, Any]:
    """Leave out what the file says of a loss or data set that the command line replaced or switched off.

    A new loss keeps the keywords that both have; a new data set keeps nothing about files.
    """
    parts = section.split(".")
    values = tree.get(parts[0], {}).get(parts[1], {})
    off = now is None and (before is not None or chooser(section).rpartition(".")[2] in values)
    if not off and before == now:
        return tree
    of_data = section != "model.loss"
    given = set(values) - {f.name for f in dataclasses.fields(OPEN_SECTIONS[section])}
    former = open_options(section, before, [f"{section}.{key}" for key in values])
    # A file that was printed holds the defaults as well.
    unchanged = {k for k in given if k in former and _plain(former[k].default) == values[k]}
    foreign = {k for k in given if off or (k in former and (of_data or k not in options))}
    if of_data and before and values.get("path") is not None and "path" in dataset_options(before):
        foreign.add("path")
    if named := sorted(k for k in foreign - unchanged if f"{section}.{k}" not in flags):
        instead = f"not of {now}" if now else "which is switched off"
        log.warning("%s: %s left out: it is of %s, %s", section, ", ".join(named), before, instead)
    kept = {key: value for key, value in values.items() if key not in unchanged | foreign}
    return {**tree, parts[0]: {**tree.get(parts[0], {}), parts[1]: kept}}


def leave_out_network(tree: dict[str, Any], before: str, now: str, flags: Container[str]) -> dict[str, Any]:
    """Leave out what the file says of a network that the command line replaced.

    The new one keeps nothing: a width may be a number of channels here and a share of them there.
    """
    if before == now:
        return tree
    try:
        former: Container[str] = keywords(network_class(before))
    except ConfigError:  # the class is not here, and need not be
        former = tree["model"]["depth_net"].keys() - {"name"}
    values = tree.get("model", {}).get("depth_net", {})
    foreign = [key for key in values if key in former]
    if named := [key for key in foreign if f"model.depth_net.{key}" not in flags]:
        log.warning("model.depth_net: %s left out: it is of %s, not of %s", ", ".join(named), before, now)
    kept = {key: value for key, value in values.items() if key not in foreign}
    return {**tree, "model": {**tree.get("model", {}), "depth_net": kept}}


def move_loss_keys(tree: dict[str, Any]) -> dict[str, Any]:
    """Move keys of a loss from `model.params`, where packnet-sfm has them, to `model.loss`.

    Raises:
        ConfigError: a key stands in both, with different values.
    """
    model = tree.get("model")
    params = model.get("params") if isinstance(model, dict) else None
    fields = {f.name for f in dataclasses.fields(RangeConfig)}
    moved = {str(k): v for k, v in params.items() if k not in fields} if isinstance(params, dict) else {}
    if not moved:
        return tree
    loss = model.get("loss") or {}
    if twice := sorted(k for k in moved if k in loss and loss[k] != moved[k]):
        raise ConfigError(
            f"{', '.join(twice)}: given under model.params and under model.loss with different values"
        )
    log.info("model.params: %s taken as keys of model.loss", ", ".join(sorted(moved)))
    rest = {k: v for k, v in params.items() if k in fields}
    return {**tree, "model": {**model, "params": rest, "loss": {**loss, **moved}}}


def take_recipe(tree: dict[str, Any], arguments: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Make of `model.loss.recipe`, in the file or on the command line, the name of the loss.

    Raises:
        ConfigError: a recipe beside a supervised_method.
    """
    model = tree.get("model")
    loss = model.get("loss") if isinstance(model, dict) else None
    if isinstance(model, dict) and isinstance(loss, dict) and loss.get("recipe") is not None:
        if "supervised_method" in loss:
            raise ConfigError("model.loss: give a recipe or a supervised_method, not both")
        rest = {key: value for key, value in loss.items() if key != "recipe"}
        tree = {
            **tree,
            "model": {
                **model,
                "loss": {"supervised_method": f"{RECIPE}{loss['recipe']}", **rest},
            },
        }
    flag, taken = "--model.loss.recipe", []
    for argument, before in zip(arguments, ["", *arguments], strict=False):
        if argument == flag:
            argument = "--model.loss.supervised_method"
        elif before == flag:
            argument = f"{RECIPE}{argument}"
        elif argument.startswith(f"{flag}="):
            argument = f"--model.loss.supervised_method={RECIPE}{argument.partition('=')[2]}"
        taken.append(argument)
    return tree, taken


def move_loss_flag(argument: str) -> str:
    """Return a flag for a key of a loss under `model.params` as one for `model.loss`; others as they are."""
    key = flag_key(argument)
    name = key.removeprefix("model.params.")
    if (
        not argument.startswith("--")
        or name == key
        or name in {f.name for f in dataclasses.fields(RangeConfig)}
    ):
        return argument
    log.info("model.params: %s taken as a key of model.loss", name)
    return argument.replace("model.params.", "model.loss.", 1)


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all values."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def flag_key(argument: str) -> str:
    """Return the key of an argument `--key` or `--key=value`."""
    return argument.removeprefix("--").partition("=")[0]


def last_value(key: str, tree: dict[str, Any], arguments: list[str], default: Any = None) -> Any:
    """Return the value of a key: the last argument that sets it, else the tree's, else the default."""
    found: Any = tree
    for part in key.split("."):
        if not isinstance(found, dict) or part not in found:
            found = default
            break
        found = found[part]
    for position, argument in enumerate(arguments):
        if argument == f"--{key}" and position + 1 < len(arguments):
            found = arguments[position + 1]
        elif argument.startswith(f"--{key}="):
            found = argument.partition("=")[2]
    return None if found == "null" else found
