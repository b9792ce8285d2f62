"""The report of an evaluation: one HTML file with its tables and pictures, and nothing to fetch or run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from depthloss.training.drawing.colours import error_limit, relative_error
from depthloss.training.drawing.figures import Sample, draw_curves, figure_png
from depthloss.training.evaluation.compare import compare_frames, differences
from depthloss.training.evaluation.report import charts
from depthloss.training.evaluation.report.grids import (
    class_range_grid,
    grades_grid,
    hint,
    percent_of,
    strata_grid,
    summary_grid,
    worst_grid,
)
from depthloss.training.evaluation.report.panels import frame_html, png_uri
from depthloss.training.evaluation.report.style import STYLE
from depthloss.training.evaluation.result import Evaluation, Row
from depthloss.training.evaluation.wording import (
    badness,
    count,
    judge,
    lead,
    left_out,
    metric,
    number,
    plural,
    scored,
    signed,
    unit,
    value_of,
)
from depthloss.training.files import whole_file

CHARTED = ("abs_rel", "mae")


def write_page(path: Path, methods: Sequence[Evaluation], curves: Path | None = None) -> None:
    """Write the report, whole or not at all.

    Args:
        path: the HTML file.
        methods: at least one; the first is compared with each other, measured on the same frames by the same
            protocol; the page says where one was not.
        curves: metrics.csv of the run; None = it is not known.
    """
    text = page_html(methods, curves)
    with whole_file(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page_html(methods: Sequence[Evaluation], curves: Path | None = None) -> str:
    """Return the report of `write_page`."""
    candidate, *others = methods
    title = f"Evaluation of {candidate.name}"
    title += f" against {', '.join(other.name for other in others)}" if others else ""
    sections = {
        "Summary": _summary(methods),
        "By distance": _by_distance(methods),
        "By class": _by_class(methods),
        f"Over the {unit(candidate.protocol)}s": _over_images(methods),
        "Frames": _frames(methods),
        "Training": _curves(curves),
    }
    sections = {name: html for name, html in sections.items() if html}
    body = "".join(f'<h2 id="s{i}">{name}</h2>{html}' for i, (name, html) in enumerate(sections.items()))
    links = "".join(f'<a href="#s{i}">{name}</a>' for i, name in enumerate(sections))
    protocol = str(candidate.protocol.get("text", "")).split("; ")
    # The policy forbids the page to load or run anything, even if a name were not escaped.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{_lead(methods)}<nav>{links}</nav><div class=two>"
        f"<section><h3>Protocol</h3>{_list(protocol)}{_source(candidate)}</section>"
        f"<section><h3>Where it comes from</h3>{_origin(methods)}</section></div>"
        f"{_missing(methods, curves)}{body}</main></body></html>\n"
    )


def _lead(methods: Sequence[Evaluation]) -> str:
    candidate, *others = methods
    name = lead([candidate.summary])
    here = value_of(candidate.summary, name)
    images = plural(candidate.summary.get("images", 0), unit(candidate.protocol))
    words = f"{name} {number(here) if math.isfinite(here) else 'has no value'} over {images}"
    html = []
    for other in others:
        there = value_of(other.summary, name)
        words += f", {escape(other.name)} {number(there) if math.isfinite(there) else 'has none'}"
        if (verdict := judge(name, here, there)) in ("better", "worse") and math.isfinite(here - there):
            difference = f"{signed(here - there)} ({percent_of(here, there)}), {verdict}"
            words += f': <span class="{verdict}">{difference}</span>'
        html.append(_compared(candidate, other, name))
    return f'<p class="lead">{words}.</p>{"".join(html)}'


def _compared(candidate: Evaluation, other: Evaluation, name: str) -> str:
    """Return in how many metrics and images the first is better than another."""
    change = differences(candidate, other)
    verdicts = {
        key: judge(key, value_of(candidate.summary, key), value_of(other.summary, key)) for key in change
    }
    parts = [f"{n} {v}" for v in ("better", "worse", "same") if (n := list(verdicts.values()).count(v))]
    words = [f"Of {sum(map(bool, verdicts.values()))} metrics {', '.join(parts)}."] if parts else []
    if known := [d for d in change.values() if math.isfinite(d.low)]:
        clear = sum(d.clear for d in known)
        words.append(f"The 95 % interval of the difference leaves out 0 in {clear} of {len(known)}.")
    if pairs := compare_frames(candidate.frames, other.frames, name):
        better = sum(a != b and (a > b) == bool(metric(name).more) for a, b in pairs)
        images = plural(len(pairs), unit(candidate.protocol))
        words.append(f"On {count(better)} of {images} {name} is better.")
    return f"<p>Against {escape(other.name)}: {' '.join(words)}</p>" if words else ""


def _source(candidate: Evaluation) -> str:
    """Return where a published protocol comes from, and its notes."""
    words = [str(candidate.protocol[key]) for key in ("source", "notes") if candidate.protocol.get(key)]
    return "".join(f'<p class="soft">{escape(text)}</p>' for text in words)


def _origin(methods: Sequence[Evaluation]) -> str:
    candidate, *others = methods
    rows = [("name", candidate.name), *candidate.origin.items()]
    for other in others:
        rows.append(("against", other.name))
        # What both share is said once.
        rows += [(f"its {k}", v) for k, v in other.origin.items() if v != candidate.origin.get(k)]
    items = (
        f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd><code>{escape(str(value))}</code></dd>"
        for key, value in rows
    )
    return f"<dl>{''.join(items)}</dl>"


def _missing(methods: Sequence[Evaluation], curves: Path | None) -> str:
    """Return what was not measured, in words."""
    candidate, *others = methods
    words: list[str] = []
    for one in methods:
        words += [w for w in _lost(one, f" of {one.name}" if others else "") if w not in words]
    if gaps := [row["range"] for row in candidate.ranges if not row["pixels"]]:
        words.append(f"There is no ground truth in {', '.join(gaps)}.")
    published = "metrics" in candidate.protocol  # the protocol of a folder of predictions
    if published:
        if lacking := [name for name in candidate.protocol["metrics"] if name not in candidate.summary]:
            words.append(f"The data do not allow {', '.join(lacking)}.")
    else:
        words += _not_by_edge_or_class(candidate)
    if not candidate.samples:
        words.append("There are no pictures: no frames were kept.")
    if curves is None and not published:
        words.append("There are no curves of the training: its run directory is not known.")
    for other in others:
        words += _unlike(candidate, other)
    return f'<div class="note"><h3>What was not measured</h3>{_list(words)}</div>' if words else ""


def _not_by_edge_or_class(candidate: Evaluation) -> list[str]:
    words = []
    images, edge_images = candidate.summary.get("images", 0), candidate.origin.get("edge_images")
    if not any(name.startswith(("edge", "boundary")) for name in candidate.summary):
        off = candidate.protocol.get("edges") is False
        why = "the protocol leaves them out" if off else "they need dense ground truth"
        words.append(f"Depth discontinuities were not measured: {why}.")
    elif edge_images is not None and edge_images < images:
        of = f"{count(edge_images)} of {plural(images, 'image')}"
        words.append(f"Depth discontinuities were measured on {of}: on those whose ground truth is dense.")
    if not candidate.classes:
        words.append("Nothing is measured by class: the data has no classes.")
    if gaps := [row["class"] for row in candidate.classes if not row["pixels"]]:
        words.append(f"There is no ground truth of the classes: {', '.join(gaps)}.")
    return words


def _lost(one: Evaluation, of: str) -> list[str]:
    words = []
    what = unit(one.protocol)
    if empty := one.summary.get("empty"):
        words.append(f"{plural(empty, f'{what} has', f'{what}s have')} no pixel that counts: in no mean.")
    if out := {reason: n for reason, n in left_out(one.frames).items() if reason != "no valid pixel"}:
        reasons = ", ".join(f"{count(n)} {reason}" for reason, n in out.items())
        words.append(f"In no mean{of}: {reasons}.")
    if not one.summary.get("images"):
        words.append(f"No {what} has a pixel that counts: there are no means.")
    if lost := one.summary.get("nonfinite"):
        text = (
            f"{plural(lost, 'prediction')}{of} at pixels that count {'is' if lost == 1 else 'are'} not finite"
        )
        if hit := [row["name"] for row in one.frames if row.get("nonfinite")]:
            text += f", in {plural(len(hit), what)}: {', '.join(hit[:3])}{' …' if len(hit) > 3 else ''}"
        words.append(f"{text}. They miss shares such as a1, and the other means over them are NaN.")
        name = lead([one.summary])
        rest = [value_of(row, name) for row in _ranked(one) if not row.get("nonfinite")]
        if rest and not metric(name).unit == "share":
            mean = number(math.fsum(rest) / len(rest))
            words.append(
                f"Over the {plural(len(rest), what)} without such a prediction {name}{of} is {mean}."
            )
    if wrong := one.summary.get("nonpositive"):
        words.append(
            f"{plural(wrong, 'prediction')}{of} at pixels that count {'is' if wrong == 1 else 'are'} not "
            "positive after the alignment: means of logarithms over them are NaN."
        )
    return words


def _unlike(candidate: Evaluation, other: Evaluation) -> list[str]:
    ours, theirs = (
        {k: list(v) if isinstance(v, tuple) else v for k, v in one.protocol.items() if k != "text"}
        for one in (candidate, other)
    )
    words = []
    kinds = [of.pop("kind", None) for of in (ours, theirs)]
    if kinds[0] != kinds[1]:
        words.append(
            f"The predictions are of different kinds, each aligned as its own: {candidate.name} {kinds[0]}, "
            f"{other.name} {kinds[1]}."
        )
    if fields := [key for key in ours if ours[key] != theirs.get(key)]:
        differ = ", ".join(f"{key} {ours[key]} against {theirs.get(key)}" for key in fields)
        words.append(f"{other.name} has another protocol, so the differences mean little: {differ}.")
    inputs = [one.origin.get("input") for one in (candidate, other)]
    if inputs[0] != inputs[1]:
        words.append(f"The two get different inputs: {candidate.name} {inputs[0]}; {other.name} {inputs[1]}.")
    keys = [{(row["index"], row["name"]) for row in one.frames if scored(row)} for one in (candidate, other)]
    if alone := len(keys[0] ^ keys[1]):
        what = unit(candidate.protocol)
        words.append(
            f"{plural(alone, f'{what} was', f'{what}s were')} measured for only one of {candidate.name} and "
            f"{other.name}: the means are over others, the differences over those of both."
        )
    return words


def _summary(methods: Sequence[Evaluation]) -> str:
    what = unit(methods[0].protocol)
    how = f"<p>Means over the {what}s, each measured on its own. ↓ less is better, ↑ more is better."
    if len(methods) > 1:
        how += (
            f" Differences are {escape(methods[0].name)} minus the other over the {what}s of both: ✓ better, "
            f"✗ worse, = the same. In small their 95 % bootstrap interval, resampling {what}s in pairs."
        )
    return f"{how}</p>{summary_grid(methods)}"


def _by_distance(methods: Sequence[Evaluation]) -> str:
    rows, *others = (one.ranges for one in methods)
    if not rows:
        return ""
    return (
        "<p>All pixels of a range of ground truth depth together.</p>"
        + hint(methods[1:])
        + strata_grid("range", rows, others)
        + _legend(methods)
        + _charts("range", rows, others)
    )


def _by_class(methods: Sequence[Evaluation]) -> str:
    rows, *others = (one.classes for one in methods)
    if not rows:
        return ""
    html = (
        "<p>All pixels of a class together.</p>"
        + hint(methods[1:])
        + strata_grid("class", rows, others)
        + _legend(methods)
        + _charts("class", rows, others)
    )
    if methods[0].class_ranges:
        html += "<h3>abs_rel by class and distance</h3>" + class_range_grid(methods)
        html += '<p class="soft">The other metrics by class and distance are in metrics.json.</p>'
    return html


def _charts(key: str, rows: Sequence[Row], others: Sequence[Sequence[Row]]) -> str:
    known = [{row[key]: row for row in of} for of in others]

    def values(name: str, of: Sequence[Row]) -> list[float | None]:
        return [value_of(row, name) if row.get("pixels") else None for row in of]

    drawn = []
    for name in CHARTED:
        if all(name in row for row in rows):
            series = [values(name, rows)]
            series += [values(name, [of.get(row[key], {}) for row in rows]) for of in known]
            unit_of = f" ({metric(name).unit})" if metric(name).unit else ""
            title = f"{name}{unit_of} {metric(name).arrow}"
            drawn.append(charts.bars(title, [row[key] for row in rows], series))
    return f'<div class="two">{"".join(drawn)}</div>'


def _over_images(methods: Sequence[Evaluation]) -> str:
    values = [
        np.array([v for row in one.frames if math.isfinite(v := value_of(row, "abs_rel"))]) for one in methods
    ]
    html = ""
    if values[0].size:
        html += _legend(methods) + '<div class="beside">'
        grades = grades_grid(values, [one.name for one in methods])
        html += f'<div class="scroll">{charts.histogram(values)}</div>{grades}</div>'
    if ranked := _ranked(methods[0]):
        name = lead(ranked)
        lost = sum(not math.isfinite(value_of(row, name)) for row in ranked)
        first = " (first those that have none)" if lost else ""
        side = "lowest" if metric(name).more else "highest"
        html += f"<h3>The {unit(methods[0].protocol)}s with the {side} {name}{first}</h3>"
        html += worst_grid(ranked, methods[1:], name)
    return html


def _frames(methods: Sequence[Evaluation]) -> str:
    candidate, *others = methods
    if not candidate.samples:
        return ""
    ranked = _ranked(candidate)
    name = lead(ranked)
    rank = {row["index"]: i for i, row in enumerate(ranked)}
    shown = []
    for sample in candidate.samples:
        row = _row_of(sample, candidate.frames)
        there = {other.name: found for other in others if (found := _other_of(sample, other))}
        shown.append((rank.get(row.get("index"), -1), sample, row, there))
    shown.sort(key=lambda s: -s[0])
    errors = [relative_error(sample.prediction, sample.depth) for _, sample, _, _ in shown]
    errors += [relative_error(one, sample.depth) for _, sample, _, of in shown for one, _ in of.values()]
    limit = error_limit(errors)
    html = [
        f"<p>The worst {name} first. The depth maps of a frame share one scale; the errors, (prediction − "
        "ground truth) / ground truth, share one in all frames. Points of sparse maps are drawn enlarged.</p>"
    ]
    if unit(candidate.protocol) == "clip":
        html.append("<p>Of a clip its middle frame is shown.</p>")
    for other in others:
        if not all(other.name in there for *_, there in shown):
            html.append(f"<p>Of some frames there is no prediction of {escape(other.name)} to show.</p>")
    for place, sample, row, there in shown:
        words = "" if place < 0 else f"rank {len(ranked) - place} of {len(ranked)}"
        if place >= 0 and len(ranked) > 1:
            words += {0: ", the best", len(ranked) - 1: ", the worst"}.get(place, "")
        html.append(frame_html(sample, row, limit, there or None, words, candidate.name, name))
    return "".join(html)


def _curves(curves: Path | None) -> str:
    if curves is None:
        return ""
    figure = draw_curves(curves, columns=2)
    if figure is None:
        return "<p>There is nothing to draw in the run's metrics.csv.</p>"
    image = png_uri(figure_png(figure, dpi=150))
    return f'<div class="scroll"><img class="sheet" alt="curves of the training" src="{image}"></div>'


def _ranked(one: Evaluation) -> list[Row]:
    """Return the frames that have pixels, the best first; one without a finite value is the worst."""
    rows = [row for row in one.frames if scored(row)]
    name = lead(rows)
    return sorted(rows, key=lambda row: badness(row, name))


def _row_of(sample: Sample, frames: Sequence[Row]) -> Row:
    for row in frames:
        if row["name"] == sample.name and sample.index in (None, row["index"]):
            return row
    return {}


def _other_of(sample: Sample, other: Evaluation) -> tuple[np.ndarray, Row] | None:
    for one in other.samples:
        if (one.name, one.index) == (sample.name, sample.index):
            if one.prediction.shape == sample.depth.shape:
                return one.prediction, _row_of(one, other.frames)
    return None


def _legend(methods: Sequence[Evaluation]) -> str:
    return charts.legend([one.name for one in methods])


def _list(words: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(w)}</li>' for w in words)}</ul>"
