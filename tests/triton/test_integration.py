"""The kernels inside PyTorch: autograd, launches and memory, autocast, copies, errors."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch

import depthloss as dl

from .. import cases
from ..fused.compare import evaluate
from .engine import DEVICE, engine
from .test_exact import FUSED, Inputs, on_device, run

SHAPE = (1, 1, 9, 13)
# Batch, height, width that the speed bars are about.
BARS = [(4, 384, 640), (8, 192, 640), (16, 352, 1216), (1, 1024, 2048)]
SINGLE = [name for name in FUSED if "progressive" not in name]  # Those evaluate each scale.


@pytest.fixture
def launches(monkeypatch):
    """The names of the kernels that would have been launched; none is."""
    names = []
    monkeypatch.setattr(engine.launch.Launch, "run", lambda self: names.append(self.kernel.__name__))
    return names


@pytest.fixture
def maps():
    pred, gt = cases.maps(torch.float32, SHAPE)
    return on_device(pred, gt, cases.mask("70%", SHAPE))


@pytest.mark.parametrize("shape", (SHAPE, (1, 9, 13)), ids=str)
def test_a_gradient_may_be_changed_in_place(maps, shape):
    loss, (pred, gt, mask) = dl.G2Loss(backend="triton"), (x.detach().view(shape) for x in maps)
    pred.requires_grad_()
    expected = 2 * torch.autograd.grad(loss(pred, gt, mask), pred)[0]
    gradient = torch.autograd.grad(loss(pred, gt, mask), pred, create_graph=True)[0]
    assert torch.equal(gradient.mul_(2), expected)


SELECTIONS = {
    "affine-invariant": 2,
    "affine-invariant trimmed": 4,
    "affine-invariant of the batch": 4,
    "ssi-trim": 3,
}


@pytest.mark.parametrize("name", SINGLE)
def test_launches(name, launches, maps):
    """At most four forward and two backward, whatever the loss; a conversion or a combination costs none.
    Exact medians of float32 take two more, a trim beside them two again, a trim alone three.
    """
    loss = cases.LOSSES[name]().to(DEVICE)
    pred = maps[0].requires_grad_()
    with dl.use_backend("triton"):
        value = loss(pred, *maps[1:])
        forward = len(launches)
        value.backward()
    selections = launches.count("select") + launches.count("select_kept")
    assert selections == SELECTIONS.get(name, 0)
    assert 2 <= forward - selections <= 4 and 1 <= len(launches) - forward <= 2, launches


@pytest.mark.parametrize("name", SINGLE)
def test_saved_bytes(name):
    spec = cases.LOSSES[name]().spec
    for b, h, w in BARS:
        numbers = engine.coefficient_count(b) * 4
        assert engine.code_count(spec, b, h, w) + numbers <= 2.5 * b * h * w


@pytest.mark.parametrize("mask", ("residual", "centre", "support"))
@pytest.mark.parametrize("downsample", ("nearest", "average", "bilinear"))
def test_saved_bytes_of_every_gradient_term(mask, downsample):
    for levels in range(1, 7):
        loss = dl.G2Loss(gradient=dl.GradientSpec(mask=mask, downsample=downsample, num_scales=levels))
        for b, h, w in BARS:
            assert 2.0 < engine.code_count(loss.spec, b, h, w) / (b * h * w) <= 2.5


@pytest.mark.parametrize("name", ["g2 document", "berhu"])
def test_without_a_gradient_nothing_is_saved(name, maps, monkeypatch):
    loss = cases.LOSSES[name]()
    pred, gt, mask = (x[:, 0] for x in maps)
    arguments = pred, gt, mask, None, loss.spec, loss.weights(0.0, 0), (), None, torch.float32
    total, terms, codes, coefficients = engine.forward(*arguments, False)
    assert codes.numel() == coefficients.numel() == 0
    expected = engine.forward(*arguments, True)
    assert torch.equal(total, expected[0]) and torch.equal(terms, expected[1]) and expected[3].numel()
    forward, asked = engine.forward, []
    monkeypatch.setattr(engine, "forward", lambda *a: asked.append(a[-1]) or forward(*a))
    with dl.use_backend("triton"):
        assert torch.equal(loss(*maps), total)
        with torch.no_grad():
            loss(maps[0].requires_grad_(), *maps[1:])
        loss(*maps).backward()
    assert asked == [False, False, True]


def test_log_variances_alone(maps, launches):
    """A prediction without a gradient: no codes, no launch in the backward, and still the log-variances'."""
    pred, gt, mask = maps
    loss = dl.AdaptiveMultiDomainLoss(min_valid=0).to(DEVICE)
    with dl.use_backend("triton"):
        value = loss(pred, gt, mask)
    assert value.requires_grad
    forward = len(launches)
    value.backward(torch.tensor(2.0, device=DEVICE))
    assert len(launches) == forward and loss.log_var_scale.grad.shape == ()


def test_log_variances_alone_have_the_same_gradient(maps):
    loss = dl.AdaptiveMultiDomainLoss(min_valid=0).to(DEVICE)
    found = []
    for pred in (maps[0].clone().requires_grad_(), maps[0]):
        with dl.use_backend("triton"):
            (3.0 * loss(pred, *maps[1:])).backward()
        found.append([p.grad.clone() for p in loss.parameters()])
        loss.zero_grad()
    assert found[0] == found[1] and all(found[0])


@pytest.mark.parametrize("bound", (0, 1))
def test_a_log_variance_beyond_its_bounds(bound, maps):
    """The bound counts, and the gradient leads back."""
    low, high = -0.5, 0.5
    loss = dl.AdaptiveMultiDomainLoss(min_valid=0, log_var_bounds=(low, high)).double()
    numbers = loss.spec, loss.weights(0.0, 0)
    inputs = Inputs(*maps).double()
    beyond = (low - 2.0, high + 3.0)[bound]
    found = evaluate("triton", inputs, *numbers, (beyond, 0.1))
    expected = evaluate("reference", inputs, *numbers, (beyond, 0.1))
    inside = evaluate("triton", inputs, *numbers, ((low, high)[bound], 0.1))
    assert torch.equal(found.total, inside.total) and torch.equal(found.log_vars, inside.log_vars)
    torch.testing.assert_close(found.log_vars, expected.log_vars, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["scale-adaptive", "adaptive-multi-domain"])
def test_grad_output_scales_the_gradient(name, maps):
    pred, gt, mask = maps
    loss = cases.LOSSES[name]().to(DEVICE)

    def gradients(grad_output: torch.Tensor) -> list[torch.Tensor]:
        p = pred.clone().requires_grad_()
        with dl.use_backend("triton"):
            value = loss(p, gt, mask)
        return list(torch.autograd.grad(value, [p, *loss.parameters()], grad_output))

    ones = gradients(torch.ones((), device=DEVICE))
    # Elements of larger storages, one of them expanded: what a sum or a mean hands down.
    strided = torch.tensor([0.0, 0.0, 0.25, 9.0], device=DEVICE)[2]
    for grad_output in (strided, strided[None].expand(5)[3], torch.tensor(0.25, device=DEVICE)):
        for one, found in zip(ones, gradients(grad_output), strict=True):
            assert torch.equal(found, 0.25 * one)
    with dl.use_backend("triton"):
        p = pred.clone().requires_grad_()
        torch.stack([0.125 * loss(p, gt, mask), loss(p, gt, mask) * 0.125]).sum().backward()
    torch.testing.assert_close(p.grad, 0.25 * ones[0])


def test_a_large_grad_output_does_not_overflow_half_precision(maps):
    """As a gradient scaler multiplies: 65536 is no float16, its product with 1/N is."""
    pred, gt, mask = maps[0].half(), maps[1], maps[2]
    found = []
    for backend in ("triton", "reference"):
        p = pred.clone().requires_grad_()
        with dl.use_backend(backend):
            (65536.0 * dl.G2Loss("document")(p, gt, mask)).backward()
        found.append(p.grad)
    assert found[0].dtype == torch.float16 and found[0].isfinite().all() and found[0].abs().max() > 100
    torch.testing.assert_close(found[0], found[1], rtol=2**-9, atol=0.1)


@pytest.mark.parametrize("name", ["g2 support", "ssi-silog with gradient"])
def test_autocast_changes_nothing(name, maps):
    expected = run(cases.LOSSES[name](), *maps)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        found = run(cases.LOSSES[name](), *maps)
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_a_copy_is_the_same_loss(maps):
    loss = dl.AdaptiveMultiDomainLoss(backend="triton", gradient=dl.GradientSpec(num_scales=1)).to(DEVICE)
    with torch.no_grad():
        expected = loss(*maps)
        assert torch.equal(copy.deepcopy(loss)(*maps), expected)
    assert torch.equal(loss.metrics["total_loss"], expected)


@pytest.mark.parametrize("name", ["g2 published", "adaptive-multi-domain"])
def test_a_gradient_of_a_gradient_is_refused(name, maps):
    pred = maps[0].requires_grad_()
    loss = cases.LOSSES[name]().to(DEVICE)
    with dl.use_backend("triton"):
        (grad,) = torch.autograd.grad(loss(pred, *maps[1:]), pred, create_graph=True)
    with pytest.raises(
        RuntimeError, match=r"backend='triton' has no second derivatives.*backend='reference'"
    ):
        grad.sum().backward()


def test_what_only_the_reference_can_do_is_refused(maps):
    pred, gt, mask = maps
    with pytest.raises(RuntimeError, match="cannot run: gt requires a gradient.*detach gt"):
        dl.G2Loss(backend="triton")(pred, gt.clone().requires_grad_(), mask)
    with pytest.raises(RuntimeError, match="cannot run: this loss has no fused form on it"):
        cases.unfused(backend="triton")(pred, gt, mask)
    with dl.use_backend("triton"), pytest.raises(RuntimeError, match="no fused form"):
        cases.unfused()(pred, gt, mask)


@pytest.mark.parametrize("of_numpy", ((2, 3), (2, 4), (3, 0)))
@pytest.mark.parametrize("of_triton", ((3, 4), (3, 6), (3, 7), (4, 0)))
def test_an_interpreter_that_numpy_breaks(of_triton, of_numpy):
    """Triton up to 3.6 makes a number of an array of one element, which NumPy refuses since 2.4."""
    assert engine._version("3.8.0+git1") == (3, 8) and engine._version("2.4rc1") == (2, 4)
    reason = engine._interpreter_obstacle(of_triton, of_numpy)
    assert bool(reason) == (of_triton <= (3, 6) and of_numpy >= (2, 4))
    assert not reason or reason.endswith("install triton >= 3.7 or numpy < 2.4")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_gpu_and_interpreter():
    """A clear refusal, a line in the environment's report, and the default backend works."""
    code = """
import torch, depthloss
from depthloss import dispatch
p = torch.rand(1, 1, 8, 8)
assert depthloss.L1Loss()(p, p) == 0
print(dispatch.backend_status("triton"))
try:
    depthloss.L1Loss(backend="triton")(p, p)
except RuntimeError as error:
    print(error)
"""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout.splitlines()
    reason = "torch finds no GPU (TRITON_INTERPRET=1 runs the kernels on CPU tensors, slowly)"
    assert out == [
        reason,
        f"backend='triton' cannot run: {reason}. Use backend='auto' or backend='reference'.",
    ]


def test_auto_leaves_cpu_tensors_alone(monkeypatch):
    """The interpreter runs where it is asked for by name, and nowhere else."""
    monkeypatch.setattr(engine, "forward", lambda *a: pytest.fail("the interpreter ran"))
    pred, gt = cases.maps(torch.float32, SHAPE)
    assert dl.L1Loss()(pred, gt).isfinite()
