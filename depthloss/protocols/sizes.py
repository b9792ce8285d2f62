"""Resizing a prediction to its ground truth, and a sample of valid pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

RULES = ("none", "nearest", "bilinear", "bilinear-corners")


def resized(pred: Tensor, shape: tuple[int, int], rule: str) -> Tensor:
    """Resize predictions; a value that a non-finite one has a part in is NaN, so no hole is blurred.

    Args:
        pred: float [T, h, w].
        shape: (H, W).
        rule: "nearest" takes what the centre of a pixel falls on; "bilinear" has pixel centres at one half,
            as OpenCV's; "bilinear-corners" puts the corner pixels upon each other (`align_corners=True`).

    Returns:
        [T, H, W].

    Raises:
        ValueError: another size, and the rule is "none".
    """
    h, w = pred.shape[-2:]
    if (h, w) == shape:
        return pred
    if rule == "none":
        raise ValueError(
            f"the prediction is {h} x {w}, its ground truth {shape[0]} x {shape[1]}: the protocol resizes "
            f"nothing; resize=... of {', '.join(RULES[1:])} does"
        )
    if rule == "nearest":
        rows, columns = (
            ((2 * torch.arange(target, device=pred.device) + 1) * size // (2 * target))
            for target, size in zip(shape, (h, w), strict=True)
        )
        return pred[:, rows][:, :, columns]
    finite = pred.isfinite()
    options = {"size": shape, "mode": "bilinear", "align_corners": rule == "bilinear-corners"}
    values = F.interpolate(torch.where(finite, pred, 0.0)[None], **options)[0]  # type: ignore[arg-type]
    if bool(finite.all()):
        return values
    part = F.interpolate((~finite).to(pred.dtype)[None], **options)[0]  # type: ignore[arg-type]
    return torch.where(part > 0, torch.nan, values)


def sampled(valid: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a sample of the valid pixels: of each cell of a grid the one that is nearest to its centre.

    A pixel lies in the cell that its centre is in, one on the line between two in the upper or left one; of
    several as near the first in the order of rows is taken. This is the low-resolution sample that MoGe's
    evaluation aligns (64 x 64).

    Args:
        valid: bool [H, W].
        size: rows and columns of the grid.

    Returns:
        bool [H, W].
    """
    places, offsets = [], []
    for length, cells in zip(valid.shape, size, strict=True):
        # In whole numbers, of which a cell has 2 * length and a pixel 2 * cells.
        centre = (2 * torch.arange(length, device=valid.device) + 1) * cells
        cell = (centre + 2 * length - 1) // (2 * length) - 1
        places.append(cell)
        offsets.append((centre - (2 * cell + 1) * length).double() / cells)
    cell = (places[0][:, None] * size[1] + places[1])[valid]
    far = (offsets[0][:, None].square() + offsets[1].square())[valid]
    best = torch.full((size[0] * size[1],), torch.inf, dtype=torch.float64, device=valid.device)
    best.scatter_reduce_(0, cell, far, "amin")
    index = valid.flatten().nonzero()[:, 0]
    nearest = far == best[cell]
    first = torch.full((size[0] * size[1],), valid.numel(), dtype=torch.long, device=valid.device)
    first.scatter_reduce_(0, cell[nearest], index[nearest], "amin")
    out = torch.zeros(valid.numel(), dtype=torch.bool, device=valid.device)
    out[first[first < valid.numel()]] = True
    return out.view_as(valid)
