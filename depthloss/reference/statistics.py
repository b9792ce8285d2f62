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

    def gather(self, x: Tensor) -> Tensor:
        """The numbers [N] of all ranks, detached, in any order, with inf among them."""
        x = x.detach()
        if self.group is None:
            return x
        size = self.max(x.new_full((), x.numel(), dtype=torch.long))
        mine = torch.cat((x, x.new_full((int(size) - x.numel(),), torch.inf)))
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(parts, mine, group=self.group)
        return torch.cat(parts)

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


def reduce_images(per_image: Tensor, reduction: str, ranks: Ranks = LOCAL) -> Tensor:
    """[B] values as a loss has them: ``"images"`` their mean, ``"images-sum"`` their sum over all ranks;
    ``"none"`` as they are.
    """
    if reduction == "none":
        return per_image
    return ranks.sum(per_image.sum()) if reduction == "images-sum" else batch_mean(per_image, ranks)


def weighed(x: Tensor, m: Tensor, w: Tensor | None = None) -> Tensor:
    """x at the pixels m, times the weights w [B, H, W] where there are any; 0 elsewhere."""
    return select(m, x) if w is None else select(m, w) * select(m, x)


def weight_sum(m: Tensor, dtype: torch.dtype, w: Tensor | None = None) -> Tensor:
    """What the means of each image are divided by, [B]: its valid pixels, or the sum of their weights."""
    return count(m, dtype) if w is None else image_sum(select(m, w))


def at_least_one(n: Tensor, w: Tensor | None) -> Tensor:
    """`n`, but 1 where there is nothing; a sum of weights may be any positive number."""
    return n.clamp(min=1.0) if w is None else torch.where(n == 0, 1.0, n)


def mean_per_image(x: Tensor, m: Tensor, w: Tensor | None = None) -> Tensor:
    """Mean over the valid pixels of each image, [B], weighted by w if given; 0 for an empty image.

    The second pass takes the rounding of the first away, so that a constant image has its constant as mean.
    """
    n = at_least_one(weight_sum(m, x.dtype, w), w)
    mean = image_sum(weighed(x, m, w)) / n
    with torch.no_grad():
        correction = image_sum(weighed(x - mean[:, None, None], m, w)) / n
    return mean + correction


def standardise(
    x: Tensor, m: Tensor, eps: float, keep: Tensor | None = None, w: Tensor | None = None
) -> Tensor:
    """Robust standardisation per image: (x - mu)/S with mu = mean, S = mean |x - mu| + eps over valid pixels.

    Args:
        x: [B, H, W].
        m: the pixels that make the statistics.
        eps: added to the mean absolute deviation.
        keep: the pixels that are returned, a superset of `m`; all others are 0. Default `m`.
        w: weights of the pixels in both means; default 1.

    Returns:
        z [B, H, W]; 0 everywhere in an image without valid pixels. Gradient flows through mu and S.
    """
    keep = m if keep is None else keep
    n = weight_sum(m, x.dtype, w)
    mu = mean_per_image(x, m, w)
    dev = select(keep & (n != 0)[:, None, None], x - mu[:, None, None])
    mad = image_sum(weighed(dev.abs(), m, w)) / at_least_one(n, w)
    return dev / (mad + eps)[:, None, None]


def pooled_moments(
    e: Tensor, m: Tensor, ranks: Ranks = LOCAL, w: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """N (the sum of the weights if given), mean and centred (biased) variance of the valid e over the whole
    batch.
    """
    n = ranks.sum(weight_sum(m, e.dtype, w).sum())
    divisor = at_least_one(n, w)
    mean = ranks.sum(weighed(e, m, w).sum()) / divisor
    var = ranks.sum(weighed(select(m, e - mean).square(), m, w).sum()) / divisor
    return n, mean, var


def image_moments(e: Tensor, m: Tensor, w: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """n (the sum of the weights if given), mean and centred (biased) variance of the valid e of each image,
    [B] each.
    """
    n = weight_sum(m, e.dtype, w)
    mean = mean_per_image(e, m, w)
    var = image_sum(weighed(select(m, e - mean[:, None, None]).square(), m, w)) / at_least_one(n, w)
    return n, mean, var


def least_squares(
    p: Tensor, g: Tensor, m: Tensor, ridge: float = 0.0, w: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scale s and shift b per image that minimise sum m (s p + b - g)^2, from centred sums.

    Args:
        p: [B, H, W].
        g: [B, H, W].
        m: bool [B, H, W].
        ridge: added to the variance of p (`SSITrimLoss`). Without it an image whose p does not vary beyond
            its rounding gets s = 0 and b = mean g.
        w: weights of the pixels; default 1.

    Returns:
        s and b, [B] each; gradient flows through both.
    """
    _, p_mean, p_var = image_moments(p, m, w)
    g_mean = mean_per_image(g, m, w)
    centred = select(m, (p - p_mean[:, None, None])) * select(m, g - g_mean[:, None, None])
    cov = image_sum(weighed(centred, m, w)) / at_least_one(weight_sum(m, p.dtype, w), w)
    if ridge:
        s = cov / (p_var + ridge)
    else:
        varies = p_var > (4.0 * torch.finfo(p.dtype).eps * p_mean).square()
        s = select(varies, cov / select(varies, p_var, 1.0))
    return s, g_mean - s * p_mean


def _sorted(x: Tensor, m: Tensor) -> Tensor:
    """The valid pixels of each image in ascending order, then inf, [B, HW]; detached."""
    return select(m, x.detach(), float("inf")).flatten(1).sort(dim=1).values


def kept_after_trim(n: Tensor, trim: float) -> Tensor:
    """floor((1 - trim) n) in double precision, as Python's int((1 - trim) * n)."""
    return torch.floor((1.0 - trim) * n.double()).to(n.dtype)


def trim_weights(d: Tensor, m: Tensor, trim: float, over: str, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """How much each pixel counts of which the smallest d are kept, and how many are kept, [B] or 0-dim.

    The weight is 1 below the threshold tau, the largest d kept, and 0 above it; the pixels that equal it
    share the places that are left, so that nothing depends on their order.

    Args:
        d: [B, H, W], |r|.
        m: bool [B, H, W].
        trim: the part that is not kept.
        over: ``"image"``, or ``"batch"``: one tau for the joined batch of all ranks.
        ranks: the process group.
    """
    d, n = d.detach(), count(m, d.dtype)
    values = _sorted(d, m)
    if over == "batch":
        n = ranks.sum(n.sum())[None]
        values = ranks.gather(values.flatten()).sort().values[None]
    kept = kept_after_trim(n, trim)
    last = (kept.long() - 1).clamp(min=0)[:, None]
    tau = values.gather(1, last) if values.shape[1] else values.new_zeros(values.shape[0], 1)
    below, ties = (values < tau).sum(1).to(d.dtype), (values == tau).sum(1).to(d.dtype)
    share = (kept - below) / ties.clamp(min=1.0)
    tau, share = (x.view(-1, 1, 1) for x in (tau, share))
    weights = select(m & (kept > 0).view(-1, 1, 1), (d < tau).to(d.dtype) + select(d == tau, share))
    return weights, kept[0] if over == "batch" else kept


def median_per_image(x: Tensor, m: Tensor) -> Tensor:
    """Lower median of the valid pixels of each image, [B]; 0 for an empty image. Pixels that equal it share
    its gradient.
    """
    if x[0:1].numel() == 0:
        return image_sum(x)
    n = m.sum((1, 2))
    # -0 counts as +0.
    t = _sorted(x, m).gather(1, ((n - 1).clamp(min=0) // 2)[:, None])[:, 0] + 0.0
    t = select(n > 0, t)
    ties = m & (x == t[:, None, None])
    # Their mean, but exactly t.
    return t + image_sum(select(ties, x - t[:, None, None])) / count(ties, x.dtype).clamp(min=1.0)
