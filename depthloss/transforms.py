"""What native code cannot see: transforms, tracers, dispatch modes, and tensors without memory to read.

A fused backend reads and writes memory behind PyTorch's back, so nothing that PyTorch does to operations
reaches it. The reference consists of operations, and is right under all of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, overload

import torch
from torch import Tensor
from torch._C import _functorch, _is_tracing, _len_torch_dispatch_stack
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.utils._python_dispatch import _get_current_dispatch_mode

_NAMES = ("pred", "gt", "mask", "abs_mask", "weight", "confidence")
_NO_DISPATCH = Tensor.__torch_dispatch__
_interpreter = _functorch.peek_interpreter_stack
_is_wrapped = _functorch.is_functorch_wrapped_tensor
_is_legacy = _functorch.is_legacy_batchedtensor
_F = TypeVar("_F", bound=Callable[..., Any])


def constant(function: _F) -> _F:
    """Mark a function of constants, whose answer compiled graphs hold.

    torch.compiler.assume_constant_result sets the same, and imports the whole compiler for it. The name is
    private: the fullgraph tests say so if torch renames it.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant  # What Dynamo compiles under a transform stays under it.
def functorch() -> str:
    """Which transform of torch.func is active, as a reason; "" = none. Right while Dynamo traces, too."""
    interpreter = _interpreter()
    return "" if interpreter is None else f"torch.func's {interpreter.key().name.lower()!r} is active"


def differentiation() -> str:
    """Which transform of torch.func or forward-mode AD is active, as a reason; "" = neither."""
    if is_compiling() or forward_ad._current_level < 0:
        return functorch()
    return "forward-mode AD is active"


def obstacle(maps: tuple[Tensor | None, ...], saves: bool) -> str:
    """Why native code must not read the maps of a loss now, or "" where it may.

    Leaves out what `functorch` says, and must not be asked while Dynamo traces.

    Args:
        maps: pred, gt, mask, abs_mask, weight and confidence.
        saves: whether autograd would keep them for a backward.
    """
    if _interpreter() is not None:
        return ""  # Its tensors answer none of what follows.
    # The usual answer first: every call of a loss pays for it.
    if not (_len_torch_dispatch_stack() or _is_tracing() or forward_ad._current_level >= 0):
        for x in maps:
            if x is not None and (
                ((type(x) is not Tensor or not x.data_ptr()) and unreadable(x))
                or (saves and x.is_inference())
            ):
                break
        else:
            return ""
    if _len_torch_dispatch_stack():
        return f"the dispatch mode {type(_get_current_dispatch_mode()).__name__} is active"
    if _is_tracing():
        return "torch.jit.trace is recording"
    if forward_ad._current_level >= 0:
        return "forward-mode AD is active"
    name, x = next((name, y) for name, y in zip(_NAMES, maps, strict=True) if y is not None and y is x)
    if reason := unreadable(x):
        return f"{name} is {reason}"
    return (
        f"{name} was made under torch.inference_mode(), so autograd cannot save it for the backward; "
        "clone it, or make it under torch.no_grad()"
    )


def unreadable(x: Tensor) -> str:
    """What `x` is if native code cannot read its memory, "" where it can.

    Raises:
        RuntimeError: nothing can read it, as its memory was given back.
    """
    if _batched(x):
        return "a batch of tensors (is_grads_batched=True, a vectorised Jacobian, or vmap)"
    if type(x).__torch_dispatch__ is not _NO_DISPATCH:
        return f"a {type(x).__name__}, which may have no memory of its own"
    if x.data_ptr() or not x.numel() or x.is_meta:
        return ""
    if x._is_zerotensor():
        return "a tensor of zeros without memory"
    raise RuntimeError(
        f"a tensor of shape {tuple(x.shape)} and {x.dtype} has no memory: "
        "its storage was resized or given back"
    )


def check_plain(name: str, x: Tensor) -> None:
    """Raise a TypeError unless `x` is one dense block of numbers of this process."""
    if x.is_nested:
        raise TypeError(
            f"{name} must be a dense tensor; got a nested one: pad its images, or call the loss for each"
        )
    if x.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor; got {x.layout}: convert it with .to_dense()")
    if hasattr(type(x), "full_tensor"):
        raise TypeError(
            f"{name} must be a tensor of this process; got a {type(x).__name__}: pass {name}.full_tensor(), "
            "or where the batch is sharded the .to_local() of all tensors to a loss with process_group"
        )


@overload
def saveable(x: Tensor) -> Tensor: ...
@overload
def saveable(x: Tensor | None) -> Tensor | None: ...
def saveable(x: Tensor | None) -> Tensor | None:
    """`x`, or where a gradient may be wanted a copy of what was made under inference mode: autograd saves no
    such tensor.
    """
    if x is None or is_compiling() or not (torch.is_grad_enabled() and x.is_inference()):
        return x
    return x.clone()


def plain(found: dict[str, Tensor] | Tensor) -> dict[str, Tensor] | Tensor:
    """A tensor, or the named ones, without the wrappers of torch.func, which do not outlive their transform;
    {} where ``vmap`` has made several numbers of one, and while Dynamo traces a transform.
    """
    if is_compiling():
        return {} if functorch() else found
    if isinstance(found, Tensor) and not (_is_wrapped(found) or _is_legacy(found)):
        return found  # The usual answer first: every call of a loss pays for it.
    if isinstance(found, dict):
        named = {name: y for name, x in found.items() if isinstance(y := plain(x), Tensor)}
        return named if len(named) == len(found) else {}
    while _is_wrapped(found) and not _batched(found):
        found = _functorch.get_unwrapped(found)
    return {} if _batched(found) else found


def _batched(x: Tensor) -> bool:
    """Whether ``vmap`` holds `x`, or the older one of torch.autograd."""
    return _functorch.is_batchedtensor(x) or _is_legacy(x)
