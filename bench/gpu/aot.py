"""Compile the Triton kernels ahead of time, without a GPU, and tabulate their machine code.

    python -m bench.gpu.aot [--targets sm_90 ...] [--renew]    writes bench/results/aot.json
    python -m bench.gpu.aot --quick --check                    sm_90 in float32 only; compares, writes nothing
    python -m bench.gpu.aot --small                            every kernel, of a few losses, with small tiles

Each launch is the one that `depthloss.kernels.triton.launch` makes for a batch, specialised by Triton's own
binder. The command fails, and writes nothing, if

* a kernel does not compile, or spills on sm_80, sm_90 or sm_100;
* it has 5% more instructions, or executes 10% more, than the committed file says: `--renew` accepts that;
* it fuses a multiply-add that can round where signs are taken;
* a loss saves more than 2.5 bytes/pixel, needs more than 8, or more than 4 + 2 launches (8 + 2 with medians
  and a trim).

disassembly.ABOUT, which is in the file too, says what the numbers of a row mean. Executed instructions come
from the emulator in tests/triton, for the losses of MEASURED_LOSSES in float32 on sm_90.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed

import triton
from depthloss.kernels.triton import launch

from bench import harness
from bench.gpu import disassembly, occupancy
from bench.gpu.launches import (
    DTYPES,
    LOSSES,
    QUICK,
    SHAPE,
    TARGETS,
    Job,
    classes,
    dtypes_of,
    jobs,
    losses,
    rounds_of,
    tile_of,
    work_of,
)
from bench.gpu.model import text_of, tiles

OUT = harness.RESULTS / "aot.json"
WITHOUT_SPILLS = ("sm_80", "sm_90", "sm_100")
GROWTH, SAVED, PEAK, LAUNCHES = 1.05, 2.5, 8.0, {"forward": 4, "backward": 2}
# Beside one fill: two medians and a trim of 32-bit numbers; a trim of an aligned residual.
SELECTING = {"affine-invariant": 8, "ssi-trim": 7}
# Losses whose executed instructions and compile time are measured, on QUICK only.
MEASURED_LOSSES = ("g2 published", "g2 document", "scale-adaptive", "adaptive-multi-domain", "silog")
EXECUTED_SHAPE, EXECUTED_GROWTH = (1, 192, 640), 1.10
ORDER = {
    "target": tuple(TARGETS),
    "loss": tuple(LOSSES),
    "dtype": DTYPES,
    "shape": (text_of(SHAPE),),
    "kernel": (*disassembly.WITHOUT_FUSION, "coarse", "gradient"),
}


def row(job: Job, timed: bool) -> dict:
    """Compile one launch and describe it; a failure becomes the row's `error`.

    `timed`: measure the compile time, without Triton's cache.
    """
    step, target = job.step, TARGETS[job.target]
    name = step.kernel.__name__
    result = {
        "target": job.target, "loss": job.loss, "dtype": job.dtype,
        "shape": text_of(job.shape), "kernel": name
    }  # fmt: skip
    triton.knobs.compilation.always_compile = timed
    begin = _cpu_seconds()
    try:
        kernel, arguments = disassembly.compiled(step, target)
        took = _cpu_seconds() - begin
        found = disassembly.describe(kernel, rounds_of(step), branches=name == "sobel")
    except Exception as error:
        while error.__cause__:
            error = error.__cause__
        return result | {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:300]}"}
    threads, pixels = target.warp_size * step.options.get("num_warps", 4), math.prod(job.shape)
    result |= {"programs": step.programs, "threads": threads, "tile": None, "levels": None, **found}
    result["resident_warps"] = occupancy.resident_warps(
        job.target, threads, found["registers"], found["shared"]
    )
    result["compile_s"] = round(took, 2) if timed else None
    result["executed_per_pixel"] = None
    place = tile_of(step)
    if place:
        tile, levels = place
        path = found["paths"] or dict.fromkeys(("level 0", "coarse"), found["instructions"])
        first = "coarse" if levels[0] else "level 0"
        programs = [tiles(job.shape, tile, k) for k in range(*levels)]
        if sum(programs) != step.programs:
            raise RuntimeError(f"{name}: {step.programs} programs, but its tiles make {sum(programs)}")
        issued = sum(n * path["coarse" if k else "level 0"] for k, n in enumerate(programs, levels[0]))
        result |= {
            "tile": tile,
            "levels": levels,
            "per_pixel": round(path[first] * threads / math.prod(tile), 2),
            "issued_per_pixel": round(issued * threads / pixels, 2),
        }
    result["fusion"] = step.options.get("enable_fp_fusion", True)
    result["fma"] = disassembly.fused_operations(kernel.asm["llir"], kernel.asm.get("ptx"))
    result["bytes_per_pixel"] = round(disassembly.touched_bytes(kernel.asm["llir"], arguments) / pixels, 3)
    return result


def _cpu_seconds() -> float:
    """CPU time of this process and of its children, such as ptxas, that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def start_emulator() -> subprocess.Popen:
    """Count what the kernels execute, beside the compilers.

    In a process of its own: the emulator replaces Triton's driver and torch's allocators.
    """
    words = ["tests.triton.emulator.count", *MEASURED_LOSSES, "--arch", TARGETS[QUICK[0]].arch]
    words += ["--dtype", QUICK[1], "--shape", *EXECUTED_SHAPE]
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.Popen(command, cwd=harness.ROOT, env=environment, **pipes)


def enter_executed(rows: list[dict], emulator: subprocess.Popen) -> None:
    """Wait for the emulator and give the rows their `executed_per_pixel`.

    Raises:
        RuntimeError: it failed.
    """
    out, error = emulator.communicate()
    if emulator.returncode:
        raise RuntimeError(f"the emulator failed:\n{error[-2000:]}")
    found = {x["loss"]: x["kernels"] for x in map(json.loads, out.splitlines())}
    for r in rows:
        if (r["target"], r["dtype"], r["shape"]) == (*QUICK, text_of(SHAPE)) and r["loss"] in found:
            r["executed_per_pixel"] = found[r["loss"]][r["kernel"]]["per_pixel"]


def _is_measured(job: Job) -> bool:
    return job.loss in MEASURED_LOSSES and (job.target, job.dtype) == QUICK


_JOBS: list[Job] = []


def _row(i: int, timed: bool) -> dict:
    return row(_JOBS[i], timed)


def compile_all(work: list[Job], workers: int, timed: bool) -> list[dict]:
    """Compile in forked processes, which inherit kernels and meta tensors; `timed`: the measured losses."""
    _JOBS[:] = work
    same: dict[tuple, list[int]] = {}
    for i, job in enumerate(work):
        same.setdefault(work_of(job), []).append(i)
    rows, begin = [None] * len(work), time.monotonic()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        waiting = {}
        for jobs in same.values():
            measured = timed and any(_is_measured(work[i]) for i in jobs)
            waiting[pool.submit(_row, jobs[0], measured)] = jobs
        for done, future in enumerate(as_completed(waiting), 1):
            for i in waiting[future]:
                rows[i] = future.result() | {"loss": work[i].loss, "dtype": work[i].dtype}
            if done % 25 == 0 or done == len(same):
                print(f"{done} of {len(same)} kernels, {time.monotonic() - begin:.0f} s", flush=True)
    return sorted(rows, key=lambda r: tuple(_place(r[key], known) for key, known in ORDER.items()))


def _place(x: str, known: tuple[str, ...]) -> int:
    return known.index(x) if x in known else len(known)


def same_compiler(new: dict, old: dict | None) -> bool:
    """Whether the instruction counts of two tables can be compared."""
    return bool(old) and old["versions"]["triton"] == new["versions"]["triton"]


def failures(new: dict, old: dict | None, growth: bool = True) -> list[str]:
    """Faults of the new table, and where it is worse than the old, each with loss and number."""
    wrong = []
    for loss, facts in new["losses"].items():
        for phase, limit in (LAUNCHES | {"forward": SELECTING.get(loss, LAUNCHES["forward"])}).items():
            if facts["launches"][phase] > limit:
                wrong.append(f"{loss}: {facts['launches'][phase]} launches {phase}; the bar is {limit}")
        for dtype, saved in facts["saved"].items():
            if saved > SAVED:
                wrong.append(f"{loss} {dtype}: saves {saved} bytes/pixel; the bar is {SAVED}")
            for phase, peak in facts["peak"][dtype].items():
                if peak > PEAK:
                    wrong.append(f"{loss} {dtype}: {peak} bytes/pixel in the {phase}; the bar is {PEAK:g}")
    known = {tuple(r[key] for key in ORDER): r for r in old["rows"]} if old else {}
    comparable = growth and same_compiler(new, old)
    for r in new["rows"]:
        key = tuple(r[key] for key in ORDER)
        name = f"{r['kernel']} ({r['loss']}, {r['target']}, {r['dtype']}, {r['shape']})"
        if "error" in r:
            wrong.append(f"{name}: does not compile: {r['error']}")
            continue
        if r["spills"] and r["target"] in WITHOUT_SPILLS:
            wrong.append(f"{name}: {r['spills']} spills, {r['registers']} registers")
        wrong += [f"{name}: {text}" for text in disassembly.roundings(r)]
        if comparable and "error" not in known.get(key, {"error": ""}):
            measure = "per_pixel" if r["tile"] else "instructions"
            before, now = known[key][measure], r[measure]
            unit = "instructions/pixel" if r["tile"] else "instructions"
            wrong += _grown(name, unit, before, now, GROWTH)
            counts = known[key].get("executed_per_pixel"), r.get("executed_per_pixel")
            if None not in counts:
                wrong += _grown(name, "executed instructions/pixel", *counts, EXECUTED_GROWTH)
    return wrong


def _grown(name: str, unit: str, before: float, now: float, limit: float) -> list[str]:
    if now <= limit * before:
        return []
    more = f"{100 * (now / before - 1):.1f}% above the committed {before:g}"
    return [f"{name}: {now:g} {unit}, {more}; `--renew` accepts it"]


def missing(committed: dict) -> list[str]:
    """Rows that the committed file lacks."""
    found = {tuple(r[key] for key in ("target", "loss", "dtype")) for r in committed["rows"]}
    wanted = {(t, loss, dtype) for t in TARGETS for loss in LOSSES for dtype in dtypes_of(t, loss)}
    return [f"{OUT.name} lacks {', '.join(key)}: run `make aot`" for key in sorted(wanted - found)]


def _committed() -> dict | None:
    return json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else None


def show(data: dict) -> None:
    """Print the main numbers of one target in float32."""
    targets = {r["target"] for r in data["rows"]}
    target, dtype = QUICK[0] if QUICK[0] in targets else min(targets), QUICK[1]
    print(f"\n{target}, {dtype}: instructions/pixel (finish: instructions), registers, warps, spills if any")
    for loss in LOSSES:
        line, facts = "", data["losses"][loss]
        for r in data["rows"]:
            if "error" not in r and (r["target"], r["loss"], r["dtype"], r["shape"]) == (
                target, loss, dtype, text_of(SHAPE)
            ):  # fmt: skip
                line += f" | {r['kernel']} {r.get('per_pixel', r['instructions']):g} r{r['registers']}"
                line += f" w{r['resident_warps']}"
                line += f" SPILLS {r['spills']}" if r["spills"] else ""
        memory = f"saves {facts['saved'][dtype]:g}, peak {max(facts['peak'][dtype].values()):g} B/px"
        print(f"{loss:<24} {memory}{line}")
    print()


def main() -> int:
    """Compile, compare, and write unless told not to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--quick", action="store_true", help=f"{' in '.join(QUICK)} only; writes nothing")
    parser.add_argument("--small", action="store_true", help="--quick, of few losses, with small tiles")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; the committed file must be complete"
    )
    parser.add_argument("--renew", action="store_true", help="accept more instructions than committed")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    if launch.k_moments.moments.__class__ is not triton.runtime.JITFunction:
        print("bench.gpu.aot compiles: unset TRITON_INTERPRET, which makes the kernels run in Python")
        return 2
    begin, old = time.monotonic(), None if options.small else _committed()
    options.quick |= options.small
    targets = [QUICK[0]] if options.quick else options.targets
    counted = QUICK[0] in targets and not options.small
    with start_emulator() if counted else contextlib.nullcontext() as emulator:
        rows = compile_all(jobs(targets, options.quick, options.small), options.jobs, not options.quick)
        if emulator:
            enter_executed(rows, emulator)
    new = {
        "about": disassembly.ABOUT,
        **harness.origin(),
        "commits": {},
        "machine": {"cpu": harness.cpu_name(), "cores": os.cpu_count()},
        "seconds": round(time.monotonic() - begin, 1),
        "limits": {"growth": GROWTH, "saved": SAVED, "peak": PEAK, "launches": LAUNCHES},
        "executed": {"target": QUICK[0], "dtype": QUICK[1], "shape": text_of(EXECUTED_SHAPE)},
        "classes": {target: classes(target) for target in TARGETS},
        "losses": losses(),
        "rows": rows,
    }
    show(new)
    if old and not same_compiler(new, old):
        print(
            f"Triton {old['versions']['triton']} made the committed file: instruction counts are not compared"
        )
    wrong = failures(new, old, growth=not options.renew)
    if options.check:
        wrong += missing(old) if old else [f"{OUT.name} is missing: run `make aot`"]
    for text in wrong:
        print(text)
    print(f"{len(rows)} kernels in {new['seconds']} s: {len(wrong) or 'nothing'} wrong")
    if not options.check and not options.quick and (options.renew or not wrong):
        old = _committed()  # Another target may have been written meanwhile.
        rest = [r for r in old["rows"] if r["target"] not in targets] if old else []
        commits = (old or {}).get("commits", {}) | dict.fromkeys(targets, new["commit"])
        rows = sorted(rest + rows, key=lambda r: list(TARGETS).index(r["target"]))
        harness.write_json(OUT, new | {"commits": commits, "rows": rows})
        print(f"wrote {OUT}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
