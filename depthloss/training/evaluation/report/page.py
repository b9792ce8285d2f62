"""The report of an evaluation: one HTML file with its tables and pictures, and nothing to fetch or run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from depthloss.training.drawing.colours import error_limit, relative_error
from depthloss.training.drawing.figures import Sample, draw_curves, figure_png
from depthloss.training.evaluation.report import charts
from depthloss.training.evaluation.report.grids import (
    class_range_grid,
    grades_grid,
    percent_of,
    strata_grid,
    summary_grid,
    worst_grid,
)
from depthloss.training.evaluation.report.panels import frame_html, png_uri
from depthloss.training.evaluation.report.style import STYLE
from depthloss.training.evaluation.result import Evaluation, Row
from depthloss.training.evaluation.wording import (
    compare_frames,
    count,
    judge,
    metric,
    metric_names,
    number,
    plural,
    signed,
    value_of,
)
from depthloss.training.files import whole_file

CHARTED = ("abs_rel", "mae")


def write_page(
    path: Path, candidate: Evaluation, baseline: Evaluation | None = None, curves: Path | None = None
) -> None:
    """Write the report, whole or not at all.

    Args:
        path: the HTML file.
        candidate: what is reported.
        baseline: what it is compared with, measured on the same frames by the same protocol; the page says
            where it was not.
        curves: metrics.csv of the run; None = it is not known.
    """
    text = page_html(candidate, baseline, curves)
    with whole_file(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page_html(candidate: Evaluation, baseline: Evaluation | None = None, curves: Path | None = None) -> str:
    """Return the report of `write_page`."""
    title = f"Evaluation of {candidate.name}" + (f" against {baseline.name}" if baseline else "")
    sections = {
        "Summary": _summary(candidate, baseline),
        "By distance": _by_distance(candidate, baseline),
        "By class": _by_class(candidate, baseline),
        "Over the images": _over_images(candidate, baseline),
        "Frames": _frames(candidate, baseline),
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
        f"<h1>{escape(title)}</h1>{_lead(candidate, baseline)}<nav>{links}</nav><div class=two>"
        f"<section><h3>Protocol</h3>{_list(protocol)}</section>"
        f"<section><h3>Where it comes from</h3>{_origin(candidate, baseline)}</section></div>"
        f"{_missing(candidate, baseline, curves)}{body}</main></body></html>\n"
    )


def _lead(candidate: Evaluation, baseline: Evaluation | None) -> str:
    here = value_of(candidate.summary, "abs_rel")
    images = plural(candidate.summary.get("images", 0), "image")
    words = f"abs_rel {number(here) if math.isfinite(here) else 'has no value'} over {images}"
    if baseline is None:
        return f'<p class="lead">{words}.</p>'
    there = value_of(baseline.summary, "abs_rel")
    words += f", the baseline {number(there) if math.isfinite(there) else 'has none'}"
    if (verdict := judge("abs_rel", here, there)) in ("better", "worse") and math.isfinite(here - there):
        difference = f"{signed(here - there)} ({percent_of(here, there)}), {verdict}"
        words += f': <span class="{verdict}">{difference}</span>'
    verdicts = [
        judge(name, value_of(candidate.summary, name), value_of(baseline.summary, name))
        for name in metric_names([candidate.summary])
        if name in baseline.summary
    ]
    parts = [f"{verdicts.count(v)} {v}" for v in ("better", "worse", "same") if v in verdicts]
    more = [f"Of {sum(map(bool, verdicts))} metrics {', '.join(parts)}."] if parts else []
    if pairs := compare_frames(candidate.frames, baseline.frames):
        lower = sum(a < b for a, b in pairs)
        more.append(f"The candidate's abs_rel is lower on {count(lower)} of {plural(len(pairs), 'image')}.")
    return f'<p class="lead">{words}.</p><p>{" ".join(more)}</p>'


def _origin(candidate: Evaluation, baseline: Evaluation | None) -> str:
    rows = [("candidate" if baseline else "name", candidate.name), *candidate.origin.items()]
    if baseline is not None:
        rows.append(("baseline", baseline.name))
        # What both share is said once.
        rows += [(f"baseline's {k}", v) for k, v in baseline.origin.items() if v != candidate.origin.get(k)]
    items = (
        f"<dt>{escape(str(key).replace('_', ' '))}</dt><dd><code>{escape(str(value))}</code></dd>"
        for key, value in rows
    )
    return f"<dl>{''.join(items)}</dl>"


def _missing(candidate: Evaluation, baseline: Evaluation | None, curves: Path | None) -> str:
    """Return what was not measured, in words."""
    words = _lost(candidate, " of the candidate" if baseline else "")
    if baseline is not None:
        words += [w for w in _lost(baseline, " of the baseline") if w not in words]
    if gaps := [row["range"] for row in candidate.ranges if not row["pixels"]]:
        words.append(f"There is no ground truth in {', '.join(gaps)}.")
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
    if not candidate.samples:
        words.append("There are no pictures: no frames were kept.")
    if curves is None:
        words.append("There are no curves of the training: its run directory is not known.")
    if baseline is not None:
        words += _unlike(candidate, baseline)
    return f'<div class="note"><h3>What was not measured</h3>{_list(words)}</div>' if words else ""


def _lost(one: Evaluation, of: str) -> list[str]:
    words = []
    if empty := one.summary.get("empty"):
        words.append(f"{plural(empty, 'image has', 'images have')} no pixel that counts: in no mean.")
    if not one.summary.get("images"):
        words.append("No image has a pixel that counts: there are no means.")
    if lost := one.summary.get("nonfinite"):
        text = (
            f"{plural(lost, 'prediction')}{of} at pixels that count {'is' if lost == 1 else 'are'} not finite"
        )
        if hit := [row["name"] for row in one.frames if row.get("nonfinite")]:
            text += f", in {plural(len(hit), 'image')}: {', '.join(hit[:3])}{' …' if len(hit) > 3 else ''}"
        words.append(f"{text}. They miss a1 to a3, and the other means over them are NaN.")
        rest = [value_of(row, "abs_rel") for row in _ranked(one) if not row.get("nonfinite")]
        if rest:
            mean = number(math.fsum(rest) / len(rest))
            words.append(
                f"Over the {plural(len(rest), 'image')} without such a prediction abs_rel{of} is {mean}."
            )
    return words


def _unlike(candidate: Evaluation, baseline: Evaluation) -> list[str]:
    ours, theirs = (
        {k: list(v) if isinstance(v, tuple) else v for k, v in one.protocol.items() if k != "text"}
        for one in (candidate, baseline)
    )
    words = []
    if fields := [key for key in ours if ours[key] != theirs.get(key)]:
        differ = ", ".join(f"{key} {ours[key]} against {theirs.get(key)}" for key in fields)
        words.append(f"The baseline's protocol is another, so the differences mean little: {differ}.")
    inputs = [one.origin.get("input") for one in (candidate, baseline)]
    if inputs[0] != inputs[1]:
        words.append(f"The two get different inputs: the candidate {inputs[0]}; the baseline {inputs[1]}.")
    keys = [{(row["index"], row["name"]) for row in one.frames} for one in (candidate, baseline)]
    if alone := len(keys[0] ^ keys[1]):
        was = "image was" if alone == 1 else "images were"
        words.append(f"{count(alone)} {was} measured for only one of the two: the means are over others.")
    return words


def _summary(candidate: Evaluation, baseline: Evaluation | None) -> str:
    how = "<p>Means over the images, each measured on its own. ↓ less is better, ↑ more is better.</p>"
    return how + summary_grid(candidate, baseline)


def _by_distance(candidate: Evaluation, baseline: Evaluation | None) -> str:
    if not candidate.ranges:
        return ""
    other = baseline.ranges if baseline else None
    return (
        "<p>All pixels of a range of ground truth depth together.</p>"
        + strata_grid("range", candidate.ranges, other)
        + _legend(candidate, baseline)
        + _charts("range", candidate.ranges, other)
    )


def _by_class(candidate: Evaluation, baseline: Evaluation | None) -> str:
    if not candidate.classes:
        return ""
    other = baseline.classes if baseline else None
    html = (
        "<p>All pixels of a class together.</p>"
        + strata_grid("class", candidate.classes, other)
        + _legend(candidate, baseline)
        + _charts("class", candidate.classes, other)
    )
    if candidate.class_ranges:
        html += "<h3>abs_rel by class and distance</h3>" + class_range_grid(candidate, baseline)
        html += '<p class="soft">The other metrics by class and distance are in metrics.json.</p>'
    return html


def _charts(key: str, rows: Sequence[Row], other: Sequence[Row] | None) -> str:
    known = {row[key]: row for row in other or ()}

    def values(name: str, of: Sequence[Row]) -> list[float | None]:
        return [value_of(row, name) if row.get("pixels") else None for row in of]

    drawn = []
    for name in CHARTED:
        if all(name in row for row in rows):
            series = [values(name, rows)]
            if other is not None:
                series.append(values(name, [known.get(row[key], {}) for row in rows]))
            unit = f" ({metric(name).unit})" if metric(name).unit else ""
            title = f"{name}{unit} {metric(name).arrow}"
            drawn.append(charts.bars(title, [row[key] for row in rows], series))
    return f'<div class="two">{"".join(drawn)}</div>'


def _over_images(candidate: Evaluation, baseline: Evaluation | None) -> str:
    both = [one for one in (candidate, baseline) if one is not None]
    values = [
        np.array([v for row in one.frames if math.isfinite(v := value_of(row, "abs_rel"))]) for one in both
    ]
    html = ""
    if values[0].size:
        html += _legend(candidate, baseline) + '<div class="beside">'
        html += f'<div class="scroll">{charts.histogram(values)}</div>{grades_grid(values)}</div>'
    if ranked := _ranked(candidate):
        lost = sum(not math.isfinite(value_of(row, "abs_rel")) for row in ranked)
        first = " (first those that have none)" if lost else ""
        html += f"<h3>The frames with the highest abs_rel{first}</h3>" + worst_grid(ranked, baseline)
    return html


def _frames(candidate: Evaluation, baseline: Evaluation | None) -> str:
    if not candidate.samples:
        return ""
    ranked = _ranked(candidate)
    rank = {row["index"]: i for i, row in enumerate(ranked)}
    shown = []
    for sample in candidate.samples:
        row = _row_of(sample, candidate.frames)
        shown.append((rank.get(row.get("index"), -1), sample, row, _base_of(sample, baseline)))
    shown.sort(key=lambda s: -s[0])
    errors = [relative_error(sample.prediction, sample.depth) for _, sample, _, _ in shown]
    errors += [relative_error(base[0], sample.depth) for _, sample, _, base in shown if base]
    limit = error_limit(errors)
    html = [
        "<p>The highest abs_rel first. The depth maps of a frame share one scale; the errors, (prediction − "
        "ground truth) / ground truth, share one in all frames. Points of sparse maps are drawn enlarged.</p>"
    ]
    if baseline is not None and not all(base for *_, base in shown):
        html.append("<p>Of some frames there is no prediction of the baseline to show.</p>")
    for place, sample, row, base in shown:
        words = "" if place < 0 else f"rank {len(ranked) - place} of {len(ranked)}"
        if place >= 0 and len(ranked) > 1:
            words += {0: ", the best", len(ranked) - 1: ", the worst"}.get(place, "")
        html.append(frame_html(sample, row, limit, base, words))
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
    """Return the frames that have pixels, the best first; one without a finite abs_rel is the worst."""

    def size(row: Row) -> float:
        return value if math.isfinite(value := value_of(row, "abs_rel")) else math.inf

    return sorted((row for row in one.frames if row["valid"]), key=size)


def _row_of(sample: Sample, frames: Sequence[Row]) -> Row:
    for row in frames:
        if row["name"] == sample.name and sample.index in (None, row["index"]):
            return row
    return {}


def _base_of(sample: Sample, baseline: Evaluation | None) -> tuple[np.ndarray, Row] | None:
    for other in baseline.samples if baseline else ():
        if (other.name, other.index) == (sample.name, sample.index):
            if other.prediction.shape == sample.depth.shape:
                return other.prediction, _row_of(other, baseline.frames)
    return None


def _legend(candidate: Evaluation, baseline: Evaluation | None) -> str:
    return charts.legend([f"candidate: {candidate.name}", f"baseline: {baseline.name}"] if baseline else [])


def _list(words: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(w)}</li>' for w in words)}</ul>"
