"""Losses x backends x dtypes x masks x layouts x poisons: equal loss, equal gradient, nothing from invalid
pixels.
"""

from __future__ import annotations

import pytest
import torch

import depthloss as dl

from . import cases

LOSS_TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.bfloat16: 3e-6, torch.float16: 3e-6}
# The gradient is rounded to the input's dtype: half an ulp, relative to its largest entry.
GRAD_TOLERANCE = {
    torch.float64: 1e-10,
    torch.float32: 1e-5,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11 + 1e-5,
}
EVERY = pytest.mark.parametrize(("name", "backend"), cases.RUNS)
DTYPE = pytest.mark.parametrize("dtype", cases.DTYPES, ids=lambda d: str(d).removeprefix("torch."))
MASK = pytest.mark.parametrize("mask", cases.MASKS)
BACKEND = pytest.mark.parametrize("backend", cases.BACKENDS)


def largest(x: torch.Tensor) -> float:
    return x.abs().max().item()


@MASK
@DTYPE
@EVERY
def test_agrees_with_the_reference_in_float64(name, dtype, mask, backend):
    pred, gt = cases.maps(dtype)
    m = cases.mask(mask)
    loss = cases.LOSSES[name]()
    expected, expected_grad = cases.run(loss, pred.double(), gt.double(), m, "reference")
    value, grad = cases.run(loss, pred, gt, m, backend)
    assert value.shape == () and value.dtype == torch.promote_types(dtype, torch.float32)
    assert grad.dtype == dtype
    assert value.item() == pytest.approx(expected.item(), rel=LOSS_TOLERANCE[dtype], abs=1e-7)
    assert largest(grad.double() - expected_grad) <= GRAD_TOLERANCE[dtype] * largest(
        expected_grad
    ) + smallest(dtype)
    assert set(loss.metrics) >= {"num_valid_pixels", "total_loss"}
    assert loss.metrics["total_loss"] == value
    assert loss.metrics["num_valid_pixels"] == (pred.numel() if m is None else m.sum())
    if mask == "all empty":
        assert value == 0 and largest(grad) == 0


def smallest(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).smallest_normal if dtype == torch.float16 else 0.0


@MASK
@DTYPE
@EVERY
@pytest.mark.parametrize("together", (False, pytest.param(True, marks=pytest.mark.full)), ids=("", "product"))
def test_layouts_and_poisons_change_nothing(name, dtype, mask, backend, together):
    """Invalid pixels may hold anything, inputs may have any strides: the loss is that of clean contiguous
    ones.
    """
    pred, gt = cases.maps(dtype)
    reads_neighbours = name in cases.READS_FINITE_NEIGHBOURS
    poisons = {"NaN": torch.nan, "Inf": torch.inf} if reads_neighbours else cases.POISONS
    loss = cases.LOSSES[name]()
    mask_dtypes = (torch.bool, torch.uint8, torch.float32, torch.bool)
    for i, (layout, mask_dtype) in enumerate(zip(cases.LAYOUTS, mask_dtypes, strict=True)):
        m = cases.mask(mask, shared=layout == "expanded mask")
        invalid = torch.zeros_like(pred, dtype=torch.bool) if m is None else ~m
        clean = [x.masked_fill(invalid, torch.nan) if reads_neighbours else x for x in (pred, gt)]
        expected, expected_grad = cases.run(loss, *clean, m, backend)
        assert expected.isfinite()
        # Every poison in one layout, and one in each other; the product is for the long run.
        turn = list(poisons)[i % len(poisons)]
        for poison in poisons if together or i == 0 else [turn]:
            if not invalid.any() and poison != turn:
                continue
            p, g = (cases.lay_out(x.masked_fill(invalid, poisons[poison]), layout) for x in (pred, gt))
            laid_out_mask = m
            if m is not None and layout != "expanded mask":
                laid_out_mask = cases.lay_out(m.to(mask_dtype), layout)
            got, grad = cases.run(loss, p, g, laid_out_mask, backend)
            context = f"{layout}, {poison}"
            assert got.item() == pytest.approx(expected.item(), rel=LOSS_TOLERANCE[dtype], abs=1e-12), context
            limit = GRAD_TOLERANCE[dtype] * largest(expected_grad) + smallest(dtype)
            assert largest(grad - expected_grad) <= limit, context
            assert not grad[invalid].any(), context


@EVERY
def test_same_input_same_bits(name, backend):
    pred, gt = cases.maps(torch.float32)
    m = cases.mask("70%")
    first, second = (cases.run(cases.LOSSES[name](), pred, gt, m, backend) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@EVERY
@pytest.mark.parametrize("where", ("pred", "gt"))
@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
def test_a_non_finite_valid_pixel_shows(name, where, value, backend):
    pred, gt = cases.maps(torch.float32)
    (pred if where == "pred" else gt)[1, 0, 5, 7] = value
    loss = cases.LOSSES[name]()
    total, _ = cases.run(loss, pred, gt, None, backend)
    # To a loss that takes positive gt only it is a hole.
    assert total.isfinite() == (where == "gt" and loss.spec.positive_gt)


@BACKEND
@pytest.mark.parametrize("mask", ("residual", "centre", "support"))
def test_a_lone_valid_nan_shows_in_a_gradient_term(mask, backend):
    """Also where no kept response reads it: the Sobel gives the centre cell weight 0."""
    pred, gt = torch.rand(1, 1, 12, 12), torch.rand(1, 1, 12, 12)
    m = torch.zeros(1, 1, 12, 12, dtype=torch.bool)
    m[..., 4, 4] = True
    pred[0, 0, 4, 4] = torch.nan
    loss = dl.MultiScaleGradientLoss(gradient=dl.GradientSpec(mask=mask, num_scales=1))
    assert cases.run(loss, pred, gt, m, backend)[0].isnan()


def test_an_image_left_out_leaves_no_trace():
    """ssi-trim drops an image with fewer than 100 valid pixels, a NaN in it included."""
    pred, gt = cases.maps(torch.float32, (2, 1, 20, 20))
    m = torch.ones(2, 1, 20, 20, dtype=torch.bool)
    m[1] = False
    m[1, 0, 0, :10] = True
    expected, expected_grad = cases.run(dl.SSITrimLoss(), pred, gt, m, "reference")
    pred[1, 0, 0, 3] = torch.nan
    value, grad = cases.run(dl.SSITrimLoss(), pred, gt, m, "reference")
    assert torch.equal(value, expected) and torch.equal(grad, expected_grad) and not grad[1].any()


@BACKEND
def test_the_progressive_form_reads_no_million_metres(backend):
    """An invalid prediction without a depth counts as 0 where the resizing reads it, max_depth or not."""
    pred, gt = cases.maps(torch.float64)
    m = cases.mask("70%")
    loss = dl.ProgressiveScaleAdaptiveLoss(max_depth=None)
    values = [
        cases.run(loss, pred.masked_fill(~m, hole), gt, m, backend)[0] for hole in (0.0, -1.0, torch.nan)
    ]
    assert values[0] == values[1] == values[2]


@EVERY
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 1, 2, 3), (1, 1, 1, 40), (2, 1, 33, 3), (0, 1, 8, 8), (2, 1, 0, 5)]
)
def test_any_size(name, shape, backend):
    """Images too small for a level, for a border, or with nothing in them give a finite, connected loss."""
    pred, gt = torch.rand(shape) + 0.5, torch.rand(shape) + 0.5
    value, grad = cases.run(cases.LOSSES[name](), pred, gt, None, backend)
    assert value.isfinite() and grad.shape == pred.shape and grad.isfinite().all()
    flat = [x[:, 0] for x in (pred, gt)]
    unchannelled, _ = cases.run(cases.LOSSES[name](), *flat, None, backend)
    assert torch.equal(value, unchannelled)


@EVERY
def test_autocast_changes_nothing(name, backend):
    pred, gt = cases.maps(torch.float32)
    m = cases.mask("70%")
    expected, expected_grad = cases.run(cases.LOSSES[name](), pred, gt, m, backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, grad = cases.run(cases.LOSSES[name](), pred, gt, m, backend)
    assert torch.equal(value, expected) and torch.equal(grad, expected_grad)


@EVERY
def test_mixed_dtypes_are_upcast(name, backend):
    pred, gt = cases.maps(torch.float32)
    pred = pred.half()
    expected, expected_grad = cases.run(cases.LOSSES[name](), pred.float(), gt, None, backend)
    value, grad = cases.run(cases.LOSSES[name](), pred, gt, None, backend)
    assert torch.equal(value, expected) and torch.equal(grad, expected_grad.half())
