"""Timing: wall clock with Python, and on a GPU the device's own time in a CUDA graph.

Every clock rotates over the subject's inputs, which together exceed the last-level cache. On a GPU one sample
covers all of them: events around a single short kernel would time the gap between launches.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import torch


class Subject(Protocol):
    """What is timed: `start` prepares a call outside the clock, `call` is the timed part."""

    phases: tuple[str, ...]
    rotation: int

    def start(self, phase: str) -> object:
        """What `call` needs and the clock must not see, or None."""

    def call(self, phase: str, state: object) -> object:
        """One call, on the next inputs in turn."""


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median, 20th and 80th percentile, and the number of samples."""
    if len(samples) == 1:
        low = high = samples[0]
    else:
        cuts = statistics.quantiles(samples, n=5, method="inclusive")
        low, high = cuts[0], cuts[-1]
    return {"median": statistics.median(samples), "p20": low, "p80": high, "samples": len(samples)}


def wall_ms(subject: Subject, phase: str, calls: int, sync: Callable[[], None]) -> float:
    """Milliseconds per call of `calls` calls back to back, Python included."""
    states = [subject.start(phase) for _ in range(calls)]
    sync()
    begin = time.perf_counter()
    for state in states:
        subject.call(phase, state)
    sync()
    return (time.perf_counter() - begin) * 1e3 / calls


class _Event:
    """Milliseconds between two points of the current stream."""

    def __init__(self) -> None:
        self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __enter__(self) -> _Event:
        self.begin.record()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.record()

    def ms(self) -> float:
        self.end.synchronize()
        return self.begin.elapsed_time(self.end)


class GraphClock:
    """A subject's calls on all its inputs, captured once per phase; a sample is one replay.

    A phase that needs a `start` has two graphs in one memory pool; the second is timed. The pool keeps what
    `start` allocates, so that freeing it during the capture does not hand it to other code.
    """

    kind = "graph"

    def __init__(self, subject: Subject) -> None:
        self.rotation, self.graphs = subject.rotation, {}
        stream = torch.cuda.Stream()
        for phase in subject.phases:
            before, pool, states = None, None, [None] * self.rotation
            with torch.cuda.stream(stream):  # Lazy initialisation must not fall into the capture.
                subject.call(phase, subject.start(phase))
            torch.cuda.synchronize()
            if phase == "backward":
                before = torch.cuda.CUDAGraph()
                with torch.cuda.graph(before, stream=stream):
                    states = [subject.start(phase) for _ in range(self.rotation)]
                pool = before.pool()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                for state in states:
                    subject.call(phase, state)
            self.graphs[phase] = before, graph
        torch.cuda.synchronize()

    def ms(self, phase: str) -> float:
        """Milliseconds per call of one replay."""
        before, graph = self.graphs[phase]
        if before is not None:
            before.replay()
        with _Event() as event:
            graph.replay()
        return event.ms() / self.rotation


class QueueClock:
    """Events around calls that queue behind a sleeping kernel, for what a graph cannot capture."""

    kind = "queue"

    def __init__(self, subject: Subject) -> None:
        self.subject, self.cycles = subject, 20_000_000

    def ms(self, phase: str) -> float:
        """Milliseconds per call; NaN if the launches outlast the longest sleep."""
        while self.cycles < 10**9:
            states = [self.subject.start(phase) for _ in range(self.subject.rotation)]
            torch.cuda.synchronize()
            torch.cuda._sleep(self.cycles)
            with _Event() as event:
                for state in states:
                    self.subject.call(phase, state)
            asleep = not event.begin.query()
            elapsed = event.ms() / len(states)
            if asleep:
                return elapsed
            self.cycles *= 4
        return float("nan")


class Repeated:
    """Actions without arguments, one per set of inputs, as a subject with one phase."""

    phases = ("run",)

    def __init__(self, actions: Sequence[Callable[[], object]]) -> None:
        self.actions, self.rotation, self._next = actions, len(actions), 0

    def start(self, phase: str) -> None:
        """Nothing to prepare."""

    def call(self, phase: str, state: object) -> None:
        """Run the next action."""
        self._next = (self._next + 1) % self.rotation
        self.actions[self._next]()
