"""Read one map of depth (or of another kind) from a file of any format that models and data sets write.

`FORMATS` has a row for each suffix. Floating-point values stay as they are stored, integers are divided by a
scale. A pixel without a value is NaN; a 0 is a value, except in a 16-bit PNG, where it means none.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from depthloss.training.data.hdf5 import choose, open_hdf5, read_mat
from depthloss.training.data.io import DataError, check_file, fault, logger, open_depth_png
from depthloss.training.errors import did_you_mean

_DAMAGED = (
    *(OSError, RuntimeError, ValueError, EOFError, SyntaxError, KeyError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
_AGAIN = "export it again"
_NAN = np.float32(np.nan).view(np.uint32)
# Hypersim: in pixels, of pictures of 1024x768. It stores distances to the camera's centre.
_HYPERSIM_FOCAL, _HYPERSIM_SIZE = 886.81, (1024, 768)
_HYPERSIM_NAME = "depth_meters.hdf5"


class Stored(NamedTuple):
    """A map whose numbers in the file stand for other values; both are arrays [H, W]."""

    numbers: np.ndarray
    values: np.ndarray


def read_map(
    path: str | Path,
    key: str | None = None,
    scale: float = 256.0,
    *,
    invalid: Sequence[float] = (),
    hypersim_distance: bool | None = None,
) -> np.ndarray:
    """Read one map from a file; its suffix, in any case, says the format (`FORMATS`).

    Args:
        path: the file; FILE.mat/NUMBER is a map of a MATLAB file with many, such as
            nyu_depth_v2_labeled.mat/0001, counted from 1.
        key: name of the map in an npz, HDF5 or MATLAB file, channel of an EXR file ("depth.Z", and
            "PART/Z" where there are several parts); None = the only one.
        scale: units per metre where integers are stored, but in MoGe's PNG, whose text says near and far of
            its logarithm. Floating-point values are those of the map.
        invalid: numbers that mean "no value", as they are in the file: before `scale`.
        hypersim_distance: True = the file has distances to the camera's centre as Hypersim has them, and they
            are turned into depth; False = it has depth; None = likewise, but a file with Hypersim's name,
            *depth_meters.hdf5, is an error.

    Returns:
        float32 array [H, W]; NaN = no value. Axes of length 1 are dropped.

    Raises:
        DataError: unknown suffix, missing or damaged file, or not one map of numbers; or the package that
            reads it is missing.
        ValueError: `scale` is not a positive finite number, or `invalid` holds something else than numbers.
    """
    path = Path(path)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a positive finite number of units per metre, got {scale!r}")
    marks = check_invalid(invalid)
    suffix = path.suffix.lower()
    if suffix not in FORMATS and path.parent.suffix.lower() == ".mat":
        suffix = ".mat"
    elif suffix not in FORMATS:
        got = f"the suffix {path.suffix!r}{did_you_mean(path.suffix, FORMATS)}"
        raise fault(path, got, "a map in a known format", "convert it")
    else:
        check_file(path, "a map of depth")
    if hypersim_distance is None and path.name.lower().endswith(_HYPERSIM_NAME):
        raise fault(
            path, "the name of a map of Hypersim, which has distances to the camera's centre", "depth",
            "set hypersim_distance to true, which converts them, or to false if it has depth",
        )  # fmt: skip
    try:
        found = FORMATS[suffix](path, key, scale)
    except DataError:
        raise
    except _DAMAGED as error:
        got = f"a damaged or truncated file ({error})"
        raise fault(path, got, f"a map as {path.suffix}", "copy or export it again") from error
    numbers, values = found if isinstance(found, Stored) else (found, found)
    shape = list(values.shape)
    if values.ndim > 2:
        numbers, values = np.squeeze(numbers), np.squeeze(values)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        raise fault(path, f"{values.dtype} {shape}", "one map [H, W] of numbers", _AGAIN)
    with np.errstate(over="ignore"):  # Beyond float32: infinite.
        values = values.astype(np.float32)
        if numbers.dtype.kind in "iu" and not isinstance(found, Stored):
            values /= np.float32(scale)
        for mark in marks:
            # In the precision of the file, where -9999.9 is another number.
            values[numbers == (numbers.dtype.type(mark) if numbers.dtype.kind == "f" else mark)] = np.nan
    return hypersim_depth(path, values) if hypersim_distance else values


def check_invalid(invalid: Sequence[float]) -> tuple[float, ...]:
    """Return the numbers that mean "no value".

    Raises:
        ValueError: it is no sequence of numbers.
    """
    try:
        return tuple(float(mark) for mark in invalid)
    except (TypeError, ValueError) as error:
        raise ValueError(f"invalid must be a list of numbers, such as [65535], got {invalid!r}") from error


def check_packages(path: Path, suffixes: Sequence[str]) -> None:
    """Raise a `DataError` if a package is missing that files with one of the suffixes need."""
    if any(suffix.lower() == ".exr" for suffix in suffixes) and importlib.util.find_spec("OpenEXR") is None:
        got = "an EXR file, and the package OpenEXR is not installed"
        raise fault(path, got, "a package that reads it", "pip install 'depthloss[exr]'")


def distance_to_depth(distance: np.ndarray, focal: float | None = None) -> np.ndarray:
    """Turn distances to the camera's centre into depth; the principal point is the image's centre.

    Args:
        distance: float array [H, W].
        focal: focal length in pixels; None = Hypersim's, 886.81 at 1024x768, in proportion to the width.

    Returns:
        Depth [H, W] in the unit and dtype of `distance`.
    """
    h, w = distance.shape
    focal = _HYPERSIM_FOCAL * w / _HYPERSIM_SIZE[0] if focal is None else focal
    return (distance * _cosine(h, w, focal)).astype(distance.dtype)


@functools.lru_cache(4)
def _cosine(h: int, w: int, focal: float) -> np.ndarray:
    y, x = np.arange(h)[:, None] - (h - 1) / 2, np.arange(w) - (w - 1) / 2
    return focal / np.sqrt(x * x + y * y + focal * focal)


def hypersim_depth(path: Path, distance: np.ndarray) -> np.ndarray:
    """Turn distances of Hypersim into depth; each size is logged once.

    Raises:
        DataError: another ratio of the sides, so that neither the focal length nor the centre is known.
    """
    h, w = distance.shape
    width, height = _HYPERSIM_SIZE
    if abs(w * height / width - h) >= 1:
        fix = (
            f"resize to it, not crop, or convert with the picture's own camera ({distance_to_depth.__name__})"
        )
        raise fault(path, f"{w}x{h} pixels", f"Hypersim's ratio of the sides, {width}:{height}", fix)
    _say_focal(h, w)
    return distance_to_depth(distance)


@functools.cache
def _say_focal(h: int, w: int) -> None:
    logger.info(
        "Hypersim: distances to the camera's centre become depth with the focal length %.6g px at %dx%d",
        _HYPERSIM_FOCAL * w / _HYPERSIM_SIZE[0], w, h,
    )  # fmt: skip


def _png(path: Path, key: str | None, scale: float) -> Stored:
    with open_depth_png(path) as image:
        stored, text = np.asarray(image), image.info
    if "near" in text and "far" in text:
        return Stored(stored, _logarithmic(stored, text))
    values = stored.astype(np.float32) / np.float32(scale)
    # The bits of NaN in place of those of 0: on scattered pixels np.where takes four times as long.
    values.view(np.uint32)[...] |= np.multiply(stored == 0, _NAN, dtype=np.uint32)
    return Stored(stored, values)


def _logarithmic(stored: np.ndarray, text: dict) -> np.ndarray:
    """MoGe's 16-bit PNG: near^(1-t) far^t, t = (x - 1)/65533; 0 is no value, 65535 infinity."""
    near, far = float(text["near"]), float(text["far"])
    t = (stored.astype(np.float64) - 1) / 65533
    depth = near ** (1 - t) * far**t * float(text.get("unit", 1.0))
    return np.where(stored == 0, np.nan, np.where(stored == 65535, np.inf, depth))


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
        return archive[choose(path, archive.files, key)]


def _hdf5(path: Path, key: str | None, scale: float) -> np.ndarray:
    import h5py

    with open_hdf5(path, f"a map as {path.suffix}") as file:
        names = [name for name, item in file.items() if isinstance(item, h5py.Dataset)]
        if key is not None and isinstance(file.get(key), h5py.Dataset):
            return file[key][()]  # a path through groups is a key too
        return file[choose(path, names, key)][()]


def _mat(path: Path, key: str | None, scale: float) -> np.ndarray:
    if path.suffix.lower() == ".mat":
        return read_mat(path, key, None)
    if not path.name.isdecimal():
        raise fault(path, f"the map {path.name!r}", "a number, from 1", f"name {path.parent.name}/0001")
    return read_mat(path.parent, key, int(path.name))


def _exr(path: Path, key: str | None, scale: float) -> np.ndarray:
    check_packages(path, [path.suffix])
    import OpenEXR

    # No threads of its own: data are loaded in processes, and threads do not survive a fork.
    with OpenEXR.File(str(path), header_only=True, num_threads=0) as file:
        parts, deep = len(file.parts), (OpenEXR.deepscanline, OpenEXR.deeptile)
        if any(part.type() in deep for part in file.parts):
            raise fault(path, "deep pixels", "one value per pixel", "flatten it")
    with OpenEXR.File(str(path), separate_channels=True, num_threads=0) as file:
        if len(file.parts) < parts:  # it drops parts that it cannot read
            raise ValueError("a part of it cannot be read")
        found = {
            f"{part.name()}/{name}" if parts > 1 else name: (part, channel)
            for part in file.parts
            for name, channel in part.channels.items()
        }
        part, channel = found[choose(path, list(found), key)]
        (x, y), (right, bottom) = part.header["displayWindow"]
        pixels = channel.pixels
        if pixels.shape != (bottom - y + 1, right - x + 1) or (part.header["dataWindow"][0] != (x, y)).any():
            h, w = pixels.shape
            got = f"{w}x{h} pixels of a picture of {right - x + 1}x{bottom - y + 1}"
            raise fault(
                path, got, "all of them and no others", "export it without crop, overscan or sampling"
            )
        return pixels


def _tiff(path: Path, key: str | None, scale: float) -> np.ndarray:
    with Image.open(path, formats=["TIFF"]) as image:
        if image.mode not in ("F", "I", "I;16", "I;16B"):
            got = f"a TIFF of Pillow mode {image.mode!r}"
            raise fault(path, got, "a TIFF of one channel of 32-bit floats or 16-bit integers", _AGAIN)
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
FORMATS: dict[str, Callable[[Path, str | None, float], np.ndarray | Stored]] = {
    ".png": _png,
    ".npy": _npy,
    ".npz": _npz,
    ".tif": _tiff,
    ".tiff": _tiff,
    ".pfm": _pfm,
    ".exr": _exr,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".mat": _mat,
}
