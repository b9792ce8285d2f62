r"""Time and memory of each loss beside PyTorch's: writes bench/results/speed_<device>.json.

    python -m bench.speed.run [--device cuda] [--budget SECONDS] [--quick] [--losses NAME ...]
    python -m bench.speed.run --device cpu --losses bars --threads 2 1
    python -m bench.speed.run --device cpu --losses others --shapes 4,1,384,640 --threads 2 --compile never \
        --out bench/results/speed_cpu_losses.json

The variants of each loss, shape, dtype and mask density are: the eager form as documented (conv2d), eager
with slicing (the reference backend), torch.compile of both, the fused backends (the CPU's on each
instruction set), and a copy of the bytes that must move. Timed are forward, backward, both, and the forward
without gradient: wall time with Python, and on a GPU also GPU time in a CUDA graph. An implementation is
timed only if it agrees with the reference in float64. The README beside the results explains them.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from bench import bars, clocks, harness
from bench.speed import copies, memory
from bench.speed.jobs import Job, parse, schedule
from depthloss.benchmark import rivals

LEAST_SAMPLES = 5
BATCH_MS = 20  # on a CPU, of the calls in one sample


class Copy(clocks.Repeated):
    """A copy as a variant: its time stands for forward+backward."""

    phases = ("forward+backward",)


class Bench:
    """One run: measures jobs until the budget is used up, and records what it left out and why."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.begin = options, time.monotonic()
        self.plan = schedule(options)
        self.rows: dict[tuple, dict] = {}
        self.red: dict[tuple, dict] = {}
        self.left_out: dict[tuple, dict] = {}
        self.costs: dict[tuple, dict] = {}
        self.compiled: dict[tuple, torch.nn.Module] = {}
        self.compiled_for: tuple = ()

    @property
    def late(self) -> bool:
        """Whether the budget is used up."""
        return time.monotonic() - self.begin >= self.options.budget

    def leave_out(self, job: Job, variant: str, reason: str) -> None:
        """Record what was not measured."""
        self.left_out[(job, variant)] = asdict(job) | {"variant": variant, "reason": reason}

    def _compile(self, job: Job, kind: str, module: torch.nn.Module, mode: str | None) -> torch.nn.Module:
        """The module compiled for one loss, shape and dtype; densities share it.

        Reset between cases: losses share code, and a function holds few compiled forms.
        """
        case = (job.loss, job.shape, job.dtype, job.threads)
        if case != self.compiled_for:
            torch._dynamo.reset()
            self.compiled.clear()
            self.compiled_for = case
        key = (kind, mode)
        if key not in self.compiled:
            options = {"backend": "aot_eager"} if self.options.dry_run else {"mode": mode}
            self.compiled[key] = torch.compile(module, fullgraph=True, dynamic=False, **options)
        return self.compiled[key]

    def subjects(self, job: Job, with_compile: bool, clones: list) -> Iterator[tuple[str, object]]:
        """Each implementation as a function that makes its subject; the gate's eager reference first."""
        device, subject = self.options.device, harness.LossSubject
        reference = harness.build(job.loss, "reference", device)
        rival = rivals.build(job.loss).to(device)
        yield "eager slicing", lambda: subject(reference, clones)
        yield "eager", lambda: subject(rival, clones, ours=False)
        for backend in self.options.backends:
            if backend not in reference.spec.fused:
                continue
            for isa in self.options.instruction_sets if backend == "cpu" else [None]:
                yield (
                    bars.variant(backend, isa),
                    lambda b=backend, i=isa: subject(
                        harness.build(job.loss, b, device), clones, instruction_set=i
                    ),
                )
        modes = {"compile": None} | ({"reduce-overhead": "reduce-overhead"} if device == "cuda" else {})
        for name, mode in modes.items() if with_compile else ():
            before = torch.compiler.cudagraph_mark_step_begin if mode else None
            for kind, module, ours in (("", rival, False), (" slicing", reference, True)):
                make = lambda k=kind, m=module, o=ours, c=mode, b=before: subject(  # noqa: E731
                    self._compile(job, k, m, c), clones, ours=o, before=b
                )
                yield name + kind, make

    def prepared(self, job: Job, with_compile: bool, clones: list) -> Iterator[tuple[str, object, dict]]:
        """The subjects that passed the gate, warmed up, with their errors."""
        expected, eager = None, {"loss": 0.0, "gradient": 0.0}
        for name, make in self.subjects(job, with_compile, clones):
            compiles = name in bars.COMPILED
            if compiles and self.late:
                self.leave_out(job, name, "budget")
                continue
            try:
                expected = expected or harness.oracle(job.loss, *clones[0])
                subject = make()
                found = harness.errors(subject.evaluate(), expected)
                if name.startswith("reduce-overhead"):
                    subject.phases = ("forward+backward", "no-grad")
                # Without gradient torch.compile makes another graph; CUDA graphs take two runs to record.
                again = subject.phases * 3 if self.options.device == "cuda" else ("no-grad",) * compiles
                for phase in again:
                    subject.call(phase, subject.start(phase))
            except Exception as error:
                self.leave_out(job, name, harness.reason(error))
                continue
            if harness.green(found, eager, clones[0][0].dtype):
                eager = found if name == "eager slicing" else eager
                yield name, subject, found
                continue
            about = {"variant": name, "errors": found, "eager_slicing": eager}
            self.red[(job, name)] = asdict(job) | about
            if bars.backend(name) in self.options.backends:
                self.leave_out(job, "all", f"{name} is red")
                return

    def _inputs(self, job: Job) -> tuple[torch.Tensor, ...]:
        domain = harness.build(job.loss, "reference", "cpu").input_domain
        dtype = harness.DTYPES[job.dtype]
        return harness.inputs(job.shape, dtype, self.options.device, job.density, domain)

    def measure(self, job: Job, with_compile: bool) -> None:
        """Measure one job; the implementations take turns in every round."""
        options, on_gpu = self.options, self.options.device == "cuda"
        if job.threads:
            torch.set_num_threads(job.threads)
        if not with_compile and options.compile == "auto" and job.threads == 1:
            self.leave_out(job, "torch.compile", "1 thread: only with --compile always")
        dtype, one = harness.DTYPES[job.dtype], self._inputs(job)
        count = 2 if options.dry_run else harness.rotation(job.shape, dtype, options.device)
        clones = [tuple(x.clone() for x in one) for _ in range(count)]
        variants = {name: rest for name, *rest in self.prepared(job, with_compile, clones)}
        if (job, "all") in self.left_out:
            return
        actions = [copies.forms(*clone, on_gpu or options.dry_run) for clone in clones]
        copied = {f"copy {i}": (Copy(each), None) for i, each in enumerate(zip(*actions, strict=True))}
        samples, kinds = self._samples(job, variants | copied, on_gpu)
        times = {
            name: {
                phase: {clock: clocks.spread(values) for clock, values in by_clock.items()}
                for phase, by_clock in phases.items()
            }
            for name, phases in samples.items()
        }
        for name, (subject, found) in variants.items():
            self.rows[(job, name)] = asdict(job) | {
                "variant": name,
                "instruction_set": subject.instruction_set,
                "errors": found,
                "ms": times[name],
                "gpu_clock": kinds.get(name),
                "launches": None,
                **self._costs(job, name, subject),
            }
            self.left_out.pop((job, name), None)
        clock = "gpu" if on_gpu else "wall"
        best = min((times[name] for name in copied), key=lambda t: t["forward+backward"][clock]["median"])
        moved, ms = copies.bytes_per_pixel(dtype), best["forward+backward"][clock]["median"]
        self.rows[(job, "copy")] = asdict(job) | {
            "variant": "copy",
            "ms": best,
            "bytes_per_pixel": moved,
            "gigabytes_per_second": moved * math.prod(job.shape) / ms / 1e6,
        }
        own = [row for (owner, _), row in self.rows.items() if owner == job]
        print(f"\n{bars.table(own, harness.PHASES, ('wall', 'gpu') if on_gpu else ('wall',))}", flush=True)

    def _clock(self, job: Job, name: str, subject: object) -> clocks.GraphClock | clocks.QueueClock:
        """A graph clock; a queue clock where capture fails, as it does for CUDA graphs."""
        if not name.startswith("reduce-overhead"):
            try:
                return clocks.GraphClock(subject)
            except Exception as error:
                self.leave_out(job, f"{name}: graph", harness.reason(error))
        return clocks.QueueClock(subject)

    def _samples(self, job: Job, variants: dict[str, tuple], on_gpu: bool) -> tuple[dict, dict]:
        """Milliseconds, [variant][phase][clock] -> samples; and the kind of each GPU clock."""
        sync = torch.cuda.synchronize if on_gpu else lambda: None
        device_clocks = {}
        for name, (subject, _) in variants.items() if on_gpu else ():
            device_clocks[name] = self._clock(job, name, subject)
        kinds = ("wall", "gpu") if on_gpu else ("wall",)
        samples = {
            name: {phase: {kind: [] for kind in kinds} for phase in subject.phases}
            for name, (subject, _) in variants.items()
        }
        spent = Counter()  # seconds, preparation included
        calls = {}
        for taken in range(self.options.repeats):
            for name, (subject, _) in variants.items():
                for phase, found in samples[name].items():
                    if taken >= LEAST_SAMPLES and spent[name, phase] >= self.options.seconds:
                        continue
                    if (name, phase) not in calls:
                        most = min(subject.rotation, bars.MOST_CALLS)
                        fit = most if on_gpu else int(BATCH_MS / clocks.wall_ms(subject, phase, 1, sync))
                        calls[name, phase] = max(1, min(most, fit))
                    begin = time.perf_counter()
                    found["wall"].append(clocks.wall_ms(subject, phase, calls[name, phase], sync))
                    if on_gpu:
                        found["gpu"].append(device_clocks[name].ms(phase))
                    spent[name, phase] += time.perf_counter() - begin
        return samples, {name: clock.kind for name, clock in device_clocks.items()}

    def _process(self, job: Job, name: str, isa: str | None) -> memory.Process | None:
        """A fresh process that runs the variant; None for torch.compile, which would compile again."""
        backend = {"eager": "eager", "eager slicing": "reference"}.get(name, bars.backend(name))
        if self.options.dry_run or job.threads is None or backend not in ("eager", "reference", "cpu"):
            return None
        return memory.Process(job.loss, backend, job.shape, job.dtype, job.threads, isa)

    def _costs(self, job: Job, name: str, subject: harness.LossSubject) -> dict:
        """Bytes per pixel and host synchronisations, None where they cannot be measured.

        Measured once for all densities, and for all numbers of threads except with the native engine.
        """
        threads = job.threads if bars.backend(name) == "cpu" else None
        case = (job.loss, job.shape, job.dtype, name, threads)
        if case in self.costs:
            return self.costs[case]
        on_gpu, counted = self.options.device == "cuda", not name.startswith("reduce-overhead")
        process = self._process(job, name, subject.instruction_set)
        wanted = memory.measures(math.prod(job.shape), on_gpu, counted, process)
        result = self.costs[case] = dict.fromkeys(wanted)
        for key, function in wanted.items():
            try:
                result[key] = function and function(subject)
            except Exception as error:
                self.leave_out(job, f"{name}: {key}", harness.reason(error))
        return result

    def count_launches(self) -> None:
        """Launches of each loss in eager mode, at its first job. Runs last: the profiler leaves hooks."""
        counts: dict[tuple, dict] = {}
        for (job, name), row in self.rows.items():
            if name == "copy" or name in bars.COMPILED:
                continue
            if (job.loss, name) not in counts:
                clones = [self._inputs(job)]
                try:
                    subject = dict(self.subjects(job, False, clones))[name]()
                    counts[(job.loss, name)] = memory.launches(subject)
                except Exception as error:
                    counts[(job.loss, name)] = None
                    self.leave_out(job, f"{name}: launches", harness.reason(error))
            row["launches"] = counts[(job.loss, name)]

    def unreached(self) -> list[dict]:
        """Jobs of the plan that were neither measured nor left out."""
        found = {}
        for job, with_compile in self.plan:
            if (job, "copy") not in self.rows and (job, "all") not in self.left_out:
                found[(job, "all")] = asdict(job) | {"variant": "all", "reason": "budget"}
            known = {name for owner, name in (*self.rows, *self.left_out) if owner == job}
            if with_compile and (job, "copy") in self.rows and not known & set(bars.COMPILED):
                found[job] = asdict(job) | {"variant": "torch.compile", "reason": "budget"}
        return list(found.values())

    def result(self) -> dict:
        """The content of the JSON."""
        options, machine = self.options, harness.machine(self.options.device)
        rows = list(self.rows.values())
        return {
            **harness.origin(),
            "command": harness.command("bench.speed.run", sys.argv[1:]),
            "dry_run": options.dry_run,
            "device": options.device,
            "backends": options.backends,
            "instruction_sets": options.instruction_sets,
            "machine": machine,
            "seconds": round(time.monotonic() - self.begin, 1),
            "bars": bars.evaluate(rows, machine, options.device, options.backends),
            "red": list(self.red.values()),
            "left_out": [*self.left_out.values(), *self.unreached()],
            "rows": rows,
        }

    def run(self, out: Path | None) -> dict:
        """Measure everything; write the file after every job, so that a run that is cut off loses little."""
        for job, with_compile in self.plan:
            if self.late:
                break
            try:
                self.measure(job, with_compile)
            except Exception as error:
                self.leave_out(job, "all", harness.reason(error))
            gc.collect()
            if self.options.device == "cuda":
                torch.cuda.empty_cache()
            if out:
                harness.write_json(out, self.result())
        if self.options.device == "cuda":
            self.count_launches()
        result = self.result()
        if out:
            harness.write_json(out, result)
        return result


def main() -> int:
    """Measure, print, write; 1 if a variant failed the gate or nothing was measured."""
    if "--dry-run" in sys.argv:
        # Triton reads it at import and where kernels are decorated.
        os.environ["TRITON_INTERPRET"] = "1"
    options = parse(__doc__)
    # TF32 convolutions lose the signs that the gradient is made of.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    name = harness.slug(harness.machine(options.device).get("gpu", "cpu"))
    out = options.out or (None if options.dry_run else harness.RESULTS / f"speed_{name}.json")
    result = Bench(options).run(out)
    print()
    for bar in result["bars"]:
        print(bars.describe(bar))
    for item in result["red"]:
        print(f"RED           {item['variant']}: {item['loss']} {item['shape']} {item['errors']}")
    print(f"{len(result['rows'])} rows, {len(result['left_out'])} left out, {result['seconds']} s")
    if out:
        print(f"wrote {out}")
    return 1 if result["red"] or not result["rows"] else 0


if __name__ == "__main__":
    sys.exit(main())
