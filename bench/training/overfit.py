"""Overfit check: RGB and RGB + sparse LiDAR, two losses; on real frames or on rendered ones.

    python -m bench.training.overfit --data DIR [--only rgb_scale_adaptive ...] [--runs runs]
    python -m bench.training.overfit --rendered [--only ...] [--runs runs]

DIR is an rgbd-folder (rgb/, depth/, depth_raw/, uint16 / 256). `--rendered` takes rooms and streets of the
`synthetic` data set instead, with scan lines as ground truth and as input. Each run trains
configs/kitti_overfit.yaml on 8 frames from random weights. It passes if abs_rel on those frames falls below
0.10, all numbers are finite and, for the adaptive loss, both log-variances moved.

Numbers and curves go to bench/results/kitti_overfit/ or bench/results/rendered_overfit/, with pictures of
rendered frames. Pictures of other frames have their own licence and stay in the run directory.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from bench.harness import RESULTS, ROOT, write_json

LIMIT = 0.10
LOSSES = {"scale_adaptive": "sparse-scale-adaptive", "adaptive_multi_domain": "sparse-adaptive-multi-domain"}
# Whether the network has a sparse branch; its input in DIR, and that of rendered frames.
INPUTS = {"rgb": ("false", "null", "none"), "rgbd": ("true", "depth_raw", "scanline")}
SIGMAS = ("sigma_structure", "sigma_scale")


def train(name: str, data: Path | None, runs: Path, extra: list[str]) -> tuple[Path, float, list[str]]:
    """Train one variant on `data` (None = rendered frames); its directory, seconds and command."""
    kind, loss = name.split("_", 1)
    branch, sweep, simulated = INPUTS[kind]
    command = ["train.py", "configs/kitti_overfit.yaml", "--name", name, "--supervised-method", LOSSES[loss]]
    command += ["--model.depth_net.sparse_branch", branch, "--gpus", "cpu"]
    if data is None:
        command += ["--model.params.min_depth", "0.4", "--model.params.max_depth", "90"]
    for split in ("train", "validation"):
        options = {"path": str(data), "input_depth": sweep}
        if data is None:
            options = {"dataset": "synthetic", "length": "8", "scene_seed": "0", "gt": "scanline"}
            options |= {"cache": "true", "input_depth": simulated}
        for key, value in options.items():
            command += [f"--datasets.{split}.{key}", value]
    command += extra
    shutil.rmtree(runs / name, ignore_errors=True)
    start = time.monotonic()
    where = ["--trainer.default_root_dir", str(runs)]
    subprocess.run([sys.executable, *command, *where], cwd=ROOT, check=True)
    shown = ["DIR" if word == str(data) else word for word in command]
    return runs / name, time.monotonic() - start, shown


def column(rows: list[dict[str, str]], name: str) -> list[float]:
    """The numbers of one column of metrics.csv, without empty cells."""
    return [float(row[name]) for row in rows if row.get(name)]


def summarise(run: Path, wall: float, command: list[str]) -> dict:
    """The numbers of one run."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    abs_rel, loss = column(rows, "val/abs_rel"), column(rows, "train/loss_step")
    result = {
        "command": "python " + " ".join(command),
        "abs_rel": {"first": abs_rel[0], "last": abs_rel[-1], "best": min(abs_rel)},
        "rmse_m": column(rows, "val/rmse")[-1],
        "a1": column(rows, "val/a1")[-1],
        "train_loss": {"first": loss[0], "last": loss[-1]},
        "steps": max(int(row["step"]) for row in rows) + 1,
        "skipped_steps": max(column(rows, "train/skipped_steps")),
        "non_finite_predictions": max(column(rows, "val/nonfinite")),
        "wall_s": round(wall, 1),
    }
    finite = all(
        math.isfinite(float(v)) for row in rows for k, v in row.items() if v and k not in ("epoch", "step")
    )
    result["all_logged_numbers_finite"] = finite
    passed = (
        abs_rel[-1] < LIMIT
        and finite
        and not result["skipped_steps"]
        and not result["non_finite_predictions"]
    )
    if "adaptive_multi_domain" in run.name:
        ends = {s: column(rows, f"train/scale_0/{s}_epoch") for s in SIGMAS}
        result["sigma"] = {s: {"first": v[0], "last": v[-1]} for s, v in ends.items()}
        passed &= all(abs(v["last"] - 1.0) > 1e-3 for v in result["sigma"].values())
    return result | {"passed": passed}


def cpu_model() -> str:
    """The processor's name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine() -> dict:
    """This machine."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit or "unknown",
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> int:
    """Run the variants one after the other."""
    names = [f"{kind}_{loss}" for kind in INPUTS for loss in LOSSES]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", type=Path, help="folder with rgb/, depth/ and depth_raw/")
    data.add_argument("--rendered", action="store_true", help="rendered rooms and streets; nothing is needed")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the runs are kept")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    options, extra = parser.parse_known_args()
    results = RESULTS / ("rendered_overfit" if options.rendered else "kitti_overfit")
    results.mkdir(parents=True, exist_ok=True)
    folder = options.data.resolve() if options.data else None
    failed = []
    for name in options.only:
        run, wall, command = train(name, folder, options.runs.resolve(), extra)
        result = {"name": name} | summarise(run, wall, command) | {"machine": machine()}
        for picture in ("curves", "predictions") if options.rendered else ("curves",):
            shutil.copy(run / f"{picture}.png", results / f"{name}_{picture}.png")
        write_json(results / f"{name}.json", result)
        print(
            f"{name}: abs_rel {result['abs_rel']['last']:.4f} after {result['steps']} steps, "
            f"{'passed' if result['passed'] else 'FAILED'}"
        )
        if not result["passed"]:
            failed.append(name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
