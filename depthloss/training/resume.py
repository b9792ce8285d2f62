"""Going on with a run, and leaving other runs alone."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import torch

from depthloss.training.config import BEST, LAST, ConfigError

log = logging.getLogger("depthloss.training")


def find_checkpoint(which: str, checkpoint_dir: Path) -> Path:
    """Return the checkpoint that `--resume` means.

    Args:
        which: "last", "best" or a file.
        checkpoint_dir: where the run keeps its checkpoints.

    Raises:
        ConfigError: there is none.
    """
    last = checkpoint_dir / f"{LAST}.ckpt"
    path = checkpoint_dir / f"{which}.ckpt" if which in (BEST, LAST) else Path(which)
    if which == BEST and not path.exists() and last.exists():
        # With several kept, the names hold epoch and metric; the last checkpoint knows which is best.
        for state in torch.load(last, map_location="cpu", weights_only=True)["callbacks"].values():
            if isinstance(state, dict) and state.get("monitor") and state.get("best_model_path"):
                path = checkpoint_dir / Path(state["best_model_path"]).name
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in checkpoint_dir.glob("*.ckpt"))) or "none"
        raise ConfigError(f"--resume {which}: no checkpoint {path}; in {checkpoint_dir} there are: {there}")
    return path


def refuse_other_run(name: str, run_dir: Path, checkpoint_dir: Path, checkpoint: Path | None) -> None:
    """Check that a new run, or one resumed from elsewhere, does not write into the directory of another.

    Raises:
        ConfigError: it would.
    """
    occupied = (run_dir / "metrics.csv").exists() or any(checkpoint_dir.glob("*.ckpt"))
    if occupied and (checkpoint is None or checkpoint.resolve().parent != checkpoint_dir.resolve()):
        raise ConfigError(
            f"{run_dir} already holds a run: go on with it by --resume, or give this one a name of its own "
            f"by --name (now {name!r})"
        )


def check_resume(checkpoint: Path, tree: dict[str, Any], max_epochs: int) -> int:
    """Check a checkpoint, and log which settings have changed since.

    Args:
        checkpoint: the file.
        tree: the effective configuration.
        max_epochs: epochs of the whole run.

    Returns:
        The number of steps that it has done.

    Raises:
        ConfigError: not a checkpoint of a run, or nothing is left to do.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    try:
        done = state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        step = state["global_step"]
    except KeyError as error:
        raise ConfigError(
            f"--resume {checkpoint}: not a checkpoint of this script, it has no {error}"
        ) from error
    if done >= max_epochs:
        raise ConfigError(
            f"--resume {checkpoint}: {done} of {max_epochs} epochs are done; give more by --max-epochs"
        )
    before, now = flat(state.get("config", {})), flat(tree)
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and key.split(".")[0] not in ("name", "checkpoint", "tensorboard"):
            log.warning("resuming with another %s: %r, was %r", key, now.get(key), before.get(key))
    log.info("resuming after epoch %d of %d, step %d, from %s", done, max_epochs, step, checkpoint)
    return step


def rows_before(metrics_csv: Path, step: int) -> list[dict[str, str]]:
    """Return the rows of a metrics.csv up to the step that a run goes on from; none if there is no file."""
    if not metrics_csv.exists():
        return []
    with metrics_csv.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if int(row["step"]) < step]


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping with dotted keys."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
