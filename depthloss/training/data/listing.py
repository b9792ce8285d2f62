"""Lists of frames: split files, choices, which files are there, and names packed into arrays."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from depthloss.training.data.io import fault

RGB_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")


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


def read_split(path: Path, split: str | Path, what: str) -> list[str]:
    """Read a list of frames: the first word of every line; blank lines and # comments are left out.

    Args:
        path: folder of the data set.
        split: text file, absolute or below `path`.
        what: what a line names.

    Raises:
        DataError: the file is missing or empty.
    """
    file = path / Path(split).expanduser()
    expected = f"a text file with one {what} per line"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        got = (
            "no such file"
            if isinstance(error, FileNotFoundError)
            else f"a file that cannot be read ({error})"
        )
        raise fault(file, got, expected, "check the option split") from error
    names = [words[0] for words in (line.split("#")[0].split() for line in lines) if words]
    if not names:
        raise fault(file, f"no {what}", expected, "check the option split")
    return names


def present(root: Path, files: Sequence[str]) -> list[bool]:
    """Return whether each file below `root` is there; every folder is listed once, which is fast over NFS."""
    folders: dict[str, set[str]] = {}
    found = []
    for file in files:
        folder, _, name = file.rpartition("/")
        if folder not in folders:
            try:
                folders[folder] = set(os.listdir(root / folder))
            except OSError:
                folders[folder] = set()
        found.append(name in folders[folder])
    return found
