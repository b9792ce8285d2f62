"""Read one map of depth (or of another kind) from a file of any format that models and data sets write.

`FORMATS` has a row for each suffix. Values stay as they are stored: a pixel without a value is NaN; a 0 is
a value, except in a 16-bit PNG, where it means none.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from depthloss.training.data.io import DataError, check_file, fault, read_depth_png
from depthloss.training.errors import did_you_mean

_DAMAGED = (OSError, ValueError, EOFError, SyntaxError, KeyError, zipfile.BadZipFile, zlib.error)
_AGAIN = "export it again"
# Hypersim: of pictures of 1024x768 pixels, in pixels. It stores distances to the camera's centre.
_HYPERSIM_FOCAL = 886.81


def read_map(path: str | Path, key: str | None = None, scale: float = 256.0) -> np.ndarray:
    """Read one map from a file; its suffix, in any case, says the format (`FORMATS`).

    Args:
        path: the file.
        key: name of the map in an npz or HDF5 file; None = the only one.
        scale: units per metre of a 16-bit PNG, but of MoGe's, whose text says near and far of its
            logarithm; other formats store the values themselves.

    Returns:
        float32 array [H, W], as stored; NaN = no value. Axes of length 1 are dropped.

    Raises:
        DataError: unknown suffix, missing or damaged file, or not one map of numbers.
        ValueError: `scale` is not a positive finite number.
    """
    path = Path(path)
    read = FORMATS.get(path.suffix.lower())
    if read is None:
        got = f"the suffix {path.suffix!r}{did_you_mean(path.suffix, FORMATS)}"
        raise fault(path, got, "a map in a known format", "convert it")
    check_file(path, "a map of depth")
    try:
        found = read(path, key, scale)
    except DataError:
        raise
    except _DAMAGED as error:
        if isinstance(error, ValueError) and str(error).startswith("depth_scale"):
            raise  # an argument is at fault, not the file
        got = f"a damaged or truncated file ({error})"
        raise fault(path, got, f"a map as {path.suffix}", "copy or export it again") from error
    shape, found = found.shape, np.squeeze(found) if found.ndim > 2 else found
    if found.ndim != 2 or not found.size or found.dtype.kind not in "fiu":
        raise fault(path, f"{found.dtype} {list(shape)}", "one map [H, W] of numbers", _AGAIN)
    return found.astype(np.float32)


def distance_to_depth(distance: np.ndarray, focal: float = _HYPERSIM_FOCAL) -> np.ndarray:
    """Turn distances to the camera's centre into depth; the principal point is the image's centre.

    Args:
        distance: float array [H, W].
        focal: focal length in pixels; by default Hypersim's, for 1024x768 pixels.

    Returns:
        Depth [H, W] in the unit and dtype of `distance`.
    """
    h, w = distance.shape
    y, x = np.arange(h)[:, None] - (h - 1) / 2, np.arange(w) - (w - 1) / 2
    return (distance * (focal / np.sqrt(x * x + y * y + focal * focal))).astype(distance.dtype)


def _png(path: Path, key: str | None, scale: float) -> np.ndarray:
    with Image.open(path, formats=["PNG"]) as image:
        if "near" in image.info and "far" in image.info:
            return _log_png(path, image)
    depth = read_depth_png(path, scale)
    return np.where(depth > 0, depth, np.float32(np.nan))


def _log_png(path: Path, image: Image.Image) -> np.ndarray:
    """MoGe's 16-bit PNG: near^(1-t) far^t, t = (x - 1)/65533; 0 is no value, 65535 infinity."""
    x = np.array(image)
    if x.dtype.kind not in "iu" or x.ndim != 2:
        raise fault(path, f"{x.dtype} {list(x.shape)}", "one channel of 16 bits beside near and far", _AGAIN)
    near, far = float(image.info["near"]), float(image.info["far"])
    t = (x.astype(np.float64) - 1) / 65533
    depth = near ** (1 - t) * far**t * float(image.info.get("unit", 1.0))
    return np.where(x == 0, np.nan, np.where(x == 65535, np.inf, depth))


def _npy(path: Path, key: str | None, scale: float) -> np.ndarray:
    found = np.load(path, allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise fault(path, "an npz archive", "a single array", "rename it to .npz")
    return found


def _npz(path: Path, key: str | None, scale: float) -> np.ndarray:
    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        raise fault(path, "a single array", "an npz archive", "rename it to .npy")
    with found as archive:
        return archive[_choose(path, archive.files, key)]


def _hdf5(path: Path, key: str | None, scale: float) -> np.ndarray:
    import h5py

    with h5py.File(path) as file:
        names = [name for name, item in file.items() if isinstance(item, h5py.Dataset)]
        if key is not None and isinstance(file.get(key), h5py.Dataset):
            return file[key][()]  # a path through groups is a key too
        return file[_choose(path, names, key)][()]


def _choose(path: Path, names: list[str], key: str | None) -> str:
    if key is None and len(names) == 1:
        return names[0]
    if key in names:
        return key
    if key is None:
        got = f"{len(names)} arrays ({', '.join(names) or 'none'})"
        raise fault(path, got, "one map, or a key that chooses it", "name the key")
    raise fault(path, f"no key {key!r}{did_you_mean(key, names)}", "the map of that key", "name another key")


def _tiff(path: Path, key: str | None, scale: float) -> np.ndarray:
    with Image.open(path, formats=["TIFF"]) as image:
        if image.mode != "F":
            got = f"a TIFF of Pillow mode {image.mode!r}"
            raise fault(path, got, "a TIFF of one channel of 32-bit floats", _AGAIN)
        return np.array(image)


def _pfm(path: Path, key: str | None, scale: float) -> np.ndarray:
    """Portable float map: 3 lines of header, rows from the bottom up; negative scale: little-endian."""
    with path.open("rb") as file:
        kind, size, order = (file.readline(100).strip() for _ in range(3))
        if kind != b"Pf":
            got = "three channels" if kind == b"PF" else f"a header {kind[:20]!r}"
            raise fault(path, got, "a PFM of one channel (Pf)", _AGAIN)
        w, h = map(int, size.split())
        factor = float(order)
        if w < 1 or h < 1 or not math.isfinite(factor) or factor == 0:
            raise fault(path, f"a header {size!r} {order!r}", "a size and a scale", _AGAIN)
        data = file.read()
    if len(data) != 4 * w * h:
        raise fault(path, f"{len(data)} bytes of values", f"{4 * w * h} for {w}x{h} pixels", _AGAIN)
    return np.frombuffer(data, "<f4" if factor < 0 else ">f4").reshape(h, w)[::-1]


# By suffix, in lower case: what reads a file of it, given the path, the key and the scale.
FORMATS: dict[str, Callable[[Path, str | None, float], np.ndarray]] = {
    ".png": _png,
    ".npy": _npy,
    ".npz": _npz,
    ".tif": _tiff,
    ".tiff": _tiff,
    ".pfm": _pfm,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
}
