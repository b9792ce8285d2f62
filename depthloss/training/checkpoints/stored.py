"""Finding, choosing and reading checkpoints."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from depthloss.training.configuration.sections import (
    AUTO,
    BEST,
    LAST,
    PREVIOUS,
)
from depthloss.training.errors import ConfigError
from depthloss.training.files import check_depth, read_yaml
from depthloss.training.weights import damage

log = logging.getLogger("depthloss.training")


class DamagedCheckpoint(ConfigError):
    """A file that is cut short or changed, or no checkpoint."""


def checkpoints_in(directory: Path) -> list[Path]:
    """Return the checkpoints in a folder, by name; a hidden one is what a killed process was writing."""
    found = directory.glob("*.ckpt") if os.path.isdir(directory) else ()
    return sorted(p for p in found if not p.name.startswith("."))


def find_checkpoint(which: str | Path, checkpoint_dir: Path) -> Path | None:
    """Return the checkpoint that `--resume` means; None for "auto" where there is none.

    Args:
        which: "last", the newest that is whole, also meant by a file last.ckpt that is damaged or missing;
            "auto", "last" if there is one; "best"; or a file.
        checkpoint_dir: where the run keeps its checkpoints.

    Raises:
        ConfigError: there is none.
    """
    path = checkpoint_dir / f"{LAST}.ckpt" if which in (AUTO, LAST) else Path(which)
    if which == BEST:
        path = best_checkpoint(checkpoint_dir) or checkpoint_dir / f"{BEST}.ckpt"
    elif which in (AUTO, LAST) or (
        path.name == f"{LAST}.ckpt" and (not os.path.isfile(path) or _is_damaged(path))
    ):
        there = [p.name for p in checkpoints_in(path.parent)]
        if newest := newest_checkpoint(path.parent):
            return newest
        if there:
            raise ConfigError(
                f"--resume {which}: none of the checkpoints in {path.parent} is whole: {', '.join(there)}"
            )
        if which == AUTO:
            return None
    if not os.path.isfile(path):
        there = ", ".join(p.name for p in checkpoints_in(checkpoint_dir)) or "none"
        raise ConfigError(f"--resume {which}: no checkpoint {path}; in {checkpoint_dir} there are: {there}")
    return path


def newest_checkpoint(directory: Path) -> Path | None:
    """Return the whole checkpoint with the most steps in a folder; None if there is none.

    Logs each that is damaged, and the choice of one that is not last.ckpt: a kill may have come between
    best.ckpt and last.ckpt.

    Raises:
        ConfigError: last.ckpt would run code.
    """
    steps: dict[Path, int] = {}
    for path in checkpoints_in(directory):
        try:
            done = read_checkpoint(path, verify=False).get("global_step")
            steps[path] = done if isinstance(done, int) else -1
        except ConfigError as error:
            _pass_over(path, error)
    # Of equal steps last.ckpt: it was written last and knows the best.
    for path in sorted(steps, key=lambda p: (steps[p], p.stem == LAST, p.stem != PREVIOUS), reverse=True):
        try:
            read_checkpoint(path)
        except ConfigError as error:
            _pass_over(path, error)
            continue
        if path.stem != LAST:
            log.warning("resuming from the newest whole checkpoint, %s", path)
        return path
    return None


def _pass_over(path: Path, error: ConfigError) -> None:
    if path.stem == LAST and not isinstance(error, DamagedCheckpoint):
        raise error
    log.warning("%s", error)


def best_checkpoint(directory: Path) -> Path | None:
    """Return the best checkpoint in a folder, whole or not; None if there is none."""
    if (best := directory / f"{BEST}.ckpt").is_file():
        return best
    # With several kept, the names hold epoch and metric; the last checkpoint knows which is best.
    for name in (LAST, PREVIOUS):
        with contextlib.suppress(ConfigError):
            callbacks = read_checkpoint(directory / f"{name}.ckpt").get("callbacks")
            for state in callbacks.values() if isinstance(callbacks, dict) else ():
                if isinstance(state, dict) and state.get("monitor") and state.get("best_model_path"):
                    best = directory / Path(str(state["best_model_path"])).name
                    return best if best.is_file() else None
    return None


def _is_damaged(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except DamagedCheckpoint as error:
        log.warning("%s", error)
        return True
    return False


def set_aside_damaged(checkpoint: Path) -> None:
    """Rename a damaged last.ckpt or best.ckpt beside the checkpoint from which a run resumes.

    The next save would make it previous.ckpt, or it would pass for the best until a later epoch is better.
    """
    for name in (LAST, BEST):
        path = checkpoint.with_name(f"{name}.ckpt")
        if path != checkpoint and path.is_file() and _is_damaged(path):
            path.rename(path.with_name(f"{path.name}.damaged"))
            log.warning("%s renamed to %s.damaged", path, path.name)


def read_checkpoint(path: Path, key: str = "--resume ", verify: bool = True) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; its tensors are mapped, not copied, as only names and shapes are needed
    here. It makes nothing but tensors and plain values of the file.

    Args:
        path: the file.
        key: what gives it, for the errors.
        verify: compare every byte with the file's checksums, as torch.load does not.

    Raises:
        DamagedCheckpoint: the file is damaged, or no checkpoint.
        ConfigError: it would run code.
    """
    try:
        if verify and (reason := damage(path)):
            raise _damaged(path, key, reason)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # it is refused, or fine
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except DamagedCheckpoint:
        raise
    except (PermissionError, FileNotFoundError, IsADirectoryError) as error:
        raise ConfigError(f"{key}{path}: it cannot be read: {error.strerror}") from error
    except Exception as error:  # torch names no set of errors for a damaged file
        if not zipfile.is_zipfile(path):
            reason = "it is not the whole zip archive that torch.save writes"
            raise _damaged(path, key, reason) from error
        if not (reason := damage(path)) and isinstance(error, pickle.UnpicklingError):
            wanted = re.search(r"GLOBAL (\S+)", str(error))
            raise ConfigError(
                f"{key}{path}: refused, and nothing of it was run: it asks for "
                f"{wanted[1] if wanted else 'an object'}, and a checkpoint of this script holds tensors and "
                "plain values only. Take one from a source that you trust"
            ) from error
        raise _damaged(path, key, reason or str(error).strip().partition("\n")[0]) from error
    if not isinstance(state, dict):
        raise DamagedCheckpoint(
            f"{key}{path}: not a checkpoint of this script, it holds a {type(state).__name__}"
        )
    return state


def config_in(path: Path, state: dict[str, Any], key: str = "--resume ") -> dict[str, Any]:
    """Return the configuration that a checkpoint holds; {} if it has none.

    Args:
        path: the file.
        state: its content.
        key: what gives it, for the error.

    Raises:
        ConfigError: it is no tree.
    """
    tree = state.get("config") or {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{key}{path}: not a checkpoint of this script, its configuration is a {type(tree).__name__}"
        )
    check_depth(f"{key}{path}: its configuration", tree)
    return tree


def _damaged(path: Path, key: str, reason: str) -> DamagedCheckpoint:
    others = ", ".join(str(p) for p in checkpoints_in(path.parent) if p != path) or "none"
    return DamagedCheckpoint(
        f"{key}{path}: the file is damaged, or no checkpoint ({reason}); others beside it: {others}"
    )


def own_checkpoint_dir(run_dir: Path) -> Path:
    """Return where the run in a directory keeps its checkpoints, by its config.yaml if it has one.

    Raises:
        ConfigError: its config.yaml cannot be read.
    """
    path = run_dir / "config.yaml"
    tree = read_yaml(path) if os.path.exists(path) else None
    section = tree.get("checkpoint") if isinstance(tree, dict) else None
    dirpath = section.get("dirpath") if isinstance(section, dict) else None
    return Path(str(dirpath)) if dirpath else run_dir / "checkpoints"


def choose_checkpoint(path: Path) -> Path:
    """Return the checkpoint that a path means: the file, or of a run directory the best, else the last.

    A damaged one is returned too: with another in its place, the numbers would be those of other weights.

    Raises:
        ConfigError: there is none.
    """
    if os.path.isdir(path):
        folder = path if checkpoints_in(path) else own_checkpoint_dir(path)
        lasts = (folder / f"{name}.ckpt" for name in (LAST, PREVIOUS))
        if chosen := best_checkpoint(folder) or next((p for p in lasts if p.is_file()), None):
            return chosen
        raise ConfigError(f"{path}: no best and no last checkpoint in {folder}")
    if not os.path.isfile(path):
        raise ConfigError(f"{path}: {'no such checkpoint' if not os.path.exists(path) else 'no file'}")
    return path
