"""The `rgbd-folder` layout: rgb/, depth/ and, if there are any, input_depth/, mask/ and classes/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depthloss.training.data.files import FileDataset, Reader
from depthloss.training.data.io import fault, logger, read_depth_png, read_mask, read_rgb
from depthloss.training.data.listing import RGB_SUFFIXES, pack, read_split, subset, unpack
from depthloss.training.names import did_you_mean

_LAYOUT = "rgb/NAME.{png,jpg,jpeg} with depth/NAME.png"


class RGBDFolder(FileDataset):
    """RGB-D frames in folders; covers TUM, 7-Scenes, NYUv2 PNG, iBims and KITTI depth completion selections.

    Names may contain sub-folders and are used in sorted order. Only names are kept in memory. The first frame
    is read at start-up, so that a wrong bit depth or size shows before training; `check` reads all of them.

    Args:
        path: folder that holds `rgb/` and `depth/`.
        depth_scale: units per metre in depth/ and the input depth (256 KITTI, 1000 millimetres, 5000 TUM).
        input_depth: folder of the sparse input below `path`; "auto" = `input_depth` if it exists; None = no
            input.
        mask: folder of masks below `path`, or one mask image for all frames; "auto" = `mask` if it exists;
            None = no mask. Non-zero = keep.
        classes: object classes to evaluate, with masks classes/CLASS/NAME.png (non-zero = of the class);
            "auto" = all there are, None = none. A class without a mask for a frame is not in that frame.
        names: frame names to use, in this order; None = all.
        split: text file with one name per line (first word, image suffix allowed, # comments), absolute or
            below `path`.
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
            raise ValueError(
                f"depth_scale must be a positive number of PNG units per metre, got {depth_scale!r}"
            )
        if names is not None and split is not None:
            raise ValueError("give either names or split, not both")
        if isinstance(names, str):
            raise ValueError(f"names must be a list of frame names, got the string {names!r}")
        self.depth_scale = float(depth_scale)
        rgb = _scan(self.path / "rgb", RGB_SUFFIXES)
        depth = _scan(self.path / "depth", (".png",))
        self._input_folder = self._optional("input_depth", input_depth)
        self._mask_folder = self._optional("mask", mask)
        if self._mask_folder is not None and self._mask_folder.is_file():
            self._share_mask(self._mask_folder)
            self._mask_folder = None

        if split is not None:
            names = [
                name[: -len(Path(name).suffix)] if name.endswith(RGB_SUFFIXES) else name
                for name in read_split(self.path, split, "frame name")
            ]
        fix = (
            "correct the list of names"
            if names is not None
            else "add the files or choose frames with names or split"
        )
        chosen = sorted(rgb.keys() | depth.keys()) if names is None else list(names)
        chosen = subset(chosen, offset, stride, limit, self.path, _LAYOUT)
        folders = {self.path / "rgb": rgb, self.path / "depth": depth}
        folders |= {f: _scan(f, (".png",)) for f in (self._input_folder, self._mask_folder) if f is not None}
        for folder, there in folders.items():
            form = "NAME.{png,jpg,jpeg}" if there is rgb else "NAME.png"
            self._require([name for name in chosen if name not in there], len(chosen), folder, form, fix)
        self._names = pack(chosen)
        self._rgb = pack(rgb.get(name, f"{name}.png") for name in chosen)
        known = self.path / "classes"
        self._choose_classes(known.iterdir() if known.is_dir() else (), classes, known)
        self._check_start(f"is depth_scale={self.depth_scale:g} right?")

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the name of frame `index`: its path below rgb/ without the suffix."""
        return unpack(self._names[index])

    def files(self, index: int) -> dict[str, tuple[Path, Reader]]:
        """Return the files of frame `index` and what reads each."""
        png = f"{self.name(index)}.png"
        files: dict[str, tuple[Path, Reader]] = {
            "rgb": (self.path / "rgb" / unpack(self._rgb[index]), read_rgb),
            "depth": (self.path / "depth" / png, self._read_depth),
        }
        if self._input_folder is not None:
            files["input_depth"] = (self._input_folder / png, self._read_depth)
        if self._mask_folder is not None:
            files["mask"] = (self._mask_folder / png, read_mask)
        return files

    def class_files(self, index: int) -> list[list[Path]]:
        """Return the mask of frame `index` for each class that it has one of."""
        png = f"{self.name(index)}.png"
        masks = [self.path / "classes" / name / png for name in self.class_names]
        return [[mask] if mask.exists() else [] for mask in masks]

    def _read_depth(self, path: Path) -> np.ndarray:
        return read_depth_png(path, self.depth_scale)

    def _optional(self, default: str, option: str | None) -> Path | None:
        """Resolve the folder option `default`; "auto" takes the folder of that name if it is there."""
        if option is None or option == "none":
            return None
        target = self.path / (default if option == "auto" else Path(option).expanduser())
        if option == "auto":
            if not target.exists():
                return None
            logger.info("%s: using %s/ (switch off with %s=null)", self.path, default, default)
        elif not target.exists():
            folders = sorted(p.name for p in self.path.iterdir() if p.is_dir())
            raise fault(
                target, f"no such folder{did_you_mean(option, folders)}", f"the {default} of every frame",
                f"check the option {default}",
            )  # fmt: skip
        return target


def _scan(root: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Return {name: file below `root`}; hidden files and folders are left out."""
    if not root.is_dir():
        raise fault(root, "no such folder", f"the layout {_LAYOUT}", "check path and the folder options")
    found: dict[str, str] = {}
    for file in sorted(root.rglob("*")):
        below = file.relative_to(root)
        if file.suffix not in suffixes or any(part.startswith(".") for part in below.parts):
            continue
        name = below.with_suffix("").as_posix()
        if name in found:
            raise fault(root, f"{found[name]} and {below}", "one image per name", "remove one of the two")
        found[name] = below.as_posix()
    if not found:
        raise fault(root, "no image", f"files NAME with suffix {', '.join(suffixes)}", "check the folder")
    return found
