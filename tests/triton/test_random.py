"""Random losses, weights, masks, sizes and tiles: the kernels against the reference.

Hypothesis draws a seed, and all else follows from it: drawn one by one, examples resemble each other.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

from ..fused.compare import assert_agrees, evaluate, near_kinks
from ..fused.draw import draw_call, draw_inputs, draw_spec
from .engine import DEVICE, Parameters, engine, geometry


def draw_tiles(rng: random.Random) -> Parameters:
    return Parameters(
        tile=(rng.choice((16, 32)), rng.choice((16, 64))),
        step=rng.choice((1, 4, 16)),
        strip_rows=rng.choice((3, 8, 16)),
        strips=rng.choice((1, 2)),
        rows=rng.choice((3, 8, 16)),
        columns=rng.choice((16, 32)),
    )


def hold(seed: int) -> None:
    rng = random.Random(seed)
    spec, weighted = draw_call(rng, draw_spec(rng))
    inputs = draw_inputs(rng, spec, weighted, DEVICE)
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


@settings(QUIET, max_examples=8)
@given(SEEDS)
def test_agrees_with_the_reference(seed):
    hold(seed)


@pytest.mark.full
@settings(QUIET, max_examples=500)
@given(SEEDS)
def test_agrees_with_the_reference_many_times(seed):
    hold(seed)
