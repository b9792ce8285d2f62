"""The boundary between losses and backends: checks the inputs, chooses a backend, hands the spec over.

The reference is `depthloss.reference.evaluate`. The fused backends live in ``depthloss.kernels.triton`` and
``depthloss.kernels.cpu``, are imported when first asked for, and are what `depthloss.autograd` describes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TypeAlias, overload

import torch
import torch.distributed as dist
from torch import Tensor
from torch.compiler import is_compiling

from . import autograd, reference, transforms
from .maps import valid_pixels
from .spec import Backend, LossSpec
from .transforms import constant

BACKENDS = ("triton", "cpu", "reference")
_FUSED_FOR_DEVICE: dict[str, Backend] = {"cuda": "triton", "cpu": "cpu"}
_log = logging.getLogger("depthloss")
_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_MASK = (type(None), Tensor)
_NAMES = ("pred", "gt", "mask", "abs_mask", "weight", "confidence")
_STRIDED = torch.strided
_OTHER_SIZE = "{name} must have the B, H, W of pred; losses never resize or broadcast (use .expand)"
# pred, gt, mask, abs_mask, weight, confidence
Maps: TypeAlias = tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
_loaded: dict[str, ModuleType] = {"reference": reference}


class _Choice(threading.local):
    """What `use_backend` chose in this thread. Not a ContextVar: Dynamo cannot trace one, and guards this."""

    def __init__(self) -> None:
        self.backend: Backend | None = None  # Not of the class, where Dynamo would read it for every thread.
        self.outer: list[Backend | None] = []  # of the blocks around this one


_choice = _Choice()


def check_backend(name: Backend) -> Backend:
    """Return `name` if it is ``"auto"`` or a backend's, or raise a ValueError."""
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"backend must be 'auto' or one of {', '.join(map(repr, BACKENDS))}; got {name!r}")
    return name


def check_group(group: object) -> dist.ProcessGroup | None:
    """Return `group` if it is None or a process group with this rank, or raise a TypeError."""
    if group is None or dist.is_available() and isinstance(group, dist.ProcessGroup):
        return group
    nobody = dist.GroupMember.NON_GROUP_MEMBER if dist.is_available() else None
    outside = type(group) is type(nobody) and group == nobody
    raise TypeError(
        f"process_group must be a torch.distributed.ProcessGroup that this rank belongs to, or None; got "
        f"{'one of other ranks' if outside else repr(group)}"
    )


class use_backend(contextlib.ContextDecorator):  # noqa: N801
    """Run every loss that this thread calls inside the block on one backend, whatever the modules' own
    `backend` says.

    As `torch.no_grad`, it holds for the thread that enters it: other threads, those started inside the block
    too, run what their modules say. So does a checkpoint that is recomputed in the backward of a GPU, which
    has a thread of its own: give `backend=` to such a loss. Compiled losses follow the block, and compile
    once more for it.

    Args:
        name: ``"auto"``, ``"reference"``, ``"cpu"`` or ``"triton"``.

    Raises:
        ValueError: unknown name.
    """

    # A class: Dynamo traces no generator as a context before torch 2.7.
    def __init__(self, name: Backend) -> None:
        self._name = check_backend(name)

    def __enter__(self) -> None:
        _choice.outer.append(_choice.backend)
        _choice.backend = self._name

    def __exit__(self, *_: object) -> None:
        _choice.backend = _choice.outer.pop()


@functools.cache
def _load(name: str) -> tuple[ModuleType | None, str]:
    """The backend's module, or None and the reason."""
    if name in _loaded:
        return _loaded[name], ""
    package = f"depthloss.kernels.{name}"
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package and not package.startswith(f"{error.name}."):
            return None, f"it needs the package {error.name!r}, which is not installed"
        clone = Path(__file__).parents[1]
        if (clone / "kernels").is_dir():
            return None, (
                f"depthloss was imported from {clone}, a clone that is not installed in this environment: "
                "run pip install -e . there, or start from another folder"
            )
        return None, "this installation does not contain it"
    except (ImportError, OSError) as error:
        return None, f"it does not load: {error}"
    reason = module.unavailable()
    if reason:
        return None, reason
    _loaded[name] = module
    return module, ""


def backend_status(name: str) -> str | None:
    """Why this machine cannot run backend `name`, or None where it can."""
    if name not in BACKENDS:
        raise ValueError(f"name must be one of {', '.join(map(repr, BACKENDS))}; got {name!r}")
    return _load(name)[1] or None


@functools.cache
def _say_once(message: str) -> None:
    _log.warning(message)


@constant
def choose(requested: Backend, device: str, backends: frozenset[str], obstacle: str) -> tuple[Backend, str]:
    """The backend that runs a loss, loaded, and why that one. Where the reference runs instead of a fused
    backend, it is said once.

    A function of constants (and of the active transform) only: a compiled graph holds its answer.

    Args:
        requested: ``"auto"`` or a backend.
        device: type of the device of the tensors.
        backends: the fused backends that run this loss.
        obstacle: why no fused backend can read these tensors, or "".

    Raises:
        RuntimeError: the backend asked for cannot run, with the reason.
    """
    if requested == "reference":
        return requested, "it was asked for by name"
    explicit = requested != "auto"
    name = requested if explicit else _FUSED_FOR_DEVICE.get(device)
    if name is None:
        reason = f"there is no fused backend for {device!r} tensors"
    elif name not in backends:
        reason = "this loss has no fused form on it"
    else:
        reason = _load(name)[1]
        if not reason and device not in _loaded[name].DEVICES:
            reason = f"pred lies on {device!r}"
        reason = reason or transforms.functorch() or obstacle
        if not reason:
            return name, "it was asked for by name" if explicit else "it is the fastest for these tensors"
    if explicit:
        raise RuntimeError(
            f"backend={name!r} cannot run: {reason}. Use backend='auto' or backend='reference'."
        )
    why = f"{'the fused backend' if name is None else f'backend {name!r}'} is not used: {reason}"
    if name is None or name in backends:  # Else by contract this loss has no fused form here.
        _say_once(f"running the reference backend, in plain PyTorch; {why}")
    return "reference", why


def _describe(tensors: dict[str, Tensor | None]) -> str:
    return ", ".join(
        f"{name} {'None' if x is None else f'{tuple(x.shape)} {x.dtype} on {x.device}'}"
        for name, x in tensors.items()
    )


def _image_shape(x: Tensor) -> tuple[int, ...] | None:
    """(B, H, W) of [B, 1, H, W] or [B, H, W], None for anything else."""
    if x.dim() == 4 and x.shape[1] == 1:
        return (x.shape[0], x.shape[2], x.shape[3])
    return tuple(x.shape) if x.dim() == 3 else None


def _is_other_size(x: Tensor, pred: Tensor) -> bool:
    """Whether the B, H, W of x are not those of pred; equal shapes are the usual case, and quick to see."""
    return x.shape != pred.shape and _image_shape(x) != _image_shape(pred)


def check_inputs(
    pred: Tensor,
    gt: Tensor,
    mask: Tensor | None = None,
    abs_mask: Tensor | None = None,
    weight: Tensor | None = None,
    confidence: Tensor | None = None,
) -> None:
    """Raise a ValueError that prints all shapes and dtypes unless the inputs fit each other (TypeError: not
    dense tensors of one process).

    `pred`, `gt`: [B, 1, H, W] or [B, H, W], equal shapes, floating point. Masks, weight and confidence: the
    same B, H, W, or None; the latter two floating point.
    """
    if weight is not None or confidence is not None:
        _check_extras(pred, weight, confidence)
    if not (isinstance(pred, Tensor) and isinstance(gt, Tensor)) or not (
        isinstance(mask, _MASK) and isinstance(abs_mask, _MASK)
    ):
        for name, x in (("pred", pred), ("gt", gt), ("mask", mask), ("abs_mask", abs_mask)):
            kind = "torch.Tensor or None" if "mask" in name else "torch.Tensor"
            if not isinstance(x, _MASK if "mask" in name else Tensor):
                raise TypeError(f"{name} must be a {kind}; got {type(x).__name__}")
    for i, x in enumerate((pred, gt, mask, abs_mask)):
        if x is not None and (x.layout is not _STRIDED or x.is_nested or type(x) is not Tensor):
            transforms.check_plain(_NAMES[i], x)
    if problem := _problem(pred, gt, mask, abs_mask):
        found = _describe({"pred": pred, "gt": gt, "mask": mask, "abs_mask": abs_mask})
        raise ValueError(f"{problem}; got {found}")


def _check_extras(pred: Tensor, weight: Tensor | None, confidence: Tensor | None) -> None:
    """Raise unless `weight` and `confidence` fit `pred`, where they are given."""
    for name, x in (("weight", weight), ("confidence", confidence)):
        if x is None:
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor or None; got {type(x).__name__}")
        transforms.check_plain(name, x)
        problem = ""
        if not isinstance(pred, Tensor) or _is_other_size(x, pred):
            problem = _OTHER_SIZE.format(name=name)
        elif x.dtype not in _DTYPES:
            problem = f"{name} must be float16, bfloat16, float32 or float64"
        elif x.device != pred.device:
            problem = "all inputs must be on one device"
        elif name == "weight" and x.requires_grad:
            problem = "weight must not require a gradient, as it gets none; detach it"
        if problem:
            raise ValueError(f"{problem}; got {_describe({'pred': pred, name: x})}")


def _problem(pred: Tensor, gt: Tensor, mask: Tensor | None, abs_mask: Tensor | None) -> str:
    """What does not fit, or ""."""
    shape, device = pred.shape, pred.device
    if (
        gt.device != device
        or (mask is not None and mask.device != device)
        or (abs_mask is not None and abs_mask.device != device)
    ):
        return "all inputs must be on one device"
    if len(shape) != 3 and (len(shape) != 4 or shape[1] != 1):
        return "pred must be [B, 1, H, W] or [B, H, W]"
    if gt.shape != shape:
        return "gt must have the shape of pred; losses never resize"
    if pred.dtype not in _DTYPES or gt.dtype not in _DTYPES:
        return (
            "pred and gt must be float16, bfloat16, float32 or float64; convert integer depth with .float()"
        )
    for name, x in (("mask", mask), ("abs_mask", abs_mask)):
        if x is not None and _is_other_size(x, pred):
            return _OTHER_SIZE.format(name=name)
        if x is not None and x.dtype.is_complex:
            return f"{name} must be bool, uint8 or float holding 0/1"
    return ""


@overload
def as_maps(x: Tensor) -> Tensor: ...
@overload
def as_maps(x: Tensor | None) -> Tensor | None: ...
def as_maps(x: Tensor | None) -> Tensor | None:
    """[B, 1, H, W] as [B, H, W]; anything else as it is."""
    # squeeze, whose adjoint is a view; that of x[:, 0] fills and copies a map.
    return x.squeeze(1) if x is not None and x.dim() == 4 else x


def _obstacle(maps: Maps, log_vars: Sequence[Tensor]) -> str:
    """Why no fused backend can read these maps, or ""."""
    of_maps = maps[0].requires_grad or (maps[5] is not None and maps[5].requires_grad)
    saves = (of_maps or len(log_vars) > 0) and torch.is_grad_enabled()
    if not is_compiling() and (reason := transforms.obstacle(maps, saves)):
        return reason
    return autograd.GT_GRADIENT if maps[1].requires_grad else ""


def backend_for(
    maps: Maps, spec: LossSpec, log_vars: Sequence[Tensor], backend: Backend
) -> tuple[Backend, str]:
    """`choose` for the loss `spec` of these maps."""
    return choose(_choice.backend or backend, maps[0].device.type, spec.fused, _obstacle(maps, log_vars))


def evaluate(
    pred: Tensor,
    gt: Tensor,
    mask: Tensor | None,
    abs_mask: Tensor | None,
    spec: LossSpec,
    weights: Sequence[float],
    log_vars: Sequence[Tensor] = (),
    process_group: dist.ProcessGroup | None = None,
    backend: Backend = "auto",
    weight: Tensor | None = None,
    confidence: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Evaluate the loss `spec` on [B, 1, H, W] or [B, H, W] inputs with the backend asked for.

    Returns:
        The loss (0-dim, or [B] where `spec.by_image`; differentiable) and the detached vector that
        `spec.metric_names` names; both may be wrapped by a transform of torch.func (`plain`).

    Raises:
        ValueError: inputs that do not fit, or an unknown backend.
        RuntimeError: a backend asked for by name that cannot run this loss here, with the reason.
    """
    check_inputs(pred, gt, mask, abs_mask, weight, confidence)
    if weight is not None:
        spec.check_weight()
    if (confidence is not None) != spec.confidence:
        raise ValueError(
            "this loss needs confidence=, a map of numbers > 0"
            if spec.confidence
            else "no term of this loss takes a confidence; a recipe that does is 'vggt-depth'"
        )
    if len(weights) != spec.num_weights:
        raise ValueError(f"weights must hold {spec.num_weights} numbers for this loss; got {len(weights)}")
    check_backend(backend)
    maps = (pred, gt, mask, abs_mask, weight, confidence)
    name, _ = backend_for(maps, spec, log_vars, backend)
    if name == "reference":
        if process_group is not None and (reason := transforms.differentiation()):
            raise RuntimeError(f"a loss with process_group has no rule for its collectives: {reason}")
        p, g = (transforms.saveable(as_maps(x)) for x in (pred, gt))
        m, a, w, c = (transforms.saveable(as_maps(x)) for x in maps[2:])
        return reference.evaluate(p, g, m, a, spec, weights, log_vars, process_group, w, c)
    if spec.gt_range is not None:  # Kernels know it as a part of the masks.
        g = as_maps(gt)
        if abs_mask is not None:
            abs_mask = valid_pixels(g, as_maps(abs_mask), gt_range=spec.gt_range)
        mask = valid_pixels(g, as_maps(mask), gt_range=spec.gt_range)
    return autograd.evaluate(
        pred, gt, mask, abs_mask, spec, weights, log_vars, process_group, name, weight, confidence
    )
