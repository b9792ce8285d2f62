"""Frames per second of a loading process, and its time by stage: writes bench/results/loader.json and .md.

    python -m bench.training.loader [--cases kitti ...] [--rounds 5] [--frames 8] [--workers 1 2]

Cases are `synthetic`, and other data sets made of rendered frames with sensor noise, as files in their
layouts. A process reads training samples from the page cache, with the default augmentation (colour jitter)
and with all of it (random crop, flip, jitter, simulated sparse input). Stages are CPU time of one thread, so
that other programs on the machine matter little; a stage within another counts once. Frames per second are
wall-clock time of a `DataLoader` whose consumer does nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pkgutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

from bench import harness
from depthloss.training import data as package
from depthloss.training.data import DepthDataset, SyntheticDataset, build_dataset, write_depth_png, write_rgb
from depthloss.training.data.transforms import STEPS, Frame

# Stage: names of its functions in the modules of depthloss.training.data.
STAGES = {
    "decode rgb": ("read_rgb",),
    "decode depth": ("read_depth_png", "read_depth_npz", "read_map"),
    "read h5": ("_read",),
    "limit": ("limit_range",),
    "resize rgb": ("resize_rgb",),
    "resize depth": ("resize_depth",),
}
TABLE = ("render", *STAGES, "crop", "flip", "jitter", "sparsity", "to tensors", "collate", "rest")
AUGMENTATIONS = {
    "default": {},
    "all": {"flip_prob": 0.5, "crop_scale": (0.5, 1.0), "sparsity": {"simulate": True}},
}
# Name: data set, stored size, size of a sample.
CASES = {
    "synthetic": ("synthetic", None, (192, 320)),
    "synthetic, wide": ("synthetic", None, (192, 640)),
    "rgbd-folder, outdoor": ("rgbd-folder", (375, 1242), (192, 640)),
    "rgbd-folder, indoor": ("rgbd-folder", (480, 640), (192, 320)),
    "kitti": ("kitti", (375, 1242), (192, 640)),
    "ncdb": ("ncdb", (384, 640), (192, 320)),
    "nyu-h5": ("nyu-h5", (480, 640), (192, 320)),
    "nyu-labeled": ("nyu-labeled", (480, 640), (192, 320)),
}
BATCH = 4
# Shares of pixels with depth, as in KITTI's annotated maps and in one sweep of its LiDAR.
ANNOTATED, SWEEP = 0.16, 0.04
DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"


def rendered(shape: tuple[int, int], frames: int, sparse: bool) -> Iterator[tuple[Frame, np.ndarray]]:
    """Frames of streets (sparse) or rooms with a sensor's noise, and the depth of a sweep."""
    common = {"min_depth": 0.1, "max_depth": 80.0, "train": False}
    source = build_dataset("synthetic", image_shape=shape, length=2 * frames, **common)
    for i in range(frames):
        frame, rng = source.load(2 * i + sparse), np.random.default_rng(i)
        noise = rng.normal(0, 2, frame.rgb.shape)
        rgb = np.clip(np.rint(frame.rgb + noise), 0, 255).astype(np.uint8)
        draw = rng.random(shape)
        depth = np.where(draw < ANNOTATED, frame.depth, 0) if sparse else frame.depth
        yield Frame(rgb, depth.astype(np.float32)), np.where(draw < SWEEP, frame.depth, 0).astype(np.float32)


def write(kind: str, root: Path, shape: tuple[int, int], frames: int) -> dict[str, Any]:
    """Write a data set in its layout and return the options that read it."""
    if kind == "synthetic":
        return {"length": frames}
    if kind.startswith("nyu"):
        import h5py
    outdoor = shape[1] > 2 * shape[0] or kind == "ncdb"
    names = []
    for i, (frame, sweep) in enumerate(rendered(shape, frames, outdoor)):
        name = f"{i:010d}"
        if kind == "rgbd-folder":
            write_rgb(root / "rgb" / f"{name}.png", frame.rgb)
            write_depth_png(root / "depth" / f"{name}.png", frame.depth, 256 if outdoor else 5000)
            if outdoor:
                write_depth_png(root / "input_depth" / f"{name}.png", sweep)
        elif kind == "kitti":
            names.append(f"{DRIVE}/image_02/data/{name}.png")
            write_rgb(root / names[-1], frame.rgb)
            maps = root / DRIVE / "proj_depth"
            write_depth_png(maps / "groundtruth" / "image_02" / f"{name}.png", frame.depth)
            file = maps / "velodyne" / "image_02" / f"{name}.npz"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(file, velodyne_depth=sweep)
        elif kind == "ncdb":
            write_rgb(root / "a" / "image_a6" / f"{name}.png", frame.rgb)
            write_depth_png(root / "a" / "newest_depth_maps" / f"{name}.png", frame.depth)
            names.append({"dataset_root": "a", "new_filename": name})
        elif kind == "nyu-h5":
            with h5py.File(root / f"{name}.h5", "w") as file:
                file["rgb"], file["depth"] = frame.rgb.transpose(2, 0, 1), frame.depth
        else:
            with h5py.File(root / "nyu_depth_v2_labeled.mat", "a") as file:
                for key, array in (("images", frame.rgb), ("rawDepths", frame.depth)):
                    form = (frames, *array.T.shape)
                    options = {"chunks": (1, *form[1:]), "compression": "gzip"}
                    stack = file.require_dataset(key, form, array.dtype, **options)
                    stack[i] = array.T
    options: dict[str, Any] = {"path": root}
    if kind == "rgbd-folder":
        options["depth_scale"] = 256.0 if outdoor else 5000.0
    elif kind == "kitti":
        (root / "split.txt").write_text("\n".join(names))
        options |= {"split": "split.txt", "input_depth_type": "velodyne"}
    elif kind == "ncdb":
        (root / "split.json").write_text(json.dumps(names))
        options["split"] = "split.json"
    return options


class Stopwatch:
    """CPU seconds of stages of this thread; a stage within another counts for itself only."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def timed(self, stage: str, function: Callable) -> Callable:
        """The function, with its time counted under `stage`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.thread_time() - start
                self.spent[stage] += took - self._inner.pop()
                self._inner[-1] += took

        return run

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Time the stages of every data set."""
        modules = [
            import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)
        ]
        places = [
            (module, name, stage)
            for module in modules
            for stage, names in STAGES.items()
            for name in names
            if callable(getattr(module, name, None))
            and (name != "_read" or module.__name__.endswith((".nyu", ".nyu_labeled")))
        ]
        places += [(SyntheticDataset, "load", "render"), (DepthDataset, "_sample", "to tensors")]
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]
        steps = dict(STEPS)
        for owner, name, stage in places:
            setattr(owner, name, self.timed(stage, getattr(owner, name)))
        # The step "resize" is the sum of its maps.
        STEPS.update({name: self.timed(name, step) for name, step in steps.items() if name != "resize"})
        try:
            yield
        finally:
            for owner, name, value in before:
                setattr(owner, name, value)
            STEPS.update(steps)


def stages(dataset: DepthDataset, frames: int, rounds: int) -> tuple[dict[str, float], float]:
    """Milliseconds of CPU time per frame by stage, and their total: medians over the rounds."""
    found = []
    for epoch in range(rounds + 1):
        watch = Stopwatch()
        collate = watch.timed("collate", default_collate)
        with watch.watching():
            start = time.thread_time()
            for first in range(0, frames, BATCH):
                collate([dataset[epoch, i] for i in range(first, min(first + BATCH, frames))])
            total = time.thread_time() - start
        spent = {stage: 1e3 * watch.spent[stage] / frames for stage in TABLE if watch.spent[stage]}
        found.append(spent | {"total": 1e3 * total / frames})
    found = found[1:]  # The first round fills caches.
    total = statistics.median(f["total"] for f in found)
    medians = {s: statistics.median(f[s] for f in found) for s in found[0] if s != "total"}
    return medians | {"rest": max(0.0, total - sum(medians.values()))}, total


def rate(dataset: DepthDataset, workers: int, samples: int) -> float:
    """Frames per second that `workers` processes deliver."""
    keys = [(1 + i // len(dataset), i % len(dataset)) for i in range(samples)]
    loader = DataLoader(dataset, batch_size=BATCH, sampler=keys, num_workers=workers)
    batches = iter(loader)
    next(batches)  # Wait for the processes to start.
    start = time.perf_counter()
    count = sum(len(batch["index"]) for batch in batches)
    return count / (time.perf_counter() - start)


def measure(name: str, options: argparse.Namespace, root: Path) -> list[dict]:
    """The rows of one case, one per augmentation."""
    kind, stored, size = CASES[name]
    if options.dry_run:
        stored, size = stored and (48, 160 if stored[1] > 2 * stored[0] else 64), (32, 64)
    arguments = write(kind, root, stored, options.frames)
    files = [f for f in root.rglob("*") if f.suffix in (".png", ".npz", ".h5")]
    rows = []
    for augmentation, fields in AUGMENTATIONS.items():
        dataset = build_dataset(
            kind,
            image_shape=size,
            min_depth=0.1,
            max_depth=80.0,
            train=True,
            augmentation=fields,
            **arguments,
        )
        spent, total = stages(dataset, options.frames, options.rounds)
        samples = max(2 * BATCH, 2 * options.frames * options.rounds)
        rows.append(
            {
                "case": name,
                "dataset": kind,
                "stored": stored,
                "size": size,
                "augmentation": augmentation,
                "file_bytes_per_frame": round(sum(f.stat().st_size for f in files) / options.frames),
                "cpu_ms": spent,
                "cpu_ms_per_frame": total,
                "frames_per_s": {str(w): rate(dataset, w, samples * max(1, w)) for w in options.workers},
            }
        )
    return rows


def table(result: dict) -> str:
    """Milliseconds per frame by stage, a row per case and augmentation."""
    used = [s for s in TABLE if any(s in row["cpu_ms"] for row in result["rows"])]
    workers = list(result["rows"][0]["frames_per_s"])
    columns = [f"frames/s, {w} worker{'s' * (w != '1')}" for w in workers]
    lines = [
        f"| data set | augmentation | {' | '.join(columns)} | ms per frame | {' | '.join(used)} |",
        f"|---|---|{'---|' * (len(columns) + 1 + len(used))}",
    ]
    for row in result["rows"]:
        sizes = [f"{h}×{w}" for h, w in (row["stored"], row["size"]) if h] if row["stored"] else []
        label = f"{row['case']} {' → '.join(sizes) or '{}×{}'.format(*row['size'])}"
        rates = [f"{row['frames_per_s'][w]:.0f}" for w in workers]
        cells = [f"{row['cpu_ms'][s]:.2f}" if s in row["cpu_ms"] else "–" for s in used]
        lines.append(
            f"| {label} | {row['augmentation']} | {' | '.join(rates)} | "
            f"{row['cpu_ms_per_frame']:.1f} | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5, help="how often all frames are read")
    parser.add_argument("--frames", type=int, default=8, help="distinct frames of a data set")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help="path of the JSON; the table goes beside it, as .md")
    parser.add_argument("--dry-run", action="store_true", help="tiny frames; writes to --out only")
    options = parser.parse_args()
    if options.dry_run:
        options.rounds, options.frames, options.workers = 1, 2, [0]
    return options


def main() -> int:
    """Measure, print, write."""
    options = parse()
    # A worker of a DataLoader has one thread too.
    torch.set_num_threads(1)
    begin, load, rows, left_out = time.monotonic(), os.getloadavg(), [], []
    for name in options.cases:
        if CASES[name][0].startswith("nyu") and importlib.util.find_spec("h5py") is None:
            left_out.append({"case": name, "reason": "h5py is not installed"})
            continue
        with tempfile.TemporaryDirectory() as root:
            rows += measure(name, options, Path(root))
        took = [f"{row['cpu_ms_per_frame']:.1f} ms" for row in rows[-len(AUGMENTATIONS) :]]
        print(f"{name}: {', '.join(took)}", flush=True)
    result = harness.origin() | {
        "command": harness.command("bench.training.loader", sys.argv[1:]),
        "dry_run": options.dry_run,
        "machine": harness.machine("cpu"),
        "load_average": {"before": load, "after": os.getloadavg()},
        "libraries": {"numpy": np.__version__, "pillow": import_module("PIL").__version__},
        "batch": BATCH,
        "rounds": options.rounds,
        "frames": options.frames,
        "rows": rows,
        "left_out": left_out,
        "seconds": round(time.monotonic() - begin, 1),
    }
    print(f"\n{table(result)}")
    out = options.out or (None if options.dry_run else harness.RESULTS / "loader.json")
    if out:
        harness.write_json(out, result)
        by = f"Made by `python {' '.join(result['command'])}`; README.md says what it means."
        out.with_suffix(".md").write_text(f"{by}\n\n{table(result)}\n", encoding="utf-8")
        print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
