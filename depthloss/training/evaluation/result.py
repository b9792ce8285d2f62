"""What an evaluation found, as plain types."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from depthloss.training.drawing.figures import Sample

Row = dict[str, Any]


@dataclass
class Evaluation:
    """The result of one method: of a network on a data set, or of a folder of predictions.

    `METRICS` and `EDGE_METRICS` say what the metrics are. One that has no value, such as those of a range
    without pixels, is NaN here, null in metrics.json and empty in metrics.csv. What could not be measured at
    all, such as `boundary_f1` on sparse ground truth, is no key of any row.

    Attributes:
        name: of the run, or the path of the checkpoint.
        protocol: the fields of `Protocol`, and "text", the same as one line to print beside a table.
        summary: means over the images with valid pixels, and the counts "images" (these), "empty" (images
            without enough valid pixels) and "nonfinite" (predictions at valid pixels that are not finite). Of
            folders also "missing" (no prediction), "unreadable", and "nonpositive" and "clipped" pixels. For
            a protocol of clips, an image is a clip.
        ranges: pixel-pooled, one row per range of ground truth depth: "range" ("[0, 1) m"), "low", "high"
            (metres), "pixels", and metrics.
        classes: pixel-pooled: "class", "pixels", "images", and metrics; empty without classes.
        class_ranges: pixel-pooled: "class", "range", "low", "high", "pixels", and metrics; only with pixels.
        frames: one row per frame in the order of the data set: "name", "index", "valid" (pixels), "nonfinite"
            and metrics. Of folders also "scale" and "shift" of the alignment, and "reason" if it has no
            metrics.
        samples: frames worth showing: worst, best and median by abs_rel, at most 12; not in `to_dict`.
        origin: where the numbers come from: command line, checkpoint, data, device, date, versions.
    """

    name: str
    protocol: dict[str, Any]
    summary: dict[str, float | int]
    ranges: list[Row] = field(default_factory=list)
    classes: list[Row] = field(default_factory=list)
    class_ranges: list[Row] = field(default_factory=list)
    frames: list[Row] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    origin: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the samples, ready for JSON: a number that is not finite becomes None."""
        return {key: plain(value) for key, value in vars(self).items() if key != "samples"}


def plain(value: Any) -> Any:
    """Return a value ready for JSON."""
    if isinstance(value, dict):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
