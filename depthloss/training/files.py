"""Files that are written whole or not at all, and the folders they go to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from depthloss.training.config import ConfigError


def check_folder(key: str, folder: Path) -> None:
    """Check that files can be written to a folder, before the work and not after it.

    Args:
        key: what names the folder, for the error.
        folder: it need not exist.

    Raises:
        ConfigError: they cannot.
    """
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(folder)
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL
        raise ConfigError(f"{key} {str(folder)!r}: cannot be the path of a folder: {error}") from error
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "is not writable" if there.is_dir() else "is a file"
        raise ConfigError(f"{key} {folder}: {there} {what}; choose another folder")


# Levels of a configuration.
_DEEPEST = 50


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: it cannot be read, or is no tree: nested without an end or nearly so.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or no such date
        raise ConfigError(f"{path}: cannot be read as a YAML file: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    check_depth(path, tree)
    return tree


def check_depth(where: object, tree: Any, deepest: int = _DEEPEST) -> None:
    """Check that mappings and lists are not nested more deeply than anything here; an alias may be endless.

    Raises:
        ConfigError: they are.
    """
    if isinstance(tree, (dict, list, tuple)):
        if not deepest:
            raise ConfigError(f"{where}: nested too deeply")
        for value in tree.values() if isinstance(tree, dict) else tree:
            check_depth(where, value, deepest - 1)


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
