"""Differences between two methods, paired over the frames that both have, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from depthloss.training.evaluation.result import Evaluation, Row
from depthloss.training.evaluation.wording import metric_names, scored, value_of

RESAMPLES, LEVEL, SEED = 2000, 0.95, 0


@dataclass(frozen=True)
class Difference:
    """The candidate minus another method, in one metric.

    Attributes:
        value: mean difference over the frames; NaN if a prediction makes it so.
        low: lower end of its 95 % bootstrap interval; NaN with fewer than two frames.
        high: upper end.
        frames: scored in both methods that have the metric; clips, if a protocol takes them.
    """

    value: float
    low: float
    high: float
    frames: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def differences(candidate: Evaluation, other: Evaluation) -> dict[str, Difference]:
    """Return the differences of the means, by metric.

    The frames are resampled as pairs, 2000 times, and the interval is that of the percentiles. Where the rows
    of the frames lack a metric of both summaries, the difference is that of the summaries, without interval.

    Args:
        candidate: the one.
        other: what is subtracted.
    """
    pairs = paired(candidate.frames, other.frames)
    names = [n for n in metric_names([candidate.summary]) if n in metric_names([other.summary])]
    values = np.array([[[value_of(row, n) for n in names] for row in pair] for pair in pairs])
    has = np.array([[all(n in row for row in pair) for n in names] for pair in pairs], dtype=bool)
    found = {}
    lows, highs = _intervals(values, has)
    for i, name in enumerate(names):
        count = int(has[:, i].sum()) if pairs else 0
        summaries = [value_of(one.summary, name) for one in (candidate, other)]
        # A mean that is NaN has no difference, though frames without such a prediction have one.
        if count and all(map(math.isfinite, summaries)):
            # As the means are taken: a sum in exact arithmetic has no order.
            one, two = (math.fsum(values[has[:, i], k, i]) / count for k in (0, 1))
            found[name] = Difference(one - two, float(lows[i]), float(highs[i]), count)
        else:
            found[name] = Difference(summaries[0] - summaries[1], math.nan, math.nan, 0)
    return found


def paired(candidate: Sequence[Row], other: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return the rows of the frames that are scored in both."""
    known = {(row["index"], row["name"]): row for row in other if scored(row)}
    keys = [(row, (row["index"], row["name"])) for row in candidate if scored(row)]
    return [(row, known[key]) for row, key in keys if key in known]


def compare_frames(
    candidate: Sequence[Row], other: Sequence[Row], name: str = "abs_rel"
) -> list[tuple[float, float]]:
    """Return a metric of both for each frame on which both have a finite one."""
    values = [(value_of(a, name), value_of(b, name)) for a, b in paired(candidate, other)]
    return [pair for pair in values if all(map(math.isfinite, pair))]


def _intervals(values: np.ndarray, has: np.ndarray) -> np.ndarray:
    """Return the ends [2, metrics] for values [frames, 2, metrics], which count where `has` [frames, metrics]
    is true.
    """
    metrics = has.shape[1] if has.ndim == 2 else 0
    if len(has) < 2:
        return np.full((2, metrics), np.nan)
    change = np.where(has, values[:, 0] - values[:, 1], 0.0)
    rng = np.random.default_rng(SEED)
    means = np.empty((RESAMPLES, metrics))
    for i in range(RESAMPLES):
        times = np.bincount(rng.integers(0, len(has), len(has)), minlength=len(has)).astype(float)
        with np.errstate(invalid="ignore"):  # a resample may have no frame with a rare metric
            means[i] = times @ change / (times @ has)
    lost = np.isnan(change).any(0) | (has.sum(0) < 2)
    tails = [50 * (1 - LEVEL), 100 - 50 * (1 - LEVEL)]
    ends = np.full((2, metrics), np.nan)
    if not lost.all():
        ends[:, ~lost] = np.nanpercentile(means[:, ~lost], tails, axis=0)
    return ends
