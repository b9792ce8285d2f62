"""Colours of a drawn canvas: texture look-up, light, haze and sky."""

from __future__ import annotations

import numpy as np

from depthloss.training.rendering.canvas import Canvas
from depthloss.training.rendering.textures import LEVELS, SIZE, texture_bank


def shade(canvas: Canvas) -> np.ndarray:
    """Look up textures and apply light, haze and sky.

    Args:
        canvas: the drawn buffers.

    Returns:
        uint8 [H, W, 3].
    """
    scene, t = canvas.scene, canvas.t
    sky = ~np.isfinite(t)
    t = np.where(sky, np.float32(1), t)
    table = np.array(scene.materials or [(0,) * 11], np.float32)[[s[0] for s in canvas.surfaces]]
    scale = SIZE / table[:, 7:9]
    # Footprint of a pixel on a plane at distance s: (t / focal) sqrt(t / s), between its two extents.
    level = np.log2(np.maximum(scale.mean(1), 1e-6) / canvas.camera.focal)
    level = (level + np.array([s[1] for s in canvas.surfaces])).astype(np.float32)
    ids = canvas.surface.astype(np.intp)
    lod = level[ids] + np.float32(1.5) * np.log2(t) + np.float32(0.5)
    lod = np.clip(lod, 0, LEVELS - 1).astype(np.int32)
    big = np.float32(SIZE * 4096)  # keeps texel coordinates positive, so that truncation is floor
    u = canvas.a * scale[ids, 0] + (table[:, 9] * SIZE + big)[ids]
    v = canvas.b * scale[ids, 1] + (table[:, 10] * SIZE + big)[ids]
    bank = texture_bank()
    mix = bank[_texel(table[:, 0].astype(np.int32)[ids], lod, u, v)]
    wear = bank[_texel(np.int32(0), np.maximum(lod - 2, 0), u * np.float32(0.23), v * np.float32(0.23))]
    light = scene.ambient + scene.sun_colour * canvas.light
    if scene.lamp is not None:
        light += _lamp_light(canvas, t)
    light *= np.float32(0.75) + wear * np.float32(0.5 / 255)
    dark, span = table[:, 1:4], (table[:, 4:7] - table[:, 1:4]) / 255
    rgb = span[ids]
    rgb *= mix[..., None]
    rgb += dark[ids]
    rgb *= light[..., None]
    if scene.haze is not None:
        clear = np.exp(t * np.float32(-1 / scene.haze))[..., None]
        rgb *= clear
        rgb += (1 - clear) * np.array(scene.sky[0], np.float32)
    if sky.any():
        rgb[sky] = _sky_colour(canvas, sky)
    np.clip(rgb, 0, 1, out=rgb)
    np.sqrt(rgb, out=rgb)  # a gamma of 2
    rgb *= 255
    rgb += 0.5
    return rgb.astype(np.uint8)


def _lamp_light(canvas: Canvas, t: np.ndarray) -> np.ndarray:
    to_lamp = (canvas.scene.lamp - canvas.camera.position) @ canvas.camera.rotation
    x = t * canvas.x.astype(np.float32) - np.float32(to_lamp[0])
    y = t * canvas.y.astype(np.float32)[:, None] - np.float32(to_lamp[1])
    z = t - np.float32(to_lamp[2])
    return np.float32(1.2) / (np.float32(1) + x * x + y * y + z * z)


def _sky_colour(canvas: Canvas, sky: np.ndarray) -> np.ndarray:
    turn = canvas.camera.rotation
    rows, cols = np.nonzero(sky)
    x, y = canvas.x[cols].astype(np.float32), canvas.y[rows].astype(np.float32)
    dx, dy, dz = (np.float32(k[0]) * x + np.float32(k[1]) * y + np.float32(k[2]) for k in turn)
    up = np.clip(-dy / np.sqrt(x * x + y * y + 1), 0, 1)
    horizon, zenith = (np.array(c, np.float32) for c in canvas.scene.sky)
    colour = horizon + (zenith - horizon) * np.sqrt(up)[:, None]
    # Clouds: a noise texture on a plane overhead.
    far = SIZE / 8 / (up + np.float32(0.12))
    big = np.float32(SIZE * 64)
    cloud = texture_bank()[_texel(np.int32(0), np.int32(2), dx * far + big, dz * far + big)]
    cover = np.clip((cloud.astype(np.float32) - 120) / 60, 0, 1) * np.minimum(1, 4 * up)
    return colour + (np.float32(0.9) - colour) * cover[:, None]


def _texel(texture: np.ndarray, level: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Index into the texture bank of texel coordinates u, v >= 0, which wrap around."""
    index = (texture * LEVELS + level) * (SIZE * SIZE)
    index = index + (v.astype(np.int32) & (SIZE - 1)) * SIZE
    index += u.astype(np.int32) & (SIZE - 1)
    return index
