"""How predictions are compared with the ground truth; every table prints it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from depthloss import align
from depthloss.metrics import check_depths
from depthloss.protocols import CROPS
from depthloss.training.data.transforms import Window

Crop = Literal["none", "garg", "eigen"]
CropOf = Literal["frame", "data"]
Alignment = Literal["none", "median", "lstsq"]
Resolution = Literal["ground truth", "network"]

# Where depth is inverted, a smaller predicted depth counts as this one; in metres.
NEAREST = 1e-6


@dataclass(frozen=True)
class Protocol:
    """What counts, and what is done to a prediction before it is measured.

    Attributes:
        min_depth: in metres, > 0; ground truth counts strictly above it, predictions are clamped to it.
        max_depth: in metres; ground truth counts strictly below it, predictions are clamped to it.
        crop: part of the image that counts: "garg" or "eigen" as on KITTI, or "none", all of it.
        crop_of: what `crop` is a share of where the data set crops its frames: "frame", the stored frame, as
            the crop was published; "data", what the data set's own crop leaves.
        alignment: of each image's prediction to its ground truth, before the clamp. "median" multiplies depth
            by the ratio of the medians; "lstsq" fits scale and shift of inverse depth by least squares.
        flip_tta: whether the prediction is the mean, in inverse depth, with that of the mirrored image.
        resolution: "ground truth": the prediction is resized to the ground truth's stored size, bilinearly in
            inverse depth, in which planes are linear; "network": the ground truth is scattered to the
            network's input size.
        ranges: where the ranges of depth begin, in metres, ascending; the last one ends at max_depth.
        edges: whether to measure near depth discontinuities, where the ground truth is dense.
        edge_ratio: ratio of two neighbouring depths beyond which there is a discontinuity, > 1.

    Raises:
        ValueError: a value is out of range.
    """

    min_depth: float = 0.05
    max_depth: float = 100.0
    crop: Crop = "none"
    alignment: Alignment = "none"
    flip_tta: bool = False
    resolution: Resolution = "ground truth"
    ranges: tuple[float, ...] = (0.0, 1.0, 2.0, 3.0, 10.0)
    edges: bool = True
    edge_ratio: float = 1.1
    crop_of: CropOf = "frame"

    def __post_init__(self) -> None:
        """Check the values."""
        check_depths(self.min_depth, self.max_depth)
        named = {"crop": Crop, "crop_of": CropOf, "alignment": Alignment, "resolution": Resolution}
        for name, choices in named.items():
            if (value := getattr(self, name)) not in get_args(choices):
                raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")
        low = tuple(float(x) for x in self.ranges)
        if (
            not low
            or not 0 <= low[0]
            or any(not a < b for a, b in zip(low, [*low[1:], math.inf], strict=True))
        ):
            raise ValueError(f"ranges must be ascending depths >= 0 in metres, got {self.ranges!r}")
        if not 1 < self.edge_ratio < math.inf:
            raise ValueError(f"edge_ratio must be > 1 and finite, got {self.edge_ratio!r}")
        object.__setattr__(self, "ranges", low)

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """The ranges of depth, [low, high) in metres; one that begins beyond max_depth is left out."""
        low = [x for x in self.ranges if x < self.max_depth]
        return list(zip(low, [*low[1:], self.max_depth], strict=True))

    def text(self) -> str:
        """Return the protocol as one line."""
        of = {"frame": "stored frame", "data": "data set's crop"}[self.crop_of]
        parts = [
            f"{self.min_depth:g} m < gt < {self.max_depth:g} m, prediction clamped to it",
            f"crop {self.crop}" + ("" if self.crop == "none" else f" of the {of}"),
            {
                "none": "no alignment",
                "median": "each image aligned by its median",
                "lstsq": "each image aligned by least squares (scale and shift of inverse depth)",
            }[self.alignment],
            "mean of image and mirrored image" if self.flip_tta else "image not mirrored",
            f"at the size of the {'ground truth' if self.resolution == 'ground truth' else 'network input'}",
        ]
        if self.edges:
            parts.append(f"depth edge beyond a ratio of {self.edge_ratio:g}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, and "text"."""
        return {**dataclasses.asdict(self), "text": self.text()}


def aligned(protocol: Protocol, pred: Tensor, gt: Tensor, valid: Tensor) -> Tensor:
    """Return the prediction of one image, aligned; as it is without a valid pixel that it has a depth for.

    Args:
        protocol: has the alignment. "lstsq" replaces inverse depth by scale / pred + shift; where that is
            below 1 / max_depth, depth is max_depth.
        pred: [H, W] in metres.
        gt: [H, W] in metres.
        valid: bool [H, W], the pixels that count.

    Returns:
        float64 [H, W] in metres; a pixel that was not finite still is not.
    """
    pred = pred.double()
    if protocol.alignment == "none" or not bool((valid & pred.isfinite()).any()):
        return pred
    if protocol.alignment == "median":
        return align.median(pred, gt, valid).apply(pred)
    inverse = torch.where(pred.isfinite(), 1 / pred.clamp(min=NEAREST), torch.nan)
    fitted = align.least_squares(inverse, 1 / gt.double(), valid).apply(inverse)
    return torch.where(pred.isfinite(), 1 / fitted.clamp(min=1 / protocol.max_depth), pred)


def crop_mask(protocol: Protocol, height: int, width: int, window: Window | None = None) -> Tensor | None:
    """Return the pixels of a protocol's crop; its bounds are rounded down.

    Args:
        protocol: has the crop.
        height: of the image, in pixels.
        width: likewise.
        window: what the image is of the stored frame; None = all of it.

    Returns:
        bool [H, W], or None if every pixel counts.
    """
    bounds = _crop_bounds(protocol, height, width, window)
    if bounds is None:
        return None
    top, bottom, left, right = (max(0, bound) for bound in bounds)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def crop_reaches_out(protocol: Protocol, height: int, width: int, window: Window | None = None) -> bool:
    """Return whether a part of the crop lies outside of an image; see `crop_mask`."""
    top, bottom, left, right = _crop_bounds(protocol, height, width, window) or (0, height, 0, width)
    return top < 0 or left < 0 or bottom > height or right > width


def _crop_bounds(
    protocol: Protocol, height: int, width: int, window: Window | None
) -> tuple[int, ...] | None:
    """Rows from, rows to, columns from, columns to, in pixels of the image."""
    if protocol.crop == "none":
        return None
    if window is None or protocol.crop_of == "data":
        window = Window((height, width), (0, height), (0, width))
    spans = (window.rows, window.rows, window.columns, window.columns)
    frame, image = (window.shape[0], window.shape[0], *[window.shape[1]] * 2), (height, height, width, width)
    return tuple(
        math.floor((share * total - start) * (size / (stop - start)))
        for share, total, (start, stop), size in zip(CROPS[protocol.crop], frame, spans, image, strict=True)
    )
