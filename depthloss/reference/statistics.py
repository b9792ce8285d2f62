"""Sums, means and standardisation over valid pixels. Maps are [B, H, W], masks bool [B, H, W]."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ..maps import select


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks. Its adjoint is itself: gradients become those of the sum of all ranks' (equal)
    losses.
    """

    @staticmethod
    def forward(ctx, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        out = x.clone()
        dist.all_reduce(out, group=group)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _AllReduceSum.apply(grad, ctx.group), None


class Ranks:
    """Adds up what the ranks of a process group hold; without a group there is one rank and nothing to do."""

    def __init__(self, process_group: dist.ProcessGroup | None = None) -> None:
        self.group = process_group

    def sum(self, x: Tensor) -> Tensor:
        """Sum of `x` over the ranks, differentiable."""
        return x if self.group is None else _AllReduceSum.apply(x, self.group)

    def max(self, x: Tensor) -> Tensor:
        """Largest `x` of the ranks, detached."""
        x = x.detach()
        if self.group is not None:
            x = x.clone()
            dist.all_reduce(x, op=dist.ReduceOp.MAX, group=self.group)
        return x


LOCAL = Ranks()


def image_sum(x: Tensor) -> Tensor:
    """Sum over the pixels of each image, [B]."""
    return x.sum((1, 2))


def count(m: Tensor, dtype: torch.dtype) -> Tensor:
    """Valid pixels of each image, [B], in `dtype`."""
    return m.sum((1, 2)).to(dtype)


def guarded_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """`numerator / denominator`, and 0 with zero gradient where the denominator is 0."""
    return select(denominator > 0, numerator / select(denominator > 0, denominator, 1.0))


def batch_mean(per_image: Tensor, ranks: Ranks = LOCAL) -> Tensor:
    """Mean of [B] numbers over the batch of all ranks; 0 for a batch of no images."""
    total = ranks.sum(per_image.sum())
    size = ranks.sum(per_image.new_full((), per_image.shape[0]))
    return total / size.clamp(min=1.0)


def mean_per_image(x: Tensor, m: Tensor) -> Tensor:
    """Mean over the valid pixels of each image, [B]; 0 for an empty image.

    The second pass takes the rounding of the first away, so that a constant image has its constant as mean.
    """
    n = count(m, x.dtype).clamp(min=1.0)
    mean = image_sum(select(m, x)) / n
    with torch.no_grad():
        correction = image_sum(select(m, x - mean[:, None, None])) / n
    return mean + correction


def standardise(x: Tensor, m: Tensor, eps: float, keep: Tensor | None = None) -> Tensor:
    """Robust standardisation per image: (x - mu)/S with mu = mean, S = mean |x - mu| + eps over valid pixels.

    Args:
        x: [B, H, W].
        m: the pixels that make the statistics.
        eps: added to the mean absolute deviation.
        keep: the pixels that are returned, a superset of `m`; all others are 0. Default `m`.

    Returns:
        z [B, H, W]; 0 everywhere in an image without valid pixels. Gradient flows through mu and S.
    """
    keep = m if keep is None else keep
    n = count(m, x.dtype)
    mu = mean_per_image(x, m)
    dev = select(keep & (n > 0)[:, None, None], x - mu[:, None, None])
    mad = image_sum(select(m, dev.abs())) / n.clamp(min=1.0)
    return dev / (mad + eps)[:, None, None]


def pooled_moments(e: Tensor, m: Tensor, ranks: Ranks = LOCAL) -> tuple[Tensor, Tensor, Tensor]:
    """N, mean and centred (biased) variance of the valid e over the whole batch."""
    n = ranks.sum(count(m, e.dtype).sum())
    mean = ranks.sum(select(m, e).sum()) / n.clamp(min=1.0)
    var = ranks.sum(select(m, e - mean).square().sum()) / n.clamp(min=1.0)
    return n, mean, var


def image_moments(e: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n, mean and centred (biased) variance of the valid e of each image, [B] each."""
    n = count(m, e.dtype)
    mean = mean_per_image(e, m)
    var = image_sum(select(m, e - mean[:, None, None]).square()) / n.clamp(min=1.0)
    return n, mean, var


def least_squares(p: Tensor, g: Tensor, m: Tensor, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """Scale s and shift b per image that minimise sum m (s p + b - g)^2, from centred sums.

    Args:
        p: [B, H, W].
        g: [B, H, W].
        m: bool [B, H, W].
        ridge: added to the variance of p (`SSITrimLoss`). Without it an image whose p does not vary beyond
            its rounding gets s = 0 and b = mean g.

    Returns:
        s and b, [B] each; gradient flows through both.
    """
    _, p_mean, p_var = image_moments(p, m)
    g_mean = mean_per_image(g, m)
    centred = select(m, (p - p_mean[:, None, None])) * select(m, g - g_mean[:, None, None])
    cov = image_sum(centred) / count(m, p.dtype).clamp(min=1.0)
    if ridge:
        s = cov / (p_var + ridge)
    else:
        varies = p_var > (4.0 * torch.finfo(p.dtype).eps * p_mean).square()
        s = select(varies, cov / select(varies, p_var, 1.0))
    return s, g_mean - s * p_mean


def kept_after_trim(n: Tensor, trim: float) -> Tensor:
    """floor((1 - trim) n) in double precision, as Python's int((1 - trim) * n)."""
    return torch.floor((1.0 - trim) * n.double()).to(n.dtype)


def trimmed_sum(x: Tensor, m: Tensor, kept: Tensor) -> Tensor:
    """Sum of the `kept` [B] smallest valid values of each image, [B]."""
    values = select(m, x, float("inf")).flatten(1).sort(dim=1, stable=True).values
    rank = torch.arange(values.shape[1], device=x.device)
    return select(rank < kept[:, None], values).sum(1)


def median_per_image(x: Tensor, m: Tensor) -> Tensor:
    """Lower median of the valid pixels of each image, [B]; 0 for an empty image."""
    if x[0:1].numel() == 0:
        return image_sum(x)
    values = select(m, x, float("inf")).flatten(1).sort(dim=1, stable=True).values
    n = m.sum((1, 2))
    middle = values.gather(1, ((n - 1).clamp(min=0) // 2)[:, None])[:, 0]
    return select(n > 0, middle)
