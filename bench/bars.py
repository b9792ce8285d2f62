"""The bars: ratios that the rows of one run on one machine must reach."""

from __future__ import annotations

import math
from collections.abc import Iterable

from depthloss import env

FIRST = (4, 1, 384, 640)
WIDE = (16, 1, 352, 1216)
SHAPES = {
    "cpu": (FIRST, WIDE, (8, 1, 192, 640), (1, 1, 1024, 2048)),
    "cuda": (FIRST, WIDE, (8, 1, 192, 640), (1, 1, 1024, 2048), (8, 1, 1024, 2048)),
}
TIMED = ("g2 published", "g2 document")
EAGER = ("eager", "eager slicing")
COMPILED = ("compile", "compile slicing", "reduce-overhead", "reduce-overhead slicing")
# Instruction sets of the CPU engine, and their names in tables.
INSTRUCTION_SETS = {"avx512": "AVX-512", "avx2": "AVX2", "base": "baseline"}
# Several evaluations of a loss: the bars of launches and saved bytes are for one.
COMPOSED = ("scale-adaptive-progressive",)
MOST_CALLS = 8  # back to back in one sample
CASE = ("loss", "shape", "dtype", "density", "threads")


def variant(backend: str, instruction_set: str | None) -> str:
    """The name of a fused backend's variant, such as ``"cpu avx2"``."""
    return f"{backend} {instruction_set}" if instruction_set else backend


def backend(variant: str) -> str:
    """The backend of a variant of ours; the first word of any other variant."""
    return variant.split()[0]


def milliseconds(row: dict | None, clock: str, phase: str = "forward+backward") -> float:
    """The median of a phase, NaN where it was not measured."""
    values = (row or {}).get("ms", {}).get(phase, {}).get(clock)
    return values["median"] if values else math.nan


def cases(rows: Iterable[dict]) -> dict[tuple, dict[str, dict]]:
    """The rows by case, then by variant."""
    result: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        key = tuple(tuple(row[k]) if k == "shape" else row[k] for k in CASE)
        result.setdefault(key, {})[row["variant"]] = row
    return result


def fastest(case: dict[str, dict], variants: Iterable[str], clock: str) -> float:
    """The least forward+backward time of the variants, NaN if none was measured."""
    times = [milliseconds(case.get(name), clock) for name in variants]
    return min((t for t in times if not math.isnan(t)), default=math.nan)


def _bar(what: str, value: float | None, sense: str, limit: float | None, goal: float | None = None) -> dict:
    """One bar; `passed` is None if it was not measured. A bar without a limit is shown and not judged."""
    value = None if value is None or math.isnan(value) else value
    bar = {"what": what, "value": value, "sense": sense, "limit": limit, "goal": goal, "passed": None}
    if value is None or limit is None:
        return bar
    reached = lambda bound: value >= bound if sense == ">=" else value <= bound  # noqa: E731
    bar["passed"] = reached(limit)
    return bar | ({"goal_reached": reached(goal)} if goal is not None else {})


def _gpu(case: dict[str, dict], ours: dict, shape: tuple, machine: dict) -> list[dict]:
    bars, device = [], milliseconds(ours, "gpu")
    if shape == FIRST:
        wall = milliseconds(ours, "wall")
        bars += [
            _bar("eager / ours, wall", fastest(case, EAGER, "wall") / wall, ">=", 30),
            _bar("torch.compile / ours, wall", fastest(case, COMPILED, "wall") / wall, ">=", 4),
            _bar("torch.compile / ours, GPU time", fastest(case, COMPILED, "gpu") / device, ">=", 2),
        ]
        if "H200" in machine.get("gpu", ""):
            bars.append(_bar("ours, GPU time in a graph, µs", 1e3 * device, "<=", 40, 25))
    if shape == WIDE:
        bars.append(_bar("ours / copy, GPU time", device / milliseconds(case.get("copy"), "gpu"), "<=", 7, 3))
    return bars


def _cpu(case: dict[str, dict], ours: dict, shape: tuple, machine: dict) -> list[dict]:
    wall, isa, threads = milliseconds(ours, "wall"), ours["instruction_set"], ours["threads"]
    over, best = wall / milliseconds(case.get("copy"), "wall"), fastest(case, (*EAGER, *COMPILED), "wall")
    bars = {
        ("avx512", 2): [
            _bar("best PyTorch form / ours, 2 threads", best / wall, ">=", 8),
            _bar("ours / copy, 2 threads", over, "<=", 4.5 if shape == (1, 1, 1024, 2048) else 4, 3),
        ],
        ("avx2", 2): [_bar("ours / copy, 2 threads", over, "<=", 5)],
        ("avx512", 1): [_bar("ours / copy, 1 thread", over, "<=", 6.5)],
        ("avx2", 1): [_bar("ours / copy, 1 thread", over, "<=", None)],
    }
    return bars.get((isa, threads), [])


def evaluate(rows: list[dict], machine: dict, device: str, backends: Iterable[str]) -> list[dict]:
    """The bars of every measured case at a bar shape.

    Times are bars for both variants of g2; launches, saved bytes and host synchronisations for every fused
    loss.
    """
    result = []
    for key, case in cases(rows).items():
        loss, shape = key[:2]
        if shape not in SHAPES[device]:
            continue
        for ours in (row for name, row in case.items() if backend(name) in backends):
            bars = []
            if loss in TIMED:
                bars += (_gpu if device == "cuda" else _cpu)(case, ours, shape, machine)
                bars.append(_bar("peak extra memory, B/pixel", ours["peak_bytes_per_pixel"], "<=", 8))
            if loss not in COMPOSED:
                bars.append(_bar("saved for backward, B/pixel", ours["saved_bytes_per_pixel"], "<=", 2.5))
                if device == "cuda":
                    launches = ours["launches"] or {}
                    bars += [
                        _bar("launches, forward", launches.get("forward"), "<=", 4),
                        _bar("launches, backward", launches.get("backward"), "<=", 2),
                        _bar("host synchronisations", ours["host_syncs"], "<=", 0),
                    ]
            where = dict(zip(CASE, key, strict=True)) | {"backend": ours["variant"]}
            result += [where | {"shape": list(shape)} | bar for bar in bars]
    return result


def describe_case(row: dict) -> str:
    """The case of a row or bar in words."""
    shape, threads = "x".join(map(str, row["shape"])), row["threads"]
    threads = f", {env.threads(threads)}" if threads else ""
    return f"{row['loss']} {shape} {row['dtype']} density {row['density']:g}{threads}"


def table(rows: list[dict], phases: Iterable[str], kinds: Iterable[str]) -> str:
    """The rows of one case as text: medians, peak and saved bytes per pixel."""
    phases = list(phases)
    lines = [describe_case(rows[0])]
    lines.append(f"  {'ms, median':<30}" + "".join(f"{p:>18}" for p in phases) + f"{'B/px peak saved':>18}")
    for kind in kinds:
        for row in rows:
            times = (milliseconds(row, kind, phase) for phase in phases)
            text = "".join(f"{'-' if math.isnan(t) else f'{t:.4g}':>18}" for t in times)
            memory = (row.get(f"{key}_bytes_per_pixel") for key in ("peak", "saved"))
            text += "    " + " ".join("-" if x is None else f"{x:.3g}" for x in memory)
            name = f"{row['variant']}, {kind}"
            lines.append(f"  {name:<30}{text}")
    return "\n".join(lines)


def describe(bar: dict) -> str:
    """One line of the printed report."""
    verdict = {True: "pass", False: "FAIL", None: "not measured"}[bar["passed"]]
    if bar["limit"] is None:
        verdict = "no bar"
    value = "-" if bar["value"] is None else f"{bar['value']:.3g}"
    goal = f" (then {bar['sense']} {bar['goal']:g})" if bar["goal"] is not None else ""
    limit = "" if bar["limit"] is None else f" {bar['sense']} {bar['limit']:g}"
    what = f"{bar['what']:<36} {value:>7}{limit}{goal}"
    return f"{verdict:<12}  {what}   {bar['backend']}, {describe_case(bar)}"
