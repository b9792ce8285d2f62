"""What the gradient term sees of sparse ground truth: writes bench/results/sparse_gradient.json and .md.

    python -m bench.training.sparse_gradient [--sizes 192,640 ...] [--frames 2]

The cases are every mask of the gradient term, on whole cells ("average") and on their central 2x2
("bilinear"), with 4 and 6 levels; on dense ground truth, random points, even scan lines and the returns of a
spinning LiDAR. The frames are rendered streets, the loss is scale-adaptive in its default form. Two
predictions have the same mean error R (the relative term on dense ground truth): "smooth" is the blurred
depth, without edges; "sharp" has all edges, and an error that varies slowly. A gradient term that sees edges
is larger for "smooth"; if it is not, it measures the mask, or what R measures already.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import depthloss
from bench import harness
from depthloss.training.data import SyntheticDataset

SIZES = ((192, 640), (352, 1216))
LINES = (64, 32, 16)
DENSITY, BEAMS = 0.05, 64
FORMS = [(mask, cells) for mask in ("support", "centre", "residual") for cells in ("average", "bilinear")]
LEVELS = (4, 6)


def scene(size: tuple[int, int], frames: int, gt: str | float = "dense") -> Tensor:
    """Depth of rendered streets [frames, 1, H, W], float64; 0 = none."""
    streets = SyntheticDataset(
        length=2 * frames,
        image_shape=size,
        min_depth=0.05,
        max_depth=100.0,
        train=False,
        gt=gt,
        gt_beams=BEAMS,
    )
    depth = [torch.from_numpy(streets.load(2 * i + 1).depth.copy()) for i in range(frames)]
    return torch.stack(depth)[:, None].double()


def blur(x: Tensor, valid: Tensor, sigma: float) -> Tensor:
    """Gaussian mean over the valid pixels around each."""
    r = math.ceil(3 * sigma)
    kernel = torch.exp(-torch.arange(-r, r + 1, dtype=x.dtype).square() / (2 * sigma**2))

    def smooth(y: Tensor) -> Tensor:
        y = F.conv2d(y, kernel.view(1, 1, 1, -1), padding=(0, r))
        return F.conv2d(y, kernel.view(1, 1, -1, 1), padding=(r, 0))

    return smooth(x * valid) / smooth(valid.to(x)).clamp(min=1e-9)


def relative(pred: Tensor, gt: Tensor, valid: Tensor) -> float:
    """R of two inverse depths."""
    loss = depthloss.ScaleAdaptiveLoss()
    loss(pred, gt, valid)
    return loss.metrics["scale_adaptive/relative"].item()


def predictions(depth: Tensor) -> tuple[Tensor, Tensor, float]:
    """The smooth and the sharp prediction, as inverse depth, and their R."""
    h, w = depth.shape[2:]
    valid = depth > 0
    gt = torch.where(valid, 1 / depth, 0.0)
    smooth = 1 / blur(depth, valid, h / 48).clamp(min=0.5)
    y, x = torch.meshgrid(*(torch.linspace(0, 2 * math.pi, n).double() for n in (h, w)), indexing="ij")
    wave = torch.sin(1.3 * x + 1.2) * torch.cos(0.7 * y + 0.6)
    filled = torch.where(valid, depth, 50.0)
    target, low, high = relative(smooth, gt, valid), 0.0, 0.9
    for _ in range(40):
        amplitude = (low + high) / 2
        sharp = 1 / (filled * (1 + amplitude * wave))
        low, high = (amplitude, high) if relative(sharp, gt, valid) < target else (low, amplitude)
    return smooth, sharp, target


def ground_truths(size: tuple[int, int], frames: int) -> Iterator[tuple[str, Tensor]]:
    """Name and depth [frames, 1, H, W] of each kind of ground truth."""
    depth = scene(size, frames)
    yield "dense", depth
    yield f"{DENSITY:.0%} random", scene(size, frames, DENSITY)
    for n in LINES:
        rows = torch.zeros(size[0], dtype=torch.bool)
        rows[((torch.arange(n) + 0.5) * size[0] / n).long()] = True
        yield f"{n} lines", torch.where(rows[:, None], depth, 0.0)
    yield f"LiDAR, {BEAMS} beams", scene(size, frames, "scanline")


def measure(size: tuple[int, int], frames: int) -> Iterator[dict]:
    """One row per ground truth, form of the gradient term and number of levels."""
    smooth, sharp, r = predictions(scene(size, frames))
    for name, depth in ground_truths(size, frames):
        valid = depth > 0
        gt = torch.where(valid, 1 / depth, 0.0)
        for mask, cells in FORMS:
            for levels in LEVELS:
                spec = depthloss.GradientSpec(
                    mask=mask,
                    downsample=cells,
                    border="replicate",
                    normalizer="level",
                    combine="mean",
                    num_scales=levels,
                )
                loss = depthloss.ScaleAdaptiveLoss(gradient=spec)
                value = {}
                for kind, pred in (("smooth", smooth), ("sharp", sharp)):
                    loss(pred, gt, valid)
                    value[kind] = loss.metrics["loss_sg"].item()
                kept = [loss.metrics[f"gradient/support_{k}"].item() for k in range(1, levels + 1)]
                yield {
                    "size": size,
                    "ground_truth": name,
                    "valid": valid.double().mean().item(),
                    "mask": mask,
                    "downsample": cells,
                    "levels": levels,
                    "kept_per_frame": [n / frames for n in kept],
                    "value": value,
                    "relative": r,
                }


def table(result: dict) -> str:
    """Responses kept and values, a table per size."""
    parts = []
    for size in dict.fromkeys(tuple(row["size"]) for row in result["rows"]):
        rows = [row for row in result["rows"] if tuple(row["size"]) == size]
        few, many = LEVELS
        head = [f"{n} levels: smooth, sharp, ratio" for n in LEVELS]
        lines = [
            f"## {size[0]}×{size[1]}, R = {rows[0]['relative']:.3f}\n",
            f"| ground truth | valid | mask | cells | kept at levels 1 to {many} | {' | '.join(head)} |",
            "|---|---|---|---|---|---|---|",
        ]
        for a, b in zip(rows[::2], rows[1::2], strict=True):
            assert (a["levels"], b["levels"]) == (few, many)
            kept = " ".join(f"{n:.0f}" for n in b["kept_per_frame"])
            cells = (a["ground_truth"], f"{a['valid']:.1%}", f"`{a['mask']}`", f"`{a['downsample']}`", kept)
            lines.append(f"| {' | '.join((*cells, _values(a), _values(b)))} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _values(row: dict) -> str:
    smooth, sharp = row["value"]["smooth"], row["value"]["sharp"]
    return f"{smooth:.3f}, {sharp:.3f}, **{smooth / sharp:.2f}**" if sharp else "0"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = lambda text: tuple(int(n) for n in text.split(","))  # noqa: E731
    parser.add_argument("--sizes", nargs="+", type=size, metavar="H,W", default=list(SIZES))
    parser.add_argument("--frames", type=int, default=2, help="rendered streets")
    parser.add_argument("--out", type=Path, help="path of the JSON; the table goes beside it, as .md")
    parser.add_argument("--dry-run", action="store_true", help="one tiny frame; writes to --out only")
    options = parser.parse_args(argv)
    if options.dry_run:
        options.sizes, options.frames = [(48, 160)], 1
    return options


def main(argv: list[str]) -> int:
    """Measure, print, write."""
    options, begin = parse(argv), time.monotonic()
    result = harness.origin() | {
        "command": harness.command("bench.training.sparse_gradient", argv),
        "dry_run": options.dry_run,
        "machine": harness.machine("cpu"),
        "frames": options.frames,
        "rows": [row for size in options.sizes for row in measure(size, options.frames)],
    }
    result["seconds"] = round(time.monotonic() - begin, 1)
    print(table(result))
    out = options.out or (None if options.dry_run else harness.RESULTS / "sparse_gradient.json")
    if out:
        harness.write_json(out, result)
        by = f"Made by `python {' '.join(result['command'])}` at commit {result['commit'][:10]} with torch "
        by += (
            f"{result['versions']['torch']} on {result['machine']['cpu_name']}; README.md says what it means."
        )
        out.with_suffix(".md").write_text(f"{by}\n\n{table(result)}\n", encoding="utf-8")
        print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
