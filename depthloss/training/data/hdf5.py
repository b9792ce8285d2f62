"""HDF5 files, and those of MATLAB 7.3, which are HDF5 with the axes in reverse order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from depthloss.training.data.io import DataError, check_file, fault
from depthloss.training.errors import did_you_mean

if TYPE_CHECKING:
    import h5py

_MAT = "a MATLAB 7.3 file (HDF5)"
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError)


@contextmanager
def open_hdf5(path: Path, expected: str, fix: str = "check the path") -> Iterator[h5py.File]:
    """Open an HDF5 file for a while: an open one does not survive a fork.

    Args:
        path: the file.
        expected: what it should be, for the error.
        fix: what to do where there is no file, likewise.

    Raises:
        DataError: missing or damaged file; also where what is read meanwhile is damaged.
    """
    import h5py

    check_file(path, expected, fix)
    try:
        # No lock: the file is only read, and some network file systems have no locks.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except DataError:
        raise
    except _DAMAGED as error:
        got = f"a damaged or truncated file ({error})"
        raise fault(path, got, expected, "copy or export it again") from error


@contextmanager
def open_mat(path: Path) -> Iterator[h5py.File]:
    """Open a MATLAB 7.3 file for a while; see `open_hdf5`. The axes of its arrays are in reverse order.

    Raises:
        DataError: missing or damaged file, or one of an older MATLAB format.
    """
    check_file(path, _MAT)
    with path.open("rb") as file:
        if file.read(10) == b"MATLAB 5.0":
            raise fault(path, "a file of the older format MATLAB 5", _MAT, "save it with the option -v7.3")
    with open_hdf5(path, _MAT) as opened:
        yield opened


def choose(path: Path, names: Sequence[str], key: str | None) -> str:
    """Return the one of the `names` in a file that `key` chooses; None = the only one.

    Raises:
        DataError: there is no such name, or there are several and no key.
    """
    if key is None and len(names) == 1:
        return names[0]
    if key in names:
        return key
    if key is None:
        got = f"{len(names)} maps ({', '.join(names)})" if names else "no map"
        fix = "choose one by its key (depth_key of a data set)" if names else "export it again"
        raise fault(path, got, "one map, or a key that chooses it", fix)
    raise fault(path, f"no key {key!r}{did_you_mean(key, names)}", "the map of that key", "name another key")


def stacks(file: h5py.File) -> dict[str, int]:
    """Return the stacks of maps of a MATLAB file: floating-point arrays of three axes, and their lengths."""
    import h5py

    items = ((name, item) for name, item in file.items() if isinstance(item, h5py.Dataset))
    return {name: len(item) for name, item in items if item.ndim == 3 and item.dtype.kind == "f"}


def count_frames(path: Path) -> int:
    """Return the number of maps in the stacks of a MATLAB file, such as nyu_depth_v2_labeled.mat.

    Raises:
        DataError: see `open_mat`; there is no stack, or they differ in length.
    """
    with open_mat(path) as file:
        lengths = stacks(file)
    if len(set(lengths.values())) != 1:
        shown = ", ".join(f"{name} of {length}" for name, length in lengths.items()) or "none"
        raise fault(path, f"stacks of maps: {shown}", "stacks of one length", "export it again")
    return next(iter(lengths.values()))


def read_mat(path: Path, key: str | None, number: int | None) -> np.ndarray:
    """Read one map of a MATLAB file; nothing else of it is read.

    Args:
        path: the file.
        key: name of the array; None = the only one.
        number: which map of a stack, from 1 as in MATLAB; None = the array is a single map.

    Returns:
        Array [H, W].

    Raises:
        DataError: see `open_mat` and `choose`; there is no map of this number.
    """
    import h5py

    with open_mat(path) as file:
        if number is None:
            names = [n for n, item in file.items() if isinstance(item, h5py.Dataset) and item.ndim == 2]
            if not names and stacks(file):
                fix = f"name one of them, such as {path.name}/0001"
                raise fault(path, f"stacks of maps ({', '.join(stacks(file))})", "one map", fix)
            return np.ascontiguousarray(file[choose(path, names, key)][()].T)
        return map_of(path, file, key, number)


def map_of(path: Path, file: h5py.File, key: str | None, number: int) -> np.ndarray:
    """Read one map of a stack of an open MATLAB file; see `read_mat`."""
    lengths = stacks(file)
    name = choose(path, list(lengths), key)
    if not 1 <= number <= lengths[name]:
        raise fault(path, f"no map {number}", f"a number from 1 to {lengths[name]}", "name another")
    return np.ascontiguousarray(file[name][number - 1].T)
