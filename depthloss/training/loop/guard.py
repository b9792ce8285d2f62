"""The guard of a step: a loss or gradient that is not finite skips it; too many in a row stop the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("depthloss.training")

MAX_SKIPPED_IN_A_ROW = 10


class TrainingDiverged(RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient, or the weights are not finite."""


class StepGuard:
    """Decides whether each step of the optimiser is taken, undoes what a skipped one changed, and counts.

    A gradient scaler (fp16) handles gradients that overflow although the loss is finite: it lowers its scale.
    Such a step is skipped like any other, but counted in `overflows`, and not among those in a row, until a
    scale of 1 has been too high as well.

    Attributes:
        skipped: steps whose loss or gradient was not finite.
        overflows: steps at which a scale was too high.
        in_a_row: of `skipped`, those since the last step that was taken.
    """

    def __init__(self) -> None:
        self.skipped = self.overflows = self.in_a_row = 0
        self._scaler: Any = None  # where it may be the cause of a skip, with its scale at that time
        self._scale = 0.0
        self._buffers: list[Tensor] = []

    def keep(self, buffers: Iterable[Tensor]) -> None:
        """Copy what the forward pass is about to change: the running statistics of batch norm."""
        buffers = list(buffers)
        if [b.device for b in self._buffers] != [b.device for b in buffers]:
            self._buffers = [b.detach().clone() for b in buffers]
        elif buffers:
            torch._foreach_copy_(self._buffers, buffers)

    def passes(
        self,
        norm: Tensor,
        losses: Sequence[Tensor],
        scaler: Any = None,
        on_every_rank: Callable[[Tensor], Tensor] | None = None,
    ) -> bool:
        """Return whether to take the step.

        Args:
            norm: of all gradients, 0-dim.
            losses: of the batches that were accumulated, 0-dim.
            scaler: the gradient scaler, if there is one; it has unscaled the gradients.
            on_every_rank: turns a bool vector into what holds on all ranks. An infinite loss on one rank need
                not show in the averaged gradients of all.
        """
        finite = torch.stack([norm, *(loss.to(norm) for loss in losses)]).isfinite()
        finite = torch.stack([finite[0], finite[1:].all()])
        if on_every_rank is not None:
            finite = on_every_rank(finite)
        gradient, loss = finite.tolist()  # the one synchronisation of a step
        self._scaler = scaler if loss and not gradient else None
        self._scale = 0.0 if self._scaler is None else scaler.get_scale()
        return gradient and loss

    def taken(self) -> None:
        """Note that a step was taken."""
        self.in_a_row = 0

    def skip(self, buffers: Iterable[Tensor], epoch: int, step: int, names: Sequence[str]) -> None:
        """Restore the buffers; count and log the skipped step.

        Args:
            buffers: as for `keep`.
            epoch: of the step, from 1, for the log line.
            step: likewise.
            names: of the samples.

        Raises:
            TrainingDiverged: it was one too many in a row.
        """
        for buffer, before in zip(buffers, self._buffers, strict=True):
            buffer.copy_(before)
        # The scaler has updated its scale by now.
        if self._scale > 1 and self._scaler.get_scale() < self._scale:
            self.overflows += 1
            log.info(
                "epoch %d, step %d skipped: a scaled gradient overflowed (%d in all), the scale is now %g",
                epoch,
                step,
                self.overflows,
                self._scaler.get_scale(),
            )
            return
        self.skipped += 1
        self.in_a_row += 1
        log.warning(
            "epoch %d, step %d skipped: loss or gradient not finite (%d in all, %d in a row), samples: %s",
            epoch,
            step,
            self.skipped,
            self.in_a_row,
            ", ".join(names),
        )
        if self.in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingDiverged(
                f"{self.in_a_row} steps in a row had a loss or gradient that is not finite, the "
                f"last in epoch {epoch} with the samples {', '.join(names)}. If only some "
                "samples do this, look at their depth and rgb; if all do, lower model.optimizer.depth.lr, "
                "or use --trainer.precision 32-true"
            )

    def state_dict(self) -> list[int]:
        """Return the three counts."""
        return [self.skipped, self.in_a_row, self.overflows]

    def load_state_dict(self, state: Sequence[int]) -> None:
        """Restore the counts; older checkpoints have no overflows."""
        self.skipped, self.in_a_row, self.overflows = (*state, 0)[:3]
