"""Files that are written whole or not at all, the folders they go to, and why one could not be written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from depthloss import files
from depthloss.training.errors import ConfigError

whole_file = files.whole_file


def check_folder(key: str, folder: Path) -> None:
    """Check that files can be written to a folder, before the work begins.

    Args:
        key: what names the folder, for the error.
        folder: it need not exist.

    Raises:
        ConfigError: they cannot be written there.
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


# Deepest nesting of a configuration.
_DEEPEST = 50


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ConfigError: it cannot be read, or is nested too deeply, as an alias of itself is.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or no such date
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path}: cannot be read as a YAML file: {reason}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply") from error
    check_depth(path, tree)
    return tree


def check_depth(where: object, tree: Any, deepest: int = _DEEPEST) -> None:
    """Check that mappings and lists are not nested too deeply; an alias of YAML may nest without end.

    Raises:
        ConfigError: they are nested too deeply.
    """
    if isinstance(tree, (dict, list, tuple)):
        if not deepest:
            raise ConfigError(f"{where}: nested too deeply")
        for value in tree.values() if isinstance(tree, dict) else tree:
            check_depth(where, value, deepest - 1)


# Errors of the system for lack of room: a full disk, a quota, a limit on the size of a file.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes, latest first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def reason(error: BaseException, directory: Path, written: int | None = None) -> str:
    """Return what went wrong in writing a file, and what to do about it.

    Args:
        error: as it was raised.
        directory: where the file was to be.
        written: bytes that were written before the error; they are free again.
    """
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    text = error.strerror[0].lower() + error.strerror[1:]
    if error.errno == errno.EFBIG:
        return f"{text}: raise the limit (ulimit -f)"
    if error.errno in NO_ROOM:
        if written is not None:
            return f"{text}: make room on its file system, which had {written / 2**20:.1f} MiB for it"
        free = shutil.disk_usage(directory).free / 2**20
        return f"{text}: make room on its file system, which has {free:.1f} MiB left for all users by now"
    return text
