"""From a scene and a camera to a picture: primitives, shadows, colours."""

from __future__ import annotations

import numpy as np

from depthloss.training.data.canvas import Camera, Canvas, Scene
from depthloss.training.data.shading import shade
from depthloss.training.data.shadows import draw_shadows


def render(scene: Scene, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Render a scene.

    Returns:
        rgb: uint8 [H, W, 3].
        depth: float32 [H, W] in metres along the optical axis, 0 where there is no surface or it is out of
            `scene.depth_range`.
    """
    canvas = Canvas(scene, camera)
    canvas.draw()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        draw_shadows(canvas)
    near, far = scene.depth_range
    depth = np.where((canvas.t >= near) & (canvas.t <= far), canvas.t, np.float32(0))
    return shade(canvas), depth
