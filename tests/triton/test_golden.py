"""The golden numbers through the kernels: every file's smallest shape in float64 in every run, which is the
tightest; the other shapes and float32 in the long one.
"""

from __future__ import annotations

import pytest
import torch

from .. import test_golden as golden
from ..golden_cases import Case, params
from .engine import engine

assert engine.unavailable() is None  # else this module was skipped
SMALLEST = (2, 1, 17, 23)
both_dtypes = pytest.mark.parametrize(
    "dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.full)], ids=["float64", "float32"]
)


def fused_pairs() -> list:
    return [pair for pair in golden._pairs() if "triton" in pair.values[0].build(pair.values[1]).spec.fused]


def in_turn(parameters: list) -> list:
    """Parameters whose case has the smallest shape as they are, the others for the full run."""

    def marks(parameter):
        case = next(value for value in parameter.values if isinstance(value, Case))
        return () if case["pred"].shape == SMALLEST else pytest.mark.full

    return [pytest.param(*p.values, id=p.id, marks=marks(p)) for p in parameters]


@both_dtypes
@pytest.mark.parametrize("row, case", in_turn(fused_pairs()))
def test_golden(row, case, dtype):
    golden.test_golden(row, case, dtype, "triton")


@both_dtypes
@pytest.mark.parametrize("case", in_turn(params("scale_adaptive_quickstart", lambda c: c["mask"].all())))
def test_adaptive_multi_domain_holds_the_structure_loss(case, dtype):
    golden.test_adaptive_multi_domain_holds_the_structure_loss(case, dtype, "triton")


def test_every_fused_loss_with_golden_numbers_is_here():
    here = {pair.values[0].file for pair in fused_pairs()}
    assert here == {row.file for row in golden.ROWS}
    smallest = {p.values[0].file for p in fused_pairs() if p.values[1]["pred"].shape == SMALLEST}
    assert smallest == here
