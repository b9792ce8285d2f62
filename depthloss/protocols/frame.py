"""A prediction and its ground truth as a protocol compares them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from torch import Tensor

from ..arrays import chosen, count, finite


@dataclass(frozen=True)
class Frame:
    """One image, or one clip.

    Attributes:
        depth: predicted depth, aligned and clipped, float64 [H, W], of a clip [T, H, W], in metres; NaN where
            the prediction is not finite.
        gt: ground truth, likewise; anything where it is invalid.
        valid: bool, likewise: the pixels that count.
        alignment: "scale" and "shift" that were fitted, in depth or, for alignment disparity-lstsq, in
            inverse depth; empty without an alignment.
        counts: at valid pixels: "valid", all of them; "nonfinite" predictions; "clipped" ones, which the
            protocol's bounds changed; "nonpositive" ones, of depth <= 0 after all that.
        reason: why it has no score; "" if it has.
        min_pixels: of the protocol.
    """

    depth: Tensor
    gt: Tensor
    valid: Tensor
    alignment: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    min_pixels: int = 1

    def frames(self) -> list[Frame]:
        """Return the images of a clip, which share its alignment; of one image, itself."""
        if self.depth.ndim == 2:
            return [self]
        return [
            with_reason(replace(self, depth=depth, gt=gt, valid=valid, counts={}, reason=""))
            for depth, gt, valid in zip(self.depth, self.gt, self.valid, strict=True)
        ]


def with_reason(frame: Frame) -> Frame:
    """Return the frame with its counts of final values and, if it cannot be scored, the reason."""
    pred = chosen(frame.depth, frame.valid)
    counts = {
        "valid": len(pred),
        "nonfinite": len(pred) - count(finite(pred)),
        "nonpositive": count(pred <= 0),
    }
    reason = ""
    if not counts["valid"]:
        reason = "no valid pixel"
    elif counts["valid"] < frame.min_pixels:
        reason = f"fewer than {frame.min_pixels} valid pixels: {counts['valid']}"
    return replace(frame, counts={**counts, **frame.counts}, reason=reason)
