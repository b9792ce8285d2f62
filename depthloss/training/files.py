"""Files that are written whole or not at all, and the folders they go to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from depthloss.training.config import ConfigError


def check_folder(key: str, folder: Path) -> None:
    """Check that files can be written to a folder, before the work and not after it.

    Args:
        key: what names the folder, for the error.
        folder: it need not exist.

    Raises:
        ConfigError: they cannot.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "is not writable" if there.is_dir() else "is a file"
        raise ConfigError(f"{key} {folder}: {there} {what}; choose another folder")


@contextlib.contextmanager
def whole_file(out: Path) -> Iterator[Path]:
    """Give a path to write to; the file takes its place at `out` only if nothing went wrong."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.stem}-{os.getpid()}{out.suffix}")
    try:
        yield temporary
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
