"""The `rgbd-folder` layout: rgb/, depth/ and, if there are any, input_depth/, mask/ and classes/."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depthloss.training.data.files import FileDataset, Reader
from depthloss.training.data.io import clean_depth, fault, logger, not_a_folder, read_mask, read_rgb
from depthloss.training.data.listing import (
    PNG,
    RGB_SUFFIXES,
    by_name,
    entries,
    pack,
    split_suffix,
    subset,
    unpack,
)
from depthloss.training.data.lists import Listed, read_split, spellings
from depthloss.training.data.maps import FORMATS, check_invalid, check_packages, read_map
from depthloss.training.errors import did_you_mean

_LAYOUT = "rgb/NAME.{png,jpg,jpeg} with depth/NAME.png (npy, exr, ...)"
_ONE = "remove one of the two, or choose with the option depth_suffix"


class RGBDFolder(FileDataset):
    """RGB-D frames in folders; covers TUM, 7-Scenes, NYUv2 PNG, iBims and KITTI depth completion selections.

    Names may contain sub-folders, also linked ones, and are used in sorted order; suffixes count in any case.
    Only names are kept in memory. The first frame is read at start-up, so that a wrong bit depth or size
    shows before training; `check` reads all of them.

    Depth maps, ground truth and input, may have any format of `maps.FORMATS`: 16-bit PNG, npy, npz, TIFF,
    PFM, EXR, HDF5, MATLAB. A pixel whose depth is zero, negative, NaN, infinite or in `invalid` has none.

    Args:
        path: folder that holds `rgb/` and `depth/`.
        depth_scale: units per metre in depth/ and the input depth, where they hold integers (256 KITTI, 1000
            millimetres, 5000 TUM); floating-point values are metres.
        depth_key: name of the map in their npz, HDF5 or MATLAB files, channel of their EXR files; None = the
            only one there is.
        depth_suffix: suffix of their files, such as .npy, where there are others of the same names; None =
            any.
        invalid: numbers in them that mean "no depth" beside 0, as they are stored, such as [65535].
        hypersim_distance: true = they hold Hypersim's distances to the camera's centre, which are turned into
            depth; false, or None = depth. None is an error for files named *depth_meters.hdf5.
        input_depth: folder of the sparse input below `path`; "auto" = `input_depth` if it exists; None = no
            input.
        mask: folder of masks below `path`, or one mask image for all frames; "auto" = `mask` if it exists;
            None = no mask. Non-zero = keep.
        classes: object classes to evaluate, with masks classes/CLASS/NAME.png (non-zero = of the class);
            "auto" = all there are, None = none. A class without a mask for a frame is not in that frame.
        names: frame names to use, in this order; None = all.
        split: text file with one name per line, absolute or below `path`; it may begin with rgb/ and have an
            image suffix, further columns are ignored, lines that begin with # are comments.
        offset: first frame to use.
        stride: use every `stride`-th frame.
        limit: use at most this many frames, after offset and stride.
        **common: see `DepthDataset`.

    Raises:
        DataError: a folder is missing or empty, files of a frame are missing, or the first frame is faulty.
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        depth_scale: float = 256.0,
        depth_key: str | None = None,
        depth_suffix: str | None = None,
        invalid: Sequence[float] = (),
        hypersim_distance: bool | None = None,
        input_depth: str | None = "auto",
        mask: str | None = "auto",
        classes: Sequence[str] | str | None = "auto",
        names: Sequence[str] | None = None,
        split: str | Path | None = None,
        offset: int = 0,
        stride: int = 1,
        limit: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(path, _LAYOUT, **common)
        if not 0 < depth_scale < float("inf"):
            raise ValueError(f"depth_scale must be a positive number of units per metre, got {depth_scale!r}")
        if depth_suffix is not None and depth_suffix.lower() not in FORMATS:
            raise ValueError(f"depth_suffix: no format {depth_suffix!r}{did_you_mean(depth_suffix, FORMATS)}")
        if names is not None and split is not None:
            raise ValueError("give either names or split, not both")
        if isinstance(names, str):
            raise ValueError(f"names must be a list of frame names, got the string {names!r}")
        self.depth_scale = float(depth_scale)
        # What `read_map` is told of every depth map.
        self._form = {
            "key": depth_key,
            "scale": self.depth_scale,
            "invalid": check_invalid(invalid),
            "hypersim_distance": hypersim_distance,
        }
        rgb = _scan(self.path / "rgb", RGB_SUFFIXES)
        suffixes = tuple(FORMATS) if depth_suffix is None else (depth_suffix.lower(),)
        depth = _scan(self.path / "depth", suffixes, _ONE)
        self._input_folder = self._optional("input_depth", input_depth)
        self._mask_folder = self._optional("mask", mask)
        if self._mask_folder is not None and self._mask_folder.is_file():
            self._share_mask(self._mask_folder)
            self._mask_folder = None

        known = rgb.keys() | depth.keys()

        def find(name: str) -> str | None:
            tries = spellings(name, self.path, "rgb")
            tries += [split_suffix(name, RGB_SUFFIXES)[0] for name in tries]
            return next((name for name in tries if name in known), None)

        fix = "correct the list of names"
        if split is not None:
            chosen = read_split(self.path, split, "frame name", find)
        elif names is not None:
            chosen = [Listed(find(name) or name) for name in names]
        else:
            chosen = [Listed(name) for name in sorted(known)]
            fix = "add the files or choose frames with names or split"
        chosen = subset(chosen, offset, stride, limit, self.path, _LAYOUT)
        folders = {"rgb": (self.path / "rgb", rgb), "depth": (self.path / "depth", depth)}
        for part, folder in (("input_depth", self._input_folder), ("mask", self._mask_folder)):
            if folder is not None:
                folders[part] = (folder, _scan(folder, *((PNG,) if part == "mask" else (suffixes, _ONE))))
        for part, (folder, there) in folders.items():
            form = "NAME.{png,jpg,jpeg}" if part == "rgb" else f"NAME{next(iter(there.values())).lower()}"
            missing = [frame for frame in chosen if frame.name not in there]
            self._require(missing, len(chosen), folder, form, fix)
            check_packages(folder, list(there.values()))
        root = self.path / "classes"
        self._choose_classes([root], classes, root)
        self._names = pack(frame.name for frame in chosen)
        # By map: its folder, and the suffix of every frame there.
        self._maps = {
            part: (folder, pack(there.get(frame.name, ".png") for frame in chosen))
            for part, (folder, there) in folders.items()
        }
        # By class likewise, "" for a frame without a mask of it.
        self._masks = []
        for folder in (root / name for name in self.class_names):
            there = by_name(folder, PNG)
            self._masks.append((folder, pack(there.get(frame.name, "") for frame in chosen)))
        self._check_start()

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._names)

    @property
    def unit_hint(self) -> str:
        """A question about the unit of depth, for the warning that it is probably not in metres."""
        question = f"is depth_scale={self.depth_scale:g} right?"
        if unpack(self._maps["depth"][1][0]).lower() == ".png":
            return question
        return f"is it in metres, or if it is integers, {question}"

    def name(self, index: int) -> str:
        """Return the name of frame `index`: its path below rgb/ without the suffix."""
        return unpack(self._names[index])

    def files(self, index: int) -> dict[str, tuple[Path, Reader]]:
        """Return the files of frame `index` and what reads each."""
        name, read = self.name(index), {"rgb": read_rgb, "mask": read_mask}
        return {
            part: (folder / f"{name}{unpack(suffixes[index])}", read.get(part, self._read_depth))
            for part, (folder, suffixes) in self._maps.items()
        }

    def class_files(self, index: int) -> list[list[Path]]:
        """Return the mask of frame `index` for each class that it has one of."""
        name = self.name(index)
        masks = ((folder, unpack(suffixes[index])) for folder, suffixes in self._masks)
        return [[folder / f"{name}{suffix}"] if suffix else [] for folder, suffix in masks]

    def _read_depth(self, path: Path) -> np.ndarray:
        return clean_depth(read_map(path, **self._form))

    def _optional(self, default: str, option: str | None) -> Path | None:
        """Resolve the folder option `default`; "auto" takes the folder of that name if it is there."""
        if option is None or option == "none":
            return None
        target = self.path / (default if option == "auto" else Path(option).expanduser())
        if option == "auto":
            if not os.path.exists(target):
                return None
            logger.info("%s: using %s/ (switch off with %s=null)", self.path, default, default)
        elif not os.path.exists(target):
            got = f"no such folder{did_you_mean(option, entries(self.path)[0])}"
            raise fault(target, got, f"the {default} of every frame", f"check the option {default}")
        return target


def _scan(root: Path, suffixes: tuple[str, ...], fix: str | None = None) -> dict[str, str]:
    """Return {name: suffix} of the files below `root`; `fix` says what to do about two of one name."""
    if got := not_a_folder(root):
        raise fault(root, got, f"the layout {_LAYOUT}", "check path and the folder options")
    found = by_name(root, suffixes, fix=fix)
    if not found:
        what = "no image" if suffixes in (RGB_SUFFIXES, PNG) else "no map"
        raise fault(root, what, f"files NAME with suffix {', '.join(suffixes)}", "check the folder")
    return found
