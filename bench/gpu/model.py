"""What bench/results/aot.json lets expect on a GPU: a traffic-and-issue model, beside what was measured.

    python -m bench.gpu.model [--gpus H200 ...] [--losses "g2 document" ...] [--dtypes float32 ...] [--json]

    time of a kernel = max(traffic / bandwidth, warp instructions / (multiprocessors x 4 x clock)) + latency

Assumptions, all but the last on the fast side: a prediction is what could be reached, not what will be.
* Every instruction of a program's path is issued once, whatever pipe it needs: no stalls, no bank conflicts,
  no limit by occupancy. A loop over rows counts by its rounds, others once, which holds for the bar shapes
  but for the sums in `finish`.
* A launch of fewer programs than multiprocessors uses as many multiprocessors as it has programs.
* Each tensor that a kernel touches moves once; halos and samples read again hit the first-level cache.
* The first kernel reads its inputs from HBM: who made them has used the cache since, and the benchmark sees
  to it. All else comes from L2 where the batch's inputs and buffers fit in it together, else from HBM.
* Peak bandwidths and the boost clock are reached.
* Launches follow each other in a CUDA graph, LATENCY apart; Python and eager launches are not in it.

Where aot.json has no row for a dtype on an architecture, or with the launch parameters of a large image, the
instructions change from float32's, or from a small image's, as they do on REFERENCE. Measured numbers are
medians of GPU time in a graph, mask density 1, from bench/results/speed_*.json; "-" where there are none.
They never enter a prediction.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from bench import bars

RESULTS = Path(__file__).parents[1] / "results"
LATENCY = 2e-6  # seconds from the end of a kernel to the first instruction of the next, in a graph
ISSUE_SLOTS = 4  # warp instructions per clock and multiprocessor
L2_BYTES_PER_CLOCK = 5120  # NVIDIA's A100 white paper; taken for the others, which publish none
WARP = 32
REFERENCE = ("sm_90", "float32")
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FIRST = "moments"
PLACE = ("tile", "levels", "threads")
MARKS = {"issue": "i", "L2": "c", "HBM": "m"}
BACKWARD = ("coarse", "gradient")
PHASES = ("forward", "backward", "forward+backward")
SHAPES = tuple((b, h, w) for b, _, h, w in bars.SHAPES["cuda"])


@dataclass(frozen=True)
class Gpu:
    """Public numbers of a GPU: multiprocessors, boost clock in Hz, HBM in bytes/s, L2 in bytes."""

    target: str
    multiprocessors: int
    clock: float
    hbm: float
    l2: float

    @property
    def issue(self) -> float:
        """Warp instructions per second and multiprocessor."""
        return ISSUE_SLOTS * self.clock

    def bandwidth(self, cached: bool) -> float:
        """Bytes per second."""
        return L2_BYTES_PER_CLOCK * self.clock if cached else self.hbm


GPUS = {
    "A100": Gpu("sm_80", 108, 1.41e9, 2.039e12, 40e6),  # SXM, 80 GB
    "H100": Gpu("sm_90", 132, 1.98e9, 3.35e12, 50e6),  # SXM
    "H200": Gpu("sm_90", 132, 1.98e9, 4.8e12, 50e6),
}


def text_of(shape: tuple[int, ...]) -> str:
    """A shape as the results write it: 4x384x640."""
    return "x".join(map(str, shape))


def tiles(shape: tuple[int, int, int], tile: tuple[int, int], level: int) -> int:
    """Programs of tile rows x columns that cover one level of a batch [B, H, W]."""
    b, h, w = shape
    return b * -(-(h >> level) // tile[0]) * -(-(w >> level) // tile[1])


def rows_of(table: dict, target: str, loss: str, dtype: str, shape: tuple[int, int, int]) -> list[dict]:
    """The rows of the kernels with the launch parameters of this shape; KeyError if there are none."""
    found: dict[tuple, dict[str, dict]] = {}
    for r in table["rows"]:
        if r["loss"] == loss and "error" not in r:
            found.setdefault((r["target"], r["dtype"], r["shape"]), {})[r["kernel"]] = r
    wanted = table["classes"][target][text_of(shape)]
    if (target, dtype, wanted) in found:
        return list(found[target, dtype, wanted].values())
    small = text_of(SHAPES[0])
    base, rows = found[(*REFERENCE, small)], found.get((target, dtype, small))
    if rows is None:
        same = found[REFERENCE[0], dtype, small]
        rows = {
            name: _scaled(r, same[name], base[name]) for name, r in found[target, REFERENCE[1], small].items()
        }
        rows = {name: r | {"bytes_per_pixel": same[name]["bytes_per_pixel"]} for name, r in rows.items()}
    if wanted != small:
        large = found[(*REFERENCE, wanted)]
        rows = {name: _scaled(r, large[name], base[name]) for name, r in rows.items()}
        rows = {name: r | {key: large[name][key] for key in PLACE} for name, r in rows.items()}
    return list(rows.values())


def _scaled(r: dict, to: dict, of: dict) -> dict:
    """The row r with its instructions in the proportion of those of two other rows of its kernel."""
    paths = None
    if r["paths"] and to["paths"] and of["paths"]:
        paths = {key: n * to["paths"][key] / of["paths"][key] for key, n in r["paths"].items()}
    return r | {"instructions": r["instructions"] * to["instructions"] / of["instructions"], "paths": paths}


def programs(r: dict, shape: tuple[int, int, int]) -> tuple[int, float]:
    """Programs of a launch, and the instructions that all their warps issue."""
    warps, count, issued = r["threads"] / WARP, 0, 0.0
    if not r["tile"]:
        return 1, r["instructions"] * warps
    for level in range(*r["levels"]):
        n = tiles(shape, r["tile"], level)
        path = r["paths"]["coarse" if level else "level 0"] if r["paths"] else r["instructions"]
        count, issued = count + n, issued + n * path * warps
    return count, issued


def predict(table: dict, gpu: Gpu, loss: str, dtype: str, shape: tuple[int, int, int]) -> dict[str, dict]:
    """Microseconds of each kernel of a loss, and what bounds it: "issue", "L2" or "HBM"."""
    pixels, item = math.prod(shape), ITEM_BYTES[dtype]
    batch = pixels * (2 * item + 1 + max(table["losses"][loss]["peak"][dtype].values()))
    result = {}
    for r in rows_of(table, gpu.target, loss, dtype, shape):
        cached = batch <= gpu.l2 and r["kernel"] != FIRST
        count, issued = programs(r, shape)
        traffic = r["bytes_per_pixel"] * pixels / gpu.bandwidth(cached)
        issue = issued / (min(count, gpu.multiprocessors) * gpu.issue)
        bound = "issue" if issue > traffic else "L2" if cached else "HBM"
        result[r["kernel"]] = {"us": 1e6 * (max(traffic, issue) + LATENCY), "bound": bound}
    return result


def measured(results: Path) -> dict[tuple, float]:
    """Microseconds by (GPU's name, loss, dtype, shape, phase) from every speed_*.json of a GPU."""
    found = {}
    for file in sorted(results.glob("speed_*.json")):
        data = json.loads(file.read_text(encoding="utf-8"))
        name = data["machine"].get("gpu")
        for row in data["rows"] if name and not data.get("dry_run") else ():
            if row["variant"] == "triton" and row["density"] == 1:
                b, _, h, w = row["shape"]
                for phase in PHASES:
                    key = (name, row["loss"], row["dtype"], (b, h, w), phase)
                    found[key] = 1e3 * bars.milliseconds(row, "gpu", phase)
    return {key: us for key, us in found.items() if not math.isnan(us)}


def entry(table: dict, seen: dict[tuple, float], name: str, loss: str, dtype: str, shape: tuple) -> dict:
    """All of one case: times in microseconds, `measured` None where nothing was."""
    kernels = predict(table, GPUS[name], loss, dtype, shape)
    total = sum(k["us"] for k in kernels.values())
    back = sum(k["us"] for kernel, k in kernels.items() if kernel in BACKWARD)
    real = {key[4]: us for key, us in seen.items() if name in key[0] and key[1:4] == (loss, dtype, shape)}
    return {
        "gpu": name,
        "shape": shape,
        "dtype": dtype,
        "loss": loss,
        "kernels": kernels,
        "predicted": dict(zip(PHASES, (total - back, back, total), strict=True)),
        "measured": {phase: real.get(phase) for phase in PHASES},
        "floor": 1e6 * (3 * ITEM_BYTES[dtype] + 1) * math.prod(shape) / GPUS[name].hbm,
    }


def show(entries: list[dict]) -> None:
    """The entries as a table."""
    columns = list(dict.fromkeys(k for e in entries for k in e["kernels"]))
    print(
        "Predicted microseconds; bound by i = instruction issue, c = L2 cache, m = HBM. Floor: a copy of p,"
    )
    print("g, mask and gradient through HBM. Measured: forward, backward, both; - = not measured.")
    head = "".join(f"{k:>10}" for k in (*columns, "forward", "backward", "both", "floor"))
    print(f"{'GPU':<6}{'shape':<13}{'dtype':<10}{'loss':<25}{head}   measured")
    for e in entries:
        cells = [
            (e["kernels"][k]["us"], MARKS[e["kernels"][k]["bound"]]) if k in e["kernels"] else None
            for k in columns
        ]
        text = "".join(f"{x[0]:>9.1f}{x[1]}" if x else f"{'':>10}" for x in cells)
        text += "".join(f"{us:>10.1f}" for us in (*e["predicted"].values(), e["floor"]))
        real = " ".join("-" if us is None else f"{us:.1f}" for us in e["measured"].values())
        print(f"{e['gpu']:<6}{text_of(e['shape']):<13}{e['dtype']:<10}{e['loss']:<25}{text}   {real}")


def main() -> int:
    """Print the table, or with --json its entries."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, default=RESULTS / "aot.json")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the measured numbers lie")
    parser.add_argument("--gpus", nargs="+", choices=list(GPUS), default=list(GPUS))
    parser.add_argument("--losses", nargs="+", help="default: all in the table")
    parser.add_argument("--dtypes", nargs="+", choices=list(ITEM_BYTES), default=["float32", "bfloat16"])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    table = json.loads(options.table.read_text(encoding="utf-8"))
    names = options.losses or list(table["losses"])
    if unknown := set(names) - set(table["losses"]):
        parser.error(
            f"--losses {', '.join(sorted(unknown))}: {options.table.name} has {', '.join(table['losses'])}"
        )
    seen = measured(options.results)
    entries = [
        entry(table, seen, name, loss, dtype, shape)
        for name in options.gpus
        for shape in SHAPES
        for dtype in options.dtypes
        for loss in names
    ]
    if options.json:
        print(json.dumps(entries, indent=1))
    else:
        show(entries)
    return 0


if __name__ == "__main__":
    sys.exit(main())
