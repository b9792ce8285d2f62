"""A device of its own, on the CPU: a tensor of it is refused where one of a GPU would be.

    python -m pytest -p tests.device.simulated tests/device/on_it.py     # the library on it
    python -m pytest -p tests.device.simulated tests/triton              # the kernels' tests, as on a GPU

Its tensors hold one of the CPU each. An operation that mixes both raises an error, as do the conversion to
NumPy and a kernel that is handed a tensor of the CPU; `reads` has what would make the host wait for a GPU.
The kernels run in Triton's interpreter. Loading it changes the process, so that tests start one for it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

NAME = "simulated"
# Operations that take tensors of the CPU beside those of a device; those for which the host waits: it needs a
# number, or the size of the result, or has copied what the device then takes.
COPYING = {"copy_", "_to_copy", "_copy_from"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
READING = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero", "_unique2", "bincount"}
FACTORIES = ("arange", "arange.start", "arange.start_step", "eye", "eye.m", "linspace", "randperm")
reads: list[str] = []


def near(x: Any) -> Any:
    """What a tensor of the device holds; anything else as it is."""
    return x.held if isinstance(x, Far) else x


class Far(torch.Tensor):
    """A tensor of the device."""

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Far:
        about = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, held.size(), device=torch.device(NAME, 0), **about)

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held

    def __repr__(self, **_: object) -> str:
        return f"{NAME}: {self.held!r}"

    def tolist(self) -> Any:
        reads.append("tolist")
        return self.held.tolist()

    def numpy(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(f"can't convert a tensor of {NAME} to numpy: use Tensor.cpu() first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        plain = [x for x in given if not isinstance(x, Far)]
        if name not in COPYING | INDEXING and any(x.dim() for x in plain):
            raise RuntimeError(f"Expected all tensors to be on the same device; {func} got cpu and {NAME}")
        target = kwargs.get("device")
        leaves = target is not None and torch.device(target).type != NAME
        masks = name in INDEXING and any(x.dtype in (torch.bool, torch.uint8) for x in given[1:])
        if leaves or masks or name in READING or (name in COPYING and plain):
            reads.append(name)
        here = kwargs | ({"device": "cpu"} if target is not None and not leaves else {})
        found = func(*tree_map(near, args), **tree_map(near, here))
        if leaves:
            return found
        known = {id(x.held): x for x in given if isinstance(x, Far)}

        def wrap(x: Any) -> Any:
            if not isinstance(x, torch.Tensor):
                return x
            return known[id(x)] if id(x) in known else Far(x)

        return return_and_correct_aliasing(func, args, kwargs, tree_map(wrap, found))


def _made(operator: Callable, *args: Any, device: Any = None, **options: Any) -> Far:
    return Far(operator(*args, device="cpu", **options))


def _copied(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    if isinstance(source, Far) != isinstance(target, Far):
        reads.append("_copy_from")
    near(target).copy_(near(source))
    return target


def _dispatched(operator: Any, *args: Any, **kwargs: Any) -> Any:
    return Far.__torch_dispatch__(operator, (), args, kwargs)


def install() -> list[torch.library.Library]:
    """Register the device with PyTorch; what it returns must be kept."""

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
    aten, others = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    for name in ("empty.memory_format", "empty_strided", *FACTORIES):
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
        aten.impl(name, functools.partial(_made, operator), "PrivateUse1")
    aten.impl("_copy_from", _copied, "PrivateUse1")
    others.fallback(_dispatched, "PrivateUse1")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return [aten, others]


def use_for_triton() -> None:
    """Give the device to the Triton backend, whose kernels run on what its tensors hold."""
    from depthloss.kernels import triton as engine

    from depthloss import autograd, dispatch, transforms

    dispatch._FUSED_FOR_DEVICE[NAME] = "triton"
    engine.DEVICES = (NAME,)
    unreadable = transforms.unreadable
    for module in (transforms, autograd):
        module.unreadable = lambda x: "" if isinstance(x, Far) else unreadable(x)

    def argument(x: Any) -> Any:
        if isinstance(x, tuple):
            return type(x)(*map(argument, x)) if hasattr(x, "_fields") else tuple(map(argument, x))
        if isinstance(x, torch.Tensor) and not isinstance(x, Far):
            raise RuntimeError(f"a kernel is handed a tensor of the CPU, of shape {tuple(x.shape)}")
        return near(x)

    def run(self: engine.launch.Launch) -> None:
        if self.programs:
            self.kernel[(self.programs,)](*argument(tuple(self.args)), **self.named)

    engine.launch.Launch.run = run


def pytest_configure() -> None:
    """`-p tests.device.simulated`."""
    os.environ["TRITON_INTERPRET"] = "1"  # Before Triton is imported.
    from tests import golden_cases
    from tests.triton import engine

    global libraries
    libraries = install()
    use_for_triton()
    engine.DEVICE = golden_cases.DEVICES["triton"] = NAME
