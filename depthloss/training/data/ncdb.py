"""The `ncdb` layout: sequences of camera images and depth maps, with splits as JSON."""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from depthloss.training.data.files import FileDataset, Reader
from depthloss.training.data.io import fault, logger, read_depth_png, read_rgb
from depthloss.training.data.listing import RGB_SUFFIXES, pack, subset, unpack

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
        table = sorted({sequence for sequence, _ in frames})
        row = {sequence: i for i, sequence in enumerate(table)}
        self._row = np.array([row[sequence] for sequence, _ in frames], np.int32)
        self._stems = pack(stem for _, stem in frames)
        self._input = None if input_depth in (None, "none") else input_depth
        # Sequence, image folder, image suffix, depth folder.
        self._sequences = [(*entry, self._depth_folder(entry[0], depth_folder)) for entry in table]
        if mask == "auto":
            mask = "binary_mask.png" if (self.path / "binary_mask.png").is_file() else None
            if mask:
                logger.info("%s: using %s (switch off with mask=null)", self.path, mask)
        if mask not in (None, "none"):
            self._share_mask(self.path / Path(mask).expanduser())
        for files in zip(*(self._relative(i) for i in range(len(frames))), strict=True):
            self._require_present(list(files), "add the files or correct the split")
        roots = [self.path / entry[0] / _CLASSES for entry in table]
        folders = (folder for root in roots if root.is_dir() for folder in root.iterdir())
        self._choose_classes(folders, classes, self.path / "*" / _CLASSES)
        # Masks of classes as sorted "ROW/CLASS/FILE": those of a frame are neighbours.
        self._masks = np.sort(
            pack(
                f"{row}/{name}/{file}"
                for row, root in enumerate(roots)
                for name in self.class_names
                if (root / name).is_dir()
                for file in os.listdir(root / name)
                if file.endswith(".png")
            )
        )
        self._check_start("is it a 16-bit PNG of metres * 256?")

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._stems)

    def name(self, index: int) -> str:
        """Return the name of frame `index`: its sequence and stem."""
        sequence = self.path / self._sequences[self._row[index]][0]
        if sequence.is_relative_to(self.path):
            sequence = sequence.relative_to(self.path)
        return (sequence / unpack(self._stems[index])).as_posix()

    def files(self, index: int) -> dict[str, tuple[Path, Reader]]:
        """Return the files of frame `index` and what reads each."""
        rgb, depth, *sparse = (self.path / file for file in self._relative(index))
        files: dict[str, tuple[Path, Reader]] = {"rgb": (rgb, read_rgb), "depth": (depth, _read_depth)}
        if sparse:
            files["input_depth"] = (sparse[0], _read_depth)
        return files

    def class_files(self, index: int) -> list[list[Path]]:
        """Return the masks of frame `index` for each class."""
        row, stem = self._row[index], unpack(self._stems[index])
        sequence, images, suffix, _ = self._sequences[row]
        folder = self.path / sequence
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
                    (folder / images / f"{stem}{rest[: k + 1]}{suffix}").exists() for k in range(len(rest))
                ):
                    group.append(folder / _CLASSES / name / file)
            found.append(group)
        return found

    def _relative(self, index: int) -> list[str]:
        """Paths of image, depth and, if there is one, input depth, below `path`."""
        sequence, images, suffix, depth = self._sequences[self._row[index]]
        stem = unpack(self._stems[index])
        folders = [depth] if self._input is None else [depth, self._input]
        return [f"{sequence}/{images}/{stem}{suffix}", *(f"{sequence}/{f}/{stem}.png" for f in folders)]

    def _depth_folder(self, sequence: str, option: str) -> str:
        names = DEPTH_FOLDERS if option == "auto" else (option,)
        folder = self.path / sequence
        for name in names:
            if (folder / name).is_dir():
                return name
        got = "no folder of depth maps" if folder.is_dir() else "no such folder"
        raise fault(
            folder,
            got,
            f"a sequence with {' or '.join(names)}",
            "check the split and the option depth_folder",
        )


def _read_frames(file: Path) -> list[tuple[tuple[str, str, str], str]]:
    """Frames of a split: ((sequence, image folder, image suffix), stem)."""
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise fault(file, "no such file", _ENTRIES, "check the options path and split") from None
    except (OSError, ValueError) as error:
        raise fault(file, f"a file that is no JSON ({error})", _ENTRIES, "write it again") from error
    if not isinstance(entries, list) or not entries:
        raise fault(file, "no list of frames", _ENTRIES, "write it again")
    frames = []
    for i, entry in enumerate(entries):
        frame = _frame(entry) if isinstance(entry, dict) else None
        if frame is None:
            raise fault(file, f"entry {i}: {json.dumps(entry)[:200]}", _ENTRIES, "correct the entry")
        frames.append(frame)
    return frames


def _frame(entry: dict[str, Any]) -> tuple[tuple[str, str, str], str] | None:
    root, stem, image = (entry.get(key) for key in ("dataset_root", "new_filename", "image_path"))
    if isinstance(root, str) and isinstance(stem, str) and stem:
        stem = stem.removesuffix(next((s for s in RGB_SUFFIXES if stem.endswith(s)), ""))
        return (root.rstrip("/"), _IMAGES, ".png"), stem
    if isinstance(image, str) and (path := PurePosixPath(image)).suffix in RGB_SUFFIXES:
        return (str(path.parent.parent), path.parent.name, path.suffix), path.stem
    return None


def _read_depth(path: Path) -> np.ndarray:
    return read_depth_png(path, _SCALE)
