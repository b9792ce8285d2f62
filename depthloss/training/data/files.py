"""What the data sets share whose maps lie in files of their own: reading a frame, its faults, its crop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from depthloss.training.data.base import DepthDataset
from depthloss.training.data.crop import Borders, check_crop, crop_window
from depthloss.training.data.io import DataError, fault, logger, not_a_folder, read_mask, read_rgb
from depthloss.training.data.listing import entries
from depthloss.training.data.lists import Listed
from depthloss.training.data.transforms import Frame, Window
from depthloss.training.errors import did_you_mean

Reader = Callable[[Path], np.ndarray]


class StoredDataset(DepthDataset):
    """Frames that lie below a folder.

    Args:
        path: the folder.
        layout: what it should hold, for the error.
        crop: what is used of every map, in training and in evaluation; see `check_crop`.
        **common: see `DepthDataset`.

    Raises:
        DataError: `path` is no folder.
        ValueError: the crop has another form.
    """

    def __init__(self, path: str | Path, layout: str, crop: Borders | None = None, **common: Any) -> None:
        super().__init__(**common)
        self.path = Path(path).expanduser()
        if got := not_a_folder(self.path):
            several = {",", "["} & set(str(path))
            fix = "give a single folder as the option path" if several else "check the option path"
            raise fault(self.path.absolute(), got, f"a folder with {layout}", fix)
        self.crop = check_crop(crop)

    def _cut(self, frame: Frame, file: Path) -> Frame:
        """Crop a frame whose maps are of one size; `file` is named if it is too small."""
        if not self.crop:
            return frame
        try:
            window = crop_window(self.crop, frame.depth.shape)
        except ValueError as error:
            raise fault(file, str(error), "a larger image", "change the option crop") from error
        rows, columns = window
        place = Window(frame.depth.shape, (rows.start, rows.stop), (columns.start, columns.stop))
        return replace(frame.map(lambda a: a[window]), window=place)

    def _check_start(self) -> None:
        """Read the first frame, so that a wrong bit depth, size or unit shows before training.

        Raises:
            DataError: it cannot be read; with `skip_bad_frames` none of the first `MAX_TRIES` can.
        """
        frame, at, _ = self._next_readable(0)
        if not frame.depth.any():
            logger.warning(
                "%s: frame %s has no depth between %g and %g m; %s",
                self.path, self.name(at), self.min_depth, self.max_depth, self.unit_hint,
            )  # fmt: skip

    def _require(
        self, missing: Sequence[str | Listed], total: int, folder: Path, form: str, fix: str
    ) -> None:
        """Raise, or warn with `skip_bad_frames`, if some of `total` frames have no file in `folder`."""
        if not missing:
            return
        shown = some(missing)
        error = fault(
            folder, f"no file for {len(missing)} of {total} frames ({shown})", f"{form} for every frame", fix
        )
        if not self.skip_bad_frames or len(missing) == total:
            raise error
        logger.warning("%s", error)


def some(names: Sequence[str | Listed]) -> str:
    """Return the first names of many, for a message."""
    return ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")


class FileDataset(StoredDataset):
    """Frames whose maps lie in image files of their own.

    A subclass gives `__len__`, `name` and `files`, and `class_files` if it has classes.
    """

    # One mask for all frames is read once: its file and bool [H, W].
    _mask: tuple[Path, np.ndarray] | None = None

    @abstractmethod
    def files(self, index: int) -> dict[str, tuple[Path, Reader]]:
        """Return the file of every map of frame `index` by the map's name in `Frame`, and what reads it."""

    def class_files(self, index: int) -> list[list[Path]]:
        """Return the masks of frame `index` for each of `class_names`; those of one class are united."""
        return [[] for _ in self.class_names]

    @property
    def maps(self) -> tuple[str, ...]:
        """The optional maps that every frame has."""
        return tuple(part for part in self._map_files(0) if part not in ("rgb", "depth"))

    def _map_files(self, index: int) -> dict[str, tuple[Path, Reader]]:
        files = self.files(index)
        if self._mask is not None:
            file, mask = self._mask
            files["mask"] = (file, lambda _: mask)
        return files

    def load(self, index: int) -> Frame:
        """Read frame `index` at its stored size, cropped.

        Raises:
            DataError: it names every faulty file of the frame.
        """
        frame, faults = self._inspect(index)
        if frame is None:
            raise DataError("\n".join(faults))
        return frame

    def _inspect(self, index: int) -> tuple[Frame | None, list[str]]:
        masks = self.class_files(index)
        files = dict(self._map_files(index))
        picture, read_picture = files.pop("rgb")
        todo = [(part, *entry) for part, entry in files.items()]
        todo += [(k, file, read_mask) for k, group in enumerate(masks) for file in group]
        parts: list[tuple[str | int, Path, np.ndarray]] = []
        faults: list[str] = []
        for part, file, read in todo:
            try:
                parts.append((part, file, read(file)))
            except DataError as error:
                faults.append(str(error))
        # Read last: the depth map tells which way up the picture is.
        depth = next((array for part, _, array in parts if part == "depth"), None)
        try:
            turned = read_picture is read_rgb and depth is not None
            rgb = read_rgb(picture, depth.shape) if turned else read_picture(picture)
        except DataError as error:
            return None, [str(error), *faults]
        parts.insert(0, ("rgb", picture, rgb))
        shape = rgb.shape[:2]
        faults += [
            str(_size_fault(file, array.shape, shape, picture))
            for _, file, array in parts
            if array.shape[:2] != shape
        ]
        if faults:
            return None, faults
        maps = {part: array for part, _, array in parts if isinstance(part, str)}
        if self.class_names:
            maps["classes"] = np.zeros((*shape, len(masks)), bool)
            for part, _, array in parts:
                if isinstance(part, int):
                    maps["classes"][..., part] |= array
        try:
            return self._cut(Frame(**maps), picture), []
        except DataError as error:
            return None, [str(error)]

    def _share_mask(self, file: Path) -> None:
        """Use one mask image for all frames."""
        self._mask = (file, read_mask(file))

    def _choose_classes(
        self, roots: Sequence[Path], option: Sequence[str] | str | None, where: Path | str
    ) -> None:
        """Set `class_names`: "auto" = those that have a folder in a root, None = none, or the names given.

        Only frames read for evaluation carry classes.
        """
        if self.train or option is None or option == "none":
            return
        known = sorted({name for root in roots if root.is_dir() for name in entries(root)[0]})
        if option == "auto":
            self.class_names = tuple(known)
            if known:
                logger.info("%s: classes %s (switch off with classes=null)", self.path, ", ".join(known))
            return
        self.class_names = (option,) if isinstance(option, str) else tuple(option)
        for name in self.class_names:
            if name not in known:
                raise fault(
                    where, f"no class {name!r}{did_you_mean(name, known)}",
                    "a folder of masks for every class", "check the option classes",
                )  # fmt: skip


def _size_fault(file: Path, got: tuple[int, ...], shape: tuple[int, ...], picture: Path) -> DataError:
    return fault(
        file, f"{got[1]}x{got[0]} pixels", f"{shape[1]}x{shape[0]} as in {picture}",
        "register both to the same pixel grid",
    )  # fmt: skip
