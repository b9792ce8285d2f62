"""Checkpoints of whole epochs, written whole or not at all."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from depthloss.training.configuration.sections import BEST, LAST, PREVIOUS
from depthloss.training.files import chain, reason, whole_file
from depthloss.training.weights import damage

log = logging.getLogger("depthloss.training")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written (the earlier ones are intact), or is damaged."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Reads whole files only; writes beside the target and renames, keeping the former last.ckpt as
    previous.ckpt.

    Lightning writes into the folder for temporary files and then copies. On another file system a kill can
    cut that copy short, after it has replaced the earlier checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save, whole or not at all.

        Raises:
            CheckpointError: it could not be written.
        """
        path, written = Path(path), None
        try:
            with whole_file(path) as temporary:
                with temporary.open("wb") as file:
                    try:
                        torch.save(checkpoint, file)
                        file.flush()
                        os.fsync(file.fileno())
                    except (OSError, RuntimeError):
                        written = os.fstat(file.fileno()).st_size
                        raise
                if path.name == f"{LAST}.ckpt" and path.exists():
                    _keep_as_previous(path)
        except (OSError, RuntimeError) as error:
            # The error of torch itself, if there is one, only says that it could not write.
            cause = next((e for e in chain(error) if isinstance(e, OSError)), error)
            why = reason(cause, path.parent, written)
            raise CheckpointError(
                f"{path} could not be written: {why}; what was there before is intact"
            ) from error

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint whose checksums are right.

        Raises:
            CheckpointError: a checksum is wrong.
        """
        if reason := damage(Path(path)):
            raise CheckpointError(f"{path} is damaged: {reason}")
        return super().load_checkpoint(path, *args, **kwargs)


def _keep_as_previous(last: Path) -> None:
    previous = last.with_name(f"{PREVIOUS}.ckpt")
    link = last.with_name(f".{PREVIOUS}-{os.getpid()}.ckpt")
    try:
        os.link(last, link)
        os.replace(link, previous)
    except OSError:  # no hard links here: for a moment there is no last.ckpt
        os.replace(last, previous)


def remove_unfinished(directory: Path) -> None:
    """Remove what a killed process was writing in a folder of checkpoints."""
    for file in directory.glob(".*-*.ckpt"):
        if file.stem.rpartition("-")[2].isdigit():
            log.info("%s: removed, a killed process did not finish it", file)
            file.unlink(missing_ok=True)


class EpochCheckpoint(ModelCheckpoint):
    """Saves at the end of an epoch, after its validation, and only if the epoch is whole.

    So a run that ended within an epoch (`trainer.max_time`) is resumed from the epoch before, exactly.

    Args:
        every: epochs between two checkpoints; the last epoch of the run has one in any case. With a
            `monitor`, every epoch in which that was measured counts instead.
        **kwargs: of `ModelCheckpoint`.
    """

    def __init__(self, every: int = 1, **kwargs: Any) -> None:
        super().__init__(save_on_train_epoch_end=True, enable_version_counter=False, **kwargs)
        self.every = every

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if the epoch is due and whole and, where a metric decides, was validated."""
        epochs = trainer.current_epoch + 1
        if self.monitor is None:
            due = epochs % self.every == 0 or epochs >= trainer.max_epochs
        else:
            interval = trainer.check_val_every_n_epoch
            due = not self.monitor.startswith("val/") or not interval or epochs % interval == 0
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            if self.monitor is None:
                log.warning("epoch %d was cut short: no checkpoint of it is kept", trainer.current_epoch + 1)
        elif due:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what is best so far, also if the run directory was moved; nothing of another run."""
        here = {path: str(Path(self.dirpath) / Path(path).name) for path in state_dict["best_k_models"]}
        # A later epoch, which this run repeats, may have replaced one of them.
        kept = {
            here[path]: score
            for path, score in state_dict["best_k_models"].items()
            if Path(here[path]).exists()
        }
        if not kept:
            return
        best, worst = (max, min) if self.mode == "max" else (min, max)
        state = {**state_dict, "dirpath": self.dirpath, "best_k_models": kept, "last_model_path": ""}
        state["best_model_path"] = best(kept, key=kept.get)
        state["best_model_score"] = kept[state["best_model_path"]]
        state["kth_best_model_path"] = worst(kept, key=kept.get)
        state["kth_value"] = kept[state["kth_best_model_path"]]
        super().load_state_dict(state)


def checkpoint_callbacks(
    dirpath: Path, save_top_k: int, monitor: str, mode: str, every_n_epochs: int
) -> list[EpochCheckpoint]:
    """Return the callback that keeps the best and the one that keeps the last.

    Two, because a single one renews `last.ckpt` only when the epoch is among the best. The last is written
    after the best, so that it knows of it. With `save_top_k` = 1 the best is `best.ckpt`, else epoch and
    metric are in the names. `every_n_epochs` is for the last alone.
    """
    filename = (
        BEST if save_top_k == 1 else f"epoch{{epoch:03d}}-{monitor.rpartition('/')[2]}{{{monitor}:.4f}}"
    )
    callbacks = []
    if save_top_k != 0:
        callbacks.append(
            EpochCheckpoint(
                filename=filename,
                monitor=monitor,
                mode=mode,
                save_top_k=save_top_k,
                auto_insert_metric_name=False,
                dirpath=dirpath,
            )
        )
    callbacks.append(EpochCheckpoint(every_n_epochs, filename=LAST, dirpath=dirpath))
    return callbacks
