"""A run of the tests in a log file prints a line per minute and every failure."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from .progress import Progress

pytest_plugins = ["pytester"]


def test_a_line_per_minute_and_every_failure():
    now, lines = [0.0], []
    reporter = SimpleNamespace(write_line=lines.append)
    config = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=lambda name: reporter))
    progress = Progress(config, lambda: now[0])
    progress.pytest_sessionstart(SimpleNamespace(testscollected=200))
    for i in range(200):
        now[0] += 1.0
        failed = i == 70
        report = SimpleNamespace(failed=failed, nodeid=f"test_x.py::test_{i}", when="call")
        progress.pytest_runtest_logreport(report)
        progress.pytest_runtest_logfinish()
    assert lines == [
        "1 min: 60 of 200 tests, 30%, 0 failed",
        "FAILED test_x.py::test_70 (call)",
        "2 min: 120 of 200 tests, 60%, 1 failed",
        "3 min: 180 of 200 tests, 90%, 1 failed",
    ]


@pytest.mark.parametrize("processes", ([], ["-n", "2"]), ids=("one process", "two processes"))
def test_it_prints_no_marks(pytester, monkeypatch, processes):
    """And pytest's summary still counts."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # of the run that this test is in
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("i", range(5))
        def test_it(i):
            assert i != 3
            if i == 4:
                pytest.skip("4")
    """)
    pytester.makeconftest("""
        import os
        from tests.progress import Progress

        def pytest_configure(config):
            if "PYTEST_XDIST_WORKER" not in os.environ:
                config.pluginmanager.register(Progress(config), "progress")
    """)
    result = pytester.runpytest_inprocess("-q", *processes)
    result.assert_outcomes(passed=3, failed=1, skipped=1)
    assert not [line for line in result.outlines if set(line) <= set(".Fs") and line]
    assert "FAILED test_it_prints_no_marks.py::test_it[3] (call)" in result.outlines
