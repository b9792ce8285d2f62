"""Depth metrics: per image, then averaged over the images that have valid pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "silog", "a1", "a2", "a3", "mae")


def valid_pixels(gt: Tensor, min_depth: float, max_depth: float, mask: Tensor | None = None) -> Tensor:
    """Return the pixels that count: `min_depth < gt < max_depth`, both strict, and `mask`.

    Args:
        gt: [B, 1, H, W] depth in metres; anything at invalid pixels.
        min_depth: in metres.
        max_depth: in metres.
        mask: [B, 1, H, W], True = keep; None = every pixel.

    Returns:
        bool [B, 1, H, W].
    """
    valid = (gt > min_depth) & (gt < max_depth)
    return valid if mask is None else valid & mask.bool()


def image_metrics(pred: Tensor, gt: Tensor, valid: Tensor) -> Tensor:
    """Measure each image on its own.

    Args:
        pred: [B, 1, H, W] depth in metres, > 0 or NaN.
        gt: [B, 1, H, W] depth in metres; anything where not valid.
        valid: bool [B, 1, H, W].

    Returns:
        float64 [B, 9], columns as in `METRICS`: abs_rel; sq_rel, rmse and mae in metres; rmse_log; silog
        times 100; a1, a2 and a3 as fractions. NaN for an image without valid pixels.
    """
    count = valid.flatten(1).sum(1).double()
    one = torch.ones((), dtype=pred.dtype, device=pred.device)
    p, g = (torch.where(valid, x, one) for x in (pred, gt.to(pred.dtype)))

    def mean(x: Tensor) -> Tensor:
        return torch.where(valid, x, 0).flatten(1).sum(1, dtype=torch.float64) / count

    error, log_error = p - g, p.log() - g.log()
    centred = log_error - mean(log_error).to(p.dtype).view(-1, 1, 1, 1)
    ratio = torch.maximum(p / g, g / p)
    columns = {
        "abs_rel": mean(error.abs() / g),
        "sq_rel": mean(error.square() / g),
        "rmse": mean(error.square()).sqrt(),
        "rmse_log": mean(log_error.square()).sqrt(),
        "silog": 100 * mean(centred.square()).sqrt(),
        "a1": mean((ratio < 1.25).to(p.dtype)),
        "a2": mean((ratio < 1.25**2).to(p.dtype)),
        "a3": mean((ratio < 1.25**3).to(p.dtype)),
        "mae": mean(error.abs()),
    }
    return torch.stack([columns[name] for name in METRICS], dim=1)


class DepthMetrics(Metric):
    """Accumulates `image_metrics` over a data set; right under DDP.

    The prediction is clamped to [min_depth, max_depth]. A non-finite prediction at a valid pixel is counted
    in `nonfinite`, misses a1 to a3, and makes the other metrics NaN: it is the model's fault and must show.

    Args:
        min_depth: in metres, > 0.
        max_depth: in metres.

    Raises:
        ValueError: not 0 < min_depth < max_depth.
    """

    full_state_update = False

    def __init__(self, min_depth: float, max_depth: float) -> None:
        super().__init__()
        if not 0 < min_depth < max_depth:
            raise ValueError(
                f"0 < min_depth < max_depth needed (metres), got {min_depth!r} and {max_depth!r}"
            )
        self.min_depth = float(min_depth)
        self.max_depth = float(max_depth)
        self.add_state("sums", torch.zeros(len(METRICS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("empty", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("nonfinite", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, pred: Tensor, gt: Tensor, mask: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            pred: [B, 1, H, W] depth in metres.
            gt: [B, 1, H, W] depth in metres, 0 = invalid.
            mask: [B, 1, H, W], True = keep; None = every pixel.

        Raises:
            ValueError: the shapes differ.
        """
        shapes = [tuple(x.shape) for x in (pred, gt, mask) if x is not None]
        if len(set(shapes)) != 1 or pred.ndim != 4 or pred.shape[1] != 1:
            raise ValueError(f"pred, gt and mask must all be [B, 1, H, W]; got shapes {shapes}")
        pred = pred.detach().float()
        valid = valid_pixels(gt, self.min_depth, self.max_depth, mask)
        finite = pred.isfinite()
        pred = torch.where(finite, pred.clamp(self.min_depth, self.max_depth), torch.nan)
        filled = valid.flatten(1).any(1)
        per_image = image_metrics(pred, gt, valid)
        self.sums += torch.where(filled[:, None], per_image, 0).sum(0)
        self.images += filled.sum()
        self.empty += (~filled).sum()
        self.nonfinite += (valid & ~finite).sum()

    def compute(self) -> dict[str, Tensor]:
        """Return the means, and the numbers of `images` they are over, `empty` images and `nonfinite` pixels.

        The means are NaN if no image had a valid pixel.
        """
        means = dict(zip(METRICS, (self.sums / self.images).unbind(), strict=True))
        return {**means, "images": self.images, "empty": self.empty, "nonfinite": self.nonfinite}
