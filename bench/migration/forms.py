"""The formulas that other projects train with, written from their publications in plain PyTorch.

Each takes the maps of `Batch` as that project has them and says nothing of holes, empty masks or precision.
They are what the lines of docs/migration replace; tests/test_migration.py holds them against numbers of
the originals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Sobel along x; its transpose along y.
SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        pred: [B, 1, H, W], depth (m), or inverse depth (1/m) for a form of `INVERSE`.
        gt: the same; 0 at invalid pixels, as data sets store holes.
        mask: [B, 1, H, W] bool, the valid pixels.
        raw_mask: [B, 1, H, W] bool, the pixels of the sparse input of a completion network.
        confidence: [B, 1, H, W], > 1.
    """

    pred: Tensor
    gt: Tensor
    mask: Tensor
    raw_mask: Tensor
    confidence: Tensor


def _logs(x: Batch, offset: float = 0.0) -> Tensor:
    return (x.pred[x.mask] + offset).log() - (x.gt[x.mask] + offset).log()


def _images(x: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """The valid pixels of each image."""
    for p, g, m in zip(x.pred, x.gt, x.mask, strict=True):
        yield p[m], g[m]


def _residuals(x: Batch) -> Tensor:
    return (x.pred - x.gt)[x.mask]


def silog_mean_square(x: Batch, factor: float = 1.0, focus: float = 0.5) -> Tensor:
    """Factor · √(⟨d²⟩ − focus ⟨d⟩²): BTS, Depth Anything V2, packnet-sfm."""
    d = _logs(x)
    return factor * (d.square().mean() - focus * d.mean().square()).sqrt()


def silog_variance(
    x: Batch, factor: float = 10.0, beta: float = 0.15, offset: float = 0.0, eps: float = 0.0
) -> Tensor:
    """Factor · √(Var d + β ⟨d⟩² + eps), Var with n − 1: AdaBins, ZoeDepth, the toolbox."""
    d = _logs(x, offset)
    return factor * (d.var() + beta * d.mean().square() + eps).sqrt()


def mmseg(x: Batch) -> Tensor:
    """The mean over the images of √(⟨d²⟩ − ½⟨d⟩²)."""
    logs = [p.clamp(min=1e-6).log() - g.clamp(min=1e-6).log() for p, g in _images(x)]
    return torch.stack([(d.square().mean() - 0.5 * d.mean().square()).sqrt() for d in logs]).mean()


def unidepth(x: Batch, paired: bool = True, integrated: float = 0.15) -> Tensor:
    """The mean over the images of √(Var d + .15 ⟨d⟩² + 1e-4); not `paired`: of every mean with every
    variance, as the published configurations compute it.
    """
    logs = [(p + 1e-4).log() - (g + 1e-4).log() for p, g in _images(x)]
    mean, var = torch.stack([d.mean() for d in logs]), torch.stack([d.var(correction=0) for d in logs])
    return (var + integrated * (mean if paired else mean[:, None]).square() + 1e-4).sqrt().mean()


def packnet_berhu(x: Batch, threshold: float = 0.2) -> Tensor:
    """The absolute errors, and the squares of those above a *signed* threshold once more."""
    d = _residuals(x)
    c = (threshold * d.max()).detach()
    large = d.abs()[d.abs() > c]
    return (d.abs().sum() + large.square().sum()) / (d.numel() + large.numel())


def packnet_abs_rel(x: Batch) -> Tensor:
    """Of the prediction, not of the ground truth."""
    return (_residuals(x).abs() / x.pred[x.mask]).mean()


def _standardised(x: Tensor, m: Tensor) -> Tensor:
    """(x − mean)/(mean absolute deviation + 1e-6) of each image."""
    n = m.sum((1, 2, 3), keepdim=True)
    n = torch.where(n == 0, 1e-6, n)
    dev = x - (x * m).sum((1, 2, 3), keepdim=True) / n
    return dev / ((dev.abs() * m).sum((1, 2, 3), keepdim=True) / n + 1e-6)


def g2(x: Batch, levels: int = 4) -> Tensor:
    """A + R + ½ G of G2-MonoDepth."""
    m, raw = x.mask.to(x.pred), x.raw_mask.to(x.pred)
    absolute = ((x.pred - x.gt).abs() * raw).sum() / (raw.sum() + 1e-6)
    r = m * (_standardised(x.pred, m) - _standardised(x.gt, m))
    kernel = torch.tensor(SOBEL).to(r)
    gradient = r.new_zeros(())
    for k in range(levels):
        size = r.shape[-2] // 2**k, r.shape[-1] // 2**k
        level = F.interpolate(r, size, mode="nearest")
        for weights in (kernel, kernel.T):
            gradient = gradient + F.conv2d(level, weights[None, None]).abs().sum()
    return absolute + (r.abs().sum() + 0.5 * gradient) / (m.sum() + 1e-6)


def _matching(r: Tensor, m: Tensor, levels: int = 4) -> Iterator[Tensor]:
    """Forward differences over pairs of valid pixels of each level, divided by its valid pixels."""
    for k in range(levels):
        rk, mk = r[..., :: 2**k, :: 2**k], m[..., :: 2**k, :: 2**k]
        across = (rk[..., 1:] - rk[..., :-1]).abs() * mk[..., 1:] * mk[..., :-1]
        down = (rk[..., 1:, :] - rk[..., :-1, :]).abs() * mk[..., 1:, :] * mk[..., :-1, :]
        yield (across.sum() + down.sum()) / mk.sum()


def _fitted(x: Batch) -> Tensor:
    """Residual of the least-squares scale and shift of each image, 0 at invalid pixels."""
    m, axes = x.mask.to(x.pred), (1, 2, 3)
    n, sp, sg = m.sum(axes), (m * x.pred).sum(axes), (m * x.gt).sum(axes)
    spp, spg = (m * x.pred * x.pred).sum(axes), (m * x.pred * x.gt).sum(axes)
    det = n * spp - sp * sp
    scale, shift = (n * spg - sp * sg) / det, (spp * sg - sp * spg) / det
    return m * (scale[:, None, None, None] * x.pred + shift[:, None, None, None] - x.gt)


def midas(x: Batch, alpha: float = 0.5) -> Tensor:
    """Half the mean square after least squares + α · gradient matching."""
    m, r = x.mask.to(x.pred), _fitted(x)
    return r.square().sum() / (2 * m.sum()) + alpha * sum(_matching(r, m))


def e2e_ft(x: Batch) -> Tensor:
    """Mean absolute error after least squares."""
    return _fitted(x).abs().sum() / x.mask.sum()


def _by_median(x: Batch, eps: float = 0.0, floor: float = 0.0) -> list[Tensor]:
    """Of each image the residual of the maps standardised by median and mean absolute deviation."""

    def standardised(v: Tensor) -> Tensor:
        dev = v - v.median()
        return dev / (dev.abs().mean().clamp(min=floor) + eps)

    return [standardised(p) - standardised(g) for p, g in _images(x)]


def median_l1(x: Batch) -> Tensor:
    """Mean over the batch after median and mean absolute deviation: Metric3D, vidar."""
    return torch.cat(_by_median(x, eps=1e-6)).abs().mean()


def median_trimmed(x: Batch, trim: float = 0.2, alpha: float = 0.5) -> Tensor:
    """Ranftl et al.'s trimmed loss as their paper has it, + gradient matching."""
    r = x.pred.new_zeros(x.pred.shape).masked_scatter(x.mask, torch.cat(_by_median(x, floor=1e-6)))
    errors = r[x.mask].abs().sort().values
    return errors[: int((1 - trim) * len(errors))].mean() + alpha * sum(_matching(r, x.mask.to(r)))


def nlspn(x: Batch, max_depth: float = 10.0, l1: float = 1.0, l2: float = 1.0) -> Tensor:
    """Of each image mean absolute error and mean square, summed over the images; depths clamped."""
    errors = [p.clamp(0, max_depth) - g.clamp(0, max_depth) for p, g in _images(x)]
    return sum(l1 * e.abs().mean() + l2 * e.square().mean() for e in errors)


def vggt(x: Batch, alpha: float = 0.2) -> Tensor:
    """Confidence-weighted and plain mean + the mean of four levels of gradient matching."""
    m = x.mask.to(x.pred)
    levels = list(_matching(m * (x.pred - x.gt), m))
    return dust3r(x, alpha) + _residuals(x).abs().mean() + sum(levels) / len(levels)


def dust3r(x: Batch, alpha: float = 0.2) -> Tensor:
    """⟨c·error − α ln c⟩."""
    c = x.confidence[x.mask]
    return (c * _residuals(x).abs() - alpha * c.log()).mean()


FORMS: dict[str, Callable[[Batch], Tensor]] = {
    "depth-anything-v2": silog_mean_square,
    "zoedepth": lambda x: silog_variance(x, offset=1e-7),
    "adabins": silog_variance,
    "bts": lambda x: silog_mean_square(x, 10.0, 0.85),
    "packnet-silog": lambda x: silog_mean_square(x, 10.0, 0.85),
    "packnet-l1": lambda x: _residuals(x).abs().mean(),
    "packnet-mse": lambda x: _residuals(x).square().mean(),
    "packnet-berhu": packnet_berhu,
    "packnet-abs-rel": packnet_abs_rel,
    "g2": g2,
    "midas": midas,
    "midas-robust": median_trimmed,
    "e2e-ft": e2e_ft,
    "mmseg": mmseg,
    "toolbox": lambda x: silog_variance(x, factor=1.0, offset=1e-3),
    "unidepth": unidepth,
    "metric3d-silog": lambda x: silog_mean_square(x).square(),
    "metric3d-ssi": median_l1,
    "completion-l1": lambda x: _residuals(x).abs().mean(),
    "completion-mse": lambda x: _residuals(x).square().mean(),
    "nlspn": nlspn,
    "vggt": vggt,
    "dust3r": dust3r,
}
# Forms of inverse depth.
INVERSE = {name for name in FORMS if name.startswith("packnet")} | {"midas", "midas-robust"}
