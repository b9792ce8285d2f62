"""Metrics of clips."""

from __future__ import annotations

import torch
from torch import Tensor


def temporal_alignment_error(
    depth: Tensor, intrinsics: Tensor, poses: Tensor, keep: Tensor | None = None
) -> float:
    """Temporal alignment error of Video Depth Anything (arXiv:2501.12375), the numbers of its `eval_tae.py`.

    The depth of each frame is moved into the next one and compared with its depth, and back: the mean of
    |p − q| / p over the pixels that are hit, q what was moved there. Of several points that hit a pixel the
    last in the order of rows counts. The error is the mean over both directions of all pairs of frames; one
    without a pixel counts 0, as in the script.

    Args:
        depth: aligned depth [T, H, W] in metres, T >= 2.
        intrinsics: [3, 3], of a pixel whose centre is a whole number, from 0 on.
        poses: [T, 4, 4], camera to world.
        keep: bool [T, H, W], the pixels that count as goals; None = every pixel.

    Returns:
        In percent.

    Raises:
        ValueError: the shapes do not fit.
    """
    if depth.ndim != 3 or len(depth) < 2 or poses.shape != (len(depth), 4, 4) or intrinsics.shape != (3, 3):
        raise ValueError(
            "depth must be [T, H, W] with T >= 2, intrinsics [3, 3] and poses [T, 4, 4]; got "
            f"{list(depth.shape)}, {list(intrinsics.shape)} and {list(poses.shape)}"
        )
    depth, k, poses = depth.double(), intrinsics.double(), poses.double()
    errors = []
    for i in range(len(depth) - 1):
        move = torch.linalg.inv(poses[i + 1]) @ poses[i]
        for source, goal, change in ((i, i + 1, move), (i + 1, i, torch.linalg.inv(move))):
            errors.append(_moved(depth[source], depth[goal], change, k, None if keep is None else keep[goal]))
    return 100 * sum(errors) / len(errors)


def _moved(source: Tensor, goal: Tensor, move: Tensor, k: Tensor, keep: Tensor | None) -> float:
    h, w = source.shape
    y, x = torch.meshgrid(
        torch.arange(h, dtype=source.dtype, device=source.device),
        torch.arange(w, dtype=source.dtype, device=source.device),
        indexing="ij",
    )
    rays = torch.stack([(x - k[0, 2]) / k[0, 0], (y - k[1, 2]) / k[1, 1], torch.ones_like(x)], -1)
    points = (rays * source[..., None]).reshape(-1, 3) @ move[:3, :3].T + move[:3, 3]
    column = (points[:, 0] * k[0, 0] / points[:, 2] + k[0, 2]).round()
    row = (points[:, 1] * k[1, 1] / points[:, 2] + k[1, 2]).round()
    # A comparison with NaN is false.
    hit = (column >= 0) & (column < w) & (row >= 0) & (row < h)
    place = row[hit].long() * w + column[hit].long()
    # The last of several: which of them an indexed assignment keeps is not defined.
    last = torch.full((h * w,), -1, dtype=torch.long, device=source.device)
    last.scatter_reduce_(0, place, torch.arange(len(place), device=source.device), "amax")
    moved = (
        torch.where(last >= 0, points[hit][:, 2][last.clamp(min=0)], 0.0)
        if len(place)
        else torch.zeros(h * w)
    )
    moved = moved.reshape(h, w).to(source.device)
    both = (moved > 0) & (goal > 0)
    if keep is not None:
        both &= keep
    return float(((goal - moved).abs() / goal)[both].mean()) if bool(both.any()) else 0.0
