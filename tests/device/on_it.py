"""The library on a device, beside itself on the CPU: the same numbers, there, and nothing read back.

On a GPU where there is one, else on the simulated one: `python -m pytest -p tests.device.simulated
tests/device/on_it.py`; `test_simulated.py` does so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

import depthloss as dl
from depthloss import align, functional, metrics, protocols

from .. import cases
from .simulated import NAME, reads

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else NAME
# torch's kernels for a GPU sum in another order.
CLOSE = (
    {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-3} if ON_GPU else {}
)
SHAPE = (3, 1, 40, 56)
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def of_the_reference():
    """Here and there: a fused backend for either would be held against another."""
    with dl.use_backend("reference"):
        yield


@pytest.fixture
def maps():
    pred, gt = cases.maps(torch.float32, SHAPE)
    return pred, gt, cases.mask("70%", SHAPE)


@contextlib.contextmanager
def nothing_read() -> Iterator[None]:
    """The host does not wait for the device."""
    if ON_GPU:
        torch.cuda.set_sync_debug_mode("error")
    reads.clear()
    try:
        yield
    finally:
        if ON_GPU:
            torch.cuda.set_sync_debug_mode("default")
    assert not reads


def to(device: str, x: Any) -> Any:
    return tree_map(lambda y: y.detach().to(device) if isinstance(y, torch.Tensor) else y, x)


def hold(function: Callable, *given: torch.Tensor, reading: bool = False) -> None:
    """`function` of the tensors there and here: tensors, numbers and text are the same.

    `reading`: the host may read what it computes.
    """
    expected = function(*given)
    there = to(DEVICE, given)
    function(*there)  # Warm: what is made once may be read.
    with contextlib.nullcontext() if reading else nothing_read():
        found = function(*there)
    if not reading:
        assert {x.device.type for x in tree_leaves(found) if isinstance(x, torch.Tensor)} == {DEVICE}
    pairs = zip(tree_leaves(to("cpu", found)), tree_leaves(to("cpu", expected)), strict=True)
    for x, y in pairs:
        if isinstance(y, torch.Tensor):
            assert x.dtype == y.dtype and x.shape == y.shape and torch.equal(x.isnan(), y.isnan())
            # NumPy computes the fits and metrics of tensors on the CPU.
            close = CLOSE.get(y.dtype, 1e-14 if reading else 0.0)
            x, y = (z.double().nan_to_num() for z in (x, y))
            wrong = (x - y).abs() > close * (y.abs().max() if y.numel() else 1.0)
            # On a GPU a pixel may lie on the other side of a kink.
            assert wrong.double().mean() <= (1e-3 if ON_GPU else 0.0) if wrong.dim() else not wrong
        elif isinstance(y, float):
            assert x == pytest.approx(y, rel=1e-4 if ON_GPU else 1e-7, nan_ok=True)
        else:
            assert x == y


def there(made: dict, build: Callable, device: torch.device) -> torch.nn.Module:
    """The loss that `build` makes, moved once."""
    if device not in made:
        made[device] = build().to(device)
    made[device].zero_grad()
    return made[device]


def trained(build: Callable, **call: Any) -> Callable:
    """The loss that `build` makes, as a training uses it: value, metrics, all gradients."""
    names, made = ("mask", "weight", "confidence"), {}

    def run(pred: torch.Tensor, gt: torch.Tensor, *rest: torch.Tensor) -> tuple:
        loss, pred = there(made, build, pred.device), pred.clone().requires_grad_()
        value = loss(pred, gt, **dict(zip(names, rest, strict=False)), **call)
        value.sum().backward()
        return value, pred.grad, dict(loss.metrics), [p.grad for p in loss.parameters()]

    return run


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", cases.LOSSES)
def test_losses(name, dtype, maps):
    pred, gt, mask = maps
    hold(trained(cases.LOSSES[name], progress=0.4, epoch=3), pred.to(dtype), gt.to(dtype), mask)


@pytest.mark.parametrize("name", dl.available_losses())
def test_losses_of_sparse_ground_truth(name, maps):
    pred, gt, mask = maps
    hold(trained(lambda: dl.build_loss(f"sparse-{name}")), pred, torch.where(mask, gt, 0))


@pytest.mark.parametrize("name", dl.available_recipes())
def test_recipes(name, maps):
    loss = dl.recipe(name)
    confidence = (1.0 + maps[0],) if loss.spec.confidence else ()
    weight = (torch.ones(SHAPE),) if confidence else ()
    hold(trained(lambda: dl.recipe(name)), *maps, *weight, *confidence)


@pytest.mark.parametrize("reduction", ("pixels", "images", "none"))
def test_a_weight_of_each_pixel(reduction, maps):
    weight = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    hold(trained(lambda: dl.ScaleShiftInvariantLoss(reduction=reduction)), *maps, weight)


@pytest.mark.parametrize("name", [name for name in dir(functional) if name.endswith("_loss")])
def test_functions(name, maps):
    names = ("log_var_structure", "log_var_scale") if name == "adaptive_multi_domain_loss" else ()

    def call(pred: torch.Tensor, gt: torch.Tensor, mask: torch.Tensor, *rest: torch.Tensor) -> tuple:
        log_vars = dict(zip(names, rest, strict=True))
        return getattr(functional, name)(pred, gt, mask, return_metrics=True, **log_vars)

    hold(call, *maps, *(torch.tensor(0.3) for _ in names))


@pytest.mark.parametrize("method", ("sparse-scale-adaptive", "sparse-adaptive-multi-domain"))
def test_supervised(method, maps):
    (pred, gt, mask), made = maps, {}

    def run(gt: torch.Tensor, *preds: torch.Tensor) -> tuple:
        loss = there(made, lambda: dl.SupervisedLoss(method, 4), gt.device)
        preds = [p.clone().requires_grad_() for p in preds]
        found = loss(preds, gt, masks=gt > 0, return_logs=True)
        found["loss"].backward()
        return found, [x.grad for x in (*preds, *loss.parameters())]

    scales = [torch.nn.functional.avg_pool2d(pred, 2**i) for i in range(4)]
    hold(run, torch.where(mask, gt, 0), *scales)


def test_conversions(maps):
    hold(lambda p: (dl.to_inverse_depth(p), dl.to_depth(p)), maps[0])


@pytest.mark.parametrize("name", ("g2", "affine-invariant", "adaptive-multi-domain"))
def test_explain(name, maps):
    """The same text, but for where it ran."""

    def call(*given: torch.Tensor) -> list[str]:
        text = str(dl.explain(dl.build_loss(name).to(given[0].device), *given))
        return [line for line in text.splitlines() if "backend" not in line and "device" not in line]

    hold(call, *maps, reading=True)


FITS = ("median", "median_ratio", "least_squares", "least_squares_scale", "l1", "l1_scale")


@pytest.mark.parametrize("name", FITS)
def test_alignments(name, maps):
    def call(pred: torch.Tensor, gt: torch.Tensor, mask: torch.Tensor) -> tuple:
        found = getattr(align, name)(pred[:, 0], gt[:, 0], mask[:, 0])
        return found.scale, found.shift, found.apply(pred[:, 0])

    hold(call, *maps, reading=True)


def test_depth_metrics(maps):
    def call(*given: torch.Tensor) -> dict:
        metric = metrics.DepthMetrics(1e-3, 80.0).to(given[0].device)
        metric.update(*given)
        return {name: float(x) for name, x in metric.compute().items()}

    hold(call, *maps, reading=True)


@pytest.mark.parametrize("name", protocols.protocol_names())
def test_protocols(name, maps):
    def call(pred: torch.Tensor, gt: torch.Tensor) -> dict:
        metric = protocols.ProtocolMetrics(name).to(pred.device)
        metric.update(pred, gt)
        return {name: float(x) for name, x in metric.compute().items()}

    size = (480, 640) if name == "nyu-eigen" else SHAPE[2:]
    hold(call, *(10.0 * torch.nn.functional.interpolate(x, size) for x in maps[:2]), reading=True)


def test_edges_planes_and_clips(maps):
    """Metrics of one map, and of maps that follow each other."""
    pred, gt, mask = (x[0, 0] for x in maps)
    upper = torch.arange(SHAPE[2]) < SHAPE[2] // 2
    planes = torch.where(upper, 1, 2)[:, None].expand(SHAPE[2:]).contiguous()
    normals = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    intrinsics = torch.tensor([[50.0, 0.0, 28.0], [0.0, 50.0, 20.0], [0.0, 0.0, 1.0]])
    poses = torch.eye(4).repeat(SHAPE[0], 1, 1)
    poses[:, 0, 3] = 0.1 * torch.arange(SHAPE[0])
    for function, *given in (
        (lambda *m: metrics.edge_metrics(*m, 1.05), pred, gt, mask),
        (metrics.depth_pro_f1, pred, gt, mask),
        (metrics.moge_f1, pred, gt, mask),
        (metrics.boundary_scores, pred, gt, mask),
        (metrics.depth_boundary_errors, pred, gt > gt.median()),
        (metrics.planarity_errors, pred, gt, planes, normals, intrinsics),
        (metrics.temporal_alignment_error, 3.0 * maps[0][:, 0], intrinsics, poses),
    ):
        hold(function, *given, reading=True)


@pytest.mark.parametrize("sparse", (False, True))
def test_a_training_step(sparse):
    """The network, its loss at four scales, and all gradients."""
    pytest.importorskip("jsonargparse", reason="the training needs the extra [train]")
    from depthloss.training import cli
    from depthloss.training.configuration.parser import parse

    words = ["--model.depth_net.width", "0.25", "--model.depth_net.sparse_branch", str(sparse)]
    cfg, _ = parse("configs/synthetic.yaml", [*words, "--model.loss.backend", "reference"])
    rng = torch.Generator().manual_seed(0)
    rgb, depth = (torch.rand(2, n, 64, 96, generator=rng) for n in (3, 1))
    batch = {"rgb": rgb, "depth": 1.0 + 20.0 * depth}
    if sparse:
        batch["input_depth"] = torch.where(depth < 0.3, batch["depth"], 0)
    values = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        model = cli.build_model(cfg).to(device).train()
        value = model(to(device, batch))["loss"]
        value.backward()
        assert value.device.type == device and all(p.grad is not None for p in model.parameters())
        values.append(value.item())
    assert values[1] == pytest.approx(values[0], rel=1e-2 if ON_GPU else 1e-6)


def test_what_is_on_another_device_is_named(maps):
    pred, gt, mask = maps
    with pytest.raises(ValueError, match=f"all inputs must be on one device.*{DEVICE}"):
        dl.L1Loss()(pred.to(DEVICE), gt, mask)
    with (
        dl.use_backend("auto"),
        pytest.raises(ValueError, match="log-variances must be on pred's device; got cpu"),
    ):
        dl.AdaptiveMultiDomainLoss()(*to(DEVICE, maps))


@pytest.mark.skipif(ON_GPU, reason="of the simulated device alone")
def test_the_device_refuses_what_a_gpu_would():
    x = torch.arange(6.0, device=DEVICE).view(2, 3)
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        x + torch.ones(3)
    with pytest.raises(TypeError, match="can't convert"):
        x.numpy()
    reads.clear()
    assert x.sum().item() == 15 and x[:, 1].tolist() == [1, 4] and bool((x > 4).any())
    assert reads == ["_local_scalar_dense", "tolist", "_local_scalar_dense"]
