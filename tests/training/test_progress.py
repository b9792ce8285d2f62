"""How far a command is: a bar in a terminal, at most a line a minute in a log."""

import io
import logging
import os
import re

import pytest

from depthloss.training.loop import callbacks
from depthloss.training.progress import Progress, duration


class Clock:
    """Seconds that a test sets."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def states(self) -> list[str]:
        return [text for text in re.split(r"[\r\n]", self.getvalue()) if text.strip()]


@pytest.fixture(autouse=True)
def said(caplog):
    """The lines of the log, called."""
    caplog.set_level(logging.INFO, "depthloss")
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name == "depthloss.progress" or record.getMessage().startswith("about")
    ]


def test_a_log_gets_at_most_one_line_a_minute(said):
    clock, notes = Clock(), []
    with Progress(100, "checking data", "frames", stream=io.StringIO(), clock=clock) as progress:
        for second in range(0, 200, 2):
            clock.now = second + 2.0
            progress.update(1, lambda: notes.append(1) or "loss 0.5")
    assert said() == [
        "checking data: 30 of 100 frames, about 2.3 min left; loss 0.5",
        "checking data: 60 of 100 frames, about 80 s left; loss 0.5",
        "checking data: 90 of 100 frames, about 20 s left; loss 0.5",
    ]
    assert len(notes) == 3  # on a GPU, to read a number is to wait for it


def test_what_was_done_before_counts_for_nothing_in_the_estimate(said):
    clock = Clock()
    progress = Progress(100, "training", "batches", done=90, stream=io.StringIO(), clock=clock)
    clock.now = 60
    progress.update(0, lambda: "validation 3/7")
    clock.now = 120
    progress.update(5)
    assert said() == [
        "training: 90 of 100 batches; validation 3/7",
        "training: 95 of 100 batches, about 2.0 min left",
    ]


def test_a_terminal_gets_a_bar_of_its_width(monkeypatch, said):
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((80, 24)))
    terminal = Terminal()
    with Progress(400, "epoch 1 of 20", "batches", stream=terminal, clock=Clock(1.0)) as progress:
        for i in range(3):
            progress.name = f"epoch {i + 1} of 20"
            progress.update(1, lambda: "loss 5.56, abs_rel 0.326, of a run with a very long name indeed")
    states = terminal.states()
    assert [s for s in states if len(s) > 80] == []
    assert states[-1].startswith("epoch 3 of 20   1%|") and "3/400 [" in states[-1]
    assert "loss 5.56, abs_rel 0.326" in states[-1]
    assert said() == []


def test_nothing_is_shown_where_it_is_not_wanted(said):
    terminal = Terminal()
    for stream in (terminal, io.StringIO()):
        with Progress(3, "x", "frames", show=False, stream=stream, clock=Clock(100.0)) as progress:
            progress.update()
    assert terminal.getvalue() == "" and said() == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (45.4, "45 s"), (95, "1.6 min"), (1500, "25 min"), (7560, "2.1 h"), (90000, "25 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_run_says_how_long_it_takes_and_how_far_it_is(train, tiny_yaml, monkeypatch, said):
    clock = Clock(5.0)
    monkeypatch.setattr(callbacks.RunProgress.__init__, "__defaults__", (clock,))
    train("--trainer.enable_progress_bar", "true", "--datasets.train.length", "20")
    assert [re.sub(r"(loss|abs_rel) [\d.]+", r"\1 …", text) for text in said()] == [
        "about 86 s to the end of epoch 2: 13 batches of 6 s",
        "epoch 1 of 2: 10 of 20 batches, about 65 s left; loss …",
        "epoch 2 of 2: 19 of 20 batches, about 7 s left; loss …, abs_rel …",
    ]


def test_a_run_that_goes_on_counts_what_was_done(train, monkeypatch, said):
    monkeypatch.setattr(callbacks.RunProgress.__init__, "__defaults__", (Clock(5.0),))
    data = ("--datasets.train.length", "20")
    train(*data)
    assert said() == []  # trainer.enable_progress_bar is false
    train(*data, "--max-epochs", "3", "--resume", "--trainer.enable_progress_bar", "true")
    assert said()[0] == "about 22 s to the end of epoch 3: 3 batches of 6 s"
    assert said()[1].startswith("epoch 3 of 3: 30 of 30 batches; ")
