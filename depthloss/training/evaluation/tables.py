"""The tables of an evaluation: as text, as metrics.csv and as metrics.json."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from depthloss.training.evaluation.result import Evaluation, Row
from depthloss.training.evaluation.wording import metric, metric_names, number, signed, value_of

COLUMNS = ("evaluation", "table", "row", "metric", "value", "unit")
# Columns of the tables by distance and class that fit a terminal; the files have all.
LINES = 60  # of a table, at most
SHOWN = ("abs_rel", "rmse", "mae", "silog", "irmse", "a1", "a2", "a3")


def text_tables(candidate: Evaluation, baseline: Evaluation | None = None) -> str:
    """Return the tables to print, each with its protocol; with a baseline, its numbers and differences."""
    known = [one for one in (candidate, baseline) if one is not None and "input" in one.origin]
    parts = [f"{one.name} gets {one.origin['input']}" for one in known]
    parts.append(summary_table(candidate, baseline))
    for title, rows, keys in (
        ("pixel-pooled by distance", "ranges", ("range",)),
        ("pixel-pooled by class", "classes", ("class",)),
        ("pixel-pooled by class and distance", "class_ranges", ("class", "range")),
    ):
        if getattr(candidate, rows):
            lines = _pooled_lines(candidate, baseline, rows, keys)
            if len(lines) > LINES:
                parts.append(f"{candidate.name}: {title}: {len(lines) - 1} lines, in metrics.csv")
                continue
            parts.append(_table(f"{candidate.name}: {title}", candidate, lines))
    for evaluation in filter(None, (candidate, baseline)):
        if count := evaluation.summary["nonfinite"]:
            parts.append(
                f"{evaluation.name}: {count} predictions at valid pixels are not finite, in "
                f"{sum(row['nonfinite'] > 0 for row in evaluation.frames)} images: a mean over them is nan"
            )
    return "\n\n".join(parts)


def summary_table(candidate: Evaluation, baseline: Evaluation | None = None) -> str:
    """Return the table of the means over the images."""
    images, empty = candidate.summary["images"], candidate.summary["empty"]
    over = f"per image, then the mean over {images} images with valid pixels ({empty} without)"
    return _table(f"{candidate.name}: {over}", candidate, _summary_lines(candidate, baseline))


def write_json(path: Path, candidate: Evaluation, baseline: Evaluation | None = None) -> None:
    """Write the candidate's `to_dict`, and with a baseline its own under "baseline"."""
    tree = candidate.to_dict() | ({} if baseline is None else {"baseline": baseline.to_dict()})
    path.write_text(json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def write_csv(path: Path, candidate: Evaluation, baseline: Evaluation | None = None) -> None:
    """Write one number per line, with its table, row, metric and unit; the protocol is a table of its own."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for evaluation in filter(None, (candidate, baseline)):
            writer.writerows((evaluation.name, *line) for line in _csv_lines(evaluation))


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


def _summary_lines(candidate: Evaluation, baseline: Evaluation | None) -> list[list[str]]:
    head = ["metric", "unit", candidate.name if baseline else "value"]
    lines = [head + ([baseline.name, "difference"] if baseline else [])]
    for name in metric_names([candidate.summary]):
        new = value_of(candidate.summary, name)
        line = [name, metric(name).unit, _number(new, candidate.summary["images"])]
        if baseline:
            old = value_of(baseline.summary, name)
            line += [_number(old, baseline.summary["images"]), signed(new - old)]
        lines.append(line)
    return lines


def _pooled_lines(
    candidate: Evaluation, baseline: Evaluation | None, rows: str, keys: tuple[str, ...]
) -> list[list[str]]:
    names = [name for name in SHOWN if name in metric_names(getattr(candidate, rows))]
    others = {tuple(row[k] for k in keys): row for row in getattr(baseline, rows)} if baseline else {}
    lines = [[*keys, "pixels", *(["of"] if baseline else []), *names]]
    for row in getattr(candidate, rows):
        at = tuple(row[k] for k in keys)
        values = [value_of(row, name) for name in names]
        line = [*map(str, at), f"{row['pixels']:,}"]
        if baseline is None:
            lines.append([*line, *(_number(value, row["pixels"]) for value in values)])
            continue
        other = others.get(at, {})
        old = [value_of(other, name) for name in names]
        blank = [""] * len(line)
        lines.append([*line, candidate.name, *(_number(value, row["pixels"]) for value in values)])
        lines.append([*blank, baseline.name, *(_number(value, other.get("pixels", 0)) for value in old)])
        lines.append([*blank, "difference", *(signed(a - b) for a, b in zip(values, old, strict=True))])
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
