"""Results of a study: trajectories, step times, metrics, and differences between variants."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from depthloss.training.ablation.study import Study, Trial
from depthloss.training.drawing.figures import read_metrics

log = logging.getLogger("depthloss.training")

# Steps at the start of a run that do not count for the step time.
WARM_UP = 20
# Student's t, 97.5%, for 1, 2, ... degrees of freedom; beyond the last, the last, which is larger.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Run = dict[str, Any]


def trajectory(trial: Trial) -> dict[str, Any]:
    """Read the course of a run from its metrics.csv.

    Returns:
        "steps" done, "skipped_steps", medians "step_ms" and "loss_ms", and "trajectory": name of a term,
        sigma or weight -> {"step": [...], "value": [...]}, means of the epochs; sigma and weights also as
        they were in single steps, "NAME, steps". Of the scales of the network, the finest.
    """
    path = trial.directory / "metrics.csv"
    series = read_metrics(path) if path.exists() else {}
    found: dict[str, Any] = {}
    for name, (steps, values) in series.items():
        short = name.removeprefix("train/").removeprefix("scale_0/")
        if not name.startswith("train/") or re.match(r"scale_\d+/|rgbd/", short):
            continue
        if short.endswith("_epoch"):
            found[short.removesuffix("_epoch")] = _series(steps, values)
        elif short.endswith("_step") and is_weight(short):
            found[f"{short.removesuffix('_step')}, steps"] = _series(steps, values)

    def median(name: str) -> float | None:
        steps, values = series.get(name, ((), ()))
        kept = [float(v) for step, v in zip(steps, values, strict=True) if step >= WARM_UP]
        return round(statistics.median(kept or map(float, values)), 3) if len(values) else None

    skipped = series.get("train/skipped_steps", ((), (0.0,)))[1]
    return {
        "steps": int(max((steps[-1] for steps, _ in series.values()), default=-1)) + 1,
        "skipped_steps": int(max(skipped)),
        "step_ms": median("time/step_ms_step"),
        "loss_ms": median("time/loss_ms_step"),
        "trajectory": found,
    }


def is_weight(name: str) -> bool:
    """Whether a term of a loss's metrics is a weight that can move."""
    return name.startswith(("sigma_", "weight_", "alpha_t"))


def _series(steps: Sequence[float], values: Sequence[float]) -> dict[str, list]:
    return {"step": [int(s) for s in steps], "value": [float(f"{v:.5g}") for v in values]}


def values(run: Run) -> dict[str, float]:
    """Return the metrics of a run, flat: "abs_rel", "abs_rel, [0, 1) m", "abs_rel, pole", "step_ms"."""
    evaluation = run.get("evaluation") or {}
    found = dict(evaluation.get("summary", {}))
    for rows, key in (("ranges", "range"), ("classes", "class")):
        for row in evaluation.get(rows, ()):
            found |= {f"{name}, {row[key]}": value for name, value in row.items() if name != key}
    found |= {"step_ms": run.get("step_ms"), "loss_ms": run.get("loss_ms")}
    return {k: float(v) for k, v in found.items() if isinstance(v, (int, float)) and math.isfinite(v)}


@dataclasses.dataclass(frozen=True)
class Spread:
    """A mean over seeds.

    Attributes:
        mean: NaN without any seed.
        deviation: standard deviation (n - 1); NaN for fewer than two.
        count: number of seeds.
    """

    mean: float
    deviation: float
    count: int

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Return the spread of numbers."""
        return cls(
            statistics.fmean(numbers) if numbers else math.nan,
            statistics.stdev(numbers) if len(numbers) > 1 else math.nan,
            len(numbers),
        )

    @property
    def includes_zero(self) -> bool:
        """Whether the 95% interval of the mean, by Student's t, includes zero; of one number it does."""
        if self.count < 2:
            return True
        t = T_975[min(self.count - 1, len(T_975)) - 1]
        return not abs(self.mean) > t * self.deviation / math.sqrt(self.count)


class Table:
    """The metrics of all evaluated runs, by condition, variant and seed.

    Args:
        study: the study.
        runs: as in results.json.
    """

    def __init__(self, study: Study, runs: Sequence[Run]) -> None:
        self.study = study
        self._values: dict[tuple[str, str], dict[int, Mapping[str, float]]] = {}
        for run in runs:
            if run.get("evaluation"):
                self._values.setdefault((run["condition"], run["variant"]), {})[run["seed"]] = values(run)

    def conditions(self) -> list[str]:
        """Return the conditions with a run, in the order of the study."""
        return [c for c in self.study.conditions if any(key[0] == c for key in self._values)]

    def variants(self, condition: str) -> list[str]:
        """Return the variants with a run in a condition, in the order of the study."""
        return [v for v in self.study.variants if (condition, v) in self._values]

    def metrics(self, condition: str) -> list[str]:
        """Return the metrics that any run of a condition has, in their order."""
        found: dict[str, None] = {}
        for variant in self.variants(condition):
            for run in self._values[condition, variant].values():
                found |= dict.fromkeys(run)
        return list(found)

    def of(self, condition: str, variant: str, metric: str) -> dict[int, float]:
        """Return a metric by seed."""
        runs = self._values.get((condition, variant), {})
        return {seed: run[metric] for seed, run in runs.items() if metric in run}

    def spread(self, condition: str, variant: str, metric: str) -> Spread:
        """Return a metric over the seeds."""
        return Spread.of(list(self.of(condition, variant, metric).values()))

    def difference(self, condition: str, variant: str, other: str, metric: str) -> Spread:
        """Return how much a metric of one variant is above that of another, over the seeds that both have."""
        a, b = self.of(condition, variant, metric), self.of(condition, other, metric)
        return Spread.of([a[seed] - b[seed] for seed in a if seed in b])
