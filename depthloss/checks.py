"""Checks of arguments: each returns the value as the library keeps it, or raises an error that names it."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

MAX_SCALES = 6


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> str:
    """`value`, one of the words `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
    return value


def check_flag(name: str, value: object) -> bool:
    """`value`, True or False: other things count as true, ``"no"`` among them."""
    if type(value).__name__ not in ("bool", "bool_"):  # NumPy's has either name.
        raise ValueError(f"{name} must be True or False; got {value!r}")
    return bool(value)


def check_number(
    name: str, value: object, *, low: float = -math.inf, high: float = math.inf, strict: bool = False
) -> float:
    """`value` as a float inside [low, high], inside (low, high] if strict. Numbers of NumPy are numbers."""
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except OverflowError as error:
        raise ValueError(f"{name} must be a finite number; got a whole number beyond 1e308") from error
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number; got {value!r}")
    if number < low or number > high or (strict and number == low):
        bounds = f"{'(' if strict else '['}{low:g}, {high:g}]"
        raise ValueError(f"{name} must lie in {bounds}; got {value!r}")
    return number


def set_number(owner: object, name: str, said: str | None = None, **bounds: Any) -> None:
    """Check a number of a frozen dataclass, called `said` in an error, and store it as a float."""
    object.__setattr__(owner, name, check_number(said or name, getattr(owner, name), **bounds))


def check_range(name: str, value: object) -> tuple[float, float] | None:
    """A pair (low, high) as floats, None at an end as infinity; or None."""
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name} must be (low, high), None at an open end, or None; got {value!r}")
    ends = tuple(end if x is None else x for x, end in zip(value, (-math.inf, math.inf), strict=True))
    for x in ends:
        if isinstance(x, bool) or not isinstance(x, Real) or math.isnan(x):
            raise ValueError(f"{name} must hold numbers, or None at an open end; got {value!r}")
    if not ends[0] < ends[1]:
        raise ValueError(f"{name} must be (low, high) with low < high; got {value!r}")
    return float(ends[0]), float(ends[1])


def check_bounds(name: str, value: object) -> tuple[float, float]:
    """A pair of finite numbers (low, high), low < high."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name} must be (low, high); got {value!r}")
    low, high = (check_number(name, x) for x in value)
    if not low < high:
        raise ValueError(f"{name} must be (low, high) with low < high; got {value!r}")
    return low, high


def check_whole(name: str, value: object, low: int, high: int | None = None) -> int:
    """`value` as an integer inside [low, high]."""
    if (
        isinstance(value, bool)
        or not isinstance(value, Integral)
        or int(value) < low
        or (high is not None and int(value) > high)
    ):
        bounds = f">= {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be an integer {bounds}; got {value!r}")
    return int(value)


def check_scales(name: str, value: object) -> int:
    """`value` as a number of pyramid levels, 1 to 6."""
    return check_whole(name, value, 1, MAX_SCALES)


def as_float(name: str, value: Any, meaning: str) -> float:
    """`value` as a float: a number of Python or NumPy, or a tensor of one; `meaning` is for the error."""
    if type(value) in (int, float):  # The usual case, and what Dynamo traces.
        number = float(value)
    else:
        try:
            number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
        except (TypeError, ValueError, RuntimeError):
            number = math.nan
    if number != number:
        raise ValueError(f"{name} must be {meaning}; got {value!r}")
    return number


def fraction_done(progress: object) -> float:
    """`progress`, a fraction of the training, clamped to [0, 1]."""
    return min(max(as_float("progress", progress, "a number from 0 to 1, or None"), 0.0), 1.0)
