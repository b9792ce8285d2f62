"""Training the runs of a study: how far each is, and a process for each that is not finished."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from depthloss.training.ablation.study import Trial
from depthloss.training.checkpoints.resume import flat
from depthloss.training.checkpoints.stored import checkpoints_in, config_in, read_checkpoint
from depthloss.training.configuration.build import build_loss
from depthloss.training.configuration.parser import parse
from depthloss.training.configuration.sections import LAST, PREVIOUS
from depthloss.training.errors import ConfigError
from depthloss.training.files import whole_file

log = logging.getLogger("depthloss.training")

# Keys that do not change the weights: where a run lies, what is written beside it, how it is measured.
NOT_COMPARED = ("name", "checkpoint.", "tensorboard.", "wandb.", "profile_loss", "check_data")
NOT_COMPARED += ("datasets.validation.", "datasets.test.", "trainer.limit_val_batches")
NOT_COMPARED += ("trainer.check_val_every_n_epoch", "trainer.num_sanity_val_steps")
NOT_COMPARED += ("trainer.default_root_dir", "trainer.enable_progress_bar")


def last_checkpoint(trial: Trial) -> Path:
    """Return where the last checkpoint of a run is or will be."""
    return trial.directory / "checkpoints" / f"{LAST}.ckpt"


def check_trials(trials: Sequence[Trial]) -> dict[str, tuple[int, int]]:
    """Check every run before the first is trained, and return how far each is.

    Returns:
        Name of the run -> epochs that its checkpoint has, epochs that it is to have.

    Raises:
        ConfigError: a configuration cannot be run, or a directory holds a run of other settings; all are
            named.
    """
    done, faults = {}, []
    for trial in trials:
        try:
            cfg, text = parse(trial.tree, [])
            build_loss(cfg.model.loss, cfg.model.params.min_depth, cfg.model.params.max_depth)
        except ConfigError as error:
            faults.append(f"{trial.name}: {error}")
            continue
        epochs, was = _progress(trial)
        done[trial.name] = epochs, cfg.trainer.max_epochs
        now = flat(yaml.safe_load(text))
        # A key that one of them lacks is newer than the other.
        differing = [
            f"{key} (now {now[key]!r}, was {value!r})"
            for key, value in was.items()
            if key in now and now[key] != value and not key.startswith(NOT_COMPARED)
        ]
        if differing:
            faults.append(
                f"{trial.directory}: trained with other settings: {', '.join(differing)}; move it away, or "
                "give --runs another folder"
            )
    if faults:
        raise ConfigError("\n".join(faults))
    return done


def _progress(trial: Trial) -> tuple[int, dict[str, Any]]:
    path = last_checkpoint(trial)
    if not path.is_file():
        return 0, {}
    try:
        state = read_checkpoint(path)
        done = state["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        return done, flat(config_in(path, state))
    except (ConfigError, KeyError, TypeError) as error:
        log.warning("%s: not finished: %s", trial.name, error)
        return 0, {}


def train(trial: Trial, before: int, threads: int | None = None) -> str | None:
    """Train one run, or resume it.

    Args:
        trial: the run.
        before: epochs that are done.
        threads: of torch in its process; None is torch's own number.

    Returns:
        What went wrong; None if nothing did.

    Raises:
        KeyboardInterrupt: the run can be resumed.
    """
    config = trial.directory.parent / f"{trial.name}.yaml"
    with whole_file(config) as file:
        file.write_text(yaml.safe_dump(trial.tree, sort_keys=False), encoding="utf-8")
    resume = bool(checkpoints_in(trial.directory / "checkpoints"))
    log.info("%s: %s", trial.name, f"resuming after epoch {before}" if resume else "training")
    status = launch(trial, config, resume, threads)
    if not status:
        # A finished run needs no previous.ckpt.
        last_checkpoint(trial).with_name(f"{PREVIOUS}.ckpt").unlink(missing_ok=True)
        return None
    log.error("%s: failed with exit status %d; see %s", trial.name, status, log_file(trial))
    return f"exit status {status}: {_last_line(log_file(trial))}"


def log_file(trial: Trial) -> Path:
    """Return where the output of a run's process goes."""
    return trial.directory.parent / f"{trial.name}.log"


def launch(trial: Trial, config: Path, resume: bool, threads: int | None) -> int:
    """Train in a process of its own, which ends when this one does; its output goes to `log_file`.

    Returns:
        The exit status.
    """
    environment = dict(os.environ)
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "depthloss.training.ablation.child", str(config)]
    command += ["--resume"] if resume else []
    with log_file(trial).open("ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, env=environment
        )
        try:
            return process.wait()
        except KeyboardInterrupt:
            # The terminal has sent Ctrl-C to the child as well: it says how to resume and ends.
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def _last_line(file: Path) -> str:
    if not file.is_file():
        return "no output"
    with file.open("rb") as f:
        f.seek(max(0, os.path.getsize(file) - 4096))
        lines = f.read().decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no output"
