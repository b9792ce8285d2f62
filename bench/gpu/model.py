"""What bench/results/aot.json predicts for a GPU, beside what was measured.

    python -m bench.gpu.model [--gpus H200 ...] [--losses "g2 document" ...] [--dtypes float32 ...] [--json]

    time of a kernel = max(traffic, issue, fetch) + LATENCY
    traffic          = bytes / bandwidth
    issue            = warp instructions / (multiprocessors x 4 x clock x busy)
    busy             = min(1, warps / (4 + memory latency / instructions))
    fetch            = bytes of code / bandwidth of the L2 cache per multiprocessor

A prediction is what could be reached, not what will be: nobody has compared it with a GPU. Its assumptions:

* Every instruction of a program's path is issued once, whatever pipe it needs; no bank conflicts. A loop over
  rows counts by its rounds, others once, which holds for the bar shapes but for the sums in `finish`.
* Little's law (Volkov, Understanding Latency Hiding on GPUs, 2016): a scheduler is `busy` as far as its warps
  cover their waits. `warps` are those of a scheduler that fit by registers and shared memory, and that the
  launch has. Each instruction needs the result of the one before, after 4 clocks (Jia et al., arXiv
  1804.06826): this alone is on the slow side. A warp waits for memory once per round of its loop over rows,
  or once where it has none: `instructions` are those in between.
* A launch of fewer programs than multiprocessors uses as many multiprocessors as it has programs.
* Each tensor that a kernel touches moves once; halos and samples read again hit the first-level cache.
* The first kernel reads its inputs from HBM, as the benchmark does. All else comes from L2 if the inputs and
  buffers of the batch fit in it together, else from HBM.
* All warps of a multiprocessor run through the code together, and prefetching (Huerta et al., arXiv
  2503.20481) hides the way from its instruction cache to the schedulers. Code that fits that cache is
  fetched once per launch, other code once for each generation of programs.
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
from bench.gpu.occupancy import SCHEDULERS, WARP, resident_warps

RESULTS = Path(__file__).parents[1] / "results"
LATENCY = 2e-6  # Seconds between two kernels of a graph; assumed.
ARITHMETIC = 4  # clocks from an instruction to one that needs its result
L2_BYTES_PER_CLOCK = 5120  # NVIDIA's A100 white paper; taken for the others, which publish none
INSTRUCTION = 16  # bytes
# Bytes of a multiprocessor's instruction cache. A100: Jia and Van Sandt, GTC 2021, S33322, as quoted by
# github.com/YKTian-x2b/AmpereArchViaMicroBenchMark; taken for the others. A scheduler's own cache has 32 KiB.
INSTRUCTION_CACHE = 128 << 10
REFERENCE = ("sm_90", "float32")
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FIRST = "moments"
PLACE = ("tile", "levels", "threads")
MARKS = {"issue": "i", "warps": "w", "fetch": "f", "L2": "c", "HBM": "m"}
BACKWARD = ("coarse", "gradient")
PHASES = ("forward", "backward", "forward+backward")
SHAPES = tuple((b, h, w) for b, _, h, w in bars.SHAPES["cuda"])


@dataclass(frozen=True)
class Gpu:
    """Public numbers of a GPU: multiprocessors, boost clock in Hz, HBM in bytes/s, L2 in bytes.

    `latencies` of L2 and HBM are clocks of a chain of loads, measured on an A100 and an H800 by
    github.com/chanzhennan/ChipBenchmarker.
    """

    target: str
    multiprocessors: int
    clock: float
    hbm: float
    l2: float
    latencies: tuple[int, int]

    @property
    def issue(self) -> float:
        """Warp instructions per second and multiprocessor."""
        return SCHEDULERS * self.clock

    def latency(self, cached: bool) -> int:
        """Clocks of a load."""
        return self.latencies[0 if cached else 1]

    def bandwidth(self, cached: bool) -> float:
        """Bytes per second."""
        return L2_BYTES_PER_CLOCK * self.clock if cached else self.hbm


GPUS = {
    "A100": Gpu("sm_80", 108, 1.41e9, 2.039e12, 40e6, (332, 499)),  # SXM, 80 GB
    "H100": Gpu("sm_90", 132, 1.98e9, 3.35e12, 50e6, (273, 673)),  # SXM
    "H200": Gpu("sm_90", 132, 1.98e9, 4.8e12, 50e6, (273, 673)),
}


def text_of(shape: tuple[int, ...]) -> str:
    """A shape as the results write it: 4x384x640."""
    return "x".join(map(str, shape))


def tiles(shape: tuple[int, int, int], tile: tuple[int, int], level: int) -> int:
    """Programs of tile rows x columns that cover one level of a batch [B, H, W]."""
    b, h, w = shape
    return b * -(-(h >> level) // tile[0]) * -(-(w >> level) // tile[1])


def rows_of(table: dict, target: str, loss: str, dtype: str, shape: tuple[int, int, int]) -> list[dict]:
    """The rows of a loss with the launch parameters of this shape; KeyError if there are none."""
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
    """The row r with its instructions scaled as from row `of` to row `to` of the same kernel."""
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


def busy(gpu: Gpu, r: dict, count: int, cached: bool) -> float:
    """The share of the clocks in which a scheduler issues, of a launch of `count` programs."""
    resident = resident_warps(gpu.target, r["threads"], r["registers"], r["shared"])
    launched = -(-count // gpu.multiprocessors) * r["threads"] // WARP
    between = r["looped"] if r["paths"] else r["instructions"]
    return min(1.0, min(resident, launched) / SCHEDULERS / (ARITHMETIC + gpu.latency(cached) / between))


def fetch(gpu: Gpu, r: dict, count: int) -> float:
    """Seconds in which a multiprocessor fetches the code of its programs."""
    code, generations = INSTRUCTION * r["instructions"], 1
    if code > INSTRUCTION_CACHE:
        resident = resident_warps(gpu.target, r["threads"], r["registers"], r["shared"])
        generations = -(-count * r["threads"] // WARP // (gpu.multiprocessors * resident))
    return generations * code * gpu.multiprocessors / gpu.bandwidth(cached=True)


def predict(table: dict, gpu: Gpu, loss: str, dtype: str, shape: tuple[int, int, int]) -> dict[str, dict]:
    """Microseconds of each kernel of a loss, and what bounds it.

    "issue"; "warps", where they are too few to issue an instruction per clock; "fetch"; "L2"; "HBM".
    """
    pixels, item = math.prod(shape), ITEM_BYTES[dtype]
    batch = pixels * (2 * item + 1 + max(table["losses"][loss]["peak"][dtype].values()))
    result = {}
    for r in rows_of(table, gpu.target, loss, dtype, shape):
        cached = batch <= gpu.l2 and r["kernel"] != FIRST
        count, issued = programs(r, shape)
        share = busy(gpu, r, count, cached)
        bounds = {
            "L2" if cached else "HBM": r["bytes_per_pixel"] * pixels / gpu.bandwidth(cached),
            "issue" if share == 1 else "warps": issued
            / (min(count, gpu.multiprocessors) * gpu.issue * share),
            "fetch": fetch(gpu, r, count),
        }
        bound = max(bounds, key=bounds.get)
        result[r["kernel"]] = {"us": 1e6 * (bounds[bound] + LATENCY), "bound": bound}
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
    """One case: times in microseconds; `measured` is None where there is no measurement."""
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
        "copy": 1e6 * (3 * ITEM_BYTES[dtype] + 1) * math.prod(shape) / GPUS[name].hbm,
    }


def show(entries: list[dict]) -> None:
    """The entries as a table."""
    columns = list(dict.fromkeys(k for e in entries for k in e["kernels"]))
    print("Predicted microseconds, bound by i = instruction issue, w = too few warps, f = instruction fetch,")
    print(
        "c = L2 cache, m = HBM. Copy: p, g, mask and gradient through HBM. Measured: forward, backward, both."
    )
    head = "".join(f"{k:>10}" for k in (*columns, "forward", "backward", "both", "copy"))
    print(f"{'GPU':<6}{'shape':<13}{'dtype':<10}{'loss':<25}{head}   measured")
    for e in entries:
        cells = [
            (e["kernels"][k]["us"], MARKS[e["kernels"][k]["bound"]]) if k in e["kernels"] else None
            for k in columns
        ]
        text = "".join(f"{x[0]:>9.1f}{x[1]}" if x else f"{'':>10}" for x in cells)
        text += "".join(f"{us:>10.1f}" for us in (*e["predicted"].values(), e["copy"]))
        real = " ".join("-" if us is None else f"{us:.1f}" for us in e["measured"].values())
        print(f"{e['gpu']:<6}{text_of(e['shape']):<13}{e['dtype']:<10}{e['loss']:<25}{text}   {real}")


def main() -> int:
    """Print the table, or with --json its entries."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, default=RESULTS / "aot.json")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the measured numbers")
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
