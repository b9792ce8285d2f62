"""What is done to prediction and target of each image before they are subtracted.

Maps are [B, H, W], m bool [B, H, W]. Statistics are those of the valid pixels of each image; gradient flows
through them.
"""

from __future__ import annotations

from torch import Tensor

from ..maps import finite_or_nan, select
from .statistics import count, image_sum, least_squares, median_per_image, standardise

TRIM_MIN_VALID = 100


def _by_median(x: Tensor, m: Tensor, eps: float) -> Tensor:
    """(x - t)/max(mean |x - t|, eps), t the lower median; 0 at invalid pixels (Ranftl et al. 2020)."""
    x = select(m, x)
    dev = select(m, x - median_per_image(x, m)[:, None, None])
    mad = image_sum(dev.abs()) / count(m, x.dtype).clamp(min=1.0)
    # An infinite MAD would make every pixel 0 and hide its cause.
    return dev / finite_or_nan(mad).clamp(min=eps)[:, None, None]


def aligned_residual(
    p: Tensor,
    g: Tensor,
    m: Tensor,
    align: str = "least-squares",
    eps: float = 0.0,
    keep: Tensor | None = None,
) -> Tensor:
    """The residual of p and g aligned to each other, image by image.

    Args:
        p: prediction.
        g: target.
        m: the pixels that make the statistics.
        align: ``"mean"``: z_p - z_g, z = (x - mu)/(mean |x - mu| + eps). ``"median"``: likewise about the
            lower median, with max(mean |x - t|, eps). ``"least-squares"``: s p + b - g with the s, b that
            minimise its square. ``"packnet-trim"`` (packnet-sfm-resnet-san): a p + b - g with
            a0 = cov/(var + eps), b = mean g - a0 mean p, a = a0 clamped to [0.1, 10].
        eps: as said there.
        keep: of ``"mean"``, the pixels that are returned, a superset of `m`; default `m`.

    Returns:
        [B, H, W], 0 at all other pixels.
    """
    if align == "mean":
        return standardise(p, m, eps, keep) - standardise(g, m, eps, keep)
    if align == "median":
        return _by_median(p, m, eps) - _by_median(g, m, eps)
    p, g = select(m, p), select(m, g)
    if align == "least-squares":
        scale, shift = least_squares(p, g, m)
    else:
        scale, shift = least_squares(p, g, m, ridge=eps)
        scale = scale.clamp(0.1, 10.0)
    return select(m, scale[:, None, None] * p + shift[:, None, None] - g)


def large_enough(m: Tensor, align: str, x: Tensor) -> Tensor:
    """`m` without the images that have too few valid pixels for `align`; they count 0."""
    if align != "packnet-trim":
        return m
    return m & (count(m, x.dtype) >= TRIM_MIN_VALID)[:, None, None]
