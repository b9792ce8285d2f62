"""Read and write the image files of a data set; every fault is a `DataError` that names the file."""

from __future__ import annotations

import logging
import math
import os
import stat
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

logger = logging.getLogger("depthloss.data")

_CHECK_PATH = "check the path and the layout of the data set"
_NO_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOUR = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale+alpha", 6: "RGBA"}
# By EXIF orientation: the transposition that shows the picture upright; from 5 on it swaps height and width.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_COLOUR_MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK", "YCbCr")
# What Pillow raises for damaged files: zlib and chunk faults surface as OSError, SyntaxError or ValueError.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class DataError(RuntimeError):
    """A file of a data set is missing, damaged or not what the layout asks for.

    The message names the file, what was found, what was expected and what to do. It takes a single string,
    so it keeps its type when a `DataLoader` worker raises it.
    """


def fault(path: str | Path, got: str, expected: str, fix: str) -> DataError:
    """Build the one form of message that every data error has.

    Args:
        path: the file or folder at fault.
        got: what was found.
        expected: what the layout asks for.
        fix: what to do about it.
    """
    return DataError(f"{path}: got {got}; expected {expected}; {fix}")


def not_a_file(path: str | Path) -> str | None:
    """Return what there is instead of a file that can be read, such as "a named pipe"; None if it is one.

    Nothing is opened: opening a pipe or a device may block forever.
    """
    try:
        mode = stat.S_IFMT(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return f"a broken link, to {os.readlink(path)}" if os.path.islink(path) else "no such file"
    except (OSError, ValueError) as error:  # ValueError: a NUL in it
        return f"a path that cannot be read ({getattr(error, 'strerror', None) or error})"
    return None if mode == stat.S_IFREG else _NO_FILES.get(mode, "a special file")


def not_a_folder(path: str | Path) -> str | None:
    """Return what there is instead of a folder, such as "a file"; None if it is one."""
    if (got := not_a_file(path)) == "a folder":
        return None
    return "a file" if got is None else "no such folder" if got == "no such file" else got


def check_file(path: str | Path, expected: str, fix: str = _CHECK_PATH) -> None:
    """Raise a `DataError` if a path is no regular file; see `fault` for `expected` and `fix`."""
    if got := not_a_file(path):
        raise fault(path, got, expected, fix)


def read_rgb(path: str | Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Read a colour image.

    Greyscale and palette images become RGB and an alpha channel is dropped. The EXIF orientation is applied
    where that makes the image fit the depth map; where it fits as it is stored, its pixels stay as they are.

    Args:
        path: an 8-bit PNG or JPEG.
        shape: (H, W) of the depth map; None = the stored pixels, whatever EXIF says.

    Returns:
        uint8 array [H, W, 3].

    Raises:
        DataError: missing, unreadable or truncated file, not an 8-bit image, or its EXIF orientation makes it
            fit in neither way, or leaves open which of the two is meant.
    """
    expected = "an 8-bit RGB PNG or JPEG"
    image, reduced = _open(path, expected)
    if reduced:
        raise fault(path, "an image of 16 bits per channel", expected, "convert it to 8-bit RGB")
    if image.mode not in _COLOUR_MODES:
        raise fault(path, f"an image of Pillow mode {image.mode!r}", expected, "convert it to 8-bit RGB")
    with image:
        return np.array(_oriented(path, image, shape).convert("RGB"))


def _oriented(path: str | Path, image: Image.Image, shape: tuple[int, int] | None) -> Image.Image:
    """Apply the EXIF orientation of an image, if that is what makes it fit a depth map of this shape."""
    if shape is None or (orientation := _orientation(image)) == 1:
        return image
    stored = image.size[::-1]
    shown = stored[::-1] if orientation >= 5 else stored
    h, w = shape
    if shape not in (stored, shown):
        got = f"{stored[1]}x{stored[0]} pixels, or {shown[1]}x{shown[0]} by its EXIF orientation"
        raise fault(path, got, f"{w}x{h} as the depth map", "register both to the same pixel grid")
    if stored == shown:
        raise fault(
            path,
            f"an EXIF orientation ({orientation}), with and without which the image fits the depth map",
            "an image without one",
            "turn its pixels as EXIF says, or remove the tag, whichever shows it as the depth map is",
        )
    return image if stored == shape else image.transpose(_TURNS[orientation])


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODE_ERRORS:  # Damaged metadata; the pixels have been decoded.
        return 1
    return orientation if orientation in range(2, 9) else 1


def read_picture(path: str | Path) -> tuple[np.ndarray, bool, bool]:
    """Read any picture as a viewer shows it: turned as its EXIF orientation says.

    Greyscale and palette images become RGB, an alpha channel is dropped, and 0 to 65535 of an image of 16
    bits per channel become 0 to 255.

    Args:
        path: an image of any format that Pillow reads.

    Returns:
        uint8 array [H, W, 3]; whether it was turned; whether it has 16 bits per channel.

    Raises:
        DataError: missing, unreadable or truncated file, or values that have no range of colours.
    """
    expected = "an image of 8 or 16 bits per channel"
    with warnings.catch_warnings():
        # About EXIF data and palettes that it reads all the same.
        warnings.filterwarnings("ignore", module="PIL")
        stored, reduced = _open(path, expected)
        try:
            turn = _TURNS.get(_orientation(stored))
            image, turned = stored if turn is None else stored.transpose(turn), turn is not None
            if image.mode == "P":
                image = image.convert("RGBA")
            if image.mode.startswith("I"):
                values = np.asarray(image)
                low, high = int(values.min()), int(values.max())
                if low < 0 or high > 65535:
                    raise fault(path, f"values from {low} to {high}", expected, "convert it to 8 bits")
                grey = np.rint(values / 257.0).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2), turned, True
            if image.mode == "F":
                raise fault(path, "an image of floats", expected, "convert it to 8 bits")
            return np.array(image.convert("RGB")), turned, reduced
        except _DECODE_ERRORS as error:
            raise fault(
                path, f"an image that cannot be converted ({error})", expected, "save it again"
            ) from error


def read_depth_png(path: str | Path, depth_scale: float = 256.0) -> np.ndarray:
    """Read a 16-bit depth PNG.

    Args:
        path: a 16-bit greyscale PNG; metres = value / `depth_scale`, 0 = invalid.
        depth_scale: PNG units per metre (256 KITTI and NCDB, 1000 millimetres, 5000 TUM).

    Returns:
        float32 array [H, W] in metres, 0 = invalid.

    Raises:
        DataError: missing, unreadable or truncated file, or not a 16-bit greyscale PNG.
        ValueError: `depth_scale` is not a positive finite number.
    """
    _check_scale(depth_scale)
    with open_depth_png(path) as image:
        return np.asarray(image).astype(np.float32) / np.float32(depth_scale)


def open_depth_png(path: str | Path) -> Image.Image:
    """Open and decode a 16-bit greyscale PNG.

    Pillow's mode is "I;16", "I;16B" or "I" depending on its version; all hold the exact integers.

    Raises:
        DataError: see `read_depth_png`.
    """
    return _open(path, "a 16-bit greyscale PNG (0 = invalid)", header_check=_check_depth_header)[0]


def read_depth_npz(path: str | Path, key: str) -> np.ndarray:
    """Read a depth map from a NumPy archive; arrays of Python objects are refused, as they run code.

    Args:
        path: an npz file.
        key: name of the array [H, W] in metres, 0 = invalid.

    Returns:
        float32 array [H, W] in metres; zero, negative and non-finite values are 0 (invalid).

    Raises:
        DataError: missing, unreadable or truncated file, no such key, or not a map of numbers.
    """
    expected = f"an npz file with the key {key!r}, a map [H, W] of depth in metres"
    check_file(path, expected)
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            keys = archive.files
            depth = archive[key] if key in keys else None
    except (TypeError, AttributeError) as error:  # a bare npy file is no archive
        raise fault(path, "a file that is no npz archive", expected, "export it again") from error
    except (*_DECODE_ERRORS, zipfile.BadZipFile, zlib.error, RuntimeError, MemoryError) as error:
        raise fault(
            path, f"a damaged or truncated file ({error})", expected, "copy or export it again"
        ) from error
    if depth is None:
        raise fault(path, f"no key {key!r} (it has {', '.join(keys) or 'none'})", expected, "export it again")
    if depth.ndim != 2 or depth.dtype.kind not in "fiu":
        raise fault(path, f"{depth.dtype} {list(depth.shape)}", expected, "export it again")
    return clean_depth(depth)


def clean_depth(depth: np.ndarray) -> np.ndarray:
    """Return depth in metres as float32; zero, negative and non-finite values become 0 (invalid)."""
    with np.errstate(invalid="ignore", over="ignore"):
        depth = depth.astype(np.float32)
        valid = (depth > 0) & (depth < np.inf)
    # The bits times 0 or 1: on scattered pixels np.where takes three times as long.
    return np.multiply(depth.view(np.uint32), valid, dtype=np.uint32).view(np.float32)


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask image of any bit depth.

    Args:
        path: PNG whose non-zero pixels are kept (colour: any non-zero channel; alpha is ignored).

    Returns:
        bool array [H, W], True = keep.

    Raises:
        DataError: missing, unreadable or truncated file.
    """
    expected = "a mask PNG (non-zero = keep)"
    image, reduced = _open(path, expected)
    if reduced:  # the lowest 8 bits are lost: 1 would be 0
        raise fault(path, "a colour image of 16 bits per channel", expected, "convert it to greyscale")
    with image:
        if image.mode in ("RGBA", "LA"):
            values = np.asarray(image)[..., :-1]
        else:
            values = np.asarray(image)
    return values.any(axis=-1) if values.ndim == 3 else values != 0


def write_rgb(path: str | Path, rgb: np.ndarray) -> None:
    """Write a colour image.

    Args:
        path: target file; the suffix (.png, .jpg, .jpeg) picks the format. Folders are created.
        rgb: uint8 array [H, W, 3].

    Raises:
        ValueError: `rgb` has another shape or dtype.
    """
    rgb = np.asarray(rgb)
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(
            f"rgb must be uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}; scale to 0..255 first"
        )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(rgb)).save(path)


def write_depth_png(path: str | Path, depth: np.ndarray, depth_scale: float = 256.0) -> None:
    """Write a depth map as a 16-bit PNG, rounded to the nearest unit of 1 / `depth_scale` metres.

    Args:
        path: target file (.png). Folders are created.
        depth: float array [H, W] in metres; zero, negative and non-finite values are written as 0 (invalid).
        depth_scale: PNG units per metre.

    Raises:
        ValueError: `depth` is not [H, W], or holds a value that 16 bits cannot hold at this scale.
    """
    _check_scale(depth_scale)
    depth = np.asarray(depth, dtype=np.float64)
    if depth.ndim != 2:
        raise ValueError(f"depth must be [H, W], got {list(depth.shape)}; squeeze the other axes")
    units = np.rint(np.where(np.isfinite(depth) & (depth > 0), depth, 0.0) * depth_scale)
    if units.size and units.max() > 65535:
        raise ValueError(
            f"depth reaches {units.max() / depth_scale:.3f} m, 16 bits at depth_scale={depth_scale:g} hold "
            f"{65535 / depth_scale:.3f} m; lower depth_scale or set the far pixels to 0"
        )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(units.astype(np.uint16)).save(path, format="PNG")


def _check_scale(depth_scale: float) -> None:
    if not (math.isfinite(depth_scale) and depth_scale > 0):
        raise ValueError(f"depth_scale must be a positive number of PNG units per metre, got {depth_scale!r}")


def _check_depth_header(path: Path, header: bytes) -> None:
    """Judge the bit depth by the file itself: Pillow's mode for 16-bit PNG differs between its versions."""
    expected = "a 16-bit greyscale PNG (0 = invalid)"
    if len(header) < 26 or header[:8] != _PNG_SIGNATURE:
        raise fault(path, "a file that is no PNG", expected, "re-export the depth map as 16-bit PNG")
    bits, colour = header[24], header[25]
    if bits != 16 or colour != 0:
        kind = _PNG_COLOUR.get(colour, f"colour type {colour}")
        raise fault(
            path,
            f"{'an' if bits == 8 else 'a'} {bits}-bit {kind} PNG",
            expected,
            "re-export the depth map without conversion (a picture made for viewing has lost its metres)",
        )


def _reduced(image: Image.Image) -> bool:
    """Whether Pillow will leave 8 of 16 bits, as it does of all colours. Must be called before Pillow
    decodes.
    """
    if image.mode.startswith(("I", "F")):
        return False
    for codec, _, _, arguments in image.tile:
        raw, *rest = arguments if isinstance(arguments, tuple) else (arguments,)
        # PNG and TIFF have it in the name of the raw mode, such as RGB;16B; PPM says the largest value.
        if ";16" in str(raw) or (codec == "ppm" and rest[0] > 255):
            return True
    return False


def _open(path: str | Path, expected: str, header_check=None) -> tuple[Image.Image, bool]:
    """Open and decode an image; the result holds its pixels and no open file. And whether 8 bits are lost."""
    path = Path(path)
    check_file(path, expected)
    try:
        with open(path, "rb") as file:
            header = file.read(26)
            if not header:
                raise fault(path, "an empty file", expected, "copy or export it again")
            if header_check is not None:
                header_check(path, header)
            file.seek(0)
            image = Image.open(file)
            reduced = _reduced(image)
            image.load()
            return image, reduced
    except PermissionError as error:
        raise fault(
            path, f"a path that cannot be read ({error.strerror})", expected, "check the path"
        ) from error
    except Image.DecompressionBombError as error:
        most = f"{expected} of at most {2 * Image.MAX_IMAGE_PIXELS / 1e6:.3g} megapixels"
        raise fault(path, "an image of more", most, "make it smaller, or cut it") from error
    except UnidentifiedImageError as error:
        raise fault(path, "a file that is no image or lost its header", expected, "copy it again") from error
    except _DECODE_ERRORS as error:
        raise fault(
            path, f"a damaged or truncated file ({error})", expected, "copy or export it again"
        ) from error
