"""Train the quick start and variants of it, and compare what they learn.

    OMP_NUM_THREADS=1 python -m bench.training.quick_start [--only chosen ...] [--runs runs/quick_start]

Each variant is configs/synthetic.yaml with other values, trained for about the same CPU time; `before`, the
quick start as it was, took longer. Errors are those of test frames: 48 further views of the 16 scenes, and
48 scenes that no variant has seen; half of each are rooms, half streets. Writes results.json, README.md and
predictions.png to bench/results/quick_start/.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from bench import harness
from depthloss.training import cli
from depthloss.training.data import build_dataset
from depthloss.training.evaluation.evaluate import evaluate
from depthloss.training.evaluation.protocol import Protocol

RESULTS = harness.RESULTS / "quick_start"
SPLITS = ("train", "validation")
FRAMES = 48

AUGMENTED = "--model.loss.flip_lr_prob 0.5 --datasets.augmentation.jittering [0.2,0.2,0.2,0.05]"
ALL_NEW = " ".join(f"--datasets.{split}.scenes null --datasets.{split}.scene_seed null" for split in SPLITS)
WIDE = "--model.params.min_depth 0.05 --model.params.max_depth 100"
BEFORE = f"{AUGMENTED} {ALL_NEW} {WIDE} --model.depth_net.width 1 --model.scheduler.warmup_steps 0"
BEFORE += " --model.optimizer.depth.lr 3e-4 --datasets.image_shape [96,160] --datasets.train.length 160"
SILOG = "--supervised-method sparse-silog --model.loss.lam 0.5 --model.loss.scale 1"

SLOW = "--model.optimizer.depth.lr 1e-3"

# Name: difference from configs/synthetic.yaml, in words and as flags.
VARIANTS = {
    "mean": ("", ""),
    "before": ("as it was: 160 scenes, 96×160, width 1, learning rate 3e-4", f"{BEFORE} --max-epochs 20"),
    "before-short": ("the same, in the time of the others", f"{BEFORE} --max-epochs 5"),
    "chosen": ("configs/synthetic.yaml", ""),
    "all-new": ("a scene per frame", ALL_NEW),
    "all-new-large": (
        "three times as many, a scene per frame",
        f"{ALL_NEW} --datasets.train.length 960 --max-epochs 8",
    ),
    "scenes-8": ("8 scenes", " ".join(f"--datasets.{split}.scenes 8" for split in SPLITS)),
    "scenes-24": ("24 scenes", " ".join(f"--datasets.{split}.scenes 24" for split in SPLITS)),
    "scenes-32": ("32 scenes", " ".join(f"--datasets.{split}.scenes 32" for split in SPLITS)),
    "width-0.5": ("width 0.5, learning rate 1e-3", f"--model.depth_net.width 0.5 --max-epochs 11 {SLOW}"),
    "width-1": ("width 1, learning rate 1e-3", f"--model.depth_net.width 1 --max-epochs 4 {SLOW}"),
    "large": ("96×160, learning rate 1e-3", f"--datasets.image_shape [96,160] --max-epochs 12 {SLOW}"),
    "augmented": ("flips and colour jitter", f"{AUGMENTED} --max-epochs 21"),
    "silog": ("SILog, λ 0.5", SILOG),
    "g2": ("G2", "--supervised-method sparse-g2"),
    "lr-0.3": ("learning rate 3e-4", "--model.optimizer.depth.lr 3e-4"),
    "lr-1": ("learning rate 1e-3", SLOW),
    "lr-6": ("learning rate 6e-3", "--model.optimizer.depth.lr 6e-3"),
    "wide-range": ("depth from 0.05 to 100 m", WIDE),
    "one-scale": ("one supervised scale", "--model.loss.supervised_num_scales 1"),
    **{f"seed-{n}": (f"configs/synthetic.yaml, seed {n}", f"--seed {n}") for n in (1, 2, 3)},
    "batch-4": ("batches of 4", "--datasets.train.batch_size 4 --max-epochs 18"),
}


INTRO = """# What the quick start learns

`OMP_NUM_THREADS=1 python -m bench.training.quick_start` trains `configs/synthetic.yaml` and variants of it
on one thread, each in about the same CPU time but for the first. The numbers are abs_rel, the mean over 24
rooms and over 24 streets that played no part in training or choice: further views of the scenes that a
variant trained on, and scenes that no variant has seen. `results.json` has the commands.

"""

OUTRO = """
The rows of the seeds show how far runs of one configuration lie apart: a smaller difference between two
variants says nothing. CPU time is without the start of Python. {machine}, commit {commit}.

![predictions of the quick start on its validation set](predictions.png)
"""


def errors(run: cli.Run, **options: object) -> dict[str, float]:
    """Mean abs_rel of rooms and of streets, on frames of the seed 1000."""
    module, shape = run.module, run.trainer.datamodule.datasets["train"].image_shape
    low, high = module.val_metrics.min_depth, module.val_metrics.max_depth
    common = {"image_shape": shape, "min_depth": low, "max_depth": high, "train": False, "seed": 1000}
    data = build_dataset("synthetic", length=FRAMES, **common, **options)
    protocol = Protocol(low, high, edges=False)
    rows = evaluate(module.model.eval(), data, protocol, batch_size=8, show=[], progress=False).frames
    return {
        kind: round(statistics.mean(r["abs_rel"] for r in rows if r["name"].startswith(kind)), 4)
        for kind in ("room", "street")
    }


def mean_depths() -> dict[str, object]:
    """Errors without a network: each pixel is the geometric mean over the training frames of its kind."""
    found = {}
    for where, options in (("views", {"scenes": 16, "scene_seed": 0}), ("scenes", {})):
        common = {"image_shape": (64, 96), "min_depth": 0.4, "max_depth": 90.0, "train": False, **options}
        train = build_dataset("synthetic", length=320, seed=42, **common)
        test = build_dataset("synthetic", length=FRAMES, seed=1000, **common)
        found[where] = {}
        for first, kind in enumerate(("room", "street")):
            depths = np.stack([train.load(i).depth for i in range(first, len(train), 2)])
            logs = np.log(depths, out=np.zeros_like(depths), where=depths > 0)
            mean = np.exp(logs.sum(0) / np.maximum((depths > 0).sum(0), 1))
            truths = [test.load(i).depth for i in range(first, FRAMES, 2)]
            error = statistics.mean(float(np.mean(np.abs(mean - g)[g > 0] / g[g > 0])) for g in truths)
            found[where][kind] = round(error, 4)
    text = "no network: the mean of the training rooms or streets at each pixel"
    return {"variant": "mean", "text": text, "command": None, "cpu_s": None, "steps": 0, **found}


def measure(name: str, runs: Path) -> dict[str, object]:
    """Train one variant and measure it."""
    if name == "mean":
        return mean_depths()
    text, flags = VARIANTS[name]
    command = ["configs/synthetic.yaml", *shlex.split(flags), "--gpus", "cpu", "--name", name]
    shutil.rmtree(runs / name, ignore_errors=True)
    cpu, wall = time.process_time(), time.monotonic()
    run = cli.run([*command, "--trainer.default_root_dir", str(runs)])
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    seen = run.trainer.datamodule.datasets["train"]
    return {
        "variant": name,
        "text": text,
        "command": shlex.join(["python", "train.py", *command]),
        "cpu_s": round(cpu, 1),
        "wall_s": round(wall, 1),
        "steps": run.trainer.global_step,
        "epochs": run.trainer.current_epoch,
        "views": errors(run, scenes=seen.scenes, scene_seed=seen.scene_seed) if seen.scenes else None,
        "scenes": errors(run),
    }


def table(rows: list[dict]) -> str:
    """The results as Markdown."""
    lines = [
        "| variant | CPU time | steps | new views: rooms | streets | new scenes: rooms | streets |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["text"], f"{row['cpu_s']:.0f} s" if row["cpu_s"] else "–", str(row["steps"])]
        for found in (row["views"], row["scenes"]):
            cells += [f"{found[kind]:.3f}" if found else "–" for kind in ("room", "street")]
        if row["variant"] == "chosen":
            cells = [f"**{cell}**" for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the variants; keep the results of others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--runs", type=Path, default=harness.ROOT / "runs" / "quick_start")
    options = parser.parse_args()
    os.chdir(harness.ROOT)
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / "results.json"
    old = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    rows = {row["variant"]: row for row in old}
    for name in options.only:
        rows[name] = measure(name, options.runs)
        print(json.dumps(rows[name], ensure_ascii=False), flush=True)
        results = {
            **harness.origin(),
            "command": "OMP_NUM_THREADS=1 python -m bench.training.quick_start",
            "machine": {"cpu_name": harness.cpu_name(), "threads": torch.get_num_threads()},
            "rows": [rows[key] for key in VARIANTS if key in rows],
        }
        harness.write_json(file, results)
        versions = results["versions"]
        machine = f"{harness.cpu_name()}, torch {versions['torch']}, Python {versions['python']}"
        outro = OUTRO.format(machine=machine, commit=results["commit"][:10])
        text = INTRO + table(results["rows"]) + "\n" + outro
        (RESULTS / "README.md").write_text(text, encoding="utf-8")
        if name == "chosen":
            shutil.copy(options.runs / name / "predictions.png", RESULTS)
    print(table(results["rows"]))


if __name__ == "__main__":
    sys.exit(main())
