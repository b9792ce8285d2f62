"""From a scene and a camera to a picture: primitives, shadows, colours."""

from __future__ import annotations

import numpy as np

from depthloss.training.rendering.canvas import Camera, Canvas, Scene
from depthloss.training.rendering.shading import shade
from depthloss.training.rendering.shadows import draw_shadows


def render(scene: Scene, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Render a scene.

    Returns:
        rgb: uint8 [H, W, 3].
        depth: float32 [H, W] in metres along the optical axis, 0 where there is no surface or it is out of
            `scene.depth_range`.
    """
    return _picture(_draw(scene, camera))


def render_kinds(scene: Scene, camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Render a scene with what is seen where.

    Returns:
        rgb, depth: as of `render`.
        kinds: int8 [H, W], index into `canvas.KINDS`, -1 where there is no surface.
    """
    canvas = _draw(scene, camera)
    return *_picture(canvas), np.array(canvas.kinds, np.int8)[canvas.surface]


def _draw(scene: Scene, camera: Camera) -> Canvas:
    canvas = Canvas(scene, camera)
    canvas.draw()
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        draw_shadows(canvas)
    return canvas


def _picture(canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    near, far = canvas.scene.depth_range
    depth = np.where((canvas.t >= near) & (canvas.t <= far), canvas.t, np.float32(0))
    return shade(canvas), depth
