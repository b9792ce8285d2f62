"""The multi-scale gradient of a residual map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from ..checks import NamesKeywords, check_scales, one_of

GradientPreset: TypeAlias = Literal["g2-published", "g2-document", "scale-adaptive", "sparse", "midas"]


@dataclass(frozen=True, kw_only=True)
class GradientSpec(NamesKeywords):
    """The multi-scale gradient of a residual map r, level k = 0..num_scales-1 with factor f = 2^k.

    `GradientSpec.preset` gives the forms that the losses take by default.

    Attributes:
        stencil: ``"sobel"``, or ``"forward"``: differences to the next cell beside and below, which come
            with mask ``"pair"`` and downsample ``"strided"``, and have no border (it is stored as
            ``"valid"``).
        mask: ``"residual"`` zeroes r at invalid pixels and masks no more; ``"centre"`` keeps the responses
            whose centre cell is more than half valid; ``"support"`` averages r over the valid pixels of each
            cell and keeps the responses whose nine cells all hold a valid pixel; ``"pair"`` keeps the
            differences of two valid cells.
        downsample: ``"nearest"``, ``"average"`` or ``"bilinear"``, always from full resolution;
            ``"strided"`` takes every f-th row and column from the first on.
        border: ``"valid"`` (no padding), ``"zero"`` or ``"replicate"``.
        normalizer: ``"full"`` divides every level by the valid pixels at full resolution, ``"level"`` by the
            level's own: with ``"pair"`` the valid cells.
        combine: ``"sum"`` or ``"mean"`` over the levels (support: over the levels that kept a response).
        num_scales: number of levels, 1 to 6.

    Raises:
        ValueError: an axis has a value that is not listed above, or a stencil without its mask and
            downsample.
    """

    stencil: Literal["sobel", "forward"] = "sobel"
    mask: Literal["residual", "centre", "support", "pair"] = "support"
    downsample: Literal["nearest", "average", "bilinear", "strided"] = "average"
    border: Literal["valid", "zero", "replicate"] = "replicate"
    normalizer: Literal["full", "level"] = "level"
    combine: Literal["sum", "mean"] = "mean"
    num_scales: int = 4

    def __post_init__(self) -> None:
        one_of("mask", self.mask, ("residual", "centre", "support", "pair"))
        one_of("downsample", self.downsample, ("nearest", "average", "bilinear", "strided"))
        one_of("stencil", self.stencil, ("sobel", "forward"))
        forward = self.stencil == "forward"
        if (self.mask == "pair") != forward or (self.downsample == "strided") != forward:
            raise ValueError(
                "stencil='forward', mask='pair' and downsample='strided' come together; got "
                f"stencil={self.stencil!r}, mask={self.mask!r}, downsample={self.downsample!r}"
            )
        one_of("border", self.border, ("valid", "zero", "replicate"))
        one_of("normalizer", self.normalizer, ("full", "level"))
        one_of("combine", self.combine, ("sum", "mean"))
        if forward:
            object.__setattr__(self, "border", "valid")
        object.__setattr__(self, "num_scales", check_scales("num_scales", self.num_scales))

    @classmethod
    def preset(cls, name: GradientPreset, *, num_scales: int = 4) -> GradientSpec:
        """A form that losses take by default; `dataclasses.replace` changes its other axes.

        Args:
            name: ``"g2-published"``, ``"g2-document"``, ``"scale-adaptive"``, ``"sparse"`` or ``"midas"``,
                see docs/losses.md.
            num_scales: number of levels, 1 to 6.

        Raises:
            ValueError: unknown name, or `num_scales` out of range.
        """
        return replace(_GRADIENTS[one_of("name", name, tuple(_GRADIENTS))], num_scales=num_scales)


_GRADIENTS = {
    "g2-published": GradientSpec(
        mask="residual", downsample="nearest", border="valid", normalizer="full", combine="sum"
    ),
    "g2-document": GradientSpec(
        mask="centre", downsample="average", border="zero", normalizer="level", combine="mean"
    ),
    "scale-adaptive": GradientSpec(
        mask="support", downsample="bilinear", border="replicate", normalizer="level", combine="mean"
    ),
    "sparse": GradientSpec(
        mask="support", downsample="average", border="replicate", normalizer="level", combine="mean"
    ),
    "midas": GradientSpec(
        mask="pair",
        downsample="strided",
        border="valid",
        normalizer="level",
        combine="sum",
        stencil="forward",
    ),
}
