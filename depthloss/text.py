"""Frozen dataclasses as text, and back: what operators of a graph hold, and what a file can keep."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import TypeVar

_T = TypeVar("_T")


def text_of(x: object) -> str:
    """A dataclass of dataclasses, tuples, strings and numbers as text, equal for equal values."""
    return json.dumps(_as_json(x), separators=(",", ":"))


def dataclass_of(text: str, cls: type[_T], others: Iterable[type]) -> _T:
    """The `cls` whose `text_of` this is; `others` are the classes that may lie within.

    Raises:
        ValueError: text of another class, of another version, or damaged.
    """
    known = {c.__name__: c for c in (cls, *others)}
    try:
        found = _from_json(json.loads(text), known)
        if not isinstance(found, cls):
            raise TypeError(f"it holds {type(found).__name__}")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"not the text of a {cls.__name__} of this version of depthloss "
            f"({type(error).__name__}: {error}): make it again with this version; got {text!r}"
        ) from error
    return found


def _as_json(x: object) -> object:
    """An object with its class under "is", a tuple as a list."""
    if is_dataclass(x):
        return {"is": type(x).__name__} | {f.name: _as_json(getattr(x, f.name)) for f in fields(x) if f.init}
    return [_as_json(item) for item in x] if isinstance(x, tuple) else x


def _from_json(x: object, known: dict[str, type]) -> object:
    if isinstance(x, dict):
        return known[x["is"]](**{name: _from_json(y, known) for name, y in x.items() if name != "is"})
    return tuple(_from_json(y, known) for y in x) if isinstance(x, list) else x
