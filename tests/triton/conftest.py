"""What every test of this folder runs with: poisoned memory, and an interpreter that does nothing twice."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import pytest
import torch


def _poison(x: torch.Tensor) -> torch.Tensor:
    """NaN, or bytes 0x7f, in memory that nobody has written."""
    if x.is_floating_point():
        return x.fill_(torch.nan)
    return x.fill_({torch.uint8: 0x7F, torch.int16: 0x7F7F, torch.int32: 0x7F7F7F7F}.get(x.dtype, 1))


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """A kernel that reads what it has not written gets NaN or nonsense."""

    def poisoned(allocate):
        return lambda *args, **kwargs: _poison(allocate(*args, **kwargs))

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoned(getattr(owner, name)))


@contextlib.contextmanager
def quick_interpreter(checks_overflow: bool) -> Iterator[None]:
    """Patch Triton's language once per launch, not once per function call, leave out the checks of integer
    overflow, keep types instead of making them again, and broadcast nothing to its own shape: together two
    thirds of the interpreter's time.
    """
    interpreter = pytest.importorskip("triton.runtime.interpreter", reason="these tests need Triton")
    patch_lang, builder = interpreter._patch_lang, interpreter.interpreter_builder
    options, seen = builder.options, set()

    class Scope:
        def __init__(self, scope):
            self.scope = scope

        def restore(self):
            seen.clear()
            self.scope.restore()

    def patch_once(fn):
        if id(fn.__globals__) in seen:
            return None  # A call from within a kernel, which restores nothing.
        seen.add(id(fn.__globals__))
        return Scope(patch_lang(fn))

    np_dtype, semantic = interpreter._get_np_dtype, interpreter.TritonSemantic
    np_dtypes, broadcast = {}, semantic.broadcast_impl_value

    def look_up(dtype):
        name = dtype.scalar.name
        if name not in np_dtypes:
            np_dtypes[name] = np_dtype(dtype)
        return np_dtypes[name]

    def broadcast_unless_equal(self, lhs, rhs):
        a, b = lhs.type, rhs.type
        if a.is_block() and b.is_block() and a.shape.values == b.shape.values:
            return lhs, rhs
        return broadcast(self, lhs, rhs)

    block_type, block_types = interpreter.tl.block_type, {}

    def with_element_ty(self, scalar):
        key = scalar.name, *self.shape.values
        if key not in block_types:
            block_types[key] = block_type(scalar, self.shape)
        return block_types[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang", patch_once)
        patch.setattr(block_type, "with_element_ty", with_element_ty)
        patch.setattr(interpreter, "_get_np_dtype", look_up)
        patch.setattr(semantic, "broadcast_impl_value", broadcast_unless_equal)
        patch.setattr(builder, "options", dataclasses.replace(options, sanitize_overflow=checks_overflow))
        yield


@pytest.fixture(autouse=True, scope="session")
def interpreter(request):
    """The full run checks for integer overflow too."""
    with quick_interpreter("full" in request.config.option.markexpr.replace("not full", "")):
        yield
