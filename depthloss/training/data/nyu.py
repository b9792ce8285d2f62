"""The `nyu-h5` layout: one HDF5 file per frame, with the keys rgb and depth."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depthloss.training.data.files import StoredDataset
from depthloss.training.data.hdf5 import open_hdf5
from depthloss.training.data.io import DataError, clean_depth, fault
from depthloss.training.data.listing import Lookup, pack, split_suffix, subset, unpack, walk
from depthloss.training.data.lists import Listed, read_split
from depthloss.training.data.transforms import Frame

_SUFFIXES = (".h5", ".hdf5")
_LAYOUT = "files NAME.h5 with the keys rgb and depth"


class NYUH5(StoredDataset):
    """NYU Depth V2 as HDF5 files of one frame each.

    Their keys: rgb, uint8 [3, H, W] or [H, W, 3], and depth, floating-point [H, W] in metres.

    Args:
        path: folder of the files, searched with its sub-folders, also linked ones.
        split: text file, absolute or below `path`, whose lines begin with the path of a file below `path`;
            further columns are ignored, lines that begin with # are comments; None = all files, in sorted
            order.
        input_depth: key of the sparse input depth in metres [H, W]; None = no input.
        mask: key of the mask [H, W], non-zero = keep; None = no mask.
        crop: what to use of every map, in training and in evaluation, as [y, height, x, width]: negative y
            and x count from the bottom and right, height and width <= 0 end that far from them, a fraction as
            y or x is the middle; or as [y, x], what to leave out at the top and left (bottom and right if
            negative). [45, 426, 41, 560] leaves out the white border of 640x480 pixels. None = all.
        offset: first frame to use.
        stride: use every `stride`-th frame.
        limit: use at most this many frames, after offset and stride.
        **common: see `DepthDataset`.

    Raises:
        DataError: h5py is not installed, files are missing, or the first one is faulty.
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        split: str | Path | None = None,
        input_depth: str | None = None,
        mask: str | None = None,
        crop: Sequence[int | float] | None = None,
        offset: int = 0,
        stride: int = 1,
        limit: int | None = None,
        **common: Any,
    ) -> None:
        if importlib.util.find_spec("h5py") is None:
            raise DataError(
                "the data set 'nyu-h5' reads HDF5 files with h5py, which is missing; pip install h5py"
            )
        super().__init__(path, _LAYOUT, crop, **common)
        # Map -> key.
        self._keys = {"rgb": "rgb", "depth": "depth"}
        self._keys |= {part: key for part, key in (("input_depth", input_depth), ("mask", mask)) if key}
        self.maps = tuple(part for part in self._keys if part in ("input_depth", "mask"))
        lookup = Lookup(self.path)
        if split is not None:
            find = functools.partial(lookup.named, suffixes=_SUFFIXES)
            frames = read_split(self.path, split, "path of an h5 file", find)
        elif not (frames := [Listed(file) for file in walk(self.path, _SUFFIXES)]):
            raise fault(self.path, "no h5 file", _LAYOUT, "check the option path")
        frames = subset(frames, offset, stride, limit, self.path, _LAYOUT)
        missing = [frame for frame in frames if not frame.found]
        self._require(missing, len(frames), self.path, "a file", "check the options path and split")
        self._files = pack(frame.name for frame in frames)
        self._check_start()

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._files)

    @property
    def unit_hint(self) -> str:
        """A question about the unit of depth, for the warning that it is probably not in metres."""
        return "is depth in metres?"

    def name(self, index: int) -> str:
        """Return the name of frame `index`: the path of its file below `path`, without the suffix."""
        return split_suffix(unpack(self._files[index]), _SUFFIXES)[0]

    def load(self, index: int) -> Frame:
        """Read frame `index` at its stored size, cropped."""
        file = self.path / unpack(self._files[index])
        arrays = _read(file, self._keys)
        depth = arrays["depth"]
        if depth.ndim != 2 or depth.dtype.kind != "f":
            raise _fault(file, "depth", depth, "floating-point depth [H, W] in metres")
        stored = arrays["rgb"]
        # By the size of the depth map, not by which axis has length 3.
        rgb = stored.transpose(1, 2, 0) if stored.shape == (3, *depth.shape) else stored
        if rgb.shape != (*depth.shape, 3) or rgb.dtype != np.uint8:
            h, w = depth.shape
            raise _fault(file, "rgb", stored, f"uint8 rgb [3, {h}, {w}] or [{h}, {w}, 3], as large as depth")
        for part in self.maps:
            kinds = "f" if part == "input_depth" else "fbiu"
            if arrays[part].shape != depth.shape or arrays[part].dtype.kind not in kinds:
                expected = f"a map {list(depth.shape)} of numbers, as large as depth"
                raise _fault(file, self._keys[part], arrays[part], expected)
        sparse, mask = arrays.get("input_depth"), arrays.get("mask")
        frame = Frame(
            np.ascontiguousarray(rgb),
            clean_depth(depth),
            None if sparse is None else clean_depth(sparse),
            None if mask is None else mask != 0,
        )
        return self._cut(frame, file)


def _read(file: Path, keys: dict[str, str]) -> dict[str, np.ndarray]:
    """Read data sets of a file whole."""
    import h5py

    expected = f"an HDF5 file with the keys {' and '.join(keys.values())}"
    with open_hdf5(file, expected, "check path and split") as h5:
        there = list(h5)
        missing = [key for key in keys.values() if not isinstance(h5.get(key), h5py.Dataset)]
        arrays = {} if missing else {part: np.asarray(h5[key][()]) for part, key in keys.items()}
    if missing:
        got = f"no {' and no '.join(map(repr, missing))} (it has {', '.join(there) or 'no key'})"
        raise fault(file, got, expected, "export it again")
    return arrays


def _fault(file: Path, key: str, array: np.ndarray, expected: str) -> DataError:
    return fault(file, f"{key} of {array.dtype} {list(array.shape)}", expected, "export it again")
