"""Time of forward and backward of a loss, in the forms that there are of it."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

import depthloss
from depthloss import dispatch

from . import rivals

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FORMS = ("ours", "by hand", "reference", "by hand, compiled", "reference, compiled")
TOLERANCE = {"loss": 5e-6, "gradient": 2e-3}  # float32 moves single pixels across a kink.
_ROTATED_BYTES, _MOST_CLONES = 128 * 2**20, 16
_SAMPLE_S, _LEAST_SAMPLES = 0.02, 5


def inputs(
    shape: Sequence[int], dtype: torch.dtype, device: str, density: float, domain: str, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """A smooth map with a step and noise as ground truth, a noisy prediction of it, and a bool mask.

    `domain` is a loss's `input_domain`. Everything is positive and finite, at invalid pixels too: the eager
    forms multiply by their masks.
    """
    rng = torch.Generator().manual_seed(seed)
    b, _, h, w = shape
    y, x = torch.meshgrid(torch.linspace(0, 3, h), torch.linspace(0, 5, w), indexing="ij")
    scene = 0.3 + 0.2 * torch.sin(x + 0.7 * y) * torch.cos(y) + 0.3 * (x > 2.3)
    uniform = functools.partial(torch.rand, generator=rng)
    gt = scene * (0.6 + uniform(b, 1, 1, 1)) * (0.9 + 0.2 * uniform(shape))
    pred = gt * (0.7 + 0.8 * uniform(shape)) + 0.02
    mask = uniform(shape) < density
    if domain == "depth":
        pred, gt = 1.0 / pred, 1.0 / gt
    return pred.to(device, dtype), gt.to(device, dtype), mask.to(device)


def build(name: str, backend: str, device: str) -> depthloss.losses.base.DepthLoss:
    """A loss of the benchmark: a registry name, with a variant such as ``"g2 document"``, or a recipe's."""
    if name in depthloss.available_recipes():
        return depthloss.recipe(name, backend=backend).to(device)
    base, _, variant = name.partition(" ")
    options = {"trim": 0.2} if variant == "trimmed" else {"variant": variant} if variant else {}
    return depthloss.build_loss(base, **options, backend=backend).to(device)


# What `build` takes beside the names of `available_losses`.
FORMS_OF_LOSSES = ("g2 published", "g2 document", "affine-invariant trimmed", "e2e-ft", "midas-robust")


def domain_of(name: str) -> str:
    """What the maps of a loss hold."""
    return build(name, "reference", "cpu").input_domain


def backend_of(name: str, device: str) -> str:
    """The backend that ``"auto"`` takes for a loss on a device."""
    fused = {"cpu": "cpu", "cuda": "triton"}.get(device)
    runs = fused in build(name, "auto", "cpu").spec.fused and dispatch.backend_status(fused) is None
    return fused if runs else "reference"


def module_of(name: str, form: str, device: str) -> torch.nn.Module:
    """A loss in a form: ``"by hand"``, or a backend's name."""
    return rivals.build(name).to(device) if form in ("by hand", "eager") else build(name, form, device)


def forward_and_backward(name: str, form: str, device: str, compiled: bool = False) -> Callable[..., tuple]:
    """A function of (pred, gt, mask) that returns the loss and its gradients."""
    module = module_of(name, form, device)
    schedule = {} if form in ("by hand", "eager") else {"progress": rivals.PROGRESS, "epoch": rivals.EPOCH}
    parameters = [p for p in module.parameters() if p.requires_grad]
    function = torch.compile(module, dynamic=False) if compiled else module

    def call(pred: Tensor, gt: Tensor, mask: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if not pred.requires_grad:
            pred = pred.detach().requires_grad_()
        loss = function(pred, gt, mask, **schedule)
        return loss.detach(), torch.autograd.grad(loss, [pred, *parameters])

    return call


def error(got: tuple, expected: tuple) -> dict[str, float]:
    """Relative error of the loss, and of the gradients in the Euclidean norm."""
    tiny = 1e-30
    (loss, grads), (exact, exact_grads) = got, expected
    pairs = list(zip(grads, exact_grads, strict=True))
    return {
        "loss": float((loss.double() - exact).abs() / exact.abs().clamp(min=tiny)),
        "gradient": max(float((a.double() - b).norm() / b.norm().clamp(min=tiny)) for a, b in pairs),
    }


def oracle(name: str, pred: Tensor, gt: Tensor, mask: Tensor) -> tuple:
    """Loss and gradients of the reference in float64."""
    module = build(name, "reference", pred.device.type).double()
    pred = pred.detach().double().requires_grad_()
    loss = module(pred, gt.double(), mask, progress=rivals.PROGRESS, epoch=rivals.EPOCH)
    return loss.detach(), torch.autograd.grad(loss, [pred, *module.parameters()])


@dataclass(frozen=True)
class Case:
    """What is measured: a loss such as ``"g2 document"``, (B, H, W), the share of valid pixels."""

    loss: str
    shape: tuple[int, int, int]
    valid: float


def measure(
    case: Case, forms: Sequence[str], device: str, seconds: float, said: Callable[[str], None]
) -> list[dict]:
    """Milliseconds of forward + backward, float32: a row for each form that computes the right numbers.

    All forms take turns, on inputs that change from call to call. `said` gets what went wrong.
    """
    b, h, w = case.shape
    try:
        maps = inputs((b, 1, h, w), torch.float32, device, case.valid, domain_of(case.loss))
        count = max(2, min(_MOST_CLONES, _ROTATED_BYTES // (9 * b * h * w)))
        clones = [tuple(x.clone() for x in maps) for _ in range(count)]
        expected, calls = oracle(case.loss, *maps), {}
    except (RuntimeError, MemoryError) as reason:
        said(f"{case.loss} at {b}x{h}x{w}: {reason}"[:300])
        return []
    for pred, _, _ in clones:
        pred.requires_grad_()
    for form in forms:
        kind = {"ours": "auto"}.get(form.split(",")[0], form.split(",")[0])
        try:
            call = forward_and_backward(case.loss, kind, device, form.endswith("compiled"))
            found = error(call(*maps), expected)
        except Exception as reason:  # A form of PyTorch's that does not run here is left out, and named.
            said(f"{case.loss}, {form}: {type(reason).__name__}: {reason}"[:300])
            continue
        if any(math.isnan(found[key]) or found[key] > TOLERANCE[key] for key in TOLERANCE):
            said(f"{case.loss}, {form}: not timed, as its numbers are wrong: {found}")
            continue
        calls[form] = call
    sync = torch.cuda.synchronize if device == "cuda" else lambda: None
    times: dict[str, list[float]] = {form: [] for form in calls}
    spent, repeats, turn = dict.fromkeys(calls, 0.0), {}, 0
    while any(s < seconds or len(times[form]) < _LEAST_SAMPLES for form, s in spent.items()):
        for form, call in calls.items():
            if spent[form] >= seconds and len(times[form]) >= _LEAST_SAMPLES:
                continue
            n = repeats.get(form, 1)
            sync()
            begin = time.perf_counter()
            for _ in range(n):
                turn += 1
                call(*clones[turn % count])
            sync()
            took = time.perf_counter() - begin
            spent[form] += took
            if form in repeats:
                times[form].append(1e3 * took / n)
            else:
                repeats[form] = max(1, int(_SAMPLE_S / took))
    backend = backend_of(case.loss, device) if times else ""
    return [
        asdict(case) | {"form": form, "backend": backend if form == "ours" else "", "ms": spread(values)}
        for form, values in times.items()
    ]


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median, and the values that a fifth of the samples lie below and above."""
    cuts = statistics.quantiles(values, n=5, method="inclusive")
    return {"median": statistics.median(values), "p20": cuts[0], "p80": cuts[-1], "samples": len(values)}
