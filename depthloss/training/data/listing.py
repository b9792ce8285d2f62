"""Which files a data set has: walks through folders, names packed into arrays, choices of frames."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from depthloss.training.data.io import DataError, fault, logger
from depthloss.training.data.lists import spellings

# Suffixes count in any case: they are given in lower case.
RGB_SUFFIXES = (".png", ".jpg", ".jpeg")
PNG = (".png",)

# Folders that file servers, archives and file systems put beside data: thumbnails, deleted files.
_NO_DATA = ("@eaDir", "#recycle", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found")


def pack(names: Iterable[str]) -> np.ndarray:
    """Pack names into one fixed-width array of bytes.

    A list of Python strings would be copied page by page into every worker, as their reference counts change.
    """
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def unpack(name: bytes) -> str:
    """Return a name of a packed array."""
    return os.fsdecode(bytes(name))


def subset(names: list, offset: int, stride: int, limit: int | None, path: Path, layout: str) -> list:
    """Return every `stride`-th of the names from `offset` on, at most `limit`.

    Raises:
        ValueError: a number is out of range.
        DataError: no name is left.
    """
    if offset < 0 or stride < 1 or (limit is not None and limit < 1):
        raise ValueError(f"need offset >= 0, stride >= 1, limit >= 1, got {offset!r}, {stride!r}, {limit!r}")
    chosen = names[offset::stride][:limit]
    if not chosen:
        raise fault(
            path, f"no frame with offset={offset}, stride={stride}", layout, "check names, split and offset"
        )
    return chosen


def split_suffix(name: str, suffixes: Sequence[str]) -> tuple[str, str]:
    """Return a name without its suffix, and the suffix; it is "" if it is none of `suffixes`, in any case."""
    stem, suffix = posixpath.splitext(name)
    return (stem, suffix) if suffix.lower() in suffixes else (name, "")


def entries(folder: Path) -> tuple[list[str], list[str]]:
    """Return the names of the sub-folders, and of all else, in a folder; both sorted.

    Links to folders are folders. Hidden ones and what systems put beside data are left out.

    Raises:
        DataError: the folder cannot be read.
    """
    folders, others = [], []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                if not (entry.name.startswith(".") or entry.name in _NO_DATA):
                    (folders if _is_folder(entry) else others).append(entry.name)
    except OSError as error:
        got = f"a folder that cannot be read ({error.strerror})"
        raise fault(folder, got, "a folder of the data set", "check the path and its permissions") from error
    return sorted(folders), sorted(others)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # A link to itself: whoever reads it gets the error.
        return False


def walk(root: Path, suffixes: Sequence[str] | None) -> list[str]:
    """Return the files below a folder that have one of the suffixes, in any case, sorted.

    Links to folders are followed, under their own names; one to a folder that it lies in is left out with a
    warning, as it has no end.

    Args:
        root: the folder.
        suffixes: in lower case; None = all files.

    Returns:
        Paths below `root`, with "/" between the parts.

    Raises:
        DataError: a folder cannot be read.
    """
    found: list[str] = []
    top = root.resolve()
    todo = [("", frozenset(map(_identity, (top, *top.parents))))]
    while todo:
        below, above = todo.pop()
        folders, others = entries(root / below)
        found += [f"{below}{name}" for name in others if suffixes is None or split_suffix(name, suffixes)[1]]
        for name in folders:
            identity = _identity(root / below / name)
            if identity in above:
                logger.warning("%s: left out, a link to a folder that it lies in", root / below / name)
            else:
                todo.append((f"{below}{name}/", above | {identity}))
    return sorted(found)


def _identity(folder: Path) -> tuple[int, int]:
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def by_name(root: Path, suffixes: Sequence[str], deep: bool = True, fix: str | None = None) -> dict[str, str]:
    """Return the files below a folder that have one of the suffixes, as {path without suffix: suffix}.

    Args:
        root: the folder.
        suffixes: in lower case; files may have them in any case.
        deep: whether to look into its sub-folders, see `walk`.
        fix: what to do about two of one name, for the error; None = remove one.

    Raises:
        DataError: two files have the same name, or a folder cannot be read.
    """
    files = walk(root, suffixes) if deep else entries(root)[1]
    found: dict[str, str] = {}
    for file in files:
        name, suffix = split_suffix(file, suffixes)
        if not suffix:
            continue
        if name in found:
            raise _twice(root, f"{name}{found[name]}", file, fix)
        found[name] = suffix
    return found


class Lookup:
    """Finds single files below a folder, with a suffix in any case.

    Every folder is listed once, which is fast over NFS.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders: dict[str, dict[str, list[str]]] = {}

    def suffix(self, name: str, suffixes: Sequence[str], first: str = "") -> str | None:
        """Return the suffix that a file has.

        Args:
            name: path below the folder, without suffix.
            suffixes: those that it may have, in lower case.
            first: suffix to prefer.

        Returns:
            The suffix as it is written, or None if there is no such file.

        Raises:
            DataError: there are several.
        """
        folder, _, stem = name.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._list(folder)
        found = [s for s in self._folders[folder].get(stem, ()) if s.lower() in suffixes]
        if first in found:
            return first
        if len(found) > 1:
            raise _twice(self.root, *(f"{name}{suffix}" for suffix in found[:2]))
        return found[0] if found else None

    def file(self, path: str, suffixes: Sequence[str]) -> str | None:
        """Return a file whose suffix may be left out or be another of `suffixes`; None if there is none."""
        name, first = split_suffix(path, suffixes)
        suffix = self.suffix(name, suffixes, first)
        return None if suffix is None else f"{name}{suffix}"

    def place(self, path: str, suffixes: Sequence[str]) -> Path:
        """Return where a file is, or should be."""
        return self.root / (self.file(path, suffixes) or path)

    def named(self, name: str, suffixes: Sequence[str]) -> str | None:
        """Return the file that a name in a list means, or None."""
        found = (self.file(path, suffixes) for path in spellings(name, self.root))
        return next(filter(None, found), None)

    def _list(self, folder: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        if os.path.isdir(self.root / folder):  # Path.is_dir raises where columns make a name too long.
            for file in entries(self.root / folder)[1]:
                stem, suffix = posixpath.splitext(file)
                found.setdefault(stem, []).append(suffix)
        return found


def _twice(root: Path, one: str, other: str, fix: str | None = None) -> DataError:
    return fault(root, f"{one} and {other}", "one image per name", fix or "remove one of the two")
