"""Watches over the first steps whether the gradient term of the loss finds anything to compare."""

from __future__ import annotations

import logging
import re
from typing import Any

import lightning as L
import torch
from torch import Tensor

log = logging.getLogger("depthloss.training")

_KEPT = re.compile(r"(.*?)/?gradient/support_(\d+)")


class GradientSupport(L.Callback):
    """Warns once, after the first steps, of the levels of the gradient term that kept no response in them.

    Such a level adds nothing to the loss: the ground truth is too sparse for its cells. The responses
    (``gradient/support_k`` in the metrics) are added up on the device and read once, at the end; a resumed
    run continues the count.

    Args:
        steps: how many steps of the optimiser to watch; a shorter run is judged at its end.
    """

    def __init__(self, steps: int = 50) -> None:
        self.steps = steps
        self._seen = 0
        self._names: list[str] = []
        self._sums: Tensor | None = None
        self._handle: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to the loss."""
        if self._seen < self.steps and self._handle is None:
            self._handle = pl_module.model.supervised_loss.register_forward_hook(self._add)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a step of the optimiser; read the sums after the last."""
        if self._handle is not None and pl_module.step_taken:
            self._seen += 1
            if self._seen >= self.steps:
                self._report(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Judge a run that was shorter."""
        if self._handle is not None:
            self._report(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts."""
        return {"seen": self._seen, "names": self._names, "sums": self._sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counts."""
        self._seen, self._names, self._sums = (state_dict[key] for key in ("seen", "names", "sums"))

    def _add(self, module: torch.nn.Module, args: tuple[Any, ...], output: dict[str, Any]) -> None:
        kept = {name: value for name, value in output["metrics"].items() if _KEPT.fullmatch(name)}
        if kept:
            values = torch.stack(list(kept.values())).float()
            self._names = list(kept)
            self._sums = values if self._sums is None else self._sums.to(values) + values

    def _report(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._handle.remove()
        sums, self._handle, self._sums = self._sums, None, None
        loss = getattr(pl_module.model.supervised_loss, "loss_func", None)
        if sums is None or not loss.gradient_weight(pl_module.progress, pl_module.current_epoch):
            return
        kept = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        if trainer.is_global_zero and not all(kept):
            log.warning(
                "the gradient term kept no response in the first %d step%s at %s. These levels add nothing "
                "to the loss%s: the ground truth is too sparse for their cells (model.loss.gradient)",
                self._seen,
                "s" * (self._seen > 1),
                _empty(dict(zip(self._names, kept, strict=True))),
                "" if any(kept) else ", so it has no gradient term",
            )


def _empty(kept: dict[str, float]) -> str:
    """The levels without a response, by the scale of the prediction: "scale_0: levels 1, 2; ..."."""
    levels: dict[str, list[str]] = {}
    for name, count in kept.items():
        if count == 0:
            scale, level = _KEPT.fullmatch(name).groups()
            levels.setdefault(scale, []).append(level)
    return "; ".join(f"{scale}: level{'s' * (len(ks) > 1)} {', '.join(ks)}" for scale, ks in levels.items())
