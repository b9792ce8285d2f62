"""Resizing the maps of a frame, each by the rule of its kind, all on the same pixel grid."""

from __future__ import annotations

import numpy as np
from PIL import Image


def resize_rgb(rgb: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize uint8 [h, w, 3] to `shape` (H, W) with an antialiasing Lanczos filter."""
    if rgb.shape[:2] == tuple(shape):
        return rgb
    size = (shape[1], shape[0])
    return np.asarray(Image.fromarray(np.ascontiguousarray(rgb)).resize(size, Image.Resampling.LANCZOS))


def resize_depth(depth: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a depth map by moving its valid pixels; no value is ever interpolated.

    A valid pixel (y, x) lands on (floor((y + 0.5) H/h), floor((x + 0.5) W/w)). Where several land on one
    pixel the nearest depth wins, as the nearer surface hides the others. Enlarging leaves holes (0).

    Args:
        depth: float32 [h, w] in metres, 0 = invalid, nothing negative (see `limit_range`).
        shape: target (H, W).

    Returns:
        float32 [H, W], whose non-zero values all occur in `depth`.
    """
    if depth.shape == tuple(shape):
        return depth
    # The bits of positive floats have their order. Less 1, the 0 of "invalid" becomes the largest of all.
    bits = np.ascontiguousarray(depth, np.float32).view(np.uint32) - np.uint32(1)
    bits, rows = _least(bits, shape[0], 0)
    bits, cols = _least(bits, shape[1], 1)
    out = np.zeros(shape, np.float32)
    out[np.ix_(rows, cols)] = (bits + np.uint32(1)).view(np.float32)
    return out


def _least(values: np.ndarray, target: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Join what lands on one place of `target` along `axis`; return that, and which places were hit."""
    places = centres(values.shape[axis], target)
    first = np.flatnonzero(np.diff(places, prepend=-1))
    last = np.append(first[1:], len(places)) - 1
    out = values.take(first, axis)
    for step in range(1, int((last - first).max()) + 1):
        # A group that has no further member gives its last once more.
        np.minimum(out, values.take(np.minimum(first + step, last), axis), out=out)
    return out, places[first]


def resize_mask(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a bool mask [h, w]; a target pixel is kept only if every pixel that lands on it is kept.

    Uses the mapping of `resize_depth`, so no depth from a masked-out pixel survives the mask.
    """
    if mask.shape == tuple(shape):
        return mask
    out = resize_classes(mask, shape)
    y, x = np.nonzero(~mask)
    out[centres(mask.shape[0], shape[0])[y], centres(mask.shape[1], shape[1])[x]] = False
    return out


def resize_classes(classes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize class maps [h, w, ...] to `shape` (H, W): each pixel takes what its centre falls on."""
    if classes.shape[:2] == tuple(shape):
        return classes
    h, w = classes.shape[:2]
    return classes[centres(shape[0], h)[:, None], centres(shape[1], w)]


def centres(source: int, target: int) -> np.ndarray:
    """Where each of `source` pixel centres falls among `target` pixels, in exact integer arithmetic."""
    return (2 * np.arange(source) + 1) * target // (2 * source)
