"""Callbacks of a run: checkpoints of whole epochs, pictures, and the loss's share of a step."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from depthloss.training.config import BEST, LAST
from depthloss.training.report import Sample, whole_file, write_curves, write_predictions

log = logging.getLogger("depthloss.training")


# The metrics of which more is better.
MORE_IS_BETTER = ("a1", "a2", "a3")


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and then renames.

    Lightning's own writes into the folder for temporary files: on another file system the copy that follows
    can be cut short by a kill, and takes the place of the checkpoint before.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save, whole or not at all."""
        with whole_file(Path(path)) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


class EpochCheckpoint(ModelCheckpoint):
    """Saves at the end of an epoch, after its validation, and only if the epoch is whole.

    A run that ended within an epoch (`trainer.max_time`) so goes on from the epoch before, and exactly.

    Args:
        every: epochs between two checkpoints; the last epoch of the run has one in any case. One with a
            `monitor` looks at every epoch in which that was measured instead.
        **kwargs: of `ModelCheckpoint`.
    """

    def __init__(self, every: int = 1, **kwargs: Any) -> None:
        super().__init__(save_on_train_epoch_end=True, enable_version_counter=False, **kwargs)
        self.every = every

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, if it is time to, the epoch is whole and, where a metric decides, was validated."""
        epochs = trainer.current_epoch + 1
        if self.monitor is None:
            due = epochs % self.every == 0 or epochs >= trainer.max_epochs
        else:
            interval = trainer.check_val_every_n_epoch
            due = not self.monitor.startswith("val/") or not interval or epochs % interval == 0
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            if self.monitor is None:
                log.warning("epoch %d was cut short: no checkpoint of it is kept", trainer.current_epoch)
        elif due:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what is best so far, also if the run directory was moved; nothing from another run."""
        here = {path: str(Path(self.dirpath) / Path(path).name) for path in state_dict["best_k_models"]}
        # One of them may have made way for a later epoch, which this run repeats.
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


def monitor_mode(monitor: str, mode: str | None = None) -> str:
    """Return whether less ("min") or more ("max") of a metric is better; `mode` if that is given."""
    return mode or ("max" if monitor.rpartition("/")[2] in MORE_IS_BETTER else "min")


def checkpoint_callbacks(
    dirpath: Path, save_top_k: int, monitor: str, mode: str | None, every_n_epochs: int
) -> list[EpochCheckpoint]:
    """Return the callback that keeps the best and the one that keeps the last.

    Two, because a single one renews `last.ckpt` only when the epoch is among the best. The last is written
    after the best, so that it knows of it. With `save_top_k` = 1 the best is `best.ckpt`, else epoch and
    metric are in the names. `every_n_epochs` is for the last alone; a `mode` of None is the monitor's.
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
                mode=monitor_mode(monitor, mode),
                save_top_k=save_top_k,
                auto_insert_metric_name=False,
                dirpath=dirpath,
            )
        )
    callbacks.append(EpochCheckpoint(every_n_epochs, filename=LAST, dirpath=dirpath))
    return callbacks


class Pictures(L.Callback):
    """Writes curves.png and predictions.png into the run directory, at the end and at most once a minute.

    Args:
        run_dir: where metrics.csv lies and the pictures go.
        count: frames to show, spread over the validation set.
        title: first words of the titles.
    """

    def __init__(self, run_dir: Path, count: int = 4, title: str = "") -> None:
        self.run_dir = run_dir
        self.count = count
        self.title = title
        self._samples: list[Sample] = []
        self._new: list[Sample] = []
        self._epoch = 0
        self._written = time.monotonic()

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: dict[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the frames that will be shown."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        loader = trainer.val_dataloaders
        total = min(len(loader.sampler), int(trainer.num_val_batches[dataloader_idx]) * loader.batch_size)
        wanted = {round(i * (total - 1) / max(1, self.count - 1)) for i in range(self.count)}
        first = batch_idx * loader.batch_size
        frames = [i for i in range(len(batch["rgb"])) if first + i in wanted]
        self._new += [_sample(batch, outputs["depth"], i) for i in frames]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the frames of this validation for the next pictures."""
        if self._new:
            self._samples, self._new, self._epoch = self._new, [], trainer.current_epoch
        if trainer.is_global_zero and not trainer.sanity_checking and time.monotonic() - self._written > 60:
            self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the pictures."""
        self._write(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Write the pictures of what there is."""
        try:
            self._write(trainer)
        except Exception:
            # Raised here it would take the place of the error that stopped the training.
            log.exception("the pictures could not be written")

    def _write(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.save()
        metrics = self.run_dir / "metrics.csv"
        if metrics.exists():
            write_curves(metrics, self.run_dir / "curves.png", title=self.title)
        if self._samples:
            title = f"{self.title}, epoch {self._epoch + 1}".lstrip(", ")
            write_predictions(self._samples, self.run_dir / "predictions.png", title=title)
        self._written = time.monotonic()


def _sample(batch: dict[str, Any], depth: Tensor, i: int) -> Sample:
    def plane(x: Tensor | None) -> Any:
        return None if x is None else x[i, 0].detach().float().cpu().numpy()

    gt = batch["depth"]
    if "mask" in batch:
        gt = torch.where(batch["mask"].bool(), gt, 0)
    return Sample(
        rgb=batch["rgb"][i].detach().float().permute(1, 2, 0).cpu().numpy(),
        depth=plane(gt),
        prediction=plane(depth),
        input_depth=plane(batch.get("input_depth")),
        name=str(batch["name"][i]) if "name" in batch else "",
    )


class LossProfiler(L.Callback):
    """Measures how much of a step is the loss, forward and backward: CUDA events on a GPU, else wall clock.

    The backward pass of the loss runs from the gradient of its value to the first gradient of a prediction:
    autograd runs what was recorded last first, so all of the loss before any of the network.
    """

    WARM_UP = 3

    def __init__(self) -> None:
        self._marks: dict[str, Any] = {}
        self._forward: list[tuple[Any, Any]] = []
        self._handles: list[Any] = []
        self._cuda = False
        self._rows: list[tuple[float, float, float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hook into the loss."""
        self._cuda = pl_module.device.type == "cuda"
        loss = pl_module.model.supervised_loss
        self._handles = [loss.register_forward_pre_hook(self._begin), loss.register_forward_hook(self._end)]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a step."""
        self._marks, self._forward = {"step": self._now()}, []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure and log the step."""
        step = self._elapsed(self._marks["step"], self._now())
        forward = sum(self._elapsed(begin, end) for begin, end in self._forward)
        backward = (
            self._elapsed(self._marks["backward"], self._marks["done"]) if "done" in self._marks else 0.0
        )
        self._rows.append((step, forward, backward))
        values = {"time/step_ms": step, "time/loss_ms": forward + backward}
        values["time/loss_percent"] = 100 * (forward + backward) / step
        pl_module.log_dict(values, on_step=True, on_epoch=True, batch_size=1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the medians, without the first steps."""
        for handle in self._handles:
            handle.remove()
        rows = self._rows[self.WARM_UP :] or self._rows
        if rows and trainer.is_global_zero:
            step, forward, backward = (
                torch.tensor(column).median().item() for column in zip(*rows, strict=True)
            )
            log.info(
                "loss: %.2f of %.1f ms per step (%.1f %%), forward %.2f, backward %.2f; medians of %d steps",
                forward + backward,
                step,
                100 * (forward + backward) / step,
                forward,
                backward,
                len(rows),
            )

    def _begin(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        predictions = args[0] if isinstance(args[0], (list, tuple)) else [args[0]]
        for prediction in predictions:
            if prediction.requires_grad:
                prediction.register_hook(lambda _: self._mark_once("done"))
        self._forward.append((self._now(), None))

    def _end(self, module: torch.nn.Module, args: tuple[Any, ...], output: dict[str, Tensor]) -> None:
        self._forward[-1] = (self._forward[-1][0], self._now())
        if output["loss"].requires_grad:
            output["loss"].register_hook(lambda _: self._mark_once("backward"))

    def _mark_once(self, name: str) -> None:
        if name not in self._marks:
            self._marks[name] = self._now()

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _elapsed(self, begin: Any, end: Any) -> float:
        if not self._cuda:
            return 1000 * (end - begin)
        end.synchronize()
        return begin.elapsed_time(end)
