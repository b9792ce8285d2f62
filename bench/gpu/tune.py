"""Sweep the launch parameters, and propose rows of kernels/triton/table.py for this GPU.

    python -m bench.gpu.tune [--budget SECONDS] [--losses NAME ...] [--shapes B,1,H,W ...] [--groups NAME ...]

The parameters fall into groups that affect different kernels. In each group, a candidate must give the loss
and gradient of the reference in float64; then each of its launches is timed alone, in a CUDA graph over
inputs that exceed the cache, with candidates taking turns in every round. The next group starts from the best
of this one. Writes bench/results/tune_<device>.json and prints rows to paste.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import itertools
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch

from bench import bars, clocks, harness
from depthloss.benchmark.rivals import EPOCH, PROGRESS

# Bounds of the size classes in pixels per image; each class has a row in the table.
BOUNDS = {"2.0**18": 2.0**18, 'float("inf")': math.inf}
# Group: its parameters, the values to try, and the launches that they affect.
GRID = {
    "tile": (
        ("tile", "tile_warps"),
        tuple(itertools.product(((16, 64), (32, 64), (16, 128), (32, 128), (64, 64)), (4, 8))),
        "forward",
    ),
    "strip": (
        ("strip_rows", "strips", "strip_warps"),
        tuple((rows, n, n) for rows in (16, 32, 64) for n in (1, 2, 4, 8)),
        "forward",
    ),
    "column": (
        ("rows", "columns", "column_warps"),
        tuple(itertools.product((8, 16, 32), (64, 128, 256), (2, 4))),
        "backward",
    ),
    "finish": (("finish_warps",), ((4,), (8,), (16,)), "forward"),
}
LEAST_GAIN = 0.02  # A smaller one is noise.


@dataclass(frozen=True)
class Case:
    """One loss on one shape."""

    loss: str
    shape: tuple[int, ...]
    dtype: str
    device: str

    def inputs(self) -> tuple[torch.Tensor, ...]:
        """pred, gt, mask, [B, 1, H, W]."""
        domain = harness.build(self.loss, "reference", "cpu").input_domain
        return harness.inputs(self.shape, harness.DTYPES[self.dtype], self.device, 0.7, domain)


class Run:
    """The launches of forward and backward on one set of inputs, with given parameters."""

    def __init__(self, case: Case, parameters: object, maps: tuple[torch.Tensor, ...]) -> None:
        from depthloss.kernels.plan import make_plan
        from depthloss.kernels.triton import launch

        module = harness.build(case.loss, "reference", case.device)
        plan, maps = make_plan(module.spec), [x.squeeze(1) for x in maps]
        weights, log_vars = module.weights(PROGRESS, EPOCH), [v.detach() for v in module.log_vars()]
        forward = launch.Forward(plan, parameters, *maps, None, weights, log_vars, torch.float32, saves=True)
        seed = torch.ones((), device=case.device)
        saved = forward.codes, forward.coefficients
        back, self.gradient, self.log_vars, _ = launch.backward_launches(
            plan, parameters, seed, *saved, *maps, None, torch.float32
        )
        self.total = forward.total
        self.steps = {
            "forward": [forward.first, *forward.middle, forward.last(collect=True, combine=True)],
            "backward": back,
        }

    def evaluate(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Run all launches; the loss and its gradients."""
        for step in itertools.chain(*self.steps.values()):
            step.run()
        gradients = [self.gradient.double().unsqueeze(1), *(v.double() for v in self.log_vars)]
        return self.total.double(), gradients


def kernel_name(step: object) -> str:
    """Name of a launch's kernel."""
    return getattr(step.kernel, "__name__", None) or step.kernel.fn.__name__


def sample(actions: list[Callable[[], object]], device: str) -> Callable[[], float]:
    """A function that returns the milliseconds of one action."""
    subject = clocks.Repeated(actions)
    if device == "cuda":
        return functools.partial(clocks.GraphClock(subject).ms, "run")
    return functools.partial(clocks.wall_ms, subject, "run", 1, lambda: None)


def warm(case: Case, parameters: object) -> None:
    """Compile all launches into Triton's cache on disk; a helper process runs this."""
    Run(case, parameters, case.inputs()).evaluate()


def present(case_shape: tuple[int, ...], dry_run: bool) -> object:
    """The present row of the table."""
    from depthloss.kernels.triton import table

    size = case_shape[-2:]
    return table.one_tile(*size) if dry_run else table.choose(harness.architecture(), *size)


def source(architecture: int | str, bound: str, parameters: object) -> str:
    """A row of the table as Python, without default values."""
    default = type(parameters)()
    given = {f.name: getattr(parameters, f.name) for f in fields(parameters)}
    shown = ", ".join(f"{k}={v!r}" for k, v in given.items() if v != getattr(default, k))
    return f"    ({architecture!r}, {bound}, Parameters({shown})),"


def candidates(start: object, group: str, dry_run: bool) -> list:
    """The parameters to compare in a group, `start` first."""
    keys, values, _ = GRID[group]
    found = [start]
    for value in values:
        new = replace(start, **dict(zip(keys, value, strict=True)))
        if new not in found:
            found.append(new)
    return found[:2] if dry_run else found


def ratio(times: dict[str, dict], base: dict[str, dict]) -> float:
    """Time of all launches relative to `base`."""
    total = lambda kernels: sum(kernel["median"] for kernel in kernels.values())  # noqa: E731
    return total(times) / total(base)


def choose(scores: dict[object, list[float]], start: object) -> object:
    """The candidate with the least mean ratio over the cases; `start` if the gain is noise.

    Candidates that were not measured in every case of `start` do not count.
    """
    complete = {c: statistics.fmean(r) for c, r in scores.items() if r and len(r) == len(scores[start])}
    best = min(complete, key=complete.get, default=start)
    return best if best in complete and complete[best] < 1.0 - LEAST_GAIN else start


class Sweep:
    """One run of the sweep."""

    def __init__(self, options: argparse.Namespace, pool: concurrent.futures.Executor | None) -> None:
        self.options, self.pool = options, pool
        self.begin, self.deadline = time.monotonic(), math.inf
        self.measured: list[dict] = []
        self.red: list[dict] = []
        self.left_out: list[dict] = []
        self._expected: dict[Case, tuple] = {}

    @property
    def late(self) -> bool:
        """Whether this class of sizes has used up its time."""
        return time.monotonic() >= self.deadline

    def _gate(self, case: Case, run: Run, maps: tuple) -> tuple[bool, dict]:
        if case not in self._expected:
            reference = harness.build(case.loss, "reference", case.device)
            expected = harness.oracle(case.loss, *maps)
            eager = harness.errors(harness.LossSubject(reference, [maps]).evaluate(), expected)
            self._expected[case] = expected, eager
        expected, eager = self._expected[case]
        found = harness.errors(run.evaluate(), expected)
        return harness.green(found, eager, harness.DTYPES[case.dtype]), found

    def _prepare(self, case: Case, parameters: object, passes: tuple[str, ...], clones: list) -> dict | None:
        """Sample functions of the launches by kernel; None if the candidate failed."""
        where = asdict(case) | {"parameters": asdict(parameters)}
        try:
            runs = [Run(case, parameters, clone) for clone in clones]
            good, found = self._gate(case, runs[0], clones[0])
            if not good:
                self.red.append(where | {"errors": found})
                return None
            for run in runs[1:]:
                run.evaluate()
            sampler = {}
            for kind in passes:
                for i, step in enumerate(runs[0].steps[kind]):
                    sampler[kernel_name(step)] = sample([run.steps[kind][i].run for run in runs], case.device)
            return sampler
        except Exception as error:
            self.left_out.append(where | {"reason": harness.reason(error)})
            return None

    def _compile(self, case: Case, several: list) -> None:
        """Compile the candidates in parallel. A failure is recorded when it recurs in this process."""
        if self.pool is None:
            return
        try:
            tasks = [self.pool.submit(warm, case, parameters) for parameters in several]
            concurrent.futures.wait(tasks, timeout=min(600.0, max(0.0, self.deadline - time.monotonic())))
            for task in tasks:
                task.cancel()
        except concurrent.futures.BrokenExecutor as error:
            self.left_out.append({"reason": f"compiling in other processes: {error}"})
            self.pool = None

    def compare(self, case: Case, several: list, passes: tuple[str, ...], label: str) -> dict:
        """Times of the launches of each candidate that did not fail, [parameters][kernel]."""
        maps = case.inputs()
        count = 1 if self.options.dry_run else harness.rotation(case.shape, maps[0].dtype, case.device)
        clones = [tuple(x.clone() for x in maps) for _ in range(count)]
        self._compile(case, several)
        samplers = {}
        for parameters in several:
            # The others are compared with the first, so that is always measured.
            if self.late and samplers:
                where = asdict(case) | {"group": label, "parameters": asdict(parameters)}
                self.left_out.append(where | {"reason": "budget"})
            elif (sampler := self._prepare(case, parameters, passes, clones)) is not None:
                samplers[parameters] = sampler
        samples = {p: {name: [] for name in sampler} for p, sampler in samplers.items()}
        for _ in range(self.options.repeats):
            for parameters, sampler in samplers.items():
                for name, once in sampler.items():
                    samples[parameters][name].append(once())
        times = {
            p: {name: clocks.spread(values) for name, values in kernels.items()}
            for p, kernels in samples.items()
        }
        for parameters, kernels in times.items():
            where = asdict(case) | {"group": label, "parameters": asdict(parameters)}
            self.measured.append(where | {"ms": kernels})
        return times

    def tune(self, bound: str, cases: list[Case]) -> dict:
        """The proposed row for one class of sizes."""
        now = best = present(cases[0].shape, self.options.dry_run)
        for group in self.options.groups:
            several = candidates(best, group, self.options.dry_run)
            scores: dict[object, list[float]] = {parameters: [] for parameters in several}
            for case in cases:
                if self.late:
                    self.left_out.append(asdict(case) | {"group": group, "reason": "budget"})
                    continue
                times = self.compare(case, several, (GRID[group][2],), group)
                if best in times:
                    for parameters, kernels in times.items():
                        scores[parameters].append(ratio(kernels, times[best]))
            best = choose(scores, best)
        gains = []
        for case in cases if best != now else ():
            times = self.compare(case, [now, best], ("forward", "backward"), "whole")
            if len(times) == 2:
                gains.append(1.0 - ratio(times[best], times[now]))
        architecture = self.options.architecture
        return {
            "pixels_up_to": bound,
            "architecture": architecture,
            "present": asdict(now),
            "proposed": asdict(best),
            "row": source(architecture, bound, best),
            "gain": statistics.fmean(gains) if gains else 0.0,
            "cases": len(gains),
        }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shape = lambda text: tuple(int(n) for n in text.split(","))  # noqa: E731
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--losses", nargs="+", metavar="NAME", default=list(bars.TIMED))
    parser.add_argument("--shapes", nargs="+", type=shape, metavar="B,1,H,W")
    parser.add_argument("--dtypes", nargs="+", choices=list(harness.DTYPES), default=["float32"])
    parser.add_argument("--groups", nargs="+", choices=list(GRID), default=list(GRID))
    parser.add_argument("--repeats", type=int, default=10, help="samples of each time")
    jobs = min(8, os.cpu_count() or 1)
    parser.add_argument("--jobs", type=int, default=jobs, help="compiler processes")
    parser.add_argument(
        "--budget", type=float, default=math.inf, help="seconds, divided among the size classes"
    )
    parser.add_argument("--out", type=Path, help="path of the JSON")
    parser.add_argument(
        "--dry-run", action="store_true", help="two candidates in Triton's interpreter; writes to --out only"
    )
    options = parser.parse_args()
    if options.dry_run:
        options.device, options.repeats, options.jobs = "cpu", 1, 0
        options.shapes = options.shapes or [(1, 1, 17, 22)]
        options.losses = options.losses[:1]
    elif options.device == "cpu" or not torch.cuda.is_available():
        parser.error("the kernels are timed on a GPU; --dry-run runs them on the interpreter")
    options.shapes = options.shapes or [bars.FIRST, bars.WIDE]
    options.architecture = harness.architecture() if options.device == "cuda" else 0
    return options


def main() -> int:
    """Sweep, print, write; 1 if a candidate failed the gate."""
    if "--dry-run" in sys.argv:
        # Triton reads it at import and where kernels are decorated.
        os.environ["TRITON_INTERPRET"] = "1"
    options = parse()
    classes: dict[str, list[Case]] = {}
    for loss, shape, dtype in itertools.product(options.losses, options.shapes, options.dtypes):
        bound = next(name for name, pixels in BOUNDS.items() if math.prod(shape[-2:]) <= pixels)
        classes.setdefault(bound, []).append(Case(loss, shape, dtype, options.device))
    pool = None
    if options.jobs > 1:
        context = multiprocessing.get_context("spawn")  # A forked process cannot use the GPU.
        pool = concurrent.futures.ProcessPoolExecutor(options.jobs, mp_context=context)
    sweep = Sweep(options, pool)
    machine = harness.machine(options.device)
    name = machine.get("gpu", "interpreter")
    out = options.out or (None if options.dry_run else harness.RESULTS / f"tune_{harness.slug(name)}.json")
    proposals = []
    for i, (bound, cases) in enumerate(classes.items()):
        left = options.budget - (time.monotonic() - sweep.begin)
        sweep.deadline = time.monotonic() + max(0.0, left) / (len(classes) - i)
        proposals.append(sweep.tune(bound, cases))
        result = {
            **harness.origin(),
            "command": harness.command("bench.gpu.tune", sys.argv[1:]),
            "dry_run": options.dry_run,
            "machine": machine,
            "seconds": round(time.monotonic() - sweep.begin, 1),
            "proposals": proposals,
            "red": sweep.red,
            "left_out": sweep.left_out,
            "measured": sweep.measured,
        }
        if out:
            harness.write_json(out, result)
    if pool is not None:
        pool.shutdown(wait=False, cancel_futures=True)
    print(f"# {name}, torch {torch.__version__}: less time than the present row, over all launches")
    for p in proposals:
        print(f"{p['row']}  # {100 * p['gain']:.0f}% over {p['cases']} cases")
    print(f"{len(sweep.measured)} measured, {len(sweep.red)} red, {len(sweep.left_out)} left out")
    if out:
        print(f"wrote {out}")
    return 1 if sweep.red or not sweep.measured else 0


if __name__ == "__main__":
    sys.exit(main())
