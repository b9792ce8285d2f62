"""What people write today for losses after an alignment per image: medians, least squares, trims.

Maps [B, 1, H, W] and a bool mask, unlike rivals.py. Where only statistics and a mean are wanted, the valid
pixels of each image are gathered, `p[b][m[b]]`, which is fastest eagerly: a few of them cost little. Numbers
of pixels that depend on the mask break the graph of torch.compile, so there masked maps are evaluated:
`nanmedian`, and `sort` with inf at invalid pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

AXES = (1, 2, 3)
# Above this share of valid pixels sums over masked maps take less time than gathering.
MANY = 0.25


def _compiles() -> bool:
    return torch.compiler.is_compiling()


def _count(m: Tensor) -> Tensor:
    return m.sum(AXES, keepdim=True)


def _mean(x: Tensor, m: Tensor) -> Tensor:
    """Of the valid pixels of each image, [B, 1, 1, 1]."""
    return (x * m).sum(AXES, keepdim=True) / _count(m).clamp(min=1)


def _pooled(x: Tensor, m: Tensor) -> Tensor:
    return (x * m).sum() / m.sum().clamp(min=1)


def _images(p: Tensor, g: Tensor, m: Tensor, least: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """The valid pixels of each image that has so many."""
    for p_b, g_b, m_b in zip(p, g, m, strict=True):
        p_v = p_b[m_b]
        if len(p_v) >= least:
            yield p_v, g_b[m_b]


def _trimmed(d: Tensor, trim: float) -> Tensor:
    """Mean of the smallest of all d."""
    return d.sort().values[: int((1 - trim) * len(d))].mean() if trim else d.mean()


def _trimmed_rows(d: Tensor, m: Tensor, trim: float) -> Tensor:
    """The same of each row of masked maps [R, N]."""
    kept = ((1 - trim) * m.sum(1).double()).long()
    counts = torch.arange(d.shape[1], device=d.device) < kept[:, None]
    smallest = d.masked_fill(~m, torch.inf).sort(1).values
    return smallest.masked_fill(~counts, 0.0).sum(1) / kept.clamp(min=1)


def _matching(r: Tensor, m: Tensor) -> Tensor:
    """Forward differences of r[::2^k] over pairs of valid pixels, each level by its valid pixels (MiDaS)."""
    total = r.new_zeros(())
    for k in range(4):
        v = m[..., :: 2**k, :: 2**k]
        cells = r[..., :: 2**k, :: 2**k] * v
        dx = (cells[..., 1:] - cells[..., :-1]).abs() * (v[..., 1:] & v[..., :-1])
        dy = (cells[..., 1:, :] - cells[..., :-1, :]).abs() * (v[..., 1:, :] & v[..., :-1, :])
        total = total + (dx.sum() + dy.sum()) / v.sum().clamp(min=1)
    return total


def _median(x: Tensor, m: Tensor) -> Tensor:
    """Of each image, [B, 1, 1, 1]."""
    if _compiles():
        t = x.masked_fill(~m, torch.nan).flatten(1).nanmedian(1).values
        return torch.where(_count(m) > 0, t.view(-1, 1, 1, 1), 0.0)
    found = (x_b[m_b] for x_b, m_b in zip(x, m, strict=True))
    return torch.stack([v.median() if len(v) else v.sum() for v in found]).view(-1, 1, 1, 1)


def _robust_residual(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
    p, g = (x - _median(x, m) for x in (p, g))
    return p / _mean(p.abs(), m).clamp(min=1e-6) - g / _mean(g.abs(), m).clamp(min=1e-6)


def _scale_and_shift(p: Tensor, g: Tensor, m: Tensor, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Of each image, from centred sums."""
    p_mean, g_mean = _mean(p, m), _mean(g, m)
    covariance, variance = _mean((p - p_mean) * (g - g_mean), m), _mean((p - p_mean).square(), m)
    s = covariance / (variance + ridge if ridge else torch.where(variance > 0, variance, 1.0))
    return s, g_mean - s * p_mean


def affine_invariant(trim: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def loss(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
        if _compiles():
            d = _robust_residual(p, g, m).abs()
            return (_trimmed_rows(d.flatten(1), m.flatten(1), trim) if trim else _mean(d, m)).mean()
        total = p.sum() * 0
        for pair in _images(p, g, m):
            p_v, g_v = (x - x.median() for x in pair)
            r = p_v / p_v.abs().mean().clamp(min=1e-6) - g_v / g_v.abs().mean().clamp(min=1e-6)
            total = total + _trimmed(r.abs(), trim)
        return total / len(p)

    return loss


def midas_robust(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
    r = _robust_residual(p, g, m)
    if _compiles():
        data = _trimmed_rows(r.abs().flatten()[None], m.flatten()[None], 0.2).sum()
    else:
        data = _trimmed(r[m].abs(), 0.2)
    return data + 0.5 * _matching(r, m)


def scale_shift_invariant(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
    s, b = _scale_and_shift(p, g, m)
    r = s * p + b - g
    return _pooled(r.square(), m) / 2 + 0.5 * _matching(r, m)


def scale_shift_invariant_l1(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
    if _compiles() or m.sum() > MANY * m.numel():
        s, b = _scale_and_shift(p, g, m)
        return _pooled((s * p + b - g).abs(), m)
    total = p.sum() * 0
    for p_v, g_v in _images(p, g, m):
        s, b = _line(p_v, g_v)
        total = total + (s * p_v + b - g_v).abs().sum()
    return total / m.sum().clamp(min=1)


def _line(p: Tensor, g: Tensor, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Scale and shift of the pixels of one image."""
    dev, g_mean = p - p.mean(), g.mean()
    s = (dev * (g - g_mean)).mean() / (dev.square().mean() + ridge)
    return s, g_mean - s * p.mean()


def ssi_trim(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
    if _compiles():
        s, b = _scale_and_shift(p, g, m, 1e-6)
        d = (s.clamp(0.1, 10.0) * p + b - g).abs()
        found = _trimmed_rows(d.flatten(1), m.flatten(1), 0.2)
        return torch.where(m.sum(AXES) >= 100, found, 0.0).mean()
    total = p.sum() * 0
    for p_v, g_v in _images(p, g, m, least=100):
        s, b = _line(p_v, g_v, 1e-6)
        total = total + _trimmed((s.clamp(0.1, 10.0) * p_v + b - g_v).abs(), 0.2)
    return total / len(p)
