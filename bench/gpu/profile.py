"""What Nsight Compute counts in the kernels of a loss: writes bench/results/profile_<gpu>.json.

    python -m bench.gpu.profile [--losses NAME ...] [--shape B,1,H,W] [--dtype float32]

Runs forward and backward of each loss under `ncu --set full`, which repeats every kernel and changes no
clock. Its times are of single kernels with a cold cache: `bench.speed.run` has those that count. The columns
are what `bench.gpu.model` predicts from. `--raw DIR` keeps the whole pages.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from bench import bars, harness

# Column of the JSON: what ncu calls it.
COUNTS = {
    "us": "gpu__time_duration.sum",
    "registers": "launch__registers_per_thread",
    "instructions": "smsp__inst_executed.sum",
    "issue_percent": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "warps_percent": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "l2_hit_percent": "lts__t_sector_hit_rate.pct",
    "read_bytes": "dram__bytes_read.sum",
    "written_bytes": "dram__bytes_write.sum",
}
# Warps that wait for each instruction that is issued, by what for.
STALLS = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
REASONS = ("no_instruction", "long_scoreboard", "short_scoreboard", "barrier", "wait", "math_pipe_throttle",
           "lg_throttle", "mio_throttle", "not_selected", "branch_resolving", "imc_miss")  # fmt: skip
# What a unit is of the first one of its kind.
UNITS = {"second": 1e6, "msecond": 1e3, "usecond": 1.0, "nsecond": 1e-3, "s": 1e6, "ms": 1e3, "us": 1.0,
         "ns": 1e-3, "byte": 1.0, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9}  # fmt: skip


def rows_of(lines: Sequence[str]) -> list[dict]:
    """The kernels of a raw page of ncu in CSV: names, units, then a line per kernel; None where it has not
    counted. Lines before the page are ncu's own messages.

    Raises:
        ValueError: there is no such page.
    """
    kept = [line for line in lines if line.startswith('"')]
    if len(kept) < 3:
        raise ValueError(f"ncu wrote no page of counts: {' '.join(lines)[:500]}")
    names, units, *kernels = csv.reader(kept)
    wanted = {**COUNTS, **{f"waits_{reason}": STALLS.format(reason) for reason in REASONS}}
    found = []
    for kernel in kernels:
        cells = {name: (text, unit) for name, text, unit in zip(names, kernel, units, strict=True)}
        row: dict = {"kernel": cells["Kernel Name"][0]}
        for column, name in wanted.items():
            text, unit = cells.get(name, ("", ""))
            row[column] = float(text.replace(",", "")) * UNITS.get(unit, 1.0) if text else None
        found.append(row)
    return found


def run_once(name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Forward and backward, twice; ncu sees the second."""
    module = harness.build(name, "triton", "cuda")
    maps = harness.inputs(shape, harness.DTYPES[dtype], "cuda", 1.0, module.input_domain)
    subject = harness.LossSubject(module, [maps])
    subject.call("forward+backward", None)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStart()
    subject.call("forward+backward", None)
    torch.cuda.synchronize()
    torch.cuda.cudart().cudaProfilerStop()


def profiled(name: str, options: argparse.Namespace, folder: Path) -> list[dict]:
    """The kernels of one loss, in the order of their launches."""
    page = folder / f"{harness.slug(name)}.csv"
    ncu = ["ncu", "--clock-control", "none", "--set", "full", "--profile-from-start", "off"]
    ncu += ["--print-units", "base", "--csv", "--page", "raw", "--log-file", str(page)]
    child = [sys.executable, "-m", "bench.gpu.profile", "--one", name, "--dtype", options.dtype]
    child += ["--shape", ",".join(map(str, options.shape))]
    done = subprocess.run([*ncu, *child])
    lines = page.read_text(encoding="utf-8").splitlines() if page.exists() else []
    if done.returncode:
        print(*(line for line in lines if line.startswith("==")), sep="\n", flush=True)
        raise RuntimeError(f"ncu ended with exit status {done.returncode}")
    return rows_of(lines)


def main() -> int:
    """Profile, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shape = lambda text: tuple(int(n) for n in text.split(","))  # noqa: E731
    losses = ["g2 document", "g2 published", "adaptive-multi-domain", "affine-invariant"]
    parser.add_argument("--losses", nargs="+", metavar="NAME", default=losses)
    parser.add_argument("--shape", type=shape, metavar="B,1,H,W", default=bars.FIRST)
    parser.add_argument("--dtype", choices=list(harness.DTYPES), default="float32")
    parser.add_argument("--raw", type=Path, metavar="DIR", help="keep all that ncu counted, in CSV")
    parser.add_argument("--out", type=Path, help="path of the JSON")
    parser.add_argument("--one", help="for a loss: its process under ncu")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch finds no GPU")
    if options.one:
        run_once(options.one, options.shape, options.dtype)
        return 0
    if not shutil.which("ncu"):
        parser.error("ncu, of Nsight Compute, is not on the PATH")
    rows: list[dict] = []
    out = options.out or harness.RESULTS / f"profile_{harness.slug(torch.cuda.get_device_name())}.json"
    about = {
        **harness.origin(),
        "command": harness.command("bench.gpu.profile", sys.argv[1:]),
        "machine": harness.machine("cuda"),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in options.losses:
            where = options.raw or Path(folder)
            where.mkdir(parents=True, exist_ok=True)
            for row in profiled(name, options, where):
                rows.append({"loss": name, "shape": list(options.shape), "dtype": options.dtype, **row})
                shown = (f"{key} {value:.4g}" for key, value in row.items() if isinstance(value, float))
                print(f"{name:<24}{row['kernel']:<14}{', '.join(shown)}", flush=True)
            harness.write_json(out, {**about, "rows": rows})
    print(f"wrote {out}")
    missing = [key for key in (*COUNTS, f"waits_{REASONS[0]}") if all(row[key] is None for row in rows)]
    if missing:
        print(f"never counted: {', '.join(missing)}")
    return 1 if missing or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
