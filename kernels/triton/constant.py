"""A plan as kernels are handed it: what they pass on of it is a constant for their functions, too.

Before Triton 3.7 an attribute of a constant is a constant for `if`, but no argument of a function.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import triton.language as tl


class Constant:
    """A dataclass whose parts that are dataclasses come as `tl.constexpr`; equal, and printed, as itself."""

    def __init__(self, of: Any) -> None:
        self.of = of

    def __getattr__(self, name: str) -> Any:
        return _wrapped(getattr(self.of, name))

    def __repr__(self) -> str:
        return repr(self.of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and self.of == other.of

    def __hash__(self) -> int:
        return hash(self.of)


def _wrapped(x: Any) -> Any:
    if type(x) is tuple:  # Not a named one.
        return tuple(map(_wrapped, x))
    return tl.constexpr(Constant(x)) if is_dataclass(x) else x
