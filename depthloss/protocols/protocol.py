"""A protocol: which pixels count, what is done to a prediction, and which metrics are taken."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import Array, as_map, between, chosen, double, fastest
from ..checks import check_flag, check_number, check_whole, one_of
from ..metrics import Maps, PerClip, Pixels, mean, measure_all, metric
from .convert import disparity, frames
from .crops import NAMES, Crop, crop_slices
from .frame import Frame, Matched
from .sizes import RULES, resized

KINDS = ("depth", "disparity", "inverse-depth", "log-depth")

ALIGNMENTS = {
    "none": "no alignment",
    "median": "scaled by median(gt) / median(pred)",
    "median-ratio": "scaled by median(gt / pred)",
    "scale-lstsq": "scaled by least squares in depth",
    "lstsq": "scale and shift by least squares in depth",
    "disparity-lstsq": "scale and shift by least squares in inverse depth",
    "l1-scale": "scaled by least |scale pred - gt| / gt",
    "l1": "scale and shift by least |scale pred + shift - gt| / gt",
}
SHIFTED = ("none", "lstsq", "l1")  # of depth: a disparity with an unknown shift cannot be given to them


@dataclass(frozen=True)
class Protocol:
    """How predictions are compared with the ground truth.

    Attributes:
        name: of the protocol.
        source: where it is published, with the commit where code is.
        notes: what differs between paper and code, and what a user should know.
        metrics: names of the metrics, in the order of tables.
        min_depth: ground truth counts above it; None = above 0. In metres.
        max_depth: ground truth counts below it; None = any. In metres.
        inclusive: whether the two bounds count themselves.
        min_pixels: least number of valid pixels of an image that is scored.
        crop: the part that counts: "none", "garg", "eigen", "nyu", "kitti-benchmark", or [top, bottom, left,
            right] in pixels.
        kind: of a prediction whose kind is not given: "depth"; "inverse-depth", 1 / depth; "disparity", that
            up to a scale and a shift; "log-depth", the natural logarithm.
        resize: of a prediction to its ground truth: "none" refuses another size, "nearest", "bilinear",
            "bilinear-corners" (`align_corners=True`).
        resize_in: "prediction": what the prediction is; "inverse": inverse depth.
        alignment: of a prediction of depth or log-depth: one of `ALIGNMENTS`, over the valid pixels.
        alignment_disparity: of a prediction of disparity or inverse depth; None = as `alignment`.
        fit_positive: a fit in inverse depth is over pixels with a positive prediction only.
        fit_size: [rows, columns] of a grid; each cell's valid pixel nearest to its centre is fitted over.
            None = every valid pixel.
        disparity_min: a smaller inverse depth of the prediction counts as this before a fit in inverse depth.
        disparity_floor: a smaller aligned inverse depth counts as this: a number in 1/metre; "clip", one over
            the upper bound of `clip`; "range", one over `max_depth`; "farthest", one over the largest valid
            ground truth; None = 1e-6.
        clip: bounds of the aligned depth in metres: [low, high], each may be None; "range", the bounds of
            the ground truth; "none".
        per_clip: whether a whole clip [T, H, W] is aligned at once.
        edge_ratio: of neighbouring depths, beyond which the edge metrics see a discontinuity.
        changed: keys that differ from the published file; set by `load_protocol`.

    Raises:
        ValueError: a value is out of range.
    """

    name: str
    source: str
    metrics: Sequence[str]
    notes: str = ""
    min_depth: float | None = None
    max_depth: float | None = None
    inclusive: bool = False
    min_pixels: int = 1
    crop: Crop = "none"
    kind: str = "depth"
    resize: str = "bilinear"
    resize_in: str = "prediction"
    alignment: str = "none"
    alignment_disparity: str | None = None
    fit_positive: bool = False
    fit_size: Sequence[int] | None = None
    disparity_min: float | None = None
    disparity_floor: float | str | None = None
    clip: Sequence[float | None] | str = "none"
    per_clip: bool = False
    edge_ratio: float = 1.1
    changed: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check the values, and make tuples of lists."""
        for name in ("metrics", "changed"):
            value = getattr(self, name)
            if isinstance(value, str) or not isinstance(value, (list, tuple)):
                raise ValueError(f"{name} must be a list of names; got {value!r}")
            self._set(name, tuple(value))
        for name in self.metrics:
            metric(name)
        low = self._number("min_depth", 0.0)
        high = self._number("max_depth", low or 0.0)
        if high is not None and high <= (low or 0):
            raise ValueError(f"max_depth must be > min_depth; got {self.max_depth!r} and {self.min_depth!r}")
        for name in ("inclusive", "fit_positive", "per_clip"):
            check_flag(name, getattr(self, name))
        check_whole("min_pixels", self.min_pixels, 1)
        if isinstance(self.crop, str):
            one_of("crop", self.crop, NAMES)
        elif len(self.crop) != 4 or not all(type(x) is int for x in self.crop):
            raise ValueError(
                f"crop must be one of {', '.join(NAMES)} or [top, bottom, left, right]; got {self.crop!r}"
            )
        else:
            self._set("crop", tuple(self.crop))
        one_of("kind", self.kind, KINDS)
        one_of("resize", self.resize, RULES)
        one_of("resize_in", self.resize_in, ("prediction", "inverse"))
        one_of("alignment", self.alignment, tuple(ALIGNMENTS))
        if self.alignment_disparity is not None:
            one_of("alignment_disparity", self.alignment_disparity, tuple(ALIGNMENTS))
        if self.fit_size is not None:
            if isinstance(self.fit_size, str) or len(self.fit_size) != 2:
                raise ValueError(f"fit_size must be [rows, columns] or null; got {self.fit_size!r}")
            self._set("fit_size", tuple(check_whole("fit_size", x, 1) for x in self.fit_size))
        self._number("disparity_min", 0.0)
        if isinstance(self.disparity_floor, str):
            one_of("disparity_floor", self.disparity_floor, ("clip", "range", "farthest"))
        else:
            self._number("disparity_floor", 0.0)
        if isinstance(self.clip, str):
            one_of("clip", self.clip, ("none", "range"))
        elif len(self.clip) != 2:
            raise ValueError(f"clip must be [low, high], range or none; got {self.clip!r}")
        else:
            self._set(
                "clip", tuple(None if x is None else check_number("clip", x, low=0.0) for x in self.clip)
            )
        if self.disparity_floor in ("clip", "range") and not self.farthest:
            of = "the upper bound of clip" if self.disparity_floor == "clip" else "max_depth"
            raise ValueError(f"disparity_floor {self.disparity_floor} needs {of}")
        check_number("edge_ratio", self.edge_ratio, low=1.0, strict=True)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _number(self, name: str, low: float) -> float | None:
        value = getattr(self, name)
        if value is not None:
            self._set(name, check_number(name, value, low=low))
        return None if value is None else float(value)

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """The bounds of the aligned depth, in metres."""
        if isinstance(self.clip, str):
            return (self.min_depth, self.max_depth) if self.clip == "range" else (None, None)
        low, high = self.clip
        return low, high

    @property
    def farthest(self) -> float | None:
        """The depth that a `disparity_floor` of "clip" or "range" is one over."""
        if self.disparity_floor == "clip":
            return self.bounds[1]
        return self.max_depth if self.disparity_floor == "range" else None

    def aligned_by(self, kind: str) -> str:
        """Return the alignment of a prediction of a kind.

        Raises:
            ValueError: there is none for this kind, or no such kind.
        """
        inverse = one_of("kind", kind, KINDS) in ("disparity", "inverse-depth")
        chosen = self.alignment_disparity if inverse and self.alignment_disparity else self.alignment
        if kind == "disparity" and chosen in SHIFTED:
            raise ValueError(
                f"{self.name} has alignment {chosen}, which a disparity of unknown scale and shift does not "
                "allow: take kind inverse-depth if it is in 1/metre, or alignment=disparity-lstsq"
            )
        return chosen

    def text(self, kind: str | None = None) -> str:
        """Return the protocol as one line, for predictions of a kind."""
        between = "<=" if self.inclusive else "<"
        low = f"{self.min_depth or 0:g} m {between if self.min_depth else '<'} gt"
        high = "" if self.max_depth is None else f" {between} {self.max_depth:g} m"
        by, floor = self.aligned_by(kind or self.kind), self.disparity_floor
        parts = [
            self.name + (f" with {', '.join(self.changed)} changed" if self.changed else ""),
            low + high,
            f"crop {self.crop if isinstance(self.crop, str) else list(self.crop)}",
            ("one clip" if self.per_clip else "each image") + f": {ALIGNMENTS[by]}",
        ]
        if self.fit_size and by != "none" and by != "disparity-lstsq":
            parts[-1] += f", over a sample of {self.fit_size[0]} x {self.fit_size[1]}"
        if by == "disparity-lstsq" and floor is not None:
            least = f"1/{self.farthest:g} m" if self.farthest else f"{floor}/m"
            parts[-1] += f", at least {'1/max(gt)' if floor == 'farthest' else least}"
        bounds = ["none" if x is None else f"{x:g} m" for x in self.bounds]
        parts.append(
            "prediction not clipped" if bounds == ["none"] * 2 else f"clipped to {', '.join(bounds)}"
        )
        parts.append(f"resize {self.resize}" + (" in inverse depth" if self.resize_in == "inverse" else ""))
        return "; ".join(parts)

    def to_dict(self, kind: str | None = None) -> dict[str, Any]:
        """Return the fields, and "text", the line for predictions of a kind."""
        return {**dataclasses.asdict(self), "text": self.text(kind)}

    def to_yaml(self) -> str:
        """Return the keys as YAML, for `load_protocol` to read again."""
        import yaml

        values = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
            if key != "changed"
        }
        return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100))

    def prepare(self, pred: Any, gt: Any, mask: Any = None, kind: str | None = None) -> Frame:
        """Resize, align and clip a prediction; arguments and errors as of `match`."""
        return self.convert([self.match(pred, gt, mask, kind)], kind)[0]

    def match(self, pred: Any, gt: Any, mask: Any = None, kind: str | None = None) -> Matched:
        """Bring a prediction to the size of its ground truth, and find the pixels that count.

        Args:
            pred: [h, w], of a clip [T, h, w]; NaN where it has no value. NumPy or torch; what a masked array
                masks has no value.
            gt: depth [H, W] or [T, H, W] in metres; anything <= 0 or not finite is invalid.
            mask: likewise, True = keep; None = every pixel.
            kind: of the prediction, one of `KINDS`; None = that of the protocol.

        Raises:
            ValueError: the shapes do not fit, or the protocol has no alignment for the kind.
        """
        kind = kind or self.kind
        self.aligned_by(kind)
        gt, pred = fastest(as_map(gt)), as_map(pred)
        pred = fastest(pred.to(_device(gt)) if isinstance(pred, Tensor) else pred)
        given = {"pred": pred, "gt": gt}
        if mask is not None:
            given["mask"] = mask = fastest(torch.as_tensor(as_map(mask, 0.0), device=_device(gt))) != 0
        dims = 3 if self.per_clip else 2
        if any(x.ndim != dims for x in given.values()) or (
            pred.shape[:-2] != gt.shape[:-2] or (mask is not None and mask.shape != gt.shape)
        ):
            form = "[T, H, W]" if self.per_clip else "[H, W]"
            shapes = {name: tuple(x.shape) for name, x in given.items()}
            raise ValueError(f"{self.name} compares maps {form} of one size; got {shapes}")
        if pred.shape[-2:] != gt.shape[-2:]:
            pred = fastest(self._resized(torch.as_tensor(pred), gt.shape[-2:], kind))
        rows, columns = crop_slices(self.crop, *gt.shape[-2:])
        inner = {name: x[..., rows, columns] for name, x in given.items()} | {
            "pred": pred[..., rows, columns]
        }
        truth = double(inner["gt"])
        inside = self._valid(truth, inner.get("mask"))
        valid = inside
        if self.crop != "none":
            valid = (torch if isinstance(gt, Tensor) else np).zeros_like(gt, dtype=inside.dtype)
            valid[..., rows, columns] = inside
        return Matched(pred, gt, valid, double(chosen(inner["pred"], inside)), chosen(truth, inside))

    def convert(self, matched: Sequence[Matched], kind: str | None = None) -> list[Frame]:
        """Align and clip predictions of a kind, each, or each clip, by itself.

        Many small ones at once are several times as fast as one by one, with the same bits.
        """
        return frames(self, matched, kind or self.kind) if matched else []

    def score(self, frame: Frame, **extras: Tensor) -> dict[str, float]:
        """Measure a frame.

        Args:
            frame: of `prepare`.
            extras: what some metrics ask for: the fields of `metrics.Maps` beyond "valid"; for clips also
                "poses" [T, 4, 4], camera to world.

        Returns:
            By name. Of a clip, the mean over its images that have enough valid pixels. NaN without such an
            image. A metric that the data do not allow is no key.
        """
        return self.score_all([frame], [extras])[0]

    def score_all(
        self, frames: Sequence[Frame], extras: Sequence[Mapping[str, Tensor]] | None = None
    ) -> list[dict[str, float]]:
        """Measure frames, with the extras of each; see `score`, to whose values these are equal."""
        extras = extras or [{}] * len(frames)
        images = [[one for one in frame.frames() if not one.reason] for frame in frames]
        flat = [(one, more) for of, more in zip(images, extras, strict=True) for one in of]

        def maps_of(i: int) -> Maps:
            one, more = flat[i]
            options: dict[str, Any] = {"max_depth": self.bounds[1], "edge_ratio": self.edge_ratio, **more}
            options.pop("poses", None)
            return Maps(one.depth, one.gt.double(), one.valid, **options)

        rows = iter(measure_all(self.metrics, [Pixels(one.p, one.g) for one, _ in flat], maps_of))
        return [
            self._of_clip(frame, [next(rows) for _ in of], more) if self.per_clip or not of else next(rows)
            for frame, of, more in zip(frames, images, extras, strict=True)
        ]

    def _of_clip(
        self, frame: Frame, rows: Sequence[dict[str, float]], extras: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """Means over the images of a clip, with the metrics of whole clips."""
        if not rows:
            return dict.fromkeys(self.metrics, math.nan)
        values = mean(rows, self.metrics)
        for name in self.metrics:
            row = metric(name)
            if isinstance(row, PerClip) and "poses" in extras and "intrinsics" in extras:
                values[name] = row.value(frame.depth, extras["intrinsics"], extras["poses"])
        return {name: values[name] for name in self.metrics if name in values}

    def _resized(self, pred: Tensor, shape: tuple[int, int], kind: str) -> Tensor:
        invert = self.resize_in == "inverse" and kind in ("depth", "log-depth")
        maps = disparity(double(pred), kind) if invert else double(pred)
        maps = resized(maps.reshape(-1, *maps.shape[-2:]), (shape[0], shape[1]), self.resize)
        maps = maps.reshape(*pred.shape[:-2], *shape)
        if not invert:
            return maps
        return 1 / maps if kind == "depth" else -maps.log()

    def _valid(self, gt: Array, mask: Array | None) -> Array:
        low, high = self.min_depth or 0.0, math.inf if self.max_depth is None else self.max_depth
        if self.inclusive:  # and yet 0 and infinity never count
            low, high = max(low, math.ulp(0.0)), min(high, sys.float_info.max)
        valid = between(gt, low, high, self.inclusive)
        return valid if mask is None else valid & mask


def _device(x: Array) -> torch.device:
    return x.device if isinstance(x, Tensor) else torch.device("cpu")
