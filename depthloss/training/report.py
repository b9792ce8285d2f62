"""Pictures of a run: its curves, and predictions beside the ground truth."""

from __future__ import annotations

import contextlib
import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

INVALID_GREY = "0.6"
MAX_ERROR = 0.5

Series = tuple[np.ndarray, np.ndarray]


@dataclass
class Sample:
    """One frame to show.

    Attributes:
        rgb: float [H, W, 3] in [0, 1].
        depth: float [H, W], ground truth in metres, 0 = invalid.
        prediction: float [H, W] in metres.
        input_depth: float [H, W], sparse input in metres, 0 = none; or None.
        name: of the frame.
    """

    rgb: np.ndarray
    depth: np.ndarray
    prediction: np.ndarray
    input_depth: np.ndarray | None = None
    name: str = ""


def read_metrics(metrics_csv: Path) -> dict[str, Series]:
    """Read a metrics.csv of Lightning: name -> (steps, values), only where there is a value."""
    columns: dict[str, tuple[list[float], list[float]]] = {}
    with Path(metrics_csv).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if name not in (None, "step", "epoch") and text:
                    steps, values = columns.setdefault(name, ([], []))
                    steps.append(float(row["step"]))
                    values.append(float(text))
    return {name: (np.array(steps), np.array(values)) for name, (steps, values) in columns.items()}


def write_curves(metrics_csv: Path, out: Path, title: str = "") -> None:
    """Draw the curves of a run: loss, its terms, sigma and weights, learning rate, abs_rel; a panel each.

    Args:
        metrics_csv: as Lightning's CSVLogger writes it.
        out: the PNG, written whole or not at all.
        title: of the figure.
    """
    series = read_metrics(metrics_csv)
    panels = [p for p in _curve_panels(series) if p[2]]
    if not panels:
        return
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    fig = Figure(figsize=(5.2 * columns, 3.7 * rows), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, scale, lines) in zip(axes, panels, strict=False):
        _draw_panel(ax, name, scale, lines)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    if title:
        fig.suptitle(title)
    save_figure(fig, out)


def write_predictions(samples: Sequence[Sample], out: Path, title: str = "") -> None:
    """Draw a row per frame: rgb, sparse input if any has one, ground truth, prediction, relative error.

    The depth maps of a row share one colour bar, in metres. The error is signed. Invalid pixels are grey.
    Sparse maps are drawn with enlarged points, else they could not be seen.

    Args:
        samples: the frames.
        out: the PNG, written whole or not at all.
        title: of the figure.
    """
    with_input = any(s.input_depth is not None for s in samples)
    height, width = samples[0].depth.shape
    columns = 5 if with_input else 4
    cell = 3.4
    row_height = cell * height / width + 0.35
    fig = Figure(figsize=(cell * columns + 2.0, row_height * len(samples) + 0.6), layout="constrained")
    axes = fig.subplots(len(samples), columns, squeeze=False)
    for row, sample in zip(axes, samples, strict=True):
        _draw_sample(fig, row, sample, with_input)
    heads = [
        "rgb",
        *(["sparse input"] if with_input else []),
        "ground truth",
        "prediction",
        "error (pred − gt) / gt",
    ]
    for ax, head in zip(axes[0], heads, strict=True):
        ax.set_title(head)
    if title:
        fig.suptitle(title)
    save_figure(fig, out)


def save_figure(fig: Figure, out: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with whole_file(out) as temporary:
        FigureCanvasAgg(fig).print_figure(temporary, format="png", dpi=110)


@contextlib.contextmanager
def whole_file(out: Path) -> Iterator[Path]:
    """Give a path to write to; the file takes its place at `out` only if nothing went wrong."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.stem}-{os.getpid()}{out.suffix}")
    try:
        yield temporary
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _curve_panels(series: dict[str, Series]) -> list[tuple[str, str, dict[str, Series]]]:
    # The finest scale of the RGB pass stands for the rest, which looks alike and would bury it.
    terms, weights = {}, {}
    for name, values in series.items():
        match = re.fullmatch(r"train/(?:scale_0/)?(?!scale_\d+/|rgbd/)(.+)_epoch", name)
        if not match or match[1] in ("loss", "supervised_loss", "total_loss", "num_valid_pixels"):
            continue
        if re.search(r"sigma_|weight|alpha_t", match[1]):
            weights[match[1]] = values
        elif not re.match(r"gradient/", match[1]):  # levels of one term
            # Some losses have two names for one thing.
            if not any(np.array_equal(values, other, equal_nan=True) for other in terms.values()):
                terms[match[1]] = values
    loss = {
        k: series[n] for k, n in (("step", "train/loss_step"), ("epoch", "train/loss_epoch")) if n in series
    }
    rates = {n.removeprefix("lr/"): v for n, v in series.items() if n.startswith("lr/")}
    metrics = {n.removeprefix("val/"): series[n] for n in ("val/abs_rel",) if n in series}
    return [
        ("training loss", "linear", loss),
        ("terms of the loss (finest scale, mean of an epoch)", "auto", terms),
        ("σ and weights of the loss", "linear", weights),
        ("learning rate", "log", rates),
        ("validation abs_rel", "linear", metrics),
    ]


def _draw_panel(ax: Axes, name: str, scale: str, lines: dict[str, Series]) -> None:
    for number, (label, (steps, values)) in enumerate(lines.items()):
        faint = label == "step"
        marker = "o" if len(steps) < 25 and not faint else None
        style = ("-", "--", ":", "-.")[number // 10 % 4]
        ax.plot(
            steps,
            values,
            style,
            label=label,
            marker=marker,
            markersize=3,
            alpha=0.45 if faint else 1,
            linewidth=1 if faint else 1.6,
            color="0.5" if faint else None,
        )
    finite = np.concatenate([values[np.isfinite(values)] for _, values in lines.values()])
    positive = finite.size > 0 and finite.min() > 0
    if positive and (scale == "log" or (scale == "auto" and finite.max() > 30 * finite.min())):
        ax.set_yscale("log")
        if finite.max() < 1.5 * finite.min():  # a log axis has no ticks to show within so little
            ax.set_ylim(finite.min() / 2, finite.max() * 2)
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
    ax.set_title(name, fontsize=10)
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.grid(alpha=0.3)
    if len(lines) > 1 or next(iter(lines)) not in name:
        ax.legend(fontsize=7, ncols=1 if len(lines) < 8 else 2)


def _draw_sample(fig: Figure, row: Sequence[Axes], sample: Sample, with_input: bool) -> None:
    maps = [sample.depth, sample.prediction]
    if with_input:
        maps.insert(0, np.zeros_like(sample.depth) if sample.input_depth is None else sample.input_depth)
    valid = sample.depth > 0
    shown = sample.depth[valid] if valid.any() else sample.prediction[np.isfinite(sample.prediction)]
    low, high = np.percentile(shown, [1, 99]) if shown.size else (1.0, 10.0)
    low, high = max(float(low), 1e-3), max(float(high), 1.05 * float(low), 2e-3)
    norm = LogNorm(low, high) if high > 5 * low else Normalize(low, high)
    depth_colours = matplotlib.colormaps["turbo_r"].with_extremes(bad=INVALID_GREY)
    error_colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad=INVALID_GREY)

    for ax in row:
        ax.set_xticks([])
        ax.set_yticks([])
    row[0].imshow(np.clip(sample.rgb, 0, 1))
    row[0].set_xlabel(sample.name if len(sample.name) <= 48 else f"…{sample.name[-47:]}", fontsize=8)
    for ax, depth in zip(row[1:-1], maps, strict=True):
        image = ax.imshow(_enlarge(np.where(depth > 0, depth, np.nan)), cmap=depth_colours, norm=norm)
    bar = fig.colorbar(image, ax=list(row[1:-1]), fraction=0.03, pad=0.01, extend="both")
    bar.ax.set_title("m", fontsize=9)
    ticks = np.geomspace(low, high, 5) if isinstance(norm, LogNorm) else np.linspace(low, high, 5)
    bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g}"))

    error = np.full(sample.depth.shape, np.nan)
    error[valid] = (sample.prediction[valid] - sample.depth[valid]) / sample.depth[valid]
    image = row[-1].imshow(_enlarge(error), cmap=error_colours, vmin=-MAX_ERROR, vmax=MAX_ERROR)
    bar = fig.colorbar(image, ax=row[-1], fraction=0.06, pad=0.02, extend="both")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * y:+.0f} %" if y else "0 %"))
    if valid.any():
        row[-1].set_xlabel(f"abs_rel {np.abs(error[valid]).mean():.3f}", fontsize=8)


def _enlarge(values: np.ndarray) -> np.ndarray:
    """Draw each point of a sparse map (NaN = none) as 3 x 3 pixels; the nearest in a fixed order wins."""
    filled = np.isfinite(values)
    if not filled.any() or filled.mean() > 0.5:
        return values
    height, width = values.shape
    padded = np.pad(values, 1, constant_values=np.nan)
    out = values.copy()
    for dy in range(3):
        for dx in range(3):
            neighbour = padded[dy : dy + height, dx : dx + width]
            out = np.where(np.isfinite(out), out, neighbour)
    return out
