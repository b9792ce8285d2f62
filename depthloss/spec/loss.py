"""A loss: groups of terms, and what holds for all of them."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from ..checks import NamesKeywords, check_bounds, check_range, check_whole, one_of
from ..text import dataclass_of, text_of
from .domain import Domain
from .gradient import GradientSpec
from .penalty import COUNTS, Penalty
from .roles import fused_backends
from .terms import Gradient, Moments, Pixel, Term

# (low, high), None at an open end; None = every gt.
GtRange: TypeAlias = tuple[float | None, float | None] | None
Backend: TypeAlias = Literal["auto", "reference", "cpu", "triton"]


@dataclass(frozen=True)
class Group(NamesKeywords):
    """Terms that are added up before the groups are combined.

    Attributes:
        terms: the terms; their weights come with each call.
        name: the metric name of the group's weighted sum; empty = not reported.
        short_name: the suffix in ``sigma_*`` and ``weight_*`` where the group is weighted by a log-variance.
        min_valid: with fewer valid pixels in the whole batch the group is left out, exactly 0.
    """

    terms: tuple[Term, ...]
    name: str = ""
    short_name: str = ""
    min_valid: int = 0

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError("a group needs at least one term; switch on a term or give it a weight")
        object.__setattr__(self, "min_valid", check_whole("min_valid", self.min_valid, 0))


@dataclass(frozen=True)
class LossSpec(NamesKeywords):
    """One loss, complete but for its weights.

    Attributes:
        groups: the groups of terms.
        statistics: ``"masked"``, or ``"all"`` where standardisation and the relative and gradient terms take
            every pixel (dense data only).
        log_var_bounds: None = groups are added with their plain weights; otherwise group i counts
            ``exp(-s)/2 * L + s/2`` with its learnable log-variance s clamped to these bounds.
        positive_gt: a pixel is valid only where gt is positive and finite as well (the losses called
            ``sparse-...``).
        gt_range: a pixel is valid only where gt lies in this closed interval as well, and is finite; None at
            either end = open, stored as -inf or inf. In the units of the gt that is passed.
        terms: all terms in the order of their weights.
        num_weights: how many plain numbers a call brings: one per term, then one per group that no
            log-variance weights.
        metric_names: the names of the numbers in the `terms` vector that a backend returns, in its order.
        fused: the fused backends that must be able to run this loss (depthloss/spec/roles.py says which);
            the reference runs every loss.
        confidence: whether a term asks for a confidence with each call.
        by_image: its value is [B], one number per image: the reduction of every term is ``"none"``.
        text: the whole spec as a string, equal for equal specs; `parse` makes the spec of it.

    Raises:
        ValueError: an unknown statistics mode, a `gt_range` that is none, two metrics of one name, or terms
            with reduction ``"none"`` beside others, or log-variances, or statistics ``"all"``.
    """

    groups: tuple[Group, ...]
    statistics: str = "masked"
    log_var_bounds: tuple[float, float] | None = None
    positive_gt: bool = False
    gt_range: GtRange = None
    terms: tuple[Term, ...] = field(init=False, repr=False, compare=False)
    num_weights: int = field(init=False, repr=False, compare=False)
    metric_names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    fused: frozenset[str] = field(init=False, repr=False, compare=False)
    confidence: bool = field(init=False, repr=False, compare=False)
    by_image: bool = field(init=False, repr=False, compare=False)
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        one_of("statistics", self.statistics, ("masked", "all"))
        object.__setattr__(self, "gt_range", check_range("gt_range", self.gt_range))
        names = [name for group in self.groups for term in group.terms for name in term.metric_names]
        names += [group.name for group in self.groups if group.name]
        if self.log_var_bounds is not None:
            bounds = check_bounds("log_var_bounds", self.log_var_bounds)
            object.__setattr__(self, "log_var_bounds", bounds)
            names += [f"sigma_{group.short_name}" for group in self.groups]
            names += [f"weight_{group.short_name}" for group in self.groups]
        confidence = any(isinstance(t, Pixel) and t.confidence is not None for t in self._all_terms())
        names += ["confidence"] if confidence else []
        names += ["num_valid_pixels", "total_loss"]
        if len(set(names)) != len(names):
            raise ValueError(f"metric names must be unique; got {names}")
        terms = self._all_terms()
        self._check_by_image(terms)
        for name, value in (
            ("terms", terms),
            ("num_weights", len(terms) + (len(self.groups) if self.log_var_bounds is None else 0)),
            ("metric_names", tuple(names)),
            ("fused", fused_backends(terms)),
            ("confidence", confidence),
            ("by_image", terms[0].reduction == "none"),
            ("text", text_of(self)),
        ):
            object.__setattr__(self, name, value)

    def _all_terms(self) -> tuple[Term, ...]:
        return tuple(term for group in self.groups for term in group.terms)

    def check_weight(self) -> None:
        """Raise a ValueError unless a call may weight the pixels of this loss."""
        for t in self.terms:
            refused = {
                "align='median'": t.align == "median",
                "trim": isinstance(t, Pixel) and t.trim > 0,
                "unbiased": isinstance(t, Moments) and t.unbiased,
                "penalty='berhu-packnet'": isinstance(t, Pixel) and t.penalty.kind in COUNTS,
                "statistics='all'": self.statistics == "all",
            }
            for axis, holds in refused.items():
                if holds:
                    raise ValueError(f"weight does not go with {axis}, which term {t.name!r} has")

    def _check_by_image(self, terms: tuple[Term, ...]) -> None:
        """Raise unless reduction "none" is that of every term or of none."""
        reductions = [term.reduction for term in terms]
        if "none" not in reductions:
            return
        if set(reductions) != {"none"}:
            raise ValueError(f"reduction='none' must be that of every term; got {', '.join(reductions)}")
        if self.log_var_bounds is not None or self.statistics == "all":
            raise ValueError(
                "reduction='none' needs statistics='masked' and no log-variances; got "
                f"statistics={self.statistics!r}, log_var_bounds={self.log_var_bounds}"
            )

    def __reduce__(self) -> tuple:
        """Rebuilt where it is unpickled."""
        return parse, (self.text,)

    def on_inverse_depth(self) -> LossSpec:
        """The same loss of depth, fed with inverse depth (1/m): every identity domain becomes 1/max(x,
        1e-6).
        """
        groups = tuple(
            replace(
                group,
                terms=tuple(
                    replace(term, domain=replace(term.domain, conversion="inverse"))
                    if term.domain.conversion == "identity"
                    else term
                    for term in group.terms
                ),
            )
            for group in self.groups
        )
        return replace(self, groups=groups)


@functools.cache
def parse(text: str) -> LossSpec:
    """The spec whose `LossSpec.text` this is. Operators of compiled and exported graphs hold it.

    Raises:
        ValueError: text that this version does not understand.
    """
    return dataclass_of(text, LossSpec, (Group, Pixel, Gradient, Moments, Domain, Penalty, GradientSpec))
