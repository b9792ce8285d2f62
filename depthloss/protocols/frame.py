"""A prediction and its ground truth as a protocol compares them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..arrays import Segments, count, finite


class Matched(NamedTuple):
    """A prediction at the size of its ground truth, before it is aligned.

    Attributes:
        pred: as it was given, [H, W], of a clip [T, H, W].
        gt: depth in metres, likewise; anything where it is invalid.
        valid: bool, likewise: the pixels that count.
        p: the prediction at these pixels, float64 [N].
        g: the ground truth there.
    """

    pred: Tensor
    gt: Tensor
    valid: Tensor
    p: Tensor
    g: Tensor


@dataclass(frozen=True)
class Frame:
    """One image, or one clip.

    Attributes:
        maps: what was compared.
        p: predicted depth at the valid pixels, aligned and clipped, float64 [N] in metres; NaN where the
            prediction is not finite.
        convert: makes such depth of any values of the prediction.
        alignment: "scale" and "shift" that were fitted, in depth or, for alignment disparity-lstsq, in
            inverse depth; empty without an alignment.
        counts: at valid pixels: "valid", all of them; "nonfinite" predictions; "clipped" ones, which the
            protocol's bounds changed; "nonpositive" ones, of depth <= 0 after all that.
        reason: why it has no score; "" if it has.
        min_pixels: of the protocol.
    """

    maps: Matched
    p: Tensor
    convert: Callable[[Tensor], Tensor]
    alignment: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    min_pixels: int = 1

    @property
    def gt(self) -> Tensor:
        """Ground truth in metres, [H, W], of a clip [T, H, W]; anything where it is invalid."""
        return self.maps.gt

    @property
    def valid(self) -> Tensor:
        """Bool, of the same shape: the pixels that count."""
        return self.maps.valid

    @property
    def g(self) -> Tensor:
        """Ground truth at the valid pixels, float64 [N] in metres."""
        return self.maps.g

    @functools.cached_property
    def depth(self) -> Tensor:
        """As `p`, of every pixel: float64, [H, W] or [T, H, W]."""
        return self.convert(self.maps.pred)

    def frames(self) -> list[Frame]:
        """Return the images of a clip, which share its alignment; of one image, itself."""
        if self.gt.ndim == 2:
            return [self]
        parts = [count(valid) for valid in self.valid]
        maps = zip(
            *(x.unbind() for x in self.maps[:3]), self.maps.p.split(parts), self.g.split(parts), strict=True
        )
        return with_reasons(
            [
                replace(self, maps=Matched(*one), p=p, counts={}, reason="")
                for one, p in zip(maps, self.p.split(parts), strict=True)
            ]
        )


def with_reasons(frames: Sequence[Frame]) -> list[Frame]:
    """Return the frames with the counts of their final values and, if one cannot be scored, the reason."""
    parts = Segments([len(frame.p) for frame in frames])
    p = torch.cat([frame.p for frame in frames])
    bad = (parts.sum(x).tolist() for x in (~finite(p), p <= 0))
    found = []
    for frame, valid, nonfinite, nonpositive in zip(frames, parts.lengths, *bad, strict=True):
        counts = {"valid": valid, "nonfinite": nonfinite, "nonpositive": nonpositive, **frame.counts}
        reason = "" if valid else "no valid pixel"
        if 0 < valid < frame.min_pixels:
            reason = f"fewer than {frame.min_pixels} valid pixels: {valid}"
        found.append(replace(frame, counts=counts, reason=reason))
    return found
