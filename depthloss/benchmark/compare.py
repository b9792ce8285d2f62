"""What changed between two results of ``depthloss bench``."""

from __future__ import annotations

import json
from pathlib import Path

_KEY = ("loss", "shape", "valid", "form")
LEAST = 0.03  # A smaller change is no change, however steady the clock.


def read(path: Path) -> dict:
    """A result of `depthloss bench`.

    Raises:
        ValueError: the file is none.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(result, dict) or result.get("made_by") != "depthloss bench":
        raise ValueError(f"{path} is no result of `depthloss bench`")
    return result


def verdict(old: dict, new: dict) -> str:
    """Whether two spreads of milliseconds differ by more than their noise, and by how much."""
    change = new["median"] / old["median"] - 1
    apart = new["p20"] > old["p80"] or new["p80"] < old["p20"]
    if not apart or abs(change) < LEAST:
        return "same"
    return f"{abs(change):.0%} {'slower' if change > 0 else 'faster'}"


def compare(a: dict, b: dict) -> str:
    """A table of all that was measured in both, and of what else differs."""
    rows = [{(*(str(row[k]) for k in _KEY),): row for row in result["rows"]} for result in (a, b)]
    lines = [f"{'loss':<28}{'size':>14}{'valid':>7}  {'form':<22}{'A ms':>9}{'B ms':>9}  change"]
    for key in rows[0].keys() & rows[1].keys():
        old, new = (found[key] for found in rows)
        b_, h, w = old["shape"]
        lines.append(
            f"{old['loss']:<28}{f'{b_}x{h}x{w}':>14}{old['valid']:>7.0%}  {old['form']:<22}"
            f"{old['ms']['median']:>9.3g}{new['ms']['median']:>9.3g}  {verdict(old['ms'], new['ms'])}"
        )
    lines[1:] = sorted(lines[1:])
    alone = len(rows[0].keys() ^ rows[1].keys())
    notes = [f"{alone} cases are in one of the two only."] if alone else []
    notes += [
        f"{name}: {a['machine'].get(name)} and {b['machine'].get(name)}: the times are not comparable."
        for name in ("cpu", "gpu", "threads")
        if a["machine"].get(name) != b["machine"].get(name)
    ]
    return "\n".join([*lines, *notes])
