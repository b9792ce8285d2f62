"""What people put a loss into: exported programs, checkpointing, hooks, copies, tensors of other kinds.

Each gives the right value and gradient with the fused backend and with the reference, or an error that says
what to do instead. tests/test_transforms.py has the transforms of torch.func and the tracers.
"""

from __future__ import annotations

import copy
import io
import pickle
import re
import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._dynamo import config as dynamo
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

import depthloss as dl

from . import cases

P, G = cases.maps(torch.float64, (2, 1, 9, 13))
M = torch.rand(G.shape, generator=torch.Generator().manual_seed(2)) < 0.9
BACKENDS = [name for name in ("cpu", "reference") if name in cases.BACKENDS]
NAMES = ("g2", "adaptive-multi-domain", "scale-adaptive-progressive", "l1")
QUICK = (("g2", "cpu"), ("g2", "reference"), ("adaptive-multi-domain", "cpu"))
CASES = [
    pytest.param(name, backend, marks=() if (name, backend) in QUICK else pytest.mark.full)
    for name in NAMES
    for backend in BACKENDS
    if backend == "reference" or backend in dl.build_loss(name).spec.fused
]


def with_gradient(call, p: Tensor = P, g: Tensor = G, m: Tensor = M) -> tuple[Tensor, Tensor]:
    p = p.detach().clone().requires_grad_()
    value = call(p, g, m)
    value.backward()
    return value.detach(), p.grad


STRICT_WRITES = hasattr(torch.compiler, "is_exporting")  # torch >= 2.7: a module may write its attributes


def exported(loss, p: Tensor = P, strict: bool = False):
    return torch.export.export(loss, (p, G, M), strict=strict)


def saved_program(loss):
    file = io.BytesIO()
    torch.export.save(exported(loss), file)
    file.seek(0)
    return torch.export.load(file).module()


def saved_whole(loss):
    file = io.BytesIO()
    torch.save(loss, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def under(context, loss):
    def call(*inputs):
        with context():
            return loss(*inputs)

    return call


LEAVE = "skip_fwd_side_effects_in_bwd_under_checkpoint"
HAS_LEAVE = hasattr(dynamo, LEAVE)


def compiled_checkpoint(loss):
    """Writing the metrics is a side effect, which torch asks about."""
    torch._dynamo.reset()
    run = torch.compile(partial(checkpoint, loss, use_reentrant=False), fullgraph=True, backend="aot_eager")
    return under(partial(dynamo.patch, **{LEAVE: True}), run) if HAS_LEAVE else run


def as_subclass(loss):
    class Image(Tensor):
        pass

    return lambda p, g, m: loss(p.as_subclass(Image), g.as_subclass(Image), m).as_subclass(Tensor)


def reshaped(loss):
    """Strides of channels_last, an offset, a slice of something larger, and no channel."""
    wide = torch.zeros(3, 2, 9, 20, dtype=torch.float64)

    def call(p, g, m):
        room = wide.clone()
        room[1:, 1:, :, 5:18] = g
        return loss(p.to(memory_format=torch.channels_last)[:, 0], room[1:, 1, :, 5:18], m.squeeze(1))

    return call


USES = {
    "export": lambda loss: exported(loss).module(),
    "export, strict": lambda loss: exported(loss, strict=True).module(),
    "export for training": lambda loss: exported(loss, P.clone().requires_grad_()).module(),
    "export, decomposed": lambda loss: exported(loss).run_decompositions().module(),
    "a saved program": saved_program,
    "torch.compile": lambda loss: torch.compile(loss, fullgraph=True, backend="aot_eager"),
    "checkpoint": lambda loss: partial(checkpoint, loss, use_reentrant=False),
    "checkpoint, reentrant": lambda loss: partial(checkpoint, loss, use_reentrant=True),
    "checkpoint in a compiled graph": compiled_checkpoint,
    "save_on_cpu": lambda loss: under(save_on_cpu, loss),
    "saved-tensor hooks": lambda loss: under(lambda: saved_tensors_hooks(Tensor.clone, Tensor.clone), loss),
    "deepcopy": copy.deepcopy,
    "pickle": lambda loss: pickle.loads(pickle.dumps(loss)),
    "torch.save": saved_whole,
    "a subclass with memory": as_subclass,
    "strides": reshaped,
    "autocast": lambda loss: under(lambda: torch.autocast("cpu", torch.bfloat16), loss),
}


@pytest.mark.parametrize(("name", "backend"), CASES)
@pytest.mark.parametrize("use", USES)
def test_value_and_gradient(use, name, backend):
    if use == "export, strict" and not STRICT_WRITES:
        pytest.skip("the strict export of this torch forbids a module to write its metrics")
    if use == "checkpoint in a compiled graph" and not HAS_LEAVE:
        pytest.skip("this torch lets no checkpoint in a compiled graph write metrics")
    loss = dl.build_loss(name, backend=backend)
    expected = with_gradient(loss)
    slopes = [v.grad.clone() for v in loss.log_vars()]
    loss.zero_grad()
    torch.testing.assert_close(with_gradient(USES[use](loss)), expected, rtol=1e-9, atol=1e-12)
    if use not in ("export, decomposed", "a saved program", "deepcopy", "pickle", "torch.save"):
        torch.testing.assert_close([v.grad for v in loss.log_vars()], slopes, rtol=1e-9, atol=1e-12)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the native engine was not built")
def test_what_a_program_with_a_fused_loss_cannot_give_is_an_error():
    program = exported(dl.build_loss("g2")).module()
    value = program(P, G.clone().requires_grad_(), M)
    with pytest.raises(RuntimeError, match="gt requires a gradient, which only the reference"):
        value.backward()
    p = P.clone().requires_grad_()
    (slope,) = torch.autograd.grad(program(p, G, M), p, create_graph=True)
    with pytest.raises(RuntimeError, match="backend='cpu' has no second derivatives .* use backend="):
        slope.sum().backward()


def exported_with_metrics(loss):
    """No state is written, so there is nothing to warn about."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return torch.export.export(loss, (P, G, M), {"return_metrics": True}).module()


METRICS = {
    "alone": lambda loss: loss,
    "export": exported_with_metrics,
    "torch.compile": USES["torch.compile"],
    "checkpoint": USES["checkpoint"],
    "checkpoint in a compiled graph": lambda loss: torch.compile(
        partial(checkpoint, loss, use_reentrant=False), fullgraph=True, backend="aot_eager"
    ),
}


@pytest.mark.parametrize(("name", "backend"), CASES)
@pytest.mark.parametrize("use", METRICS)
def test_return_metrics(use, name, backend):
    """(loss, metrics), the same numbers as without; the module's own metrics are left as they are."""
    torch._dynamo.reset()
    loss = dl.build_loss(name, backend=backend)
    expected = with_gradient(loss)
    metrics, loss.metrics = loss.metrics, {}
    call = METRICS[use](loss)
    found = {}

    def total(*inputs):
        value, named = call(*inputs, return_metrics=True)
        found.update(named)
        return value

    torch.testing.assert_close(with_gradient(total), expected, rtol=1e-9, atol=1e-12)
    assert loss.metrics == {} and list(found) == list(metrics)
    torch.testing.assert_close(found, metrics, rtol=1e-9, atol=1e-12)
    assert not any(x.requires_grad or x.dim() for x in found.values())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_saved_program_needs_nothing_of_the_process_that_made_it(backend, tmp_path):
    loss = dl.build_loss("ssi", alpha=0.123456, backend=backend)
    torch.export.save(exported(loss), tmp_path / "loss.pt2")
    torch.save((P, G, M, *with_gradient(loss)), tmp_path / "expected.pt")
    code = """
import torch, depthloss
p, g, m, value, gradient = torch.load("expected.pt")
found = torch.export.load("loss.pt2").module()(p.requires_grad_(), g, m)
found.backward()
assert torch.equal(found.detach(), value) and torch.equal(p.grad, gradient)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.full  # Compiles C++: half a minute each.
@pytest.mark.parametrize(("name", "backend"), CASES)
def test_aot_inductor(name, backend, tmp_path):
    loss = dl.build_loss(name, backend=backend)
    path = str(tmp_path / "loss.pt2")
    torch._inductor.aoti_compile_and_package(exported(loss), package_path=path)
    torch.save((P, G, M, loss(P, G, M).detach()), tmp_path / "expected.pt")
    code = f"""
import torch, depthloss
p, g, m, value = torch.load("expected.pt")
found = torch._inductor.aoti_load_package({path!r})(p, g, m)
torch.testing.assert_close(found, value, rtol=1e-9, atol=1e-12)
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("name", NAMES)
def test_meta_tensors_have_a_shape(name):
    loss = dl.build_loss(name).to("meta")
    value = loss(P.to("meta").requires_grad_(), G.to("meta"), M.to("meta"))
    assert value.shape == () and value.dtype == torch.float64 and value.device.type == "meta"


class Wrapper(Tensor):
    """A subclass whose memory only its own __torch_dispatch__ knows."""

    @staticmethod
    def __new__(cls, inner):
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        unwrap = lambda x: x.inner if isinstance(x, Wrapper) else x  # noqa: E731
        return function(*tree_map(unwrap, args), **tree_map(unwrap, kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [Wrapper, lambda x: torch._efficientzerotensor(x.shape, dtype=x.dtype)])
def test_tensors_whose_memory_native_code_cannot_read(name, kind):
    loss = dl.build_loss(name)
    for place in range(3):
        inputs = [P, G, M]
        inputs[place] = kind(inputs[place])
        plain = [x.inner if isinstance(x, Wrapper) else x.clone() for x in inputs]
        torch.testing.assert_close(loss(*inputs), loss(*plain), rtol=1e-9, atol=1e-12)
        if name in ("g2", "adaptive-multi-domain") and "cpu" in BACKENDS:
            reason = (
                "a Wrapper, which may have no memory"
                if kind is Wrapper
                else "a tensor of zeros without memory"
            )
            with pytest.raises(RuntimeError, match=f"backend='cpu' cannot run: (pred|gt|mask) is {reason}"):
                dl.build_loss(name, backend="cpu")(*inputs)


@pytest.fixture
def mesh(tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", NAMES)
def test_distributed_tensors_are_refused(name, mesh):
    for backend in ("auto", "reference"):
        loss = dl.build_loss(name, backend=backend)
        for place, argument in enumerate(("pred", "gt", "mask")):
            inputs = [P, G, M]
            # Without a collective, after which torch 2.6 may hang when the group is destroyed.
            inputs[place] = DTensor.from_local(inputs[place], mesh)
            text = (
                f"{argument} must be a tensor of this process; got a DTensor: pass {argument}.full_tensor()"
            )
            with pytest.raises(TypeError, match=re.escape(text)):
                loss(*inputs)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (Tensor.to_sparse, "must be a dense tensor; got torch.sparse_coo: convert it with .to_dense()"),
        (lambda x: x[0, 0].to_sparse_csr(), "must be a dense tensor; got torch.sparse_csr: convert it with"),
        (lambda x: x.float().to_mkldnn(), "must be a dense tensor; got torch._mkldnn: convert it with"),
        (lambda x: torch.nested.nested_tensor([x[0], x[1]]), "must be a dense tensor; got a nested one: pad"),
        (
            lambda x: torch.nested.nested_tensor([x[0], x[1]], layout=torch.jagged),
            "must be a dense tensor; got a nested one: pad",
        ),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_other_layouts_are_refused(name, make, text):
    loss = dl.build_loss(name)
    for place, argument in enumerate(("pred", "gt", "mask")):
        inputs = [P, G, M]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # That nested tensors are a prototype.
            inputs[place] = make(inputs[place].double())
        with pytest.raises(TypeError, match=re.escape(f"{argument} {text}")):
            loss(*inputs)


@pytest.mark.parametrize("place", range(3))
def test_a_storage_that_was_given_back(place):
    inputs = [P.clone(), G.clone(), M.clone()]
    inputs[place].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match=r"\(2, 1, 9, 13\) and torch.* has no memory: its storage was"):
        dl.build_loss("g2")(*inputs)


@pytest.mark.skipif(not HAS_LEAVE, reason="this torch has no such leave")
def test_a_compiled_checkpoint_without_leave_says_how_to_get_it():
    torch._dynamo.reset()
    loss = dl.build_loss("g2")
    run = torch.compile(partial(checkpoint, loss, use_reentrant=False), fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="skip_fwd_side_effects_in_bwd_under_checkpoint"):
        run(P.clone().requires_grad_(), G, M)
