"""Files that are written whole or not at all, and results as JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


@contextlib.contextmanager
def whole_file(out: Path) -> Iterator[Path]:
    """Give a path to write to; the file takes its place at `out` only if nothing went wrong."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.stem}-{os.getpid()}{out.suffix}")
    try:
        yield part
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Write the whole file or leave the old one. See `to_json`."""
    with whole_file(path) as part:
        part.write_text(to_json(data), encoding="utf-8")


def to_json(data: Mapping[str, object]) -> str:
    """JSON that has each item of each value on a line: every row of a table, for one.

    NaN and Inf, which JSON lacks, become null.
    """
    entries = []
    for key, value in data.items():
        value = _finite(value)
        text = _text(value)
        if value and isinstance(value, dict):
            text = _lines("{}", [f"{_text(str(k))}: {_text(v)}" for k, v in value.items()], "  ")
        elif value and isinstance(value, list):
            text = _lines("[]", map(_text, value), "  ")
        entries.append(f"{_text(str(key))}: {text}")
    return _lines("{}", entries, " ") + "\n"


def _lines(brackets: str, items: Iterable[str], indent: str) -> str:
    return f"{brackets[0]}\n{indent}" + f",\n{indent}".join(items) + f"\n{indent[1:]}{brackets[1]}"


def _text(x: object) -> str:
    return json.dumps(x, ensure_ascii=False, allow_nan=False)


def _finite(x: object) -> object:
    """`x` with null for NaN and Inf; tuples become lists."""
    if isinstance(x, Mapping):
        return {key: _finite(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_finite(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
