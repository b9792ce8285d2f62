"""From residuals to the numbers that a loss adds up. Maps are [B, H, W], masks bool [B, H, W]; every function
returns a 0-dim tensor, or [B] where the reduction is ``"none"``.

Each selects the valid pixels before its first non-linear step: behind it, 0 * NaN would poison the gradient.
Pooled sums run over the batches of all ranks of a process group.
"""

from __future__ import annotations

from torch import Tensor

from ..maps import clamp, select
from ..spec import Moments, Pixel
from .penalties import cost
from .statistics import (
    LOCAL,
    Ranks,
    at_least_one,
    count,
    guarded_ratio,
    image_moments,
    image_sum,
    pooled_moments,
    reduce_images,
    trim_weights,
    weighed,
    weight_sum,
)

CONFIDENCE_FLOOR = 1e-6


def pixel(
    r: Tensor,
    p: Tensor,
    g: Tensor,
    m: Tensor,
    term: Pixel,
    ranks: Ranks = LOCAL,
    all_pixels: bool = False,
    w: Tensor | None = None,
    c: Tensor | None = None,
) -> Tensor:
    """The mean over valid pixels of a penalty of the residual r.

    Args:
        r: the aligned residual.
        p: prediction in the term's domain.
        g: target in the term's domain.
        m: the valid pixels.
        term: penalty, trim, reduction and eps.
        ranks: the process group whose joined batch is evaluated.
        all_pixels: statistics ``"all"``: no eps; of an absolute term, each image counts at least one pixel
            and reductions by image are pooled too, as the source has it.
        w: weights of the pixels; default 1.
        c: confidence c > 0 of each pixel: c phi - alpha ln c takes the place of phi (Kendall and Gal 2017; in
            this form DUSt3R, VGGT).
    """
    r = select(m, r)
    phi, again = cost(r, p, g, m, term.penalty, ranks)
    if c is not None and term.confidence is not None:
        c = clamp(select(m, c, 1.0), CONFIDENCE_FLOOR)
        phi = c * phi - term.confidence * c.log()
    if term.trim:
        return _trimmed(r, phi, m, term, ranks)
    n = weight_sum(m, phi.dtype, w)
    if again is not None:
        n = n + count(again, phi.dtype)
    floored = all_pixels and term.mask == "abs_mask"
    if term.reduction != "pixels" and not floored:
        return reduce_images(image_sum(weighed(phi, m, w)) / at_least_one(n, w), term.reduction, ranks)
    total = ranks.sum(weighed(phi, m, w).sum())
    number = ranks.sum((n.clamp(min=1.0) if floored else n).sum())
    eps = 0.0 if all_pixels and not floored else term.eps
    return total / (number + eps if eps else at_least_one(number, w))


def pooled_mean(x: Tensor, m: Tensor, ranks: Ranks = LOCAL) -> Tensor:
    """Mean of the valid x over the batch, 0 without any."""
    return ranks.sum(select(m, x).sum()) / ranks.sum(count(m, x.dtype).sum()).clamp(min=1.0)


def _trimmed(r: Tensor, phi: Tensor, m: Tensor, term: Pixel, ranks: Ranks) -> Tensor:
    """The mean of phi over the pixels that the trim keeps."""
    weights, kept = trim_weights(r.abs(), m, term.trim, term.trim_over, ranks)
    # A NaN among the trimmed must show: 0 * NaN, with zero gradient.
    sums = image_sum(weights * select(weights > 0, phi)) + 0.0 * image_sum(select(m, r))
    if term.reduction != "pixels":
        return reduce_images(guarded_ratio(sums, kept), term.reduction, ranks)
    return guarded_ratio(ranks.sum(sums.sum()), kept if term.trim_over == "batch" else ranks.sum(kept.sum()))


def _guarded_root(radicand: Tensor, n: Tensor) -> Tensor:
    """sqrt(radicand); 0 with zero gradient where the radicand is 0 or nothing is valid. NaN stays NaN."""
    valid = (n != 0) & (radicand != 0)
    return select(valid, select(valid, radicand, 1.0).sqrt())


def moments(e: Tensor, m: Tensor, term: Moments, ranks: Ranks = LOCAL, w: Tensor | None = None) -> Tensor:
    """Variance V and mean of the residual e: V + alpha mean^2, or scale sqrt(V + (1 - lam) mean^2 + eps).

    The plain form of p - g is the SSI of packnet-sfm-resnet-san (neither scale nor shift invariant); the root
    of a log ratio is SILog (Eigen et al. 2014) in the forms of BTS, AdaBins/ZoeDepth, Depth Anything V2 and
    mmsegmentation.
    """
    by_image = term.reduction != "pixels"
    n, mean, var = image_moments(e, m, w) if by_image else pooled_moments(e, m, ranks, w)
    if term.unbiased:
        var = var * (n / (n - 1.0).clamp(min=1.0))
    value = var + term.mean_weight * mean.square()
    if term.form == "root":
        value = term.scale * _guarded_root(value + term.eps, n)
    return reduce_images(value, term.reduction, ranks) if by_image else value
