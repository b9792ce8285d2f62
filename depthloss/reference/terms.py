"""One short function per term of a loss. Maps are [B, H, W], masks bool [B, H, W]; every function returns a
0-dim tensor.

Each selects the valid pixels before its first non-linear step: behind it, 0 * NaN would poison the gradient.
Where a function takes `ranks`, pooled sums run over the batches of all ranks of a process group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .statistics import (
    LOCAL,
    Ranks,
    batch_mean,
    count,
    finite_or_nan,
    guarded_ratio,
    image_mean,
    image_moments,
    image_sum,
    kept_after_trim,
    least_squares,
    median_per_image,
    pooled_mean,
    pooled_moments,
    select,
    trimmed_sum,
)

TRIM_MIN_VALID = 100


def l1(
    p: Tensor, g: Tensor, m: Tensor, reduction: str = "pixels", eps: float = 0.0, ranks: Ranks = LOCAL
) -> Tensor:
    """Masked L1: ``"pixels"`` sum |p - g| / (N + eps) over the batch, ``"images"`` the mean of the images'
    means.
    """
    difference = select(m, p - g).abs()
    return (
        image_mean(difference, m, ranks) if reduction == "images" else pooled_mean(difference, m, eps, ranks)
    )


def ssi(p: Tensor, g: Tensor, m: Tensor, alpha: float = 0.85, ranks: Ranks = LOCAL) -> Tensor:
    """Var(e) + alpha mean(e)^2 of e = p - g over the batch (packnet-sfm-resnet-san). Not scale or shift
    invariant.
    """
    _, mean, var = pooled_moments(p - g, m, ranks)
    return var + alpha * mean.square()


def _guarded_root(radicand: Tensor, n: Tensor) -> Tensor:
    """sqrt(radicand); 0 with zero gradient where the radicand is 0 or nothing is valid. NaN stays NaN."""
    valid = (n > 0) & (radicand != 0)
    return select(valid, select(valid, radicand, 1.0).sqrt())


def silog(
    p: Tensor,
    g: Tensor,
    m: Tensor,
    lam: float = 0.85,
    scale: float = 1.0,
    eps: float = 1e-8,
    offset: float = 0.0,
    unbiased: bool = False,
    reduction: str = "pixels",
    clamp: float | None = None,
    ranks: Ranks = LOCAL,
) -> Tensor:
    """scale sqrt(V + (1 - lam) mean(l)^2 + eps), l = ln(p + offset) - ln(g + offset), V the centred variance
    of l.

    Eigen et al. 2014 in the forms of BTS, AdaBins/ZoeDepth, Depth Anything V2 and mmsegmentation.
    """
    p, g = select(m, p, 1.0), select(m, g, 1.0)
    if clamp is not None:
        p, g = finite_or_nan(p).clamp(min=clamp), finite_or_nan(g).clamp(min=clamp)
    # One logarithm of the ratio: for p near g it keeps the digits that ln p - ln g cancels in float32.
    g = g + offset
    log_ratio = ((p + offset) / select(g >= 0, g, torch.nan)).log()
    n, mean, var = (
        image_moments(log_ratio, m) if reduction == "images" else pooled_moments(log_ratio, m, ranks)
    )
    if unbiased:
        var = var * (n / (n - 1.0).clamp(min=1.0))
    root = scale * _guarded_root(var + (1.0 - lam) * mean.square() + eps, n)
    return batch_mean(root, ranks) if reduction == "images" else root


def mse(p: Tensor, g: Tensor, m: Tensor, ranks: Ranks = LOCAL) -> Tensor:
    """Masked mean of (p - g)^2 over the batch."""
    return pooled_mean(select(m, p - g).square(), m, ranks=ranks)


def abs_rel(p: Tensor, g: Tensor, m: Tensor, ranks: Ranks = LOCAL) -> Tensor:
    """Masked mean of |p - g| / g over the batch."""
    return pooled_mean(select(m, p - g).abs() / select(m, g, 1.0), m, ranks=ranks)


def abs_rel_packnet(p: Tensor, g: Tensor, m: Tensor, ranks: Ranks = LOCAL) -> Tensor:
    """Masked mean of |p - g| / p over the batch: packnet-sfm divides by the prediction."""
    return abs_rel(g, p, m, ranks)


def _largest(x: Tensor, m: Tensor, fill: float, ranks: Ranks) -> Tensor:
    values = select(m, x.detach(), fill).flatten()
    return ranks.max(torch.cat((values, values.new_full((1,), fill))).amax())


def berhu(p: Tensor, g: Tensor, m: Tensor, threshold: float = 0.2, ranks: Ranks = LOCAL) -> Tensor:
    """Reverse Huber (Laina et al. 2016): d where d <= c, else (d^2 + c^2)/(2c); c = threshold max d,
    detached.
    """
    d = select(m, p - g).abs()
    c = threshold * _largest(d, m, 0.0, ranks)
    quadratic = (d.square() + c.square()) / (2.0 * select(c > 0, c, 1.0))
    return pooled_mean(torch.where(d <= c, d, quadratic), m, ranks=ranks)


def berhu_packnet(p: Tensor, g: Tensor, m: Tensor, threshold: float = 0.2, ranks: Ranks = LOCAL) -> Tensor:
    """packnet-sfm's form: (sum d + sum over d > c of d^2)/(n + #{d > c}), c = threshold max(p - g), signed,
    detached.
    """
    difference = select(m, p - g)
    d = difference.abs()
    large = m & (d > threshold * _largest(difference, m, -torch.inf, ranks))
    total = ranks.sum(d.sum() + select(large, d.square()).sum())
    return total / ranks.sum((m.sum() + large.sum()).to(p.dtype)).clamp(min=1.0)


def ssi_trim(
    p: Tensor, g: Tensor, m: Tensor, trim: float = 0.2, eps: float = 1e-6, ranks: Ranks = LOCAL
) -> Tensor:
    """Trimmed L1 after alignment (packnet-sfm-resnet-san): a0 = cov/(var + eps), b = mean g - a0 mean p, a =
    a0 clamped to [0.1, 10]; the smallest floor((1 - trim) n) of |a p + b - g| are averaged per image, then
    summed over B images.

    Images with fewer than 100 valid pixels count as 0.
    """
    m = m & (count(m, p.dtype) >= TRIM_MIN_VALID)[:, None, None]
    p, g = select(m, p), select(m, g)
    scale, shift = least_squares(p, g, m, ridge=eps)
    residual = (scale.clamp(0.1, 10.0)[:, None, None] * p + shift[:, None, None] - g).abs()
    kept = kept_after_trim(count(m, p.dtype), trim)
    return batch_mean(guarded_ratio(trimmed_sum(residual, m, kept), kept), ranks)


def affine_invariant(
    p: Tensor, g: Tensor, m: Tensor, trim: float = 0.0, eps: float = 1e-6, ranks: Ranks = LOCAL
) -> Tensor:
    """L1 of x' = (x - median)/max(mean |x - median|, eps), median and mean over valid pixels (Ranftl et al.
    2020), the smallest floor((1 - trim) n) residuals averaged per image, then over the images; an empty image
    counts as 0.
    """

    def normalise(x: Tensor) -> Tensor:
        x = select(m, x)
        dev = select(m, x - median_per_image(x, m)[:, None, None])
        mad = image_sum(dev.abs()) / count(m, x.dtype).clamp(min=1.0)
        # An infinite MAD would make every pixel 0 and hide its cause.
        return dev / finite_or_nan(mad).clamp(min=eps)[:, None, None]

    residual = (normalise(p) - normalise(g)).abs()
    kept = kept_after_trim(count(m, p.dtype), trim)
    total = trimmed_sum(residual, m, kept) if trim else image_sum(select(m, residual))
    return batch_mean(guarded_ratio(total, kept), ranks)


def aligned_residual(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
    """s p + b - g with the least-squares s, b of each image; 0 at invalid pixels."""
    p, g = select(m, p), select(m, g)
    scale, shift = least_squares(p, g, m)
    return select(m, scale[:, None, None] * p + shift[:, None, None] - g)


def half_mse(residual: Tensor, m: Tensor, ranks: Ranks = LOCAL) -> Tensor:
    """sum m r^2 / (2 N) over the batch: with `aligned_residual`, MiDaS's scale- and shift-invariant MSE."""
    return 0.5 * pooled_mean(residual.square(), m, ranks=ranks)
