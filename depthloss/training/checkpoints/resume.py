"""Resuming a run, and refusing to write into another one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import nn

from depthloss.training.checkpoints.stored import (
    checkpoints_in,
    config_in,
    find_checkpoint,
    own_checkpoint_dir,
    read_checkpoint,
)
from depthloss.training.command import typed
from depthloss.training.configuration.networks import check_trusted
from depthloss.training.configuration.parser import parse
from depthloss.training.configuration.sections import (
    LAST,
    NETWORKS,
    QUICK_START,
    TRAINER_DEFAULTS,
    EmaConfig,
    SchedulerConfig,
)
from depthloss.training.errors import ConfigError
from depthloss.training.weights import nonfinite

log = logging.getLogger("depthloss.training")

# Keys that the restored weights and the restored state of optimiser and scheduler belong to.
FIXED = (
    *("model.loss.supervised_method", "model.init_from", "model.depth_net."),
    *("model.optimizer.", "model.scheduler.", "ema."),
)
# A checkpoint that lacks one of these keys had none.
LATER = {
    "model.init_from": None,
    "model.scheduler.warmup_steps": SchedulerConfig.warmup_steps,
    "ema.decay": EmaConfig.decay,
}


def parse_from_checkpoint(which: str, arguments: list[str]) -> tuple[Namespace, str, Path | None]:
    """Parse the configuration that a checkpoint holds, and the arguments that override it.

    Args:
        which: "last", "best" or "auto" of the run that --name means, or a file.
        arguments: as for `parse`.

    Returns:
        As `parse`, and the checkpoint; for "auto" without one the quick start's.

    Raises:
        ConfigError: there is no such checkpoint, it has no configuration, or an argument does not go with it.
    """
    root = _given("trainer.default_root_dir", arguments) or TRAINER_DEFAULTS["default_root_dir"]
    name = _given("name", arguments) or _given("datasets.train.dataset", arguments) or QUICK_START["name"]
    run_dir = Path(root) / name
    dirpath = _given("checkpoint.dirpath", arguments)
    checkpoint = find_checkpoint(which, Path(dirpath) if dirpath else own_checkpoint_dir(run_dir))
    if checkpoint is None:
        return *parse(None, arguments), None
    tree = config_in(checkpoint, read_checkpoint(checkpoint))
    if not tree:
        raise ConfigError(
            f"--resume {checkpoint}: it holds no configuration; give the configuration file as well, first"
        )
    # Before the parser complains of keys that only go with the other loss or network.
    before = flat(tree)
    for key in ("model.loss.supervised_method", "model.depth_net.name"):
        now = _given(key, arguments)
        if now is not None and now != before.get(key):
            raise _changed(checkpoint, {key: (now, before.get(key))})
    check_trusted(
        tree, [_given("model.depth_net.name", arguments)], f"--resume {checkpoint}", "--model.depth_net.name"
    )
    log.info("configuration taken from %s", checkpoint)
    try:
        return *parse(tree, arguments), checkpoint
    except ConfigError as error:
        raise ConfigError(f"{checkpoint}: {error}") from error


def refuse_other_run(name: str, run_dir: Path, checkpoint_dir: Path, checkpoint: Path | None) -> None:
    """Check that a new run, or one resumed from elsewhere, does not write into the directory of another.

    A run without a checkpoint does not count: it cannot be resumed, so the new one takes its place.

    Raises:
        ConfigError: it would write there.
    """
    if checkpoint is not None and checkpoint.resolve().parent == checkpoint_dir.resolve():
        return
    for directory in dict.fromkeys((run_dir / "checkpoints", own_checkpoint_dir(run_dir), checkpoint_dir)):
        if not checkpoints_in(directory):
            continue
        if directory == checkpoint_dir and directory != run_dir / "checkpoints":
            raise ConfigError(
                f"checkpoint.dirpath: {directory} already holds the checkpoints of a run: resume it by "
                "--resume, or give this one a folder of its own by --checkpoint.dirpath"
            )
        raise ConfigError(
            f"{run_dir} already holds a run, with checkpoints in {directory}: resume it by --resume, or "
            f"give this one a name of its own by --name (now {name!r})"
        )


def check_resume(checkpoint: Path, state: dict[str, Any], tree: dict[str, Any], max_epochs: int) -> int:
    """Check that a run can be resumed with a configuration, and log which settings have changed since.

    Args:
        checkpoint: the file.
        state: its content.
        tree: the effective configuration.
        max_epochs: epochs of the whole run.

    Returns:
        The number of steps that it has done.

    Raises:
        ConfigError: it is no checkpoint of a run, nothing is left to do, or a setting has changed that the
            restored state would override.
    """
    try:
        done = state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        step, weights, optimizers = (state[key] for key in ("global_step", "state_dict", "optimizer_states"))
    except KeyError as error:
        raise ConfigError(
            f"--resume {checkpoint}: not a checkpoint of this script, it has no {error}"
        ) from error
    except TypeError as error:
        raise ConfigError(f"--resume {checkpoint}: not a checkpoint of this script ({error})") from error
    numbers = type(done) is type(step) is int
    tensors = isinstance(weights, dict) and all(isinstance(t, torch.Tensor) for t in weights.values())
    if not (numbers and tensors and isinstance(optimizers, list)):
        raise ConfigError(
            f"--resume {checkpoint}: not a checkpoint of this script, whose counts are numbers and whose "
            "weights are tensors"
        )
    if done >= max_epochs:
        raise ConfigError(
            f"--resume {checkpoint}: {done} of {max_epochs} epochs are done; give more by --max-epochs"
        )
    before, now = {**LATER, **flat(config_in(checkpoint, state))}, flat(tree)
    changed = {
        key: (now.get(key), before.get(key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }
    # A key that the checkpoint lacks is newer than it; what does not fit the weights, `check_fits` finds.
    if refused := {key: v for key, v in changed.items() if key.startswith(FIXED) and key in before}:
        raise _changed(checkpoint, refused)
    for key, values in changed.items():
        if key.split(".")[0] not in ("name", "checkpoint", "tensorboard", "wandb"):
            log.warning("resuming with another %s: %r, was %r", key, *values)
    log.info("resuming after epoch %d of %d, step %d, from %s", done, max_epochs, step, checkpoint)
    return step


def check_fits(
    checkpoint: Path, state: dict[str, Any], module: nn.Module, groups: list[dict[str, Any]]
) -> None:
    """Check that the weights and the optimiser's groups in a checkpoint are those of a module.

    Args:
        checkpoint: the file.
        state: its content.
        module: what is to be trained.
        groups: the groups of parameters that its optimiser will have.

    Raises:
        ConfigError: they are others (the differences are named), or not finite.
    """

    def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
        return {name: tuple(t.shape) for name, t in tensors.items()}

    before, now = shapes(state["state_dict"]), shapes(module.state_dict())
    if differing := sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k)):
        texts = [f"{key} {before.get(key, 'absent')}, now {now.get(key, 'absent')}" for key in differing[:3]]
        more = f"; and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ConfigError(
            f"--resume {checkpoint}: its weights are not those of this network and loss: "
            f"{'; '.join(texts)}{more}. Without a configuration file, --resume takes the checkpoint's own"
        )
    if names := nonfinite(state["state_dict"]):
        raise ConfigError(
            f"--resume {checkpoint}: its weights are not finite, such as {names[0]}: take an earlier one"
        )
    try:
        was = [(g.get("name"), len(g["params"])) for g in state["optimizer_states"][0]["param_groups"]]
    except (AttributeError, IndexError, KeyError, TypeError):
        was = []
    if was != (is_now := [(group["name"], len(group["params"])) for group in groups]):
        raise ConfigError(
            f"--resume {checkpoint}: other parameters were trained: {was} (group, tensors), now {is_now}. "
            "Without a configuration file, --resume takes the checkpoint's own"
        )


def how_to_resume(checkpoint_dir: Path, network: str) -> str:
    """Return what to do after a run was stopped: its checkpoints hold the configuration as well.

    Args:
        checkpoint_dir: where they are.
        network: `model.depth_net.name`, which the command must repeat if it is a class of the user's own.
    """
    last = checkpoint_dir / f"{LAST}.ckpt"
    if there := checkpoints_in(checkpoint_dir):
        newest = last if last in there else max(there, key=lambda p: p.stat().st_mtime)
        own = "" if network in NETWORKS else f" --model.depth_net.name {network}"
        return f"resume with: {typed('train.py')} --resume {newest}{own}"
    return "no epoch was finished, so there is no checkpoint to resume from; the same command starts over"


def _changed(checkpoint: Path, keys: dict[str, tuple[Any, Any]]) -> ConfigError:
    texts = [f"{key} (now {now!r}, was {was!r})" for key, (now, was) in keys.items()]
    return ConfigError(
        f"--resume {checkpoint}: these cannot change within a run: {', '.join(texts)}. Leave them as they "
        "were (without a configuration file, --resume takes the checkpoint's own), or start a run of another "
        "--name"
    )


def _given(key: str, arguments: list[str]) -> str | None:
    found = None
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag == f"--{key}":
            found = value if equals else next(iter(arguments[position + 1 :]), None)
    return found


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping with dotted keys."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
