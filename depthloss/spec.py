"""What a loss is, as data: frozen, validated descriptions that every backend executes.

A loss is a `LossSpec`: groups of terms, each term with the domain it is computed in and its reduction.
Numbers that change from call to call (weights, learnable log-variances) are not part of it. Nothing here
imports torch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeAlias

from .checks import check_bounds, check_flag, check_number, check_range, check_scales, check_whole, one_of
from .text import dataclass_of, text_of

INVERSE_DEPTH_FLOOR = 1e-6
EVERYWHERE = frozenset({"cpu", "triton"})
TRITON_ONLY = frozenset({"triton"})
NOWHERE: frozenset[str] = frozenset()
# (low, high), None at an open end; None = every gt.
GtRange: TypeAlias = tuple[float | None, float | None] | None
Backend: TypeAlias = Literal["auto", "reference", "cpu", "triton"]
GradientPreset: TypeAlias = Literal["g2-published", "g2-document", "scale-adaptive", "sparse"]


def _number(owner: object, name: str, said: str | None = None, **bounds: Any) -> None:
    """Check a number of a frozen dataclass, called `said` in an error, and store it as a float."""
    object.__setattr__(owner, name, check_number(said or name, getattr(owner, name), **bounds))


@dataclass(frozen=True, kw_only=True)
class GradientSpec:
    """The multi-scale Sobel gradient term of a residual map r, level k = 0..num_scales-1 with factor f = 2^k.

    `GradientSpec.preset` gives the forms that the losses take by default.

    Attributes:
        mask: ``"residual"`` zeroes r at invalid pixels and masks no more; ``"centre"`` keeps the responses
            whose centre cell is more than half valid; ``"support"`` averages r over the valid pixels of each
            cell and keeps the responses whose nine cells all hold a valid pixel.
        downsample: ``"nearest"``, ``"average"`` or ``"bilinear"``, always from full resolution.
        border: ``"valid"`` (no padding), ``"zero"`` or ``"replicate"``.
        normalizer: ``"full"`` divides every level by the valid pixels at full resolution, ``"level"`` by the
            level's own.
        combine: ``"sum"`` or ``"mean"`` over the levels (support: over the levels that kept a response).
        num_scales: number of levels, 1 to 6.

    Raises:
        ValueError: an axis has a value that is not listed above.
    """

    mask: Literal["residual", "centre", "support"] = "support"
    downsample: Literal["nearest", "average", "bilinear"] = "average"
    border: Literal["valid", "zero", "replicate"] = "replicate"
    normalizer: Literal["full", "level"] = "level"
    combine: Literal["sum", "mean"] = "mean"
    num_scales: int = 4

    def __post_init__(self) -> None:
        one_of("mask", self.mask, ("residual", "centre", "support"))
        one_of("downsample", self.downsample, ("nearest", "average", "bilinear"))
        one_of("border", self.border, ("valid", "zero", "replicate"))
        one_of("normalizer", self.normalizer, ("full", "level"))
        one_of("combine", self.combine, ("sum", "mean"))
        object.__setattr__(self, "num_scales", check_scales("num_scales", self.num_scales))

    @classmethod
    def preset(cls, name: GradientPreset, *, num_scales: int = 4) -> GradientSpec:
        """A form that losses take by default; `dataclasses.replace` changes its other axes.

        Args:
            name: ``"g2-published"``, ``"g2-document"``, ``"scale-adaptive"`` or ``"sparse"``, see
                docs/losses.md.
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
}


@dataclass(frozen=True)
class Domain:
    """The quantity a term compares: the input as it is, or the depth made from an inverse depth x (1/m).

    Attributes:
        conversion: ``"identity"``; ``"inverse"`` is 1/max(x, 1e-6); ``"shifted-inverse"`` is 1/(x + 1e-6).
        minimum: lower clamp in metres after the conversion, or None.
        maximum: upper clamp in metres after the conversion, or None.

    Raises:
        ValueError: unknown conversion, bounds without a conversion, or minimum >= maximum.
    """

    conversion: str = "identity"
    minimum: float | None = None
    maximum: float | None = None

    def __post_init__(self) -> None:
        one_of("conversion", self.conversion, ("identity", "inverse", "shifted-inverse"))
        low, high = self.minimum, self.maximum
        if self.conversion == "identity" and (low is not None or high is not None):
            raise ValueError(
                "bounds need a conversion to depth; got conversion='identity' with "
                f"minimum={low!r}, maximum={high!r}"
            )
        if low is not None:
            _number(self, "minimum", "min_depth", low=0.0)
        if high is not None:
            _number(self, "maximum", "max_depth", low=0.0, strict=True)
        if low is not None and high is not None and low >= high:
            raise ValueError(f"min_depth must be below max_depth; got min_depth={low!r}, max_depth={high!r}")


IDENTITY = Domain()
DEPTH = Domain("inverse")


@dataclass(frozen=True, kw_only=True)
class Term:
    """One number that a loss adds up.

    Attributes:
        name: the name under which it appears in the metrics.
        weight_name: the name under which its weight appears in the metrics; empty = not reported.
        domain: the quantity compared.
    """

    name: str
    weight_name: str = ""
    domain: Domain = IDENTITY
    fused: ClassVar[frozenset[str]] = NOWHERE

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the numbers this term reports: itself, its weight, its parts."""
        return (self.name, *((self.weight_name,) if self.weight_name else ()), *self.part_names)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of the parts it reports; none for most."""
        return ()


@dataclass(frozen=True, kw_only=True)
class _MaskedL1(Term):
    reduction: str = "pixels"
    eps: float = 1e-6
    fused: ClassVar[frozenset[str]] = EVERYWHERE

    def __post_init__(self) -> None:
        one_of("reduction", self.reduction, ("pixels", "images"))
        _number(self, "eps", low=0.0)


@dataclass(frozen=True, kw_only=True)
class Absolute(_MaskedL1):
    """Masked L1 of (p, g) over `abs_mask`: pooled, sum/(N + eps), or the mean of the images' means."""


@dataclass(frozen=True, kw_only=True)
class Relative(_MaskedL1):
    """Masked L1 of the robustly standardised maps z = (x - mu)/(MAD + eps), per image."""


@dataclass(frozen=True, kw_only=True)
class Gradient(Term):
    """The multi-scale Sobel term of z_p - z_g, or of p - g where not standardised."""

    gradient: GradientSpec = field(default_factory=GradientSpec)
    standardised: bool = True
    eps: float = 1e-6
    fused: ClassVar[frozenset[str]] = EVERYWHERE

    def __post_init__(self) -> None:
        _number(self, "eps", low=0.0, strict=True)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The value and the number of kept responses of every level."""
        levels = range(1, self.gradient.num_scales + 1)
        return (*(f"gradient/scale_{k}" for k in levels), *(f"gradient/support_{k}" for k in levels))


@dataclass(frozen=True, kw_only=True)
class DifferenceMoments(Term):
    """Var(e) + alpha * mean(e)^2 of e = p - g, pooled over the batch (`SSILoss`)."""

    alpha: float = 0.85
    fused: ClassVar[frozenset[str]] = EVERYWHERE

    def __post_init__(self) -> None:
        _number(self, "alpha", low=0.0)


@dataclass(frozen=True, kw_only=True)
class LogMoments(Term):
    """scale * sqrt(Var(l) + (1 - lam) * mean(l)^2 + eps) of l = ln(p + offset) - ln(g + offset) (SILog)."""

    lam: float = 0.85
    scale: float = 1.0
    eps: float = 1e-8
    offset: float = 0.0
    unbiased: bool = False
    reduction: str = "pixels"
    clamp: float | None = None
    fused: ClassVar[frozenset[str]] = EVERYWHERE

    def __post_init__(self) -> None:
        one_of("reduction", self.reduction, ("pixels", "images"))
        _number(self, "lam", low=0.0, high=1.0)
        _number(self, "scale", low=0.0)
        _number(self, "eps", low=0.0)
        _number(self, "offset", low=0.0)
        object.__setattr__(self, "unbiased", check_flag("unbiased", self.unbiased))
        if self.clamp is not None:
            _number(self, "clamp", low=0.0, strict=True)


@dataclass(frozen=True, kw_only=True)
class Pointwise(Term):
    """A masked mean, pooled over the batch, of a function of (p, g) at one pixel."""

    kind: str
    threshold: float = 0.2
    fused: ClassVar[frozenset[str]] = TRITON_ONLY

    def __post_init__(self) -> None:
        one_of("kind", self.kind, ("l1", "mse", "abs-rel", "abs-rel-packnet", "berhu", "berhu-packnet"))
        _number(self, "threshold", low=0.0, strict=True)


@dataclass(frozen=True, kw_only=True)
class TrimmedAlignment(Term):
    """L1 after a clamped least-squares alignment per image, the largest residuals trimmed (`SSITrimLoss`)."""

    trim: float = 0.2
    eps: float = 1e-6

    def __post_init__(self) -> None:
        _number(self, "trim", low=0.0, high=0.99)
        _number(self, "eps", "epsilon", low=0.0, strict=True)


@dataclass(frozen=True, kw_only=True)
class MedianAlignment(Term):
    """L1 of the maps standardised by median and mean absolute deviation, optionally trimmed."""

    trim: float = 0.0
    eps: float = 1e-6

    def __post_init__(self) -> None:
        _number(self, "trim", low=0.0, high=0.99)


@dataclass(frozen=True, kw_only=True)
class LeastSquares(Term):
    """Half the mean squared residual after a least-squares scale and shift per image (MiDaS)."""


@dataclass(frozen=True, kw_only=True)
class GradientMatching(Term):
    """Forward differences of the least-squares aligned residual over pairs of valid pixels (MiDaS)."""

    num_scales: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_scales", check_scales("num_scales", self.num_scales))


@dataclass(frozen=True)
class Group:
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


def _fits_a_fused_plan(terms: tuple[Term, ...]) -> bool:
    """Whether there is one term of a kind, and one domain and standardisation of the structure terms."""
    structure = [term for term in terms if isinstance(term, (Absolute, Relative, Gradient))]
    pair = [term for term in structure if not isinstance(term, Absolute)]
    return (
        len({type(term) for term in terms}) == len(terms)
        and len({term.domain for term in structure}) <= 1
        and (
            len(pair) < 2
            or (pair[0].eps == pair[1].eps and all(getattr(t, "standardised", True) for t in pair))
        )
    )


@dataclass(frozen=True)
class LossSpec:
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
        fused: the fused backends that must be able to run this loss. None for a spec with several terms of
            a kind, or with structure terms (absolute, relative, gradient) that do not share one domain and
            one standardisation: the reference runs those too.
        text: the whole spec as a string, equal for equal specs; `parse` makes the spec of it.

    Raises:
        ValueError: an unknown statistics mode, a `gt_range` that is none, or two metrics of one name.
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
        names += ["num_valid_pixels", "total_loss"]
        if len(set(names)) != len(names):
            raise ValueError(f"metric names must be unique; got {names}")
        terms = tuple(term for group in self.groups for term in group.terms)
        for name, value in (
            ("terms", terms),
            ("num_weights", len(terms) + (len(self.groups) if self.log_var_bounds is None else 0)),
            ("metric_names", tuple(names)),
            (
                "fused",
                frozenset.intersection(*(term.fused for term in terms))
                if _fits_a_fused_plan(terms)
                else NOWHERE,
            ),
            ("text", text_of(self)),
        ):
            object.__setattr__(self, name, value)

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
                    replace(term, domain=DEPTH) if term.domain == IDENTITY else term for term in group.terms
                ),
            )
            for group in self.groups
        )
        return replace(self, groups=groups)


_TERMS: tuple[type[Term], ...] = (Absolute, Relative, Gradient, DifferenceMoments, LogMoments, Pointwise)
_TERMS += (TrimmedAlignment, MedianAlignment, LeastSquares, GradientMatching)


@functools.cache
def parse(text: str) -> LossSpec:
    """The spec whose `LossSpec.text` this is. Operators of compiled and exported graphs hold it.

    Raises:
        ValueError: text that this version does not understand.
    """
    return dataclass_of(text, LossSpec, (Group, GradientSpec, Domain, *_TERMS))
