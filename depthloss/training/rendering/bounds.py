"""Image bounds of convex shapes, clipped at the near plane."""

from __future__ import annotations

import numpy as np

NEAR = 0.05  # metres


def bounds(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image bounds of convex shapes given by edges [N, E, 3] in the camera frame, clipped at the near plane.

    Returns:
        Lowest and highest (x / z, y / z), each [N, 2], and the nearest z [N], infinite behind the camera.
    """
    z0, z1 = start[..., 2], end[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        cut = start + (end - start) * ((NEAR - z0) / (z1 - z0))[..., None]
        cut[..., 2] = NEAR
        points = np.concatenate([start, cut], 1)
        front = np.concatenate([z0 >= NEAR, (z0 < NEAR) != (z1 < NEAR)], 1)
        image = points[..., :2] / points[..., 2:]
    low = np.where(front[..., None], image, np.inf).min(1)
    high = np.where(front[..., None], image, -np.inf).max(1)
    return low, high, np.where(front, points[..., 2], np.inf).min(1)
