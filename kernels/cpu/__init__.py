"""The native CPU backend: one loss, forward and backward, in C++ on a few threads.

`forward` and `backward` are what `depthloss.autograd` puts behind autograd and behind custom operators.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from ctypes import Array, addressof, c_double, c_int64
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from depthloss.spec import LossSpec, parse

from ..plan import MOST, make_plan
from . import memory
from .binding import (
    COEFFICIENTS,
    HEAD,
    LOG_VAR,
    TOTALS,
    Call,
    CPlan,
    Reduce,
    c_plan,
    library,
    new_call,
    set_map,
)

DEVICES = ("cpu",)


def unavailable() -> str | None:
    """Why this machine cannot run the engine, or None."""
    try:
        library()
    except OSError as error:
        return str(error)
    return None


def instruction_set() -> str:
    """What the engine runs on here: ``"base"``, ``"avx2"`` or ``"avx512"``."""
    return library().dl_instruction_set().decode()


@functools.cache
def _plan(text: str) -> CPlan:
    return c_plan(make_plan(parse(text)))


def code_count(spec: LossSpec, b: int, h: int, w: int) -> int:
    """Bytes of codes that the forward of a [b, h, w] batch saves; also of symbolic sizes."""
    plan = _plan(spec.text)
    if not plan.codes:
        return 0
    levels, rest = plan.levels, plan.forward
    cells = [((h + rest * (2**k - 1)) // 2**k) * ((w + rest * (2**k - 1)) // 2**k) for k in range(levels)]
    size = 2 * h * w + sum(cells[1:2]) + 2 * sum(cells[2:])
    return b * ((size + 1) // 2 * 2)


def coefficient_count(b: int) -> int:
    """Numbers that the forward saves beside the codes: doubles, which take two of float32."""
    return 2 * (HEAD + b * COEFFICIENTS)


def _call(pred: Tensor, inputs: Sequence[Tensor | None], dtype: torch.dtype) -> tuple:
    """The call of a batch like `pred`, and what must be kept alive for it.

    `inputs`: pred, gt, mask, abs_mask, weight and confidence, None where there is none; or none at all.
    """
    call = new_call()
    places = (call.pred, call.gt, call.mask, call.abs_mask, call.weight, call.confidence)
    kept = [set_map(place, x) for place, x in zip(places, inputs, strict=False)]
    call.B, call.H, call.W = pred.shape[0], *pred.shape[-2:]
    call.in_double = dtype == torch.float64
    call.threads = torch.get_num_threads()
    return call, kept


def _empty_like(x: Tensor) -> Tensor:
    return memory.empty(x.shape, x.dtype) if x.is_contiguous() else torch.empty_like(x)


def _out_of_memory(pred: Tensor) -> MemoryError:
    return MemoryError(f"the CPU engine could not get its working memory for a batch of {tuple(pred.shape)}")


def _largest(plan: CPlan, call: Call, pred: Tensor, process_group: dist.ProcessGroup | None) -> Array:
    """The largest residuals of the joined batch, for penalties that need them."""
    found = (c_double * MOST)()
    if library().dl_largest(plan, call, found):
        raise _out_of_memory(pred)
    if process_group is not None:
        most = torch.tensor(found, dtype=torch.float64, device="cpu")
        dist.all_reduce(most, op=dist.ReduceOp.MAX, group=process_group)
        found[:] = most.tolist()
    return found


def _add_up(group: dist.ProcessGroup, failed: list[BaseException], numbers: Any, n: int) -> None:
    """Adds up n counts of all ranks in place. What goes wrong is raised when the engine has returned."""
    try:
        counts = (c_int64 * n).from_address(addressof(numbers.contents))
        mine = torch.tensor(counts, dtype=torch.int64, device="cpu")
        dist.all_reduce(mine, group=group)
        counts[:] = mine.tolist()
    except Exception as error:
        failed.append(error)


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
        process_group: evaluate the joined batch of its ranks, by one collective (berHu: two).
        dtype: of the arithmetic and the result, float32 or float64.
        saves: whether a backward will follow.
        weight: as `pred`, how much each pixel counts, or None.
        confidence: as `pred`, of the terms that ask for one.

    Returns:
        The total (0-dim, or [B] where `spec.by_image`), the vector of metrics, and what `backward` needs:
        codes (uint8) and coefficients.

    Raises:
        MemoryError: the working memory cannot be had.
    """
    lib, plan = library(), _plan(spec.text)
    call, kept = _call(pred, (pred, gt, mask, abs_mask, weight, confidence), dtype)
    b, h, w = call.B, call.H, call.W
    codes = memory.empty((code_count(spec, b, h, w) if saves else 0,), torch.uint8)
    coefficients = torch.empty(coefficient_count(b) if saves or log_vars else 0, dtype=dtype, device="cpu")
    # Plain arrays of doubles: a tensor costs microseconds.
    numbers = (c_double * spec.num_weights)(*(weights.tolist() if isinstance(weights, Tensor) else weights))
    s = (c_double * len(log_vars))(*[v.item() for v in log_vars])
    totals = (c_double * TOTALS)()
    terms = torch.empty(len(spec.metric_names), dtype=dtype, device="cpu")
    total = torch.empty((b,) if spec.by_image else (), dtype=dtype, device="cpu")
    call.saves = saves
    call.world = 1
    call.weights, call.log_vars = addressof(numbers), addressof(s)
    call.terms, call.total = terms.data_ptr(), total.data_ptr()
    call.codes, call.coefficients = codes.data_ptr(), coefficients.data_ptr()
    if plan.largest:
        largest = _largest(plan, call, pred, process_group)
        call.largest = addressof(largest)
    failed: list[BaseException] = []
    if process_group is not None:
        call.reduce = Reduce(functools.partial(_add_up, process_group, failed))
    state = lib.dl_measure(plan, call, totals)
    if failed:
        raise failed[0]
    if not state:
        raise _out_of_memory(pred)
    if process_group is not None:
        call.world = dist.get_world_size(process_group)
        own = torch.tensor(totals, dtype=torch.float64, device="cpu")
        rows = [torch.empty_like(own) for _ in range(call.world)]
        dist.all_gather(rows, own, group=process_group)
        totals = (c_double * (TOTALS * call.world))(*torch.cat(rows).tolist())
    call.totals = addressof(totals)
    lib.dl_combine(call, state)
    del kept
    return total, terms, codes, coefficients


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
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradient of the total with respect to pred, in its shape and dtype, to the log-variances, [groups], and
    to the confidence, in its shape and dtype.

    Without `wants_pred` the first is empty, without `wants_confidence` the last is None.
    """
    plan = _plan(spec.text)
    log_vars = coefficients.new_empty(0)
    if plan.num_log_vars:
        slopes = coefficients.view(torch.float64)[LOG_VAR : LOG_VAR + plan.num_log_vars]
        log_vars = (slopes * grad_output).to(dtype)
    grad = _empty_like(pred) if wants_pred else pred.new_empty(0)
    of_confidence = _empty_like(confidence) if wants_confidence else None
    if not pred.numel() or not (wants_pred or wants_confidence):
        return grad, log_vars, of_confidence
    again = make_plan(spec).reads_pred or weight is not None
    call, kept = _call(pred, (pred, gt, mask, abs_mask, weight, confidence) if again else (), dtype)
    set_map(call.grad, grad if wants_pred else None)
    set_map(call.grad_confidence, of_confidence)
    call.codes, call.coefficients = codes.data_ptr(), coefficients.data_ptr()
    by_image = grad_output.dim() > 0
    upstream = (
        (c_double * len(grad_output))(*grad_output.tolist()) if by_image else c_double(grad_output.item())
    )
    call.grad_output = addressof(upstream)
    if library().dl_backward(plan, call):
        raise _out_of_memory(pred)
    del kept
    return grad, log_vars, of_confidence


def choose(name: str | None) -> bool:
    """Run on one instruction set, ``"base"``, ``"avx2"`` or ``"avx512"``; None = the best there is.

    Returns:
        Whether this machine and this build have it.
    """
    return not library().dl_choose(name.encode() if name else None)


def log(x: Tensor) -> Tensor:
    """ln x as the engine computes it.

    Args:
        x: contiguous, float32 or float64; a multiple of 16 numbers.
    """
    y = torch.empty_like(x)
    library().dl_log(x.data_ptr(), y.data_ptr(), x.numel(), x.dtype == torch.float64)
    return y
