"""What the axes of a term promise beyond agreement of the backends: ties, edges, weights, confidence,
reductions, and what is refused.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import depthloss as dl
from depthloss import dispatch
from depthloss.losses import DepthLoss
from depthloss.losses.base import single_group
from depthloss.spec import Domain, Gradient, GradientSpec, LossSpec, Moments, Penalty, Pixel

from . import cases
from .cases import BACKENDS
from .golden_cases import skip_unless_it_runs

backends = pytest.mark.parametrize("backend", BACKENDS)
F64 = torch.float64


def evaluate(backend: str, spec: LossSpec, pred, gt, mask=None, **extras):
    """The value and the gradient of pred; skips where the backend does not run the loss."""
    skip_unless_it_runs(backend, DepthLoss(spec))
    pred = pred.detach().requires_grad_()
    weights = (1.0,) * spec.num_weights
    value, _ = dispatch.evaluate(pred, gt, mask, None, spec, weights, backend=backend, **extras)
    (grad,) = torch.autograd.grad(value.sum(), pred)
    return value.detach(), grad


def quantised(seed: int, shape=(2, 24, 31), levels: int = 9):
    """Maps with thousands of equal values, -0 and +0 among them, and a mask."""
    rng = torch.Generator().manual_seed(seed)
    pred, gt = (torch.randint(-2, levels, shape, generator=rng).to(F64) / 4 for _ in range(2))
    pred = torch.where((pred == 0) & (torch.rand(shape, generator=rng) < 0.5), -0.0, pred)
    return pred, gt, torch.rand(shape, generator=rng) < 0.8


def _by_hand(pred, gt, mask, trim: float, by_median: bool, detached: bool):
    """Loss and gradient of L1 with a trim per image, from the formulas, ties shared."""
    grads, total = np.zeros(pred.shape), 0.0
    for b in range(len(pred)):
        m = mask[b].numpy()
        p, g = pred[b].numpy()[m] + 0.0, gt[b].numpy()[m] + 0.0
        n = p.size
        t, s = 0.0, 1.0
        r = p - g
        if by_median:
            t, t_g = (np.sort(x)[(n - 1) // 2] for x in (p, g))
            s, s_g = np.abs(p - t).mean(), np.abs(g - t_g).mean()
            r = (p - t) / s - (g - t_g) / s_g
        d = np.abs(r)
        kept = int((1 - trim) * n)
        tau = np.sort(d)[kept - 1]
        below, tied = d < tau, d == tau
        weight = below + tied * (kept - below.sum()) / tied.sum()
        total += (weight * d).sum() / kept / len(pred)
        u = weight * np.sign(r) / kept / len(pred)
        dev = p - t
        grad = u
        if by_median:
            u0, u1, q = u.sum(), (u * dev / s).sum(), np.sign(dev).sum() / n
            c = 0.0 if detached else (dev == 0) / (dev == 0).sum()
            grad = (u - np.sign(dev) / n * u1 - c * (u0 - q * u1)) / s
        grads[b][m] = grad
    return total, grads


@backends
@pytest.mark.parametrize("trim", (0.0, 0.2, 0.5))
@pytest.mark.parametrize("align", ("none", "median", "median detached"))
@pytest.mark.parametrize("levels", (9, 3), ids=("", "the median is -0 and +0"))
def test_ties_share(levels, align, trim, backend):
    pred, gt, mask = quantised(3, levels=levels)
    kind, _, detached = align.partition(" ")
    term = Pixel(name="x", align=kind, align_grad=detached or "full", trim=trim, reduction="images")
    value, grad = evaluate(backend, single_group(term), pred, gt, mask)
    expected, by_hand = _by_hand(pred, gt, mask, trim, kind == "median", bool(detached))
    assert value.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(grad.numpy(), by_hand, rtol=0, atol=1e-12 * np.abs(by_hand).max())


@backends
@pytest.mark.parametrize("over", ("image", "batch"))
def test_nothing_depends_on_the_order_of_pixels(over, backend):
    pred, gt, mask = quantised(5, (1, 20, 33))
    term = Pixel(name="x", align="median", trim=0.3, trim_over=over)
    value, grad = evaluate(backend, single_group(term), pred, gt, mask)
    order = torch.randperm(pred.numel(), generator=torch.Generator().manual_seed(0))
    shuffled = [x.flatten()[order].view_as(x) for x in (pred, gt, mask)]
    again, moved = evaluate(backend, single_group(term), *shuffled)
    assert again.item() == pytest.approx(value.item(), rel=1e-13)
    torch.testing.assert_close(moved, grad.flatten()[order].view_as(grad), rtol=1e-12, atol=1e-15)


@backends
@pytest.mark.parametrize("dtype", (torch.float32, F64), ids=str)
@pytest.mark.parametrize("n", (0, 1, 2, 3, 4))
def test_a_handful_of_valid_pixels(n, dtype, backend):
    """n even and odd; one pixel, and a constant image, have nothing to align."""
    pred, gt = cases.maps(dtype, (1, 1, 5, 7))
    mask = torch.zeros(1, 1, 5, 7, dtype=torch.bool)
    mask.view(-1)[[3, 8, 15, 30][:n]] = True
    for loss in (dl.AffineInvariantLoss(alpha=0.5), dl.ScaleShiftInvariantLoss(), dl.SSITrimLoss()):
        value, grad = evaluate(backend, loss.spec, pred, gt, mask)
        assert value.isfinite() and grad.isfinite().all() and not grad[~mask].any()
        if n <= 1:
            assert value == 0 and not grad.any()
        flat, none = evaluate(backend, loss.spec, torch.full_like(pred, 0.3), gt, mask)
        assert flat.isfinite() and none.isfinite().all()


@backends
def test_the_median_of_an_even_number_is_the_lower_one(backend):
    pred = torch.tensor([[[1.0, 2.0, 3.0, 10.0]]], dtype=F64)
    gt = torch.zeros(1, 1, 4, dtype=F64) + torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=F64)
    value, _ = evaluate(backend, single_group(Pixel(name="x", align="median")), pred, gt)
    z = (pred - 2) / 2.5 - (gt - 0) / 0.5
    assert value.item() == pytest.approx(z.abs().mean().item(), rel=1e-14)


@backends
@pytest.mark.parametrize("dtype", (torch.float32, F64), ids=str)
def test_denormals_are_numbers(dtype, backend):
    """The median of numbers below the smallest normal one."""
    tiny = torch.finfo(dtype).smallest_normal
    pred = (torch.arange(1, 8, dtype=dtype) * (tiny / 16)).view(1, 1, 7)
    term = Pixel(name="x", align="median", align_eps=1.0)
    value, _ = evaluate(backend, single_group(term), pred, torch.zeros_like(pred))
    assert value.item() == pytest.approx(0.0, abs=1e-30)


@backends
@pytest.mark.parametrize("over", ("image", "batch"))
@pytest.mark.parametrize("align", ("none", "median", "least-squares"))
def test_a_nan_among_the_trimmed_shows(align, over, backend):
    pred, gt = (x[:, 0] for x in cases.maps(torch.float32, (2, 1, 9, 11)))
    pred[1, 2, 3] = math.nan
    term = Pixel(name="x", align=align, trim=0.4, trim_over=over)
    value, _ = evaluate(backend, single_group(term), pred, gt)
    assert value.isnan()


@pytest.mark.full
@backends
def test_16_million_pixels(backend):
    """More than torch.quantile takes."""
    if backend == "triton":
        pytest.skip("the interpreter takes hours")
    rng = torch.Generator().manual_seed(1)
    pred, gt = (torch.rand(1, 4096, 4097, generator=rng) for _ in range(2))
    loss = dl.AffineInvariantLoss(trim=0.2, alpha=0.5)
    value, grad = evaluate(backend, loss.spec, pred, gt)
    oracle, _ = evaluate("reference", loss.spec, pred.double(), gt.double())
    assert value.item() == pytest.approx(oracle.item(), rel=1e-5) and grad.isfinite().all()


# ---- weight ----

WEIGHTED = {
    "l1": Pixel(name="x"),
    "huber, by images": Pixel(name="x", penalty=Penalty("huber", 0.2), reduction="images"),
    "abs-rel": Pixel(name="x", penalty=Penalty("abs-rel")),
    "relative": Pixel(name="x", align="mean"),
    "least squares": Pixel(name="x", align="least-squares", penalty=Penalty("half-l2")),
    "fit": Pixel(name="x", align="packnet-trim", min_pixels=5),
    "ssi": Moments(name="x", form="plain"),
    "silog": Moments(name="x", domain=Domain(log=0.1), eps=1e-8, scale=10.0),
    "silog, by images": Moments(name="x", domain=Domain(log=0.1), eps=1e-8, reduction="images"),
}


@backends
@pytest.mark.parametrize("name", WEIGHTED)
def test_a_weight_of_2_is_the_pixel_twice(name, backend):
    spec = single_group(WEIGHTED[name])
    pred, gt = (x[:, 0] for x in cases.maps(F64, (1, 1, 6, 9)))
    rng = torch.Generator().manual_seed(0)
    weight = torch.randint(0, 3, pred.shape, generator=rng).to(F64)
    value, grad = evaluate(backend, spec, pred, gt, None, weight=weight)
    places = torch.repeat_interleave(torch.arange(pred.numel()), weight.flatten().long())
    repeated, parts = evaluate(backend, spec, *(x.flatten()[places][None, None] for x in (pred, gt)))
    assert value.item() == pytest.approx(repeated.item(), rel=1e-12)
    summed = torch.zeros(pred.numel(), dtype=F64).index_add(0, places, parts.flatten())
    torch.testing.assert_close(grad.flatten(), summed, rtol=1e-9, atol=1e-12)
    # Only ratios of weights count, and a weight of 0 is an invalid pixel, whatever it holds.
    scaled, _ = evaluate(backend, spec, pred, gt, None, weight=0.37 * weight)
    assert scaled.item() == pytest.approx(value.item(), rel=1e-12)
    poisoned = pred.masked_fill(weight == 0, math.nan)
    assert evaluate(backend, spec, poisoned, gt, None, weight=weight)[0] == value
    ones = weight.clamp(max=1.0)
    masked, _ = evaluate(backend, spec, pred, gt, ones > 0)
    assert evaluate(backend, spec, pred, gt, None, weight=ones)[0].item() == pytest.approx(
        masked.item(), rel=1e-12
    )
    # A weight below 0 shows, at a valid pixel.
    for bad in (-1.0, math.nan):
        weight[0, 0, 0] = bad
        assert evaluate(backend, spec, pred, gt, None, weight=weight)[0].isnan()
        mask = torch.ones_like(weight).index_fill(1, torch.tensor(0), 0.0)
        value, grad = evaluate(backend, spec, pred, gt, mask, weight=weight)
        assert value.isfinite() and grad.isfinite().all() and not grad[:, 0].any()


@pytest.mark.parametrize("name", WEIGHTED)
def test_gradients_under_a_weight(name):
    spec = single_group(WEIGHTED[name])
    pred, gt = (x[:, 0] for x in cases.maps(F64, (2, 1, 4, 5)))
    weight = torch.rand(pred.shape, generator=torch.Generator().manual_seed(4), dtype=F64)
    call = lambda p: dispatch.evaluate(  # noqa: E731
        p, gt, None, None, spec, (1.0, 1.0), backend="reference", weight=weight
    )[0]
    assert torch.autograd.gradcheck(call, (pred.requires_grad_(),), atol=1e-7)


def test_wrong_weights():
    pred, gt = cases.maps(torch.float32, (1, 1, 4, 4))
    w = torch.ones_like(pred)
    with pytest.raises(ValueError, match="weight must not require a gradient"):
        dl.L1Loss()(pred, gt, weight=w.requires_grad_())
    w = w.detach()
    with pytest.raises(ValueError, match="weight must have the B, H, W of pred"):
        dl.L1Loss()(pred, gt, weight=w[..., :3])
    with pytest.raises(ValueError, match="weight must be float16"):
        dl.L1Loss()(pred, gt, weight=w > 0)
    with pytest.raises(TypeError, match="weight must be a torch.Tensor or None; got float"):
        dl.L1Loss()(pred, gt, weight=0.5)
    for loss, axis in (
        (dl.AffineInvariantLoss(), "align='median'"),
        (dl.SSITrimLoss(), "trim"),
        (dl.SILogLoss(preset="adabins"), "unbiased"),
        (dl.BerHuLoss(variant="packnet"), "penalty='berhu-packnet'"),
        (dl.ScaleAdaptiveLoss(statistics="all"), "statistics='all'"),
    ):
        with pytest.raises(ValueError, match=f"weight does not go with {axis}"):
            loss(pred, gt, weight=w)
    with pytest.raises(ValueError, match="takes no weight and no confidence: its scales resample"):
        dl.ProgressiveScaleAdaptiveLoss()(pred, gt, weight=w)


def test_weights_of_functions_and_scales():
    pred, gt = cases.maps(torch.float32, (2, 1, 16, 24))
    w = torch.rand(pred.shape, generator=torch.Generator().manual_seed(2))
    assert dl.functional.l1_loss(pred, gt, weight=w) == dl.L1Loss()(pred, gt, weight=w)
    g2 = dl.functional.g2_loss(pred, gt, weight=w, abs_mask=gt > 0.5)
    assert g2 == dl.G2Loss()(pred, gt, weight=w, abs_mask=gt > 0.5)
    supervised = dl.SupervisedLoss("l1", 2)
    preds = [pred, pred[..., ::2, ::2]]
    one = supervised(preds, gt, weight=w)["loss"]
    assert one == supervised(preds, gt, weight=[w, w[..., ::2, ::2]])["loss"]
    with pytest.raises(ValueError, match="one per prediction: got 1 for 2"):
        supervised(preds, gt, weight=[w])


# ---- confidence ----


@backends
@pytest.mark.parametrize("weighted", (False, True))
def test_confidence_by_hand(weighted, backend):
    loss = dl.recipe("dust3r-confidence", alpha=0.3)
    loss.backend = backend
    skip_unless_it_runs(backend, loss)
    pred, gt = cases.maps(F64, (2, 1, 5, 7))
    rng = torch.Generator().manual_seed(0)
    c = (2 * torch.rand(pred.shape, generator=rng, dtype=F64) - 0.2).requires_grad_()  # some are below 1e-6
    mask = torch.rand(pred.shape, generator=rng) < 0.7
    w = torch.rand(pred.shape, generator=rng, dtype=F64) if weighted else None
    pred.requires_grad_()
    value = loss(pred, gt, mask, confidence=c, weight=w)
    grads = torch.autograd.grad(value, (pred, c))
    by = mask.to(F64) if w is None else w * mask
    floor = c.clamp(min=1e-6)
    phi = (pred - gt).abs()
    expected = (by * (floor * phi - 0.3 * floor.log())).sum() / by.sum()
    assert value.item() == pytest.approx(expected.item(), rel=1e-13)
    at_p, at_c = by * floor * (pred - gt).sign() / by.sum(), by * (phi - 0.3 / c) / by.sum()
    torch.testing.assert_close(grads[0], at_p.detach())
    torch.testing.assert_close(grads[1], torch.where(c >= 1e-6, at_c, 0.0).detach())
    plain = ((by * phi).sum() / by.sum()).item()
    assert loss.metrics["confidence_regression"].item() == pytest.approx(plain, rel=1e-13)
    counted = mask if w is None else mask & (w > 0)
    assert loss.metrics["confidence"].item() == pytest.approx(c[counted].mean().item(), rel=1e-12)
    # Of the confidence alone, with or without a backward.
    with torch.no_grad():
        assert loss(pred, gt, mask, confidence=c, weight=w) == value
    alone = loss(pred.detach(), gt, mask, confidence=c, weight=w)
    assert torch.equal(torch.autograd.grad(alone, c)[0], grads[1])


def test_a_confidence_goes_with_a_loss_that_asks_for_it():
    pred, gt = cases.maps(torch.float32, (1, 1, 4, 4))
    with pytest.raises(ValueError, match="this loss needs confidence="):
        dl.recipe("vggt-depth")(pred, gt)
    with pytest.raises(ValueError, match="no term of this loss takes a confidence"):
        dl.L1Loss()(pred, gt, confidence=pred)


# ---- reduction none ----


@backends
@pytest.mark.parametrize(
    "build",
    (
        lambda r: dl.SILogLoss(reduction=r),
        lambda r: dl.AffineInvariantLoss(trim=0.2, alpha=0.5, reduction=r),
        lambda r: dl.ScaleShiftInvariantLoss(reduction=r),
        lambda r: dl.ScaleShiftInvariantLoss(data="l1", reduction=r),
    ),
)
def test_the_values_of_the_images(build, backend):
    """[B], whose mean is the loss by images, and each that of its image alone; a [B] grad_output."""
    pred, gt = cases.maps(F64, (3, 1, 12, 17))
    mask = cases.mask("one empty image", (3, 1, 12, 17))
    pred.requires_grad_()
    loss, mean = build("none"), build("images")
    loss.backend = mean.backend = backend
    skip_unless_it_runs(backend, loss)
    values = loss(pred, gt, mask)
    assert values.shape == (3,)
    assert values.mean().item() == pytest.approx(mean(pred, gt, mask).item(), rel=1e-13)
    assert loss.metrics["total_loss"].item() == pytest.approx(values.mean().item(), rel=1e-13)
    for i in range(3):
        alone = mean(pred[i : i + 1], gt[i : i + 1], mask[i : i + 1])
        assert values[i].item() == pytest.approx(alone.item(), rel=1e-13, abs=1e-15)
    by = torch.tensor([0.5, -2.0, 3.0], dtype=F64)
    (grad,) = torch.autograd.grad(values, pred, by, retain_graph=True)
    (expected,) = torch.autograd.grad((values * by).sum(), pred)
    assert torch.equal(grad, expected)


def test_silog_without_its_root_is_that_of_metric3d():
    pred, gt = cases.maps(F64)
    rooted = dl.SILogLoss(lam=0.5, scale=1.0, eps=0.0)(pred, gt)
    assert dl.SILogLoss(lam=0.5, root=False)(pred, gt).item() == pytest.approx(rooted.item() ** 2, rel=1e-12)
    assert dl.recipe("metric3d-silog")(pred, gt).item() == pytest.approx(rooted.item() ** 2, rel=1e-12)


# ---- what does not go together ----


@pytest.mark.parametrize(
    ("build", "text"),
    (
        (lambda: Pixel(name="x", trim=0.2, eps=1e-6), "trim=0.2 divides by the pixels it keeps"),
        (
            lambda: Pixel(name="x", trim_over="batch", reduction="images"),
            "trim_over='batch' needs reduction=",
        ),
        (lambda: Pixel(name="x", trim=0.1, mask="abs_mask"), "mask='abs_mask' needs align='none' and trim=0"),
        (lambda: Pixel(name="x", align="mean", scale_floor="add"), "scale_floor='add' needs align='median'"),
        (lambda: Pixel(name="x", align_grad="detached"), "align_grad='detached' needs align='median'"),
        (lambda: Pixel(name="x", align="mean", min_pixels=3), "min_pixels=3 needs align='packnet-trim'"),
        (lambda: Pixel(name="x", confidence=0.2, trim=0.1), "confidence=0.2 needs trim=0"),
        (
            lambda: Pixel(name="x", align="median", penalty=Penalty("abs-rel")),
            "penalty 'abs-rel' needs align='none' and trim=0",
        ),
        (lambda: Penalty("barron", math.nan, 1.0), "alpha must be a finite number"),
        (lambda: Penalty("huber"), "delta must lie in (0, inf]"),
        (
            lambda: Gradient(name="g", domain=Domain(log=0.0), gradient=GradientSpec.preset("g2-document")),
            "gradient mask 'centre' reads invalid pixels",
        ),
        (
            lambda: single_group(Pixel(name="x", reduction="none"), Pixel(name="y")),
            "reduction='none' must be that of every term; got none, pixels",
        ),
        (lambda: dl.SILogLoss(root=False, scale=10.0), "root=False needs scale=1 and eps=0"),
    ),
)
def test_axes_that_do_not_go_together(build, text):
    with pytest.raises(ValueError) as error:
        build()
    assert text in str(error.value)


def test_the_native_engine_has_no_trim_beside_mask_centre():
    """A code has one bit for a tie and for a pixel that mask "centre" reads."""
    terms = (
        Pixel(name="x", align="mean", trim=0.2),
        Gradient(name="g", gradient=GradientSpec.preset("g2-document")),
    )
    assert "cpu" not in single_group(*terms).fused


# ---- recipes ----


@pytest.mark.parametrize("name", dl.available_recipes())
def test_every_recipe_runs_and_says_what_it_is(name):
    pred, gt = cases.maps(torch.float32, (2, 1, 24, 33))
    loss = dl.recipe(name)
    extras = {"confidence": torch.ones_like(pred)} if loss.spec.confidence else {}
    value = loss(pred.requires_grad_(), gt, **extras)
    value.backward()
    assert value.isfinite() and pred.grad.abs().sum() > 0
    assert loss.input_domain in ("depth", "inverse depth", "either")


def test_recipes_take_the_keywords_of_their_loss():
    assert dl.recipe("depth-anything-relative", alpha=0.0).spec.terms[0].trim == 0.2
    assert dl.recipe("nlspn", max_depth=90.0, gt_range=(1.0, None)).spec.gt_range == (1.0, math.inf)
    with pytest.raises(TypeError, match="recipe 'nlspn' has no keyword 'max_dept'; did you mean 'max_depth'"):
        dl.recipe("nlspn", max_dept=90.0)
    with pytest.raises(ValueError, match="unknown recipe 'midass'; did you mean 'midas'"):
        dl.recipe("midass")
