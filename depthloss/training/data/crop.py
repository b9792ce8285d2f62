"""Fixed crops in the grammar of packnet-sfm, such as (-352, 0, 0.5, 1216)."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

Borders = Sequence[int | float]

_FORM = "(y, height, x, width) or (y, x)"


def check_crop(crop: Borders | None) -> tuple[int | float, ...]:
    """Check the form of a crop; whether it fits is known only with an image.

    Args:
        crop: (y, height, x, width): an integer y is the top row, counted from the bottom if negative; a
            float y is the middle, as a fraction of the image; height <= 0 ends the crop -height rows above
            the bottom. x and width likewise. Or (y, x): rows and columns to leave out, at the top and left
            if positive, at the bottom and right if negative. () or None is no crop.

    Returns:
        The crop as a tuple of int and float; () is none.

    Raises:
        ValueError: it has another form.
    """
    borders = tuple(crop or ())
    if any(isinstance(b, bool) or not isinstance(b, Real) for b in borders) or len(borders) not in (0, 2, 4):
        raise ValueError(f"crop must be {_FORM}, got {crop!r}")
    borders = tuple(int(b) if isinstance(b, Integral) else float(b) for b in borders)
    if len(borders) == 2 and any(isinstance(b, float) for b in borders):
        raise ValueError(
            f"crop (y, x) must be two integers, got {crop!r}; a fraction needs a height or width"
        )
    for start, size in zip(borders[::2], borders[1::2], strict=True) if len(borders) == 4 else ():
        if isinstance(size, float) or (isinstance(start, float) and not (0 < start < 1 and size > 0)):
            raise ValueError(
                f"crop must be {_FORM} with an integer height and width, and y and x integers or, beside a "
                f"positive size, fractions in (0, 1), got {crop!r}"
            )
    return borders


def crop_window(crop: tuple[int | float, ...], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return the rows and columns of a crop.

    Args:
        crop: from `check_crop`.
        shape: (H, W) of the image.

    Raises:
        ValueError: the crop is empty or reaches out of the image.
    """
    if len(crop) == 4:
        spans = [_span(*crop[:2], shape[0]), _span(*crop[2:], shape[1])]
    elif crop:
        spans = [(max(0, c), total + min(0, c)) for c, total in zip(crop, shape, strict=True)]
    else:
        spans = [(0, total) for total in shape]
    for (start, stop), total in zip(spans, shape, strict=True):
        if not 0 <= start < stop <= total:
            raise ValueError(f"the crop {crop} does not fit {shape[1]}x{shape[0]} pixels")
    rows, cols = (slice(*span) for span in spans)
    return rows, cols


def _span(start: int | float, size: int, total: int) -> tuple[int, int]:
    if isinstance(start, float):
        start = int(start * total - size / 2)
        return start, start + size
    start += total if start < 0 else 0
    return start, (total + size if size <= 0 else start + size)
