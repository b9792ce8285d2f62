"""Shadows that boxes, spheres and poles cast on the ground."""

from __future__ import annotations

import numpy as np

from depthloss.training.rendering.bounds import bounds
from depthloss.training.rendering.canvas import Canvas


def draw_shadows(canvas: Canvas) -> None:
    """Take the sun from ground pixels whose way to it is blocked."""
    ground = np.array([s[2] for s in canvas.surfaces])[canvas.surface]
    sun = canvas.scene.sun
    if sun[1] >= 0 or not ground.any():
        return
    everything = slice(None), slice(None)
    px = canvas.t * canvas.linear(canvas.camera.rotation[0], *everything) + np.float32(
        canvas.camera.position[0]
    )
    pz = canvas.t * canvas.linear(canvas.camera.rotation[2], *everything) + np.float32(
        canvas.camera.position[2]
    )
    casters = [(x, y, z, hx, hy, hz, c, s) for x, y, z, hx, hy, hz, c, s, *_ in canvas.scene.boxes]
    casters += [(x, (t + b) / 2, z, r, (b - t) / 2, r, 1.0, 0.0) for x, z, r, t, b, _ in canvas.scene.poles]
    casters += [(*centre, r, r, r, 0.0, 0.0) for *centre, r, _ in canvas.scene.spheres]  # no turn: a sphere
    if not casters:
        return
    boxes = np.array(casters)
    reach = np.hypot(boxes[:, 3], boxes[:, 5])
    # The shadow lies between the points below the caster and those reached from its top along the sun.
    tip = boxes[:, [0, 2]] - sun[[0, 2]] * ((boxes[:, 1:2] - boxes[:, 4:5]) / sun[1])
    start = boxes[:, [0, 2]]
    signs = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)], float)
    spread = reach[:, None, None] * signs - canvas.camera.position[[0, 2]]  # [N, 4, 2]
    flat = np.concatenate([start[:, None] + spread, tip[:, None] + spread], 1)
    corners = np.insert(flat, 1, -canvas.camera.position[1], -1) @ canvas.camera.rotation
    pairs = [(i, j) for i in range(8) for j in range(i)]
    low, high, nearest = bounds(corners[:, [i for i, _ in pairs]], corners[:, [j for _, j in pairs]])
    for i in np.flatnonzero(np.isfinite(nearest)):
        window = canvas.window(low[i], high[i])
        if window is None:
            continue
        on = ground[window]
        if on.any():
            x, z = px[window] - np.float32(boxes[i, 0]), pz[window] - np.float32(boxes[i, 2])
            canvas.light[window][on & _blocked(x, z, boxes[i], sun)] = 0


def _blocked(x: np.ndarray, z: np.ndarray, caster: np.ndarray, sun: np.ndarray) -> np.ndarray:
    """Whether rays from ground points (relative to the caster's centre) towards the sun meet the caster."""
    _, y, _, hx, hy, hz, cos, sin = caster
    f = np.float32
    if cos == 0 and sin == 0:
        along = -x * f(sun[0]) - z * f(sun[2]) + f(y * sun[1])
        return (x * x + z * z + f(y * y) - along * along < f(hx * hx)) & (along > 0)
    lx, lz = cos * sun[0] - sin * sun[2], sin * sun[0] + cos * sun[2]
    lx, lz = (v if abs(v) > 1e-9 else 1e-9 for v in (lx, lz))
    first, last = sorted(((y - hy) / sun[1], (y + hy) / sun[1]))
    u, v = x * f(cos) - z * f(sin), x * f(sin) + z * f(cos)
    u1, u2 = (-u - f(hx)) * f(1 / lx), (-u + f(hx)) * f(1 / lx)
    v1, v2 = (-v - f(hz)) * f(1 / lz), (-v + f(hz)) * f(1 / lz)
    enter = np.maximum(np.maximum(np.minimum(u1, u2), np.minimum(v1, v2)), f(first))
    leave = np.minimum(np.minimum(np.maximum(u1, u2), np.maximum(v1, v2)), f(last))
    return enter < leave
