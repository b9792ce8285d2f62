"""A prediction and its ground truth as a protocol compares them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..arrays import Array, Segments, count, fastest, finite


class Matched(NamedTuple):
    """A prediction at the size of its ground truth, before it is aligned: arrays of NumPy, or tensors.

    Attributes:
        pred: as it was given, [H, W], of a clip [T, H, W].
        gt: depth in metres, likewise; anything where it is invalid.
        valid: bool, likewise: the pixels that count.
        p: the prediction at these pixels, float64 [N].
        g: the ground truth there.
    """

    pred: Array
    gt: Array
    valid: Array
    p: Array
    g: Array


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
        return torch.as_tensor(self.maps.gt)

    @property
    def valid(self) -> Tensor:
        """Bool, of the same shape: the pixels that count."""
        return torch.as_tensor(self.maps.valid)

    @property
    def g(self) -> Tensor:
        """Ground truth at the valid pixels, float64 [N] in metres."""
        return torch.as_tensor(self.maps.g)

    @functools.cached_property
    def depth(self) -> Tensor:
        """As `p`, of every pixel: float64, [H, W] or [T, H, W]."""
        return self.convert(torch.as_tensor(self.maps.pred))

    def frames(self) -> list[Frame]:
        """Return the images of a clip, which share its alignment; of one image, itself."""
        if self.maps.gt.ndim == 2:
            return [self]
        parts = [count(valid) for valid in self.maps.valid]
        vectors = (torch.as_tensor(self.maps.p).split(parts), self.g.split(parts))
        maps = zip(self.maps.pred, self.maps.gt, self.maps.valid, *vectors, strict=True)
        several = [Matched(*one) for one in maps]
        return frames_of(
            several,
            self.p,
            Segments(parts),
            [self.convert] * len(parts),
            self.min_pixels,
            [self.alignment] * len(parts),
        )


def frames_of(
    matched: Sequence[Matched],
    p: Tensor,
    parts: Segments,
    converts: Sequence[Callable[[Tensor], Tensor]],
    min_pixels: int,
    alignments: Sequence[dict[str, float]],
    clipped: Sequence[int] | None = None,
) -> list[Frame]:
    """Return frames of final values that lie one after the other, with counts, and why one has no score."""
    values = fastest(p)
    bad = [parts.sum(x).tolist() for x in (~fastest(finite(p)), values <= 0)]
    known = [{} for _ in matched] if clipped is None else [{"clipped": n} for n in clipped]
    rows = zip(matched, parts.split(p), converts, alignments, parts.lengths, *bad, known, strict=True)
    found = []
    for one, of, convert, alignment, valid, nonfinite, nonpositive, more in rows:
        counts = {"valid": valid, "nonfinite": nonfinite, "nonpositive": nonpositive, **more}
        reason = "" if valid else "no valid pixel"
        if 0 < valid < min_pixels:
            reason = f"fewer than {min_pixels} valid pixels: {valid}"
        found.append(Frame(one, of, convert, alignment, counts, reason, min_pixels))
    return found
