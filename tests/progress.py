"""What a run of the tests prints in a log file: a line per minute and every failure, no mark per test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

MINUTE = 60.0


class Progress:
    """Takes the place of pytest's marks, which fill a log; in a terminal they and their percentage stay.

    Args:
        config: of the run.
        clock: seconds.
    """

    def __init__(self, config: pytest.Config, clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self.clock = config, clock
        self.begin = self.last = clock()
        self.session: pytest.Session | None = None
        self.finished = self.failed = 0

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Keep the session, which knows how many tests there are."""
        self.session = session

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Iterator[None]:
        """Count a result in pytest's summary, but print no mark."""
        category, _, _ = yield
        return category, "", ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Name a failure at once."""
        if report.failed:
            self.failed += 1
            self.say(f"FAILED {report.nodeid} ({report.when})")

    def pytest_runtest_logfinish(self) -> None:
        """Count a test, and say once a minute how far the run is."""
        self.finished += 1
        if self.clock() - self.last < MINUTE:
            return
        self.last = self.clock()
        total, minutes = self.session.testscollected, (self.last - self.begin) / MINUTE
        share = f"{self.finished} of {total} tests, {100 * self.finished // total}%"
        self.say(f"{minutes:.0f} min: {share}, {self.failed} failed")

    def say(self, text: str) -> None:
        """Print a line."""
        self.config.pluginmanager.get_plugin("terminalreporter").write_line(text)
