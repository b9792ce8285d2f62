"""results.md of a study."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from depthloss.training.ablation.results import Spread, Table
from depthloss.training.evaluation.wording import metric, number, signed

# The columns of the table of each condition, where they were measured.
SHOWN = ("abs_rel", "rmse", "silog", "a1", "edge_abs_rel", "flat_abs_rel", "boundary_f1", "step_ms")
# What the tables by range and by class show.
POOLED = "abs_rel"
TIMES = {"step_ms": "step (ms)", "loss_ms": "loss (ms)"}

RULE = """A cell is the mean over the seeds ± their standard deviation. Below it: the mean of the differences
to `{baseline}` with the same seed ± their standard deviation, and what that says: **better** or **worse** if
the 95% interval of the mean difference by Student's t leaves out zero (|mean| > t · deviation / √n; with 3
seeds |mean| > 2.48 deviations), else inconclusive. Of 20 comparisons of equal variants, one is expected to
come out better or worse by chance."""


def shown(table: Table) -> dict[str, str]:
    """Return the metrics worth a picture, with their heads: those that are asked for, else `SHOWN`."""
    asked = [name for question in table.study.questions for name in question.metrics]
    return {name: head(name) for name in dict.fromkeys(asked or SHOWN)}


def write(file: Path, table: Table, results: dict[str, Any], pictures: Sequence[str]) -> str:
    """Return results.md.

    Args:
        file: the study.
        table: the metrics.
        results: what results.json holds.
        pictures: file names, to show at the end.
    """
    study, machine = table.study, results["machine"]
    runs = [run for run in results["runs"] if run.get("evaluation")]
    steps = sorted({run["steps"] for run in runs})
    data = sorted({f"{run['evaluation']['summary']['images']} frames" for run in runs})
    parts = [
        f"# Ablation: {study.name}",
        f"{len(runs)} of {results['wanted_runs']} runs of `{file.as_posix()}`, "
        f"{' or '.join(map(str, steps)) or 'no'} steps each, with {machine['threads']} of {machine['cores']} "
        f"cores of {machine['platform']} ({machine['cpu_name']}), torch {machine['torch']}. The last "
        f"checkpoint of each was evaluated on {' or '.join(data)}.",
        f"```sh\n{results['command']}\n```",
        *(f"Protocol: {text}." for text in sorted({run["evaluation"]["protocol"]["text"] for run in runs})),
        RULE.format(baseline=study.baseline),
    ]
    if missing := [f"* `{run['name']}`: {run['error']}" for run in results["runs"] if run["error"]]:
        parts += ["Without result:", "\n".join(missing)]
    parts += _questions(table)
    for condition in table.conditions():
        parts += _condition(table, condition)
    parts += [f"![{name.partition('.')[0]}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def _questions(table: Table) -> list[str]:
    parts = []
    for question in table.study.questions:
        rows = []
        for condition in question.conditions or table.conditions():
            for variant, other in question.compare:
                if {variant, other} <= set(table.variants(condition)):
                    cells = [
                        _verdict(name, table.difference(condition, variant, other, name), lines=" ")
                        for name in question.metrics
                    ]
                    rows.append([condition, f"`{variant}` − `{other}`", *cells])
        if rows:
            heads = ["condition", "difference", *(head(name) for name in question.metrics)]
            parts += [f"## {question.text}", _markdown(heads, rows)]
    return parts


def _condition(table: Table, condition: str) -> list[str]:
    there = table.metrics(condition)
    parts = [f"## All metrics{f': {condition}' if condition else ''}"]
    parts.append(_compared(table, condition, {head(name): name for name in SHOWN if name in there}))
    pooled = {name.partition(", ")[2]: name for name in there if name.startswith(f"{POOLED}, ")}
    ranges = {head: name for head, name in pooled.items() if head.startswith("[")}
    classes = {head: name for head, name in pooled.items() if head not in ranges}
    for title, columns in (("distance", ranges), ("class", classes)):
        if columns:
            parts.append(f"{POOLED} by {title}, over all pixels of the set:")
            parts.append(_compared(table, condition, columns))
    return parts


def _compared(table: Table, condition: str, columns: dict[str, str]) -> str:
    baseline, rows = table.study.baseline, []
    for variant in table.variants(condition):
        cells = []
        for name in columns.values():
            cell = _spread(table.spread(condition, variant, name))
            if variant != baseline and baseline in table.variants(condition):
                cell += "<br>" + _verdict(name, table.difference(condition, variant, baseline, name))
            cells.append(cell)
        rows.append([f"`{variant}`", *cells])
    return _markdown(["variant", *columns], rows)


def head(name: str) -> str:
    """Return what stands above a metric: name, unit, and an arrow to the better side."""
    unit = metric(name.partition(",")[0]).unit
    arrow = {True: "↑", False: "↓"}.get(_more(name), "")
    return f"{TIMES.get(name) or name}{f' ({unit})' if unit else ''} {arrow}".strip()


def _more(name: str) -> bool | None:
    return False if name in TIMES else metric(name.partition(",")[0]).more


def _spread(spread: Spread) -> str:
    if not spread.count:
        return "–"
    return number(spread.mean) + (f" ± {number(spread.deviation, 2)}" if spread.count > 1 else "")


def _verdict(name: str, difference: Spread, lines: str = "<br>") -> str:
    if not difference.count:
        return "–"
    text = signed(difference.mean) + (f" ± {number(difference.deviation, 2)}" if difference.count > 1 else "")
    more = _more(name)
    if difference.includes_zero:
        return f"{text}{lines}inconclusive"
    if more is None:
        return f"{text}{lines}different"
    return f"{text}{lines}**{'better' if (difference.mean > 0) == more else 'worse'}**"


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
