"""Fused backends behind autograd: a Function in eager mode, custom operators under torch.compile.

A fused backend is a module with

* ``DEVICES``: the device types whose tensors it takes, and ``unavailable() -> str | None``,
* ``forward(pred, gt, mask, abs_mask, spec, weights, log_vars, process_group, dtype, saves)`` on maps
  [B, H, W] or [B, 1, H, W] -> (total, terms, codes, coefficients); weights are numbers, or a tensor of them,
* ``backward(grad_output, codes, coefficients, pred, gt, mask, abs_mask, spec, dtype, wants_pred)`` ->
  (gradient of pred, gradients of the log-variances),
* both, where `depthloss.spec.roles` says that it takes a weight or a confidence of each pixel, with the
  arguments ``weight, confidence`` behind, and ``wants_confidence`` behind those of the backward, whose third
  result is then the gradient of the confidence, and
* ``code_count(spec, b, h, w)``, ``coefficient_count(b)``: sizes of what is saved, also of symbolic shapes.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from .maps import working_dtype
from .spec import LossSpec, parse
from .transforms import unreadable

_NO_SECOND_DERIVATIVE = (
    "backend={name!r} has no second derivatives (create_graph=True): use backend='reference' for this loss"
)
GT_GRADIENT = "gt requires a gradient, which only the reference backend computes; detach gt"
_UNREADABLE = "backend={name!r} cannot read grad_output, {reason}: use backend='reference' for this loss"


@functools.cache
def module(name: str) -> ModuleType:
    """The backend called `name`."""
    return importlib.import_module(f"depthloss.kernels.{name}")


class _Call(NamedTuple):
    backend: str
    spec: LossSpec
    weights: Sequence[float]
    group: dist.ProcessGroup | None
    dtype: torch.dtype


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, pred, gt, mask, abs_mask, weight, confidence, call: _Call, *log_vars):
        total, terms, codes, coefficients = module(call.backend).forward(
            pred,
            gt,
            mask,
            abs_mask,
            call.spec,
            call.weights,
            log_vars,
            call.group,
            call.dtype,
            ctx.needs_input_grad[0] or ctx.needs_input_grad[5],
            *_extras(weight, confidence),
        )
        ctx.call, ctx.log_var_dtypes = call, [v.dtype for v in log_vars]
        ctx.save_for_backward(codes, coefficients, pred, gt, mask, abs_mask, weight, confidence, *log_vars)
        ctx.mark_non_differentiable(terms)
        ctx.set_materialize_grads(False)
        return total, terms

    @staticmethod
    def backward(ctx, grad_output, _):
        if grad_output is None:
            return (None,) * (7 + len(ctx.log_var_dtypes))
        if reason := unreadable(grad_output):
            raise RuntimeError(_UNREADABLE.format(name=ctx.call.backend, reason=reason))
        wants_pred, wants_confidence = ctx.needs_input_grad[0], ctx.needs_input_grad[5]
        inputs = (ctx.call, (wants_pred, wants_confidence), grad_output, *ctx.saved_tensors[:8])
        # With create_graph=True the gradient gets a node that says why it has no gradient of its own.
        grad, log_vars, of_confidence = (
            _Gradient.apply(*inputs, *ctx.saved_tensors[8:])
            if torch.is_grad_enabled()
            else _gradient(*inputs)
        )
        of_maps = (
            grad if wants_pred else None,
            *(None,) * 4,
            of_confidence if wants_confidence else None,
            None,
        )
        if not ctx.log_var_dtypes:
            return of_maps
        return (*of_maps, *(g.to(d) for g, d in zip(log_vars.unbind(), ctx.log_var_dtypes, strict=True)))


def _extras(weight: Tensor | None, confidence: Tensor | None, *others: bool) -> tuple:
    """The last arguments of a backend, where pixels have a weight or a confidence."""
    return () if weight is None and confidence is None else (weight, confidence, *others)


def _gradient(
    call: _Call,
    wants: tuple[bool, bool],
    grad_output: Tensor,
    codes: Tensor,
    coefficients: Tensor,
    pred: Tensor,
    gt: Tensor,
    mask: Tensor | None,
    abs_mask: Tensor | None,
    weight: Tensor | None,
    confidence: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of pred, of the log-variances and, if there is one, of the confidence."""
    saved = grad_output, codes, coefficients, pred, gt, mask, abs_mask
    extras = _extras(weight, confidence, wants[1])
    found = module(call.backend).backward(*saved, call.spec, call.dtype, wants[0], *extras)
    return found if extras else (*found[:2], None)


class _Gradient(torch.autograd.Function):
    """The gradient, tied to all that it depends on: pred, the confidence and, unused, the log-variances."""

    @staticmethod
    def forward(ctx, call, wants, grad_output, codes, coefficients, *inputs):
        ctx.name = call.backend
        return _gradient(call, wants, grad_output, codes, coefficients, *inputs[:6])

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(_NO_SECOND_DERIVATIVE.format(name=ctx.name))


@torch.library.custom_op(
    "depthloss::loss",
    mutates_args=(),
    schema=(
        # One tensor of log-variances: AOTInductor hands over an empty list as None.
        # The last two have defaults: exported programs of before do not name them.
        "(Tensor pred, Tensor gt, Tensor? mask, Tensor? abs_mask, Tensor weights, Tensor? log_vars, "
        "str backend, str spec, str group, bool saves, Tensor? weight=None, Tensor? confidence=None) "
        "-> (Tensor, Tensor, Tensor, Tensor)"
    ),
)
def _loss_op(
    pred,
    gt,
    mask,
    abs_mask,
    weights,
    log_vars,
    backend,
    spec,
    group,
    saves,
    weight=None,
    confidence=None,
):
    resolved = dist.distributed_c10d._resolve_process_group(group) if group else None
    return module(backend).forward(
        pred,
        gt,
        mask,
        abs_mask,
        parse(spec),
        weights,
        () if log_vars is None else log_vars.unbind(),
        resolved,
        working_dtype(pred, gt),
        saves,
        *_extras(weight, confidence),
    )


@_loss_op.register_fake
def _(
    pred,
    gt,
    mask,
    abs_mask,
    weights,
    log_vars,
    backend,
    spec,
    group,
    saves,
    weight=None,
    confidence=None,
):
    dtype, kernels, loss = working_dtype(pred, gt), module(backend), parse(spec)
    b, h, w = pred.shape[0], pred.shape[-2], pred.shape[-1]
    codes = kernels.code_count(loss, b, h, w) if saves else 0
    coefficients = kernels.coefficient_count(b) if saves or log_vars is not None else 0
    empty = lambda n, kind=dtype: torch.empty(n, dtype=kind, device=pred.device)  # noqa: E731
    total = empty((b,) if loss.by_image else ())
    return total, empty(len(loss.metric_names)), empty(codes, torch.uint8), empty(coefficients)


@torch.library.custom_op(
    "depthloss::loss_backward",
    mutates_args=(),
    schema=(
        "(Tensor grad_output, Tensor codes, Tensor coefficients, Tensor pred, Tensor gt, Tensor? mask, "
        "Tensor? abs_mask, str backend, str spec, int groups, bool wants_pred, Tensor? weight=None, "
        "Tensor? confidence=None, bool wants_confidence=False) -> (Tensor, Tensor, Tensor)"
    ),
)
def _backward_op(
    grad_output,
    codes,
    coefficients,
    pred,
    gt,
    mask,
    abs_mask,
    backend,
    spec,
    groups,
    wants_pred,
    weight=None,
    confidence=None,
    wants_confidence=False,
):
    call = _Call(backend, parse(spec), (), None, working_dtype(pred, gt))
    saved = grad_output, codes, coefficients, pred, gt, mask, abs_mask, weight, confidence
    *found, of_confidence = _gradient(call, (wants_pred, wants_confidence), *saved)
    return (*found, pred.new_empty(0) if of_confidence is None else of_confidence)


@_backward_op.register_fake
def _(
    grad_output,
    codes,
    coefficients,
    pred,
    gt,
    mask,
    abs_mask,
    backend,
    spec,
    groups,
    wants_pred,
    weight=None,
    confidence=None,
    wants_confidence=False,
):
    grad = torch.empty_like(pred) if wants_pred else pred.new_empty(0)
    of_confidence = torch.empty_like(confidence) if wants_confidence else pred.new_empty(0)
    return grad, torch.empty(groups, dtype=working_dtype(pred, gt), device=pred.device), of_confidence


def _setup(ctx, inputs, output):
    ctx.arguments = inputs[6:10]  # backend, spec, group, saves
    ctx.save_for_backward(*output[2:], *inputs[:6], *inputs[10:])


def _op_backward(ctx, grad_output, *_):
    codes, coefficients, *maps, weights, log_vars, weight, confidence = ctx.saved_tensors
    backend, spec, group, saves = ctx.arguments
    wants_pred, wants_gt = ctx.needs_input_grad[:2]
    wants_confidence = confidence is not None and ctx.needs_input_grad[11]
    if wants_gt:  # Eager calls and compiled graphs look at gt first; an exported program was made without.
        raise RuntimeError(GT_GRADIENT)
    if (wants_pred or wants_confidence) and not saves:  # Exported where neither asked for a gradient.
        again = *maps, weights, log_vars, backend, spec, group, True, weight, confidence
        _, _, codes, coefficients = _loss_op(*again)
    groups = 0 if log_vars is None else log_vars.numel()
    saved = grad_output, codes, coefficients, *maps, backend, spec, groups, wants_pred
    grad, slopes, of_confidence = _backward_op(*saved, weight, confidence, wants_confidence)
    slopes = None if log_vars is None else slopes.to(log_vars.dtype)
    of_maps = grad if wants_pred else None, None, None, None, None, slopes
    return (*of_maps, *(None,) * 5, of_confidence if wants_confidence else None)


def _no_second_derivative(ctx, *_):
    raise RuntimeError(_NO_SECOND_DERIVATIVE.format(name=ctx.backend))


def _setup_backward(ctx, inputs, output):
    ctx.backend = inputs[7]


_loss_op.register_autograd(_op_backward, setup_context=_setup)
_backward_op.register_autograd(_no_second_derivative, setup_context=_setup_backward)


def evaluate(
    pred: Tensor,
    gt: Tensor,
    mask: Tensor | None,
    abs_mask: Tensor | None,
    spec: LossSpec,
    weights: Sequence[float],
    log_vars: Sequence[Tensor],
    process_group: dist.ProcessGroup | None,
    backend: str,
    weight: Tensor | None = None,
    confidence: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Evaluate `spec` with a fused backend; arguments and result as `depthloss.reference.evaluate`, but
    [B, 1, H, W] is as good as [B, H, W].
    """
    dtype = working_dtype(pred, gt)
    for v in log_vars:
        if v.device != pred.device:
            raise ValueError(
                f"the log-variances must be on pred's device; got {v.device} and {pred.device}: "
                "move the loss with loss.to(pred.device)"
            )
    if torch.compiler.is_compiling():
        # Numbers of a schedule become data: as constants they would make a graph for every step.
        one = torch.ones((), dtype=dtype, device=pred.device)
        total, terms, _, _ = _loss_op(
            pred,
            gt,
            mask,
            abs_mask,
            torch.stack([one * w for w in weights]),
            torch.stack(list(log_vars)) if log_vars else None,
            backend,
            spec.text,
            "" if process_group is None else process_group.group_name,
            _wants_gradient(pred, confidence) and torch.is_grad_enabled(),
            weight,
            confidence,
        )
        return total, terms.detach()
    call = _Call(backend, spec, weights, process_group, dtype)
    if torch.is_grad_enabled():
        return _Loss.apply(pred, gt, mask, abs_mask, weight, confidence, call, *log_vars)
    given = pred, gt, mask, abs_mask, spec, weights, log_vars, process_group, dtype, False
    return module(backend).forward(*given, *_extras(weight, confidence))[:2]


def _wants_gradient(pred: Tensor, confidence: Tensor | None) -> bool:
    return pred.requires_grad or (confidence is not None and confidence.requires_grad)
