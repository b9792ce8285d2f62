"""Bars and the histogram of the report, as HTML and inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from depthloss.training.evaluation.wording import number

# Grades of an image, with the abs_rel at which each begins.
GRADES = (("Excellent", 0.0), ("Good", 0.05), ("Fair", 0.1), ("Poor", 0.2), ("Bad", 0.3))
COLOURS = 8  # of the style sheet, --m0 to --m7; more methods begin again
MAX_BINS = 32


def bars(title: str, labels: Sequence[str], series: Sequence[Sequence[float | None]]) -> str:
    """Return horizontal bars that start at 0.

    Args:
        title: with the unit.
        labels: one per row.
        series: the values of each method; None where there is nothing to measure, NaN where a prediction is
            not finite: both without a bar.
    """
    finite = [v for values in series for v in values if v is not None and math.isfinite(v)]
    top = max(finite, default=0.0) or 1.0
    rows = []
    for label, *values in zip(labels, *series, strict=True):
        cells = []
        for i, value in enumerate(values):
            known = value is not None and math.isfinite(value)
            width = 80 * max(value, 0.0) / top if known else 0.0
            text = "NaN" if value is not None and not known else number(value)
            cells.append(
                f'<div class="bar m{i % COLOURS}"><i style="width:{width:.2f}%"></i><span>{text}</span></div>'
            )
        rows.append(f'<tr><th scope="row">{escape(label)}</th><td>{"".join(cells)}</td></tr>')
    return f'<table class="bars"><caption>{escape(title)}</caption>{"".join(rows)}</table>'


def legend(names: Sequence[str]) -> str:
    """Return what the colours of the methods stand for; "" for one alone."""
    if len(names) < 2:
        return ""
    items = (f'<span class="m{i % COLOURS}"><i></i>{escape(name)}</span>' for i, name in enumerate(names))
    return f'<p class="legend">{"".join(items)}</p>'


def bins(values: np.ndarray) -> tuple[float, int]:
    """Return the width and number of bins from 0 on that hold 98 % of the values; the last one is open."""
    top = max(float(np.percentile(values, 98)) if values.size else 0.0, 0.02)
    width = next(
        w for e in range(-3, 300) for w in (10.0**e, 2 * 10.0**e, 5 * 10.0**e) if w * MAX_BINS >= top
    )
    return width, max(4, math.floor(top / width * (1 + 1e-9)) + 1)


def histogram(series: Sequence[np.ndarray]) -> str:
    """Return the histogram of abs_rel over images; methods after the first are outlines.

    Args:
        series: the finite values of each method.
    """
    width, number_of_bins = bins(np.concatenate(series))
    counts = [
        np.bincount(np.minimum(v / width, number_of_bins - 1).astype(int), minlength=number_of_bins)
        for v in series
    ]
    top = max(1, *(int(c.max()) for c in counts))
    x0, x1, y0, y1 = 46, 704, 216, 40  # the frame
    sx, sy = (x1 - x0) / number_of_bins, (y0 - y1) / top
    out = []
    end = number_of_bins * width
    for (grade, low), high in zip(GRADES, [g[1] for g in GRADES[1:]] + [math.inf], strict=True):
        left, right = (x0 + min(v, end) / width * sx for v in (low, high))
        if right - left > 1 and low:
            out.append(f'<line class="guide" x1="{left:.1f}" x2="{left:.1f}" y1="{y1 - 16}" y2="{y0}"/>')
        if right - left > 9 * len(grade):
            out.append(_text(left + 5, y1 - 6, grade, "guide"))
    step = max(1, math.ceil(top / 4))
    for y in range(0, top + 1, step):
        at = y0 - y * sy
        out.append(f'<line class="grid" x1="{x0}" x2="{x1}" y1="{at:.1f}" y2="{at:.1f}"/>')
        out.append(_text(x0 - 6, at + 4, str(y), "end"))
    for i, c in enumerate(counts[0]):
        if c:
            upper = f"{(i + 1) * width:g}" if i < number_of_bins - 1 else "∞"
            out.append(
                f'<rect class="m0" x="{x0 + i * sx + 0.5:.1f}" y="{y0 - c * sy:.1f}" '
                f'width="{sx - 1:.1f}" height="{c * sy:.1f}">'
                f"<title>[{i * width:g}, {upper}): {c}</title></rect>"
            )
    for k, other in enumerate(counts[1:], 1):
        path = "".join(f"V{y0 - c * sy:.1f}H{x0 + (i + 1) * sx:.1f}" for i, c in enumerate(other))
        out.append(f'<path class="m{k % COLOURS}" d="M{x0} {y0}{path}V{y0}"/>')
    every = next(n for n in (1, 2, 5, 10) if number_of_bins <= 8 * n)
    for i in range(0, number_of_bins, every):
        out.append(_text(x0 + i * sx, y0 + 16, f"{i * width:g}", "middle"))
    out.append(_text((x0 + x1) / 2, y0 + 36, "abs_rel of an image (the last bin holds all above)", "middle"))
    out.append(_text(0, 12, "images"))
    return (
        '<svg class="chart" viewBox="0 0 720 260" role="img" '
        f'aria-label="histogram of abs_rel over {series[0].size} images">{"".join(out)}</svg>'
    )


def grades(values: np.ndarray) -> list[tuple[str, str, int]]:
    """Return name, interval and number of images of each grade.

    Args:
        values: abs_rel of the images, finite.
    """
    lows = [low for _, low in GRADES] + [math.inf]
    held = np.histogram(values, bins=[*lows[:-1], max(lows[-2] + 1, *values, 1.0) + 1])[0]
    names = [
        f"[{a:g}, {b:g})" if math.isfinite(b) else f"≥ {a:g}" for a, b in zip(lows, lows[1:], strict=False)
    ]
    return [(grade, name, int(n)) for (grade, _), name, n in zip(GRADES, names, held, strict=True)]


def _text(x: float, y: float, text: str, css: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}">{escape(text)}</text>'
