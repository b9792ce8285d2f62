"""Procedural tileable textures for the synthetic scenes, with prefiltered levels against aliasing."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from depthloss.training.seeds import sample_rng

SIZE = 256
LEVELS = 8


def _noise(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Periodic value noise in [0, 1] with rows x cols cells, [SIZE, SIZE]."""
    out = rng.random((rows, cols))
    for axis, cells in enumerate((rows, cols)):
        x = np.arange(SIZE) * (cells / SIZE)
        i = x.astype(int)
        f = x - i
        f = (f * f * (3 - 2 * f)).reshape((-1, 1) if axis == 0 else (1, -1))
        out = np.take(out, i, axis) * (1 - f) + np.take(out, (i + 1) % cells, axis) * f
    return out


def _fbm(rng: np.random.Generator, cells: int, octaves: int, gain: float = 0.5) -> np.ndarray:
    """Sum of octaves of noise, stretched to [0, 1]."""
    out = sum(gain**k * _noise(rng, cells << k, cells << k) for k in range(octaves))
    return (out - out.min()) / (out.max() - out.min())


def _cells(rng: np.random.Generator, rows: int, cols: int, shift: bool = False) -> tuple[np.ndarray, ...]:
    """Split the tile into cells: position in the cell (v, u in [0, 1)) and a random tone per cell."""
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    v = y * (rows / SIZE)
    row = v.astype(int)
    u = x * (cols / SIZE) + (0.5 * (row % 2) if shift else 0.0)
    tone = rng.random((rows, cols))[row, u.astype(int) % cols]
    return v - row, u % 1.0, tone


def _plaster(rng):
    return 0.3 + 0.4 * _fbm(rng, 4, 6)


def _grain(rng):
    return 0.25 + 0.5 * _fbm(rng, 32, 4, 0.9)


def _grass(rng):
    return 0.6 * _fbm(rng, 16, 5, 0.8) + 0.4 * _fbm(rng, 2, 2)


def _bricks(rng):
    v, u, tone = _cells(rng, 16, 8, shift=True)
    mortar = (v < 0.12) | (u < 0.06)
    return np.where(mortar, 0.95, 0.5 * tone + 0.15 * _fbm(rng, 32, 3))


def _tiles(rng):
    v, u, tone = _cells(rng, 4, 4)
    return np.where((v < 0.05) | (u < 0.05), 1.0, 0.25 * tone + 0.3 * _fbm(rng, 4, 5))


def _checker(rng):
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    return 0.9 * (((y // 64) + (x // 64)) % 2) + 0.1 * _fbm(rng, 8, 4)


def _planks(rng):
    v, u, tone = _cells(rng, 8, 1)
    grain = 0.6 * _noise(rng, 128, 4) + 0.4 * _noise(rng, 64, 16)
    return np.where(v < 0.06, 1.0, 0.4 * tone + 0.4 * grain)


def _stripes(rng):
    x = np.arange(SIZE)[None, :]
    return np.where((x % 32) < 12, 0.9, 0.1) * np.ones((SIZE, 1)) + 0.1 * (_fbm(rng, 16, 3) - 0.5)


def _dots(rng):
    v, u, tone = _cells(rng, 8, 8, shift=True)
    return np.where((v - 0.5) ** 2 + (u - 0.5) ** 2 < 0.07, 0.6 + 0.4 * tone, 0.1 * _fbm(rng, 16, 3))


def _windows(rng):
    v, u, tone = _cells(rng, 4, 4)
    pane = (v > 0.2) & (v < 0.75) & (u > 0.22) & (u < 0.78)
    bar = (abs(u - 0.5) < 0.02) | (abs(v - 0.45) < 0.02)
    sill = (v > 0.75) & (v < 0.81) & (u > 0.18) & (u < 0.82)
    wall = 0.15 * _fbm(rng, 16, 4) + 0.1 * (v < 0.03)
    return np.where(pane, np.where(bar, 0.2, 0.7 + 0.3 * tone), np.where(sill, 0.0, wall))


def _road(rng):
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    edge = (abs(x - 10) < 3) | (abs(x - 246) < 3)
    dash = (abs(x - 128) < 3) & (y < 96)
    worn = _fbm(rng, 8, 5, 0.7)
    return np.where(edge | dash, 0.75 + 0.25 * worn, 0.3 * worn)


def _shelves(rng):
    out = np.zeros((SIZE, SIZE))
    for top in range(0, SIZE, 64):
        x = 0
        while x < SIZE:
            width, height = int(rng.integers(5, 15)), int(rng.integers(36, 54))
            out[top + 58 - height : top + 58, x : x + width - 1] = 0.25 + 0.75 * rng.random()
            x += width
        out[top + 58 : top + 64] = 0.1
    return out


def _foliage(rng):
    return 0.5 * (_fbm(rng, 16, 3) > 0.5) + 0.5 * _fbm(rng, 8, 5, 0.8)


def _picture(rng):
    out = _fbm(rng, 2, 3)
    for _ in range(14):
        y, x, h, w = rng.integers(0, 200, 4)
        out[y : y + h // 3, x : x + w // 3] = rng.random()
    return out


def _marble(rng):
    return 1.0 - np.abs(2 * _fbm(rng, 3, 6, 0.6) - 1)


_TEXTURES = {
    "plaster": _plaster,
    "grain": _grain,
    "grass": _grass,
    "bricks": _bricks,
    "tiles": _tiles,
    "checker": _checker,
    "planks": _planks,
    "stripes": _stripes,
    "dots": _dots,
    "windows": _windows,
    "road": _road,
    "shelves": _shelves,
    "foliage": _foliage,
    "picture": _picture,
    "marble": _marble,
}

TEXTURE_INDEX = {name: i for i, name in enumerate(_TEXTURES)}


@lru_cache(maxsize=1)
def texture_bank() -> np.ndarray:
    """All textures at all levels; the same for every seed, so that it is built once per process.

    Level k is blurred over 2^k texels at full resolution: nearest look-up then needs no seams or offsets.

    Returns:
        uint8 [len(TEXTURE_INDEX), LEVELS, SIZE, SIZE], flattened; 0..255 mixes the two colours of a material.
    """
    bank = np.empty((len(_TEXTURES), LEVELS, SIZE, SIZE), np.uint8)
    for i, (name, make) in enumerate(_TEXTURES.items()):
        level = np.rint(255 * np.clip(make(sample_rng("texture", name)), 0, 1)).astype(np.int32)
        for k in range(LEVELS):
            if k:
                step = 1 << (k - 1)
                # The mean of four shifted copies, in integers: exact on every platform.
                rows = level + np.roll(level, -step, 0)
                level = (rows + np.roll(rows, -step, 1) + 2) >> 2
            bank[i, k] = level
    return bank.reshape(-1)
