"""What the reference and the losses do with maps [B, H, W]: valid pixels, domains, resampling."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .spec import INVERSE_DEPTH_FLOOR, Domain, GtRange


def working_dtype(pred: Tensor, gt: Tensor) -> torch.dtype:
    """The dtype of all arithmetic: float32, or float64 if an input is."""
    # Not torch.promote_types, of which torch.export of torch 2.6 makes a node that it cannot load.
    return torch.float64 if torch.float64 in (pred.dtype, gt.dtype) else torch.float32


def select(m: Tensor, x: Tensor, fill: float = 0.0) -> Tensor:
    """`x` where `m`, else `fill`; an unselected NaN or Inf leaves no trace in value or gradient."""
    return torch.where(m, x, fill)


def finite_or_nan(x: Tensor) -> Tensor:
    """`x` with every Inf made NaN, so that it shows behind a clamp or a reciprocal too."""
    return torch.where(x.isfinite(), x, torch.nan)


def clamp(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """`x.clamp`, with a gradient of 1 on the closed interval; torch 2.14 and later have 0 at its ends."""
    if low is not None:
        x = torch.where(x < low, low, x)
    return x if high is None else torch.where(x > high, high, x)


def valid_pixels(
    gt: Tensor,
    mask: Tensor | None,
    positive_gt: bool = False,
    gt_range: GtRange = None,
) -> Tensor:
    """Bool mask of the valid pixels: `mask` non-zero (None = all), gt > 0 if `positive_gt`, gt inside the
    closed `gt_range`. The latter two take finite gt only.
    """
    conditions = [] if mask is None else [mask != 0]
    if positive_gt:
        conditions += [gt > 0, gt < torch.inf]
    if gt_range is not None:
        # In float32 or wider: how a 16-bit tensor compares with a number differs between devices.
        gt = gt.to(torch.promote_types(gt.dtype, torch.float32))
        limit = torch.finfo(gt.dtype).max
        low, high = (end if x is None else x for x, end in zip(gt_range, (-limit, limit), strict=True))
        conditions += [gt >= max(low, -limit), gt <= min(high, limit)]
    if not conditions:
        return torch.ones_like(gt, dtype=torch.bool)
    return functools.reduce(torch.logical_and, conditions)


def _converted(x: Tensor, m: Tensor, domain: Domain) -> Tensor:
    """x in `domain` before its logarithm. A conversion selects first: an invalid pixel becomes depth 0, never
    1e6 m.
    """
    if domain.conversion == "identity" and not domain.clamps:
        return x
    x = select(m, finite_or_nan(x), 1.0)
    if domain.conversion == "inverse":
        x = 1.0 / clamp(x, INVERSE_DEPTH_FLOOR)
    elif domain.conversion == "shifted-inverse":
        x = 1.0 / (x + INVERSE_DEPTH_FLOOR)
    if domain.clamps:
        x = clamp(x, domain.minimum, domain.maximum)
    return select(m, x)


def _argument_of_log(x: Tensor, m: Tensor, domain: Domain) -> Tensor:
    """x + offset, x at least the floor; 1 + offset at invalid pixels."""
    assert domain.log is not None
    x = select(m, _converted(x, m, domain), 1.0)
    if domain.floor is not None:
        x = clamp(finite_or_nan(x), domain.floor)
    return x + domain.log


def convert(x: Tensor, m: Tensor, domain: Domain) -> Tensor:
    """The quantity compared in `domain`; where that is not x itself, 0 at invalid pixels."""
    if domain.log is None:
        return _converted(x, m, domain)
    return select(m, _argument_of_log(x, m, domain).log())


def log_ratio(p: Tensor, g: Tensor, m: Tensor, domain: Domain) -> Tensor:
    """ln((p + offset)/(g + offset)), 0 at invalid pixels; NaN where g + offset < 0.

    One logarithm of the ratio: for p near g it keeps the digits that ln p - ln g cancels in float32.
    """
    p, g = _argument_of_log(p, m, domain), _argument_of_log(g, m, domain)
    return (p / select(g >= 0, g, torch.nan)).log()


def nearest(x: Tensor, height: int, width: int) -> Tensor:
    """Nearest resize of [..., H, W]: row floor(j H / height), in exact integers; columns likewise."""
    rows = torch.arange(height, device=x.device) * x.shape[-2] // max(height, 1)
    columns = torch.arange(width, device=x.device) * x.shape[-1] // max(width, 1)
    return x.index_select(-2, rows).index_select(-1, columns)


def average(x: Tensor, factor: int) -> Tensor:
    """Mean over the factor x factor cells; a remainder of rows or columns is dropped."""
    b, h, w = x.shape[0], x.shape[1] // factor, x.shape[2] // factor
    return x[:, : h * factor, : w * factor].reshape(b, h, factor, w, factor).mean((2, 4))


def masked_average(factor: int, m: Tensor, *maps: Tensor) -> tuple[Tensor, ...]:
    """Of each map the mean over the valid pixels of a cell, 0 without any; then which cells have one."""
    share = average(m.to(maps[0].dtype), factor)
    cells = share > 0
    divisor = torch.where(cells, share, 1)
    return *(average(select(m, x), factor) / divisor for x in maps), cells


def bilinear(x: Tensor, factor: int) -> Tensor:
    """Mean of the central 2x2 of each factor x factor cell: bilinear sampling at the nominal step, no
    antialias.
    """
    if factor == 1:
        return x
    h, w, o = x.shape[1] // factor, x.shape[2] // factor, factor // 2 - 1
    cells = x[:, : h * factor, : w * factor]
    pair = cells[:, o::factor] + cells[:, o + 1 :: factor]
    return (pair[:, :, o::factor] + pair[:, :, o + 1 :: factor]) * 0.25
