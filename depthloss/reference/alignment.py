"""What is done to prediction and target of each image before they are subtracted.

Maps are [B, H, W], m bool [B, H, W]. Statistics are those of the valid pixels of each image; gradient flows
through them.
"""

from __future__ import annotations

from torch import Tensor

from ..maps import clamp, finite_or_nan, select
from ..spec import Alignment
from .statistics import count, image_sum, least_squares, median_per_image, standardise


def _by_median(x: Tensor, m: Tensor, align: Alignment, keep: Tensor, detached: bool) -> Tensor:
    """(x - t)/S about the lower median t, S = max(mean |x - t|, eps), or the mean + eps (Ranftl et al. 2020);
    0 where not `keep`, and in an image without valid pixels.
    """
    n = count(m, x.dtype)
    t = median_per_image(select(m, x.detach() if detached else x), m)
    dev = select(keep & (n > 0)[:, None, None], x - t[:, None, None])
    # An infinite scale would make every pixel 0 and hide its cause.
    scale = finite_or_nan(image_sum(select(m, dev.abs())) / n.clamp(min=1.0))
    scale = scale + align.eps if align.scale_floor == "add" else clamp(scale, align.eps)
    return dev / scale[:, None, None]


def aligned_residual(
    p: Tensor,
    g: Tensor,
    m: Tensor,
    align: Alignment,
    keep: Tensor | None = None,
    w: Tensor | None = None,
) -> Tensor:
    """The residual of p and g aligned to each other, image by image.

    Args:
        p: prediction.
        g: target.
        m: the pixels that make the statistics.
        align: ``"mean"``: z_p - z_g, z = (x - mu)/(mean |x - mu| + eps). ``"median"``: likewise about the
            lower median, with max(mean |x - t|, eps) or the mean + eps. ``"least-squares"``: s p + b - g
            with the s, b that minimise its square. ``"packnet-trim"`` (packnet-sfm-resnet-san): a p + b - g
            with a0 = cov/(var + eps), b = mean g - a0 mean p, a = a0 clamped to [0.1, 10].
        keep: the pixels that are returned, a superset of `m`; default `m`.
        w: weights of the pixels in the statistics, not of ``"median"``; default 1.

    Returns:
        [B, H, W], 0 at all other pixels.
    """
    keep = m if keep is None else keep
    if align.kind == "mean":
        return standardise(p, m, align.eps, keep, w) - standardise(g, m, align.eps, keep, w)
    if align.kind == "median":
        detached = align.grad == "detached"
        return _by_median(p, m, align, keep, detached) - _by_median(g, m, align, keep, detached)
    keep = keep & m.any(2).any(1)[:, None, None]
    p, g = select(keep, p), select(keep, g)
    if align.kind == "least-squares":
        scale, shift = least_squares(p, g, m, w=w)
    else:
        scale, shift = least_squares(p, g, m, align.eps, w)
        scale = clamp(scale, 0.1, 10.0)
    return select(keep, scale[:, None, None] * p + shift[:, None, None] - g)


def large_enough(m: Tensor, align: Alignment, x: Tensor) -> Tensor:
    """`m` without the images that have too few valid pixels for `align`; they count 0."""
    if not align.min_pixels:
        return m
    return m & (count(m, x.dtype) >= align.min_pixels)[:, None, None]
