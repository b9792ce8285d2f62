"""Random losses, weights, masks, sizes and tiles: the kernels against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import depthloss as dl
from depthloss.spec import DifferenceMoments, Domain, Group, LogMoments, LossSpec, Pointwise

from .. import cases
from . import families
from .cases import DEVICE, DTYPES, GRADIENT, Parameters, engine, geometry
from .compare import Inputs, assert_agrees, evaluate, near_kinks

DOMAINS = (Domain(), Domain("inverse"), Domain("inverse", 1.3, 3.1), Domain("inverse", None, 2.5))
KINDS = ("l1", "mse", "abs-rel", "abs-rel-packnet", "berhu", "berhu-packnet")


@st.composite
def specs(draw) -> LossSpec:
    """One to three groups of any terms that a spec may hold."""
    gradient = dl.GradientSpec(**{axis: draw(st.sampled_from(values)) for axis, values in GRADIENT.items()})
    domain, reduction = draw(st.sampled_from(DOMAINS)), draw(st.sampled_from(("pixels", "images")))
    kinds = draw(st.sampled_from(("", "A", "R", "G", "AR", "AG", "RG", "ARG", "GRA")))
    standardised = "R" in kinds or draw(st.booleans())
    terms = families.structure_terms(
        kinds, gradient, reduction, domain, standardised, draw(st.sampled_from((1e-6, 1e-2)))
    )
    if draw(st.booleans()):
        terms.append(
            DifferenceMoments(name="ssi", alpha=draw(st.floats(0, 2)), domain=draw(st.sampled_from(DOMAINS)))
        )
    if draw(st.booleans()):
        log = LogMoments(
            name="silog",
            lam=draw(st.floats(0, 1)),
            unbiased=draw(st.booleans()),
            reduction=draw(st.sampled_from(("pixels", "images"))),
            offset=draw(st.sampled_from((0.0, 0.1))),
            clamp=draw(st.sampled_from((None, 0.5))),
            domain=draw(st.sampled_from(DOMAINS)),
        )
        terms.append(log)
    if draw(st.booleans()) or not terms:
        terms.append(
            Pointwise(name="point", kind=draw(st.sampled_from(KINDS)), domain=draw(st.sampled_from(DOMAINS)))
        )
    groups, terms = [], draw(st.permutations(terms))
    while terms:
        size = draw(st.integers(1, len(terms)))
        name = f"group{len(groups)}"
        groups.append(Group(tuple(terms[:size]), name, name, draw(st.sampled_from((0, 50)))))
        terms = terms[size:]
    return LossSpec(
        tuple(groups),
        statistics=draw(st.sampled_from(("masked", "masked", "all"))),
        log_var_bounds=draw(st.sampled_from((None, None, (-1.0, 1.5)))),
        positive_gt=draw(st.booleans()),
    )


@st.composite
def inputs(draw) -> Inputs:
    """Maps of any size, with masks of any density; invalid pixels hold something that may not be read."""
    sizes = st.one_of(st.integers(1, 40), st.sampled_from((8, 16, 32)))
    shape = (draw(st.integers(0, 3)), 1, draw(sizes), draw(sizes))
    assume(shape[0] * shape[2] * shape[3] <= 1500)
    seed, dtype = draw(st.integers(0, 2**16)), draw(st.sampled_from(list(DTYPES.values())))
    rng = torch.Generator().manual_seed(seed)
    pred, gt = (x.to(d) for x, d in zip(cases.maps(torch.float64, shape, seed), dtype, strict=True))
    densities = st.sampled_from((None, 0.0, 0.1, 0.5, 0.9, 1.0))
    masks = [
        None if d is None else torch.rand(shape, generator=rng) < d
        for d in (draw(densities), draw(densities))
    ]
    if masks[0] is not None:
        pred = pred.masked_fill(~masks[0] if masks[1] is None else ~masks[0] & ~masks[1], torch.nan)
    return Inputs(*(x if x is None else x.to(DEVICE) for x in (pred, gt, *masks)))


tiles = st.builds(
    Parameters,
    tile=st.tuples(st.sampled_from((16, 32)), st.sampled_from((16, 64))),
    strip_rows=st.sampled_from((3, 8, 16)),
    strips=st.sampled_from((1, 2)),
    rows=st.sampled_from((3, 8, 16)),
    columns=st.sampled_from((16, 32)),
)
weights = st.lists(st.one_of(st.sampled_from((0.0, 1.0)), st.floats(-2, 2, width=32)), min_size=9, max_size=9)


def hold(spec, given_inputs, numbers, log_vars, parameters, programs):
    if spec.statistics == "all":
        given_inputs = given_inputs._replace(pred=given_inputs.pred.nan_to_num(nan=0.7))
    near = near_kinks(spec, given_inputs)
    assume(not near.any())
    arguments = spec, tuple(numbers[: spec.num_weights]), tuple(log_vars[: len(spec.groups)])
    if spec.log_var_bounds is None:
        arguments = *arguments[:2], ()
    with pytest.MonkeyPatch.context() as patch:
        if parameters is not None:
            patch.setattr(engine, "parameters", lambda device, height, width: parameters)
        patch.setattr(geometry, "MAX_PROGRAMS", programs)
        result = evaluate("triton", given_inputs, *arguments)
    oracle = evaluate("reference", given_inputs.double(), *arguments)
    eager = evaluate("reference", given_inputs, *arguments)
    assert_agrees(spec, result, eager, oracle)


EVERYTHING = given(
    specs(),
    inputs(),
    weights,
    st.lists(st.floats(-1.5, 2, width=32), min_size=4, max_size=4),
    st.one_of(st.none(), tiles),
    st.integers(1, 4),
)
QUIET = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)


@settings(QUIET, max_examples=30)
@EVERYTHING
def test_agrees_with_the_reference(spec, given_inputs, numbers, log_vars, parameters, programs):
    hold(spec, given_inputs, numbers, log_vars, parameters, programs)


@pytest.mark.full
@settings(QUIET, max_examples=400)
@EVERYTHING
def test_agrees_with_the_reference_many_times(spec, given_inputs, numbers, log_vars, parameters, programs):
    hold(spec, given_inputs, numbers, log_vars, parameters, programs)
