"""Transforms, tracers, modes and tensors that native code cannot read: the right value, or a clear error."""

from __future__ import annotations

import logging
import warnings
from functools import partial

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.autograd import grad
from torch.func import functionalize, jacrev, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import depthloss as dl
from depthloss import dispatch

from . import cases

pytestmark = pytest.mark.skipif("cpu" not in cases.BACKENDS, reason="the native engine was not built")
P, G = cases.maps(torch.float64, (2, 1, 9, 13))
M = torch.rand(G.shape, generator=torch.Generator().manual_seed(2)) < 0.9
TANGENT = torch.rand(P.shape, generator=torch.Generator().manual_seed(3)).double()
CPU = "running the reference backend, in plain PyTorch; backend 'cpu' is not used: "
INFERENCE = (
    "{} was made under torch.inference_mode(), so autograd cannot save it for the backward; "
    "clone it, or make it under torch.no_grad()"
)


@pytest.fixture(autouse=True)
def said(caplog):
    """The log lines of the library, each said once per process: forgotten before a test."""
    dispatch._say_once.cache_clear()
    caplog.set_level(logging.WARNING, "depthloss")
    return caplog


def with_gradient(loss, p=P, g=G, m=M) -> tuple[Tensor, Tensor]:
    p = p.clone().requires_grad_()
    value = loss(p, g, m)
    return value.detach(), grad(value, p)[0]


def inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


def tangent_of(loss, no_grad: bool = False) -> Tensor:
    with forward_ad.dual_level(), torch.set_grad_enabled(not no_grad):
        return forward_ad.unpack_dual(loss(forward_ad.make_dual(P, TANGENT), G, M)).tangent


def traced(loss, p, g, m):
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That shapes become constants.
        return torch.jit.trace(loss, (p, g, m))


def counted(loss) -> Tensor:
    with FlopCounterMode(display=False):
        return loss(P, G, M)


# What runs, what it must give of (value, gradient), and why no fused backend can.
TRANSFORMS = {
    "gt of inference mode": (
        lambda loss: with_gradient(loss, g=inference(G))[1],
        lambda value, gradient: gradient,
        INFERENCE.format("gt"),
    ),
    "mask of inference mode": (
        lambda loss: with_gradient(loss, m=inference(M))[1],
        lambda value, gradient: gradient,
        INFERENCE.format("mask"),
    ),
    "func.grad": (
        lambda loss: torch.func.grad(lambda p: loss(p, G, M))(P),
        lambda value, gradient: gradient,
        "torch.func's 'grad' is active",
    ),
    "vjp": (
        lambda loss: vjp(lambda p: loss(p, G, M), P)[1](torch.tensor(2.0, dtype=torch.float64))[0],
        lambda value, gradient: 2 * gradient,
        "torch.func's 'grad' is active",
    ),
    "jacrev": (
        lambda loss: jacrev(lambda p: loss(p, G, M))(P),
        lambda value, gradient: gradient,
        "torch.func's 'grad' is active",
    ),
    "vmap": (
        lambda loss: vmap(loss, (0, None, None))(torch.stack([P, P]), G, M),
        lambda value, gradient: value.expand(2),
        "torch.func's 'vmap' is active",
    ),
    "vmap of grad": (
        lambda loss: vmap(torch.func.grad(lambda p: loss(p, G, M)))(P[None])[0],
        lambda value, gradient: gradient,
        "torch.func's 'grad' is active",
    ),
    "jvp": (
        lambda loss: jvp(lambda p: loss(p, G, M), (P,), (TANGENT,))[1],
        lambda value, gradient: (gradient * TANGENT).sum(),
        "torch.func's 'jvp' is active",
    ),
    "functionalize": (
        lambda loss: functionalize(lambda p: loss(p, G, M))(P),
        lambda value, gradient: value,
        "torch.func's 'functionalize' is active",
    ),
    "forward-mode AD": (
        tangent_of,
        lambda value, gradient: (gradient * TANGENT).sum(),
        "forward-mode AD is active",
    ),
    "forward-mode AD under no_grad": (
        lambda loss: tangent_of(loss, no_grad=True),
        lambda value, gradient: (gradient * TANGENT).sum(),
        "forward-mode AD is active",
    ),
    "jit.trace": (
        lambda loss: with_gradient(traced(loss, G, P, M))[1],
        lambda value, gradient: gradient,
        "torch.jit.trace is recording",
    ),
    "make_fx": (
        lambda loss: with_gradient(make_fx(loss)(G, P, M))[1],
        lambda value, gradient: gradient,
        "the dispatch mode ProxyTorchDispatchMode is active",
    ),
    "FlopCounterMode": (
        counted,
        lambda value, gradient: value,
        "the dispatch mode _FlopCounterMode is active",
    ),
}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("case", TRANSFORMS)
def test_the_reference_runs_and_says_why(case, backend, said):
    run, expected, reason = TRANSFORMS[case]
    loss = dl.G2Loss(backend=backend)
    want = expected(*with_gradient(loss))
    for _ in range(2):
        torch.testing.assert_close(run(loss), want, rtol=1e-9, atol=1e-11)
    assert said.messages == ([CPU + reason] if backend == "auto" else [])


@pytest.mark.parametrize("case", TRANSFORMS)
def test_a_fused_backend_asked_for_by_name_says_what_it_cannot_see(case, said):
    run, _, reason = TRANSFORMS[case]
    text = f"backend='cpu' cannot run: {reason}. Use backend='auto' or backend='reference'."
    with pytest.raises(RuntimeError) as error:
        run(dl.G2Loss(backend="cpu"))
    assert str(error.value) == text
    with pytest.raises(RuntimeError) as error, dl.use_backend("cpu"):
        run(dl.G2Loss())
    assert str(error.value) == text and not said.messages


@pytest.mark.parametrize("name", cases.LOSSES)
def test_every_loss_under_transforms(name):
    loss = cases.LOSSES[name]()
    p, g = cases.maps(torch.float64)
    m, tangent = cases.mask("70%"), torch.ones_like(p)
    value, gradient = with_gradient(loss, p, g, m)
    found = torch.func.grad(lambda p: loss(p, g, m))(p)
    torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-9 * gradient.abs().max().item())
    found = jvp(lambda p: loss(p, g, m), (p,), (tangent,))
    torch.testing.assert_close(found, (value, gradient.sum()), rtol=1e-8, atol=1e-11)
    with torch.inference_mode():
        p_, g_, m_ = p.clone(), g.clone(), m.clone()
    torch.testing.assert_close(with_gradient(loss, p, g_, m_), (value, gradient), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(loss(p_, g_, m_).detach(), value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", ["auto", "cpu"])
def test_tensors_of_inference_mode_need_no_reference_without_a_backward(backend, said):
    """Nothing is saved, so nothing is in the way."""
    loss = dl.G2Loss(backend=backend)
    expected = loss(P, G, M)
    p, g, m = map(inference, (P, G, M))
    assert torch.equal(loss(p, g, m), expected)
    with torch.no_grad():
        assert torch.equal(loss(P.clone().requires_grad_(), g, m), expected)
    with torch.inference_mode():
        assert torch.equal(loss(P, g, M), expected)
    assert not said.messages


def test_a_batch_of_gradients_through_a_fused_backend_is_refused():
    p, eye = P.clone().requires_grad_(), torch.eye(2, dtype=torch.float64)

    def jacobian(backend, **options):
        values = torch.stack([dl.G2Loss(backend=backend)(p, G, M), dl.SSILoss(backend=backend)(p, G, M)])
        return grad(values, p, eye, is_grads_batched=True, **options)[0]

    text = (
        "backend='cpu' cannot read grad_output, a batch of tensors (is_grads_batched=True, a vectorised "
        "Jacobian, or vmap): use backend='reference' for this loss"
    )
    for backend in ("auto", "cpu"):
        for options in ({}, {"create_graph": True}):
            with pytest.raises(RuntimeError) as error:
                jacobian(backend, **options)
            assert str(error.value) == text
    with pytest.raises(RuntimeError) as error:
        torch.autograd.functional.jacobian(lambda p: dl.G2Loss()(p, G, M), P, vectorize=True)
    assert str(error.value) == text
    expected = [with_gradient(loss)[1] for loss in (dl.G2Loss(), dl.SSILoss())]
    torch.testing.assert_close(jacobian("reference"), torch.stack(expected), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["g2", "scale-adaptive-progressive", "adaptive-multi-domain"])
def test_metrics_outlive_a_transform(name):
    """Plain numbers, or none where vmap has made several of one; never those of the call before."""
    loss = dl.build_loss(name)
    p, g, m = (x.float() for x in (P, G, M))
    with dl.use_backend("reference"):
        loss(p, g, m)
        expected = {key: value.item() for key, value in loss.metrics.items()}
        for run in (
            lambda: torch.func.grad(lambda p: loss(p, g, m))(p),
            lambda: jvp(lambda p: loss(p, g, m), (p,), (p,)),
            lambda: torch.func.grad(torch.func.grad(lambda s: loss(s * p, g, m)))(torch.tensor(1.0)),
            lambda: functionalize(lambda p: loss(p, g, m))(p),
            lambda: vmap(lambda s: loss(p, g, m))(torch.ones(2)),  # Does not depend on what is mapped over.
        ):
            loss.metrics = {}
            run()
            assert {key: value.item() for key, value in loss.metrics.items()} == expected
            assert not any(value.requires_grad for value in loss.metrics.values())
        for run in (
            lambda: vmap(lambda p: loss(p, g, m))(p[None]),
            lambda: vmap(torch.func.grad(lambda p: loss(p, g, m)))(p[None]),
            lambda: torch.func.grad(lambda q: vmap(lambda p: loss(p, g, m))(q).sum())(p[None]),
        ):
            loss(p, g, m)
            run()
            assert loss.metrics == {}


def test_returned_metrics_of_a_transform():
    """Of vmap, those of every sample; the module's own stay as they are."""
    loss = dl.build_loss("g2", backend="reference")
    _, expected = loss(P, G, M, return_metrics=True)
    call = partial(loss, return_metrics=True)
    _, found = torch.func.grad(lambda p: call(p, G, M), has_aux=True)(P)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    _, found = vmap(lambda p: call(p, G, M))(torch.stack((P, P)))
    torch.testing.assert_close(found, {k: torch.stack((x, x)) for k, x in expected.items()})
    compiled = torch.compile(vmap(lambda p: call(p, G, M)[1]), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(torch.stack((P, P))), found)
    assert loss.metrics == {}


def test_a_transform_within_a_compiled_graph():
    torch._dynamo.reset()
    loss = dl.SSILoss()
    _, gradient = with_gradient(loss)
    loss(P, G, M)
    compiled = torch.compile(
        lambda p: torch.func.grad(lambda p: loss(p, G, M))(p), fullgraph=True, backend="eager"
    )
    torch.testing.assert_close(compiled(P), gradient, rtol=1e-9, atol=1e-11)
    assert loss.metrics == {}


def test_collectives_under_a_transform():
    loss = dl.G2Loss()
    loss.process_group = torch.distributed.ProcessGroup(0, 1)  # Without collectives it is never asked.
    with pytest.raises(RuntimeError) as error:
        torch.func.grad(lambda p: loss(p, G, M))(P)
    assert str(error.value) == (
        "a loss with process_group has no rule for its collectives: torch.func's 'grad' is active"
    )
    with pytest.raises(RuntimeError, match="its collectives: forward-mode AD is active"):
        tangent_of(loss)


def test_tensors_without_memory(said):
    with FakeTensorMode() as mode:
        p, g = mode.from_tensor(P), mode.from_tensor(G)
        assert dl.G2Loss()(p, g).shape == ()
    reasons = ["the dispatch mode FakeTensorMode is active"]
    mode.allow_non_fake_inputs = True  # The reference's constants.
    assert dl.G2Loss()(p, G).shape == () and dl.G2Loss()(P, g).shape == ()
    reasons += [f"{name} is a FakeTensor, which may have no memory of its own" for name in ("pred", "gt")]
    assert said.messages == [CPU + reason for reason in reasons]
    with pytest.raises(RuntimeError) as error:
        dl.G2Loss(backend="cpu")(P, g)
    assert str(error.value) == f"backend='cpu' cannot run: {reasons[2]}. Use backend='auto' or " + (
        "backend='reference'."
    )
    value = dl.G2Loss()(P.clone().requires_grad_(), G)
    with pytest.raises(RuntimeError, match="cannot read grad_output, a FakeTensor, which may have no memory"):
        value.backward(mode.from_tensor(torch.ones((), dtype=torch.float64)))


def test_subclasses_with_memory_run_fused(said):
    class Image(Tensor):
        pass

    loss = dl.G2Loss(backend="cpu")
    expected = loss(P, G, M)
    assert torch.equal(loss(P.as_subclass(Image), G.as_subclass(Image), M), expected)
    assert torch.equal(loss(torch.nn.Parameter(P), G, M).detach(), expected) and not said.messages
