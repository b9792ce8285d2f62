"""The table of a paper, a row per method: in Markdown, and in LaTeX with booktabs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from depthloss.training.evaluation.result import Evaluation
from depthloss.training.evaluation.wording import left_out, metric, metric_names, number, unit, value_of

_TEX = {
    **{"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#"},
    **{"$": r"\$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$"},
    **{"−": "$-$", "–": "--", "×": r"$\times$", "°": r"$^\circ$", "↑": r"$\uparrow$", "↓": r"$\downarrow$"},
}


def markdown_table(methods: Sequence[Evaluation]) -> str:
    """Return the means of each method as a Markdown table; the best are bold, the protocol stands below."""

    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace("|", r"\|")

    head, *rows = _cells(methods, escaped, "**{}**".format)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    # A line of its own each: Markdown would join them.
    return table + "\n\n" + "\n\n".join(escaped(note) for note in notes(methods)) + "\n"


def latex_table(methods: Sequence[Evaluation]) -> str:
    """Return the same as LaTeX; it needs the package booktabs."""
    head, *rows = _cells(methods, tex, r"\textbf{{{}}}".format)
    lines = [r" & ".join(line) + r" \\" for line in (head, *rows)]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            *(f"% {note}" for note in notes(methods)),
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\par\smallskip\footnotesize",
            *(tex(note) + r"\par" for note in notes(methods)),
            "",
        ]
    )


def notes(methods: Sequence[Evaluation]) -> list[str]:
    """Return the protocol, and how many frames of each method are scored and why others are not."""
    texts = {one.name: one.protocol["text"] for one in methods}
    one_for_all = len(set(texts.values())) == 1
    protocols = (f"Protocol{'' if one_for_all else f' of {name}'}: {text}" for name, text in texts.items())
    return [*dict.fromkeys(protocols), *map(frames_text, methods)]


def frames_text(one: Evaluation) -> str:
    """Return "A: 8 of 10 images scored; left out: 2 no valid pixel"."""
    out = left_out(one.frames)
    total = one.summary["images"] + sum(out.values())
    why = f"; left out: {', '.join(f'{n} {reason}' for reason, n in out.items())}" if out else ""
    return f"{one.name}: {one.summary['images']} of {total} {unit(one.protocol)}s scored{why}"


def tex(text: str) -> str:
    """Return a text with what LaTeX would read as a command escaped."""
    return "".join(_TEX.get(letter, letter) for letter in text)


def _cells(
    methods: Sequence[Evaluation], escaped: Callable[[str], str], bold: Callable[[str], str]
) -> list[list[str]]:
    names = metric_names([one.summary for one in methods])
    heads = []
    for name in names:
        row = metric(name)
        of = f" ({row.unit})" if row.unit not in ("", "share") else ""
        heads.append(escaped(f"{name}{of} {row.arrow}".rstrip()))
    what = f"{unit(methods[0].protocol)}s"
    lines = [["method", *heads, what]]
    best = {name: _best([value_of(one.summary, name) for one in methods], name) for name in names}
    for one in methods:
        line = [escaped(one.name)]
        for name in names:
            value = value_of(one.summary, name)
            # Of images that were scored, NaN comes from a prediction, and must show.
            lost = math.isnan(value) and name in one.summary and one.summary["images"]
            text = "nan" if lost else escaped(number(value))
            line.append(bold(text) if len(methods) > 1 and number(value) == best[name] else text)
        lines.append([*line, str(one.summary["images"])])
    return lines


def _best(values: Sequence[float], name: str) -> str | None:
    """The best value as it is shown, so that equal ones are all bold; None if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or metric(name).more is None:
        return None
    return number(max(finite) if metric(name).more else min(finite))
