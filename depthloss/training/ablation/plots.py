"""The pictures of a study: sigma and weights over the training, and the metrics of every run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from depthloss.training.ablation.results import Run, Table
from depthloss.training.drawing.figures import save_figure

STYLES = ("-", "--", "-.")
PANELS = {
    "sigma_": "σ of the loss (dotted: root of what it weighs)",
    "weight_": "weights of the loss (sum 1)",
    "alpha_t": "weight α(t)",
}
COLUMNS = 4

Lines = list[tuple[Sequence[float], Sequence[float]]]


def write_weights(runs: Sequence[Run], out: Path) -> bool:
    """Draw the sigmas and weights that move: a row per condition, thin lines the seeds, thick their mean.

    Returns:
        Whether any run had some; without, nothing is written.
    """
    found: dict[tuple[str, str, str, str], Lines] = {}
    for run in runs:
        for name, series in run["trajectory"].items():
            prefix = next((p for p in PANELS if name.startswith(p)), None)
            if prefix and name.endswith(", steps") and np.ptp(series["value"]) > 0:
                part = name.removesuffix(", steps").removeprefix(prefix)
                key = (run["condition"], prefix, run["variant"], part)
                found.setdefault(key, []).append((series["step"], series["value"]))
                if (weighed := run["trajectory"].get(f"{part}_loss")) and prefix == "sigma_":
                    root = np.sqrt(np.maximum(weighed["value"], 0))
                    found.setdefault((*key[:3], f"{part}_loss"), []).append((weighed["step"], root))
    if not found:
        return False
    conditions, prefixes, variants, _ = (list(dict.fromkeys(column)) for column in zip(*found, strict=True))
    parts = list(dict.fromkeys(key[3].removesuffix("_loss") for key in found))
    shape = (len(conditions), len(prefixes))
    fig = Figure(figsize=(6 * shape[1], 3.6 * shape[0]), layout="constrained")
    axes = fig.subplots(*shape, squeeze=False, sharex=True)
    for (condition, prefix, variant, name), lines in found.items():
        ax = axes[conditions.index(condition), prefixes.index(prefix)]
        part = name.removesuffix("_loss")
        colour, style = f"C{parts.index(part) % 10}", STYLES[variants.index(variant) % len(STYLES)]
        shortest = min((steps for steps, _ in lines), key=len)
        mean = np.mean([values[: len(shortest)] for _, values in lines], axis=0)
        if name != part:
            ax.plot(shortest, mean, ":", color=colour, linewidth=1.2)
            continue
        for steps, values in lines:
            ax.plot(steps, values, style, color=colour, linewidth=0.7, alpha=0.45)
        label = part or prefix
        ax.plot(
            shortest, mean, style, color=colour, linewidth=2,
            label=label if len(variants) == 1 else f"{label}, {variant}",
        )  # fmt: skip
        ax.set_title(_title(condition, PANELS[prefix]), fontsize=10)
    for ax in axes.ravel():
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        ax.grid(alpha=0.3)
        if ax.has_data():
            ax.legend(fontsize=8)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    fig.suptitle("thin: the seeds; thick: their mean", fontsize=9)
    save_figure(fig, out)
    return True


def write_metrics(table: Table, metrics: dict[str, str], out: Path) -> bool:
    """Draw every run as a point: a panel per metric and condition, a line per variant.

    Args:
        table: the metrics.
        metrics: name -> title of the panel.
        out: the PNG.

    Returns:
        Whether any run had a value; without, nothing is written.
    """
    rows = []
    for condition in table.conditions():
        there = [name for name in metrics if name in table.metrics(condition)]
        rows += [(condition, there[i : i + COLUMNS]) for i in range(0, len(there), COLUMNS)]
    if not rows:
        return False
    columns = max(len(names) for _, names in rows)
    heights = [0.3 * len(table.variants(condition)) + 0.7 for condition, _ in rows]
    fig = Figure(figsize=(2.2 + 3.0 * columns, sum(heights) + 0.4), layout="constrained")
    axes = fig.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for row, (condition, names) in zip(axes, rows, strict=True):
        for ax, name in zip(row, names, strict=False):
            _draw_points(ax, table, condition, name)
            ax.set_title(_title(condition, metrics[name]), fontsize=9)
            ax.tick_params(labelleft=ax is row[0], labelsize=8)
        for ax in row[len(names) :]:
            ax.set_visible(False)
    fig.suptitle(f"small: a run; large: mean of the seeds; dashed: {table.study.baseline}", fontsize=9)
    save_figure(fig, out)
    return True


def _title(condition: str, text: str) -> str:
    return f"{condition}: {text}" if condition else text


def _draw_points(ax: Axes, table: Table, condition: str, name: str) -> None:
    variants = table.variants(condition)
    for place, variant in enumerate(variants):
        found = list(table.of(condition, variant, name).values())
        ax.plot(found, [place] * len(found), "o", color="C0", markersize=4, alpha=0.5)
        if found:
            mean = float(np.mean(found))
            ax.plot([mean], [place], "D", color="C0", markersize=7)
            if variant == table.study.baseline:
                ax.axvline(mean, color="0.4", linestyle="--", linewidth=1)
    ax.set_yticks(range(len(variants)), variants)
    ax.set_ylim(len(variants) - 0.5, -0.5)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
    ax.grid(alpha=0.3)
