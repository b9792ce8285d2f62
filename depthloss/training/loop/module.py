"""The Lightning module: progress, parameter groups, steps and their guard, logs, checkpoints."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from depthloss.metrics import DepthMetrics
from depthloss.training.configuration.loaders import real_samples
from depthloss.training.configuration.sections import OptimizerConfig, SchedulerConfig
from depthloss.training.errors import ConfigError, counted
from depthloss.training.loop.guard import StepGuard, TrainingDiverged
from depthloss.training.loop.schedule import build_schedulers, follow_max_epochs, group_table
from depthloss.training.weights import nonfinite

log = logging.getLogger("depthloss.training")


class DepthModule(L.LightningModule):
    """Trains a `SemiSupCompletionModel` or anything with its interface.

    Everything random in a step is drawn from generators seeded by (seed, rank, epoch, batch), so that a
    resumed run repeats an uninterrupted one bit for bit.

    Args:
        model: the network with its loss: `model.supervised_loss` holds the loss's own parameters and
            `clamp_parameters_()`; `model(batch, progress, epoch)` gives "loss" and "metrics" in training,
            "inv_depths" in evaluation.
        optimizer: the optimiser and its groups.
        scheduler: the learning rate over the run.
        min_depth: smallest depth that is measured, in metres.
        max_depth: largest, in metres.
        seed: seed of the training steps, >= 0.
        config: the effective configuration as plain types, kept in every checkpoint.
        process_group: with several processes, give the loss the group of all of them.

    Attributes:
        guard: judges and counts the steps.
        skipped_frames: frames of the training set, of all processes, that could not be read.
        started: whether the run has begun, with the state of a checkpoint restored.
        step_taken: whether the batch just done ended with a step of the optimiser that was not skipped.
        accumulating: whether gradients wait for further batches before the next step.
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
        process_group: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.optimizer_config = optimizer or OptimizerConfig()
        self.scheduler_config = scheduler or SchedulerConfig()
        self.val_metrics = DepthMetrics(min_depth, max_depth)
        self.test_metrics = DepthMetrics(min_depth, max_depth)
        self.seed = seed
        self.config = config or {}
        self.process_group = process_group
        self.guard = StepGuard()
        self.skipped_frames = 0
        self.started = self.step_taken = self.accumulating = False
        self._taken = 0  # steps of this epoch
        self._new_skipped_frames: Tensor | None = None
        # Since the last step of the optimiser; several batches where gradients are accumulated.
        self._names: list[str] = []
        self._outputs: list[dict[str, Any]] = []
        self._grad_norm: Tensor | None = None
        # Per set of names: the sum over the samples of the epoch, one vector on the device, and their number.
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}
        self._rates: dict[str, float] = {}

    @property
    def progress(self) -> float:
        """Share of the training that is done: 0 in the first epoch, 1 in the last."""
        return self.current_epoch / max(1, self.trainer.max_epochs - 1)

    @property
    def _scaler(self) -> Any:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def setup(self, stage: str) -> None:
        """Give the loss the group of processes, if configured: the strategy has made the group by now."""
        if self.process_group and self.trainer.world_size > 1:
            for loss in self.model.supervised_loss.modules():
                if hasattr(loss, "process_group"):
                    loss.process_group = torch.distributed.group.WORLD

    # ---- optimisation

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimiser's groups: `Depth` and, if the loss has parameters to learn, `Loss`."""
        config = self.optimizer_config
        of_loss = [p for p in self.model.supervised_loss.parameters() if p.requires_grad]
        ids = {id(p) for p in of_loss}
        of_net = [p for p in self.model.parameters() if p.requires_grad and id(p) not in ids]
        if not of_net:
            raise ConfigError(
                "model.depth_net: the network has no parameter with requires_grad=True: there is nothing to "
                "train"
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
        schedulers = build_schedulers(optimizer, self.scheduler_config, self.trainer.max_epochs)
        return [optimizer], schedulers

    def on_train_start(self) -> None:
        """Print the table of parameter groups, with what a checkpoint has restored."""
        self.started = True
        schedule, trainer = self.scheduler_config, self.trainer
        if not schedule.T_max:
            follow_max_epochs([c.scheduler for c in trainer.lr_scheduler_configs], trainer.max_epochs)
        steps = -(-trainer.num_training_batches // trainer.accumulate_grad_batches) * trainer.max_epochs
        if trainer.is_global_zero:
            print(group_table(trainer.optimizers[0]), flush=True)
            if schedule.warmup_steps > steps:
                log.warning(
                    "model.scheduler.warmup_steps: the run ends within the warm-up, after %d of %d steps",
                    steps,
                    schedule.warmup_steps,
                )

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
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        strategy = self.trainer.strategy
        self.step_taken = self.guard.passes(
            norm,
            [output["loss"] for output in self._outputs],
            self._scaler,
            (lambda holds: strategy.reduce(holds.float(), reduce_op="mean") == 1)
            if self.trainer.world_size > 1
            else None,
        )
        self._grad_norm = norm.detach()
        self.accumulating = False
        if not self.step_taken:
            for p in parameters:
                p.grad = None
        elif gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
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
        self.step_taken = False
        if not self.accumulating:
            self.accumulating = True
            self._names, self._outputs = [], []
            self.guard.keep(self.model.buffers())
        output = self.model(batch, progress=self.progress, epoch=self.current_epoch)
        self._names += [str(name) for name in batch.get("name", ())]
        values = {"loss": output["loss"].detach(), "metrics": output["metrics"], "size": len(batch["rgb"])}
        self._outputs.append(values)
        if "skipped" in batch:
            before = 0 if self._new_skipped_frames is None else self._new_skipped_frames
            self._new_skipped_frames = before + batch["skipped"].sum()
        return output["loss"]

    def on_train_batch_end(self, outputs: Any, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the step, or count it as skipped; stop after too many in a row."""
        if self.accumulating:
            return
        if self.step_taken:
            self._taken += 1
            self.guard.taken()
            self._log_step()
        else:
            try:
                self.guard.skip(self.model.buffers(), self.current_epoch + 1, self.global_step, self._names)
            finally:
                self.check_weights()

    def on_train_epoch_start(self) -> None:
        """Reset the count of the epoch's steps."""
        self._taken = 0

    def check_weights(self) -> None:
        """Check that the weights are finite: training cannot repair them, and no checkpoint may hold them.

        Raises:
            TrainingDiverged: they are not finite.
        """
        if names := nonfinite(self.state_dict()):
            groups = self.trainer.optimizers[0].param_groups
            owners = {id(p): group["name"] for group in groups for p in group["params"]}
            owner = owners.get(id(dict(self.named_parameters()).get(names[0])))
            whose = f"group {owner}, lr {self._rates[f'lr/{owner}']:g}" if owner else "not learnt"
            total = counted(len(names), "tensor")
            raise self._diverged(f"the weights are not finite, first {names[0]} ({whose}), {total} in all")

    def _diverged(self, what: str) -> TrainingDiverged:
        kept = [
            f"; start another run from {c.best_model_path}, which is whole, by --model.init_from"
            for c in self.trainer.checkpoint_callbacks
            if c.best_model_score is not None and c.best_model_score.isfinite()
        ]
        return TrainingDiverged(
            f"epoch {self.current_epoch + 1}: {what}. Lower model.optimizer.depth.lr, raise "
            f"model.scheduler.warmup_steps, or use --trainer.precision 32-true{''.join(kept[:1])}"
        )

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch over its samples (of this rank), the counts and the learning rates.

        Raises:
            TrainingDiverged: the weights are not finite, or the run ends without a step in its last epoch.
        """
        self.check_weights()
        if self.guard.in_a_row and not self._taken and self.current_epoch + 1 >= self.trainer.max_epochs:
            raise self._diverged("no step of the last epoch had a finite loss and gradient")
        values: dict[str, float] = {}
        for names, (sums, count) in self._sums.items():
            values |= {f"{n}_epoch": mean for n, mean in zip(names, (sums / count).tolist(), strict=True)}
        self._sums.clear()
        values["train/skipped_steps"] = float(self.guard.skipped)
        if self._scaler is not None:
            values["train/overflow_steps"] = float(self.guard.overflows)
        if self._new_skipped_frames is not None:
            self.skipped_frames += int(
                self.trainer.strategy.reduce(self._new_skipped_frames, reduce_op="sum")
            )
            self._new_skipped_frames = None
            values["train/skipped_frames"] = float(self.skipped_frames)
        self.log_epoch(values | self._rates)

    def log_epoch(self, values: Mapping[str, float]) -> None:
        """Log values of the epoch that ends, now: Lightning would do so after the checkpoints of the epoch.

        A run resumed from a checkpoint does not repeat the epoch, so its row must be written before.
        """
        self.log_dict(dict(values), logger=False)
        for logger in self.trainer.loggers:
            row = {**values, "epoch": self.current_epoch}
            logger.log_metrics(row, step=self.global_step - 1)
            logger.save()

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
            if self.global_step <= self.scheduler_config.warmup_steps:
                self.log_dict(self._rates)
        self.log("loss", output["loss"], prog_bar=True, logger=False)

    # ---- evaluation

    def predict_depth(self, batch: dict[str, Any]) -> Tensor:
        """Return the predicted depth of a batch in metres, [B, 1, H, W]."""
        return self.model(batch)["inv_depths"][0].float().reciprocal()

    def on_validation_start(self) -> None:
        """Note that the run has begun: Lightning validates a little before it trains."""
        self.started = True

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Measure one batch."""
        return self._measure(batch, batch_idx, self.trainer.val_dataloaders, self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the validation set."""
        self._log_metrics("val", self.val_metrics)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Measure one batch."""
        self._measure(batch, batch_idx, self.trainer.test_dataloaders, self.test_metrics)

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test set."""
        self._log_metrics("test", self.test_metrics)

    def _measure(
        self, batch: dict[str, Any], batch_idx: int, loader: Any, metrics: DepthMetrics
    ) -> dict[str, Tensor]:
        depth, mask = self.predict_depth(batch), batch.get("mask")
        if real := real_samples(loader, batch_idx, len(depth)):
            metrics.update(depth[:real], batch["depth"][:real], None if mask is None else mask[:real])
        return {"depth": depth}

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
            count = counted(int(values["nonfinite"]), "prediction")
            log.warning("%s: %s at valid pixels not finite", prefix, count)

    # ---- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the effective configuration, the counts, and which weights `state_dict` holds."""
        checkpoint["config"] = self.config
        checkpoint["skipped_steps"] = self.guard.state_dict()
        checkpoint["skipped_frames"] = self.skipped_frames
        checkpoint.setdefault("weights", "current")  # "averaged" by `Averaging`, which is called before

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counts."""
        self.guard.load_state_dict(checkpoint.get("skipped_steps", (0, 0)))
        self.skipped_frames = checkpoint.get("skipped_frames", 0)
