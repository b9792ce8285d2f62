"""Text lists of files: splits, and the lists of TUM RGB-D. What a line names is what is found on the disk."""

from __future__ import annotations

import codecs
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from depthloss.training.data.io import check_file, fault

_QUOTED = re.compile(r"""(["'])(.+?)\1(?=[\s,;]|$)""")
_BETWEEN = re.compile(r"[\s,;]+")  # columns
_LONGEST = 4096  # characters of a path; no file has a longer one


class Line(NamedTuple):
    """A line of a text file: its number, from 1, and its text without the white space around it."""

    number: int
    text: str


class Listed(NamedTuple):
    """A frame of a list.

    Attributes:
        name: as it was found; else the first column of its line.
        where: where the list has it, such as "line 3 of val.txt".
        found: whether it was.
    """

    name: str
    where: str = ""
    found: bool = True

    def __str__(self) -> str:
        """Return the name and where it stands, for messages."""
        return f"{self.where}: {self.name}" if self.where else self.name


def read_text(file: Path, expected: str, fix: str) -> str:
    """Read a text file: UTF-8 with or without a byte order mark, or UTF-16 with one.

    Args:
        file: the file.
        expected: what it should be, for the error.
        fix: what to do about it, likewise.

    Returns:
        Its text; every line ends with a line feed alone.

    Raises:
        DataError: the file is missing, cannot be read or is no text.
    """
    check_file(file, expected, fix)
    try:
        data = file.read_bytes()
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise fault(file, f"a file that cannot be read ({error})", expected, fix) from error
    if "\0" in text:
        raise fault(file, "zero bytes, as in UTF-16 without a mark", expected, "save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(file: Path, expected: str, fix: str) -> list[Line]:
    """Read the lines of a text file; blank ones and those that begin with # are left out.

    Args:
        file: see `read_text`, also for the errors.
        expected: likewise.
        fix: likewise.
    """
    lines = (Line(i, text.strip()) for i, text in enumerate(read_text(file, expected, fix).split("\n"), 1))
    return [line for line in lines if line.text and not line.text.startswith("#")]


def read_split(path: Path, split: str | Path, what: str, find: Callable[[str], str | None]) -> list[Listed]:
    """Read a list of frames.

    Args:
        path: folder of the data set.
        split: text file, absolute or below `path`; see `resolve` for its lines.
        what: what a line names.
        find: what a name stands for, or None.

    Returns:
        A frame for every line.

    Raises:
        DataError: the file is missing or empty, or a line may name several frames.
    """
    file = path / Path(split).expanduser()
    expected, fix = f"a text file with one {what} per line", "check the option split"
    listed = []
    for number, text in read_lines(file, expected, fix):
        name = resolve(f"{file}, line {number}", text, what, find)
        listed.append(Listed(name or first_column(text), f"line {number} of {file.name}", name is not None))
    if not listed:
        raise fault(file, f"no {what}", expected, fix)
    return listed


def resolve(where: str, text: str, what: str, find: Callable[[str], str | None]) -> str | None:
    """Return what a line names: all of it, what is in its quotation marks, or its first columns.

    Names may contain spaces; so it is the files that tell where a name ends and further columns begin.

    Args:
        where: the line, for the error.
        text: what it says.
        what: what it names, for the error.
        find: what a name stands for, or None.

    Raises:
        DataError: with and without its next column, the name is that of a frame.
    """
    if len(text) <= _LONGEST and (whole := find(text)) is not None:
        return whole
    if quoted := _QUOTED.match(text):
        return find(quoted[2])
    found = (find(text[: gap.start()]) for gap in _BETWEEN.finditer(text, 0, _LONGEST))
    names = list(dict.fromkeys(name for name in found if name is not None))
    if len(names) > 1:
        got = f"{text!r}, which may be {' or '.join(map(repr, names))}"
        raise fault(where, got, f"one {what}", "put quotation marks around the name")
    return names[0] if names else None


def first_column(text: str) -> str:
    """Return the first column of a line, without quotation marks, with "/" between the parts of a path."""
    quoted = _QUOTED.match(text)
    return plain_path(quoted[2] if quoted else _BETWEEN.split(text)[0])


def plain_path(name: str) -> str:
    r"""Return a path with "/" in place of "\", without "./" and "//"."""
    return posixpath.normpath(name.replace("\\", "/"))


def spellings(name: str, root: Path, *folders: str) -> list[str]:
    r"""Return the paths below a folder that a name in a list may mean, the literal one last.

    Args:
        name: as in the list, such as `./rgb/a\b.png`.
        root: the folder; absolute paths are made relative to it.
        *folders: sub-folders that may stand before the name, such as rgb.
    """
    plain = plain_path(name)
    if posixpath.isabs(plain) and Path(plain).is_relative_to(root.absolute()):
        plain = Path(plain).relative_to(root.absolute()).as_posix()
    cut = (plain.removeprefix(f"{folder}/") for folder in folders)
    return list(dict.fromkeys((plain, *cut, name)))
