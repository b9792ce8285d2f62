"""How depth maps and their errors are drawn: colours, scales, sparse points. Used by every picture.

The colours order by lightness, and stay apart from the grey of invalid pixels for colour-blind readers too.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, LogNorm, Normalize

INVALID_GREY = "0.6"
INVALID_BYTE = 153  # the same as a channel of 8 bits
ERROR_LIMITS = (0.1, 0.2, 0.5, 1.0)
# Near is bright, far is dark. Too near is shown as the nearest, too far as the farthest.
DEPTH_COLOURS: Colormap = matplotlib.colormaps["inferno_r"].with_extremes(bad=INVALID_GREY)
# Blue is too near, red is too far.
ERROR_COLOURS: Colormap = matplotlib.colormaps["RdBu_r"].with_extremes(bad=INVALID_GREY)
# Colours of Okabe and Ito, without the yellow, which is hard to see on white.
LINE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def depth_norm(depth: np.ndarray, prediction: np.ndarray) -> Normalize:
    """Return the scale of a frame: from the 1st to the 99th percentile; logarithmic from a ratio of 5 on.

    Args:
        depth: [H, W], ground truth in metres, 0 = invalid; it alone decides if any of it is valid.
        prediction: [H, W] in metres.
    """
    shown = depth[depth > 0]
    if not shown.size:
        shown = prediction[np.isfinite(prediction) & (prediction > 0)]
    low, high = np.percentile(shown, [1, 99]) if shown.size else (1.0, 10.0)
    low, high = max(float(low), 1e-3), max(float(high), 1.05 * float(low), 2e-3)
    return LogNorm(low, high) if high > 5 * low else Normalize(low, high)


def ticks(norm: Normalize, count: int = 5) -> np.ndarray:
    """Return `count` values evenly spread over the scale, the ends included."""
    return (np.geomspace if isinstance(norm, LogNorm) else np.linspace)(norm.vmin, norm.vmax, count)


def percent(value: float) -> str:
    """Return a relative error as the label of a scale: "+10 %", "−5 %", "0 %"."""
    return f"{100 * value:+.3g} %".replace("-", "−") if value else "0 %"


def depth_map(depth: np.ndarray, width: int | None = None) -> np.ndarray:
    """Return a depth map as it is drawn: [H, W] -> at most `width` wide, NaN where there is no depth."""
    return _enlarge(_shrink(np.where(np.isfinite(depth) & (depth > 0), depth, np.nan), width))


def error_map(error: np.ndarray, width: int | None = None) -> np.ndarray:
    """Return a map of errors as it is drawn: [H, W] -> at most `width` wide, NaN where there is none."""
    return _enlarge(_shrink(np.where(np.isfinite(error), error, np.nan), width))


def relative_error(prediction: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return (prediction − depth) / depth, signed; NaN where there is no ground truth.

    Args:
        prediction: [H, W] in metres.
        depth: [H, W], ground truth in metres, 0 = invalid.
    """
    error = np.full(depth.shape, np.nan)
    valid = depth > 0
    error[valid] = (prediction[valid] - depth[valid]) / depth[valid]
    return error


def error_limit(errors: Sequence[np.ndarray]) -> float:
    """Return where the scale of relative errors ends: the least of `ERROR_LIMITS` that covers 95 %."""
    size = np.concatenate([np.abs(e[np.isfinite(e)]).ravel() for e in errors] or [np.zeros(0)])
    need = np.percentile(size, 95) if size.size else 0.0
    return next((limit for limit in ERROR_LIMITS if need <= limit), ERROR_LIMITS[-1])


def _shrink(values: np.ndarray, width: int | None) -> np.ndarray:
    # Of k x k pixels the one nearest to their centre that has a value: means would invent depths at edges,
    # and every k-th pixel would miss most points of a sparse map.
    k = 1 if width is None else -(-values.shape[1] // width)
    if k == 1:
        return values
    pad = [(0, -size % k) for size in values.shape]
    padded = np.pad(values, pad, constant_values=np.nan)
    rows, columns = padded.shape[0] // k, padded.shape[1] // k
    blocks = padded.reshape(rows, k, columns, k).swapaxes(1, 2).reshape(rows, columns, k * k)
    y, x = np.divmod(np.arange(k * k), k)
    blocks = blocks[..., np.argsort((y - (k - 1) / 2) ** 2 + (x - (k - 1) / 2) ** 2, kind="stable")]
    first = np.isfinite(blocks).argmax(-1)
    return np.take_along_axis(blocks, first[..., None], -1)[..., 0]


def _enlarge(values: np.ndarray) -> np.ndarray:
    # Each point of a sparse map (NaN = none) as 3 x 3 pixels; the nearest in a fixed order wins.
    filled = np.isfinite(values)
    if not filled.any() or filled.mean() > 0.5:
        return values
    height, width = values.shape
    padded = np.pad(values, 1, constant_values=np.nan)
    out = values.copy()
    for dy in range(3):
        for dx in range(3):
            out = np.where(np.isfinite(out), out, padded[dy : dy + height, dx : dx + width])
    return out
