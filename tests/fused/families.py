"""The losses of the covering matrix, as specs: every kind of term, alone and beside the others, in every
domain.

A family of `STRUCTURE` builds its spec from a `GradientSpec` and a reduction, one of `POINTWISE` from a
reduction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import depthloss as dl
from depthloss.losses import DepthLoss
from depthloss.spec import (
    IDENTITY,
    Absolute,
    DifferenceMoments,
    Domain,
    Gradient,
    GradientSpec,
    Group,
    LogMoments,
    LossSpec,
    Moments,
    Penalty,
    Pixel,
    Pointwise,
    Relative,
    Term,
)

CLAMPED = Domain("inverse", 1.1, 4.5)  # both bounds cut into the test images
DIFFERENCE = DifferenceMoments(name="ssi", alpha=0.85)
LOG = LogMoments(name="silog", lam=0.7, scale=3.0, domain=CLAMPED)
BERHU = Pointwise(name="berhu", kind="berhu", threshold=0.3, domain=Domain("shifted-inverse"))


def structure_terms(
    kinds: str,
    gradient: GradientSpec,
    reduction: str = "pixels",
    domain: Domain = IDENTITY,
    standardised: bool = True,
    eps: float = 1e-6,
) -> list[Term]:
    """The terms whose first letters are in `kinds`: absolute, relative, gradient."""
    shared = {"domain": domain, "eps": eps}
    terms = {
        "A": Absolute(name="absolute", reduction=reduction, **shared),
        "R": Relative(name="relative", reduction=reduction, **shared),
        "G": Gradient(
            name="gradient",
            align="mean" if standardised else "none",
            align_eps=eps,
            gradient=gradient,
            **shared,
        ),
    }
    return [terms[kind] for kind in kinds]


def _structure(
    kinds: str, statistics: str = "masked", positive_gt: bool = False, **options: object
) -> Callable:
    def build(gradient: GradientSpec, reduction: str) -> LossSpec:
        group = Group(tuple(structure_terms(kinds, gradient, reduction, **options)))
        return LossSpec((group,), statistics=statistics, positive_gt=positive_gt)

    return build


def _every_kind(log_var_bounds: tuple[float, float] | None) -> Callable:
    def build(gradient: GradientSpec, reduction: str) -> LossSpec:
        structure = Group(
            tuple(structure_terms("GRA", gradient, reduction, CLAMPED)), "structure", "structure"
        )
        scale = Group((DIFFERENCE, replace(LOG, reduction=reduction)), "scale", "scale", min_valid=30)
        return LossSpec((scale, structure, Group((BERHU,), "point", "point")), log_var_bounds=log_var_bounds)

    return build


def _with_structure(gradient: GradientSpec, reduction: str) -> LossSpec:
    pair = structure_terms("RG", gradient, reduction)
    absolute = Pixel(name="depth", mask="abs_mask", domain=CLAMPED, eps=1e-3, reduction=reduction)
    l2 = Pixel(name="mse", penalty=Penalty("l2"), reduction=reduction)
    log = Moments(name="plain", form="plain", domain=replace(CLAMPED, log=0.0), reduction=reduction)
    return LossSpec((Group((*pair, absolute, l2, DIFFERENCE, LOG, log)),))


STRUCTURE: dict[str, Callable[[GradientSpec, str], LossSpec]] = {
    "A+R+G": _structure("ARG"),
    "R+G": _structure("RG"),
    "A+G": _structure("AG"),
    "A+R": _structure("AR"),
    "R": _structure("R"),
    "G": _structure("G"),
    "plain G": _structure("G", standardised=False),
    "A+plain G": _structure("AG", standardised=False),
    "plain G of clamped depth": _structure("G", standardised=False, domain=CLAMPED),
    "sparse A+R+G": _structure("ARG", positive_gt=True),
    "R+G of depth": _structure("RG", domain=Domain("inverse"), eps=1e-8),
    "A+R+G of clamped depth": _structure("ARG", domain=CLAMPED),
    "all A+R+G": _structure("ARG", statistics="all"),
    "all R+G of depth": _structure("RG", statistics="all", domain=Domain("inverse", 0.5)),
    "scale-adaptive": lambda gradient, _: dl.ScaleAdaptiveLoss(gradient=gradient).spec,
    "scale-adaptive inverse": lambda gradient, _: (
        dl.ScaleAdaptiveLoss(use_inv_depth=True, gradient=gradient).spec
    ),
    "ssi-silog with G": lambda gradient, _: dl.SSISilogLoss(gradient_weight=0.2, gradient=gradient).spec,
    "adaptive-multi-domain": lambda gradient, _: dl.AdaptiveMultiDomainLoss(gradient=gradient).spec,
    "fixed-multi-domain": lambda gradient, _: (
        dl.FixedMultiDomainLoss(use_inv_depth=True, gradient=gradient).spec
    ),
    "R+G and several": _with_structure,
    "every kind": _every_kind(None),
    "every kind, Kendall": _every_kind((-0.5, 4.0)),
}


def _point(*terms: Term, **options: object) -> Callable[[str], LossSpec]:
    def build(reduction: str) -> LossSpec:
        chosen = [replace(t, reduction=reduction) if hasattr(t, "reduction") else t for t in terms]
        return LossSpec((Group(tuple(chosen)),), **options)

    return build


_ABSOLUTE = Absolute(name="absolute", eps=0.0)
LOG_DEPTH = Domain("inverse", 0.5, log=0.1, floor=0.6)
PIXELS = (
    Pixel(name="half", penalty=Penalty("half-l2"), domain=LOG_DEPTH),
    Pixel(name="depth", mask="abs_mask", domain=CLAMPED, eps=1e-3),
    Pixel(name="packnet", penalty=Penalty("berhu-packnet", 0.1), mask="abs_mask"),
    replace(BERHU, name="laina", eps=0.5),
)
MOMENTS = (
    DIFFERENCE,
    Moments(name="metric3d", form="plain", alpha=0.5, domain=LOG_DEPTH, unbiased=True),
    Moments(name="root", lam=0.3, scale=2.0, eps=1e-3, domain=Domain("shifted-inverse")),
    LOG,
)
POINTWISE: dict[str, Callable[[str], LossSpec]] = {
    "A": _point(_ABSOLUTE),
    "A and mse of clamped depth": _point(
        replace(_ABSOLUTE, domain=CLAMPED, eps=1e-6), Pointwise(name="mse", kind="mse", domain=CLAMPED)
    ),
    "sparse A, ssi and l1": _point(_ABSOLUTE, DIFFERENCE, Pointwise(name="l1", kind="l1"), positive_gt=True),
    "ssi": _point(DIFFERENCE),
    "silog": _point(LOG),
    "silog unbiased": _point(LogMoments(name="silog", unbiased=True, offset=0.01, eps=0.0)),
    "silog clamped and abs-rel": _point(
        LogMoments(name="silog", clamp=0.4, lam=1.0), Pointwise(name="abs_rel", kind="abs-rel")
    ),
    "all kinds": _point(_ABSOLUTE, replace(DIFFERENCE, alpha=0.0), LOG, BERHU, statistics="all"),
    "ssi-silog": lambda _: dl.SSISilogLoss(silog_scale=10.0).spec,
    "enhanced-ssi": lambda _: dl.EnhancedSSILoss().spec,
    "abs-rel packnet": _point(Pointwise(name="abs_rel", kind="abs-rel-packnet", domain=Domain("inverse"))),
    "berhu": _point(Pointwise(name="berhu", kind="berhu")),
    "berhu packnet": _point(Pointwise(name="berhu", kind="berhu-packnet", threshold=0.1)),
    "several pixel terms": _point(*PIXELS),
    "all several pixel terms": _point(*PIXELS, statistics="all"),
    "several moments": _point(*MOMENTS),
    "sparse several of both": _point(*PIXELS[:2], *MOMENTS[1:], positive_gt=True),
}
# Those with several pixel terms or moments.
SEVERAL = (
    "several pixel terms",
    "all several pixel terms",
    "several moments",
    "sparse several of both",
    "R+G and several",
)


def module(name: str) -> DepthLoss:
    """A family as a module; a gradient term has three levels."""
    levels = dl.GradientSpec(num_scales=3)
    spec = POINTWISE[name]("pixels") if name in POINTWISE else STRUCTURE[name](levels, "pixels")
    return DepthLoss(spec, weights(spec))


def weights(spec: LossSpec) -> tuple[float, ...]:
    """One weight per term and group, all different and none exact in binary."""
    return tuple(0.3 + 0.4 * i for i in range(spec.num_weights))


def log_vars(spec: LossSpec) -> tuple[float, ...]:
    """One log-variance per group; with three groups the first is outside the bounds of "every kind"."""
    return (-0.9, 0.3, 0.6)[-len(spec.groups) :] if spec.log_var_bounds else ()
