"""Which backend runs what; compiled graphs; the functional twins; second derivatives."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import logging
import math
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import depthloss as dl
from depthloss import dispatch, functional
from depthloss.losses.registry import LOSSES

from . import cases
from .cases import unfused
from .typed import user

EVERYWHERE = {"cpu", "triton"}
# The last column of the loss table.
TWINS = {
    cls: twin
    for cls in LOSSES.values()
    for twin in (getattr(functional, name) for name in functional.__all__)
    if twin.__doc__ == f"`depthloss.{cls.__name__}` as a function."
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_fused_backends_of_each_loss(name):
    loss = dl.build_loss(name)
    assert loss.spec.fused == EVERYWHERE
    assert all(spec.fused == EVERYWHERE for spec in getattr(loss, "levels", ()))


def test_every_loss_is_listed():
    assert set(dl.available_losses()) == set(LOSSES)


def test_a_fallback_is_said_once(caplog, monkeypatch):
    dispatch._say_once.cache_clear()
    monkeypatch.setattr(
        dispatch, "_load", lambda name: (None, "it is a test") if name == "cpu" else (dispatch.reference, "")
    )
    pred, gt = cases.maps(torch.float32)
    with caplog.at_level(logging.WARNING, "depthloss"):
        unfused()(pred, gt)  # No fused form on a CPU by contract: nothing to say.
        assert not caplog.messages
        for _ in range(2):
            dl.SSILoss()(pred, gt)
        assert caplog.messages == [
            "running the reference backend, in plain PyTorch; backend 'cpu' is not used: it is a test"
        ]


class _Recorder:
    """Stands for a fused backend."""

    def __init__(self, *devices):
        self.DEVICES, self.calls = devices, 0

    def forward(self, *args):
        pred, gt, mask, abs_mask, spec, weights, log_vars, process_group, dtype, saves = args
        self.calls += 1
        assert pred.dim() in (3, 4) and len(weights) == spec.num_weights and dtype == torch.float32
        with torch.no_grad():
            total, terms = dispatch.reference.evaluate(*map(dispatch.as_maps, args[:4]), *args[4:8])
        return total, terms, torch.empty(0), torch.empty(0)


def test_auto_takes_the_fused_backend_of_the_device(caplog, monkeypatch):
    dispatch._say_once.cache_clear()
    backends = {"cpu": _Recorder("cpu"), "triton": _Recorder("cuda")}
    fused = backends["cpu"]
    monkeypatch.setattr(dispatch, "_load", lambda name: (dispatch._loaded.get(name), ""))
    monkeypatch.setattr(dispatch.autograd, "module", backends.get)
    for name, backend in backends.items():
        monkeypatch.setitem(dispatch._loaded, name, backend)
    pred, gt = cases.maps(torch.float32)
    dl.G2Loss()(pred, gt, abs_mask=gt > 0)
    dl.AdaptiveMultiDomainLoss()(pred, gt)
    assert fused.calls == 2
    dl.ProgressiveScaleAdaptiveLoss(num_scales=3)(pred, gt)
    assert fused.calls == 5
    unfused()(pred, gt)
    with dl.use_backend("reference"):
        dl.SSILoss(backend="cpu")(pred, gt)
    assert fused.calls == 5
    with caplog.at_level(logging.WARNING, "depthloss"):
        dl.SSILoss()(pred, gt.requires_grad_())
    assert fused.calls == 5 and "gt requires a gradient" in caplog.text
    with pytest.raises(RuntimeError, match="gt requires a gradient"):
        dl.SSILoss(backend="cpu")(pred, gt)
    with pytest.raises(RuntimeError, match="pred lies on 'cpu'"):
        dl.L1Loss(backend="triton")(pred, gt.detach())


def test_use_backend_holds_for_its_thread():
    """Also in a compiled loss, and where blocks of several threads end in another order than they began."""
    pred, gt = cases.maps(torch.float32)
    trim = unfused()  # Fails wherever "cpu" is asked for by name.
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(trim, fullgraph=True, backend=counter)
    outer, inner = threading.Event(), threading.Event()

    def other():
        found = trim(pred, gt)
        compiled(pred, gt)
        with dl.use_backend("reference"):
            inner.set()
            assert outer.wait(10)
            compiled(pred, gt)
        return found

    compiled(pred, gt)
    with ThreadPoolExecutor(1) as pool:
        with dl.use_backend("cpu"):
            running = pool.submit(other)
            assert inner.wait(60)
            for loss in (trim, compiled):
                with pytest.raises(Exception, match="backend='cpu' cannot run: this loss has no fused form"):
                    loss(pred, gt)
            with dl.use_backend("auto"):
                trim(pred, gt)
        outer.set()
        assert torch.equal(running.result(60), compiled(pred, gt))
    assert counter.frame_count == 2  # Without a choice, and for "reference" of the other thread.


def test_use_backend_inside_a_compiled_function():
    pred, gt = cases.maps(torch.float32)
    loss = unfused(backend="cpu")

    def total(pred, gt):
        with dl.use_backend("reference"):
            return loss(pred, gt)

    torch._dynamo.reset()
    value = torch.compile(total, fullgraph=True, backend="aot_eager")(pred, gt)
    torch.testing.assert_close(value, total(pred, gt))
    with pytest.raises(RuntimeError, match="backend='cpu' cannot run"):
        loss(pred, gt)


def test_environment_report():
    out = subprocess.run(
        [sys.executable, "-m", "depthloss.env"], capture_output=True, text=True, check=True
    ).stdout
    for text in (
        f"torch{' ' * 14}{torch.__version__}",
        "backend reference  available",
        "backend triton",
        "backend cpu",
    ):
        assert text in out


@pytest.mark.parametrize("name", cases.LOSSES)
def test_compiles_without_a_graph_break(name):
    """One graph, forward and backward, metrics included, equal to eager."""
    pred, gt = cases.maps(torch.float32)
    m = cases.mask("70%")
    loss = cases.LOSSES[name]()
    expected, expected_grad = cases.run(loss, pred, gt, m, "auto")
    metrics = dict(loss.metrics)
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value, grad = cases.run(compiled, pred, gt, m, "auto")
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-6 * expected_grad.abs().max().item())
    assert loss.metrics.keys() == metrics.keys()
    for key, number in metrics.items():
        torch.testing.assert_close(loss.metrics[key], number, rtol=1e-5, atol=1e-6)


def test_compiles_for_any_size():
    torch._dynamo.reset()
    loss = dl.ScaleAdaptiveLoss()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for h, w in ((24, 41), (25, 64), (40, 30)):
        pred, gt = cases.maps(torch.float32, (2, 1, h, w))
        torch.testing.assert_close(compiled(pred, gt, gt > 0.4), loss(pred, gt, gt > 0.4), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["enhanced-ssi", "progressive-ssi", "scale-adaptive-progressive"])
def test_a_schedule_does_not_recompile(name):
    """The weights change with every epoch; the graph does so once, when they become dynamic."""
    torch._dynamo.reset()
    loss = dl.build_loss(name)
    counter = CompileCounter()
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    pred, gt = cases.maps(torch.float32)
    for epoch in range(12):
        value = compiled(pred, gt, progress=epoch / 11, epoch=epoch)
        torch.testing.assert_close(value, loss(pred, gt, progress=epoch / 11, epoch=epoch), rtol=1e-6, atol=0)
    assert counter.frame_count <= 3


def test_functional_twins_compile():
    torch._dynamo.reset()
    pred, gt = cases.maps(torch.float32)
    log_var = torch.tensor(0.3, requires_grad=True)

    def total(pred, gt, m, log_var):
        return (
            functional.g2_loss(pred, gt, m, variant="document", weights=[1, 2, 3])
            + functional.enhanced_ssi_loss(pred, gt, m, progress=0.3)
            + functional.adaptive_multi_domain_loss(pred, gt, m, log_var_scale=log_var)
            + functional.g2_loss(pred, gt, m, gradient=spec)
            + functional.ssi_loss(pred, gt, return_metrics=True)[1]["ssi_component"]
        )

    spec = dl.GradientSpec(border="zero", num_scales=2)

    expected = total(pred, gt, gt > 0.4, log_var)
    (expected_grad,) = torch.autograd.grad(expected, log_var)
    functional.kept._modules.clear()  # They are built while Dynamo traces.
    vars(functional.kept._traced).clear()
    value = torch.compile(total, fullgraph=True, backend="aot_eager")(pred, gt, gt > 0.4, log_var)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(value, log_var)[0], expected_grad, rtol=1e-5, atol=0)


def test_a_schedule_does_not_recompile_a_functional_twin():
    """Nor do modules that others ask for in between, though they push the kept one out."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(functional.enhanced_ssi_loss, fullgraph=True, backend=counter)
    pred, gt = cases.maps(torch.float32)
    for epoch in range(12):
        value = compiled(pred, gt, progress=epoch / 11, epoch=epoch)
        expected = functional.enhanced_ssi_loss(pred, gt, progress=epoch / 11, epoch=epoch)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    for step in range(functional.kept._MAX_MODULES):
        functional.ssi_loss(pred, gt, alpha=step / 100)
    compiled(pred, gt, progress=1.0, epoch=12)
    assert counter.frame_count <= 3


@pytest.mark.parametrize("error", [OSError("no libcpu.so"), ImportError("undefined symbol")])
def test_a_backend_that_does_not_load_is_a_reason(error, monkeypatch):
    def fail(name):
        raise error

    dispatch._load.cache_clear()
    monkeypatch.setattr(dispatch, "_loaded", {"reference": dispatch.reference})
    monkeypatch.setattr(dispatch.importlib, "import_module", fail)
    assert dispatch.backend_status("cpu") == f"it does not load: {error}"
    pred, gt = cases.maps(torch.float32)
    assert dl.SSILoss()(pred, gt).isfinite()
    with pytest.raises(RuntimeError, match="it does not load"):
        dl.SSILoss(backend="cpu")(pred, gt)
    dispatch._load.cache_clear()


@pytest.mark.parametrize("name", LOSSES)
def test_functional_twins(name):
    cls = LOSSES[name]
    pred, gt = cases.maps(torch.float64)
    m = cases.mask("70%")
    twin = TWINS[cls]
    loss = cls()
    expected = loss(pred, gt, m, progress=0.5, epoch=3)
    assert torch.equal(twin(pred, gt, m, progress=0.5, epoch=3), expected)
    total, metrics = twin(pred, gt, m, progress=0.5, epoch=3, return_metrics=True)
    assert torch.equal(total, expected) and list(metrics) == list(loss.metrics)
    assert all(torch.equal(x, loss.metrics[key]) for key, x in metrics.items())


@pytest.mark.parametrize("name", LOSSES)
def test_the_signatures_of_the_functional_twins(name):
    """Each is that of its class and of its forward, with the same defaults and types, three times."""
    cls = LOSSES[name]
    twin = TWINS[cls]
    forward = list(inspect.signature(cls.forward).parameters.values())[1:]
    keywords = [p for p in (*forward, *inspect.signature(cls).parameters.values())]
    # No loss of the registry asks for a confidence.
    expected = {p.name: (p.default, _type(p)) for p in keywords if p.name not in ("confidence", "unknown")}
    for log_var in dict(cls().named_parameters()):
        expected[log_var] = (None, "Tensor | None")
    found = inspect.signature(twin).parameters
    assert {p.name: (p.default, _type(p)) for p in found.values() if p.name != "unknown"} == expected
    positional = [p.name for p in found.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["pred", "gt", "mask"]
    written = [
        node
        for path in (Path(functional.__file__).parent).glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == twin.__name__
    ]
    assert [ast.unparse(node.returns) for node in written] == [
        "Tensor",
        "tuple[Tensor, Metrics]",
        "Tensor | tuple[Tensor, Metrics]",
    ]
    arguments = [ast.unparse(node.args) for node in written]
    assert arguments[0] == arguments[2].replace(
        "return_metrics: bool=False, **unknown: object", "return_metrics: Literal[False]=False"
    )
    assert arguments[1] == arguments[0].replace("Literal[False]=False", "Literal[True]")


def _type(parameter):
    return parameter.annotation.replace("dist.ProcessGroup | None", "Ranks")


def test_functional_twins_take_keywords():
    pred, gt = cases.maps(torch.float64)
    spec = dl.GradientSpec(mask="residual", num_scales=2)
    expected = dl.G2Loss("document", gradient=spec, weights=(1, 2, 3))(pred, gt, None, abs_mask=gt > 0.5)
    got = functional.g2_loss(
        pred, gt, variant="document", gradient=spec, weights=[1, 2, 3], abs_mask=gt > 0.5
    )
    assert torch.equal(got, expected)
    with pytest.raises(TypeError, match="lambda"):
        functional.g2_loss(pred, gt, lambda_sg=1)
    log_var = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    value = functional.adaptive_multi_domain_loss(pred, gt, log_var_scale=log_var)
    module = dl.AdaptiveMultiDomainLoss().double()
    with torch.no_grad():
        module.log_var_scale.fill_(0.3)
    expected = module(pred, gt)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    value.backward()
    expected.backward()
    torch.testing.assert_close(log_var.grad, module.log_var_scale.grad, rtol=1e-12, atol=0)


def test_the_code_that_type_checkers_see_runs():
    pred, gt = cases.maps(torch.float32)
    assert math.isfinite(user.main(pred, gt, gt > 0.4))


@pytest.mark.parametrize("name", LOSSES)
def test_modules_can_be_copied_and_saved(name):
    pred, gt = cases.maps(torch.float32)
    loss = dl.build_loss(f"sparse-{name}")
    expected = loss(pred, gt)
    assert torch.equal(copy.deepcopy(loss)(pred, gt), expected)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(pred, gt), expected)
    assert set(loss.state_dict()) == (
        {"log_var_structure", "log_var_scale"} if "adaptive-multi" in name else set()
    )
    assert all(metric.dim() == 0 and not metric.requires_grad for metric in loss.metrics.values())
    assert "spec=LossSpec" in repr(loss)


def test_functional_twins_do_not_pile_up():
    pred, gt = cases.maps(torch.float32)
    for step in range(100):
        functional.scale_adaptive_loss(pred, gt, lambda_sg=step / 100)
    assert len(functional.kept._modules) == functional.kept._MAX_MODULES
    expected = dl.ScaleAdaptiveLoss(lambda_sg=0.0)(pred, gt)
    assert torch.equal(functional.scale_adaptive_loss(pred, gt, lambda_sg=0.0), expected)


def test_functional_twins_keep_no_bad_argument_and_no_number_of_a_call():
    """A flag is not the number that equals it, also inside of a tuple; a kept module holds no tensor."""
    pred, gt = cases.maps(torch.float32)
    for weights in ((1.0, 1.0, 0.5), [1.0, 1.0, 0.5]):
        functional.g2_loss(pred, gt, weights=weights)
    functional.scale_adaptive_loss(pred, gt, use_absolute=True)
    with pytest.raises(ValueError, match="weights must be a finite number; got True"):
        functional.g2_loss(pred, gt, weights=(True, 1.0, 0.5))
    with pytest.raises(ValueError, match="use_absolute must be True or False; got 1"):
        functional.scale_adaptive_loss(pred, gt, use_absolute=1)
    with pytest.raises(ValueError, match="weights must be three numbers, of A, R and G; got {}"):
        functional.g2_loss(pred, gt, weights={})
    with pytest.raises(TypeError, match="gradient must be a depthloss.GradientSpec or None; got tuple"):
        functional.g2_loss(pred, gt, gradient=("support", "average", "replicate", "level", "mean", 4))
    with pytest.raises(TypeError, match="SSILoss has no keyword 'abs_mask'"):
        functional.ssi_loss(pred, gt, abs_mask=gt > 0)
    assert all(loss.metrics == {} for _, loss in functional.kept._modules.values())


def test_metrics_are_those_of_the_last_call_and_may_be_replaced():
    pred, gt = cases.maps(torch.float32)
    loss = dl.SSILoss()
    assert loss.metrics == {}
    total = loss(pred, gt)
    assert loss.metrics is loss.metrics and torch.equal(loss.metrics["total_loss"], total.detach())
    loss.metrics = loss.metrics | {"mine": total.detach()}
    assert "mine" in loss.metrics
    loss(pred, gt)
    assert "mine" not in loss.metrics


def _gradients(loss):
    return [term.gradient for term in loss.spec.terms if hasattr(term, "gradient")]


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_term_under_the_prefix_sparse(name):
    """A preset that is support, bilinear becomes support, average; nothing else changes."""
    keywords = {"gradient_weight": 0.1} if name == "ssi-silog" else {}
    plain, sparse = dl.build_loss(name, **keywords), dl.build_loss(f"sparse-{name}", **keywords)
    expected = [
        dataclasses.replace(g, downsample="average")
        if (g.mask, g.downsample) == ("support", "bilinear") and g.num_scales > 1  # Level 1 is not sampled.
        else g
        for g in _gradients(plain)
    ]
    assert _gradients(sparse) == expected
    if "gradient" not in inspect.signature(LOSSES[name]).parameters:
        return
    explicit = dl.GradientSpec(mask="support", downsample="bilinear", num_scales=3)
    for loss in (
        dl.build_loss(f"sparse-{name}", gradient=explicit, **keywords),
        dl.SupervisedLoss(f"sparse-{name}", gradient=explicit, **keywords).loss_func,
    ):
        assert _gradients(loss) == [explicit]
    assert _gradients(dl.build_loss(f"sparse-{name}", gradient=None, **keywords)) == expected
    assert _gradients(dl.SupervisedLoss(f"sparse-{name}", **keywords).loss_func) == expected
    if "num_scales" in inspect.signature(LOSSES[name]).parameters:
        six = dl.build_loss(f"sparse-{name}", num_scales=6)
        assert _gradients(six) == [dataclasses.replace(g, num_scales=6) for g in expected]
        with pytest.raises(ValueError, match="num_scales=6 contradicts gradient.num_scales=3"):
            dl.build_loss(f"sparse-{name}", num_scales=6, gradient=explicit)


def test_the_headline_example_has_a_gradient_term():
    """The README's first example, on 5% of the pixels."""
    rng = torch.Generator().manual_seed(0)
    gt = 0.1 + torch.rand(2, 1, 192, 640, generator=rng)
    loss = dl.build_loss("sparse-scale-adaptive")
    loss(gt * 1.2, torch.where(torch.rand(gt.shape, generator=rng) < 0.05, gt, 0.0))
    kept = [int(loss.metrics[f"gradient/support_{k}"]) for k in range(1, 5)]
    assert kept == [0, 0, 109, 2823]
    assert loss.metrics["loss_sg"] > 0


def test_a_clone_that_hides_the_installed_package_says_so(tmp_path):
    """Its folder comes first on the path, and its engines lie beside the package, not in it."""
    for name in ("depthloss", "kernels"):
        (tmp_path / name).symlink_to(Path(__file__).parents[1] / name)
    code = "from depthloss import dispatch; print(dispatch.backend_status('cpu'))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(torch.__file__).parents[1]}"},
    )  # fmt: skip
    assert done.stdout == (
        f"depthloss was imported from {tmp_path}, a clone that is not installed in this environment: "
        "run pip install -e . there, or start from another folder\n"
    )
