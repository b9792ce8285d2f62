"""The tables of an evaluation: as text, as metrics.csv and as metrics.json."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from depthloss.training.evaluation.compare import differences
from depthloss.training.evaluation.paper import frames_text
from depthloss.training.evaluation.result import Evaluation, Row, plain
from depthloss.training.evaluation.wording import (
    interval,
    left_out,
    metric,
    metric_names,
    number,
    signed,
    unit,
    value_of,
)

COLUMNS = ("evaluation", "table", "row", "metric", "value", "unit")
# Columns of the tables by distance and class that fit a terminal; the files have all.
LINES = 60  # of a table, at most
SHOWN = ("abs_rel", "rmse", "mae", "silog", "irmse", "a1", "a2", "a3")


def text_tables(methods: Sequence[Evaluation]) -> str:
    """Return the tables to print, each with its protocol.

    Args:
        methods: at least one; the first is compared with each other: its numbers, theirs, the differences.
    """
    candidate = methods[0]
    parts = [f"{one.name} gets {one.origin['input']}" for one in methods if "input" in one.origin]
    parts.append(summary_table(methods))
    for title, rows, keys in (
        ("pixel-pooled by distance", "ranges", ("range",)),
        ("pixel-pooled by class", "classes", ("class",)),
        ("pixel-pooled by class and distance", "class_ranges", ("class", "range")),
    ):
        if getattr(candidate, rows):
            lines = _pooled_lines(methods, rows, keys)
            if len(lines) > LINES:
                parts.append(f"{candidate.name}: {title}: {len(lines) - 1} lines, in metrics.csv")
                continue
            parts.append(_table(f"{candidate.name}: {title}", candidate, lines))
    for one in methods:
        if set(left_out(one.frames)) - {"no valid pixel"}:
            parts.append(frames_text(one))
        for key, what in (
            ("nonfinite", "are not finite, in {}: a mean over them is nan"),
            ("nonpositive", "have a depth <= 0, in {}: a mean of logarithms over them is nan"),
        ):
            if count := one.summary.get(key):
                where = f"{sum(row.get(key, 0) > 0 for row in one.frames)} {unit(one.protocol)}s"
                parts.append(f"{one.name}: {count} predictions at valid pixels {what.format(where)}")
    return "\n\n".join(parts)


def summary_table(methods: Sequence[Evaluation]) -> str:
    """Return the table of the means over the images."""
    candidate = methods[0]
    images, empty = candidate.summary["images"], candidate.summary["empty"]
    what = unit(candidate.protocol)
    over = f"per {what}, then the mean over {images} {what}s with valid pixels ({empty} without)"
    if len(methods) > 1:
        over += f"; in brackets 95 % bootstrap intervals over the {what}s"
    return _table(f"{candidate.name}: {over}", candidate, _summary_lines(methods))


def write_json(path: Path, methods: Sequence[Evaluation]) -> None:
    """Write the first method's `to_dict`; with more, the second under "baseline", further ones in a list.

    "differences" has, for each of the others, the first minus it: by metric, value and interval.
    """
    candidate, *others = methods
    tree = candidate.to_dict()
    if others:
        tree["baseline"] = others[0].to_dict()
        tree["further"] = [other.to_dict() for other in others[1:]]
        tree["differences"] = [
            {"to": other.name, **{name: plain(vars(d)) for name, d in differences(candidate, other).items()}}
            for other in others
        ]
    with path.open("w", encoding="utf-8") as file:
        json.dump(tree, file, indent=1, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def write_csv(path: Path, methods: Sequence[Evaluation]) -> None:
    """Write one number per line, with its table, row, metric and unit; the protocol is a table of its own."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for one in methods:
            writer.writerows((one.name, *line) for line in _csv_lines(one))
        for other in methods[1:]:
            for name, d in differences(methods[0], other).items():
                for key in ("value", "low", "high"):
                    line = ("differences", f"{other.name} {key}", name, _cell(getattr(d, key)))
                    writer.writerow((methods[0].name, *line, metric(name).unit))


def _csv_lines(evaluation: Evaluation) -> Iterator[tuple[Any, ...]]:
    for key, value in evaluation.protocol.items():
        yield "protocol", key, "", value, ""
    tables: dict[str, tuple[Sequence[Row], tuple[str, ...]]] = {
        "summary": ([evaluation.summary], ()),
        "ranges": (evaluation.ranges, ("range",)),
        "classes": (evaluation.classes, ("class",)),
        "class_ranges": (evaluation.class_ranges, ("class", "range")),
        "frames": (evaluation.frames, ("name",)),
    }
    for table, (rows, keys) in tables.items():
        for row in rows:
            name = " ".join(str(row[key]) for key in keys)
            for key, value in row.items():
                if key not in keys:
                    unit = "m" if key in ("low", "high") else metric(key).unit
                    yield table, name, key, _cell(value), unit


def _cell(value: Any) -> Any:
    return "" if isinstance(value, float) and not math.isfinite(value) else value


def _summary_lines(methods: Sequence[Evaluation]) -> list[list[str]]:
    candidate, *others = methods
    heads = [one.name for one in methods] if others else ["value"]
    lines = [["metric", "unit", *heads, *_difference_heads(others)]]
    changes = [differences(candidate, other) for other in others]
    for name in metric_names([candidate.summary]):
        line = [name, metric(name).unit]
        line += [_number(value_of(one.summary, name), one.summary["images"]) for one in methods]
        line += [interval(change.get(name)) for change in changes]
        lines.append(line)
    return lines


def _difference_heads(others: Sequence[Evaluation]) -> list[str]:
    return ["difference"] if len(others) == 1 else [f"to {other.name}" for other in others]


def _pooled_lines(methods: Sequence[Evaluation], rows: str, keys: tuple[str, ...]) -> list[list[str]]:
    candidate, *others = methods
    names = [name for name in SHOWN if name in metric_names(getattr(candidate, rows))]
    known = [{tuple(row[k] for k in keys): row for row in getattr(one, rows)} for one in methods]
    lines = [[*keys, "pixels", *(["of"] if others else []), *names]]
    for row in getattr(candidate, rows):
        at = tuple(row[k] for k in keys)
        found = [of.get(at, {}) for of in known]
        line = [*map(str, at), f"{row['pixels']:,}"]
        for one, of in zip(methods, found, strict=True):
            cells = [_number(value_of(of, name), of.get("pixels", 0)) for name in names]
            lines.append([*line, *([one.name] if others else []), *cells])
            line = [""] * len(line)
        for head, of in zip(_difference_heads(others), found[1:], strict=True):
            lines.append([*line, head, *(signed(value_of(row, n) - value_of(of, n)) for n in names)])
    return lines


def _number(value: float, over: int) -> str:
    # Where pixels were measured, NaN comes from a prediction and must show.
    return "nan" if over and math.isnan(value) else number(value)


def _table(title: str, evaluation: Evaluation, lines: list[list[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    words = {i for i, head in enumerate(lines[0]) if head in ("metric", "unit", "range", "class", "of")}
    text = [
        "  ".join(
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    return "\n".join([title, f"protocol: {evaluation.protocol['text']}", *(line.rstrip() for line in text)])
