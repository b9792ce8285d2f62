"""The Triton backend: one loss, forward and backward, in at most four and two launches.

`forward` and `backward` are what `depthloss.autograd` puts behind autograd and behind custom operators.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
import triton
from torch import Tensor

from depthloss.spec import LossSpec

from ..plan import make_plan
from . import launch, moments, table
from .geometry import code_bytes

INTERPRETED = not isinstance(moments.moments, triton.runtime.JITFunction)
DEVICES = ("cuda", "cpu") if INTERPRETED else ("cuda",)
_OLDEST = (3, 4)  # Attributes of a constant, as of a plan, are nothing to kernels before.
_OLDEST_GPU = (7, 5)


def _version(text: str) -> tuple[int, ...]:
    """Major and minor of 3.8.0+git, 2.4rc1 and the like."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _interpreter_obstacle(of_triton: tuple[int, ...], of_numpy: tuple[int, ...]) -> str | None:
    if of_triton < (3, 7) and of_numpy >= (2, 4):
        return (
            f"the interpreter of triton {triton.__version__} fails with numpy {np.__version__}: "
            "install triton >= 3.7 or numpy < 2.4"
        )
    return None


def unavailable() -> str | None:
    """Why this machine cannot run the kernels, or None."""
    version = _version(triton.__version__)
    if version < _OLDEST:
        return (
            f"it needs triton >= {'.'.join(map(str, _OLDEST))}, which torch 2.8 and later bring; "
            f"{triton.__version__} is installed"
        )
    if INTERPRETED:
        return _interpreter_obstacle(version, _version(np.__version__))
    if not torch.cuda.is_available():
        return "torch finds no GPU (TRITON_INTERPRET=1 runs the kernels on CPU tensors, slowly)"
    if not torch.version.hip and torch.cuda.get_device_capability() < _OLDEST_GPU:
        return f"it needs compute capability >= 7.5; the GPU has {torch.cuda.get_device_capability()}"
    try:
        triton.runtime.driver.active.get_current_device()
    except (
        Exception
    ) as error:  # Building its launcher can fail in many ways: no compiler, no headers, no driver.
        return f"triton cannot drive the GPU: {error}"
    return None


@functools.cache
def _architecture(device: torch.device) -> int | str:
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return 10 * properties.major + properties.minor


@functools.lru_cache(maxsize=1024)
def parameters(device: torch.device, height: int, width: int) -> table.Parameters:
    """The launch parameters for images of this size on this device."""
    if INTERPRETED:
        return table.one_tile(height, width)
    return table.choose(_architecture(device), height, width)


def _on(device: torch.device) -> contextlib.AbstractContextManager:
    """Triton launches on the current device, whatever its arguments' is."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def code_count(spec: LossSpec, b: int, h: int, w: int) -> int:
    """Bytes of codes that the forward of a [b, h, w] batch saves; also of symbolic sizes."""
    return sum(code_bytes(make_plan(spec), b, h, w))


def coefficient_count(b: int) -> int:
    """Numbers that the forward saves beside the codes."""
    return launch.coefficient_count(b)


def _maps(*maps: Tensor | None) -> list[Tensor | None]:
    """[B, 1, H, W] as [B, H, W]."""
    return [x.squeeze(1) if x is not None and x.dim() == 4 else x for x in maps]


def forward(
    pred: Tensor,
    gt: Tensor,
    mask: Tensor | None,
    abs_mask: Tensor | None,
    spec: LossSpec,
    weights: Sequence[float] | Tensor,
    log_vars: Sequence[Tensor],
    process_group: dist.ProcessGroup | None,
    dtype: torch.dtype,
    saves: bool,
    weight: Tensor | None = None,
    confidence: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Evaluate a loss.

    Args:
        pred: [B, H, W] or [B, 1, H, W], any strides, as `gt` and the masks.
        gt: as `pred`.
        mask: non-zero = valid, or None.
        abs_mask: mask of the absolute term, or None = `mask`.
        spec: the loss.
        weights: `spec.num_weights` numbers, or a tensor of them.
        log_vars: 0-dim tensors.
        process_group: evaluate the joined batch of its ranks, by one more launch and one collective (berHu:
            two).
        dtype: of the arithmetic and the result, float32 or float64.
        saves: whether a backward will follow.
        weight: as `pred`, how much each pixel counts, or None.
        confidence: as `pred`, of the terms that ask for one.

    Returns:
        The total (0-dim, or [B] where `spec.by_image`), the vector of metrics, and what `backward` needs:
        codes (uint8) and coefficients.
    """
    pred, gt, mask, abs_mask, weight, confidence = _maps(pred, gt, mask, abs_mask, weight, confidence)
    world = 1 if process_group is None else dist.get_world_size(process_group)
    plan, exchange = make_plan(spec), process_group is not None
    with _on(pred.device):
        run = launch.Forward(
            plan,
            parameters(pred.device, *pred.shape[1:]),
            pred,
            gt,
            mask,
            abs_mask,
            weights,
            log_vars,
            dtype,
            saves,
            world,
            exchange,
            weight,
            confidence,
        )
        run.first.run()
        if exchange and plan.largest:
            run.largest_of_rank().run()
            dist.all_reduce(run.found, op=dist.ReduceOp.MAX, group=process_group)
        for step in run.middle:
            step.run()
            if exchange and step.counts is not None:
                dist.all_reduce(step.counts, group=process_group)
        if exchange:
            run.last(collect=True, combine=False).run()
            rows = [torch.empty_like(run.totals) for _ in range(world)]
            dist.all_gather(rows, run.totals, group=process_group)
            run.totals = torch.cat(rows)
        run.last(collect=not exchange, combine=True).run()
    return run.total, run.terms, run.codes, run.coefficients


def backward(
    grad_output: Tensor,
    codes: Tensor,
    coefficients: Tensor,
    pred: Tensor,
    gt: Tensor,
    mask: Tensor | None,
    abs_mask: Tensor | None,
    spec: LossSpec,
    dtype: torch.dtype,
    wants_pred: bool = True,
    weight: Tensor | None = None,
    confidence: Tensor | None = None,
    wants_confidence: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the total with respect to pred, in its shape and dtype, to the log-variances, [groups], and
    to the confidence, in its shape and dtype.

    Without `wants_pred` the first is empty, without `wants_confidence` the last.
    """
    if not (wants_pred or wants_confidence) or not pred.numel():
        # No program would run to write them.
        log_vars = launch.log_var_gradients(make_plan(spec), coefficients) * grad_output.sum()
        of_pred = torch.empty_like(pred) if wants_pred else pred.new_empty(0)
        return of_pred, log_vars, torch.empty_like(confidence) if wants_confidence else pred.new_empty(0)
    maps = _maps(pred, gt, mask, abs_mask)
    with _on(pred.device):
        steps, grad, log_vars, of_confidence = launch.backward_launches(
            make_plan(spec),
            parameters(pred.device, *pred.shape[-2:]),
            grad_output,
            codes,
            coefficients,
            *maps,
            dtype,
            *_maps(weight, confidence),
            wants_confidence,
        )
        for step in steps:
            step.run()
    # In place: a view that a Function returns cannot be changed in place.
    grad = grad.unsqueeze_(1) if pred.dim() == 4 else grad
    if wants_confidence and confidence.dim() == 4:
        of_confidence.unsqueeze_(1)
    return grad if wants_pred else pred.new_empty(0), log_vars, of_confidence
