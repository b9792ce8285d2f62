"""The files of an evaluation, written together or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from depthloss.training.errors import ConfigError
from depthloss.training.evaluation.paper import latex_table, markdown_table
from depthloss.training.evaluation.report.page import write_page
from depthloss.training.evaluation.result import Evaluation
from depthloss.training.evaluation.tables import write_csv, write_json

FILES = ("metrics.json", "metrics.csv", "report.html", "table.md", "table.tex")


def write_files(out: Path, methods: Sequence[Evaluation], curves: Path | None = None) -> None:
    """Write `FILES` to a folder.

    Args:
        out: the folder; it is made if need be.
        methods: at least one.
        curves: metrics.csv of the first one's training, if it is known.

    Raises:
        ConfigError: they could not be written; those of before are as they were.
    """
    with _whole_folder(out) as folder:
        write_json(folder / "metrics.json", methods)
        write_csv(folder / "metrics.csv", methods)
        write_page(folder / "report.html", methods, curves=curves)
        (folder / "table.md").write_text(markdown_table(methods), encoding="utf-8")
        (folder / "table.tex").write_text(latex_table(methods), encoding="utf-8")


@contextlib.contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write to; its files move to `out` only if no error occurred."""
    temporary = out.with_name(f".{out.name}-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        out.mkdir(exist_ok=True)
        for file in temporary.iterdir():
            os.replace(file, out / file.name)
    except OSError as error:
        raise ConfigError(f"--out {out}: the files could not be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
