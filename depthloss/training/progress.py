"""Progress of a command: a bar in a terminal; in a log file at most one line a minute."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger("depthloss.progress")

# Seconds between two lines of a log, and between two updates of a bar.
LINES, REFRESHES = 60.0, 0.1

_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


def duration(seconds: float) -> str:
    """Return a duration in about two digits: "45 s", "3.5 min", "2.1 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    value, unit = (seconds / 60, "min") if seconds < 5400 else (seconds / 3600, "h")
    return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"


class Progress:
    """Counts what is done and shows it: a bar if the stream is a terminal, else lines of the log.

    Args:
        total: how much there is to do.
        name: name of the work.
        unit: name of what is counted, in the plural.
        done: how much was done before.
        show: false shows neither bar nor lines.
        stream: where the bar would be; None is standard error, where the log goes as well.
        clock: seconds, for the lines.
    """

    def __init__(
        self,
        total: int,
        name: str,
        unit: str,
        done: int = 0,
        show: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.name, self.unit, self.done, self.show = total, name, unit, done, show
        self._clock = clock
        self._before = done
        self._begin = self._last = clock()
        stream = stream or sys.stderr
        self._bar = None
        self._undo = contextlib.ExitStack()
        if show and stream.isatty():
            self._bar = tqdm(
                desc=name,
                total=total,
                initial=done,
                file=stream,
                dynamic_ncols=True,
                leave=False,
                bar_format=_BAR,
            )
            self._undo.enter_context(logging_redirect_tqdm())  # lines of the log do not break the bar

    def __enter__(self) -> Progress:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self.close()

    def update(self, count: int = 1, note: Callable[[], str] = str) -> None:
        """Add what is done; 0 only shows that the command is alive.

        Args:
            count: how much of `total`.
            note: gives what to show beside it; called only when it is shown.
        """
        self.done += count
        now = self._clock()
        if not self.show or now - self._last < (LINES if self._bar is None else REFRESHES):
            return
        self._last = now
        if self._bar is None:
            log.info("%s", self.line(note()))
            return
        self._bar.n = self.done
        self._bar.set_description_str(self.name, refresh=False)
        self._bar.set_postfix_str(note(), refresh=False)
        self._bar.refresh()

    def line(self, note: str = "") -> str:
        """Return a line of the log, such as "test: 30 of 90 frames, about 2.0 min left; abs_rel 0.2"."""
        new = self.done - self._before
        left = (self._clock() - self._begin) / new * (self.total - self.done) if new else math.nan
        parts = [f"{self.name}: {self.done} of {self.total} {self.unit}"]
        if new and self.done < self.total:
            parts.append(f"about {duration(left)} left")
        return "; ".join([", ".join(parts), *([note] if note else [])])

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
        self._undo.close()
