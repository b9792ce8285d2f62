"""The means of a protocol's metrics as a class of torchmetrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..arrays import Array, as_tensors
from ..metrics.exact import WIDTH, from_digits, to_digits
from . import load_protocol
from .protocol import Protocol


class ProtocolMetrics(Metric):
    """Means of a protocol's metrics over images, or over clips; exact, for any order and number of ranks.

    Args:
        protocol: the protocol, or what `load_protocol` takes.
        kind: of the predictions, one of `KINDS`; None = that of the protocol.

    Raises:
        ValueError: there is no such protocol, or it has no alignment for the kind.
    """

    full_state_update = False
    sums: Tensor
    images: Tensor
    empty: Tensor
    nonfinite: Tensor

    def __init__(self, protocol: Protocol | str | Path, kind: str | None = None) -> None:
        super().__init__()
        self.protocol = protocol if isinstance(protocol, Protocol) else load_protocol(protocol)
        self.kind = kind
        self.protocol.aligned_by(kind or self.protocol.kind)
        count = len(self.protocol.metrics)
        for name, shape in {
            "sums": (count, WIDTH),
            "images": (count,),
            "empty": (),
            "nonfinite": (),
        }.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, pred: Array, gt: Array, mask: Array | None = None, **extras: Any) -> None:
        """Add a batch, of tensors or of arrays of NumPy.

        Args:
            pred: [B, h, w] or [B, 1, h, w]; for a protocol of clips [B, T, h, w].
            gt: likewise [..., H, W], depth in metres.
            mask: as `gt`, True = keep; None = every pixel.
            extras: what `Protocol.score` takes, each with the batch as first dimension.

        Raises:
            ValueError: the shapes do not fit.
        """
        batch = as_tensors({"pred": pred, "gt": gt, "mask": mask, **extras})
        if not self.protocol.per_clip:
            for name in ("pred", "gt", "mask"):
                if name in batch and batch[name].ndim == 4 and batch[name].shape[1] == 1:
                    batch[name] = batch[name][:, 0]
        shapes = {name: tuple(x.shape) for name, x in batch.items()}
        dims = 4 if self.protocol.per_clip else 3
        if any(batch[name].ndim != dims for name in ("pred", "gt", "mask") if name in batch):
            form = "[B, T, H, W]" if self.protocol.per_clip else "[B, H, W] or [B, 1, H, W]"
            raise ValueError(f"pred, gt and mask must be {form}; got {shapes}")
        if len({len(x) for x in batch.values()}) != 1:
            raise ValueError(f"all of a batch must be equally many; got {shapes}")
        several = [{name: x[i] for name, x in batch.items()} for i in range(len(batch["pred"]))]
        maps = [(one.pop("pred"), one.pop("gt"), one.pop("mask", None)) for one in several]
        frames = self.protocol.convert([self.protocol.match(*one, self.kind) for one in maps], self.kind)
        self.nonfinite += sum(frame.counts["nonfinite"] for frame in frames)
        self.empty += sum(bool(frame.reason) for frame in frames)
        scored = [(frame, one) for frame, one in zip(frames, several, strict=True) if not frame.reason]
        for row in self.protocol.score_all([frame for frame, _ in scored], [one for _, one in scored]):
            for name, value in row.items():
                place = self.protocol.metrics.index(name)
                digits = to_digits(torch.tensor(value, dtype=torch.float64))
                self.sums[place] += digits.to(self.sums.device)
                self.images[place] += 1

    def compute(self) -> dict[str, Tensor]:
        """Return the means by name, and the numbers of `empty` images and `nonfinite` pixels.

        A mean is NaN if no image has the metric.
        """
        means = from_digits(self.sums) / self.images.cpu()
        values = dict(zip(self.protocol.metrics, means.unbind(), strict=True))
        return {**values, "empty": self.empty, "nonfinite": self.nonfinite}
