"""A `LossSpec` laid out for the fused backends: what they are compiled for, or are handed."""

from __future__ import annotations

from dataclasses import dataclass

from depthloss import spec as s
from depthloss.spec.fused import roles_of
from depthloss.spec.penalty import OF_LARGEST

# Kinds of terms, in the order of the finishing kernel's arguments.
KINDS = ("absolute", "relative", "gradient", "difference", "log", "pointwise")


@dataclass(frozen=True)
class Entry:
    """A term in its group: kind (an index into KINDS), which weight is its own, where its metrics go."""

    kind: int
    weight: int
    slot: int
    weight_slot: int


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

    has_absolute: bool
    has_relative: bool
    has_gradient: bool
    has_difference: bool
    has_log: bool
    has_pointwise: bool
    has_structure: bool
    # The structure terms: absolute, relative, gradient.
    structure: s.Domain | None
    standardised: bool
    eps: float  # of the standardisation
    absolute: s.Pixel | None
    relative: s.Pixel | None
    codes: bool  # whether phases 2 and 3 run
    sobel_mask: str
    reads_invalid: bool  # whether invalid pixels get a gradient, as finite neighbours under mask centre
    downsample: str
    border: str
    normalizer: str  # "full", "level" or "kept"
    combine: str
    gradient_eps: float
    levels: int
    counts_cells: bool  # whether the level's own normaliser is wanted
    wide_counts: bool  # whether a coarse count can need more than 4 bits
    # The terms that re-read their inputs in the backward.
    difference: s.Moments | None
    difference_domain: s.Domain | None
    log: s.Moments | None
    log_domain: s.Domain | None
    pointwise: s.Pixel | None
    pointwise_domain: s.Domain | None
    berhu: bool
    reads_pred: bool
    reads_inputs: bool
    plain: bool  # statistics "all"
    positive_gt: bool
    groups: tuple[GroupPlan, ...]
    num_weights: int
    log_var_bounds: tuple[float, float] | None
    num_log_vars: int
    num_metrics: int
    count_slot: int
    total_slot: int


_plans: dict[str, Plan] = {}


def make_plan(spec: s.LossSpec) -> Plan:
    """The plan of a loss, always the same object for equal specs."""
    if spec.text not in _plans:
        _plans[spec.text] = _lay_out(spec)
    return _plans[spec.text]


def _lay_out(spec: s.LossSpec) -> Plan:
    roles = roles_of(spec.terms)
    assert roles is not None
    relative, gradient = roles.relative, roles.gradient
    absolute = roles.absolute or next((t for t in roles.pixels if t.mask == "abs_mask"), None)
    point = next((t for t in roles.pixels if t.mask == "mask"), None)
    difference = next((t for t in roles.moments if t.domain.log is None), None)
    log = next((t for t in roles.moments if t.domain.log is not None), None)
    found = (absolute, relative, gradient, difference, log, point)
    structure = next((t.domain for t in (absolute, relative, gradient) if t is not None), None)
    codes = relative is not None or gradient is not None
    # The relative term alone runs the Sobel phase on one level that nothing weights.
    sobel = (
        gradient.gradient
        if gradient
        else s.GradientSpec(mask="residual", downsample="nearest", border="zero", num_scales=1)
    )
    standardised = relative is not None or (gradient is not None and gradient.align == "mean")
    normalizer = "kept" if spec.statistics == "all" else sobel.normalizer
    slots = {name: i for i, name in enumerate(spec.metric_names)}
    kendall = spec.log_var_bounds is not None
    groups, weight = [], 0
    for i, group in enumerate(spec.groups):
        entries = []
        for term in group.terms:
            kind = next(i for i, t in enumerate(found) if t is term)
            own = slots.get(term.weight_name, -1)
            entries.append(Entry(kind, weight, slots[term.name], own))
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
    inputs = difference is not None or log is not None or point is not None or (absolute and not codes)
    return Plan(
        has_absolute=absolute is not None,
        has_relative=relative is not None,
        has_gradient=gradient is not None,
        has_difference=difference is not None,
        has_log=log is not None,
        has_pointwise=point is not None,
        has_structure=structure is not None,
        structure=structure,
        standardised=standardised,
        eps=float((relative or gradient).align_eps) if standardised else 0.0,
        absolute=absolute,
        relative=relative,
        codes=codes,
        sobel_mask=sobel.mask,
        reads_invalid=sobel.mask == "centre" and structure == s.IDENTITY,
        downsample=sobel.downsample,
        border=sobel.border,
        normalizer=normalizer,
        combine=sobel.combine,
        gradient_eps=float(gradient.eps) if gradient else 0.0,
        levels=sobel.num_scales,
        counts_cells=normalizer == "level" and sobel.mask != "support",
        wide_counts=sobel.mask == "support" and sobel.downsample == "average",
        difference=difference,
        difference_domain=difference.domain if difference else None,
        log=log,
        log_domain=log.domain if log else None,
        pointwise=point,
        pointwise_domain=point.domain if point else None,
        berhu=point is not None and point.penalty.kind in OF_LARGEST,
        reads_pred=bool(inputs) or (structure is not None and structure.conversion != "identity"),
        reads_inputs=bool(inputs),
        plain=spec.statistics == "all",
        positive_gt=spec.positive_gt,
        groups=tuple(groups),
        num_weights=spec.num_weights,
        log_var_bounds=spec.log_var_bounds,
        num_log_vars=len(groups) if kendall else 0,
        num_metrics=len(spec.metric_names),
        count_slot=slots["num_valid_pixels"],
        total_slot=slots["total_loss"],
    )
