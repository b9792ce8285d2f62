"""Time and memory of evaluating folders of predictions, beside reading their files alone.

    python -m bench.training.evaluation [--frames 1000 10000] [--protocols kitti-eigen ...] [--workers 0 2]

Writes bench/results/evaluation.json. The pairs are npy files of 48 x 64 pixels, and a few 16-bit PNGs of
480 x 640, from the page cache. Each row is a process of its own. Its CPU time is that of all its processes,
without their start; time and CPU time stand beside those of reading alone in as many processes. Memory is the
resident size of the main process before the first frame and after the last, and the largest of any process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bench import harness
from depthloss.protocols import load_protocol
from depthloss.training.data import write_depth_png
from depthloss.training.data.maps import read_map
from depthloss.training.evaluation import maps

SMALL, LARGE = (48, 64), (480, 640)
CHEAP = ("kitti-eigen", "marigold", "completion")
DEAR = ("depth-pro", "moge")  # of the fewest frames only, in one process
PNGS = 100


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--protocols", nargs="+", default=[*CHEAP, *DEAR])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, len(os.sched_getaffinity(0))])
    parser.add_argument("--out", type=Path, default=harness.RESULTS / "evaluation.json")
    parser.add_argument("--one", nargs=4, help="for a row: folder, frames, protocol or read, workers")
    return parser.parse_args()


def write_pairs(root: Path, frames: int, suffix: str = ".npy") -> None:
    rng = np.random.default_rng(0)
    shape = LARGE if suffix == ".png" else SMALL
    for i in range(frames):
        coarse = rng.uniform(1, 9, (shape[0] // 8, shape[1] // 8))
        gt = np.kron(coarse, np.ones((8, 8))) + rng.normal(0, 0.02, shape)
        for name, depth in (("gt", gt), ("pred", gt * rng.normal(1, 0.05, shape).clip(0.8, 1.2))):
            path = root / name / f"{i:05}{suffix}"
            if suffix == ".png":
                write_depth_png(path, depth, 256.0)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, depth.astype(np.float32))


class _Maps(Dataset):
    """Reads files, a batch at a time, and returns their number: the time is that of reading alone."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, indices: list[int]) -> list[int]:
        for i in indices:
            read_map(self.files[i])
        return indices


def resident() -> float:
    """Return the resident size of this process in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def cpu() -> float:
    """Return the CPU time of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def one(root: Path, frames: int, what: str, workers: int) -> dict:
    """Measure one row, in this process."""
    torch.set_num_threads(1)
    files = sorted(path for path in root.glob("*/*") if int(path.stem) < frames)
    read_map(files[0])
    before, begin, used = resident(), time.monotonic(), cpu()
    if what == "read":
        for _ in DataLoader(_Maps(files), 64, num_workers=workers, collate_fn=len):
            pass
    else:
        small = files[0].suffix == ".npy"  # the crop of NYU is of its size
        protocol = load_protocol(what, **({"crop": "none"} if what == "nyu-eigen" and small else {}))
        maps.evaluate_maps({"a": root / "pred"}, root / "gt", protocol, num_workers=workers, progress=False)
    largest = max(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "seconds": time.monotonic() - begin,
        "cpu_seconds": cpu() - used,
        "resident_mib": {"before": before, "after": resident(), "largest": largest / 1024},
    }


def main() -> int:
    """Measure, print, write."""
    options = parse()
    if options.one:
        root, frames, what, workers = options.one
        print(json.dumps(one(Path(root), int(frames), what, int(workers))))
        return 0
    rows, load = [], os.getloadavg()
    for frames, suffix in [*((n, ".npy") for n in options.frames), (min(PNGS, *options.frames), ".png")]:
        with tempfile.TemporaryDirectory() as folder:
            write_pairs(Path(folder), frames, suffix)
            reading: dict[int, dict] = {}
            for what in ("read", *options.protocols):
                if what in DEAR and (frames != min(options.frames) or suffix == ".png"):
                    continue
                for workers in (0,) if what in DEAR else options.workers:
                    command = [sys.executable, "-m", "bench.training.evaluation", "--one"]
                    command += [folder, str(frames), what, str(workers)]
                    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    row = {"files": suffix, "frames": frames, "what": what, "workers": workers}
                    row |= json.loads(out)
                    alone = reading.setdefault(workers, row)
                    for key in ("seconds", "cpu_seconds"):
                        row[f"{key}_times_reading"] = round(row[key] / alone[key], 3)
                    rows.append(row)
                    print(row, flush=True)
    result = harness.origin() | {
        "command": harness.command("bench.training.evaluation", sys.argv[1:]),
        "machine": harness.machine("cpu"),
        "load_average": {"before": load, "after": os.getloadavg()},
        "shapes": {".npy": SMALL, ".png": LARGE},
        "rows": rows,
    }
    harness.write_json(options.out, result)
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
