"""The reference's gradients against central differences in float64; second derivatives of the smooth losses.

Inputs are generic random numbers of fixed seeds: every |.|, clamp, sort and selection is then further than
the step from its kink (a step that crossed one would show as an error of the order of the gradient itself).
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import depthloss as dl
from depthloss import functional

# Central differences: truncation ~ eps^2, rounding ~ 1e-16/eps; absolute, on gradients of 1e-4 to 1e-1.
STEP, ATOL, RTOL = 1e-6, 1e-8, 1e-5
SHAPE = (2, 1, 9, 11)


def scene(
    shape: tuple[int, ...] = SHAPE, density: float = 0.75, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Positive prediction and ground truth around 1, and a mask; everything finite."""
    rng = torch.Generator().manual_seed(seed)
    gt = torch.exp(0.5 * torch.randn(shape, generator=rng, dtype=torch.float64))
    pred = gt * torch.exp(0.1 + 0.3 * torch.randn(shape, generator=rng, dtype=torch.float64))
    return pred, gt, torch.rand(shape, generator=rng) < density


def check(
    loss: dl.DepthLoss,
    shape: tuple[int, ...] = SHAPE,
    density: float = 0.75,
    wrt_gt: bool = True,
    fixed: Tensor | None = None,
    fast: bool = False,
    **call: object,
) -> None:
    """Gradcheck with respect to pred and gt, except at `fixed` pixels."""
    pred, gt, mask = scene(shape, density)

    def function(p: Tensor, *rest: Tensor) -> Tensor:
        g = rest[0] if rest else gt
        if fixed is not None:
            p, g = torch.where(fixed, pred, p), torch.where(fixed, gt, g)
        with dl.use_backend("reference"):
            return loss(p, g, mask, **call)

    inputs = [pred.clone().requires_grad_(), *([gt.clone().requires_grad_()] if wrt_gt else [])]
    assert function(*inputs).item() != 0.0
    assert gradcheck(function, inputs, eps=STEP, atol=ATOL, rtol=RTOL, fast_mode=fast)


# Every registry name, every variant.
LOSSES = {
    "g2 published": lambda: dl.G2Loss(num_scales=3),
    "g2 document": lambda: dl.G2Loss("document", num_scales=3),
    "g2 weights": lambda: dl.G2Loss(num_scales=2, weights=(0.3, 0.0, 2.0), eps=1e-3),
    "scale-adaptive depth": lambda: dl.ScaleAdaptiveLoss(num_scales=3),
    "scale-adaptive inverse": lambda: dl.ScaleAdaptiveLoss(num_scales=3, use_inv_depth=True),
    "scale-adaptive clamped": lambda: dl.ScaleAdaptiveLoss(num_scales=3, min_depth=0.6, max_depth=1.5),
    "scale-adaptive all": lambda: dl.ScaleAdaptiveLoss(num_scales=3, statistics="all"),
    "scale-adaptive all inverse": lambda: dl.ScaleAdaptiveLoss(
        num_scales=3, statistics="all", use_inv_depth=True, use_absolute=False
    ),
    "progressive": lambda: dl.ProgressiveScaleAdaptiveLoss(num_scales=3),
    "progressive average": lambda: dl.ProgressiveScaleAdaptiveLoss(num_scales=2, downsample="average"),
    "progressive inverse": lambda: dl.ProgressiveScaleAdaptiveLoss(
        num_scales=2, use_inv_depth=True, alpha_schedule="none", scale_schedule="constant"
    ),
    "progressive clamped": lambda: dl.ProgressiveScaleAdaptiveLoss(
        num_scales=3, min_depth=0.6, max_depth=1.5, alpha_schedule="constant"
    ),
    "gradient": lambda: dl.MultiScaleGradientLoss(scales=(1, 2, 4)),
    "ssi": lambda: dl.SSILoss(alpha=0.6),
    "silog": lambda: dl.SILogLoss(),
    "silog unbiased": lambda: dl.SILogLoss.preset("zoedepth", offset=0.05),
    "silog images": lambda: dl.SILogLoss.preset("mmseg"),
    "silog clamp": lambda: dl.SILogLoss(clamp=0.7, eps=0.0),
    "silog rmse": lambda: dl.SILogLoss(lam=0.0, scale=1.0, reduction="images", unbiased=True),
    "ssi-silog": lambda: dl.SSISilogLoss(min_depth=0.6, max_depth=1.5),
    "ssi-silog gradient": lambda: dl.SSISilogLoss(gradient_weight=0.2, silog_scale=10.0),
    "enhanced-ssi": lambda: dl.EnhancedSSILoss(),
    "progressive-ssi": lambda: dl.ProgressiveEnhancedSSILoss(),
    "berhu": lambda: dl.BerHuLoss(),
    "berhu packnet": lambda: dl.BerHuLoss(variant="packnet", threshold=0.4),
    "abs-rel": lambda: dl.AbsRelLoss(),
    "abs-rel packnet": lambda: dl.AbsRelLoss(variant="packnet"),
    "l1": lambda: dl.L1Loss(),
    "mse": lambda: dl.MSELoss(),
    "scale-shift-invariant": lambda: dl.ScaleShiftInvariantLoss(num_scales=3),
    "affine-invariant": lambda: dl.AffineInvariantLoss(),
    "affine-invariant trim": lambda: dl.AffineInvariantLoss(trim=0.3),
    "adaptive-multi-domain": lambda: dl.AdaptiveMultiDomainLoss(num_scales=3),
    "fixed-multi-domain": lambda: dl.FixedMultiDomainLoss(num_scales=3, use_inv_depth=True),
    "ssi-trim": lambda: dl.SSITrimLoss(),
    "ssi-trim none": lambda: dl.SSITrimLoss(trim=0.0),
}
# 100 valid pixels per image, or the image does not count.
LARGER = {"ssi-trim": (2, 1, 13, 15), "ssi-trim none": (2, 1, 13, 15)}
# Random projections of the Jacobian instead of all of it; their parts are checked entry by entry elsewhere.
FAST = {"progressive inverse", "progressive clamped", "adaptive-multi-domain", "fixed-multi-domain"}
FAST |= {"scale-adaptive all", "scale-adaptive all inverse", "ssi-silog gradient"}


def test_every_loss_is_checked():
    classes = {type(build()) for build in LOSSES.values()}
    assert classes == {type(dl.build_loss(name)) for name in dl.available_losses()}


@pytest.mark.parametrize("name", LOSSES)
def test_gradient(name):
    loss, fixed = LOSSES[name](), None
    if name.startswith("berhu"):
        # c comes from the largest error and is detached: that pixel is held fixed.
        pred, gt, mask = scene()
        e = torch.where(mask, pred - gt, -torch.inf)
        e = e if "packnet" in name else e.where(mask, 0.0).abs()
        fixed = e == e.max()
        assert fixed.sum() == 1
    check(loss, fixed=fixed, shape=LARGER.get(name, SHAPE), progress=0.3, epoch=5, fast=name in FAST)


@pytest.mark.parametrize("name", ["enhanced-ssi", "progressive"])
@pytest.mark.parametrize("progress", [None, 1.0])
def test_gradient_at_another_progress(name, progress):
    check(LOSSES[name](), progress=progress, fast=True)


@pytest.mark.parametrize("mask", ["residual", "centre", "support"])
@pytest.mark.parametrize("downsample", ["nearest", "average", "bilinear"])
@pytest.mark.parametrize("border", ["valid", "zero", "replicate"])
def test_gradient_term(mask, downsample, border):
    """Both normalisers and both combinations; 9 x 11 has a level that is too small for the valid border."""
    for i, (normalizer, combine) in enumerate(itertools.product(("full", "level"), ("sum", "mean"))):
        spec = dl.GradientSpec(
            mask=mask,
            downsample=downsample,
            border=border,
            normalizer=normalizer,
            combine=combine,
            num_scales=3,
        )
        check(dl.MultiScaleGradientLoss(gradient=spec), shape=(2, 1, 7, 9), wrt_gt=i == 0, fast=i > 0)
    check(dl.G2Loss(gradient=spec), fast=True)


def test_absolute_mask():
    pred, gt, mask = scene()
    abs_mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(5)) < 0.3
    loss = dl.G2Loss(num_scales=2)
    for x in (pred, gt):
        x.requires_grad_()
    assert gradcheck(
        lambda p, g: loss(p, g, mask, abs_mask=abs_mask), (pred, gt), eps=STEP, atol=ATOL, rtol=RTOL
    )


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith("berhu")])
def test_gradient_with_an_empty_image(name):
    """Two dense images, and one without valid pixels between them."""
    pred, gt, mask = scene((3, *LARGER.get(name, SHAPE)[1:]), density=1.0)
    mask[1] = False
    loss, p = LOSSES[name](), pred.requires_grad_()
    assert gradcheck(lambda x: loss(x, gt, mask), (p,), eps=STEP, atol=ATOL, rtol=RTOL, fast_mode=True)
    if "all" not in name:
        (grad,) = torch.autograd.grad(loss(p, gt, mask), p)
        assert torch.count_nonzero(grad[1]) == 0 and torch.count_nonzero(grad[::2]) > 100


@pytest.mark.parametrize("use_inv_depth", [False, True])
def test_gradient_of_the_log_variances(use_inv_depth):
    pred, gt, mask = scene()
    log_vars = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.7, -1.3)]

    def function(p: Tensor, g: Tensor, structure: Tensor, scale: Tensor) -> Tensor:
        return functional.adaptive_multi_domain_loss(
            p,
            g,
            mask,
            num_scales=3,
            use_inv_depth=use_inv_depth,
            log_var_structure=structure,
            log_var_scale=scale,
        )

    inputs = (pred.requires_grad_(), gt.requires_grad_(), *log_vars)
    assert gradcheck(function, inputs, eps=STEP, atol=ATOL, rtol=RTOL)


@pytest.mark.parametrize(
    "loss",
    [
        dl.SSILoss(),
        dl.SILogLoss(),
        dl.SILogLoss.preset("zoedepth"),
        dl.SILogLoss.preset("mmseg"),
        dl.SSISilogLoss(min_valid=0, min_depth=0.6, max_depth=1.5),
        dl.MSELoss(),
    ],
    ids=["ssi", "silog", "silog unbiased", "silog images", "ssi-silog", "mse"],
)
def test_second_derivative(loss):
    pred, gt, mask = scene((2, 1, 5, 7))
    pred, gt = pred.requires_grad_(), gt.requires_grad_()
    with dl.use_backend("reference"):
        assert gradgradcheck(lambda p: loss(p, gt, mask), (pred,), eps=STEP, atol=1e-7, rtol=RTOL)
        assert gradgradcheck(
            lambda p, g: loss(p, g, mask), (pred, gt), eps=STEP, atol=1e-7, rtol=RTOL, fast_mode=True
        )
