"""The `rgbd-folder` layout: rgb/NAME.{png,jpg,jpeg}, depth/NAME.png and optional input_depth/ and mask/."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depthloss.training.data.base import DepthDataset
from depthloss.training.data.io import DataError, fault, logger, read_depth_png, read_mask, read_rgb
from depthloss.training.data.transforms import Frame, nearest

_RGB_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
_LAYOUT = "rgb/NAME.{png,jpg,jpeg} with depth/NAME.png"


class RGBDFolder(DepthDataset):
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
        names: Sequence[str] | None = None,
        split: str | Path | None = None,
        offset: int = 0,
        stride: int = 1,
        limit: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not 0 < depth_scale < float("inf"):
            raise ValueError(
                f"depth_scale must be a positive number of PNG units per metre, got {depth_scale!r}"
            )
        if names is not None and split is not None:
            raise ValueError("give either names or split, not both")
        if isinstance(names, str):
            raise ValueError(f"names must be a list of frame names, got the string {names!r}")
        if offset < 0 or stride < 1 or (limit is not None and limit < 1):
            raise ValueError(
                f"need offset >= 0, stride >= 1, limit >= 1, got {offset!r}, {stride!r}, {limit!r}"
            )
        self.path = Path(path).expanduser()
        self.depth_scale = float(depth_scale)
        if not self.path.is_dir():
            raise fault(self.path, "no such folder", f"a folder with {_LAYOUT}", "check the option path")
        rgb = _scan(self.path / "rgb", _RGB_SUFFIXES)
        depth = _scan(self.path / "depth", (".png",))
        self._input_folder = self._optional("input_depth", input_depth)
        self._mask_folder = self._optional("mask", mask)
        self._mask_file = self._mask_folder if self._mask_folder and self._mask_folder.is_file() else None

        if split is not None:
            names = self._read_split(Path(split).expanduser())
        wanted = names is not None
        chosen = list(names) if wanted else sorted(rgb.keys() | depth.keys())
        self._require(chosen, rgb, self.path / "rgb", "NAME.{png,jpg,jpeg}", wanted)
        self._require(chosen, depth, self.path / "depth", "NAME.png", wanted)
        chosen = chosen[offset::stride][:limit]
        if not chosen:
            raise fault(
                self.path,
                f"no frame with offset={offset}, stride={stride}",
                _LAYOUT,
                "check names, split and offset",
            )
        for folder in (self._input_folder, None if self._mask_file else self._mask_folder):
            if folder is not None:
                there = _scan(folder, (".png",))
                self._require(chosen, there, folder, "NAME.png", wanted)
        # Fixed-width arrays: a list of Python strings would be copied page by page into every worker.
        self._names = np.array(chosen)
        self._rgb = np.array([rgb[name] for name in chosen])
        try:
            first = self._limit(self.load(0))
        except DataError as error:
            # Every faulty file of the frame, not the first alone.
            raise DataError("\n".join(self.faults(0))) from error
        if not first.depth.any():
            logger.warning(
                "%s: frame %s has no depth between %g and %g m; is depth_scale=%g right?",
                self.path,
                self.name(0),
                self.min_depth,
                self.max_depth,
                self.depth_scale,
            )

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the name of frame `index`: its path below rgb/ without the suffix."""
        return str(self._names[index])

    def load(self, index: int) -> Frame:
        """Read frame `index` at its stored size."""
        parts = {part: read() for part, (_, read) in self._readers(index).items()}
        if errors := self._size_faults(index, parts):
            raise DataError("\n".join(errors))
        return Frame(**parts)

    def faults(self, index: int) -> list[str]:
        """Return a message for every faulty file of frame `index`."""
        parts: dict[str, np.ndarray] = {}
        found: list[str] = []
        for part, (_, read) in self._readers(index).items():
            try:
                parts[part] = read()
            except DataError as error:
                found.append(str(error))
        return found + self._size_faults(index, parts)

    def _readers(self, index: int) -> dict[str, tuple[Path, Callable[[], np.ndarray]]]:
        """Files of a frame with the function that reads each."""
        png = f"{self.name(index)}.png"
        files = {
            "rgb": (self.path / "rgb" / str(self._rgb[index]), read_rgb),
            "depth": (self.path / "depth" / png, self._read_depth),
        }
        if self._input_folder is not None:
            files["input_depth"] = (self._input_folder / png, self._read_depth)
        if self._mask_folder is not None:
            files["mask"] = (self._mask_file or self._mask_folder / png, read_mask)
        return {part: (file, lambda f=file, r=read: r(f)) for part, (file, read) in files.items()}

    def _read_depth(self, path: Path) -> np.ndarray:
        return read_depth_png(path, self.depth_scale)

    def _size_faults(self, index: int, parts: dict[str, np.ndarray]) -> list[str]:
        if "rgb" not in parts:
            return []
        files = self._readers(index)
        height, width = parts["rgb"].shape[:2]
        return [
            str(
                fault(
                    files[part][0],
                    f"{array.shape[1]}x{array.shape[0]} pixels",
                    f"{width}x{height} as in {files['rgb'][0]}",
                    "register both to the same pixel grid",
                )
            )
            for part, array in parts.items()
            if array.shape[:2] != (height, width)
        ]

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
                target, f"no such folder{nearest(option, folders)}", f"the {default} of every frame",
                f"check the option {default}",
            )  # fmt: skip
        return target

    def _read_split(self, split: Path) -> list[str]:
        file = split if split.is_absolute() else self.path / split
        if not file.is_file():
            raise fault(
                file, "no such file", "a text file with one frame name per line", "check the option split"
            )
        words = (line.split("#")[0].split() for line in file.read_text(encoding="utf-8").splitlines())
        names = [
            w[0][: -len(Path(w[0]).suffix)] if w[0].endswith(_RGB_SUFFIXES) else w[0] for w in words if w
        ]
        if not names:
            raise fault(file, "no frame name", "one frame name per line", "check the option split")
        return names

    def _require(
        self, names: list[str], there: dict[str, str], folder: Path, form: str, wanted: bool
    ) -> None:
        missing = [name for name in names if name not in there]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise fault(
                folder,
                f"no file for {len(missing)} of {len(names)} frames ({shown})",
                f"{form} for every frame",
                "correct the list of names"
                if wanted
                else "add the files or choose frames with names or split",
            )


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
