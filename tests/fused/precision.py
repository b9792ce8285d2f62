"""Float32 inputs whose loss and gradient a float32 evaluation easily loses, against the float64 reference."""

from __future__ import annotations

import itertools

import pytest
import torch

from depthloss.spec import Gradient, GradientSpec, Group, LossSpec, Penalty, Pixel

from .. import cases
from .compare import Inputs, evaluate

FORWARD = GradientSpec(stencil="forward", mask="pair", downsample="strided", border="valid", num_scales=2)


def _fit(align: str, exponent: int, weighted: bool) -> tuple[LossSpec, Inputs]:
    """A fit of depths in units of 2^-exponent, whose squares are beyond float32."""
    p, g = (x * 2.0**exponent for x in cases.maps(torch.float32, (2, 1, 70, 19)))
    terms = Pixel(name="data", align=align), Gradient(name="gradient", align=align, gradient=FORWARD)
    return LossSpec((Group(terms),)), Inputs(p, g, weight=0.5 + p / p.max() if weighted else None)


def _barron(alpha: float) -> tuple[LossSpec, Inputs]:
    """A residual of 10,000 scales, where the logarithm of the penalty is large."""
    g = 1.0 + torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    term = Pixel(name="pixel", penalty=Penalty("barron", alpha, 1e-4))
    return LossSpec((Group((term,)),)), Inputs(2.0 * g, g)


FITS = {
    f"{align} 2^{exponent}{' weighted' * weighted}": _fit(align, exponent, weighted)
    for align, exponent, weighted in itertools.product(
        ("least-squares", "packnet-trim"), (100, -80), (False, True)
    )
}
BARRON = {f"barron {alpha}": _barron(alpha) for alpha in (-0.5, 0.2, 0.9, 1.0, 1.8)}
case = pytest.mark.parametrize("name", [*FITS, *BARRON])


def check(backend: str, name: str, device: str = "cpu") -> None:
    """Loss and gradient are right to a few roundings of float32."""
    spec, inputs = {**FITS, **BARRON}[name]
    inputs = inputs.to(device)
    weights = (1.0,) * spec.num_weights
    found = evaluate(backend, inputs, spec, weights)
    expected = evaluate("reference", inputs.double(), spec, weights)
    for x, y, allowed in ((found.total, expected.total, 1e-6), (found.grad, expected.grad, 1.5e-6)):
        assert y.isfinite().all() and y.any()
        assert (x.double() - y).abs().max() <= allowed * y.abs().max(), name
