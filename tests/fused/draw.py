"""Random losses and inputs, all from the numbers of one generator."""

from __future__ import annotations

import random
from dataclasses import replace

import torch

import depthloss as dl
from depthloss.spec import PENALTIES, Absolute, Domain, Group, LossSpec, Moments, Penalty, Pixel, Term
from depthloss.spec.penalty import COUNTS, OF_PIXELS

from .. import cases
from . import aligned, families
from .cases import DTYPES, GRADIENT
from .compare import Inputs

DOMAINS = (Domain(), Domain("inverse"), Domain("inverse", 1.3, 3.1), Domain("inverse", None, 2.5))
REDUCTIONS = ("pixels", "images")


def _domain(rng: random.Random, log: bool) -> Domain:
    domain = rng.choice(DOMAINS)
    return replace(domain, log=rng.choice((0.0, 0.1)), floor=rng.choice((None, 0.5))) if log else domain


def _moments(rng: random.Random, name: str) -> Moments:
    form = rng.choice(("root", "plain"))
    numbers = (
        {"lam": rng.choice((0.0, 0.5, 1.0)), "scale": rng.choice((1.0, 10.0)), "eps": rng.choice((1e-8, 0.1))}
        if form == "root"
        else {"alpha": rng.choice((0.0, 0.85, 2.0))}
    )
    return Moments(
        name=name,
        domain=_domain(rng, rng.random() < 0.5),
        form=form,
        unbiased=rng.random() < 0.5,
        reduction=rng.choice(REDUCTIONS),
        **numbers,
    )


def _pixel(rng: random.Random, name: str) -> Pixel:
    kind = rng.choice(tuple(PENALTIES))
    return Pixel(
        name=name,
        domain=_domain(rng, kind not in OF_PIXELS and rng.random() < 0.3),
        penalty=Penalty(kind, *(0.2 for _ in PENALTIES[kind])),
        reduction=rng.choice(REDUCTIONS),
        eps=rng.choice((0.0, 1e-6, 0.5)),
        mask=rng.choice(("mask", "abs_mask")),
    )


def draw_spec(rng: random.Random) -> LossSpec:
    """One or more groups of any terms that a fused loss may hold."""
    gradient = dl.GradientSpec(**{axis: rng.choice(values) for axis, values in GRADIENT.items()})
    kinds = rng.choice(("", "A", "R", "G", "AR", "AG", "RG", "ARG", "GRA"))
    terms = families.structure_terms(
        kinds,
        gradient,
        rng.choice(REDUCTIONS),
        rng.choice(DOMAINS),
        "R" in kinds or rng.random() < 0.5,
        rng.choice((1e-6, 1e-2)),
    )
    return _beside(rng, terms)


def draw_aligned(rng: random.Random) -> LossSpec:
    """The same around terms of aligned maps, or of any penalty, trim and stencil."""
    terms = aligned.draw_terms(rng)
    if rng.random() < 0.3:
        terms.append(Absolute(name="absolute", domain=replace(terms[0].domain, log=None, floor=None)))
    return _beside(rng, terms)


def _beside(rng: random.Random, terms: list[Term]) -> LossSpec:
    """A loss of these terms and others, in any order and groups."""
    for i in range(rng.choice((0, 0, 1, 2))):
        terms.append(_moments(rng, f"moments{i}"))
    for i in range(rng.choice((0, 0, 1, 2)) or not terms):
        terms.append(_pixel(rng, f"pixel{i}"))
    rng.shuffle(terms)
    groups = []
    while terms:
        size, name = rng.randint(1, len(terms)), f"group{len(groups)}"
        groups.append(Group(tuple(terms[:size]), name, name, rng.choice((0, 50))))
        terms = terms[size:]
    return LossSpec(
        tuple(groups),
        statistics=rng.choice(("masked", "masked", "all")),
        log_var_bounds=rng.choice((None, (-1.0, 1.5))),
        positive_gt=rng.random() < 0.3,
    )


def draw_call(rng: random.Random, spec: LossSpec) -> tuple[LossSpec, bool]:
    """The loss, sometimes of [B] or with confidences where it has such a form; whether pixels get weights."""
    batch = any(isinstance(t, Pixel) and t.trim_over == "batch" for t in spec.terms)
    by_image = rng.random() < 0.15 and spec.statistics == "masked" and not batch
    confident = rng.random() < 0.2

    def changed(t: Term) -> Term:
        if by_image:
            t = replace(t, reduction="none")
        if confident and isinstance(t, Pixel) and not t.trim and t.penalty.kind not in COUNTS:
            t = replace(t, confidence=rng.choice((0.05, 0.3)))
        return t

    groups = tuple(replace(g, terms=tuple(map(changed, g.terms))) for g in spec.groups)
    bounds = None if by_image else spec.log_var_bounds
    spec = replace(spec, groups=groups, log_var_bounds=bounds)
    try:
        spec.check_weight()
    except ValueError:  # It does not go with this loss.
        return spec, False
    return spec, rng.random() < 0.35


def draw_inputs(rng: random.Random, spec: LossSpec, weighted: bool, device: str = "cpu") -> Inputs:
    """Maps of any size, with masks of any density; pixels that may not be read are NaN."""
    h, w = (rng.choice((*range(1, 41), 16, 32)) for _ in range(2))
    b = rng.choice((0, 1, 1, 2, 3)) if h * w < 500 else 1
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    pred, gt = cases.maps(torch.float64, (b, 1, h, w), rng.getrandbits(32))
    masks = []
    for _ in range(2):
        density = rng.choice((None, 0.0, 0.1, 0.5, 0.9, 1.0))
        masks.append(None if density is None else torch.rand(pred.shape, generator=generator) < density)
    if spec.positive_gt and spec.statistics == "masked":
        hole = torch.rand(gt.shape, generator=generator)
        gt = gt.masked_fill(hole < 0.2, -1.0).masked_fill(hole < 0.1, torch.inf)
    if masks[0] is not None and spec.statistics == "masked":
        hole = ~masks[0] if masks[1] is None else ~masks[0] & ~masks[1]
        pred, gt = (x.masked_fill(hole, torch.nan) for x in (pred, gt))
    dtypes = rng.choice(list(DTYPES.values()))
    pred, gt = (x.to(d) for x, d in zip((pred, gt), dtypes, strict=True))
    uniform = lambda: torch.rand(pred.shape, generator=generator)  # noqa: E731
    weight = (2 * uniform()).masked_fill(uniform() < 0.2, 0.0).to(dtypes[1]) if weighted else None
    confidence = (2 * uniform() - 0.1).to(dtypes[0]) if spec.confidence else None
    given = (pred, gt, *masks, weight, confidence)
    return Inputs(*(x if x is None else x.to(device) for x in given))
