"""The three kinds of term, and the terms that have a name of their own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, TypeAlias

from ..checks import check_flag, check_number, check_scales, one_of, set_number
from .domain import IDENTITY, Domain
from .gradient import GradientSpec
from .penalty import OF_PIXELS, Penalty

ALIGNMENTS = ("none", "mean", "median", "least-squares", "packnet-trim")


@dataclass(frozen=True, kw_only=True)
class _Named:
    """One number that a loss adds up.

    Attributes:
        name: the name under which it appears in the metrics.
        weight_name: the name under which its weight appears in the metrics; empty = not reported.
        domain: the quantity compared.
    """

    name: str
    weight_name: str = ""
    domain: Domain = IDENTITY

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The names of the numbers this term reports: itself, its weight, its parts."""
        return (self.name, *((self.weight_name,) if self.weight_name else ()), *self.part_names)

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of the parts it reports; none for most."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Pixel(_Named):
    """A mean over valid pixels of a penalty of the residual.

    Attributes:
        align: what is done to p and g of each image before they are subtracted: ``"none"``; ``"mean"`` and
            ``"median"`` standardise both; ``"least-squares"`` and ``"packnet-trim"`` fit p to g. See
            docs/losses.md.
        align_eps: added to the scale of ``"mean"``, the least scale of ``"median"``, added to the variance
            of ``"packnet-trim"``.
        penalty: of the residual.
        trim: this part of the pixels of an image, those with the largest residuals, does not count.
        reduction: ``"pixels"``, sum/(N + eps) over the batch, or max(N, 1) where eps is 0; ``"images"``, the
            mean over the images of their means.
        eps: of that divisor.
        mask: ``"mask"``, or ``"abs_mask"``: the pixels of a mask of its own, where a call brings one.

    Raises:
        ValueError: an axis has a value that is not listed above, or one that does not go with another.
    """

    align: str = "none"
    align_eps: float = 1e-6
    penalty: Penalty = field(default_factory=Penalty)
    trim: float = 0.0
    reduction: str = "pixels"
    eps: float = 0.0
    mask: str = "mask"

    def __post_init__(self) -> None:
        one_of("align", self.align, ALIGNMENTS)
        one_of("reduction", self.reduction, ("pixels", "images"))
        one_of("mask", self.mask, ("mask", "abs_mask"))
        set_number(self, "align_eps", low=0.0)
        set_number(self, "trim", low=0.0, high=0.99)
        set_number(self, "eps", low=0.0)
        if self.align != "none" and self.mask == "abs_mask":
            raise ValueError(f"mask='abs_mask' needs align='none'; got align={self.align!r}")
        if self.penalty.kind in OF_PIXELS and (self.align != "none" or self.trim):
            raise ValueError(
                f"penalty {self.penalty.kind!r} needs align='none' and trim=0; got align={self.align!r} and "
                f"trim={self.trim}"
            )
        if self.trim and self.reduction != "images":
            raise ValueError(f"trim={self.trim} needs reduction='images'; got reduction={self.reduction!r}")


@dataclass(frozen=True, kw_only=True)
class Gradient(_Named):
    """The multi-scale gradient of the residual.

    Attributes:
        align: as of `Pixel`.
        align_eps: as of `Pixel`.
        gradient: its form.
        eps: added to the normaliser of each level.
        parts: whether each level's value and number of kept responses are reported.

    Raises:
        ValueError: a value out of range, or mask ``"centre"`` of a logarithm.
    """

    mask: ClassVar[str] = "mask"
    align: str = "mean"
    align_eps: float = 1e-6
    gradient: GradientSpec = field(default_factory=GradientSpec)
    eps: float = 1e-6
    parts: bool = True

    def __post_init__(self) -> None:
        one_of("align", self.align, ALIGNMENTS)
        set_number(self, "align_eps", low=0.0)
        set_number(self, "eps", low=0.0, strict=self.gradient.stencil == "sobel")
        object.__setattr__(self, "parts", check_flag("parts", self.parts))
        if self.gradient.mask == "centre" and self.domain.log is not None:
            raise ValueError("gradient mask 'centre' reads invalid pixels, of which there is no logarithm")

    @property
    def part_names(self) -> tuple[str, ...]:
        """The value and the number of kept responses of every level."""
        if not self.parts:
            return ()
        levels = range(1, self.gradient.num_scales + 1)
        return (*(f"gradient/scale_{k}" for k in levels), *(f"gradient/support_{k}" for k in levels))


@dataclass(frozen=True, kw_only=True)
class Moments(_Named):
    """Variance V and mean of the residual e that is not aligned.

    Attributes:
        form: ``"root"``, scale * sqrt(V + (1 - lam) mean^2 + eps), or ``"plain"``, V + alpha mean^2.
        lam: of the root form.
        alpha: of the plain form.
        scale: of the root form.
        eps: of the root form.
        unbiased: V is divided by n - 1 rather than n.
        reduction: ``"pixels"``, over the batch, or ``"images"``, the mean of the images' values.

    Raises:
        ValueError: an axis has a value that is not listed above, or one that belongs to the other form.
    """

    mask: ClassVar[str] = "mask"
    align: ClassVar[str] = "none"
    align_eps: ClassVar[float] = 0.0
    form: str = "root"
    lam: float = 0.85
    alpha: float = 0.85
    scale: float = 1.0
    eps: float = 0.0
    unbiased: bool = False
    reduction: str = "pixels"

    def __post_init__(self) -> None:
        one_of("form", self.form, ("root", "plain"))
        one_of("reduction", self.reduction, ("pixels", "images"))
        set_number(self, "lam", low=0.0, high=1.0)
        set_number(self, "alpha", low=0.0)
        set_number(self, "scale", low=0.0)
        set_number(self, "eps", low=0.0)
        object.__setattr__(self, "unbiased", check_flag("unbiased", self.unbiased))
        other = {"lam": 0.85, "scale": 1.0, "eps": 0.0} if self.form == "plain" else {"alpha": 0.85}
        for name, default in other.items():
            if getattr(self, name) != default:
                raise ValueError(f"form={self.form!r} has no {name!r}; got {name}={getattr(self, name)!r}")

    @property
    def mean_weight(self) -> float:
        """What mean^2 is multiplied by."""
        return self.alpha if self.form == "plain" else 1.0 - self.lam


Term: TypeAlias = Pixel | Gradient | Moments


def Absolute(  # noqa: N802
    *,
    name: str,
    weight_name: str = "",
    domain: Domain = IDENTITY,
    reduction: str = "pixels",
    eps: float = 1e-6,
) -> Pixel:
    """Masked L1 of (p, g) over `abs_mask`: pooled, sum/(N + eps), or the mean of the images' means."""
    return Pixel(
        name=name, weight_name=weight_name, domain=domain, reduction=reduction, eps=eps, mask="abs_mask"
    )


def Relative(  # noqa: N802
    *,
    name: str,
    weight_name: str = "",
    domain: Domain = IDENTITY,
    reduction: str = "pixels",
    eps: float = 1e-6,
) -> Pixel:
    """Masked L1 of the robustly standardised maps z = (x - mu)/(MAD + eps), per image."""
    return Pixel(
        name=name,
        weight_name=weight_name,
        domain=domain,
        align="mean",
        align_eps=eps,
        reduction=reduction,
        eps=eps,
    )


def DifferenceMoments(  # noqa: N802
    *, name: str, weight_name: str = "", domain: Domain = IDENTITY, alpha: float = 0.85
) -> Moments:
    """Var(e) + alpha * mean(e)^2 of e = p - g, pooled over the batch (`SSILoss`)."""
    return Moments(name=name, weight_name=weight_name, domain=domain, form="plain", alpha=alpha)


def LogMoments(  # noqa: N802
    *,
    name: str,
    weight_name: str = "",
    domain: Domain = IDENTITY,
    lam: float = 0.85,
    scale: float = 1.0,
    eps: float = 1e-8,
    offset: float = 0.0,
    unbiased: bool = False,
    reduction: str = "pixels",
    clamp: float | None = None,
) -> Moments:
    """scale * sqrt(Var(l) + (1 - lam) * mean(l)^2 + eps) of l = ln(p + offset) - ln(g + offset) (SILog)."""
    return Moments(
        name=name,
        weight_name=weight_name,
        domain=replace(domain, log=offset, floor=clamp),
        lam=lam,
        scale=scale,
        eps=eps,
        unbiased=unbiased,
        reduction=reduction,
    )


def Pointwise(  # noqa: N802
    *, name: str, kind: str, weight_name: str = "", domain: Domain = IDENTITY, threshold: float = 0.2
) -> Pixel:
    """A masked mean, pooled over the batch, of a function of (p, g) at one pixel."""
    one_of("kind", kind, ("l1", "mse", "abs-rel", "abs-rel-packnet", "berhu", "berhu-packnet"))
    check_number("threshold", threshold, low=0.0, strict=True)
    penalty = Penalty(
        "l2" if kind == "mse" else kind, threshold if kind in ("berhu", "berhu-packnet") else 0.0
    )
    return Pixel(name=name, weight_name=weight_name, domain=domain, penalty=penalty)


def TrimmedAlignment(  # noqa: N802
    *, name: str, weight_name: str = "", domain: Domain = IDENTITY, trim: float = 0.2, eps: float = 1e-6
) -> Pixel:
    """L1 after a clamped least-squares alignment per image, the largest residuals trimmed (`SSITrimLoss`)."""
    return Pixel(
        name=name,
        weight_name=weight_name,
        domain=domain,
        align="packnet-trim",
        align_eps=check_number("epsilon", eps, low=0.0, strict=True),
        trim=trim,
        reduction="images",
    )


def MedianAlignment(  # noqa: N802
    *, name: str, weight_name: str = "", domain: Domain = IDENTITY, trim: float = 0.0, eps: float = 1e-6
) -> Pixel:
    """L1 of the maps standardised by median and mean absolute deviation, optionally trimmed."""
    return Pixel(
        name=name,
        weight_name=weight_name,
        domain=domain,
        align="median",
        align_eps=eps,
        trim=trim,
        reduction="images",
    )


def LeastSquares(  # noqa: N802
    *, name: str, weight_name: str = "", domain: Domain = IDENTITY
) -> Pixel:
    """Half the mean squared residual after a least-squares scale and shift per image (MiDaS)."""
    return Pixel(
        name=name, weight_name=weight_name, domain=domain, align="least-squares", penalty=Penalty("half-l2")
    )


def GradientMatching(  # noqa: N802
    *, name: str, weight_name: str = "", domain: Domain = IDENTITY, num_scales: int = 4
) -> Gradient:
    """Forward differences of the least-squares aligned residual over pairs of valid pixels (MiDaS)."""
    return Gradient(
        name=name,
        weight_name=weight_name,
        domain=domain,
        align="least-squares",
        gradient=GradientSpec.preset("midas", num_scales=check_scales("num_scales", num_scales)),
        eps=0.0,
        parts=False,
    )
