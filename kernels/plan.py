"""A `LossSpec` laid out for the fused backends: what they are compiled for, or are handed."""

from __future__ import annotations

from dataclasses import dataclass

from depthloss import spec as s
from depthloss.spec.penalty import COUNTS, OF_LARGEST
from depthloss.spec.roles import MOST, roles_of

from .layout import VALUE

__all__ = ["GRADIENT", "MOMENTS", "MOST", "PIXELS", "Plan", "make_plan"]

GRADIENT, MOMENTS, PIXELS = VALUE["GRADIENT"], VALUE["MOMENTS"], VALUE["PIXELS"]


@dataclass(frozen=True, eq=False)
class PixelPlan:
    """A pixel term.

    Attributes:
        kind: of the penalty, with its numbers `a` and `b`.
        domain: of p and g.
        norm: what its sum is divided by: ``"pixels"`` (N + eps, or max(N, 1) where eps is 0), ``"images"``
            (its images by max(n, 1), the sum of them by B), ``"images-sum"`` (that sum), ``"floored"`` (as
            pixels; N sums max(n, 1)). With weights n and N are their sums, and max(n, 1) is n, but 1 for 0.
        eps: of that divisor.
        absolute: it counts the pixels of `abs_mask`.
        largest: its penalty needs the largest residual of the batch.
        counts: its penalty counts some pixels once more.
        trim: this part of the pixels is left out, of each image or, with `trim_batch`, of the batch.
        confidence: c phi - confidence ln c takes the place of phi, c the confidence of the pixel; None: no.
    """

    kind: str
    a: float
    b: float
    domain: s.Domain
    norm: str
    eps: float
    absolute: bool
    largest: bool
    counts: bool
    trim: float
    trim_batch: bool
    confidence: float | None

    @property
    def by_image(self) -> bool:
        """Whether the sum of each image is divided by its own pixels."""
        return self.norm in ("images", "images-sum")


@dataclass(frozen=True, eq=False)
class MomentsPlan:
    """A moments term: scale * sqrt(V + mean_weight * mean^2 + eps) if `root`, else V + mean_weight * mean^2.

    `images`: the mean of the images' values; `images_sum`: their sum.
    """

    root: bool
    mean_weight: float
    scale: float
    eps: float
    unbiased: bool
    images: bool
    images_sum: bool
    domain: s.Domain


@dataclass(frozen=True)
class Entry:
    """A term in its group: where its value lies, which weight is its own, where its metrics go (-1: nowhere).

    `always`: it counts whatever the group's `min_valid`.
    """

    place: int
    weight: int
    slot: int
    weight_slot: int
    always: bool


@dataclass(frozen=True)
class GroupPlan:
    """A group: its terms, its gate, and where its metrics go (-1: nowhere)."""

    entries: tuple[Entry, ...]
    min_valid: int
    weight: int
    slot: int
    sigma_slot: int
    weight_slot: int


# Compared by identity: a launch looks up its compiled kernel by its constants; there is one plan per spec.
@dataclass(frozen=True, eq=False)
class Plan:
    """A loss as the kernels see it. Everything is a compile-time constant."""

    # The terms that stand for themselves: their backward reads the inputs again.
    pixels: tuple[PixelPlan, ...]
    moments: tuple[MomentsPlan, ...]
    largest: bool  # whether a pixel term needs the largest residual first
    # The structure terms, whose backward reads codes: phases 2 and 3 run for them.
    codes: bool
    structure: s.Domain | None
    alignment: s.Alignment
    eps: float  # of the alignment
    absolute: PixelPlan | None
    relative: PixelPlan | None
    has_gradient: bool
    stencil: str
    gradient_images: bool  # whether each level is the mean of the images' ratios
    sobel_mask: str
    reads_invalid: bool  # whether invalid pixels get a gradient, as finite neighbours under mask centre
    downsample: str
    border: str
    normalizer: str  # "full", "level" or "kept"
    combine: str
    gradient_eps: float
    levels: int
    parts: bool  # whether the levels are metrics
    counts_cells: bool  # whether the level's own normaliser is wanted
    two_byte_counts: bool  # whether a coarse count can need more than 4 bits
    # Whether the gradient of the residual is made of codes alone: L1, and an alignment by mean or median.
    of_signs: bool
    # What the backward reads again.
    reads_pred: bool
    reads_inputs: bool
    all_pixels: bool  # statistics "all"
    positive_gt: bool
    groups: tuple[GroupPlan, ...]
    num_weights: int
    log_var_bounds: tuple[float, float] | None
    num_log_vars: int
    num_metrics: int
    count_slot: int
    total_slot: int
    # The total is [B], one number per image; its metrics are the means of the images.
    by_image: bool
    confident: bool  # whether a term multiplies by a confidence
    confidence_slot: int  # -1 without

    @property
    def aligned(self) -> bool:
        """Whether the structure's residual needs statistics of p and of g."""
        return self.alignment.kind != "none"

    @property
    def by_mean(self) -> bool:
        """Whether the structure is standardised by means."""
        return self.alignment.kind == "mean"

    @property
    def by_median(self) -> bool:
        """Whether the structure is standardised by medians."""
        return self.alignment.kind == "median"

    @property
    def fits(self) -> bool:
        """Whether p is fitted to g."""
        return self.alignment.kind in ("least-squares", "packnet-trim")

    @property
    def centred(self) -> bool:
        """Whether the statistics begin with the means."""
        return self.by_mean or self.fits

    @property
    def trim(self) -> float:
        """The part of the pixels that the relative term leaves out."""
        return self.relative.trim if self.relative else 0.0

    @property
    def trim_batch(self) -> bool:
        """Whether it is a part of the batch."""
        return self.trim > 0 and self.relative is not None and self.relative.trim_batch

    @property
    def weighed(self) -> bool:
        """Whether the relative term is no plain sum of |r|."""
        r = self.relative
        return r is not None and (r.kind != "l1" or r.trim > 0 or r.confidence is not None)

    @property
    def relative_confidence(self) -> float | None:
        """The weight of -ln c in the relative term; None if it has no confidence."""
        return self.relative.confidence if self.relative else None

    @property
    def forward(self) -> bool:
        """Whether the gradient term takes differences to the next cell."""
        return self.stencil == "forward"

    @property
    def strided(self) -> bool:
        """Whether a level reads every 2^k-th pixel: ceil(H/2^k) x ceil(W/2^k) cells."""
        return self.downsample == "strided"

    @property
    def edge(self) -> str:
        """The border of the Sobel filter; forward differences count nothing beyond it."""
        return "zero" if self.forward else self.border

    @property
    def detached(self) -> bool:
        """Whether the median of the prediction is a constant."""
        return self.alignment.grad == "detached"

    @property
    def of_abs_mask(self) -> bool:
        """Whether a term counts the pixels of `abs_mask`."""
        return self.absolute is not None or any(term.absolute for term in self.pixels)

    @property
    def floors_counts(self) -> bool:
        """Whether a term is divided by the sum of max(n, 1) over the images."""
        terms = self.pixels if self.absolute is None else (self.absolute, *self.pixels)
        return any(term.norm == "floored" for term in terms)

    @property
    def floored(self) -> bool:
        """Whether a scale is at least `eps`, which otherwise is added to it."""
        return self.by_median and self.alignment.scale_floor == "max"


_plans: dict[str, Plan] = {}


def make_plan(spec: s.LossSpec) -> Plan:
    """The plan of a loss, always the same object for equal specs."""
    if spec.text not in _plans:
        _plans[spec.text] = _lay_out(spec)
    return _plans[spec.text]


def _pixel(t: s.Pixel, all_pixels: bool) -> PixelPlan:
    # Statistics "all", as the source has it: absolute terms are pooled, an empty image counting one pixel.
    # A loss whose value is [B] has the means of its images in its metrics.
    reduction = "images" if t.reduction == "none" else t.reduction
    norm = "floored" if all_pixels and t.mask == "abs_mask" else reduction
    eps = 0.0 if all_pixels and t.mask != "abs_mask" else t.eps
    return PixelPlan(
        t.penalty.kind,
        t.penalty.a,
        t.penalty.b,
        t.domain,
        norm,
        eps,
        t.mask == "abs_mask",
        t.penalty.kind in OF_LARGEST,
        t.penalty.kind in COUNTS,
        t.trim,
        t.trim_over == "batch",
        t.confidence,
    )


def _moments(t: s.Moments) -> MomentsPlan:
    summed = t.reduction == "images-sum"
    images = t.reduction != "pixels"
    return MomentsPlan(t.form == "root", t.mean_weight, t.scale, t.eps, t.unbiased, images, summed, t.domain)


def _groups(
    spec: s.LossSpec, values: list[tuple[s.Term, int]], slots: dict[str, int]
) -> tuple[GroupPlan, ...]:
    groups, weight = [], 0
    kendall = spec.log_var_bounds is not None
    for i, group in enumerate(spec.groups):
        entries = []
        for term in group.terms:
            place = next(v for t, v in values if t is term)
            own = slots.get(term.weight_name, -1)
            always = spec.statistics == "all" and term.mask != "abs_mask"
            entries.append(Entry(place, weight, slots[term.name], own, always))
            weight += 1
        groups.append(
            GroupPlan(
                tuple(entries),
                group.min_valid,
                len(spec.terms) + i,
                slots.get(group.name, -1),
                slots[f"sigma_{group.short_name}"] if kendall else -1,
                slots[f"weight_{group.short_name}"] if kendall else -1,
            )
        )
    return tuple(groups)


def _lay_out(spec: s.LossSpec) -> Plan:
    roles = roles_of(spec.terms)
    assert roles is not None
    relative, gradient, structure = roles.relative, roles.gradient, roles.structure
    all_pixels = spec.statistics == "all"
    codes = structure is not None
    # The relative term alone runs the Sobel phase on one level that nothing weights.
    sobel = (
        gradient.gradient
        if gradient
        else s.GradientSpec(mask="residual", downsample="nearest", border="zero", num_scales=1)
    )
    aligned = relative or gradient
    alignment = aligned.alignment if aligned else s.NOT_ALIGNED
    of_signs = alignment.kind in ("none", "mean", "median") and (
        relative is None or (relative.penalty.kind == "l1" and relative.confidence is None)
    )
    normalizer = "kept" if all_pixels else sobel.normalizer
    slots = {name: i for i, name in enumerate(spec.metric_names)}
    values: list[tuple[s.Term, int]] = [
        *((t, i) for i, t in enumerate((roles.absolute, relative, gradient)) if t is not None),
        *((t, MOMENTS + i) for i, t in enumerate(roles.moments)),
        *((t, PIXELS + i) for i, t in enumerate(roles.pixels)),
    ]
    pixels = tuple(_pixel(t, all_pixels) for t in roles.pixels)
    reads_inputs = bool(pixels or roles.moments or not of_signs)
    return Plan(
        pixels=pixels,
        moments=tuple(_moments(t) for t in roles.moments),
        largest=any(t.largest for t in pixels),
        codes=codes,
        structure=structure,
        alignment=alignment,
        eps=alignment.eps,
        absolute=_pixel(roles.absolute, all_pixels) if roles.absolute else None,
        relative=_pixel(relative, all_pixels) if relative else None,
        has_gradient=gradient is not None,
        stencil=sobel.stencil,
        gradient_images=gradient is not None and gradient.reduction != "pixels",
        sobel_mask=sobel.mask,
        reads_invalid=sobel.mask == "centre" and structure == s.IDENTITY,
        downsample=sobel.downsample,
        border=sobel.border,
        normalizer=normalizer,
        combine=sobel.combine,
        gradient_eps=gradient.eps if gradient else 0.0,
        levels=sobel.num_scales,
        parts=gradient is not None and gradient.parts,
        counts_cells=normalizer == "level" and sobel.mask != "support",
        two_byte_counts=sobel.mask == "support" and sobel.downsample == "average",
        of_signs=of_signs,
        reads_pred=reads_inputs or (structure is not None and structure.converts),
        reads_inputs=reads_inputs,
        all_pixels=all_pixels,
        positive_gt=spec.positive_gt,
        groups=_groups(spec, values, slots),
        num_weights=spec.num_weights,
        log_var_bounds=spec.log_var_bounds,
        num_log_vars=len(spec.groups) if spec.log_var_bounds is not None else 0,
        num_metrics=len(spec.metric_names),
        count_slot=slots["num_valid_pixels"],
        total_slot=slots["total_loss"],
        by_image=spec.by_image,
        confident=spec.confidence,
        confidence_slot=slots.get("confidence", -1),
    )
