"""Inputs that are easy to get wrong, one by one, against the reference."""

from __future__ import annotations

import pytest
import torch

import depthloss as dl
from depthloss import dispatch, spec
from tests import cases
from tests.fused import precision

from .engine import DEVICE, Parameters, engine


def both(loss, pred, gt, mask, **masks):
    """(value, gradient) of the reference in float64 and of the kernels."""
    results = []
    for backend, dtype, device in (("reference", torch.float64, "cpu"), ("triton", pred.dtype, DEVICE)):
        p = pred.detach().to(device, dtype, copy=True).requires_grad_()
        there = {name: x.to(device) for name, x in masks.items()}
        with dl.use_backend(backend):
            value = loss(p, gt.to(device, dtype), mask.to(device), **there)
        value.backward()
        results.append((value.detach().double().cpu(), p.grad.double().cpu()))
    return results


@pytest.mark.parametrize("gradient_weight", [0.0, 0.2])
def test_a_group_that_is_left_out_leaves_out_its_nan(gradient_weight):
    pred, gt = cases.maps(torch.float32, (1, 1, 12, 14))
    mask = torch.zeros(pred.shape, dtype=torch.bool)
    mask[..., :6, :14] = True  # 84 of the 100 pixels that it wants
    pred[0, 0, 2, 3] = torch.nan
    (value, grad), (got, got_grad) = both(dl.SSISilogLoss(gradient_weight=gradient_weight), pred, gt, mask)
    assert value == got == 0 and not grad.any() and not got_grad.any()


@pytest.mark.parametrize("shape", [(3, 1, 5, 7), (9, 1, 8, 8), (5, 1, 13, 11)])
def test_silog_of_a_constant_ratio(shape):
    rng = torch.Generator().manual_seed(shape[0])
    gt = torch.rand(shape, generator=rng) + 0.3
    mask = torch.rand(shape, generator=rng) < torch.rand(shape[0], 1, 1, 1, generator=rng)
    (_, _), (got, got_grad) = both(dl.SILogLoss(lam=1.0, eps=0.0), 1.7 * gt, gt, mask)
    assert 0 <= got < 1e-5 and got_grad.isfinite().all()


@pytest.mark.parametrize("n", [41, 47, 83, 94, 97])
def test_a_constant_prediction(n):
    """Its mean is that constant, and so its z is 0, for every number of pixels."""
    _, gt = cases.maps(torch.float32, (1, 1, 10, 10))
    mask = (torch.arange(100) < n).reshape(1, 1, 10, 10)
    (value, grad), (got, got_grad) = both(dl.G2Loss(num_scales=2), torch.full_like(gt, 80.0), gt, mask)
    assert got.item() == pytest.approx(value.item(), rel=1e-6)
    torch.testing.assert_close(got_grad, grad, rtol=0, atol=1e-5 * grad.abs().max().item())


def test_absolute_pixels_outside_the_mask_get_no_share_of_the_gradient_term():
    """Mask centre reads invalid pixels; behind a conversion to depth they are a constant."""
    pred, gt = cases.maps(torch.float64, (2, 1, 17, 22))
    loss = dl.G2Loss("document")
    loss.accept_inverse_depth()
    mask, abs_mask = cases.mask("70%", pred.shape), torch.ones_like(pred, dtype=torch.bool)
    (value, grad), (got, got_grad) = both(loss, pred, gt, mask, abs_mask=abs_mask)
    assert got.item() == pytest.approx(value.item(), rel=1e-12)
    torch.testing.assert_close(got_grad, grad, rtol=0, atol=1e-10 * grad.abs().max().item())


@pytest.mark.parametrize("mask", ["residual", "centre", "support"])
def test_a_small_residual_does_not_cancel(mask):
    rng = torch.Generator().manual_seed(0)
    gt = 80.0 + torch.rand(1, 1, 24, 32, generator=rng)
    pred = gt + 1e-3 * torch.rand(gt.shape, generator=rng)
    loss = dl.MultiScaleGradientLoss(
        gradient=dl.GradientSpec(mask=mask, downsample="average", border="replicate", num_scales=3)
    )
    valid = torch.rand(gt.shape, generator=rng) < 0.8
    (value, grad), (got, got_grad) = both(loss, pred, gt, valid)
    assert got.item() == pytest.approx(value.item(), rel=2e-6)
    torch.testing.assert_close(got_grad, grad, rtol=0, atol=1e-5 * grad.abs().max().item())


@pytest.mark.parametrize("first_row", ["like the others", "far off", "invalid"])
@pytest.mark.parametrize(
    "loss", [dl.SSILoss(alpha=0.0), dl.SILogLoss(lam=1.0, eps=0.0)], ids=["ssi", "silog"]
)
def test_a_small_spread_does_not_cancel(loss, first_row, monkeypatch):
    """Beside a large mean, of which a program knows no more than the first values that it reads."""
    monkeypatch.setattr(engine, "parameters", lambda *_: Parameters(tile=(64, 16), step=4))
    rng = torch.Generator().manual_seed(0)
    pred, gt = 150.0 + 0.01 * torch.rand(1, 1, 70, 16, generator=rng), torch.full((1, 1, 70, 16), 64.0)
    mask = torch.rand(pred.shape, generator=rng) < 0.8
    if first_row == "far off":
        pred[..., 0, 3], mask[..., 0, 3] = 1e4, True
    elif first_row == "invalid":
        pred[..., 0, :], mask[..., 0, :] = 0.0, False
    (value, grad), (got, got_grad) = both(loss, pred, gt, mask)
    # A ratio rounds to 2^-24, which is 2^-9 of the spread of such ratios, at random.
    assert got.item() == pytest.approx(value.item(), rel=1e-5 if isinstance(loss, dl.SSILoss) else 1e-3)
    torch.testing.assert_close(got_grad, grad, rtol=0, atol=2e-3 * grad.abs().max().item())


def test_log_variances_alone_have_no_second_derivative_either():
    pred, gt = (x.to(DEVICE) for x in cases.maps(torch.float32, (1, 1, 12, 14)))
    loss = dl.AdaptiveMultiDomainLoss().to(DEVICE)
    with dl.use_backend("triton"):
        value = loss(pred, gt)
    (first,) = torch.autograd.grad(value, loss.log_var_scale, create_graph=True)
    with pytest.raises(RuntimeError, match="backend='triton' has no second derivatives"):
        torch.autograd.grad(first, loss.log_var_scale)


def test_log_variances_on_another_device_are_named():
    pred, gt = (x.to(DEVICE) for x in cases.maps(torch.float32, (1, 1, 12, 14)))
    loss = dl.AdaptiveMultiDomainLoss().to("meta")
    with (
        dl.use_backend("triton"),
        pytest.raises(ValueError, match="log-variances must be on pred's device; got meta"),
    ):
        loss(pred, gt)


def test_a_batch_without_pixels_still_has_gradients_of_its_log_variances():
    """As on a rank that got no image: not a program of the backward runs."""
    loss = dl.AdaptiveMultiDomainLoss().to(DEVICE)
    pred = torch.rand(0, 1, 8, 8, device=DEVICE, requires_grad=True)
    with dl.use_backend("triton"):
        loss(pred, torch.rand(0, 1, 8, 8, device=DEVICE)).backward()
    assert loss.log_var_structure.grad == 0 and loss.log_var_scale.grad == 0 and pred.grad.shape == pred.shape


def test_the_size_of_the_batch_is_no_constant_of_a_kernel():
    from depthloss.kernels.plan import make_plan
    from depthloss.kernels.triton import launch, table

    loss, constants = dl.G2Loss("document"), []
    for b in (1, 3, 16):
        x = torch.empty(b, 352, 1216, device="meta")
        plan, parameters = make_plan(loss.spec), table.Parameters()
        run = launch.Forward(
            plan, parameters, x, x, None, None, loss.weights(0.0, 0), (), torch.float32, True
        )
        steps, *_ = launch.backward_launches(
            plan, parameters, x, run.codes, run.coefficients, x, x, None, None, torch.float32
        )
        constants.append([step.constants for step in (run.first, *run.middle, run.last(True, True), *steps)])
    assert constants[0] == constants[1] == constants[2]


def test_gates_that_open_at_one_pixel():
    """A group that wants one pixel is left out without any, its absolute term included."""
    terms = (spec.Absolute(name="a"),)
    loss = spec.LossSpec((spec.Group(terms, min_valid=1),))
    x = torch.rand(1, 8, 8, device=DEVICE)
    empty, full = torch.zeros_like(x, dtype=torch.bool), torch.ones_like(x, dtype=torch.bool)
    for backend in ("reference", "triton"):
        value, _ = dispatch.evaluate(x, x + 1, empty, full, loss, (1.0, 1.0), backend=backend)
        assert value == 0


@pytest.mark.parametrize(
    "terms",
    [
        (spec.Relative(name="a"), spec.Relative(name="b")),
        (spec.Gradient(name="a", domain=spec.DEPTH), spec.Relative(name="b")),
        (spec.Relative(name="a", eps=1e-6), spec.Gradient(name="b", align_eps=1e-8)),
        (spec.Relative(name="a"), spec.Gradient(name="b", align="none")),
    ],
    ids=["two relative terms", "two domains", "two eps", "standardised or not"],
)
def test_what_fits_no_plan_runs_on_the_reference(terms):
    loss = spec.LossSpec((spec.Group(terms),))
    x = torch.rand(1, 8, 8)
    assert not loss.fused
    value, _ = dispatch.evaluate(x, x + 1, None, None, loss, (1.0,) * 3)
    assert value.isfinite()
    with pytest.raises(RuntimeError, match="this loss has no fused form on it"):
        dispatch.evaluate(x, x + 1, None, None, loss, (1.0,) * 3, backend="triton")


@precision.case
def test_what_float32_easily_loses(name):
    precision.check("triton", name, DEVICE)
