"""Random losses, weights, masks, sizes and tiles: the kernels against the reference.

Hypothesis draws a seed, and all else follows from it: drawn one by one, 30 examples resemble each other.
"""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

import depthloss as dl
from depthloss.spec import DifferenceMoments, Domain, Group, LogMoments, LossSpec, Pointwise

from .. import cases
from . import families
from .cases import DEVICE, DTYPES, GRADIENT, Parameters, engine, geometry
from .compare import Inputs, assert_agrees, evaluate, near_kinks

DOMAINS = (Domain(), Domain("inverse"), Domain("inverse", 1.3, 3.1), Domain("inverse", None, 2.5))
KINDS = ("l1", "mse", "abs-rel", "abs-rel-packnet", "berhu", "berhu-packnet")
REDUCTIONS = ("pixels", "images")


def draw_spec(rng: random.Random) -> LossSpec:
    """One or more groups of any terms that a spec may hold."""
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
    if rng.random() < 0.4:
        alpha = rng.choice((0.0, 0.85, 2.0))
        terms.append(DifferenceMoments(name="ssi", alpha=alpha, domain=rng.choice(DOMAINS)))
    if rng.random() < 0.4:
        log = LogMoments(
            name="silog",
            lam=rng.choice((0.0, 0.5, 1.0)),
            unbiased=rng.random() < 0.5,
            reduction=rng.choice(REDUCTIONS),
            offset=rng.choice((0.0, 0.1)),
            clamp=rng.choice((None, 0.5)),
            domain=rng.choice(DOMAINS),
        )
        terms.append(log)
    if rng.random() < 0.4 or not terms:
        terms.append(Pointwise(name="point", kind=rng.choice(KINDS), domain=rng.choice(DOMAINS)))
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


def draw_inputs(rng: random.Random, spec: LossSpec) -> Inputs:
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
        gt = gt.masked_fill(torch.rand(gt.shape, generator=generator) < 0.2, -1.0)
    if masks[0] is not None and spec.statistics == "masked":
        hole = ~masks[0] if masks[1] is None else ~masks[0] & ~masks[1]
        pred, gt = (x.masked_fill(hole, torch.nan) for x in (pred, gt))
    pred, gt = (x.to(d) for x, d in zip((pred, gt), rng.choice(list(DTYPES.values())), strict=True))
    return Inputs(*(x if x is None else x.to(DEVICE) for x in (pred, gt, *masks)))


def draw_tiles(rng: random.Random) -> Parameters:
    return Parameters(
        tile=(rng.choice((16, 32)), rng.choice((16, 64))),
        strip_rows=rng.choice((3, 8, 16)),
        strips=rng.choice((1, 2)),
        rows=rng.choice((3, 8, 16)),
        columns=rng.choice((16, 32)),
    )


def hold(seed: int) -> None:
    rng = random.Random(seed)
    spec = draw_spec(rng)
    inputs = draw_inputs(rng, spec)
    weights = tuple(rng.choice((0.0, 1.0, rng.uniform(0.1, 2.0))) for _ in range(spec.num_weights))
    log_vars = tuple(rng.uniform(-1.5, 2.0) for _ in spec.groups) if spec.log_var_bounds else ()
    arguments = inputs, spec, weights, log_vars
    assume(not near_kinks(spec, inputs).any())
    with pytest.MonkeyPatch.context() as patch:
        if rng.random() < 0.7:
            parameters = draw_tiles(rng)
            note(str(parameters))
            patch.setattr(engine, "parameters", lambda device, height, width: parameters)
        patch.setattr(geometry, "MAX_PROGRAMS", rng.randint(1, 4))
        result = evaluate("triton", *arguments)
    note(f"{[x if x is None else (x.shape, x.dtype) for x in inputs]}\n{weights}\n{log_vars}\n{spec}")
    oracle = evaluate("reference", inputs.double(), *arguments[1:])
    assert_agrees(spec, result, evaluate("reference", *arguments), oracle)


SEEDS = st.integers(0, 2**32 - 1)
QUIET = settings(deadline=None, derandomize=True, database=None)


@settings(QUIET, max_examples=30)
@given(SEEDS)
def test_agrees_with_the_reference(seed):
    hold(seed)


@pytest.mark.full
@settings(QUIET, max_examples=500)
@given(SEEDS)
def test_agrees_with_the_reference_many_times(seed):
    hold(seed)
