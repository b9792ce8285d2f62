"""The losses, masks, layouts and poisons that the matrix tests run over. A later backend joins by one
line.
"""

from __future__ import annotations

import torch
from torch import Tensor

import depthloss as dl
from depthloss import dispatch
from depthloss.losses import DepthLoss
from depthloss.losses.base import single_group
from depthloss.spec import Pixel

BACKENDS = ("reference", *(["cpu"] if dispatch.backend_status("cpu") is None else []))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
MASKS = ("none", "dense", "70%", "5%", "one empty image", "all empty")
LAYOUTS = ("contiguous", "channels_last", "sliced", "expanded mask")
POISONS = {"NaN": torch.nan, "Inf": torch.inf, "-1": -1.0, "0": 0.0}
SHAPE = (3, 1, 24, 41)


def _gradient(**axes: object) -> dl.GradientSpec:
    return dl.GradientSpec(**axes)


# Every row of the loss table, every variant, and every mask and border of the gradient term somewhere.
LOSSES = {
    "g2 published": lambda: dl.G2Loss(),
    "g2 document": lambda: dl.G2Loss("document"),
    "g2 support": lambda: dl.G2Loss(gradient=_gradient(mask="support", border="zero", num_scales=3)),
    "scale-adaptive": lambda: dl.ScaleAdaptiveLoss(),
    "scale-adaptive clamped": lambda: dl.ScaleAdaptiveLoss(min_depth=0.8, max_depth=20.0),
    "scale-adaptive inverse": lambda: dl.ScaleAdaptiveLoss(use_inv_depth=True, use_absolute=False),
    "scale-adaptive centre": lambda: dl.ScaleAdaptiveLoss(
        use_inv_depth=True, gradient=_gradient(mask="centre", downsample="nearest", border="replicate")
    ),
    "scale-adaptive residual": lambda: dl.ScaleAdaptiveLoss(
        gradient=_gradient(mask="residual", downsample="average", border="replicate", normalizer="level")
    ),
    "scale-adaptive-progressive": lambda: dl.ProgressiveScaleAdaptiveLoss(num_scales=3),
    "progressive average": lambda: dl.ProgressiveScaleAdaptiveLoss(num_scales=3, downsample="average"),
    "gradient": lambda: dl.MultiScaleGradientLoss(),
    "gradient six levels": lambda: dl.MultiScaleGradientLoss(
        gradient=_gradient(
            mask="residual", border="valid", downsample="bilinear", combine="sum", num_scales=6
        )
    ),
    "ssi": lambda: dl.SSILoss(),
    "silog": lambda: dl.SILogLoss(),
    "silog zoedepth": lambda: dl.SILogLoss.preset("zoedepth"),
    "silog mmseg": lambda: dl.SILogLoss.preset("mmseg"),
    "ssi-silog": lambda: dl.SSISilogLoss(),
    "ssi-silog with gradient": lambda: dl.SSISilogLoss(
        gradient_weight=0.2, min_depth=0.8, max_depth=20.0, silog_scale=10.0
    ),
    "enhanced-ssi": lambda: dl.EnhancedSSILoss(),
    "progressive-ssi": lambda: dl.ProgressiveEnhancedSSILoss(),
    "ssi-trim": lambda: dl.SSITrimLoss(),
    "berhu": lambda: dl.BerHuLoss(),
    "berhu packnet": lambda: dl.BerHuLoss(variant="packnet"),
    "abs-rel": lambda: dl.AbsRelLoss(),
    "abs-rel packnet": lambda: dl.AbsRelLoss(variant="packnet"),
    "l1": lambda: dl.L1Loss(),
    "mse": lambda: dl.MSELoss(),
    "scale-shift-invariant": lambda: dl.ScaleShiftInvariantLoss(),
    "affine-invariant": lambda: dl.AffineInvariantLoss(),
    "affine-invariant trimmed": lambda: dl.AffineInvariantLoss(trim=0.2),
    "affine-invariant of the batch": lambda: dl.recipe("midas-robust"),
    "least squares l1 by images": lambda: dl.ScaleShiftInvariantLoss(data="l1", reduction="images"),
    "adaptive-multi-domain": lambda: dl.AdaptiveMultiDomainLoss(),
    "fixed-multi-domain": lambda: dl.FixedMultiDomainLoss(use_inv_depth=True),
}


def unfused(**options: object) -> DepthLoss:
    """A loss without a fused form: it aligns its maps in two ways."""
    terms = (Pixel(name=f"by {align}", align=align) for align in ("mean", "least-squares"))
    return DepthLoss(single_group(*terms), **options)


# Every loss on every backend that must run it.
RUNS = [
    (name, backend)
    for name, build in LOSSES.items()
    for backend in BACKENDS
    if backend in (*build().spec.fused, "reference")
]
# These read the finite values of invalid pixels, and say so (rule 3 of the contract).
READS_FINITE_NEIGHBOURS = {
    "g2 document",
    "gradient",
    "scale-adaptive centre",
    "scale-adaptive-progressive",
}


def maps(
    dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = SHAPE, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """A smooth positive ground truth with a step, and a noisy, scaled prediction of it."""
    rng = torch.Generator().manual_seed(seed)
    b, _, h, w = shape
    y, x = torch.meshgrid(torch.linspace(0, 3, h), torch.linspace(0, 5, w), indexing="ij")
    base = 0.3 + 0.2 * torch.sin(x + y * 0.7) * torch.cos(y) + 0.3 * (x > 2.3)
    gt = (base.expand(shape) * (0.6 + torch.rand(b, 1, 1, 1, generator=rng))).double()
    gt = gt * (1 + 0.03 * torch.randn(shape, generator=rng).double())
    pred = gt * (1.1 + 0.2 * torch.randn(shape, generator=rng).double()).clamp(0.5, 2.0) + 0.02
    return pred.to(dtype), gt.to(dtype)


def mask(kind: str, shape: tuple[int, ...] = SHAPE, shared: bool = False) -> Tensor | None:
    """The bool mask of that kind; `shared` = one that is expanded from fewer elements."""
    rng = torch.Generator().manual_seed(1)
    if kind == "none":
        return None
    if kind in ("dense", "all empty"):
        return torch.full((1, 1, 1, 1) if shared else shape, kind == "dense").expand(shape)
    if kind == "one empty image":
        images = (torch.arange(shape[0]) != 1)[:, None, None, None]
        return images.expand(shape) if shared else images & (torch.rand(shape, generator=rng) < 0.8)
    density = {"70%": 0.7, "5%": 0.07}[kind]
    return torch.rand((1, *shape[1:]) if shared else shape, generator=rng).lt(density).expand(shape)


def lay_out(x: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        big = torch.full((*x.shape[:2], 2 * x.shape[2] + 1, 3 * x.shape[3]), 7).to(x)
        view = big[:, :, 1::2, ::3]
        view.copy_(x)
        return view
    return x.contiguous()


def run(
    loss: torch.nn.Module, pred: Tensor, gt: Tensor, m: Tensor | None, backend: str
) -> tuple[Tensor, Tensor]:
    """Loss and gradient."""
    pred = pred.detach().requires_grad_()
    with dl.use_backend(backend):
        value = loss(pred, gt, m)
        value.backward()
    return value.detach(), pred.grad
