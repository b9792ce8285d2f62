"""The tables of the report, as HTML: a metric's value and, in small, its difference from a baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from depthloss.training.evaluation.report.charts import grades
from depthloss.training.evaluation.result import Evaluation, Row
from depthloss.training.evaluation.wording import (
    DASH,
    count,
    judge,
    metric,
    metric_names,
    number,
    signed,
    value_of,
)

SIGNS = {"better": " ✓", "worse": " ✗", "same": " =", "": ""}
HINT = "<p>In small: the difference from the baseline, ✓ better, ✗ worse, = the same.</p>"
LISTED = 10  # of the worst frames
LIST_METRICS = ("abs_rel", "rmse", "mae", "silog", "a1")


def summary_grid(candidate: Evaluation, baseline: Evaluation | None) -> str:
    """Return a row per metric, with unit, difference, verdict and meaning, and the counts."""
    ours, theirs = candidate.summary, baseline.summary if baseline else None
    rows = []
    for name in metric_names([ours, *([theirs] if theirs else [])]):
        known = metric(name)
        cells = [_th(f"{name}\u00a0{known.arrow}".rstrip()), _td(known.unit), _td(_shown(ours, name))]
        if theirs is not None:
            here, there = value_of(ours, name), value_of(theirs, name)
            verdict = judge(name, here, there) if name in ours and name in theirs else ""
            cells += [
                _td(_shown(theirs, name)),
                _td(signed(here - there), verdict),
                _td(percent_of(here, there), verdict),
                _td((verdict + SIGNS[verdict]).strip(), verdict),
            ]
        rows.append("".join([*cells, _td(known.text, "words")]))
    for name, text in (
        ("images", "with pixels that count; the means are over them"),
        ("empty", "images without a pixel that counts"),
        ("nonfinite", "predictions at pixels that count that are not finite"),
    ):
        cells = [_th(name), _td(""), _td(count(ours.get(name)))]
        cells += [_td(count(theirs.get(name))), *[_td("")] * 3] if theirs is not None else []
        rows.append("".join([*cells, _td(text, "words")]))
    heads = ["metric", "unit"]
    heads += ["candidate", "baseline", "difference", "in %", "verdict"] if baseline else ["value"]
    return _grid("".join(map(_head, heads)) + '<th scope="col" class="words">meaning</th>', rows)


def strata_grid(key: str, rows: Sequence[Row], other: Sequence[Row] | None) -> str:
    """Return a row per range or class and a column per metric.

    Args:
        key: "range" or "class".
        rows: of the candidate.
        other: of the baseline; None = no baseline.
    """
    names = metric_names(rows)
    known = {row[key]: row for row in other or ()}
    counts = [name for name in ("pixels", "images") if name in rows[0]]
    lines = []
    for row in rows:
        cells = [_th(row[key]), *(_td(count(row[name])) for name in counts)]
        lines.append("".join([*cells, *(_compared(name, row, known.get(row[key])) for name in names)]))
    heads = "".join([*map(_head, [key, *counts]), *map(_metric_head, names)])
    return (HINT if other else "") + _grid(heads, lines, "wide")


def class_range_grid(candidate: Evaluation, baseline: Evaluation | None, name: str = "abs_rel") -> str:
    """Return one metric with a row per class and a column per range."""
    cell = {(row["class"], row["range"]): row for row in candidate.class_ranges}
    other = {(row["class"], row["range"]): row for row in baseline.class_ranges} if baseline else {}
    ranges = list(dict.fromkeys(row["range"] for row in [*candidate.ranges, *candidate.class_ranges]))
    lines = []
    for row in candidate.classes:
        cells = [_th(row["class"])]
        for key in ((row["class"], r) for r in ranges):
            pixels = f"<small>{count(cell[key]['pixels'])} px</small>" if key in cell else ""
            cells.append(_compared(name, cell.get(key, {}), other.get(key), pixels))
        lines.append("".join(cells))
    return _grid("".join(map(_head, ["class", *ranges])), lines)


def grades_grid(series: Sequence[np.ndarray]) -> str:
    """Return how many images there are of each grade; `series` as in `charts.histogram`."""
    held = [grades(values) for values in series]
    lines = []
    for i, (grade, interval, _) in enumerate(held[0]):
        cells = [_th(grade), _td(interval)]
        for of, values in zip(held, series, strict=True):
            share = f"{100 * of[i][2] / values.size:.1f} %" if values.size else DASH
            cells += [_td(count(of[i][2])), _td(share)]
        lines.append("".join(cells))
    heads = ["", "abs_rel", "images", "share", *(["baseline's", "share"] if len(series) > 1 else [])]
    return _grid("".join(map(_head, heads)), lines)


def worst_grid(ranked: Sequence[Row], baseline: Evaluation | None) -> str:
    """Return the worst frames with some metrics.

    Args:
        ranked: rows of `Evaluation.frames`, the worst last; at least one.
        baseline: may lack some of the frames.
    """
    rows = ranked[::-1][:LISTED]
    other = {(row["index"], row["name"]): row for row in baseline.frames} if baseline else {}
    names = [name for name in LIST_METRICS if name in rows[0]]
    lines = []
    for row in rows:
        cells = [_th(row["name"]), _td(str(row["index"])), _td(count(row["valid"]))]
        cells += [_compared(name, row, other.get((row["index"], row["name"]))) for name in names]
        lines.append("".join(cells))
    heads = "".join([*map(_head, ["frame", "index", "valid pixels"]), *map(_metric_head, names)])
    return (HINT if baseline else "") + _grid(heads, lines, "names")


def percent_of(here: float, there: float) -> str:
    """Return by how much `here` differs from `there`: "+3.20 %"."""
    usable = there and math.isfinite(here - there)
    return f"{signed(100 * (here / there - 1))} %" if usable else DASH


def _shown(row: Row, name: str) -> str:
    # Where there are pixels, NaN comes from a prediction that is not finite, and must show.
    nothing = name not in row or not row.get("pixels", row.get("valid", row.get("images", 1)))
    value = value_of(row, name)
    return DASH if nothing else number(value) if math.isfinite(value) else "NaN"


def _compared(name: str, row: Row, other: Row | None, more: str = "") -> str:
    """Return a cell with a value and, in small, its difference from the baseline."""
    text = _shown(row, name)
    if other is not None and DASH not in (text, _shown(other, name)):
        here, there = value_of(row, name), value_of(other, name)
        verdict = judge(name, here, there)
        difference = signed(here - there) if math.isfinite(here - there) else ""
        more = f'<small class="{verdict}">{difference}{SIGNS[verdict]}</small>' + more
    return f"<td>{text}{more}</td>"


def _metric_head(name: str) -> str:
    known = metric(name)
    unit = f'<span class="unit">{escape(known.unit) or "&nbsp;"}</span>'
    return f'<th scope="col">{escape(name)}&nbsp;{known.arrow}{unit}</th>'


def _head(text: str) -> str:
    return f'<th scope="col">{escape(text)}</th>'


def _th(text: str) -> str:
    return f'<th scope="row">{escape(text)}</th>'


def _td(text: str, css: str = "") -> str:
    return f"<td{f' class={css}' if css else ''}>{escape(text)}</td>"


def _grid(heads: str, rows: Sequence[str], css: str = "") -> str:
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="data {css}"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
