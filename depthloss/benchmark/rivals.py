"""The eager forms that people write today: what the fused kernels are compared with.

Plain PyTorch from the formulas of docs/losses.md: masks multiply, Sobel is two one-channel `conv2d`, and
every term makes its own passes. So they take finite inputs only. The reference backend, which selects and
takes Sobel by slicing, is the other eager form; `bench/speed` shows both. Aligned losses: aligned_rivals.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthloss import GradientSpec

from . import aligned_rivals

PUBLISHED = GradientSpec.preset("g2-published")
DOCUMENT = GradientSpec.preset("g2-document")
SUPPORT = GradientSpec.preset("scale-adaptive")
# The point of the training at which scheduled losses are compared.
PROGRESS, EPOCH = 0.5, 15


def downsample(x: Tensor, level: int, method: str) -> Tensor:
    if level == 0:
        return x
    if method == "average":
        return F.avg_pool2d(x, 2**level)
    if method == "nearest":
        return F.interpolate(x, scale_factor=2.0**-level, mode="nearest", recompute_scale_factor=True)
    return F.interpolate(x, scale_factor=2.0**-level, mode="bilinear", align_corners=False)


def convolve(x: Tensor, kernel: Tensor, border: str) -> Tensor:
    if border == "replicate":
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(x, kernel, padding=1 if border == "zero" else 0)


class Gradient(nn.Module):
    """The multi-scale Sobel term of one residual map [B, 1, H, W]."""

    def __init__(self, spec: GradientSpec, eps: float) -> None:
        super().__init__()
        self.spec, self.eps = spec, eps
        sobel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
        self.register_buffer("x", sobel[None, None])
        self.register_buffer("y", sobel.T.contiguous()[None, None])
        self.register_buffer("ones", torch.ones(1, 1, 3, 3))

    def _kept(self, weight: Tensor) -> Tensor | None:
        """1 where a response counts, 0 elsewhere; None = all count."""
        if self.spec.mask == "residual":
            return None
        if self.spec.mask == "support":
            return (convolve((weight > 0).float(), self.ones, self.spec.border) > 8.5).float()
        return (weight > 0.5).float()

    def forward(self, r: Tensor, m: Tensor) -> Tensor:
        """The term, 0-dim."""
        spec = self.spec
        levels, counted = [], []
        if spec.mask != "centre":
            r = r * m
        for k in range(spec.num_scales):
            cells, weight = downsample(r, k, spec.downsample), downsample(m, k, spec.downsample)
            if spec.mask == "support":
                cells = cells / torch.where(weight > 0, weight, 1.0)
            response = convolve(cells, self.x, spec.border).abs() + convolve(cells, self.y, spec.border).abs()
            kept = self._kept(weight)
            norm = weight.sum() if kept is None else kept.sum()
            if spec.mask == "centre" and spec.border == "valid":
                kept = kept[..., 1:-1, 1:-1]
            total = (response if kept is None else response * kept).sum()
            levels.append(total / ((m.sum() if spec.normalizer == "full" else norm) + self.eps))
            counted.append((norm > 0).float())
        total = sum(levels)
        if spec.combine == "sum":
            return total
        return total / (sum(counted).clamp(min=1.0) if spec.mask == "support" else spec.num_scales)


def count(m: Tensor) -> Tensor:
    return m.sum((1, 2, 3), keepdim=True).clamp(min=1.0)


def standardise(x: Tensor, m: Tensor, eps: float) -> Tensor:
    """(x - mean)/(MAD + eps) of each image; statistics over the valid pixels."""
    n = count(m)
    dev = x - (x * m).sum((1, 2, 3), keepdim=True) / n
    return dev / ((dev.abs() * m).sum((1, 2, 3), keepdim=True) / n + eps)


def pooled(x: Tensor, m: Tensor, eps: float = 0.0) -> Tensor:
    n = m.sum()
    return (x * m).sum() / (n + eps if eps else n.clamp(min=1.0))


def per_image(x: Tensor, m: Tensor) -> Tensor:
    return ((x * m).sum((1, 2, 3), keepdim=True) / count(m)).mean()


def to_depth(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    depth = 1.0 / x.clamp(min=1e-6)
    return depth if low is None and high is None else depth.clamp(low, high)


def ssi(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
    e = p - g
    mean = pooled(e, m)
    return pooled(e.square(), m) - mean.square() + 0.85 * mean.square()


def silog(p: Tensor, g: Tensor, m: Tensor, scale: float = 10.0) -> Tensor:
    log_ratio = p.log() - g.log()
    return scale * (pooled(log_ratio.square(), m) - 0.85 * pooled(log_ratio, m).square() + 1e-8).sqrt()


class _G2(nn.Module):
    def __init__(self, spec: GradientSpec, mean: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.mean, self.gradient = mean, Gradient(spec, 1e-6)

    def forward(self, p: Tensor, g: Tensor, m: Tensor) -> Tensor:
        r = standardise(p, m, 1e-6) - standardise(g, m, 1e-6)
        return self.mean((p - g).abs(), m) + self.mean(r.abs(), m) + 0.5 * self.gradient(r, m)


class _ScaleAdaptive(nn.Module):
    def __init__(self, weight: float = 0.5, low: float | None = None, high: float | None = None) -> None:
        super().__init__()
        self.weight, self.low, self.high, self.gradient = weight, low, high, Gradient(SUPPORT, 1e-8)

    def forward(self, p: Tensor, g: Tensor, m: Tensor) -> Tensor:
        p, g = to_depth(p, self.low, self.high), to_depth(g, self.low, self.high)
        r = standardise(p, m, 1e-8) - standardise(g, m, 1e-8)
        return pooled(r.abs(), m, 1e-8) + pooled((p - g).abs(), m, 1e-8) + self.weight * self.gradient(r, m)


class _Progressive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gradient = Gradient(GradientSpec.preset("scale-adaptive", num_scales=1), 1e-6)

    def forward(self, p: Tensor, g: Tensor, m: Tensor) -> Tensor:
        p, g = to_depth(p, 0.1, 100.0), to_depth(g, 0.1, 100.0)
        total = 0.5 * (1.0 + PROGRESS) * pooled((p - g).abs(), m, 1e-6)
        shares = [1.0 + (1.0 - PROGRESS) * s for s in range(4)]
        for s, share in enumerate(shares):
            p_s = downsample(p, s, "bilinear")
            g_s, m_s = downsample(g, s, "nearest"), downsample(m, s, "nearest")
            r = standardise(p_s, m_s, 1e-6) - standardise(g_s, m_s, 1e-6)
            level = 0.5 * pooled(r.abs(), m_s, 1e-6) + 0.5 * self.gradient(r, m_s)
            total = total + share / sum(shares) * level
        return total


class _PlainGradient(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gradient = Gradient(DOCUMENT, 1e-6)

    def forward(self, p: Tensor, g: Tensor, m: Tensor) -> Tensor:
        return self.gradient(p - g, m)


def ssi_silog(p: Tensor, g: Tensor, m: Tensor, low: float = 1e-3, high: float = 100.0) -> Tensor:
    scale = silog(to_depth(p, low, high), to_depth(g, low, high), m, scale=1.0)
    return torch.where(m.sum() >= 100, 0.7 * ssi(p, g, m) + 0.3 * scale, 0.0)


def _with_l1(ssi_weight: float, l1_weight: float) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def loss(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
        l1 = pooled((1.0 / (p + 1e-6) - 1.0 / (g + 1e-6)).abs(), m)
        return ssi_weight * ssi(p, g, m) + l1_weight * l1

    return loss


def berhu(p: Tensor, g: Tensor, m: Tensor) -> Tensor:
    d = (p - g).abs()
    c = 0.2 * (d * m).amax().detach()
    return pooled(torch.where(d <= c, d, (d.square() + c.square()) / (2.0 * c)), m)


class _MultiDomain(nn.Module):
    """Structure and scale, weighted by learnable log-variances or by fixed weights."""

    def __init__(self, weights: tuple[float, float] | None) -> None:
        super().__init__()
        self.weights, self.structure = weights, _ScaleAdaptive(0.1, 0.05, 100.0)
        if weights is None:
            self.log_vars = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(2))

    def forward(self, p: Tensor, g: Tensor, m: Tensor) -> Tensor:
        losses = self.structure(p, g, m), ssi_silog(p, g, m, 0.05)
        if self.weights is not None:
            return sum(w * loss for w, loss in zip(self.weights, losses, strict=True))
        pairs = zip(self.log_vars, losses, strict=True)
        return sum(0.5 * (-s).exp() * loss + 0.5 * s for s, loss in pairs)


class _Upcast(nn.Module):
    """Any loss on maps of any precision and a bool mask: arithmetic in float32, as the contract has it."""

    def __init__(self, loss: Callable[[Tensor, Tensor, Tensor], Tensor], selects: bool) -> None:
        super().__init__()
        self.loss, self.selects = loss, selects

    def forward(self, pred: Tensor, gt: Tensor, mask: Tensor) -> Tensor:
        return self.loss(pred.float(), gt.float(), mask if self.selects else mask.float())


_T = PROGRESS
RIVALS: dict[str, Callable[[], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "g2 published": lambda: _G2(PUBLISHED, lambda x, m: pooled(x, m, 1e-6)),
    "g2 document": lambda: _G2(DOCUMENT, per_image),
    "scale-adaptive": _ScaleAdaptive,
    "scale-adaptive-progressive": _Progressive,
    "gradient": _PlainGradient,
    "ssi": lambda: ssi,
    "silog": lambda: silog,
    "ssi-silog": lambda: ssi_silog,
    "enhanced-ssi": lambda: _with_l1((0.8 + 0.1 * (1 - _T)) / 1.1, (0.2 + 0.1 * _T) / 1.1),
    "progressive-ssi": lambda: _with_l1(1 - 0.3 * min(1, EPOCH / 15), 0.3 * min(1, EPOCH / 15)),
    "berhu": lambda: berhu,
    "abs-rel": lambda: lambda p, g, m: pooled((p - g).abs() / g, m),
    "l1": lambda: lambda p, g, m: pooled((p - g).abs(), m),
    "mse": lambda: lambda p, g, m: pooled((p - g).square(), m),
    "adaptive-multi-domain": lambda: _MultiDomain(None),
    "fixed-multi-domain": lambda: _MultiDomain((0.4, 0.6)),
}
ALIGNED: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ssi-trim": aligned_rivals.ssi_trim,
    "scale-shift-invariant": aligned_rivals.scale_shift_invariant,
    "affine-invariant": aligned_rivals.affine_invariant(trim=0.0),
    "affine-invariant trimmed": aligned_rivals.affine_invariant(trim=0.2),
    "e2e-ft": aligned_rivals.scale_shift_invariant_l1,
    "midas-robust": aligned_rivals.midas_robust,
}
RIVALS |= {name: lambda loss=loss: loss for name, loss in ALIGNED.items()}


def build(name: str) -> nn.Module:
    """The eager form of a loss; maps [B, 1, H, W], mask bool, scheduled losses at PROGRESS and EPOCH."""
    return _Upcast(RIVALS[name](), name in ALIGNED)
