"""The files of a prediction: 16-bit PNG, float32 npy and a colour preview, each whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from depthloss.training.drawing.colours import DEPTH_COLOURS, depth_norm
from depthloss.training.files import whole_file

# The folder and the suffix of each format.
FORMATS = {"png": ("depth", ".png"), "npy": ("npy", ".npy"), "preview": ("preview", ".png")}
MOST = 65535  # of 16 bits


@dataclass(frozen=True)
class Results:
    """Where and how predictions are written.

    Attributes:
        out: the folder.
        formats: some of `FORMATS`.
        png_scale: units of the PNG per metre; 0 stands for no depth.
        preview_range: (near, far) in metres of the preview's colours; None = those of each image.
        keep: leave a file that is there.
    """

    out: Path
    formats: Sequence[str] = tuple(FORMATS)
    png_scale: float = 256.0
    preview_range: tuple[float, float] | None = None
    keep: bool = False

    def files(self, name: str) -> dict[str, Path]:
        """Return the file of each format for an image of this name."""
        return {f: self.out / FORMATS[f][0] / f"{name}{FORMATS[f][1]}" for f in self.formats}

    def write(self, name: str, depth: np.ndarray) -> int:
        """Write the files of an image.

        Args:
            name: of its results.
            depth: float32 [H, W] in metres.

        Returns:
            How many pixels are nearer or farther than the PNG can store.

        Raises:
            OSError: a file could not be written.
        """
        clipped = 0
        for kind, file in self.files(name).items():
            if self.keep and file.exists():
                continue
            with whole_file(file) as temporary:
                if kind == "npy":
                    np.save(temporary, depth)
                elif kind == "png":
                    clipped = self._write_png(temporary, depth)
                else:
                    self._write_preview(temporary, depth)
        return clipped

    def _write_png(self, file: Path, depth: np.ndarray) -> int:
        valid = np.isfinite(depth) & (depth > 0)
        units = np.rint(np.where(valid, depth, 0).astype(np.float64) * self.png_scale)
        clipped = valid & ((units < 1) | (units > MOST))
        units = np.where(valid, units.clip(1, MOST), 0).astype(np.uint16)
        text = PngInfo()
        text.add_text("Comment", f"depth in metres = value / {self.png_scale:g}; 0 = none")
        Image.fromarray(units).save(file, format="PNG", pnginfo=text)
        return int(clipped.sum())

    def _write_preview(self, file: Path, depth: np.ndarray) -> None:
        norm = depth_norm(np.zeros(()), depth)
        if self.preview_range is not None:
            near, far = self.preview_range
            norm = LogNorm(near, far) if far > 5 * near else Normalize(near, far)
        shown = np.ma.masked_where(~(np.isfinite(depth) & (depth > 0)), depth)
        Image.fromarray(DEPTH_COLOURS(norm(shown), bytes=True)[..., :3]).save(file, format="PNG")
