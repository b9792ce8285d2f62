"""The kernels as operators in compiled graphs: one graph, any size, any step of a schedule."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import depthloss as dl
from depthloss.maps import working_dtype
from depthloss.spec import parse

from .. import cases
from .engine import DEVICE, engine
from .test_exact import on_device, run

SHAPE = (1, 1, 9, 13)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


@pytest.fixture
def zeroed_memory(poisoned_memory, monkeypatch):
    """opcheck compares every number that an operator returns, those that a loss has no use for too."""
    empty, like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(*args, **kwargs).zero_())
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: like(*args, **kwargs).zero_())


def maps(shape: tuple[int, ...] = SHAPE) -> tuple[torch.Tensor, ...]:
    pred, gt = cases.maps(torch.float32, shape)
    return on_device(pred, gt, cases.mask("70%", shape))


@pytest.mark.parametrize(
    "name", ["g2 published", "scale-adaptive", "ssi-silog", "berhu", "adaptive-multi-domain"]
)
def test_one_graph(name):
    """Forward, backward and metrics, equal to eager."""
    pred, gt, mask = maps()
    loss = cases.LOSSES[name]().to(DEVICE)
    found = []
    for call in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        found.append((*run(call, pred, gt, mask), dict(loss.metrics), [p.grad for p in loss.parameters()]))
        loss.zero_grad()
    (value, grad, metrics, log_vars), compiled = found
    assert torch.equal(compiled[0], value) and torch.equal(compiled[1], grad)
    assert compiled[2].keys() == metrics.keys() and compiled[3] == log_vars
    for name, number in metrics.items():
        assert torch.equal(compiled[2][name], number), name


@pytest.mark.parametrize("weights", [(0.3, 1.7, 0.1), (1 / 3, 1e-300, 0.0), (1.0, 1e39, 5e-324)], ids=str)
def test_weights_as_data_are_weights_as_arguments(weights):
    """In float64 too, where an argument comes as its bits: of every exponent."""
    pred, gt, mask = (x.double() for x in maps())
    loss = dl.G2Loss(weights=weights, num_scales=1, backend="triton")
    assert torch.equal(
        torch.compile(loss, fullgraph=True, backend="aot_eager")(pred, gt, mask), loss(pred, gt, mask)
    )


def test_any_size():
    loss = dl.ScaleAdaptiveLoss(num_scales=2)
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for shape in ((2, 1, 9, 13), (3, 1, 8, 17), (1, 1, 14, 5)):
        expected, expected_grad = run(loss, *maps(shape))
        value, grad = run(compiled, *maps(shape))
        assert torch.equal(value, expected) and torch.equal(grad, expected_grad)


@pytest.mark.parametrize("name", ["enhanced-ssi", "progressive-ssi", "scale-adaptive-progressive"])
def test_a_schedule_does_not_recompile(name):
    """The weights change with every epoch; the graph does so once, when they become dynamic."""
    loss = dl.build_loss(name, **({"num_scales": 1} if "adaptive" in name else {}))
    counter = CompileCounter()
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    pred, gt, mask = maps((1, 1, 6, 7))
    with dl.use_backend("triton"), torch.no_grad():
        for epoch in range(12):
            value = compiled(pred, gt, mask, progress=epoch / 11, epoch=epoch)
            if epoch % 4 == 3:
                expected = loss(pred, gt, mask, progress=epoch / 11, epoch=epoch)
                torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    assert counter.frame_count <= 3


@pytest.mark.parametrize("saves", [True, False])
@pytest.mark.parametrize("name", ["g2 document", "adaptive-multi-domain", "mse"])
def test_the_forward_operator(name, saves, zeroed_memory):
    loss = cases.LOSSES[name]().to(DEVICE)
    pred, gt, mask = (x[:, 0] for x in maps())
    weights = torch.tensor(loss.weights(0.0, 0), device=DEVICE)
    log_vars = torch.stack(loss.log_vars()).detach().requires_grad_(saves) if loss.log_vars() else None
    arguments = (
        pred.requires_grad_(saves),
        gt,
        mask,
        None,
        weights,
        log_vars,
        "triton",
        loss.spec.text,
        "",
        saves,
    )
    torch.library.opcheck(torch.ops.depthloss.loss.default, arguments)


@pytest.mark.parametrize("wants_pred", [True, False])
def test_the_backward_operator(wants_pred, zeroed_memory):
    loss = dl.AdaptiveMultiDomainLoss().to(DEVICE)
    pred, gt, mask = (x[:, 0] for x in maps())
    weights = torch.tensor(loss.weights(0.0, 0), device=DEVICE)
    log_vars = torch.stack(loss.log_vars()).detach()
    _, _, codes, coefficients = torch.ops.depthloss.loss(
        pred, gt, mask, None, weights, log_vars, "triton", loss.spec.text, "", wants_pred
    )
    inputs = torch.ones((), device=DEVICE), codes, coefficients, pred, gt, mask, None
    arguments = *inputs, "triton", loss.spec.text, 2, wants_pred
    torch.library.opcheck(torch.ops.depthloss.loss_backward.default, arguments)


def test_sizes_of_what_is_saved():
    """What the fakes promise is what the kernels write."""
    for shape in ((2, 9, 13), (1, 1, 1), (0, 4, 4), (1, 40, 33)):
        pred = torch.rand(shape, device=DEVICE)
        for name in ("g2 support", "gradient six levels", "l1"):
            spec = cases.LOSSES[name]().spec
            assert parse(spec.text) == spec and working_dtype(pred, pred) == torch.float32
            codes = engine.code_count(spec, *shape)
            plan = engine.make_plan(spec)
            parameters = engine.parameters(pred.device, *shape[1:])
            run = engine.launch.Forward(
                plan, parameters, pred, pred, None, None, [1.0] * spec.num_weights, (), torch.float32, True
            )
            assert run.codes.numel() == codes and run.coefficients.numel() == engine.coefficient_count(
                shape[0]
            )
