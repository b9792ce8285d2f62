"""Weights, confidence and losses of [B] on the native engine as PyTorch calls it: graphs, exported programs,
operators, inference mode, strides; and the same bits everywhere.
"""

from __future__ import annotations

import io

import pytest
import torch
from depthloss.kernels import cpu

import depthloss as dl
from depthloss import dispatch
from depthloss.losses import DepthLoss
from depthloss.losses.base import single_group
from depthloss.spec import Gradient, GradientSpec, Pixel

from .. import cases

if dispatch.backend_status("cpu"):
    pytest.skip(f"the native engine: {dispatch.backend_status('cpu')}", allow_module_level=True)

SHAPE = (3, 1, 70, 45)
MATCHING = Gradient(name="gradient", gradient=GradientSpec.preset("midas"), eps=0.0)
LOSSES = {
    "weighted": lambda: dl.G2Loss(backend="cpu"),
    "fitted": lambda: dl.ScaleShiftInvariantLoss(alpha=0.5, backend="cpu"),
    "confident": lambda: dl.recipe("vggt-depth", backend="cpu"),
    "aligned": lambda: DepthLoss(
        single_group(Pixel(name="sure", align="mean", confidence=0.2), MATCHING), backend="cpu"
    ),
    "by image": lambda: dl.ScaleShiftInvariantLoss(alpha=0.5, reduction="none", backend="cpu"),
    "silog by image": lambda: dl.SILogLoss(reduction="none", backend="cpu"),
}


def inputs(name: str, dtype: torch.dtype = torch.float32, shape=SHAPE):
    """The loss, pred, gt, mask, and the keywords of a call."""
    loss = LOSSES[name]()
    rng = torch.Generator().manual_seed(5)
    pred, gt = cases.maps(dtype, shape)
    extras = {"weight": torch.rand(shape, generator=rng, dtype=dtype).clamp(min=0.1) - 0.1}
    if loss.spec.confidence:
        c = 0.5 + torch.rand(shape, generator=rng, dtype=dtype)
        extras["confidence"] = c.requires_grad_()
    return loss, pred.requires_grad_(), gt, cases.mask("70%", shape), extras


@pytest.fixture
def zeroed_memory(monkeypatch):
    """opcheck compares every number that an operator returns, those that a loss has no use for too."""
    empty, like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(*args, **kwargs).zero_())
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: like(*args, **kwargs).zero_())


def run(call, pred, gt, mask, extras):
    """The value and the gradients of pred and of a confidence."""
    value = call(pred, gt, mask, **extras)
    wanted = [pred, *(x for x in extras.values() if x.requires_grad)]
    return value.detach(), *torch.autograd.grad((value * torch.arange(1.0, value.numel() + 1)).sum(), wanted)


def assert_same(found, expected):
    assert len(found) == len(expected) and all(map(torch.equal, found, expected))


@pytest.mark.parametrize("name", LOSSES)
def test_any_number_of_threads_and_every_instruction_set_give_the_same_bits(name, threads):
    threads(1)
    given = inputs(name, shape=(5, 1, 150, 61))
    expected = run(*given)
    for n, best in ((2, "base"), (3, "avx2")):
        threads(n)
        cpu.choose(best)  # Where this machine lacks it, the best that there is.
        found = run(*given)
        cpu.choose(None)
        assert_same(found, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_one_graph(name):
    torch._dynamo.reset()
    loss, *given = inputs(name)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_same(run(compiled, *given), run(loss, *given))


@pytest.mark.filterwarnings("ignore:The tensor attribute")  # The metrics; the program has none.
@pytest.mark.parametrize("name", ("confident", "by image"))
def test_an_exported_program_that_was_saved(name):
    loss, pred, gt, mask, extras = inputs(name)
    expected = run(loss, pred, gt, mask, extras)
    plain = {key: x.detach() for key, x in extras.items()}  # Made without gradients.
    file = io.BytesIO()
    # strict=False is the default from torch 2.7 on.
    torch.export.save(torch.export.export(loss, (pred.detach(), gt, mask), plain, strict=False), file)
    file.seek(0)
    assert_same(run(torch.export.load(file).module(), pred, gt, mask, extras), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_the_operators(name, zeroed_memory):
    loss, pred, gt, mask, extras = inputs(name, torch.float64, (2, 1, 9, 13))
    weights = torch.tensor(loss.weights(0.0, 0))
    call = pred, gt, mask, None, weights, None, "cpu", loss.spec.text, "", True
    kept = [x.detach() for x in extras.values()]
    torch.library.opcheck(torch.ops.depthloss.loss.default, (*call, *extras.values()))
    with torch.no_grad():
        total, _, codes, coefficients = torch.ops.depthloss.loss(*call, *kept)
    saved = torch.ones_like(total), codes, coefficients, pred.detach(), gt, mask, None
    for wants_pred, wants_confidence in ((True, loss.spec.confidence), (False, loss.spec.confidence)):
        rest = wants_pred, *(kept + [None])[:2], wants_confidence
        arguments = (*saved, "cpu", loss.spec.text, 0, *rest)
        torch.library.opcheck(torch.ops.depthloss.loss_backward.default, arguments)


def test_the_operators_are_called_as_before_too(zeroed_memory):
    """As exported programs of before do: without a weight and a confidence."""
    pred, gt = (x[:, 0] for x in cases.maps(torch.float64, (2, 1, 9, 13)))
    loss = dl.L1Loss(backend="cpu")
    call = pred.requires_grad_(), gt, None, None, torch.ones(2), None, "cpu", loss.spec.text, "", True
    torch.library.opcheck(torch.ops.depthloss.loss.default, call)
    total, _, codes, coefficients = torch.ops.depthloss.loss(*call)
    (grad,) = torch.autograd.grad(total, pred)
    assert_same(run(loss, pred, gt, None, {}), (total.detach(), grad))
    saved = torch.ones_like(total).detach(), codes, coefficients, pred.detach(), gt, None, None
    found, _, none = torch.ops.depthloss.loss_backward(*saved, "cpu", loss.spec.text, 0, True)
    assert torch.equal(found, grad) and not none.numel()


def test_a_confidence_has_no_second_derivative():
    loss, pred, gt, mask, extras = inputs("confident")
    value = loss(pred, gt, mask, **extras)
    (grad,) = torch.autograd.grad(value, extras["confidence"], create_graph=True)
    with pytest.raises(RuntimeError, match="backend='cpu' has no second derivatives"):
        grad.sum().backward()


@pytest.mark.parametrize("name", ("weight", "confidence"))
def test_a_map_of_inference_mode_runs_on_the_reference(name, caplog):
    dispatch._say_once.cache_clear()
    loss, pred, gt, mask, extras = inputs("confident")
    loss.backend = "auto"
    expected = run(loss, pred, gt, mask, extras)
    kept = {key: x.detach() for key, x in extras.items()}
    with torch.inference_mode():
        kept[name] = kept[name].clone()
    value = loss(pred, gt, mask, **kept)
    torch.testing.assert_close(value.detach(), expected[0])
    torch.testing.assert_close(torch.autograd.grad(value, pred)[0], expected[1])
    assert f"{name} was made under torch.inference_mode()" in caplog.text


def test_strides_dtypes_and_shapes_of_the_extra_maps():
    """A weight that is expanded, a confidence in another dtype, strides and number of axes than pred."""
    loss, pred, gt, mask, extras = inputs("confident", torch.float64)
    weight, c = extras["weight"][:1, :, :1], extras["confidence"].detach()[:, 0].half()
    whole = {"weight": weight.expand(SHAPE).contiguous(), "confidence": c.double()[:, None].requires_grad_()}
    turned = {"weight": weight.expand(SHAPE), "confidence": c.mT.contiguous().mT.requires_grad_()}
    expected, found = run(loss, pred, gt, mask, whole), run(loss, pred, gt, mask, turned)
    assert_same(found[:2], expected[:2])
    assert found[2].dtype == torch.float16 and found[2].stride() == turned["confidence"].stride()
    assert torch.equal(found[2], expected[2][:, 0].half())


@pytest.mark.parametrize("shape", ((0, 1, 4, 4), (2, 1, 0, 4)))
@pytest.mark.parametrize("name", ("confident", "by image"))
def test_no_images_and_no_pixels(name, shape):
    found, expected = run(*inputs(name, shape=shape)), None
    loss, *given = inputs(name, shape=shape)
    loss.backend = "reference"
    expected = run(loss, *given)
    assert all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_explain_takes_the_extra_maps():
    loss, pred, gt, mask, extras = inputs("confident")
    found = dl.explain(loss, pred, gt, mask, **extras)
    assert found.backend == "cpu" and found.total == pytest.approx(loss(pred, gt, mask, **extras).item())
