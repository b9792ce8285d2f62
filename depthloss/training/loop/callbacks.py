"""Callbacks of a run: averaged weights, progress, pictures, and the loss's share of a step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ProgressBar, WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from depthloss.training.configuration.sections import EmaConfig
from depthloss.training.drawing.figures import Sample, write_curves, write_predictions
from depthloss.training.progress import Progress, duration

log = logging.getLogger("depthloss.training")


class Averaging(WeightAveraging):
    """The running average of weights and running statistics: Lightning validates and saves it in their place.

    A checkpoint holds the average in `state_dict`, the optimiser's own weights in `current_model_state`,
    and says so under `weights`.

    Args:
        config: `decay` must be set.
    """

    def __init__(self, config: EmaConfig) -> None:
        super().__init__(multi_avg_fn=self._average)
        self.config = config

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copy the module."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            # It is read in every step: on the device each read would synchronise.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    @torch.no_grad()
    def _average(self, averages: list[Tensor], current: list[Tensor], _: Any) -> None:
        if not averages[0].is_floating_point():  # numbers of batches
            torch._foreach_copy_(averages, current)
            return
        n, keep = int(self._average_model.n_averaged), self.config.decay
        if self.config.ramp:
            keep = min(keep, (1 + n) / (10 + n))
        torch._foreach_lerp_(averages, current, 1 - keep)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether to average after a step."""
        return step_idx is not None and step_idx % self.config.every_n_steps == 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average, unless the step was skipped: its running statistics are only taken back after this."""
        if pl_module.step_taken:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the average in the place of the weights."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["weights"] = "averaged"

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore both to resume the training; a test keeps the average, which is loaded already."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


class RunProgress(ProgressBar):
    """Shows how far a run is, in batches of all its epochs; after the first it says how long it will take.

    Args:
        clock: seconds.
    """

    WARM_UP, MEASURED = 2, 5  # batches: the first are slower

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._enabled = True
        self._progress: Progress | None = None
        self._batches = 0  # of this process
        self._measured_from = 0.0

    def disable(self) -> None:
        """Show nothing: Lightning calls it on all ranks but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show something again."""
        self._enabled = True

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin where the run begins or resumes, and name the epoch."""
        name = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
        if self._progress:
            self._progress.name = name
        elif self._enabled:
            total = trainer.max_epochs * trainer.num_training_batches
            done = trainer.fit_loop.epoch_loop.batch_progress.total.ready
            self._progress = Progress(total, name, "batches", min(done, total), clock=self._clock)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch."""
        self._batches += 1
        self._update(trainer)
        if self._batches == self.WARM_UP:
            self._measured_from = self._clock()
        elif self._batches == self.WARM_UP + self.MEASURED and self._progress:
            seconds = (self._clock() - self._measured_from) / self.MEASURED
            log.info("%s", self._estimate(trainer, seconds))

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show the progress of the validation."""
        if not trainer.sanity_checking and self._progress:
            self._progress.update(
                0, lambda: f"validation {batch_idx + 1}/{trainer.num_val_batches[dataloader_idx]}"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the bar."""
        self._close()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin."""
        if self._enabled:
            self._progress = Progress(sum(trainer.num_test_batches), "test", "batches", clock=self._clock)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        self._update(trainer)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the bar."""
        self._close()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Remove the bar."""
        self._close()

    def _update(self, trainer: L.Trainer) -> None:
        if self._progress:
            self._progress.update(1, lambda: _numbers(trainer.progress_bar_metrics))

    def _close(self) -> None:
        if self._progress:
            self._progress.close()
            self._progress = None

    def _estimate(self, trainer: L.Trainer, seconds: float) -> str:
        """Return how long the rest of the run will take, by the seconds that a batch takes."""
        left = self._progress.total - self._progress.done
        total = left * seconds
        if trainer.enable_validation:
            # A frame without its backward pass takes about a third.
            share = trainer.val_dataloaders.batch_size / trainer.train_dataloader.batch_size / 3
            epochs = (trainer.max_epochs - trainer.current_epoch) // (trainer.check_val_every_n_epoch or 1)
            total += epochs * sum(trainer.num_val_batches) * share * seconds
        end = f"the end of epoch {trainer.max_epochs}"
        return f"about {duration(total)} to {end}: {left} batches of {seconds:.2g} s"


def _numbers(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name.removeprefix('val/')} {value:.3g}" for name, value in metrics.items())


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
        if not trainer.sanity_checking and time.monotonic() - self._written > 60:
            self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the pictures."""
        self._write(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Write the pictures of what was logged so far."""
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        self._written = time.monotonic()
        try:
            self._draw(trainer)
        except Exception:
            # A failed picture must neither stop a run nor hide the error that stopped it.
            log.exception("the pictures could not be written; the training does not need them")

    def _draw(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        metrics = self.run_dir / "metrics.csv"
        if metrics.exists():
            write_curves(metrics, self.run_dir / "curves.png", title=self.title)
        if self._samples:
            title = f"{self.title}, epoch {self._epoch + 1}".lstrip(", ")
            write_predictions(self._samples, self.run_dir / "predictions.png", title=title)


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

    A step is all batches whose gradients are accumulated for it, without the wait for the data; the loss is
    all its calls, two per batch with an RGB-D pass. The backward pass of a call runs from the gradient of its
    value to the first gradient of a prediction: autograd runs what was recorded last first, so all of that
    call before anything that was there before it.
    """

    WARM_UP = 3
    NAMES = ("time/step_ms", "time/loss_ms", "time/loss_percent")

    def __init__(self) -> None:
        self._of_epoch: list[tuple[float, float, float]] = []
        self._begin_of_batch: Any = None
        self._calls: list[dict[str, Any]] = []
        self._handles: list[Any] = []
        self._cuda = False
        self._batches: list[tuple[float, float, float]] = []  # since the last step
        self._rows: list[tuple[float, float, float]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hook into the loss."""
        self._cuda = pl_module.device.type == "cuda"
        loss = pl_module.model.supervised_loss
        self._handles = [loss.register_forward_pre_hook(self._begin), loss.register_forward_hook(self._end)]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a batch."""
        self._begin_of_batch, self._calls = self._now(), []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure the batch; log the step, if it ends with one."""
        whole = self._elapsed(self._begin_of_batch, self._now())
        forward = sum(self._elapsed(call["forward"], call["value"]) for call in self._calls)
        backward = sum(
            self._elapsed(call["backward"], call["gradient"]) for call in self._calls if "gradient" in call
        )
        self._batches.append((whole, forward, backward))
        if pl_module.accumulating:
            return
        step, forward, backward = (sum(column) for column in zip(*self._batches, strict=True))
        self._batches = []
        self._rows.append((step, forward, backward))
        self._of_epoch.append((step, forward + backward, 100 * (forward + backward) / step))
        pl_module.log_dict(
            {f"{name}_step": x for name, x in zip(self.NAMES, self._of_epoch[-1], strict=True)}
        )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the means of the epoch."""
        if rows := self._of_epoch:
            means = (sum(column) / len(rows) for column in zip(*rows, strict=True))
            pl_module.log_epoch({f"{name}_epoch": x for name, x in zip(self.NAMES, means, strict=True)})
        self._of_epoch = []

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

    def _begin(self, module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        # Views, recorded here, so that their hooks fire when the loss's backward pass ends. The predictions
        # were recorded earlier, within the network's pass.
        call: dict[str, Any] = {}
        single = isinstance(args[0], Tensor)
        views = [x.view_as(x) for x in ([args[0]] if single else args[0])]
        for view in views:
            if view.requires_grad:
                view.register_hook(lambda _: self._mark_once(call, "gradient"))
        self._calls.append(call)
        call["forward"] = self._now()
        return (views[0] if single else views, *args[1:])

    def _end(self, module: torch.nn.Module, args: tuple[Any, ...], output: dict[str, Tensor]) -> None:
        call = self._calls[-1]
        call["value"] = self._now()
        if output["loss"].requires_grad:
            output["loss"].register_hook(lambda _: self._mark_once(call, "backward"))

    def _mark_once(self, call: dict[str, Any], name: str) -> None:
        if name not in call:
            call[name] = self._now()

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
