"""The `ncdb` layout: sequences of camera images and depth maps, with splits as JSON."""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from depthloss.training.data.files import FileDataset, Reader
from depthloss.training.data.io import fault, logger, not_a_folder, read_depth_png, read_rgb
from depthloss.training.data.listing import (
    PNG,
    RGB_SUFFIXES,
    Lookup,
    by_name,
    pack,
    split_suffix,
    subset,
    unpack,
)
from depthloss.training.data.lists import Listed, plain_path, read_text

DEPTH_FOLDERS = ("newest_depth_maps", "newest_synthetic_depth_maps", "new_depth_maps", "depth_maps")
SPLITS = ("train", "val", "test")
_IMAGES = "image_a6"
_CLASSES = "segmentation_results/class_masks"
_SCALE = 256.0
_LAYOUT = "splits/combined_{train,val,test}.json and sequences with image_a6/STEM.png"
_ENTRIES = 'a JSON list of {"dataset_root": SEQUENCE, "new_filename": STEM} or {"image_path": FILE}'


class NCDB(FileDataset):
    """Frames of NCDB sequences.

    Depth is a 16-bit PNG of metres * 256 whatever its largest value is.

    Args:
        path: folder that holds `splits/`; relative sequences of a split lie below it.
        split: "train", "val" or "test" = splits/combined_SPLIT.json; or a JSON file, absolute or below
            `path`.
        depth_folder: folder of the depth maps in a sequence; "auto" = the first that exists of
            newest_depth_maps, newest_synthetic_depth_maps, new_depth_maps and depth_maps.
        input_depth: folder of the sparse input depth in a sequence; None = no input.
        mask: a mask image for all frames, absolute or below `path`, non-zero = keep; "auto" =
            binary_mask.png if it exists; None = no mask.
        classes: object classes to evaluate, of segmentation_results/class_masks in the sequences; "auto" =
            all, None = none. The masks CLASS/STEM*.png of a frame are united; a class without a mask is not
            in that frame.
        offset: first frame of the split to use.
        stride: use every `stride`-th frame.
        limit: use at most this many frames, after offset and stride.
        **common: see `DepthDataset`.

    Raises:
        DataError: the split or files are missing or faulty, or the first frame is.
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        path: str | Path,
        split: str | Path,
        depth_folder: str = "auto",
        input_depth: str | None = None,
        mask: str | None = "auto",
        classes: Sequence[str] | str | None = "auto",
        offset: int = 0,
        stride: int = 1,
        limit: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(path, _LAYOUT, **common)
        name = f"splits/combined_{split}.json" if split in SPLITS else split
        frames = _read_frames(self.path / Path(name).expanduser())
        frames = subset(frames, offset, stride, limit, self.path, _LAYOUT)
        # A frame is a row of `_sequences` and a stem: the same few paths are not kept 20,000 times.
        table = sorted({(frame.sequence, frame.images) for frame in frames})
        row = {entry: i for i, entry in enumerate(table)}
        self._row = np.array([row[frame.sequence, frame.images] for frame in frames], np.int32)
        self._stems = pack(frame.stem for frame in frames)
        sparse = {} if input_depth in (None, "none") else {"input_depth": input_depth}
        # Sequence, and the folder of every map in it.
        self._sequences = [
            (sequence, {"rgb": images, "depth": self._depth_folder(sequence, depth_folder), **sparse})
            for sequence, images in table
        ]
        if mask == "auto":
            mask = "binary_mask.png" if (self.path / "binary_mask.png").is_file() else None
            if mask:
                logger.info("%s: using %s (switch off with mask=null)", self.path, mask)
        if mask not in (None, "none"):
            self._share_mask(self.path / Path(mask).expanduser())
        lookup = Lookup(self.path)
        # By map: the suffix of every frame's file.
        self._suffixes = {
            part: self._find(part, frames, lookup, Path(name).name) for part in self._sequences[0][1]
        }
        roots = [self.path / sequence / _CLASSES for sequence, _ in table]
        self._choose_classes(roots, classes, self.path / "*" / _CLASSES)
        # Masks of classes as sorted "ROW/CLASS/FILE": those of a frame are neighbours.
        self._masks = np.sort(
            pack(
                f"{row}/{name}/{stem}{suffix}"
                for row, root in enumerate(roots)
                for name in self.class_names
                if (root / name).is_dir()
                for stem, suffix in by_name(root / name, PNG, deep=False).items()
            )
        )
        self._check_start()

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._stems)

    @property
    def unit_hint(self) -> str:
        """A question about the unit of depth, for the warning that it is probably not in metres."""
        return "is it a 16-bit PNG of metres * 256?"

    def name(self, index: int) -> str:
        """Return the name of frame `index`: its sequence and stem."""
        sequence = self.path / self._sequences[self._row[index]][0]
        if sequence.is_relative_to(self.path):
            sequence = sequence.relative_to(self.path)
        return (sequence / unpack(self._stems[index])).as_posix()

    def files(self, index: int) -> dict[str, tuple[Path, Reader]]:
        """Return the files of frame `index` and what reads each."""
        return {
            part: (
                self.path / f"{self._name(part, index)}{unpack(suffixes[index])}",
                read_rgb if part == "rgb" else _read_depth,
            )
            for part, suffixes in self._suffixes.items()
        }

    def class_files(self, index: int) -> list[list[Path]]:
        """Return the masks of frame `index` for each class."""
        row, stem = self._row[index], unpack(self._stems[index])
        folder = self.path / self._sequences[row][0]
        images, suffix = self._name("rgb", index), unpack(self._suffixes["rgb"][index])
        found = []
        for name in self.class_names:
            key = os.fsencode(f"{row}/{name}/{stem}")
            start = bisect.bisect_left(self._masks, key)
            group = []
            for packed in self._masks[start:]:
                if not packed.startswith(key):
                    break
                file = unpack(packed).rsplit("/", 1)[1]
                rest = file[len(stem) : -len(".png")]
                # STEM_10.png may be a mask of the frame STEM, or of a frame STEM_1 or STEM_10.
                if not any(
                    (self.path / f"{images}{rest[: k + 1]}{suffix}").exists() for k in range(len(rest))
                ):
                    group.append(folder / _CLASSES / name / file)
            found.append(group)
        return found

    def _name(self, part: str, index: int) -> str:
        """Path of a map of frame `index` below `path`, without suffix."""
        sequence, folders = self._sequences[self._row[index]]
        return f"{sequence}/{folders[part]}/{unpack(self._stems[index])}"

    def _find(self, part: str, frames: list[_Entry], lookup: Lookup, split: str) -> np.ndarray:
        """The suffixes of a map of all frames, which must be there."""
        suffixes, missing = [], []
        for i, frame in enumerate(frames):
            name, first = self._name(part, i), (frame.suffix or ".png") if part == "rgb" else ""
            suffix = lookup.suffix(name, RGB_SUFFIXES if part == "rgb" else PNG, first)
            if suffix is None:
                missing.append(Listed(f"{name}{first or '.png'}", f"entry {frame.number} of {split}", False))
            suffixes.append(suffix or first or ".png")
        self._require(missing, len(frames), self.path, "a file", "add the files or correct the split")
        return pack(suffixes)

    def _depth_folder(self, sequence: str, option: str) -> str:
        names = DEPTH_FOLDERS if option == "auto" else (option,)
        folder = self.path / sequence
        for name in names:
            if (folder / name).is_dir():
                return name
        got = not_a_folder(folder) or "no folder of depth maps"
        raise fault(
            folder,
            got,
            f"a sequence with {' or '.join(names)}",
            "check the split and the option depth_folder",
        )


class _Entry(NamedTuple):
    """A frame of a split: its number, sequence, folder of images in it, stem, and the suffix if given."""

    number: int
    sequence: str
    images: str
    stem: str
    suffix: str


def _read_frames(file: Path) -> list[_Entry]:
    try:
        listed = json.loads(read_text(file, _ENTRIES, "check the options path and split"))
    except ValueError as error:
        raise fault(file, f"a file that is no JSON ({error})", _ENTRIES, "write it again") from error
    except RecursionError as error:
        raise fault(file, "JSON that is nested too deeply", _ENTRIES, "write it again") from error
    if not isinstance(listed, list) or not listed:
        raise fault(file, "no list of frames", _ENTRIES, "write it again")
    frames = []
    for i, entry in enumerate(listed):
        frame = _frame(i, entry) if isinstance(entry, dict) else None
        if frame is None:
            raise fault(file, f"entry {i}: {json.dumps(entry)[:200]}", _ENTRIES, "correct the entry")
        frames.append(frame)
    return frames


def _frame(number: int, entry: dict[str, Any]) -> _Entry | None:
    root, stem, image = (entry.get(key) for key in ("dataset_root", "new_filename", "image_path"))
    if isinstance(root, str) and isinstance(stem, str) and stem:
        return _Entry(number, plain_path(root), _IMAGES, *split_suffix(plain_path(stem), RGB_SUFFIXES))
    if isinstance(image, str):
        path = PurePosixPath(plain_path(image))
        stem, suffix = split_suffix(path.name, RGB_SUFFIXES)
        if suffix:
            return _Entry(number, str(path.parent.parent), path.parent.name, stem, suffix)
    return None


def _read_depth(path: Path) -> np.ndarray:
    return read_depth_png(path, _SCALE)
