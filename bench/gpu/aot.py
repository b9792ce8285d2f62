"""Compile the Triton kernels ahead of time, without a GPU, and keep what the compilers made of them.

    python -m bench.gpu.aot [--targets sm_90 ...] [--renew]    writes bench/results/aot.json
    python -m bench.gpu.aot --quick --check                    sm_90 in float32 only; compares, writes nothing
    python -m bench.gpu.aot --small                            every kernel, of a few losses, with small tiles

Each launch is the one that `depthloss.kernels.triton.launch` makes for a batch, specialised by Triton's own
binder. It fails, and writes nothing, if a kernel does not compile, spills on sm_80, sm_90 or sm_100, has more
than 5% more instructions than the committed file says, or fuses a multiply-add that can round where signs are
taken; or if a loss saves more than 2.5 bytes/pixel, needs more than 8, or more than 4 + 2 launches. `--renew`
accepts the growth. What the numbers of a row mean is in disassembly.ABOUT, and in the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass

import torch
import triton
from depthloss.kernels.plan import make_plan
from depthloss.kernels.triton import launch, table
from triton.backends.compiler import GPUTarget

import depthloss
from bench import harness
from bench.gpu import disassembly
from bench.gpu.model import SHAPES, text_of, tiles

OUT = harness.RESULTS / "aot.json"
TARGETS = {f"sm_{capability}": GPUTarget("cuda", capability, 32) for capability in (75, 80, 90, 100)}
TARGETS["gfx942"] = GPUTarget("hip", "gfx942", 64)
DTYPES = ("float32", "bfloat16", "float16")
QUICK = ("sm_90", "float32")
IN_FLOAT64 = "g2 document"
LOSSES = {
    "g2 published": ("g2", {"variant": "published"}),
    "g2 document": ("g2", {"variant": "document"}),
    "scale-adaptive": ("scale-adaptive", {}),
    "ssi-silog": ("ssi-silog", {}),
    "ssi-silog with gradient": ("ssi-silog", {"gradient_weight": 0.2}),
    "adaptive-multi-domain": ("adaptive-multi-domain", {}),
    "fixed-multi-domain": ("fixed-multi-domain", {}),
    "gradient": ("gradient", {}),
    "ssi": ("ssi", {}),
    "silog": ("silog", {}),
    "enhanced-ssi": ("enhanced-ssi", {}),
    "berhu": ("berhu", {}),
    "l1": ("l1", {}),
}
SHAPE = SHAPES[0]
# Small tiles compile faster; the losses have every kernel between them.
SMALL = table.Parameters(tile=(16, 16), strip_rows=2, strips=1, rows=2, columns=32)
SMALL_LOSSES = ("g2 document", "ssi-silog", "berhu")
ROLLED = ("sobel", "coarse", "gradient")
WITHOUT_SPILLS = ("sm_80", "sm_90", "sm_100")
GROWTH, SAVED, PEAK, LAUNCHES = 1.05, 2.5, 8.0, {"forward": 4, "backward": 2}
ORDER = {
    "target": tuple(TARGETS),
    "loss": tuple(LOSSES),
    "dtype": DTYPES,
    "shape": (text_of(SHAPE),),
    "kernel": ("moments", "berhu", "pyramid", "sobel", "finish", "coarse", "gradient"),
}


@dataclass(frozen=True)
class Job:
    """One launch to compile."""

    target: str
    loss: str
    dtype: str
    shape: tuple[int, int, int]
    step: launch.Launch


class Batch:
    """The launches of one loss on one batch, and the memory they take."""

    def __init__(
        self,
        target: str,
        loss: str,
        dtype: str,
        shape: tuple[int, int, int],
        parameters: table.Parameters | None = None,
    ) -> None:
        name, options = LOSSES[loss]
        module = depthloss.build_loss(name, **options)
        plan = make_plan(module.spec)
        parameters = parameters or table.choose(TARGETS[target].arch, *shape[1:])
        empty = lambda kind, *size: torch.empty(size, dtype=kind, device="meta")  # noqa: E731
        kind = getattr(torch, dtype)
        acc = torch.float64 if kind == torch.float64 else torch.float32
        maps = empty(kind, *shape), empty(kind, *shape), empty(torch.bool, *shape)
        log_vars = [empty(torch.float32) for _ in module.log_vars()]
        weights = module.weights(0.0, 0)
        run = launch.Forward(plan, parameters, *maps, None, weights, log_vars, acc, saves=True)
        self.forward = [run.first, *run.middle, run.last(collect=True, combine=True)]
        grad_output, kept = empty(acc), (run.codes, run.coefficients)
        self.backward, grad, grad_log_vars = launch.backward_launches(
            plan, parameters, grad_output, *kept, *maps, None, acc
        )
        given, pixels = _storages([*maps, *log_vars, grad_output]), math.prod(shape)
        forward = _storages(_tensors([x.args for x in self.forward])) | _storages([run.total, run.terms])
        backward = _storages([*_tensors([x.args for x in self.backward]), *kept, grad, grad_log_vars])
        size = lambda found: sum(n for key, n in found.items() if key not in given) / pixels  # noqa: E731
        self.saved, self.peak = size(_storages(kept)), {"forward": size(forward), "backward": size(backward)}


def _tensors(args: object) -> list[torch.Tensor]:
    if isinstance(args, (tuple, list)):
        return [x for arg in args for x in _tensors(arg)]
    return [args] if isinstance(args, torch.Tensor) else []


def _storages(tensors: list[torch.Tensor]) -> dict[int, int]:
    """Bytes of the memory behind the tensors, each piece once."""
    return {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}


def tile_of(step: launch.Launch) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Rows and columns of a program, and its pyramid levels; None for what no pixel is tied to."""
    c, name = step.constants, step.kernel.__name__
    if name == "sobel":
        return (c["TH"], c["S"] * launch.k_sobel.LANES), (0, c["LEVELS"])
    if name == "coarse":
        return (c["TH"], c["TW"]), (1, c["LEVELS"])
    return None if name == "finish" else ((c["TH"], c["TW"]), (0, 1))


def rounds_of(step: launch.Launch) -> int | None:
    """Rounds of a loop over rows, which takes two at a time, over a full tile and the rows around it."""
    return (step.constants["TH"] + 3) // 2 if step.kernel.__name__ in ROLLED else None


def row(job: Job) -> dict:
    """Compile one launch and describe it; a failure becomes the row's `error`."""
    step, target = job.step, TARGETS[job.target]
    name = step.kernel.__name__
    result = {
        "target": job.target, "loss": job.loss, "dtype": job.dtype,
        "shape": text_of(job.shape), "kernel": name
    }  # fmt: skip
    try:
        kernel, arguments = disassembly.compiled(step, target)
        found = disassembly.describe(kernel, rounds_of(step), branches=name == "sobel")
    except Exception as error:
        while error.__cause__:
            error = error.__cause__
        return result | {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:300]}"}
    threads, pixels = target.warp_size * step.options.get("num_warps", 4), math.prod(job.shape)
    result |= {"programs": step.programs, "threads": threads, "tile": None, "levels": None, **found}
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


def classes(target: str) -> dict[str, str]:
    """Of each bar shape the first one with the same launch parameters."""
    arch, chosen = TARGETS[target].arch, {}
    return {text_of(s): chosen.setdefault(table.choose(arch, *s[1:]), text_of(s)) for s in SHAPES}


def dtypes_of(target: str, loss: str, quick: bool = False) -> tuple[str, ...]:
    """Every dtype; float64, which no training uses, of one loss on one target."""
    if quick:
        return (QUICK[1],)
    return DTYPES + ("float64",) * (loss == IN_FLOAT64 and target == QUICK[0])


def jobs(targets: list[str], quick: bool, small: bool = False) -> list[Job]:
    """What to compile, the slowest first."""
    cases = []
    for target in targets:
        for loss in SMALL_LOSSES if small else LOSSES:
            cases += [(target, loss, dtype, SHAPE) for dtype in dtypes_of(target, loss, quick)]
            if target == QUICK[0] and not quick:  # The other launch parameters, for the model.
                others = set(classes(target).values()) - {text_of(SHAPE)}
                cases += [(target, loss, QUICK[1], s) for s in SHAPES if text_of(s) in others]
    found = [
        Job(*case, step)
        for case in cases
        for batch in [Batch(*case, SMALL if small else None)]
        for step in batch.forward + batch.backward
    ]
    return sorted(found, key=lambda x: (x.step.kernel.__name__ != "sobel", x.target != "gfx942"))


# What only the finishing kernel reads of a plan.
FINISH_ONLY = {"groups", "num_weights", "log_var_bounds", "num_metrics", "count_slot", "total_slot"}


def _dtypes(args: tuple) -> Iterator[str]:
    for x in args:
        if isinstance(x, tuple):
            yield from _dtypes(x)
        else:
            yield str(x.dtype) if isinstance(x, torch.Tensor) else type(x).__name__


def work_of(job: Job) -> tuple:
    """What decides the machine code of a launch: several losses and dtypes share kernels."""
    step, name = job.step, job.step.kernel.__name__
    constants = dict(step.constants)
    plan = constants.pop("PLAN", None)
    facts = dataclasses.asdict(plan) if plan else {}
    if name != "finish":
        facts = {key: value for key, value in facts.items() if key not in FINISH_ONLY}
    shapes = (job.target, name, job.shape, step.programs)
    return (*shapes, repr(facts), repr(constants), repr(step.options), *_dtypes(step.args))


_JOBS: list[Job] = []


def _row(i: int) -> dict:
    return row(_JOBS[i])


def compile_all(work: list[Job], workers: int) -> list[dict]:
    """Compile in forked processes, which see this one's kernels and meta tensors."""
    _JOBS[:] = work
    same: dict[tuple, list[int]] = {}
    for i, job in enumerate(work):
        same.setdefault(work_of(job), []).append(i)
    rows, begin = [None] * len(work), time.monotonic()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:
        waiting = {pool.submit(_row, jobs[0]): jobs for jobs in same.values()}
        for done, future in enumerate(as_completed(waiting), 1):
            for i in waiting[future]:
                rows[i] = future.result() | {"loss": work[i].loss, "dtype": work[i].dtype}
            if done % 25 == 0 or done == len(same):
                print(f"{done} of {len(same)} kernels, {time.monotonic() - begin:.0f} s", flush=True)
    return sorted(rows, key=lambda r: tuple(_place(r[key], known) for key, known in ORDER.items()))


def _place(x: str, known: tuple[str, ...]) -> int:
    return known.index(x) if x in known else len(known)


def losses() -> dict[str, dict]:
    """Launches, and bytes/pixel saved and at the peak beyond the inputs; the gradient counts."""
    result: dict[str, dict] = {}
    for loss in LOSSES:
        result[loss] = {"launches": {}, "saved": {}, "peak": {}}
        for dtype in DTYPES:
            batch = Batch(QUICK[0], loss, dtype, SHAPE)
            result[loss]["launches"] = {"forward": len(batch.forward), "backward": len(batch.backward)}
            result[loss]["saved"][dtype] = round(batch.saved, 3)
            result[loss]["peak"][dtype] = {phase: round(x, 3) for phase, x in batch.peak.items()}
    return result


def same_compiler(new: dict, old: dict | None) -> bool:
    """Whether the instruction counts of two tables can be compared."""
    return bool(old) and old["versions"]["triton"] == new["versions"]["triton"]


def failures(new: dict, old: dict | None, growth: bool = True) -> list[str]:
    """What is wrong with the new table, and where it is worse than the old; each names loss and number."""
    wrong = []
    for loss, facts in new["losses"].items():
        for phase, limit in LAUNCHES.items():
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
            if now > GROWTH * before:
                more = f"{100 * (now / before - 1):.1f}% above the committed {before:g}"
                unit = "instructions/pixel" if r["tile"] else "instructions"
                wrong.append(f"{name}: {now:g} {unit}, {more}; `--renew` accepts it")
    return wrong


def missing(committed: dict) -> list[str]:
    """What the committed file lacks."""
    found = {tuple(r[key] for key in ("target", "loss", "dtype")) for r in committed["rows"]}
    wanted = {(t, loss, dtype) for t in TARGETS for loss in LOSSES for dtype in dtypes_of(t, loss)}
    return [f"{OUT.name} lacks {', '.join(key)}: run `make aot`" for key in sorted(wanted - found)]


def _committed() -> dict | None:
    return json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else None


def show(data: dict) -> None:
    """What is looked at most, of one target in float32."""
    targets = {r["target"] for r in data["rows"]}
    target, dtype = QUICK[0] if QUICK[0] in targets else min(targets), QUICK[1]
    print(f"\n{target}, {dtype}: instructions/pixel (finish: instructions), registers, spills if any")
    for loss in LOSSES:
        line, facts = "", data["losses"][loss]
        for r in data["rows"]:
            if "error" not in r and (r["target"], r["loss"], r["dtype"], r["shape"]) == (
                target, loss, dtype, text_of(SHAPE)
            ):  # fmt: skip
                line += f" | {r['kernel']} {r.get('per_pixel', r['instructions']):g} r{r['registers']}"
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
    rows = compile_all(jobs(targets, options.quick, options.small), options.jobs)
    new = {
        "about": disassembly.ABOUT,
        **harness.origin(),
        "commits": {},
        "machine": {"cpu": harness.cpu_name(), "cores": os.cpu_count()},
        "seconds": round(time.monotonic() - begin, 1),
        "limits": {"growth": GROWTH, "saved": SAVED, "peak": PEAK, "launches": LAUNCHES},
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
