"""Words and numbers of the tables and the report: metrics with their units, verdicts, what was left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from depthloss.metrics import Meaning, names
from depthloss.metrics import metric as row_of

if TYPE_CHECKING:
    from depthloss.training.evaluation.compare import Difference

Row = Mapping[str, Any]

DASH = "–"
# Numbers of a row that are no metrics.
COUNTS = (
    *("images", "empty", "missing", "unreadable", "nonfinite", "nonpositive", "clipped"),
    *("pixels", "valid", "index", "low", "high", "scale", "shift", "frames"),
)


def metric(name: str) -> Meaning:
    """Return the meaning of a metric; an empty one for a count."""
    return row_of(name) if name in names() else Meaning("", None, "")


def metric_names(rows: Iterable[Row]) -> list[str]:
    """Return the metrics that are in any of the rows, in their order: numbers that are no counts."""
    names: dict[str, None] = {}
    for row in rows:
        for key, value in row.items():
            if key not in COUNTS and (value is None or isinstance(value, (int, float))):
                names[key] = None
    return list(names)


def value_of(row: Row, name: str) -> float:
    """Return a metric of a row; NaN if it has none."""
    value = row.get(name)
    return math.nan if value is None else float(value)


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with so many significant digits, "–" for one that is not finite."""
    if value is None or not math.isfinite(value):
        return DASH
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    rounded = float(f"{value:.{digits - 1}e}")  # 0.99999 has as many places as 1
    places = digits - 1 - (math.floor(math.log10(abs(rounded))) if value else 0)
    return f"{value:.{min(max(places, 0), 5)}f}".replace("-", "−")


def count(value: float | int | None) -> str:
    """Return a whole number with thin gaps between thousands."""
    return DASH if value is None or value != value else f"{int(value):,}".replace(",", "\u202f")


def signed(value: float, digits: int = 3) -> str:
    """Return a difference with its sign: "+0.0123", "−0.0123", "±0"."""
    if not math.isfinite(value):
        return DASH
    return ("+" if value > 0 else "") + number(value, digits) if value else "±0"


def interval(difference: Difference | None) -> str:
    """Return a difference with its interval: "−0.0100 [−0.0123, −0.0077]"."""
    if difference is None:
        return DASH
    if not math.isfinite(difference.low):
        return signed(difference.value)
    return f"{signed(difference.value)} {bounds(difference)}"


def bounds(difference: Difference) -> str:
    """Return an interval: "[−0.0123, −0.0077]"; "" if there is none."""
    known = math.isfinite(difference.low)
    return f"[{signed(difference.low)}, {signed(difference.high)}]" if known else ""


def judge(name: str, candidate: float, baseline: float) -> str:
    """Return whether the candidate is "better", "worse" or the "same" in a metric; "" if that is unknown.

    A NaN is worse than any number: both are of the same pixels, so it is a prediction that is not finite.
    """
    more = metric(name).more
    finite = math.isfinite(candidate), math.isfinite(baseline)
    if more is None or not any(finite):
        return ""
    if not all(finite):
        return "better" if finite[0] else "worse"
    if number(candidate) == number(baseline):
        return "same"
    return "better" if (candidate > baseline) == more else "worse"


def plural(number_of: int, one: str, more: str = "") -> str:
    """Return "1 image", "2 images"."""
    return f"{count(number_of)} {one if number_of == 1 else more or one + 's'}"


def scored(row: Row) -> bool:
    """Return whether a frame has metrics: it has pixels that count, and no reason to be left out."""
    return bool(row.get("valid")) and not row.get("reason")


def left_out(frames: Iterable[Row]) -> dict[str, int]:
    """Return how many frames were left out, by the reason without its details."""
    reasons = [row.get("reason") or "no valid pixel" for row in frames if not scored(row)]
    return dict(Counter(reason.partition(":")[0] for reason in reasons))


def unit(protocol: Mapping[str, Any]) -> str:
    """Return what a row of the frames is: "image", or "clip"."""
    return "clip" if protocol.get("per_clip") else "image"


def lead(rows: Iterable[Row]) -> str:
    """Return the metric by which frames are ranked: abs_rel if there is one, else the first."""
    names = metric_names(rows)
    return "abs_rel" if "abs_rel" in names or not names else names[0]


def badness(row: Row, name: str) -> float:
    """Return a number that is larger for a worse frame; infinity for one without a finite value."""
    value = value_of(row, name)
    return math.inf if not math.isfinite(value) else -value if metric(name).more else value
