"""The command line of `bench.speed.run`, and the cases that it measures, in order."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import bars, harness
from depthloss.benchmark import rivals

TINY = (1, 1, 25, 35)  # The coarsest of four levels has three rows, as a 3x3 convolution needs.
# Values of --losses beside names: the losses whose times are bars, and the others that the backends run.
GROUPS = ("bars", "others")


@dataclass(frozen=True)
class Job:
    """One case to measure."""

    loss: str
    shape: tuple[int, ...]
    dtype: str
    density: float
    threads: int | None


def parse(description: str) -> argparse.Namespace:
    """The command line, with defaults for this machine."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shape = lambda text: tuple(int(n) for n in text.split(","))  # noqa: E731
    known = [*GROUPS, *rivals.RIVALS]
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    add("--backends", nargs="+", help="fused backends (default: triton on cuda, cpu on cpu)")
    add(
        "--instruction-sets",
        nargs="+",
        choices=bars.INSTRUCTION_SETS,
        help="of the backend cpu (default: avx512 and avx2, where the machine has them)",
    )
    add("--losses", nargs="+", choices=known, metavar="NAME", help="; ".join(known))
    add("--shapes", nargs="+", type=shape, metavar="B,1,H,W", help="default: the bar shapes")
    add("--dtypes", nargs="+", choices=list(harness.DTYPES))
    add("--densities", nargs="+", type=float, default=[1.0, 0.05])
    add("--threads", nargs="+", type=int, help="on a CPU (default: what torch uses)")
    add("--repeats", type=int, default=15, help="most samples of each time")
    add("--seconds", type=float, default=1.0, help="for the samples of one time; at least five are taken")
    add(
        "--compile",
        choices=("auto", "always", "never"),
        help="torch.compile, which takes longest; auto: not for 1 thread, which has no bar for it",
    )
    add("--quick", action="store_true", help="both variants of g2, two shapes, density 1")
    add("--budget", type=float, default=math.inf, help="seconds, after which no new case starts")
    add("--out", type=Path, help="path of the JSON")
    add(
        "--dry-run",
        action="store_true",
        help="one tiny case, once, in Triton's interpreter; writes to --out only",
    )
    options = parser.parse_args()
    options.device = options.device or (
        "cuda" if torch.cuda.is_available() and not options.dry_run else "cpu"
    )
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    if options.dry_run:
        options.repeats, options.quick = 1, False
        options.shapes, options.losses = options.shapes or [TINY], options.losses or ["g2 document"]
        options.dtypes, options.densities = options.dtypes or ["float32"], options.densities[:1]
        options.backends, options.threads = options.backends or ["triton"], options.threads or [1]
        options.compile = options.compile or "always"
    on_gpu = options.device == "cuda"
    if options.quick:
        options.losses = options.losses or ["bars"]
        options.shapes, options.densities = options.shapes or [bars.FIRST, bars.WIDE], [1.0]
    options.backends = options.backends or (["triton"] if on_gpu else ["cpu"])
    if "cpu" not in options.backends:
        options.instruction_sets = []
    elif not options.instruction_sets:
        options.instruction_sets = harness.instruction_sets()
    others = [name for name in harness.fused_losses(options.backends) if name not in bars.TIMED]
    groups = {"bars": bars.TIMED, "others": others}
    wanted = options.losses or GROUPS
    options.losses = list(dict.fromkeys(name for word in wanted for name in groups.get(word, [word])))
    options.shapes = options.shapes or list(bars.SHAPES[options.device])
    options.dtypes = options.dtypes or (list(harness.DTYPES) if on_gpu else ["float32"])
    options.threads = [None] if on_gpu else options.threads or [torch.get_num_threads()]
    options.compile = options.compile or "auto"
    return options


def compiles(job: Job, options: argparse.Namespace) -> bool:
    """Whether torch.compile takes part in a job."""
    return options.compile == "always" or (options.compile == "auto" and job.threads != 1)


def schedule(options: argparse.Namespace) -> list[tuple[Job, bool]]:
    """The jobs by importance, each with whether torch.compile takes part.

    With a budget, only the first case waits for a compiler. All others are measured without one, then again
    with it, which replaces the first result.
    """
    jobs = [
        Job(loss, shape, dtype, density, threads)
        for threads in options.threads
        for timed in (True, False)
        for dtype in options.dtypes
        for shape in options.shapes
        for loss in options.losses
        if (loss in bars.TIMED) == timed
        for density in options.densities
    ]
    slow = [job for job in jobs if compiles(job, options)]
    if not slow or options.budget == math.inf:
        return [(job, job in slow) for job in jobs]
    first = [job for job in slow if job.loss in bars.TIMED and job.shape == options.shapes[0]]
    first = [job for job in first if job.dtype == options.dtypes[0]]
    rest = [job for job in jobs if job not in first]
    again = [job for job in rest if job in slow]
    return [(job, True) for job in first] + [(job, False) for job in rest] + [(job, True) for job in again]
