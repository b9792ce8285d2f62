"""The crops of published protocols."""

from __future__ import annotations

from collections.abc import Sequence

# The name of a published crop; or rows from, to, columns from, to in pixels, a negative one from the end.
Crop = str | Sequence[int]

# Rows from, rows to, columns from, columns to, as shares of the height and width; of KITTI.
CROPS: dict[str, tuple[float, float, float, float]] = {
    "garg": (0.40810811, 0.99189189, 0.03594771, 0.96405229),
    "eigen": (0.3324324, 0.91351351, 0.03594771, 0.96405229),
}
NYU = (45, 471, 41, 601)
NAMES = ("none", *CROPS, "nyu", "kitti-benchmark")


def crop_slices(crop: Crop, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of a crop; shares of the size are rounded down.

    Raises:
        ValueError: the crop is of another size of image.
    """
    if crop == "none":
        return slice(None), slice(None)
    if crop == "nyu":
        if (height, width) != (480, 640):
            raise ValueError(
                f"crop nyu is rows 45 to 471 and columns 41 to 601 of 480 x 640; got {height} x {width}: "
                "give crop=[top, bottom, left, right] of this size, or crop=none"
            )
        crop = NYU
    elif crop == "kitti-benchmark":
        if height < 352 or width < 1216:
            raise ValueError(f"crop kitti-benchmark takes 352 x 1216 pixels; got {height} x {width}")
        top, left = height - 352, (width - 1216) // 2
        crop = (top, height, left, left + 1216)
    elif isinstance(crop, str):
        top_, bottom_, left_, right_ = CROPS[crop]
        crop = (int(top_ * height), int(bottom_ * height), int(left_ * width), int(right_ * width))
    top, bottom, left, right = crop
    return slice(top, bottom), slice(left, right)
