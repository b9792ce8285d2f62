"""The multi-scale gradient term. Maps are [B, H, W]; level k has factor f = 2^k, size floor(H/f) x
floor(W/f), of strided cells ceil(H/f) x ceil(W/f).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..maps import average, bilinear, nearest, select
from ..spec import GradientSpec
from .statistics import LOCAL, Ranks, count, guarded_ratio, image_sum, reduce_images


def downsample(x: Tensor, level: int, method: str) -> Tensor:
    """Level `level` of `x`, sampled from full resolution (D_k of the gradient term)."""
    if level == 0:
        return x
    if method == "strided":
        return x[..., :: 1 << level, :: 1 << level]
    if method == "nearest":
        return nearest(x, x.shape[1] >> level, x.shape[2] >> level)
    return average(x, 1 << level) if method == "average" else bilinear(x, 1 << level)


def pad(x: Tensor, border: str) -> Tensor:
    """One cell of border on every side: zeros, the edge's own value, or nothing for ``"valid"``."""
    if border == "valid":
        return x
    if border == "zero":
        return F.pad(x, (1, 1, 1, 1))
    # Slices, not F.pad: the adjoint of replication padding uses float atomics on a GPU.
    x = torch.cat((x[:, :1], x, x[:, -1:]), 1)
    return torch.cat((x[:, :, :1], x, x[:, :, -1:]), 2)


def sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unnormalised Sobel responses in x and y, without padding: [B, H, W] -> two of [B, H-2, W-2]."""
    smooth_y = x[:, :-2] + 2.0 * x[:, 1:-1] + x[:, 2:]
    smooth_x = x[:, :, :-2] + 2.0 * x[:, :, 1:-1] + x[:, :, 2:]
    return smooth_y[:, :, 2:] - smooth_y[:, :, :-2], smooth_x[:, 2:] - smooth_x[:, :-2]


def _all_nine(covered: Tensor) -> Tensor:
    """Whether all cells of the 3x3 window are covered, without padding."""
    rows = covered[:, :-2] & covered[:, 1:-1] & covered[:, 2:]
    return rows[:, :, :-2] & rows[:, :, 1:-1] & rows[:, :, 2:]


def _cover(spec: GradientSpec, level: int, m: Tensor, cells: Tensor, dtype: torch.dtype) -> tuple:
    """Cells to take the Sobel of, the responses to keep (None = all) and the level's own normaliser."""
    weight = downsample(m.to(dtype), level, spec.downsample)
    if spec.mask == "residual":
        return cells, None, image_sum(weight)
    if spec.mask == "centre":
        half = weight > 0.5
        return cells, half[:, 1:-1, 1:-1] if spec.border == "valid" else half, count(half, dtype)
    covered = weight > 0
    cells = select(covered, cells / select(covered, weight, 1.0))
    # Outside the image nothing is covered, except that replicate copies the edge's coverage.
    kept = _all_nine(pad(covered.to(dtype), spec.border) > 0)
    return cells, kept, count(kept, dtype)


def _sobel(spec: GradientSpec, level: int, m: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the kept responses, the level's own normaliser, number of kept responses, [B] each."""
    cells, kept, norm = _cover(spec, level, m, cells, cells.dtype)
    gx, gy = sobel(pad(cells, spec.border))
    response = gx.abs() + gy.abs()
    if kept is None:
        number = response.shape[1] * response.shape[2]
        return image_sum(response), norm, cells.new_full((len(cells),), number)
    return image_sum(select(kept, response)), norm, count(kept, cells.dtype)


def _forward(spec: GradientSpec, level: int, m: Tensor, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same of the differences to the next cell, kept where both cells are valid (MiDaS)."""
    v = downsample(m, level, spec.downsample)
    r = select(v, cells)
    pairs_x, pairs_y = v[:, :, 1:] & v[:, :, :-1], v[:, 1:] & v[:, :-1]
    dx = select(pairs_x, (r[:, :, 1:] - r[:, :, :-1]).abs())
    dy = select(pairs_y, (r[:, 1:] - r[:, :-1]).abs())
    kept = count(pairs_x, r.dtype) + count(pairs_y, r.dtype)
    return image_sum(dx) + image_sum(dy), count(v, r.dtype), kept


def gradient_term(
    residual: Tensor,
    m: Tensor,
    spec: GradientSpec,
    eps: float,
    ranks: Ranks = LOCAL,
    keep: Tensor | None = None,
    all_pixels: bool = False,
    reduction: str = "pixels",
) -> tuple[Tensor, Tensor, Tensor]:
    """G = combine over k of (sum |Sx * R_k| + |Sy * R_k|) / normaliser_k; forward differences likewise.

    Args:
        residual: r [B, H, W], aligned or not.
        m: bool [B, H, W].
        spec: mask, downsampling, border, normaliser, combination and number of levels.
        eps: added to the normaliser.
        ranks: the process group whose joined batch is evaluated.
        keep: mask ``"centre"`` reads r here (`m` and the finite invalid pixels); default `m`.
        all_pixels: every level is a mean over its responses, without eps (statistics ``"all"``).
        reduction: ``"pixels"`` adds numerators and normalisers of the images up before they are divided;
            ``"images"`` takes the mean of the images' ratios; ``"none"`` leaves these.

    Returns:
        The term (0-dim; [B] where the reduction is ``"none"``), the levels [K] and the number of kept
        responses of each level [K].
    """
    r = select(m if keep is None or spec.mask != "centre" else keep, residual)
    zero = image_sum(r[:, :0])
    values: list[tuple[Tensor, Tensor, Tensor]] = []
    for level in range(spec.num_scales):
        h, w = r.shape[1] >> level, r.shape[2] >> level
        if spec.stencil == "sobel" and min(h, w) < (3 if spec.border == "valid" else 1):
            values.append((zero, zero, zero))
            continue
        cells = downsample(r, level, spec.downsample)
        values.append((_forward if spec.stencil == "forward" else _sobel)(spec, level, m, cells))
    sums, norms, kepts = (torch.stack(x, 1) for x in zip(*values, strict=True))  # [B, K]
    norms, kepts = norms.detach(), kepts.detach()
    full = count(m, r.dtype)[:, None]
    # A valid NaN must show even where no kept response reads it: 0 * NaN, with zero gradient.
    visible = 0.0 * image_sum(select(m, residual))
    if reduction == "pixels":
        sums = ranks.sum(sums.sum(0))
        norms, kepts, full = (ranks.sum(x.sum(0)) for x in (norms, kepts, full))
        visible = ranks.sum(visible.sum())
    if all_pixels:
        norms, eps = kepts, 0.0
    elif spec.normalizer == "full":
        norms = full.expand_as(kepts)
    levels = guarded_ratio(sums, select((norms > 0) & (kepts > 0), norms + eps))
    if reduction != "pixels":
        kepts = ranks.sum(kepts.sum(0))
    counted = (kepts > 0).sum().clamp(min=1) if spec.mask == "support" else spec.num_scales
    value = levels.sum(-1) / (1 if spec.combine == "sum" else counted) + visible
    if reduction == "pixels":
        return value, levels, kepts
    means = torch.stack([reduce_images(x, "images", ranks) for x in levels.unbind(1)])
    return reduce_images(value, reduction, ranks), means, kepts
