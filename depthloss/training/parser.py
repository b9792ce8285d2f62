"""Reading the command line and the configuration file, and the errors for keys that do not exist."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from depthloss.training.config import (
    LAST,
    NETWORKS,
    OPEN_SECTIONS,
    QUICK_START,
    CheckpointConfig,
    ConfigError,
    OptimizerConfig,
    RangeConfig,
    SchedulerConfig,
    TensorboardConfig,
)
from depthloss.training.data import Augmentation

log = logging.getLogger("depthloss.training")

SHORT_FLAGS = {
    "--supervised-method": "--model.loss.supervised_method",
    "--lambda-sg": "--model.loss.lambda_sg",
    "--max-epochs": "--trainer.max_epochs",
}
SWITCHES = {"--profile-loss": "--profile_loss=true", "--check-data": "--check_data=true"}

# Keys of lightning.Trainer that this project sets itself, and what to use instead.
OWNED_TRAINER_KEYS = {
    "logger": "metrics.csv and TensorBoard events are always written; see the section tensorboard",
    "callbacks": "see the sections checkpoint and tensorboard",
    "log_every_n_steps": "use tensorboard.log_frequency",
    "enable_checkpointing": "see the section checkpoint",
    "use_distributed_sampler": "the data sets bring their own sampler",
    "max_steps": "use trainer.max_epochs: the schedules of the losses are in epochs",
    "min_steps": "use trainer.min_epochs",
    "barebones": "it switches off the logging that this script relies on",
    "fast_dev_run": "use trainer.limit_train_batches, trainer.limit_val_batches and trainer.max_epochs",
    "enable_autolog_hparams": "the effective configuration is always logged",
    "model_registry": "checkpoints stay in the run directory",
    "gpus": "use the flag --gpus, or trainer.accelerator and trainer.devices",
}


TRAINER_DEFAULTS = {
    "max_epochs": 30,
    "gradient_clip_val": 10.0,
    "num_sanity_val_steps": 1,
    "enable_model_summary": False,
    "default_root_dir": "runs",
}

EPILOG = """short flags: --supervised-method NAME, --lambda-sg X, --max-epochs N, --name RUN,
--gpus LIST (0 or 0,1; or cpu; default auto), --resume [last|best|FILE] (bare: last),
--check-data, --profile-loss"""


def split_arguments(argv: list[str]) -> tuple[str | None, list[str], str | None]:
    """Split a command line: the configuration file, the arguments with short flags spelt out, what to resume.

    Raises:
        ConfigError: a flag without its value.
    """
    rest = list(argv)
    config_file = rest.pop(0) if rest and not rest[0].startswith("-") else None
    arguments: list[str] = []
    resume = None
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        following = rest[0] if rest and not rest[0].startswith("-") else None
        if flag == "--resume":
            if not equals and following is not None:
                value = rest.pop(0)
            if value.endswith((".yaml", ".yml")):
                raise ConfigError(
                    f"--resume {value}: a checkpoint is needed; the configuration file comes first"
                )
            resume = value or LAST
        elif flag in ("--gpus", "--config"):
            if not equals and following is None:
                raise ConfigError(f"{flag} needs a value")
            value = value if equals else rest.pop(0)
            if flag == "--gpus":
                arguments += _devices(value)
            else:
                config_file = value
        elif flag in SWITCHES and not equals:
            arguments.append(SWITCHES[flag])
        else:
            arguments.append(SHORT_FLAGS.get(flag, flag) + equals + value)
    return config_file, arguments, resume


def _devices(gpus: str) -> list[str]:
    if gpus == "auto":
        return []
    if gpus == "cpu":
        return ["--trainer.accelerator=cpu", "--trainer.devices=auto"]
    if not all(index.isdigit() for index in gpus.split(",")):
        raise ConfigError(f"--gpus {gpus}: a list of GPU numbers such as 0 or 0,1 is needed, or cpu, or auto")
    return ["--trainer.accelerator=gpu", f"--trainer.devices=[{gpus}]"]


def nearest(key: str, known: Iterable[str]) -> str:
    """Return the known key that `key` most likely means: a similar name, or the same last part elsewhere."""
    known = list(known)
    parent, _, leaf = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    if match := difflib.get_close_matches(leaf, siblings, n=1):
        return siblings[match[0]]
    if same := [k for k in known if k.rpartition(".")[2] == leaf]:
        return difflib.get_close_matches(key, same, n=1, cutoff=0.0)[0]
    return next(iter(difflib.get_close_matches(key, known, n=1, cutoff=0.0)), "")


def unknown_key(key: str, known: Iterable[str], where: str) -> ConfigError:
    """Return the error for a key that does not exist, with the nearest one that does."""
    section, _, leaf = key.rpartition(".")
    if section == "trainer" and leaf in OWNED_TRAINER_KEYS:
        return ConfigError(f"{where}: {key} is not a key of this script; {OWNED_TRAINER_KEYS[leaf]}")
    return ConfigError(f"{where}: unknown key {key!r}; the nearest known one is {nearest(key, known)!r}")


def parse(config_file: str | Path | None, arguments: list[str]) -> tuple[Namespace, str]:
    """Parse a configuration file and the arguments that override it.

    Args:
        config_file: YAML file, or None for the quick start.
        arguments: command line without the file: `--dotted.key value`, `--dotted.key=value`, --print_config.

    Returns:
        The configuration, with a dataclass per section, and the same as YAML text, defaults included.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, or a file that cannot be read.
        SystemExit: after `--help` and `--print_config`.
    """
    tree = _move_loss_keys(_read(config_file))
    arguments = [_move_loss_flag(a) for a in arguments]
    # A key may be mentioned in the file or on the command line; an open section gets a field for each.
    mentioned = [*_leaves(tree), *(_flag_key(a) for a in arguments if a.startswith("--"))]
    name = _last_value("model.depth_net.name", tree, arguments) or "ResNetSAN01"
    if name not in NETWORKS:
        raise ConfigError(f"model.depth_net.name: unknown network {name!r}; known: {', '.join(NETWORKS)}")
    parser = _build_parser(mentioned, name)

    known = set(parser.get_defaults().keys(branches=True))
    for key in _leaves(tree):
        if not _is_known(key, known):
            raise unknown_key(key, known, str(config_file))
    for argument in arguments:
        key = _flag_key(argument)
        if argument.startswith("--") and key not in {"help", "print_config"} and not _is_known(key, known):
            raise unknown_key(key, known, "command line")
    try:
        parsed = parser.parse_args(arguments, namespace=parser.parse_object(tree))
    except ArgumentError as error:
        message = str(error).strip()
        hint = (
            "; in a YAML file, a text that looks like a number needs quotes"
            if "<class 'str'>" in message
            else ""
        )
        raise ConfigError(f"{message}{hint}") from error
    text = parser.dump(parsed, skip_unset=False)
    parsed.pop("config", None)
    return parser.instantiate(parsed), text


def _build_parser(mentioned: list[str], network: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog="train.py",
        usage="train.py [CONFIG.yaml] [--dotted.key value ...]",
        exit_on_error=False,
        allow_abbrev=False,
        description="Train a depth network.",
        epilog=EPILOG,
    )
    # Only so that the parser offers --print_config; the file itself is read by `parse`.
    parser.add_argument("--config", action="config", help="configuration file, the same as CONFIG.yaml")
    parser.add_argument("--name", type=str, default="synthetic", help="name of the run and of its directory")
    parser.add_argument("--seed", type=int, default=42, help="seed of the weights, the data and the training")
    parser.add_argument("--check_data", type=bool, default=False, help="read every file before the training")
    parser.add_argument("--profile_loss", type=bool, default=False, help="measure the loss's share of a step")

    def section(key: str, default: Any) -> None:
        parser.add_argument(f"--{key}", type=type(default), default=default)

    def open_section(key: str) -> None:
        default = OPEN_SECTIONS[key]
        fields = {f.name for f in dataclasses.fields(default)}
        extra = {}
        for name in mentioned:
            if (
                name.startswith(f"{key}.")
                and (head := name.removeprefix(f"{key}.").split(".")[0]) not in fields
            ):
                if not head.isidentifier():
                    raise ConfigError(f"{name}: {head!r} cannot be the name of an option; use letters and _")
                nested = name != f"{key}.{head}"
                extra[head] = (head, dict[str, Any] if nested else Any, dataclasses.field(default=None))
        opened = dataclasses.make_dataclass(type(default).__name__, extra.values(), bases=(type(default),))
        section(key, opened(**dataclasses.asdict(default)))

    open_section("model.loss")
    section("model.params", RangeConfig())
    parser.add_argument(
        "--model.depth_net.name", type=str, default="ResNetSAN01", help=f"one of {', '.join(NETWORKS)}"
    )
    skip = {"min_depth", "max_depth"} & set(inspect.signature(NETWORKS[network]).parameters)
    parser.add_class_arguments(NETWORKS[network], "model.depth_net", skip=skip, instantiate=False)
    section("model.optimizer", OptimizerConfig())
    section("model.scheduler", SchedulerConfig())
    parser.add_argument(
        "--datasets.image_shape", type=tuple[int, int], default=(192, 320), help="(H, W) of all maps"
    )
    section("datasets.augmentation", Augmentation())
    for split in ("train", "validation", "test"):
        open_section(f"datasets.{split}")
    owned = set(OWNED_TRAINER_KEYS) & set(inspect.signature(L.Trainer).parameters)
    parser.add_class_arguments(L.Trainer, "trainer", skip=owned, instantiate=False)
    section("checkpoint", CheckpointConfig())
    section("tensorboard", TensorboardConfig())
    parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})
    return parser


def _read(config_file: str | Path | None) -> dict[str, Any]:
    if config_file is None:
        return QUICK_START
    try:
        tree = yaml.safe_load(Path(config_file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{config_file}: cannot be read as a YAML file: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{config_file}: a mapping such as 'trainer: {{max_epochs: 3}}' is needed, got {tree!r}"
        )
    return tree


def _move_loss_keys(tree: dict[str, Any]) -> dict[str, Any]:
    model = tree.get("model")
    params = model.get("params") if isinstance(model, dict) else None
    fields = {f.name for f in dataclasses.fields(RangeConfig)}
    moved = {k: v for k, v in params.items() if k not in fields} if isinstance(params, dict) else {}
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


def _move_loss_flag(argument: str) -> str:
    key = _flag_key(argument)
    name = key.removeprefix("model.params.")
    if (
        not argument.startswith("--")
        or name == key
        or name in {f.name for f in dataclasses.fields(RangeConfig)}
    ):
        return argument
    log.info("model.params: %s taken as a key of model.loss", name)
    return argument.replace("model.params.", "model.loss.", 1)


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _flag_key(argument: str) -> str:
    return argument.removeprefix("--").partition("=")[0]


def _is_known(key: str, known: set[str]) -> bool:
    # A leaf that takes a mapping (or a class_path with init_args) has keys below it that the parser checks.
    if key in known:
        return True
    parts = key.split(".")
    heads = [".".join(parts[:n]) for n in range(1, len(parts))]
    return any(h in known and not any(k.startswith(f"{h}.") for k in known) for h in heads)


def _last_value(key: str, tree: dict[str, Any], arguments: list[str]) -> str | None:
    found: Any = tree
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    for position, argument in enumerate(arguments):
        if argument == f"--{key}" and position + 1 < len(arguments):
            found = arguments[position + 1]
        elif argument.startswith(f"--{key}="):
            found = argument.partition("=")[2]
    return found
