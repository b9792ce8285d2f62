"""The images that are to be predicted: found in files and folders, and read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from depthloss.training.data import DataError, read_depth_png, read_picture
from depthloss.training.data.io import fault
from depthloss.training.data.listing import walk
from depthloss.training.data.resize import resize_depth, resize_rgb
from depthloss.training.data.transforms import limit_range

# What is taken for an image in a folder, in any case; a file that is named itself is always read.
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Picture:
    """An image.

    Attributes:
        path: its file.
        name: of its results, without suffix: a path below the output folder.
        stem: its path below what all inputs have in common, without suffix, which pairs it with sparse depth.
    """

    path: Path
    name: str
    stem: str


def find_pictures(paths: Sequence[Path], out: Path) -> tuple[list[Picture], Counter[str]]:
    """Find the images in files and folders, and name their results.

    A name is the path below the folder that all inputs have in common, so that results mirror the inputs.
    Images that differ in their suffix alone keep it in their names.

    Args:
        paths: files, and folders whose images and those below count; see `walk` for what is left out.
        out: folder of results, which are no inputs.

    Returns:
        The images, each once, and how many other files of each suffix were left out.

    Raises:
        DataError: a folder cannot be read.
    """
    files: dict[Path, None] = {}
    others: Counter[str] = Counter()
    results = Path(os.path.abspath(out))
    for path in paths:
        if not os.path.isdir(path):
            files[Path(os.path.abspath(path))] = None
            continue
        for below in walk(path, None):
            file = Path(os.path.abspath(path / below))
            if results in file.parents:
                continue
            if file.suffix.lower() in SUFFIXES:
                files[file] = None
            else:
                others[file.suffix.lower() or "no suffix"] += 1
    tops = [os.path.abspath(path if os.path.isdir(path) else path.parent) for path in paths]
    common = os.path.commonpath(tops)
    whole = {file: file.relative_to(common).as_posix() for file in files}
    stems = {file: name.removesuffix(file.suffix) for file, name in whole.items()}
    names, clash = dict(stems), list(files)
    while clash:
        count = Counter(names.values())
        clash = [file for file, name in names.items() if count[name] > 1 and name != whole[file]]
        names |= {file: whole[file] for file in clash}
    return [Picture(file, names[file], stems[file]) for file in files], others


@dataclass
class Item:
    """An image as the network gets it.

    Attributes:
        picture: where it comes from.
        size: (H, W) of the image.
        rgb: float32 [3, h, w] in [0, 1].
        input_depth: float32 [1, h, w] in metres, 0 = none; or None.
        turned: whether it was turned as its EXIF orientation says.
        reduced: whether it has 16 bits per channel.
        fault: why there is no image.
    """

    picture: Picture
    size: tuple[int, int] = (0, 0)
    rgb: torch.Tensor | None = None
    input_depth: torch.Tensor | None = None
    turned: bool = False
    reduced: bool = False
    fault: str | None = None


class Pictures(Dataset[Item]):
    """Reads the images.

    Args:
        pictures: the images.
        shape: (H, W) to resize them to; None = as they are.
        sparse: folder with sparse depth STEM.png for each of them; None = none.
        sparse_scale: of these PNG, in units per metre.
        depths: (min, max) in metres; sparse depth beyond is left out.
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        shape: tuple[int, int] | None = None,
        sparse: Path | None = None,
        sparse_scale: float = 256.0,
        depths: tuple[float, float] = (0.0, float("inf")),
    ) -> None:
        self.pictures = list(pictures)
        self.shape, self.sparse, self.sparse_scale, self.depths = shape, sparse, sparse_scale, depths

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pictures)

    def __getitem__(self, index: int) -> Item:
        """Read an image; one that cannot be read has a `fault`."""
        picture = self.pictures[index]
        try:
            return self._read(picture)
        except DataError as error:
            return Item(picture, fault=str(error))

    def _read(self, picture: Picture) -> Item:
        path = picture.path
        rgb, turned, reduced = read_picture(path)
        size, depth = rgb.shape[:2], None
        if self.sparse is not None:
            file = self.sparse / f"{picture.stem}.png"
            depth = read_depth_png(file, self.sparse_scale)
            if depth.shape != size:
                stored = " (turned as its EXIF orientation says)" if turned else ""
                raise fault(
                    file, f"{depth.shape[1]}x{depth.shape[0]} pixels",
                    f"{size[1]}x{size[0]} as {path} has{stored}", "register both to the same pixel grid",
                )  # fmt: skip
            depth = limit_range(depth, *self.depths)
        if self.shape is not None:
            rgb = resize_rgb(rgb, self.shape)
            depth = None if depth is None else resize_depth(depth, self.shape)
        return Item(
            picture,
            size,
            torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32) / np.float32(255)),
            None if depth is None else torch.from_numpy(np.ascontiguousarray(depth))[None],
            turned,
            reduced,
        )
