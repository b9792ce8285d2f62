"""The error of a configuration, and the nearest known name for errors about one that is unknown."""

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
