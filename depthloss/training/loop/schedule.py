"""The learning rate over a run, and the table of parameter groups."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, StepLR

from depthloss.training.configuration.sections import SchedulerConfig


def build_schedulers(optimizer: Optimizer, config: SchedulerConfig, max_epochs: int) -> list[dict[str, Any]]:
    """Return the schedulers of a run as Lightning takes them: one per epoch, one per step for the warm-up.

    Each of them multiplies the rate that it finds, so that together they give the product.

    Args:
        optimizer: holds the rates.
        config: what to do.
        max_epochs: end of a cosine whose `T_max` is None.
    """
    found: list[dict[str, Any]] = []
    if config.name == "StepLR":
        decay = StepLR(optimizer, config.step_size, config.gamma)
        found.append({"scheduler": decay, "interval": "epoch"})
    elif config.name == "CosineAnnealingLR":
        cosine = CosineAnnealingLR(optimizer, config.T_max or max_epochs)
        found.append({"scheduler": cosine, "interval": "epoch"})
    if (steps := config.warmup_steps) > 1:
        found.append({"scheduler": LinearLR(optimizer, 1 / steps, total_iters=steps - 1), "interval": "step"})
    return found


def follow_max_epochs(schedulers: Iterable[Any], max_epochs: int) -> None:
    """Let a cosine that a checkpoint has restored end with this run.

    A checkpoint restores the `T_max` of its own number of epochs; with another one, the rates become those of
    a run that had it from the start.
    """
    schedulers = list(schedulers)
    share = 1.0
    for warmup in schedulers:
        if isinstance(warmup, LinearLR):
            share = min(1.0, (warmup.last_epoch + 1) / (warmup.total_iters + 1))
    for cosine in schedulers:
        if isinstance(cosine, CosineAnnealingLR) and cosine.T_max != max_epochs:
            cosine.T_max = max_epochs
            now = share * (1 + math.cos(math.pi * cosine.last_epoch / max_epochs)) / 2
            for group, rate in zip(cosine.optimizer.param_groups, cosine.base_lrs, strict=True):
                group["lr"] = rate * now


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
