"""Reading the command line and the configuration file, and the errors for keys that do not exist."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import logging
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from depthloss.training.command import plain_words, program
from depthloss.training.configuration.flags import EPILOG, OTHER_FLAGS, SHORT_FLAGS
from depthloss.training.configuration.networks import check_shape, keywords, network_class
from depthloss.training.configuration.rules import check_values
from depthloss.training.configuration.sections import (
    NETWORKS,
    OPEN_SECTIONS,
    OWN_DATA,
    OWNED_TRAINER_KEYS,
    QUICK_START,
    TRAINER_DEFAULTS,
    CheckpointConfig,
    DatasetConfig,
    EmaConfig,
    OptimizerConfig,
    Option,
    RangeConfig,
    SchedulerConfig,
    TensorboardConfig,
    WandbConfig,
    chooser,
    open_options,
)
from depthloss.training.configuration.tree import (
    flag_key,
    last_value,
    leave_out,
    leave_out_network,
    leaves,
    move_loss_flag,
    move_loss_keys,
    read,
    spell_out_null,
    take_recipe,
    without_null_sections,
)
from depthloss.training.data import Augmentation
from depthloss.training.errors import ConfigError

log = logging.getLogger("depthloss.training")


# How to write values that are often written otherwise, by the last part of their key.
SPELLINGS = {
    "image_shape": "[H, W], such as [192, 320]",
    "path": "one folder, such as data/frames",
    "split": "one file, such as splits/train.txt",
    "crop": "[y, height, x, width], such as [-352, 0, 0.5, 1216]",
    "names": "[NAME, NAME, ...]",
}


def _nearest(key: str, known: Iterable[str]) -> str:
    """Return the known key that `key` most likely means: a similar name, or the same last part elsewhere."""
    known = list(known)
    parent, _, leaf = key.replace("-", "_").rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    if match := difflib.get_close_matches(leaf, siblings, n=1):
        return siblings[match[0]]
    if same := [k for k in known if k.rpartition(".")[2] == leaf]:
        # For a bare name the first key: where several data sets have it, that of the training set.
        return difflib.get_close_matches(key, same, n=1, cutoff=0.0)[0] if parent else same[0]
    shorts = {flag[2:].replace("-", "_"): key[2:] for flag, key in SHORT_FLAGS.items()}
    if not parent and (match := difflib.get_close_matches(leaf, shorts, n=1)) and shorts[match[0]] in known:
        return shorts[match[0]]
    return next(iter(difflib.get_close_matches(key, known, n=1, cutoff=0.0)), "")


def unknown_key(key: str, known: Iterable[str], where: str, choices: Mapping[str, Any]) -> ConfigError:
    """Return the error for a key that does not exist, with the nearest one that does.

    Args:
        key: the key.
        known: the keys that exist.
        where: the file or the command line that holds it.
        choices: by open section, the loss or data set that is chosen.
    """
    section, _, leaf = key.rpartition(".")
    if section == "trainer" and leaf in OWNED_TRAINER_KEYS:
        return ConfigError(f"{where}: {key} is not a key of this script; {OWNED_TRAINER_KEYS[leaf]}")
    text = f"{where}: unknown key {key!r}"
    opened = next((s for s in choices if key.startswith(f"{s}.")), None)
    if opened and choices[opened] is None:
        return ConfigError(f"{text}: no data set is chosen; {opened}.dataset is synthetic, rgbd-folder ...")
    found = _nearest(key, known)
    short = next((flag for flag, target in SHORT_FLAGS.items() if target == f"--{found}"), None)
    text = f"{text}; the nearest known one is {found!r}"
    if opened:
        text = f"{text}; {chooser(opened)} is {choices[opened]!r}"
    return ConfigError(f"{text}, short {short}" if short and not section else text)


def parse(config_file: str | Path | Mapping[str, Any] | None, arguments: list[str]) -> tuple[Namespace, str]:
    """Parse a configuration file and the arguments that override it.

    Args:
        config_file: YAML file, the tree that is in one, or None for the quick start.
        arguments: command line without the file: `--dotted.key value`, `--dotted.key=value`, --print_config.

    Returns:
        The configuration, with a dataclass per section, and the same as YAML text, defaults included.

    Raises:
        ConfigError: a key is unknown, a value is invalid, or the file cannot be read.
        SystemExit: after `--help` and `--print_config`.
    """
    arguments = spell_out_null(arguments)
    tree = read(config_file)
    if config_file is None:
        chosen = last_value("datasets.train.dataset", tree, arguments)
        if chosen != "synthetic":
            tree = {**OWN_DATA, "name": str(chosen)}
    tree = move_loss_keys(without_null_sections(tree))
    tree, arguments = take_recipe(tree, [move_loss_flag(a) for a in arguments])
    where = "the configuration" if isinstance(config_file, Mapping) else str(config_file)
    name = last_value("model.depth_net.name", tree, arguments) or "ResNetSAN01"
    network = network_class(name)
    if "name" in keywords(network):
        raise ConfigError(
            f"model.depth_net.name: the constructor of {name} has a keyword `name`, which chooses the "
            "network here: rename it"
        )
    flags = {flag_key(a) for a in arguments if a.startswith("--")}
    of_file = last_value("model.depth_net.name", tree, []) or "ResNetSAN01"
    tree = leave_out_network(tree, of_file, name, flags)

    defaults = dict(OPEN_SECTIONS)
    if last_value("datasets.train.dataset", tree, arguments, "synthetic") == "synthetic":
        defaults["datasets.validation"] = DatasetConfig("synthetic")
    mentioned = {*leaves(tree), *flags}
    choices, opened = {}, {}
    for section, default in defaults.items():
        key = chooser(section)
        first = getattr(default, key.rpartition(".")[2])
        choices[section] = last_value(key, tree, arguments, first)
        opened[section] = open_options(section, choices[section], mentioned)
        before = last_value(key, tree, [], first)
        tree = leave_out(section, tree, before, choices[section], opened[section], flags)
    stem = Path(config_file).stem if isinstance(config_file, (str, Path)) else QUICK_START["name"]
    parser = _build_parser(network, stem, defaults, opened)

    known = list(parser.get_defaults().keys(branches=True))
    for key in leaves(tree):
        if not _is_known(key, known):
            raise unknown_key(key, known, where, choices)
    for argument in arguments:
        key = flag_key(argument)
        if argument.startswith("--") and key not in OTHER_FLAGS and not _is_known(key, known):
            raise unknown_key(key, [*known, *OTHER_FLAGS], "command line", choices)
    try:
        parsed = parser.parse_args(arguments, namespace=parser.parse_object(tree))
    except ArgumentError as error:
        raise ConfigError(plain_words(error, SPELLINGS)) from error
    text = parser.dump(parsed, skip_unset=False)
    parsed.pop("config", None)
    try:
        cfg = parser.instantiate(parsed)
    except (TypeError, ValueError) as error:
        # Only the class of this section checks its own values.
        raise ConfigError(f"datasets.augmentation: {error}") from error
    check_values(cfg)
    check_shape(network, name, cfg.datasets.image_shape)
    return cfg, text


class _HelpFormatter(DefaultHelpFormatter):
    """Wraps what argparse does not: the titles of sections, and several names of an option."""

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and textwrap.fill(heading, self._width))

    def _format_action_invocation(self, *args: Any) -> str:
        text = super()._format_action_invocation(*args)
        return text if len(text) < self._width else text.replace(", --", ",\n  --")


def _build_parser(
    network: Any, run: str, defaults: Mapping[str, Any], opened: Mapping[str, Mapping[str, Option]]
) -> ArgumentParser:
    parser = ArgumentParser(
        prog=program("train.py"),
        formatter_class=_HelpFormatter,
        usage=f"{program('train.py')} [CONFIG.yaml] [--dotted.key value ...]",
        exit_on_error=False,
        allow_abbrev=False,
        description="Train a depth network. Without CONFIG.yaml the quick start runs at once: a small "
        "network on rendered rooms and streets, for a minute or a few, in runs/synthetic.",
        epilog=EPILOG,
    )
    # Only so that the parser offers --print_config; the file itself is read by `parse`.
    parser.add_argument("--config", action="config", help="configuration file, the same as CONFIG.yaml")
    parser.add_argument("--name", type=str, default=run, help="name of the run and of its directory")
    parser.add_argument("--seed", type=int, default=42, help="seed of the weights, the data and the training")
    parser.add_argument("--check_data", type=bool, default=False, help="read every file before the training")
    parser.add_argument("--profile_loss", type=bool, default=False, help="measure the loss's share of a step")

    def section(key: str, default: Any) -> None:
        parser.add_argument(f"--{key}", type=type(default), default=default)

    def open_section(key: str) -> None:
        default = defaults[key]
        extra = [(name, o.type, dataclasses.field(default=o.default)) for name, o in opened[key].items()]
        made = dataclasses.make_dataclass(type(default).__name__, extra, bases=(type(default),))
        texts = "".join(f"        {name}: {o.text}\n" for name, o in opened[key].items())
        made.__doc__ = f"{(type(default).__doc__ or '').rstrip()}\n{texts}"
        section(key, made(**dataclasses.asdict(default)))

    section("model.params", RangeConfig())
    open_section("model.loss")
    parser.add_argument(
        "--model.init_from",
        type=str | None,
        default=None,
        help="checkpoint, or run directory, whose weights the network starts from; all else is new",
    )
    parser.add_argument(
        "--model.depth_net.name",
        type=str,
        default="ResNetSAN01",
        help=f"{', '.join(NETWORKS)}, or package.module.Class of your own (docs/own_network.md)",
    )
    parser.add_class_arguments(
        network, "model.depth_net", skip={"min_depth", "max_depth"}, instantiate=False, fail_untyped=False
    )
    section("model.optimizer", OptimizerConfig())
    section("model.scheduler", SchedulerConfig())
    section("ema", EmaConfig())
    parser.add_argument(
        "--datasets.image_shape", type=tuple[int, int], default=(192, 320), help="(H, W) of all maps"
    )
    parser.add_argument(
        "--datasets.skip_bad_frames",
        type=bool,
        default=False,
        help="leave out frames that cannot be read, name and count them, instead of stopping at the first",
    )
    section("datasets.augmentation", Augmentation())
    for split in ("train", "validation", "test"):
        open_section(f"datasets.{split}")
    owned = set(OWNED_TRAINER_KEYS) & set(inspect.signature(L.Trainer).parameters)
    parser.add_class_arguments(L.Trainer, "trainer", skip=owned, instantiate=False)
    section("checkpoint", CheckpointConfig())
    section("tensorboard", TensorboardConfig())
    section("wandb", WandbConfig())
    parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})
    return parser


def _is_known(key: str, known: list[str]) -> bool:
    # A leaf that takes a mapping (or a class_path with init_args) has keys below it that the parser checks.
    if key in known:
        return True
    parts = key.split(".")
    heads = [".".join(parts[:n]) for n in range(1, len(parts))]
    return any(h in known and not any(k.startswith(f"{h}.") for k in known) for h in heads)
