"""The tables of the report, as HTML: a metric's value and, in small, its difference from other methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from depthloss.training.evaluation.compare import Difference, differences
from depthloss.training.evaluation.report.charts import grades
from depthloss.training.evaluation.result import Evaluation, Row
from depthloss.training.evaluation.wording import (
    DASH,
    bounds,
    count,
    judge,
    metric,
    metric_names,
    number,
    signed,
    value_of,
)

SIGNS = {"better": " ✓", "worse": " ✗", "same": " =", "": ""}
COUNTED = {
    "images": "with pixels that count; the means are over them",
    "empty": "without a pixel that counts, or with too few",
    "missing": "without a prediction",
    "unreadable": "left out: a file is damaged",
    "nonfinite": "predictions at pixels that count that are not finite",
    "nonpositive": "depths there that are not positive after the alignment",
    "clipped": "depths there that a bound of the protocol changed",
}
LISTED = 10  # of the worst frames
LIST_METRICS = ("abs_rel", "rmse", "mae", "silog", "a1")


def hint(others: Sequence[Evaluation]) -> str:
    """Return what the small numbers of a table are; "" without other methods."""
    if not others:
        return ""
    names = ", then from ".join(escape(other.name) for other in others)
    return f"<p>In small: the difference from {names}; ✓ better, ✗ worse, = the same.</p>"


def summary_grid(methods: Sequence[Evaluation]) -> str:
    """Return a row per metric, with unit, values, differences, verdict and meaning, and the counts.

    Args:
        methods: at least one; the first is compared with each other.
    """
    candidate, *others = methods
    summaries = [one.summary for one in methods]
    changes = [differences(candidate, other) for other in others]
    rows = []
    for name in metric_names(summaries):
        known = metric(name)
        cells = [_th(f"{name}\u00a0{known.arrow}".rstrip()), _td(known.unit)]
        cells += [_td(_shown(of, name)) for of in summaries]
        for there, change in zip(summaries[1:], changes, strict=True):
            cells.append(_change(name, candidate.summary, there, change.get(name)))
        rows.append("".join([*cells, _td(known.text, "words")]))
    for name, text in COUNTED.items():
        if any(name in of for of in summaries):
            cells = [_th(name), _td(""), *(_td(count(of.get(name))) for of in summaries)]
            rows.append("".join([*cells, *[_td("")] * len(others), _td(text, "words")]))
    heads = ["metric", "unit", *([one.name for one in methods] if others else ["value"])]
    heads += ["difference"] if len(others) == 1 else [f"difference from {other.name}" for other in others]
    return _grid("".join(map(_head, heads)) + '<th scope="col" class="words">meaning</th>', rows)


def _change(name: str, ours: Row, theirs: Row, change: Difference | None) -> str:
    """Return the cell of a difference: with its share, the verdict and the interval."""
    if change is None or name not in ours or name not in theirs:
        return _td(DASH)
    here, there = value_of(ours, name), value_of(theirs, name)
    verdict = judge(name, here, there)
    share = f" ({signed(100 * change.value / there)} %)" if math.isfinite(change.value) and there else ""
    inside = f"<small>95 %: {bounds(change)}</small>" if bounds(change) else ""
    css = f" class={verdict}" if verdict else ""
    return f"<td{css}>{signed(change.value)}{share}{SIGNS[verdict]}{inside}</td>"


def strata_grid(key: str, rows: Sequence[Row], others: Sequence[Sequence[Row]] = ()) -> str:
    """Return a row per range or class and a column per metric.

    Args:
        key: "range" or "class".
        rows: of the first method.
        others: those of each other.
    """
    names = metric_names(rows)
    known = [{row[key]: row for row in other} for other in others]
    counts = [name for name in ("pixels", "images") if name in rows[0]]
    lines = []
    for row in rows:
        cells = [_th(row[key]), *(_td(count(row[name])) for name in counts)]
        theirs = [of.get(row[key]) for of in known]
        lines.append("".join([*cells, *(_compared(name, row, theirs) for name in names)]))
    heads = "".join([*map(_head, [key, *counts]), *map(_metric_head, names)])
    return _grid(heads, lines, "wide")


def class_range_grid(methods: Sequence[Evaluation], name: str = "abs_rel") -> str:
    """Return one metric with a row per class and a column per range."""
    candidate = methods[0]
    cell, *others = ({(row["class"], row["range"]): row for row in one.class_ranges} for one in methods)
    ranges = list(dict.fromkeys(row["range"] for row in [*candidate.ranges, *candidate.class_ranges]))
    lines = []
    for row in candidate.classes:
        cells = [_th(row["class"])]
        for key in ((row["class"], r) for r in ranges):
            pixels = f"<small>{count(cell[key]['pixels'])} px</small>" if key in cell else ""
            cells.append(_compared(name, cell.get(key, {}), [of.get(key) for of in others], pixels))
        lines.append("".join(cells))
    return _grid("".join(map(_head, ["class", *ranges])), lines)


def grades_grid(series: Sequence[np.ndarray], names: Sequence[str]) -> str:
    """Return how many images there are of each grade; `series` as in `charts.histogram`, `names` of each."""
    held = [grades(values) for values in series]
    lines = []
    for i, (grade, interval, _) in enumerate(held[0]):
        cells = [_th(grade), _td(interval)]
        for of, values in zip(held, series, strict=True):
            share = f"{100 * of[i][2] / values.size:.1f} %" if values.size else DASH
            cells += [_td(count(of[i][2])), _td(share)]
        lines.append("".join(cells))
    heads = ["", "abs_rel"]
    for name in names if len(series) > 1 else ["images"]:
        heads += [name, "share"]
    return _grid("".join(map(_head, heads)), lines)


def worst_grid(ranked: Sequence[Row], others: Sequence[Evaluation] = (), lead: str = "abs_rel") -> str:
    """Return the worst frames with some metrics.

    Args:
        ranked: rows of `Evaluation.frames`, the worst last; at least one.
        others: may lack some of the frames.
        lead: the metric that they are ranked by.
    """
    rows = ranked[::-1][:LISTED]
    known = [{(row["index"], row["name"]): row for row in other.frames} for other in others]
    names = [name for name in dict.fromkeys((lead, *LIST_METRICS)) if name in rows[0]]
    lines = []
    for row in rows:
        cells = [_th(row["name"]), _td(str(row["index"])), _td(count(row["valid"]))]
        theirs = [of.get((row["index"], row["name"])) for of in known]
        lines.append("".join([*cells, *(_compared(name, row, theirs) for name in names)]))
    heads = "".join([*map(_head, ["frame", "index", "valid pixels"]), *map(_metric_head, names)])
    return hint(others) + _grid(heads, lines, "names")


def percent_of(here: float, there: float) -> str:
    """Return by how much `here` differs from `there`: "+3.20 %"."""
    usable = there and math.isfinite(here - there)
    return f"{signed(100 * (here / there - 1))} %" if usable else DASH


def _shown(row: Row, name: str) -> str:
    # Where there are pixels, NaN comes from a prediction that is not finite, and must show.
    nothing = name not in row or not row.get("pixels", row.get("valid", row.get("images", 1)))
    value = value_of(row, name)
    return DASH if nothing else number(value) if math.isfinite(value) else "NaN"


def _compared(name: str, row: Row, others: Sequence[Row | None], more: str = "") -> str:
    """Return a cell with a value and, in small, its difference from each other method that has one."""
    text = _shown(row, name)
    smalls = ""
    for other in others:
        if other is not None and DASH not in (text, _shown(other, name)):
            here, there = value_of(row, name), value_of(other, name)
            verdict = judge(name, here, there)
            difference = signed(here - there) if math.isfinite(here - there) else ""
            smalls += f'<small class="{verdict}">{difference}{SIGNS[verdict]}</small>'
        elif len(others) > 1:
            smalls += f"<small>{DASH}</small>"
    return f"<td>{text}{smalls}{more}</td>"


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
