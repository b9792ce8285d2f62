"""Means of the metrics: over the images of a data set, and over its pixels by depth and by class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ..arrays import Array, as_tensors
from .exact import WIDTH, from_digits, to_digits
from .table import (
    METRICS,
    check_depths,
    clamped,
    image_metrics,
    pixel_terms,
    pixel_vector,
    pool,
    pooled,
    range_name,
    terms,
    valid_pixels,
)


class DepthMetrics(Metric):
    """Means of `METRICS` over the images that have valid pixels; exact, for any order and number of ranks.

    The prediction is clamped to [min_depth, max_depth]. A non-finite prediction at a valid pixel is counted
    in `nonfinite`, misses the shares (a1 to d_auc), and makes the other means NaN: it must show.

    Args:
        min_depth: in metres, > 0.
        max_depth: in metres.

    Raises:
        ValueError: not 0 < min_depth < max_depth.
    """

    full_state_update = False
    sums: Tensor
    images: Tensor
    empty: Tensor
    nonfinite: Tensor

    def __init__(self, min_depth: float, max_depth: float) -> None:
        super().__init__()
        check_depths(min_depth, max_depth)
        self.min_depth = float(min_depth)
        self.max_depth = float(max_depth)
        _add_counts(self, "sums", len(METRICS), WIDTH)
        for name in ("images", "empty", "nonfinite"):
            _add_counts(self, name)

    def update(self, pred: Array, gt: Array, mask: Array | None = None) -> None:
        """Add a batch, of tensors or of arrays of NumPy.

        Args:
            pred: [B, 1, H, W] or [B, H, W] depth in metres.
            gt: likewise depth in metres, 0 = invalid.
            mask: likewise, True = keep; None = every pixel.

        Raises:
            ValueError: the shapes differ.
        """
        given = as_tensors({"pred": pred, "gt": gt, "mask": mask})
        pred, gt, mask = (given.get(name) for name in ("pred", "gt", "mask"))
        shapes = [tuple(x.shape) for x in (pred, gt, mask) if x is not None]
        if len(set(shapes)) != 1 or not (pred.ndim == 3 or pred.ndim == 4 and pred.shape[1] == 1):
            raise ValueError(f"pred, gt and mask must all be [B, 1, H, W] or [B, H, W]; got shapes {shapes}")
        pred, valid = pred.float(), valid_pixels(gt, self.min_depth, self.max_depth, mask)
        self.nonfinite += (valid & ~pred.isfinite()).sum()
        pred = clamped(pred, self.min_depth, self.max_depth)
        # One by one, so that neither the batch nor its order changes a bit of an image's numbers.
        for p, g, v in zip(pred, gt, valid, strict=True):
            truth = pixel_vector(g, v)
            if not len(truth):
                self.empty += 1
                continue
            self.sums += to_digits(image_metrics(pixel_vector(p, v), truth)).to(self.sums.device)
            self.images += 1

    def compute(self) -> dict[str, Tensor]:
        """Return the means, and the numbers of `images` they are over, `empty` images and `nonfinite` pixels.

        The means are NaN if no image had a valid pixel.
        """
        means = from_digits(self.sums) / self.images.cpu()
        if self.sums.device.type != "mps":
            means = means.to(self.sums.device)
        values = dict(zip(METRICS, means.unbind(), strict=True))
        return {**values, "images": self.images, "empty": self.empty, "nonfinite": self.nonfinite}


class StratifiedMetrics(Metric):
    """The metrics of `pooled()` over all pixels of a data set, by range of depth and by object class.

    Exact, for any order and number of ranks. Silog is taken over the pixels of all images at once.

    Args:
        bounds: (low, high) of each range of ground truth depth in metres, low included, without gaps.
        class_names: names of the classes; they may overlap.
    """

    full_state_update = False
    sums: Tensor
    pixels: Tensor
    images: Tensor

    def __init__(self, bounds: Sequence[tuple[float, float]], class_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.bounds = [(float(low), float(high)) for low, high in bounds]
        self.class_names = tuple(class_names)
        # First index: all pixels, then the classes. Second: below the first range, then the ranges.
        shape = (1 + len(self.class_names), 1 + len(self.bounds))
        _add_counts(self, "sums", *shape, len(terms()), WIDTH)
        _add_counts(self, "pixels", *shape)
        _add_counts(self, "images", shape[0])

    def update(self, p: Tensor, g: Tensor, classes: Tensor | None = None) -> None:
        """Add the valid pixels of one image.

        Args:
            p: predicted depth, float64 [N] in metres, > 0 or NaN.
            g: ground truth depth, float64 [N] in metres.
            classes: bool [C, N], which classes each pixel belongs to; None = none.

        Raises:
            ValueError: the shapes do not fit.
        """
        if p.shape != g.shape or p.ndim != 1:
            raise ValueError(f"p and g must both be [N], got {list(p.shape)} and {list(g.shape)}")
        if classes is not None and tuple(classes.shape) != (len(self.class_names), len(g)):
            raise ValueError(
                f"classes must be [C, N] = [{len(self.class_names)}, {len(g)}], got {list(classes.shape)}"
            )
        if not len(g):
            return
        values = pixel_terms(p, g)
        lows = torch.tensor([low for low, _ in self.bounds], dtype=g.dtype, device=g.device)
        place = torch.bucketize(g, lows, right=True)
        groups = [torch.ones_like(place, dtype=torch.bool)]
        if classes is not None:
            groups += classes.to(g.device).unbind()
        for i, group in enumerate(groups):
            if not (inside := place[group]).numel():
                continue
            of_group = values[:, group] if i else values
            # No one-hot product: a NaN of one range would spread to all.
            sums = torch.stack([of_group[:, inside == j].sum(1) for j in range(len(lows) + 1)])
            self.sums[i] += to_digits(sums).to(self.sums.device)
            self.pixels[i] += torch.bincount(inside, minlength=len(lows) + 1).to(self.pixels.device)
            self.images[i] += 1

    def compute(self) -> dict[str, list[dict[str, Any]]]:
        """Return the tables "ranges", "classes" and "class_ranges" as `Evaluation` has them."""
        ranges, classes, class_ranges = [], [], []
        names = [range_name(*bounds) for bounds in self.bounds]
        for i, name in enumerate((None, *self.class_names)):
            if name is not None:
                pixels = int(self.pixels[i].sum())
                row: dict[str, Any] = {"class": name, "pixels": pixels, "images": int(self.images[i])}
                classes.append(row | self._pool(self.sums[i].sum(0), pixels))
            for j, (low, high) in enumerate(self.bounds, 1):
                pixels = int(self.pixels[i, j])
                row = {"range": names[j - 1], "low": low, "high": high, "pixels": pixels}
                row |= self._pool(self.sums[i, j], pixels)
                if name is None:
                    ranges.append(row)
                elif pixels:
                    class_ranges.append({"class": name, **row})
        return {"ranges": ranges, "classes": classes, "class_ranges": class_ranges}

    def _pool(self, digits: Tensor, pixels: int) -> dict[str, float]:
        return dict(zip(pooled(), pool(from_digits(digits) / pixels).tolist(), strict=True))


def _add_counts(metric: Metric, name: str, *shape: int) -> None:
    metric.add_state(name, torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")
