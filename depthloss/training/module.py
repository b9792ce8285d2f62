"""The Lightning module: progress, parameter groups, the guard against non-finite steps, logs, checkpoints."""

from __future__ import annotations

import logging
import math
import random
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from depthloss.training.config import OptimizerConfig, SchedulerConfig
from depthloss.training.metrics import DepthMetrics

log = logging.getLogger("depthloss.training")

MAX_SKIPPED_IN_A_ROW = 10


class TrainingDiverged(RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient."""


class DepthModule(L.LightningModule):
    """Trains a `SemiSupCompletionModel` or anything with its interface.

    Everything random in a step is drawn from generators seeded by (seed, rank, epoch, batch), so that a
    resumed run repeats an uninterrupted one bit for bit.

    Args:
        model: the network with its loss: `model.supervised_loss` holds the loss's own parameters and
            `clamp_parameters_()`; `model(batch, progress, epoch)` gives "loss" and "metrics" in training,
            "inv_depths" in evaluation.
        optimizer: the optimiser and its groups.
        scheduler: the learning rate over the epochs.
        min_depth: smallest depth that is measured, in metres.
        max_depth: largest, in metres.
        seed: seed of the training steps, >= 0.
        config: the effective configuration as plain types, kept in every checkpoint.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerConfig | None = None,
        scheduler: SchedulerConfig | None = None,
        min_depth: float = 0.05,
        max_depth: float = 100.0,
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer_config = optimizer or OptimizerConfig()
        self.scheduler_config = scheduler or SchedulerConfig()
        self.val_metrics = DepthMetrics(min_depth, max_depth)
        self.test_metrics = DepthMetrics(min_depth, max_depth)
        self.seed = seed
        self.config = config or {}
        self.skipped_steps = 0
        self._skipped_in_a_row = 0
        # Since the last step of the optimiser; several batches where gradients are accumulated.
        self._names: list[str] = []
        self._outputs: list[dict[str, Any]] = []
        self._accumulating = False
        self._grad_norm: Tensor | None = None
        self._skipped = False
        # Per set of names: the sum over the samples of the epoch, one vector on the device, and their number.
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}
        self._rates: dict[str, float] = {}
        self._buffers_before: list[Tensor] = []

    @property
    def progress(self) -> float:
        """Share of the training that is done: 0 in the first epoch, 1 in the last."""
        return self.current_epoch / max(1, self.trainer.max_epochs - 1)

    # ---- optimisation

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's groups: `Depth` and, if the loss has parameters to learn, `Loss`."""
        config = self.optimizer_config
        of_loss = [p for p in self.model.supervised_loss.parameters() if p.requires_grad]
        ids = {id(p) for p in of_loss}
        of_net = [p for p in self.model.parameters() if p.requires_grad and id(p) not in ids]
        if not of_net:
            raise ValueError(
                "the network has no parameter with requires_grad=True: there is nothing to train"
            )
        groups = [
            {
                "params": of_net,
                "name": "Depth",
                "lr": config.depth.lr,
                "weight_decay": config.depth.weight_decay,
            }
        ]
        if of_loss:
            lr = config.depth.lr * config.loss_lr_mult
            groups.append({"params": of_loss, "name": "Loss", "lr": lr, "weight_decay": 0.0})
        return groups

    def configure_optimizers(self) -> Any:
        """Build the optimiser and its schedule."""
        optimizers = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
        optimizer = optimizers[self.optimizer_config.name](self.parameter_groups())
        schedule = self.scheduler_config
        if schedule.name == "none":
            return optimizer
        if schedule.name == "StepLR":
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, schedule.step_size, schedule.gamma)
        else:
            t_max = schedule.T_max or self.trainer.max_epochs
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, t_max)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def on_train_start(self) -> None:
        """Print the table of parameter groups, with what a checkpoint has restored."""
        self._follow_max_epochs()
        if self.trainer.is_global_zero:
            print(group_table(self.trainer.optimizers[0]), flush=True)

    def _follow_max_epochs(self) -> None:
        # With T_max null the cosine ends with the run. A checkpoint restores the T_max of its own number of
        # epochs; with another one, the rates are those of a run that had it from the start.
        schedule, max_epochs = self.scheduler_config, self.trainer.max_epochs
        if schedule.name != "CosineAnnealingLR" or schedule.T_max:
            return
        for scheduler in (config.scheduler for config in self.trainer.lr_scheduler_configs):
            if scheduler.T_max == max_epochs:
                continue
            scheduler.T_max = max_epochs
            share = (1 + math.cos(math.pi * scheduler.last_epoch / max_epochs)) / 2
            for group, rate in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, strict=True):
                group["lr"] = rate * share

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then bring the loss's parameters back into their bounds."""
        super().optimizer_step(*args, **kwargs)
        self.model.supervised_loss.clamp_parameters_()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, and drop the gradients if they or a loss since the last step are not finite.

        Lightning calls this before every step of the optimiser, also without a clip value. An optimiser
        leaves a parameter without gradient, and its state, as they are: that is how the step is skipped.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        grads = [p.grad for p in parameters]
        by_norm = gradient_clip_val and gradient_clip_algorithm in (None, "norm")
        norm = torch.nn.utils.get_total_norm(grads)
        finite = torch.stack([norm, *(output["loss"].to(norm) for output in self._outputs)]).isfinite().all()
        # An infinite loss on one rank need not show in the averaged gradients of all.
        if self.trainer.world_size > 1:
            finite = self.trainer.strategy.reduce(finite.float(), reduce_op="mean") == 1
        self._grad_norm = norm.detach()
        self._accumulating = False
        self._skipped = not finite  # the one synchronisation of a step
        if self._skipped:
            for p in parameters:
                p.grad = None
        elif by_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        elif gradient_clip_val:
            torch.nn.utils.clip_grad_value_(parameters, gradient_clip_val)

    # ---- training

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Seed the generators for this step, and note its learning rates."""
        words = [self.seed, self.global_rank, self.current_epoch, batch_idx]
        state = np.random.SeedSequence(words).generate_state(3)
        random.seed(int(state[0]))
        np.random.seed(int(state[1]))
        torch.manual_seed(int(state[2]))
        # At the end of the epoch the scheduler has already set those of the next.
        self._rates = {
            f"lr/{group['name']}": float(group["lr"]) for group in self.trainer.optimizers[0].param_groups
        }

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        if not self._accumulating:
            self._accumulating = True
            self._names, self._outputs = [], []
            self._keep_buffers()
        output = self.model(batch, progress=self.progress, epoch=self.current_epoch)
        self._names += [str(name) for name in batch.get("name", ())]
        values = {"loss": output["loss"].detach(), "metrics": output["metrics"], "size": len(batch["rgb"])}
        self._outputs.append(values)
        return output["loss"]

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the step, or count it as skipped; stop after too many in a row."""
        if self._accumulating:
            return
        if self._skipped:
            self._skip_step()
        else:
            self._skipped_in_a_row = 0
            self._log_step()

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch over its samples (of this rank), and the learning rates."""
        for names, (sums, count) in self._sums.items():
            self.log_dict({f"{name}_epoch": mean for name, mean in zip(names, sums / count, strict=True)})
        self._sums.clear()
        self.log("train/skipped_steps", float(self.skipped_steps))
        self.log_dict(self._rates)

    def _keep_buffers(self) -> None:
        # The forward pass changes the running statistics of batch norm: a skipped step takes them back.
        buffers = list(self.model.buffers())
        if [b.device for b in self._buffers_before] != [b.device for b in buffers]:
            self._buffers_before = [b.detach().clone() for b in buffers]
        elif buffers:
            torch._foreach_copy_(self._buffers_before, buffers)

    def _skip_step(self) -> None:
        for buffer, before in zip(self.model.buffers(), self._buffers_before, strict=True):
            buffer.copy_(before)
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        log.warning(
            "epoch %d, step %d skipped: loss or gradient not finite (%d in all, %d in a row), samples: %s",
            self.current_epoch,
            self.global_step,
            self.skipped_steps,
            self._skipped_in_a_row,
            ", ".join(self._names),
        )
        if self._skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingDiverged(
                f"{self._skipped_in_a_row} steps in a row had a loss or gradient that is not finite, the "
                f"last in epoch {self.current_epoch} with the samples {', '.join(self._names)}. If only some "
                "samples do this, look at their depth and rgb; if all do, lower model.optimizer.depth.lr, "
                "or use --trainer.precision 32-true"
            )

    def _log_step(self) -> None:
        # A loss has some hundred numbers: a self.log of each in each step would cost more than the loss does.
        for output in self._outputs:
            values = {"train/loss": output["loss"], **{f"train/{k}": v for k, v in output["metrics"].items()}}
            vector = torch.stack(list(values.values())).float() * output["size"]
            sums, count = self._sums.get(tuple(values), (torch.zeros_like(vector), 0))
            self._sums[tuple(values)] = (sums + vector, count + output["size"])
        if self.trainer.global_step % self.trainer.log_every_n_steps == 0:
            self.log_dict({f"{name}_step": value for name, value in values.items()})
            self.log("train/grad_norm", self._grad_norm)
        self.log("loss", output["loss"], prog_bar=True, logger=False)

    # ---- evaluation

    def predict_depth(self, batch: dict[str, Any]) -> Tensor:
        """Return the predicted depth of a batch in metres, [B, 1, H, W]."""
        return self.model(batch)["inv_depths"][0].float().reciprocal()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Measure one batch."""
        depth = self.predict_depth(batch)
        self.val_metrics.update(depth, batch["depth"], batch.get("mask"))
        return {"depth": depth}

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation set."""
        self._log_metrics("val", self.val_metrics)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Measure one batch."""
        self.test_metrics.update(self.predict_depth(batch), batch["depth"], batch.get("mask"))

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test set."""
        self._log_metrics("test", self.test_metrics)

    def _log_metrics(self, prefix: str, metrics: DepthMetrics) -> None:
        values = metrics.compute()
        metrics.reset()
        for name, value in values.items():
            # compute() has already joined the ranks
            self.log(
                f"{prefix}/{name}",
                value.float(),
                prog_bar=name == "abs_rel",
                rank_zero_only=False,
                sync_dist=False,
            )
        if values["nonfinite"] > 0 and self.trainer.is_global_zero:
            log.warning("%s: %d predictions at valid pixels are not finite", prefix, int(values["nonfinite"]))

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the effective configuration and the number of skipped steps."""
        checkpoint["config"] = self.config
        checkpoint["skipped_steps"] = [self.skipped_steps, self._skipped_in_a_row]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back the number of skipped steps."""
        self.skipped_steps, self._skipped_in_a_row = checkpoint.get("skipped_steps", (0, 0))


def group_table(optimizer: Optimizer) -> str:
    """Return the optimiser's groups as a table: name, tensors, parameters, learning rate."""
    rows = [("group", "tensors", "parameters", "lr")]
    for group in optimizer.param_groups:
        count = sum(p.numel() for p in group["params"])
        rows.append((group["name"], str(len(group["params"])), f"{count:,}", f"{group['lr']:g}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = []
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells))
    return "\n".join(lines)
