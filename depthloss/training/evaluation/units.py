"""The files of an image, or of a clip, in the folders of all methods."""

from __future__ import annotations

import posixpath
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from depthloss.training.data.io import check_file, fault, read_mask
from depthloss.training.data.listing import RGB_SUFFIXES, by_name
from depthloss.training.data.maps import FORMATS, read_map
from depthloss.training.data.pairs import Pairs, pair


@dataclass(slots=True)
class Frame:
    """The files of one picture; those of methods that have none are missing."""

    gt: Path
    preds: dict[str, Path] = field(default_factory=dict)
    mask: Path | None = None
    rgb: Path | None = None


@dataclass(slots=True)
class Unit:
    """An image, or a clip with its frames in order.

    Attributes:
        name: path of its ground truth without suffix.
        frames: of a clip all; of an image one.
        camera: npz file with "intrinsics" [3, 3] and "poses" [T, 4, 4], camera to world; of a clip.
    """

    name: str
    frames: list[Frame]
    camera: Path | None = None


@dataclass(frozen=True)
class Reading:
    """How files are read.

    Attributes:
        scale: units per metre of 16-bit PNGs, of the ground truth under "", of predictions by method.
        key: name of the map in a file that holds several, likewise; None = the only one.
        invalid: numbers of the ground truth that mean "no value", as they are in its files.
        hypersim_distance: as of `read_map`, of the ground truth.
    """

    scale: Mapping[str, float] = field(default_factory=dict)
    key: Mapping[str, str | None] = field(default_factory=dict)
    invalid: Sequence[float] = ()
    hypersim_distance: bool | None = None

    def map(self, path: Path, of: str) -> np.ndarray:
        """Return a map of the ground truth ("") or of a method."""
        of_gt = {} if of else {"invalid": self.invalid, "hypersim_distance": self.hypersim_distance}
        return read_map(path, self.key.get(of), self.scale.get(of, 256.0), **of_gt)

    def gt(self, unit: Unit) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the ground truth [T, H, W] and its mask, True = keep.

        Raises:
            DataError: a file is missing or damaged, or another size than the others.
        """
        maps = [self.map(frame.gt, "") for frame in unit.frames]
        _check_alike([frame.gt for frame in unit.frames], maps)
        masks = [_mask(f.mask, of.shape) for f, of in zip(unit.frames, maps, strict=True) if f.mask]
        return _stacked(maps), _stacked(masks) if masks else None

    def pred(self, unit: Unit, method: str) -> np.ndarray:
        """Return the predictions [T, h, w]; errors as of `gt`."""
        paths = [frame.preds[method] for frame in unit.frames]
        maps = [self.map(path, method) for path in paths]
        _check_alike(paths, maps)
        return _stacked(maps)

    def camera(self, unit: Unit) -> dict[str, torch.Tensor]:
        """Return "intrinsics" and "poses" of a clip, float64; nothing if they are unknown.

        Raises:
            DataError: the file is missing or damaged, or an array is missing or has another shape.
        """
        if unit.camera is None:
            return {}
        shapes = {"intrinsics": (3, 3), "poses": (len(unit.frames), 4, 4)}
        need = " and ".join(f"{key} {list(shape)}" for key, shape in shapes.items())
        check_file(unit.camera, f"an npz file with {need}", "add the camera of the clip")
        try:
            with np.load(unit.camera, allow_pickle=False) as file:
                found = {key: file[key].astype(np.float64) for key in shapes}
        except (
            OSError,
            ValueError,
            KeyError,
            EOFError,
            AttributeError,
            TypeError,
            zipfile.BadZipFile,
        ) as error:
            raise fault(
                unit.camera, f"a file that cannot be read ({error})", need, "export it again"
            ) from error
        if any(found[key].shape != shape for key, shape in shapes.items()):
            got = " and ".join(f"{key} {list(of.shape)}" for key, of in found.items())
            raise fault(unit.camera, got, need, "export it again")
        return {key: torch.from_numpy(of) for key, of in found.items()}


def find_units(
    methods: Mapping[str, Path],
    gt: Path,
    per_clip: bool,
    mask: Path | None = None,
    rgb: Path | None = None,
    cameras: Path | None = None,
) -> tuple[list[Unit], dict[str, Pairs]]:
    """Pair the files of all folders with the ground truth, by name; see `pairs.pair`, which logs.

    Args:
        methods: folders of predictions by the method's name.
        gt: folder of ground truth.
        per_clip: whether a folder of it is a clip; else each file is an image.
        mask: folder of masks; each ground truth that has a prediction needs one.
        rgb: folder of pictures for the report.
        cameras: folder of the cameras of clips, CLIP.npz.

    Returns:
        All images or clips of the ground truth, and how each method was paired.

    Raises:
        DataError: a folder is missing or empty, nothing fits, or a mask is missing.
    """
    paired = {name: pair(folder, gt) for name, folder in methods.items()}
    found = by_name(gt, tuple(FORMATS))
    paths = {name: gt / f"{name}{suffix}" for name, suffix in found.items()}
    frames = {path: Frame(path) for path in paths.values()}
    for method, pairs in paired.items():
        for _, path, truth in pairs.files:
            frames[truth].preds[method] = path
    if mask is not None:
        for _, path, truth in pair(mask, gt, "mask").files:
            frames[truth].mask = path
        if lacking := [truth for truth, frame in frames.items() if frame.preds and frame.mask is None]:
            got = f"no mask for {len(lacking)} predicted files such as {lacking[0]}"
            raise fault(mask, got, "a mask of each", "add it, all non-zero if every pixel counts")
    if rgb is not None:
        for _, path, truth in pair(rgb, gt, "picture", RGB_SUFFIXES).files:
            frames[truth].rgb = path
    groups: dict[str, list[Frame]] = {}
    for name in sorted(paths, key=_natural):
        groups.setdefault((posixpath.dirname(name) or ".") if per_clip else name, []).append(
            frames[paths[name]]
        )
    units = [Unit(gt.absolute().name if name == "." else name, of) for name, of in groups.items()]
    for unit in units if cameras is not None else ():
        unit.camera = cameras / f"{unit.name}.npz"
    return units, paired


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which 10 comes after 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _mask(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if path.suffix.lower() == ".png":
        mask = read_mask(path)
    else:
        values = read_map(path)
        mask = np.isfinite(values) & (values != 0)
    if mask.shape != shape:
        size = "x".join(map(str, shape[::-1]))
        raise fault(path, f"a mask of {mask.shape[1]}x{mask.shape[0]} pixels", f"{size}, as its ground truth",
                    "export it at that size")  # fmt: skip
    return mask


def _stacked(maps: list[np.ndarray]) -> np.ndarray:
    return maps[0][None] if len(maps) == 1 else np.stack(maps)  # an image is not copied


def _check_alike(paths: list[Path], maps: list[np.ndarray]) -> None:
    for path, one in zip(paths, maps, strict=True):
        if one.shape != maps[0].shape:
            got = f"a map of {one.shape[1]}x{one.shape[0]} pixels"
            need = f"{maps[0].shape[1]}x{maps[0].shape[0]}, as {paths[0].name} of the same clip"
            raise fault(path, got, need, "export all frames of a clip at one size")
