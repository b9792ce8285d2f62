"""Train the quick start with each way to compute its loss: the same quality, at which time and memory?

    python -m bench.training.equal [--losses sparse-scale-adaptive ...] [--variants ...] [--seeds 1 2 3]
    python -m bench.training.equal --draw         # the picture alone, from the JSON
    python -m bench.training.equal --device cuda --epochs 8 --train "--datasets.image_shape [384,640] ..."

Trains configs/synthetic.yaml, a process per run, seed after seed, and writes bench/results/equal.json and
docs/pictures/equal.png; on a GPU bench/results/equal_<gpu>.json and .png. `--train` has more words for
train.py, such as a larger network. A run that is complete in `--runs` and was made from the present commit,
without changes, is not trained again. `reference, nudged` is a control: the reference again, with the
weights of the first layer moved by one unit in the last place: so far does rounding alone drive two runs of
one seed apart.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from unittest import mock

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench import clocks, harness
from depthloss.benchmark.memory import RETURNED_AT_ONCE, growth
from depthloss.training import cli
from depthloss.training.configuration.flags import split_arguments
from depthloss.training.configuration.parser import parse as parse_configuration
from depthloss.training.drawing.colours import LINE_COLOURS
from depthloss.training.drawing.figures import read_metrics, save_figure
from depthloss.training.models import SemiSupCompletionModel

CONFIG = "configs/synthetic.yaml"
LOSSES = ("sparse-scale-adaptive",)
REFERENCE, COMPILED, NUDGED = "reference", "reference, compiled", "reference, nudged"
NATIVE, TRITON = "cpu", "triton"
FUSED = {"cpu": NATIVE, "cuda": TRITON}
VARIANTS = (REFERENCE, COMPILED, NATIVE, TRITON, NUDGED)
LABELS = {
    REFERENCE: "plain PyTorch",
    COMPILED: "torch.compile",
    NATIVE: "native",
    TRITON: "Triton",
    NUDGED: "PyTorch, nudged",
}
COLOURS = dict(zip((REFERENCE, COMPILED, NATIVE, TRITON), LINE_COLOURS, strict=False))
MEMORY = ("loss", "step")
WARM_UP = 10  # steps; the first compiles
BLOCK = 20  # steps whose mean is one point of the curve of the training loss
FIRST = 40  # steps whose training loss is kept one by one
PICTURE = harness.ROOT / "docs" / "pictures" / "equal.png"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--losses", nargs="+", metavar="NAME", default=list(LOSSES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, help="default: those of the quick start")
    parser.add_argument("--device", choices=list(FUSED), default="cpu")
    parser.add_argument("--train", type=shlex.split, default=[], metavar="WORDS", help="more, for train.py")
    parser.add_argument("--runs", type=Path, default=harness.ROOT / "runs" / "equal")
    parser.add_argument("--out", type=Path, help="path of the JSON")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--draw", action="store_true", help="draw the picture of --out, and train nothing")
    parser.add_argument("--one", nargs=3, metavar=("LOSS", "VARIANT", "SEED"), help="for a run: its process")
    parser.add_argument("--memory", nargs=3, metavar=("LOSS", "VARIANT", "WHAT"), help="likewise")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    others = [fused for device, fused in FUSED.items() if device != options.device]
    options.variants = options.variants or [v for v in VARIANTS if v not in others]
    if options.device == "cpu":
        out, picture = harness.RESULTS / "equal.json", PICTURE
    else:
        out = harness.RESULTS / f"equal_{harness.slug(torch.cuda.get_device_name())}.json"
        picture = out.with_suffix(".png")
    options.out, options.picture = options.out or out, options.picture or picture
    if REFERENCE not in options.variants:
        parser.error(f"--variants: {REFERENCE!r} is missing, with which all others are compared")
    return options


# ---- one run


def on(variant: str, build: Callable[..., SemiSupCompletionModel]) -> Callable[..., SemiSupCompletionModel]:
    """`build_model` of the training, with what a variant changes in the model."""

    def built(*args: object, **kwargs: object) -> SemiSupCompletionModel:
        model = build(*args, **kwargs)
        if variant == COMPILED:
            # The forward alone: hooks of the module, as those of --profile-loss, stay outside.
            model.supervised_loss.forward = torch.compile(model.supervised_loss.forward, fullgraph=True)
        elif variant == NUDGED:
            weights = next(model.depth_net.parameters())
            weights.data = torch.nextafter(weights.data, torch.full_like(weights, torch.inf))
        return model

    return built


def arguments(loss: str, variant: str, seed: int, options: argparse.Namespace) -> list[str]:
    """The command line of a run, after `train.py`."""
    backend = variant if variant in FUSED.values() else "reference"
    words = [CONFIG, "--supervised-method", loss, "--model.loss.backend", backend, "--seed", str(seed)]
    words += ["--gpus", "cpu" if options.device == "cpu" else "0"]
    words += ["--profile-loss", "--tensorboard.log_frequency", "1", *options.train]
    return words + (["--max-epochs", str(options.epochs)] if options.epochs else [])


def train(loss: str, variant: str, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Train, in this process, and return the row."""
    words = arguments(loss, variant, seed, options)
    where = ["--name", folder.name, "--trainer.default_root_dir", str(folder.parent)]
    begin, load = time.monotonic(), os.getloadavg()[0]
    with mock.patch.object(cli, "build_model", on(variant, cli.build_model)):
        cli.run([*words, *where])
    return {
        "loss": loss,
        "variant": variant,
        "seed": seed,
        "command": shlex.join(["python", "train.py", *words]),
        **measured(folder / "metrics.csv"),
        "wall_s": round(time.monotonic() - begin, 1),
        "cpu_s": round(time.process_time(), 1),
        "process_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "gpu_peak_mib": round(torch.cuda.max_memory_allocated() / 2**20)
        if options.device == "cuda"
        else None,
        "load_average": {"before": load, "after": os.getloadavg()[0]},
    }


def measured(metrics_csv: Path) -> dict[str, object]:
    """The curves and times of a run."""
    columns = {name: values.tolist() for name, (_, values) in read_metrics(metrics_csv).items()}
    loss, step, of_loss = (columns[k] for k in ("train/loss_step", "time/step_ms_step", "time/loss_ms_step"))
    warm = min(WARM_UP, len(step) - 1)
    return {
        "steps": len(loss),
        "abs_rel": [round(x, 5) for x in columns["val/abs_rel"]],
        "train_loss": [round(x, 5) for x in block_means(loss, BLOCK)],
        "first_train_loss": loss[:FIRST],
        "first_step_ms": step[0],
        "step_ms": clocks.spread(step[warm:]),
        "loss_ms": clocks.spread(of_loss[warm:]),
    }


def block_means(values: Sequence[float], size: int) -> list[float]:
    """The means of consecutive blocks of values; what is left at the end is a block too."""
    return [statistics.fmean(values[i : i + size]) for i in range(0, len(values), size)]


# ---- memory


def memory(loss: str, variant: str, what: str, options: argparse.Namespace) -> int:
    """Bytes by which this process grows in its first loss ("loss") or training step ("step"); on a GPU the
    peak of torch's allocator.

    The network has made a step before, without the loss. The loss has seen a batch of one frame, but where it
    is compiled the whole batch: another one would compile again. In float32, whatever the runs' precision.
    """
    file, words, _ = split_arguments(arguments(loss, variant, 0, options))
    cfg, _ = parse_configuration(file, words)
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = on(variant, cli.build_model)(cfg).to(device).train()
    optimizer = torch.optim.Adam(model.parameters())
    frames, shape = cfg.datasets.train.batch_size, cfg.datasets.image_shape
    rgb, depth = (torch.rand(frames, n, *shape, device=device) for n in (3, 1))
    batch = {"rgb": rgb, "depth": 0.5 + 50 * depth}

    def finish(value: torch.Tensor) -> None:
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    maps = model.outputs(batch["rgb"])["inv_depths"]
    leaves = [x.detach() for x in maps]
    finish(sum(x.mean() for x in maps))
    del maps
    gt = 1 / batch["depth"]

    def evaluate(n: int) -> None:
        preds = [x[:n].requires_grad_() for x in leaves]
        model.supervised_loss(preds, gt[:n], return_logs=True, progress=0.0, masks=gt[:n] > 0, epoch=0)[
            "loss"
        ].backward()

    evaluate(frames if variant == COMPILED else 1)
    # The compiler leaves many small free blocks behind, which would be taken again, unseen.
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    measured = growth if device.type == "cpu" else harness.allocated
    if what == "loss":
        return measured(lambda: evaluate(frames))
    return measured(lambda: finish(model(batch)["loss"]))


# ---- what the runs say


def final(rows: Iterable[dict], loss: str, variant: str) -> dict[int, float]:
    """abs_rel after the last epoch, by seed."""
    return {r["seed"]: r["abs_rel"][-1] for r in rows if (r["loss"], r["variant"]) == (loss, variant)}


def summary(rows: Sequence[dict], loss: str) -> dict[str, object]:
    """How far apart the variants of a loss end, beside how far apart the seeds do.

    Two runs of one seed are equal until a rounding differs, which the training then amplifies. So at one seed
    `at_one_seed`, the largest difference from the reference, is to be seen beside that of the control. What a
    bias of a variant would move is its mean over the seeds: within the noise of the seeds is a difference of
    these means of at most `seed_spread`, the largest minus the smallest result of the reference. One seed
    judges nothing: `within_seed_noise` is then None. The control is shown, not judged.

    Raises:
        ValueError: there is no run of the reference.
    """
    if not (reference := final(rows, loss, REFERENCE)):
        raise ValueError(f"{loss}: nothing to compare with: no run of {REFERENCE!r} in rows")
    found: dict[str, dict] = {}
    for variant in (v for v in VARIANTS if any((r["loss"], r["variant"]) == (loss, v) for r in rows)):
        ends = final(rows, loss, variant)
        found[variant] = {"mean": statistics.fmean(ends.values()), "least": min(ends.values())}
        found[variant]["most"] = max(ends.values())
        if variant != REFERENCE and (both := sorted(ends.keys() & reference.keys())):
            apart = [ends[seed] - reference[seed] for seed in both]
            found[variant] |= {
                "at_one_seed": max(map(abs, apart)),
                "of_means": abs(statistics.fmean(apart)),
                "equal_steps": min(equal_steps(rows, loss, variant, seed) for seed in both),
            }
    spread = max(reference.values()) - min(reference.values())
    variants = (COMPILED, *FUSED.values())
    judged = [found[v]["of_means"] for v in variants if "of_means" in found.get(v, {})]
    within = all(x <= spread for x in judged) if judged and len(reference) > 1 else None
    return {"seed_spread": spread, "within_seed_noise": within, "variants": found}


def equal_steps(rows: Sequence[dict], loss: str, variant: str, seed: int, share: float = 1e-3) -> int:
    """Steps until the training loss differs from the reference's by a share of it; FIRST at most."""
    one, other = (
        next(r["first_train_loss"] for r in rows if (r["loss"], r["variant"], r["seed"]) == (loss, v, seed))
        for v in (REFERENCE, variant)
    )
    pairs = list(zip(one, other, strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if abs(a - b) > share * abs(a)), len(pairs))


def median_over_seeds(rows: Sequence[dict], loss: str, variant: str, key: str) -> float:
    """The median over the seeds of a run's median time."""
    return statistics.median(r[key]["median"] for r in rows if (r["loss"], r["variant"]) == (loss, variant))


# ---- the picture


def draw(result: dict, out: Path) -> None:
    """Write the picture: per loss the curves, the time of the loss in a step, and memory."""
    losses = list(result["summary"])
    figure = Figure(figsize=(16, 3.9 * len(losses)), layout="constrained")
    axes = figure.subplots(len(losses), 4, squeeze=False, width_ratios=(1.25, 1.25, 1, 1))
    for (curve, quality, time_, memory_), loss in zip(axes, losses, strict=True):
        rows = [row for row in result["rows"] if row["loss"] == loss]
        epoch = rows[0]["steps"] / len(rows[0]["abs_rel"])
        _curves(curve, rows, "train_loss", BLOCK / epoch, f"{loss}: training loss")
        _curves(quality, rows, "abs_rel", 1.0, "validation: abs_rel")
        quality.legend(fontsize=11, frameon=False)
        timed = [v for v in result["summary"][loss]["variants"] if v != NUDGED]
        values = {v: median_over_seeds(rows, loss, v, "loss_ms") for v in timed}
        steps = {v: median_over_seeds(rows, loss, v, "step_ms") for v in timed}
        texts = {v: f"{values[v]:.1f} (of {steps[v]:.0f})" for v in timed}
        _bars(time_, values, texts, "loss (of the step), ms")
        found = {m["variant"]: m for m in result["memory"] if m["loss"] == loss and m["variant"] in timed}
        values = {v: m["loss_mib"] for v, m in found.items()}
        texts = {v: f"{m['loss_mib']:.1f} (of {m['step_mib']:.0f})" for v, m in found.items()}
        _bars(memory_, values, texts, "loss (of the step), MiB")
    save_figure(figure, out)


def _curves(axis: Axes, rows: Sequence[dict], key: str, spacing: float, title: str) -> None:
    """A line per variant, the mean over the seeds, in a band from the least to the most."""
    for variant in VARIANTS:
        if not (curves := [row[key] for row in rows if row["variant"] == variant]):
            continue
        columns = list(zip(*curves, strict=True))
        x = [spacing * (i + 1) for i in range(len(columns))]
        control, colour = variant == NUDGED, COLOURS.get(variant)
        if not control:
            least, most = ([f(c) for c in columns] for f in (min, max))
            axis.fill_between(x, least, most, color=colour, alpha=0.15, linewidth=0)
        style = {"color": "0.35", "linestyle": ":"} if control else {"color": colour}
        axis.plot(x, [statistics.fmean(c) for c in columns], label=LABELS[variant], linewidth=1.6, **style)
    axis.set(yscale="log", xlabel="epoch")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.label.set_size(12)
    axis.tick_params(which="both", labelsize=11)
    axis.set_title(title, fontsize=13)


def _bars(axis: Axes, values: dict[str, float], texts: dict[str, str], title: str) -> None:
    colours = [COLOURS[v] for v in values]
    bars = axis.barh([LABELS[v] for v in values], list(values.values()), color=colours, height=0.6)
    axis.bar_label(bars, [texts[v] for v in values], padding=4, fontsize=12)
    axis.set_xlim(0, 1.6 * max(values.values(), default=1.0))
    axis.invert_yaxis()
    axis.tick_params(labelsize=12)
    axis.set_xticks([])
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    axis.set_title(title, fontsize=13)


# ---- all runs


def child(*words: object, env: dict[str, str] | None = None) -> str:
    """Run this module in a process of its own; what it prints last."""
    command = [sys.executable, "-m", "bench.training.equal", *map(str, words)]
    done = subprocess.run(
        command, cwd=harness.ROOT, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | (env or {})
    )
    return done.stdout.splitlines()[-1]


def shared(options: argparse.Namespace) -> list[object]:
    """The words that a run's process needs beside its own."""
    epochs = ["--epochs", options.epochs] if options.epochs else []
    return ["--device", options.device, f"--train={shlex.join(options.train)}", *epochs]


def row_of(options: argparse.Namespace, loss: str, variant: str, seed: int) -> dict:
    """The row of a run: that of its folder, if it is of this commit, else trained now."""
    folder = (options.runs / f"{loss}-{variant.replace(', ', '-')}-{seed}").resolve()
    file, origin = folder / "row.json", harness.origin()
    about = {"commit": origin["commit"], **{k: getattr(options, k) for k in ("epochs", "device", "train")}}
    if file.exists() and not origin["commit"].endswith("dirty"):
        row = json.loads(file.read_text(encoding="utf-8"))
        if {key: row.get(key) for key in about} == about:
            return row
    shutil.rmtree(folder, ignore_errors=True)
    words = ["--one", loss, variant, seed, "--runs", options.runs.resolve(), *shared(options)]
    row = about | json.loads(child(*words))
    harness.write_json(file, row)
    return row


def measure(options: argparse.Namespace, argv: Sequence[str]) -> dict:
    """Train what is missing; the content of the JSON, which is written after each run too."""
    rows: list[dict] = []
    memories: list[dict] = []
    origin = harness.origin()

    def result() -> dict:
        return origin | {
            "command": harness.command("bench.training.equal", argv),
            "machine": harness.machine(options.device) | {"threads": torch.get_num_threads()},
            "summary": {loss: summary(rows, loss) for loss in dict.fromkeys(row["loss"] for row in rows)},
            "memory": memories,
            "rows": rows,
        }

    for loss in options.losses:
        for seed in options.seeds:
            for variant in sorted(options.variants, key=VARIANTS.index):  # The reference first.
                row = row_of(options, loss, variant, seed)
                rows.append(row)
                print(
                    f"{loss}, {variant}, seed {seed}: abs_rel {row['abs_rel'][-1]:.4f}, loss "
                    f"{row['loss_ms']['median']:.2f} of {row['step_ms']['median']:.1f} ms",
                    flush=True,
                )
                harness.write_json(options.out, result())
        for variant in (v for v in options.variants if v != NUDGED):
            sizes = {}
            for what in MEMORY:
                taken = child("--memory", loss, variant, what, *shared(options), env=RETURNED_AT_ONCE)
                sizes[f"{what}_mib"] = round(int(taken) / 2**20, 2)
            memories.append({"loss": loss, "variant": variant} | sizes)
            print(memories[-1], flush=True)
    return result()


def main(argv: Sequence[str]) -> int:
    """Measure, print, write; 1 if a backend differs by more than the seeds do."""
    options = parse(argv)
    if options.one:
        loss, variant, seed = options.one
        folder = options.runs / f"{loss}-{variant.replace(', ', '-')}-{seed}"
        print(json.dumps(train(loss, variant, int(seed), options, folder)))
        return 0
    if options.memory:
        print(memory(*options.memory, options))
        return 0
    if options.draw:
        result = json.loads(options.out.read_text(encoding="utf-8"))
    else:
        result = measure(options, argv)
        harness.write_json(options.out, result)
        print(f"wrote {options.out}")
    draw(result, options.picture)
    print(f"wrote {options.picture}")
    for loss, found in result["summary"].items():
        print(f"{loss}: {json.dumps(found)}")
    unlike = any(found["within_seed_noise"] is False for found in result["summary"].values())
    return int(unlike or not all(math.isfinite(x) for row in result["rows"] for x in row["abs_rel"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
