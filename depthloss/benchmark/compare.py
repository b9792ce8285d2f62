"""What changed between two results of ``depthloss bench``."""

from __future__ import annotations

import json
from pathlib import Path

# A smaller change is none: two runs of one program, each steady in itself, lie as far apart.
LEAST = 0.1


def read(path: Path) -> dict:
    """A result of `depthloss bench`.

    Raises:
        ValueError: the file is none.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    known = isinstance(result, dict) and result.get("made_by") == "depthloss bench"
    if not known or not isinstance(result.get("rows"), list) or not isinstance(result.get("machine"), dict):
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
    rows = [
        {(row["loss"], *row["shape"], row["valid"], row["form"]): row for row in r["rows"]} for r in (a, b)
    ]
    lines = [f"{'loss':<21}{'size':>11}{'valid':>6}  {'form':<20}{'A ms':>9}{'B ms':>9}  change"]
    for case in sorted(rows[0].keys() & rows[1].keys()):
        old, new = (found[case]["ms"] for found in rows)
        loss, b_, h, w, valid, form = case
        lines.append(
            f"{loss[:21]:<21}{f'{b_}x{h}x{w}':>11}{valid:>6.0%}  {form:<20}"
            f"{old['median']:>9.3g}{new['median']:>9.3g}  {verdict(old, new)}"
        )
    alone = len(rows[0].keys() ^ rows[1].keys())
    notes = [f"{alone} measurements are in one of the two only."] if alone else []
    for name in ("cpu", "gpu", "threads", "engine"):
        one, two = (result["machine"].get(name) for result in (a, b))
        if one != two:
            notes.append(f"{name}: {one} and {two}: the times are not comparable.")
    versions = [result["machine"].get("environment", {}) for result in (a, b)]
    for name in ("depthloss", "torch", "triton", "python"):
        if versions[0].get(name) != versions[1].get(name):
            notes.append(f"{name}: {versions[0].get(name)} and {versions[1].get(name)}.")
    return "\n".join([*lines, *notes])
