"""The `kitti` layout: KITTI raw with depth maps in proj_depth/ and a split file, as packnet-sfm has it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depthloss.training.data.files import FileDataset, Reader, some
from depthloss.training.data.io import fault, logger, read_depth_npz, read_depth_png, read_rgb
from depthloss.training.data.listing import PNG, RGB_SUFFIXES, Lookup, pack, subset, unpack
from depthloss.training.data.lists import Listed, read_split

_LAYOUT = "DATE/DRIVE_sync/image_02/data/FRAME.png and DATE/DRIVE_sync/proj_depth/"

# Types of depth that are 16-bit PNG; the others are npz files.
_PNG_TYPES = ("groundtruth", "velodyne_raw")
_PNG_SCALE = 256.0
_NPZ_KEY = "velodyne_depth"


class KITTI(FileDataset):
    """Frames of KITTI raw that a split file names.

    The image DRIVE/image_02/data/FRAME.png has its depth in DRIVE/proj_depth/TYPE/image_02/FRAME: for the
    types groundtruth and velodyne_raw a 16-bit PNG of metres * 256, for others such as velodyne an npz file
    with the key velodyne_depth in metres. Frames that lack a depth file are left out; a warning counts them.

    Args:
        path: folder that holds the folders of the dates.
        split: text file, absolute or below `path`, whose lines begin with the path of an image below `path`;
            further columns are ignored, lines that begin with # are comments.
        depth_type: type of the ground truth.
        input_depth_type: type of the sparse input depth; None = no input.
        crop: what to use of every map, in training and in evaluation, as [y, height, x, width]: negative y
            and x count from the bottom and right, height and width <= 0 end that far from them, a fraction as
            y or x is the middle; or as [y, x], what to leave out at the top and left (bottom and right if
            negative). [-352, 0, 0.5, 1216] is the bottom 352 rows and the middle 1216 columns. None = all.
        mask: a mask image for all frames, absolute or below `path`; non-zero = keep. None = no mask.
        offset: first frame of the split to use.
        stride: use every `stride`-th frame.
        limit: use at most this many frames, after offset and stride.
        **common: see `DepthDataset`.

    Raises:
        DataError: files are missing, no frame is left, or the first frame is faulty.
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        split: str | Path,
        depth_type: str = "groundtruth",
        input_depth_type: str | None = None,
        crop: Sequence[int | float] | None = None,
        mask: str | None = None,
        offset: int = 0,
        stride: int = 1,
        limit: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(path, _LAYOUT, crop, **common)
        if not depth_type:
            raise ValueError("depth_type must name a folder of proj_depth/, such as groundtruth")
        # Map -> type of depth.
        self._types = {"depth": depth_type}
        if input_depth_type not in (None, "", "none"):
            self._types["input_depth"] = input_depth_type
        if mask not in (None, "none"):
            self._share_mask(self.path / Path(mask).expanduser())
        lookup = Lookup(self.path)
        find = functools.partial(lookup.named, suffixes=RGB_SUFFIXES)
        frames = read_split(self.path, split, "image path", find)
        for frame in frames:
            if _parts(frame.name) is None:
                raise fault(
                    self.path / Path(split).expanduser(), f"the image path {frame.name!r} ({frame.where})",
                    "DATE/DRIVE_sync/image_02/data/FRAME.png, below the option path",
                    "give the split file of this layout, such as eigen_zhou_files.txt",
                )  # fmt: skip
        frames = subset(self._with_depth(frames, lookup), offset, stride, limit, self.path, _LAYOUT)
        missing = [frame for frame in frames if not frame.found]
        self._require(missing, len(frames), self.path, "a picture", "check the options path and split")
        self._images = pack(frame.name for frame in frames)
        # By map: the suffix of every frame's depth map.
        self._suffixes = {
            part: pack(lookup.suffix(_depth_file(frame.name, kind), _suffixes(kind)) for frame in frames)
            for part, kind in self._types.items()
        }
        self._check_start()

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._images)

    @property
    def unit_hint(self) -> str:
        """A question about the unit of depth, for the warning that it is probably not in metres."""
        return f"is proj_depth/{self._types['depth']} in metres?"

    def name(self, index: int) -> str:
        """Return the name of frame `index`: the path of its image below `path`, without the suffix."""
        return unpack(self._images[index]).rsplit(".", 1)[0]

    def files(self, index: int) -> dict[str, tuple[Path, Reader]]:
        """Return the files of frame `index` and what reads each."""
        image = unpack(self._images[index])
        files: dict[str, tuple[Path, Reader]] = {"rgb": (self.path / image, read_rgb)}
        for part, kind in self._types.items():
            files[part] = (
                self.path / f"{_depth_file(image, kind)}{unpack(self._suffixes[part][index])}",
                _read_png if kind in _PNG_TYPES else _read_npz,
            )
        return files

    def _with_depth(self, frames: list[Listed], lookup: Lookup) -> list[Listed]:
        """The frames that have every depth map they need."""
        keep: list[Listed] = []
        lost: list[Listed] = []  # with the name of the file that is missing
        for frame in frames:
            wanted = ((_depth_file(frame.name, kind), _suffixes(kind)) for kind in self._types.values())
            missing = next((f"{n}{s[0]}" for n, s in wanted if lookup.suffix(n, s) is None), None)
            if missing is None:
                keep.append(frame)
            else:
                lost.append(frame._replace(name=missing))
        if not keep:
            raise fault(
                self.path, f"no depth file for any of {len(frames)} frames ({lost[0].name}, ...)",
                "proj_depth/TYPE of every drive", "check path and the depth types",
            )  # fmt: skip
        if lost:
            logger.warning(
                "%s: %d of %d frames are left out as they have no depth file: %s",
                self.path, len(lost), len(frames), some(lost),
            )  # fmt: skip
        return keep


def _parts(image: str) -> tuple[str, str, str] | None:
    """Drive, camera and frame of an image path, or None if it is no such path."""
    drive, camera, data, file = ("", "", "", *image.rsplit("/", 3))[-4:]
    if not drive or image.startswith("/") or not camera.startswith("image_") or data != "data":
        return None
    return drive, camera, file.rsplit(".", 1)[0]


def _depth_file(image: str, kind: str) -> str:
    """Path of a depth map below the data set, without suffix."""
    drive, camera, frame = _parts(image)
    return f"{drive}/proj_depth/{kind}/{camera}/{frame}"


def _suffixes(kind: str) -> tuple[str, ...]:
    return PNG if kind in _PNG_TYPES else (".npz",)


def _read_png(path: Path) -> np.ndarray:
    return read_depth_png(path, _PNG_SCALE)


def _read_npz(path: Path) -> np.ndarray:
    return read_depth_npz(path, _NPZ_KEY)
