"""metrics.csv: the logged values of a run; a kill loses no row."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from depthloss.training.files import whole_file

log = logging.getLogger("depthloss.training")


class MetricsCSV(Logger):
    """Writes each row when it is logged; a new column rewrites the file, whole or not at all.

    Lightning's own logger deletes the file of a resumed run and rewrites it in place: a kill at that moment
    loses all rows.

    Args:
        file: metrics.csv; what is in it is replaced.
        rows: its first rows, those of the run that is resumed.
    """

    def __init__(self, file: Path, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        super().__init__()
        self.file = file
        self._columns: list[str] = []
        self._begin(list(rows))

    @property
    def name(self) -> str:
        """Of Lightning's interface."""
        return ""

    @property
    def version(self) -> str:
        """Of Lightning's interface."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.file.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write a row."""
        row = {**metrics, "step": step}
        if row.keys() <= set(self._columns):
            with self.file.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
            return
        before = self._read() if self._columns else []
        self._write([*before, row])

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: they are in config.yaml."""

    @rank_zero_only
    def _begin(self, rows: list[Mapping[str, Any]]) -> None:
        if rows:
            self._write(rows)
        else:
            self.file.unlink(missing_ok=True)

    def _read(self) -> list[dict[str, Any]]:
        with self.file.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _write(self, rows: list[Mapping[str, Any]]) -> None:
        self._columns = sorted(set().union(*rows))
        with whole_file(self.file) as path, path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(rows)


def rows_before(metrics_csv: Path, step: int) -> list[dict[str, str]]:
    """Return the rows of a metrics.csv up to the step that a run is resumed from; none without a file.

    A row that a killed process did not finish is left out, with a log line.
    """
    if not metrics_csv.exists():
        return []
    text = metrics_csv.read_bytes().decode("utf-8", errors="replace")
    lines = text.splitlines()
    rows = list(csv.DictReader(lines))
    torn = [row for row in rows if None in row or None in row.values() or not row.get("step", "").isdigit()]
    if rows and not text.endswith("\n") and rows[-1] not in torn:
        torn.append(rows[-1])  # its last number may be cut
    if torn:
        log.warning("%s: %d incomplete row%s left out", metrics_csv, len(torn), "s" * (len(torn) > 1))
    return [row for row in rows if row not in torn and int(row["step"]) < step]
