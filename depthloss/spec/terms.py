"""The three kinds of term, and the terms that have a name of their own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple, TypeAlias

from ..checks import NamesKeywords, check_flag, check_number, check_scales, check_whole, one_of, set_number
from .domain import IDENTITY, Domain
from .gradient import GradientSpec
from .penalty import COUNTS, OF_PIXELS, Penalty

ALIGNMENTS = ("none", "mean", "median", "least-squares", "packnet-trim")
REDUCTIONS = ("pixels", "images", "images-sum", "none")


class Alignment(NamedTuple):
    """An alignment with its numbers, see `Pixel` and `Gradient`; ``kind`` is their ``align``."""

    kind: str
    eps: float = 0.0
    scale_floor: str = "max"
    grad: str = "full"
    min_pixels: int = 0


NOT_ALIGNED = Alignment("none")


@dataclass(frozen=True, kw_only=True)
class _Named(NamesKeywords):
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
class _Aligned(_Named):
    """What is done to p and g of each image before they are subtracted; docs/losses.md has the formulas.

    Attributes:
        align: ``"none"``; ``"mean"`` and ``"median"`` standardise both; ``"least-squares"`` and
            ``"packnet-trim"`` fit p to g.
        align_eps: of the scale of ``"mean"`` and ``"median"``, added to the variance of ``"packnet-trim"``.
        scale_floor: of ``"median"``: ``"max"``, its scale is at least align_eps; ``"add"``, which is added.
        align_grad: of ``"median"``: ``"full"``, or ``"detached"``: the median of p is a constant.
        min_pixels: of ``"packnet-trim"``: an image with fewer valid pixels counts 0.
    """

    align: str = "none"
    align_eps: float = 1e-6
    scale_floor: str = "max"
    align_grad: str = "full"
    min_pixels: int = 100

    def __post_init__(self) -> None:
        one_of("align", self.align, ALIGNMENTS)
        set_number(self, "align_eps", low=0.0)
        one_of("scale_floor", self.scale_floor, ("max", "add"))
        one_of("align_grad", self.align_grad, ("full", "detached"))
        object.__setattr__(self, "min_pixels", check_whole("min_pixels", self.min_pixels, 0))
        for name, default, align in (
            ("scale_floor", "max", "median"),
            ("align_grad", "full", "median"),
            ("min_pixels", 100, "packnet-trim"),
        ):
            if self.align != align and getattr(self, name) != default:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} needs align={align!r}; got align={self.align!r}"
                )

    @property
    def alignment(self) -> Alignment:
        """All of it that counts: two terms with one alignment have one residual."""
        if self.align in ("none", "least-squares"):
            return Alignment(self.align)
        if self.align == "packnet-trim":
            return Alignment(self.align, self.align_eps, min_pixels=self.min_pixels)
        return Alignment(self.align, self.align_eps, self.scale_floor, self.align_grad)


@dataclass(frozen=True, kw_only=True)
class Pixel(_Aligned):
    """A mean over valid pixels of a penalty of the residual.

    Attributes:
        penalty: of the residual.
        trim: this part of the valid pixels, those with the largest |residual|, does not count: of n pixels
            floor((1 - trim) n) do. Pixels at the threshold share the places that are left.
        trim_over: ``"image"``, or ``"batch"``: one threshold for all images, with reduction ``"pixels"``.
        reduction: ``"pixels"``, sum/(N + eps) over the batch, or max(N, 1) where eps is 0; ``"images"``, the
            mean over the images of their means; ``"images-sum"``, the sum of these; ``"none"``, the images'
            means as they are.
        eps: of the divisor of ``"pixels"``.
        mask: ``"mask"``, or ``"abs_mask"``: the pixels of a mask of its own, where a call brings one.
        confidence: None, or the weight alpha of -ln c where a call brings a confidence c, by which the
            penalty is multiplied.

    Raises:
        ValueError: an axis has a value that is not listed above, or one that does not go with another.
    """

    penalty: Penalty = field(default_factory=Penalty)
    trim: float = 0.0
    trim_over: str = "image"
    reduction: str = "pixels"
    eps: float = 0.0
    mask: str = "mask"
    confidence: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("reduction", self.reduction, REDUCTIONS)
        one_of("trim_over", self.trim_over, ("image", "batch"))
        one_of("mask", self.mask, ("mask", "abs_mask"))
        set_number(self, "trim", low=0.0, high=0.99)
        set_number(self, "eps", low=0.0)
        if self.mask == "abs_mask" and (self.align != "none" or self.trim):
            raise ValueError(
                f"mask='abs_mask' needs align='none' and trim=0; got align={self.align!r} and "
                f"trim={self.trim}"
            )
        if self.penalty.kind in OF_PIXELS and (self.align != "none" or self.trim):
            raise ValueError(
                f"penalty {self.penalty.kind!r} needs align='none' and trim=0; got align={self.align!r} and "
                f"trim={self.trim}"
            )
        if self.trim and self.eps:
            raise ValueError(
                f"trim={self.trim} divides by the pixels it keeps: eps must be 0; got {self.eps}"
            )
        if self.trim_over == "batch" and self.reduction != "pixels":
            raise ValueError(f"trim_over='batch' needs reduction='pixels'; got reduction={self.reduction!r}")
        if self.confidence is not None:
            set_number(self, "confidence", low=0.0)
            if self.trim or self.penalty.kind in COUNTS:
                raise ValueError(
                    f"confidence={self.confidence} needs trim=0, and a penalty that counts each pixel once; "
                    f"got trim={self.trim} and penalty {self.penalty.kind!r}"
                )


@dataclass(frozen=True, kw_only=True)
class Gradient(_Aligned):
    """The multi-scale gradient of the residual.

    Attributes:
        gradient: its form.
        reduction: ``"pixels"``: of each level sum/(normaliser + eps) over the batch; ``"images"``: the mean
            over the images of such ratios, 0 for an image without; ``"none"``, these as they are.
        eps: added to the normaliser of each level.
        parts: whether each level's value and number of kept responses are reported.

    Raises:
        ValueError: a value out of range, or mask ``"centre"`` of a logarithm.
    """

    mask: ClassVar[str] = "mask"
    align: str = "mean"
    gradient: GradientSpec = field(default_factory=GradientSpec)
    reduction: str = "pixels"
    eps: float = 1e-6
    parts: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("reduction", self.reduction, ("pixels", "images", "none"))
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
        reduction: ``"pixels"``, over the batch; ``"images"``, the mean of the images' values;
            ``"images-sum"``, their sum; ``"none"``, these values as they are.

    Raises:
        ValueError: an axis has a value that is not listed above, or one that belongs to the other form.
    """

    mask: ClassVar[str] = "mask"
    align: ClassVar[str] = "none"
    alignment: ClassVar[Alignment] = NOT_ALIGNED
    form: str = "root"
    lam: float = 0.85
    alpha: float = 0.85
    scale: float = 1.0
    eps: float = 0.0
    unbiased: bool = False
    reduction: str = "pixels"

    def __post_init__(self) -> None:
        one_of("form", self.form, ("root", "plain"))
        one_of("reduction", self.reduction, REDUCTIONS)
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
    root: bool = True,
) -> Moments:
    """scale * sqrt(Var(l) + (1 - lam) * mean(l)^2 + eps) of l = ln(p + offset) - ln(g + offset) (SILog);
    without `root` that radicand, scale 1 and eps 0.
    """
    if not root and (scale != 1 or eps != 0):
        raise ValueError(f"root=False needs scale=1 and eps=0; got scale={scale!r}, eps={eps!r}")
    numbers = {"lam": lam, "scale": scale, "eps": eps}
    return Moments(
        name=name,
        weight_name=weight_name,
        domain=replace(domain, log=offset, floor=clamp),
        **numbers if root else {"form": "plain", "alpha": 1.0 - check_number("lam", lam, low=0.0, high=1.0)},
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
