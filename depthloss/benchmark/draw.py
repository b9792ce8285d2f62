"""Plots of time and memory against the size of the image."""

from __future__ import annotations

import os
from pathlib import Path


def draw(result: dict, path: Path) -> None:
    """Write a picture: a row for each loss, time on the left, memory on the right.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    losses = list(dict.fromkeys(row["loss"] for row in result["rows"]))
    valid = result["rows"][0]["valid"]
    columns = 2 if any(row.get("memory") is not None for row in result["rows"]) else 1
    size = (4.5 * columns, 2.8 * len(losses))
    figure, axes = plt.subplots(len(losses), columns, figsize=size, squeeze=False, constrained_layout=True)
    for (left, *right), loss in zip(axes, losses, strict=True):
        rows = [row for row in result["rows"] if (row["loss"], row["valid"]) == (loss, valid)]
        for form in dict.fromkeys(row["form"] for row in rows):
            own = sorted((r for r in rows if r["form"] == form), key=lambda r: _pixels(r))
            x = [_pixels(r) / 1e6 for r in own]
            style = {"marker": "o", "label": form, "linewidth": 2.5 if form == "ours" else 1.2}
            left.plot(x, [r["ms"]["median"] for r in own], **style)
            known = [(a, r["memory"]) for a, r in zip(x, own, strict=True) if r.get("memory") is not None]
            if known:
                right[0].plot(*zip(*known, strict=True), **style)
        left.set(xscale="log", yscale="log", title=f"{loss}, {valid:.0%} valid", ylabel="ms")
        for axis in right:
            axis.set(xscale="log", title="memory beyond the inputs", ylabel="bytes per pixel", ylim=(0, None))
        for axis in (left, *right):
            axis.set_xlabel("megapixels in the batch")
            axis.grid(alpha=0.3)
        left.legend(fontsize=8)
    part = path.with_name(f".{path.name}.{os.getpid()}.png")
    figure.savefig(part, dpi=100)
    plt.close(figure)
    part.replace(path)


def _pixels(row: dict) -> int:
    b, h, w = row["shape"]
    return b * h * w
