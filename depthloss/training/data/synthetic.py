"""The `synthetic` data set: ray-cast rooms and streets, rendered on demand; nothing is stored."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from depthloss.training.data.base import DepthDataset
from depthloss.training.data.transforms import Frame
from depthloss.training.progress import Progress
from depthloss.training.rendering import scenes
from depthloss.training.rendering.canvas import KINDS, Camera
from depthloss.training.rendering.raycast import render, render_kinds
from depthloss.training.seeds import sample_rng

# An epoch goes through all of them; its order is drawn in memory.
MAX_LENGTH = 10_000_000


class SyntheticDataset(DepthDataset):
    """Rooms (even indices, 0.5 to 10 m) and streets (odd indices, 2 to 80 m) with exact depth.

    A frame depends on (`scene_seed`, index) and the image shape only. Depth is along the optical axis;
    sky has depth 0. The object classes are the kinds of primitives: "surface" (flat: grounds, walls, signs),
    "box", "sphere" and "pole"; the sky is of none.

    Args:
        length: number of frames, at most 10 million.
        gt: "dense"; "scanline" = the pixels a spinning LiDAR would hit; or a fraction in (0, 1] of all,
            drawn at random.
        gt_beams: number of scan lines of gt="scanline".
        input_depth: "none", or "scanline" = sparse input depth from scan lines of its own.
        input_beams: number of scan lines of the input.
        scene_seed: seed of the scenes, >= 0; None = `seed`. Give train and validation sets different ones.
        scenes: number of scenes, each seen from length / scenes viewpoints; None = a scene per frame. The
            viewpoints are drawn by `seed`, so that train and validation sets of one `scene_seed` see the same
            scenes from different ones.
        cache: render all frames when the first is needed, and keep them in memory, 7 bytes per pixel.
        **common: see `DepthDataset`.

    Raises:
        ValueError: an option is out of range.
    """

    def __init__(
        self,
        *,
        length: int = 1000,
        gt: str | float = "dense",
        gt_beams: int = 64,
        input_depth: str | None = "none",
        input_beams: int = 32,
        scene_seed: int | None = None,
        scenes: int | None = None,
        cache: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not 1 <= length <= MAX_LENGTH:
            raise ValueError(
                f"length must be >= 1, and at most {MAX_LENGTH:,} frames, such as 1000; got {length!r}"
            )
        if gt not in ("dense", "scanline") and not (isinstance(gt, (int, float)) and 0 < gt <= 1):
            raise ValueError(f"gt must be 'dense', 'scanline' or a fraction in (0, 1], got {gt!r}")
        if input_depth not in (None, "none", "scanline"):
            raise ValueError(f"input_depth must be 'none' or 'scanline', got {input_depth!r}")
        if gt_beams < 1 or input_beams < 1:
            raise ValueError(f"gt_beams and input_beams must be >= 1, got {gt_beams!r} and {input_beams!r}")
        if scene_seed is not None and scene_seed < 0:
            raise ValueError(f"scene_seed must be >= 0, got {scene_seed!r}")
        if scenes is not None and scenes < 1:
            raise ValueError(f"scenes must be >= 1, or None for a scene per frame, got {scenes!r}")
        self.length = int(length)
        self.gt = gt
        self.gt_beams, self.input_beams = int(gt_beams), int(input_beams)
        self.input_depth = None if input_depth in (None, "none") else input_depth
        self.class_names = () if self.train else KINDS
        self.maps = () if self.input_depth is None else ("input_depth",)
        self.scene_seed = self.seed if scene_seed is None else int(scene_seed)
        self.scenes = scenes
        self.cache = cache

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.length

    def name(self, index: int) -> str:
        """Return "room-000000" or "street-000001"."""
        return f"{'street' if self._scene(index) % 2 else 'room'}-{index:06d}"

    def load(self, index: int) -> Frame:
        """Render frame `index`, or return it from the cache."""
        return self._frames[index] if self.cache else self._render(index)

    def check(self, progress: bool = True) -> list[str]:
        """Render every frame; see `DepthDataset.check`."""
        self.load(0)  # fills the cache, before threads do
        return super().check(progress)

    @functools.cached_property
    def _frames(self) -> list[Frame]:
        frames = []
        with Progress(len(self), "rendering", "frames") as progress:
            for index in range(len(self)):
                frames.append(self._render(index))
                progress.update()
        return frames

    def _scene(self, index: int) -> int:
        return index if self.scenes is None else index % self.scenes

    def _render(self, index: int) -> Frame:
        number = self._scene(index)
        build = scenes.street if number % 2 else scenes.room
        scene, camera = build(sample_rng("scene", self.scene_seed, number), self.image_shape)
        key = (self.scene_seed, index)
        if self.scenes is not None:
            reach = scenes.STREET_REACH if number % 2 else scenes.ROOM_REACH
            camera = camera.moved(reach, sample_rng("view", self.seed, index))
        classes = None
        if self.class_names:
            rgb, dense, kinds = render_kinds(scene, camera)
            classes = kinds[..., None] == np.arange(len(KINDS), dtype=kinds.dtype)
        else:
            rgb, dense = render(scene, camera)
        depth = dense
        if self.gt == "scanline":
            depth = scan(dense, camera, self.gt_beams, sample_rng("gt", *key))
        elif self.gt != "dense":
            keep = sample_rng("gt", *key).random(dense.shape, dtype=np.float32) < self.gt
            depth = np.where(keep, dense, np.float32(0))
        sparse = None
        if self.input_depth is not None:
            sparse = scan(dense, camera, self.input_beams, sample_rng("input", *key))
        return Frame(rgb, depth, sparse, classes=classes)


def scan(
    depth: np.ndarray, camera: Camera, beams: int, rng: np.random.Generator, dropout: float = 0.1
) -> np.ndarray:
    """Keep the pixels that a spinning LiDAR at the camera's place would hit.

    The scan lines are level in the world and spread evenly in elevation over the picture (no higher than 10
    degrees above its centre), with a random phase; a share of the returns is lost. There is no parallax.

    Args:
        depth: float32 [H, W] in metres, 0 = no surface.
        camera: the camera of `depth`.
        beams: number of scan lines.
        rng: random stream.
        dropout: share of lost returns.

    Returns:
        float32 [H, W]; values are those of `depth`, or 0.
    """
    h, w = camera.shape
    up = math.atan(h / 2 / camera.focal)
    side = math.atan(w / 2 / camera.focal)
    axis = camera.rotation[:, 2]
    heading, tilt = math.atan2(axis[0], axis[2]), math.asin(axis[1])
    top = min(up, math.radians(10))
    step = (up + top) / beams
    elevation = (tilt - top + step * (np.arange(beams) + rng.random()))[:, None]  # positive = down
    columns = max(1, round(1.2 * w))
    azimuth = heading + side * (2 * (np.arange(columns) + rng.random()) / columns - 1)
    cos = np.cos(elevation)
    ray = np.stack(np.broadcast_arrays(cos * np.sin(azimuth), np.sin(elevation), cos * np.cos(azimuth)), -1)
    x, y, z = np.moveaxis(ray @ camera.rotation, -1, 0)
    seen = (z > 0) & (rng.random(z.shape) >= dropout)
    z = np.where(z > 0, z, 1)
    col = np.floor(x / z * camera.focal + w / 2)
    row = np.floor(y / z * camera.focal + h / 2)
    seen &= (col >= 0) & (col < w) & (row >= 0) & (row < h)
    row, col = row[seen].astype(np.intp), col[seen].astype(np.intp)
    out = np.zeros_like(depth)
    out[row, col] = depth[row, col]
    return out
