"""The error of a configuration, and what messages share: the nearest known name, numbers of things."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A configuration that cannot be run; the text says what to change."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return "; did you mean ...? Known: ..." for an error about an unknown name."""
    known = list(known)
    match = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {match[0]!r}?" if match else "."
    return f"{hint} Known: {', '.join(known)}"


def counted(number: int, noun: str) -> str:
    """Return a number of things, such as "1 map" or "2 maps"."""
    return f"{number} {noun}{'s' * (number != 1)}"
