"""What holds to the last bit: zeros of equal maps, empty batches, repetition, independence, invalid
pixels.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from depthloss.kernels.triton import pyramid

import depthloss as dl
from depthloss.spec import Domain, Group, LogMoments, LossSpec, Pixel

from .. import cases
from ..fused import families
from ..fused.cases import GRADIENT
from ..fused.compare import Inputs, evaluate
from .engine import DEVICE, SMALL, engine, geometry

FUSED = [name for name, build in cases.LOSSES.items() if "triton" in build().spec.fused]
# One of each kind of term, domain, mask and border.
SOME = [
    "g2 published",
    "g2 support",
    "scale-adaptive clamped",
    "scale-adaptive residual",
    "gradient six levels",
    "silog mmseg",
    "ssi-silog with gradient",
    "enhanced-ssi",
    "berhu",
    "adaptive-multi-domain",
]
# Every two values of mask, downsampling and border meet.
LATIN = [
    (m, d, GRADIENT["border"][(i + j) % 3])
    for (i, m), (j, d) in itertools.product(enumerate(GRADIENT["mask"]), enumerate(GRADIENT["downsample"]))
]


def on_device(*tensors: torch.Tensor | None) -> tuple:
    return tuple(x if x is None else x.to(DEVICE) for x in tensors)


def run(loss: torch.nn.Module, pred: torch.Tensor, gt: torch.Tensor, mask: torch.Tensor | None) -> tuple:
    return cases.run(loss.to(DEVICE), *on_device(pred, gt, mask), "triton")


def structure(m: str, d: str, b: str, kinds: str = "ARG", **options: object) -> LossSpec:
    gradient = dl.GradientSpec(mask=m, downsample=d, border=b, num_scales=3)
    return LossSpec((Group(tuple(families.structure_terms(kinds, gradient, **options))),))


@pytest.mark.parametrize(
    ("m", "d", "b", "dtype"),
    [(*LATIN[i], dtype) for i in range(9) for dtype in cases.DTYPES[i % 2 : i % 2 + 2]],
)
def test_equal_maps_are_exactly_zero(m, d, b, dtype):
    """R, G and their gradient, at the last level and at the edge of the mask too."""
    _, gt = cases.maps(dtype, (1, 1, 14, 19), seed=3)
    gt = 7.3 * gt
    mask = cases.mask("70%", gt.shape)
    gt = gt.masked_fill(~mask & (torch.rand(gt.shape) < 0.5), torch.nan)
    spec = structure(m, d, b)
    result = evaluate("triton", Inputs(*on_device(gt, gt.clone(), mask)), spec, families.weights(spec))
    assert result.total == 0 and not result.grad.any()
    assert not result.terms[: spec.metric_names.index("gradient/support_1")].any()


@pytest.mark.parametrize("dtype", cases.DTYPES[:3], ids=str)
def test_constant_images(dtype):
    """Neither has a structure: R and G are exactly 0, and only A has a gradient."""
    mask = cases.mask("70%", (2, 1, 9, 13))
    pred, gt = (torch.full(mask.shape, x, dtype=dtype) for x in (0.3, 0.7))
    spec = structure("support", "average", "replicate")
    weights = (1.0,) * spec.num_weights
    result = evaluate("triton", Inputs(*on_device(pred, gt, mask)), spec, weights)
    assert not result.terms[1 : spec.metric_names.index("gradient/support_1")].any()
    expected = torch.where(mask, -1.0 / mask.sum(), 0.0).to(result.grad)
    torch.testing.assert_close(result.grad, expected, rtol=2**-7 if dtype == torch.bfloat16 else 1e-6, atol=0)


@pytest.mark.parametrize("name", FUSED)
def test_nothing_valid_is_exactly_zero(name):
    """No pixel, no image, no valid pixel: 0, connected, with a gradient of zeros."""
    for shape in ((2, 1, 6, 9), (0, 1, 8, 8), (2, 1, 0, 5), (2, 1, 5, 0)):
        pred, gt = torch.full(shape, torch.nan), torch.full(shape, torch.inf)
        loss = cases.LOSSES[name]()
        value, grad = run(loss, pred, gt, torch.zeros(shape, dtype=torch.bool))
        assert value == 0 and grad.shape == shape and not grad.any(), shape
        assert loss.metrics["total_loss"] == 0 and loss.metrics["num_valid_pixels"] == 0
        assert all(metric.isfinite() for metric in loss.metrics.values())
        assert not any(parameter.grad.any() for parameter in loss.parameters())


@pytest.mark.parametrize("name", FUSED)
def test_the_smallest_images(name):
    for shape in ((1, 1, 1, 1), (1, 1, 1, 7), (2, 1, 2, 3)):
        pred, gt = cases.maps(torch.float64, shape)
        value, grad = run(cases.LOSSES[name]().double(), pred, gt, None)
        expected, expected_grad = cases.run(cases.LOSSES[name]().double(), pred, gt, None, "reference")
        assert value.item() == pytest.approx(expected.item(), rel=1e-12, abs=1e-15), shape
        assert (grad.cpu() - expected_grad).abs().max() <= 1e-10 * expected_grad.abs().max(), shape


@pytest.mark.parametrize("name", SOME)
def test_same_input_same_bits(name):
    pred, gt = cases.maps(torch.float32, (1, 1, 9, 13))
    mask = cases.mask("70%", pred.shape)
    first, second = (run(cases.LOSSES[name](), pred, gt, mask) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("tiles", ["one", pytest.param("small", marks=pytest.mark.full)])
def test_an_image_does_not_see_its_batch_mates(tiles, monkeypatch):
    """Losses that average over images: alone or beside another image, the same bits, but for the factor 2."""
    if tiles == "small":
        monkeypatch.setattr(engine, "parameters", lambda device, height, width: SMALL)
    pred, gt = cases.maps(torch.float32, (3, 1, 18, 21))
    for spec in (
        # Dense, so that each image adds the same to the batch's number of responses; eps vanishes beside it.
        structure("support", "bilinear", "replicate", reduction="images", eps=1e-8),
        structure(
            "residual", "average", "zero", reduction="images", eps=1e-8, domain=Domain("inverse", 1.2, 9.0)
        ),
        LossSpec((Group((LogMoments(name="silog", reduction="images"),)),)),
    ):

        def gradient(images: list[int], spec: LossSpec = spec) -> torch.Tensor:
            inputs = Inputs(*on_device(pred[images], gt[images]))
            return evaluate("triton", inputs, spec, (1.0,) * spec.num_weights).grad

        alone = gradient([1])
        for mate, place in ((0, 1), (2, 0)):
            pair = [mate, 1] if place else [1, mate]
            assert torch.equal(2.0 * gradient(pair)[place], alone[0])


@pytest.mark.full
@pytest.mark.parametrize("name", SOME)
def test_invalid_pixels_may_hold_anything(name):
    """To the bit; to rounding, the covering matrix holds it in every run."""
    pred, gt = cases.maps(torch.float32, (1, 1, 9, 13))
    mask = cases.mask("70%", pred.shape)
    expected, expected_grad = run(
        cases.LOSSES[name](), *(x.masked_fill(~mask, 0.5) for x in (pred, gt)), mask
    )
    assert not expected_grad[~mask].any()
    for fills in ((torch.nan, torch.nan), (torch.inf, -1.0), (-1.0, 0.0), (0.0, torch.nan)):
        maps = [x.masked_fill(~mask, fill) for x, fill in zip((pred, gt), fills, strict=True)]
        value, grad = run(cases.LOSSES[name](), *maps, mask)
        assert torch.equal(value, expected) and torch.equal(grad, expected_grad), fills


@pytest.mark.parametrize("name", FUSED)
def test_a_valid_pixel_that_is_not_finite_shows(name):
    pred, gt = cases.maps(torch.float32, (1, 1, 10, 11))
    loss = cases.LOSSES[name]().to(DEVICE)
    for where, value in ((0, torch.nan), (0, torch.inf), (1, -torch.inf), (1, torch.nan)):
        maps = [pred.clone(), gt.clone()]
        maps[where][0, 0, 4, 6] = value
        with torch.no_grad(), dl.use_backend("triton"):
            total = loss(*on_device(*maps))
        # To a loss that takes positive gt only it is a hole.
        assert total.isfinite() == (where == 1 and loss.spec.positive_gt), (where, value)


@pytest.mark.parametrize("m", GRADIENT["mask"])
def test_a_lone_valid_nan_shows_in_a_gradient_term(m):
    """Also where no kept response reads it: the Sobel gives the centre cell weight 0."""
    pred, gt = torch.rand(1, 1, 12, 12), torch.rand(1, 1, 12, 12)
    mask = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    mask[..., 4, 4] = True
    pred[0, 0, 4, 4] = torch.nan
    loss = dl.MultiScaleGradientLoss(gradient=dl.GradientSpec(mask=m, num_scales=1))
    assert run(loss, pred, gt, mask)[0].isnan()


@pytest.mark.parametrize("standardised", [True, False])
def test_centre_reads_finite_neighbours(standardised):
    """And gives them a gradient; those that are not finite count as 0 and get none."""
    pred, gt = cases.maps(torch.float64, (1, 1, 12, 15))
    mask = cases.mask("70%", pred.shape)
    mask[..., 5, 5:8] = False
    pred[0, 0, 5, 6] = torch.nan
    gt[0, 0, 5, 7] = torch.inf
    spec = structure("centre", "average", "zero", "RG" if standardised else "G", standardised=standardised)
    weights = (1.0,) * spec.num_weights
    result = evaluate("triton", Inputs(*on_device(pred, gt, mask)), spec, weights)
    assert result.grad[0, 0, 5, 5] != 0 and not result.grad[0, 0, 5, 6:8].any() and result.grad[~mask].any()
    moved = pred.clone()
    moved[0, 0, 5, 5] += 0.5
    changed = evaluate("triton", Inputs(*on_device(moved, gt, mask)), spec, weights)
    expected = evaluate("reference", Inputs(moved, gt, mask), spec, weights)
    assert changed.total != result.total and changed.total.item() == pytest.approx(
        expected.total.item(), rel=1e-12
    )


def _hard_to_sort(dtype: torch.dtype) -> torch.Tensor:
    """Images of all sizes and signs, of few values with both zeros, of denormals, and a constant one."""
    rng = torch.Generator().manual_seed(4)
    x = torch.randn(5, 17, 19, dtype=torch.float64, generator=rng)
    x[0] *= 10.0 ** (60 * torch.rand(17, 19, dtype=torch.float64, generator=rng) - 30)
    x[1] = x[1].round() * x[1].sign()
    x[1, ::3] = -0.0
    x[2] *= torch.finfo(dtype).smallest_normal / 8
    x[3] = 0.3
    return x.to(dtype)


@pytest.mark.parametrize(
    ("dtype", "valid"), [*((torch.float32, n) for n in (0, 1, 2, 201, 323)), (torch.float64, 202)], ids=str
)
def test_medians_are_exact(dtype, valid, monkeypatch):
    """The lower one, whatever the numbers; with the pixels that equal it."""
    monkeypatch.setattr(geometry, "MAX_PROGRAMS", 2)
    p, g = _hard_to_sort(dtype), _hard_to_sort(dtype).flip(0)
    mask = torch.zeros(5, 17 * 19, dtype=torch.bool)
    mask[:, torch.randperm(17 * 19, generator=torch.Generator().manual_seed(valid))[:valid]] = True
    mask = mask.view(5, 17, 19)
    spec = LossSpec((Group((Pixel(name="x", align="median"),)),))
    maps = (x.masked_fill(~mask, torch.nan).to(DEVICE) for x in (p, g))
    run = engine.launch.Forward(
        engine.make_plan(spec), SMALL, *maps, mask.to(DEVICE), None, (1.0, 1.0), (), dtype, True
    )
    for step in (run.first, *run.middle):
        step.run()
    found = run.images.cpu()
    for i, (x_p, x_g, m) in enumerate(zip(p, g, mask, strict=True)):
        medians = [x[m].median().item() if valid else 0.0 for x in (x_p, x_g)]
        assert found[i, :2].tolist() == medians
        assert found[i, pyramid.TIES.value] == (x_p[m] == medians[0]).sum()


@pytest.mark.parametrize(("grad", "trim"), [("full", 0.0), ("detached", 0.0), ("full", 0.3)])
def test_pixels_that_equal_a_median_or_a_threshold_share_its_gradient(grad, trim):
    """Depth in steps: many pixels are the median, and the floor of one image's scale is felt."""
    pred, gt = ((12 * x).round() / 12 for x in cases.maps(torch.float64, (3, 1, 9, 13)))
    pred[2] = 0.5
    pred[2, 0, 3, 4] = 0.75
    mask = cases.mask("70%", pred.shape)
    spec = LossSpec((Group((Pixel(name="x", align="median", align_eps=0.05, align_grad=grad, trim=trim),)),))
    result = evaluate("triton", Inputs(*on_device(pred, gt, mask)), spec, (1.0, 1.0))
    expected = evaluate("reference", Inputs(pred, gt, mask), spec, (1.0, 1.0))
    medians = [p[m].median() for p, m in zip(pred, mask, strict=True)]
    assert all((p[m] == t).sum() > 1 for p, m, t in zip(pred, mask, medians, strict=True))
    assert result.total.item() == pytest.approx(expected.total.item(), rel=1e-12)
    torch.testing.assert_close(result.grad.cpu(), expected.grad, rtol=0, atol=1e-12)
