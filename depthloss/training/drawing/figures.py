"""Pictures of a run: its curves, and predictions beside the ground truth."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from depthloss.training.drawing.colours import (
    DEPTH_COLOURS,
    ERROR_COLOURS,
    LINE_COLOURS,
    depth_map,
    depth_norm,
    error_limit,
    error_map,
    percent,
    relative_error,
    ticks,
)
from depthloss.training.files import whole_file

PIXELS = 400  # widest map of predictions.png: what a cell of the figure can show

Series = tuple[np.ndarray, np.ndarray]


@dataclass
class Sample:
    """One frame to show.

    Attributes:
        rgb: float [H, W, 3] in [0, 1]; None = unknown, in a report.
        depth: float [H, W], ground truth in metres, 0 = invalid.
        prediction: float [H, W] in metres.
        input_depth: float [H, W], sparse input in metres, 0 = none; or None.
        name: of the frame.
        index: of the frame in its data set, if known.
    """

    rgb: np.ndarray | None
    depth: np.ndarray
    prediction: np.ndarray
    input_depth: np.ndarray | None = None
    name: str = ""
    index: int | None = None


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
        metrics_csv: as `MetricsCSV` writes it.
        out: the PNG, written whole or not at all.
        title: of the figure.
    """
    fig = draw_curves(metrics_csv, title)
    if fig is not None:
        save_figure(fig, out)


def draw_curves(metrics_csv: Path, title: str = "", columns: int = 3) -> Figure | None:
    """Return the figure of `write_curves`, with so many panels in a row; None if there is nothing to draw."""
    panels = [p for p in _curve_panels(read_metrics(metrics_csv)) if p[2]]
    if not panels:
        return None
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    fig = Figure(figsize=(5.2 * columns, 4.0 * rows), layout="constrained")
    axes = fig.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, scale, lines) in zip(axes, panels, strict=False):
        _draw_panel(ax, name, scale, lines)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    if title:
        fig.suptitle(title)
    return fig


def write_predictions(samples: Sequence[Sample], out: Path, title: str = "") -> None:
    """Draw a row per frame: rgb, sparse input if any has one, prediction, ground truth, relative error.

    The depth maps of a row share one colour bar, in metres; the errors, signed, share one in all rows.
    Invalid pixels are grey. Sparse maps are drawn with enlarged points, else they could not be seen.

    Args:
        samples: the frames.
        out: the PNG, written whole or not at all.
        title: of the figure.
    """
    with_input = any(s.input_depth is not None for s in samples)
    heads = ["RGB", *(["sparse input"] if with_input else []), "prediction", "ground truth"]
    heads.append("error (pred − gt) / gt")
    cell = 2.75
    heights = [cell * s.depth.shape[0] / s.depth.shape[1] + 0.42 for s in samples]
    size = (cell * len(heads) + 1.7, sum(heights) + 0.7)
    fig = Figure(figsize=size, layout="constrained")
    axes = fig.subplots(len(samples), len(heads), squeeze=False, height_ratios=heights)
    errors = [relative_error(s.prediction, s.depth) for s in samples]
    limit = error_limit(errors)
    for row, sample, error in zip(axes, samples, errors, strict=True):
        image = _draw_sample(fig, row, sample, error, limit)
    bar = fig.colorbar(
        image, ax=axes[:, -1], fraction=0.06, pad=0.02, extend="both", aspect=20 * len(samples)
    )
    bar.set_ticks([-limit, -limit / 2, 0, limit / 2, limit])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: percent(y)))
    for ax, head in zip(axes[0], heads, strict=True):
        ax.set_title(head, fontsize=11)
    if title:
        fig.suptitle(title)
    save_figure(fig, out)


def save_figure(fig: Figure, out: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with whole_file(out) as temporary:
        temporary.write_bytes(figure_png(fig))


def figure_png(fig: Figure, dpi: int = 110) -> bytes:
    """Return a figure as a PNG file."""
    file = io.BytesIO()
    FigureCanvasAgg(fig).print_figure(file, format="png", dpi=dpi)
    return file.getvalue()


def _curve_panels(series: dict[str, Series]) -> list[tuple[str, str, dict[str, Series]]]:
    # Only the finest scale of the RGB pass: the others look alike and would hide it.
    terms, weights = {}, {}
    for name, values in series.items():
        match = re.fullmatch(r"train/(?:scale_0/)?(?!scale_\d+/|rgbd/)(.+)_epoch", name)
        if not match or match[1] in ("loss", "supervised_loss", "total_loss", "num_valid_pixels"):
            continue
        if re.search(r"sigma_|weight|alpha_t", match[1]):
            weights[match[1]] = values
        elif not re.match(r"gradient/", match[1]):  # levels of one term
            # Some losses log one value under two names.
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
        # A second round through the colours is dashed, a third dotted.
        style = ("-", "--", ":", "-.")[number // len(LINE_COLOURS) % 4]
        ax.plot(
            steps,
            values,
            style,
            label=label,
            marker="o" if len(steps) < 25 and not faint else None,
            markersize=3,
            alpha=0.45 if faint else 1,
            linewidth=1 if faint else 1.6,
            color="0.5" if faint else LINE_COLOURS[number % len(LINE_COLOURS)],
        )
    finite = np.concatenate([values[np.isfinite(values)] for _, values in lines.values()])
    positive = finite.size > 0 and finite.min() > 0
    if positive and (scale == "log" or (scale == "auto" and finite.max() > 30 * finite.min())):
        ax.set_yscale("log")
        if finite.max() < 1.5 * finite.min():  # a log axis has no ticks within so small a range
            ax.set_ylim(finite.min() / 2, finite.max() * 2)
        wide = finite.max() > 300 * finite.min()
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0), numticks=12))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        ax.yaxis.set_minor_locator(LogLocator(subs=range(2, 10), numticks=12) if wide else NullLocator())
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.set_title(name, fontsize=11)
    ax.set_xlabel("step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.grid(alpha=0.3)
    if len(lines) > 3:  # below, where it hides no curve
        ax.legend(fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False)
    elif len(lines) > 1 or next(iter(lines)) not in name:
        ax.legend(fontsize=9)


def _draw_sample(
    fig: Figure, row: Sequence[Axes], sample: Sample, error: np.ndarray, limit: float
) -> AxesImage:
    maps = [sample.prediction, sample.depth]
    if len(row) == 5:
        maps.insert(0, np.zeros_like(sample.depth) if sample.input_depth is None else sample.input_depth)
    norm = depth_norm(sample.depth, sample.prediction)
    for ax in row:
        ax.set_xticks([])
        ax.set_yticks([])
    row[0].imshow(np.clip(sample.rgb, 0, 1))
    row[0].set_xlabel(sample.name if len(sample.name) <= 36 else f"…{sample.name[-35:]}", fontsize=9)
    for ax, depth in zip(row[1:-1], maps, strict=True):
        image = ax.imshow(depth_map(depth, PIXELS), cmap=DEPTH_COLOURS, norm=norm)
    bar = fig.colorbar(image, ax=list(row[1:-1]), fraction=0.03, pad=0.01, extend="both")
    bar.ax.yaxis.set_major_locator(FixedLocator(ticks(norm)))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:.3g} m"))
    valid = sample.depth > 0
    if valid.any():
        lost = np.count_nonzero(~np.isfinite(sample.prediction[valid]))
        text = f"abs_rel {np.abs(error[valid]).mean():.3f}" + (f" ({lost} px not finite)" if lost else "")
        row[-1].set_xlabel(text, fontsize=9)
    return row[-1].imshow(error_map(error, PIXELS), cmap=ERROR_COLOURS, vmin=-limit, vmax=limit)
