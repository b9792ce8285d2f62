"""Checks of arguments: each returns the value as the library keeps it, or raises an error that names it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, TypeVar

MAX_SCALES = 6
_T = TypeVar("_T")


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


def _nearest(name: object, known: Iterable[str], prefix: str = "") -> str | None:
    match = difflib.get_close_matches(str(name).lower(), list(known), n=1, cutoff=0.5)
    return repr(f"{prefix}{match[0]}") if match else None


def did_you_mean(name: object, known: Iterable[str], prefix: str = "") -> str:
    """Return "; did you mean ...? Known: ..." for an error about an unknown name.

    `name` comes without `prefix`, which the suggestion has.
    """
    near = _nearest(name, known, prefix)
    return f"{f'; did you mean {near}?' if near else '.'} Known: {', '.join(known)}"


def check_known(
    owner: str, known: Iterable[str], given: Iterable[str], other_names: Mapping[str, str] | None = None
) -> None:
    """Raise a TypeError that names the keywords which `owner` does not have, and those it has."""
    known = list(known)
    unknown = [key for key in given if key not in known]
    if unknown:
        found = ((other_names or {}).get(key) or _nearest(key, known) for key in unknown)
        near = ", ".join(dict.fromkeys(filter(None, found)))
        raise TypeError(
            f"{owner} has no keyword {', '.join(map(repr, unknown))}"
            f"{f'; did you mean {near}?' if near else '.'} It has: {', '.join(known)}"
        )


class NamesKeywords:
    """Base of a dataclass: a keyword that it does not have is named, and those it has."""

    def __new__(cls: type[_T], *args: object, **kwargs: object) -> _T:
        """Raise a TypeError that names what is unknown."""
        check_known(cls.__name__, (f.name for f in fields(cls) if f.init), kwargs)  # type: ignore[arg-type]
        return object.__new__(cls)
