"""The `nyu-labeled` layout: NYU Depth V2 in one file, nyu_depth_v2_labeled.mat, as its authors publish it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depthloss.training.data.files import StoredDataset
from depthloss.training.data.hdf5 import choose, count_frames, map_of, open_mat
from depthloss.training.data.io import clean_depth, fault, logger
from depthloss.training.data.listing import subset
from depthloss.training.data.lists import Listed, read_split
from depthloss.training.data.transforms import Frame
from depthloss.training.errors import did_you_mean

_FILE = "nyu_depth_v2_labeled.mat"
_KEYS = {"raw": "rawDepths", "filled": "depths"}
_LAYOUT = f"{_FILE} with the arrays images, {' and '.join(_KEYS.values())}"


class NYULabeled(StoredDataset):
    """The 1449 labelled frames of NYU Depth V2: 480x640 pixels, depth in metres.

    A frame is read alone, out of a file of 3 GB. Its name is its number from 1, with four digits, as in the
    authors' splits.mat.

    Args:
        path: folder of nyu_depth_v2_labeled.mat, or the file itself under any name.
        depth: "raw" = as the sensor measured it, with holes; "filled" = with holes painted in.
        split: text file with one number per line, absolute or beside the file; further columns are ignored,
            lines that begin with # are comments. None = all frames.
        crop: what to use of every map, in training and in evaluation, as [y, height, x, width]: negative y
            and x count from the bottom and right, height and width <= 0 end that far from them, a fraction as
            y or x is the middle; or as [y, x], what to leave out at the top and left (bottom and right if
            negative). [45, 426, 41, 560] leaves out the white border. None = all.
        offset: first frame to use.
        stride: use every `stride`-th frame.
        limit: use at most this many frames, after offset and stride.
        **common: see `DepthDataset`.

    Raises:
        DataError: the file is missing, damaged or of the older MATLAB format, or a number of the split is
            that of no frame.
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        depth: str = "raw",
        split: str | Path | None = None,
        crop: Sequence[int | float] | None = None,
        offset: int = 0,
        stride: int = 1,
        limit: int | None = None,
        **common: Any,
    ) -> None:
        file = Path(path).expanduser()
        file = file if file.suffix.lower() == ".mat" else file / _FILE
        super().__init__(file.parent, _LAYOUT, crop, **common)
        if depth not in _KEYS:
            raise ValueError(f"depth: no {depth!r}{did_you_mean(depth, _KEYS)}")
        self.file, self._key = file, _KEYS[depth]
        total = count_frames(file)

        def find(name: str) -> str | None:
            known = name.isdecimal() and 1 <= int(name) <= total
            return f"{int(name):04d}" if known else None

        if split is not None:
            frames = read_split(self.path, split, f"number of a frame, 1 to {total}", find)
        else:
            frames = [Listed(f"{number:04d}") for number in range(1, total + 1)]
        frames = subset(frames, offset, stride, limit, self.path, _LAYOUT)
        if missing := [frame for frame in frames if not frame.found]:
            fix = "correct the split"
            raise fault(file, f"no frame for {missing[0]}", f"numbers from 1 to {total}", fix)
        self._numbers = np.array([int(frame.name) for frame in frames])
        logger.info("%s: %s depth (%s)", file, depth, self._key)
        self._check_start()

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._numbers)

    def name(self, index: int) -> str:
        """Return the name of frame `index`: its number in the file, from 1, with four digits."""
        return f"{self._numbers[index]:04d}"

    def load(self, index: int) -> Frame:
        """Read frame `index` at its stored size, cropped."""
        rgb, depth = _read(self.file, self._key, int(self._numbers[index]))
        return self._cut(Frame(rgb, clean_depth(depth)), self.file)


def _read(path: Path, key: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the picture [H, W, 3] and the depth map [H, W] of a frame, and nothing else of the file."""
    with open_mat(path) as file:
        depth = map_of(path, file, key, number)
        stored = file[choose(path, list(file), "images")]
        wanted = (3, *depth.shape[::-1])
        if stored.shape[1:] != wanted or stored.dtype != np.uint8:
            got, size = f"images of {stored.dtype} {list(stored.shape)}", ", ".join(map(str, wanted))
            raise fault(path, got, f"uint8 [N, {size}], as large as {key}", "copy it again")
        return np.ascontiguousarray(stored[number - 1].T), depth
