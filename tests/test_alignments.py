"""The public alignments, `depthloss.align`: values by hand, against NumPy and by trying every candidate."""

import itertools
import re

import numpy as np
import pytest
import torch

from depthloss import align

SHAPES = "all maps must be [H, W] or [B, H, W] of one shape"
FITS = (
    align.median,
    align.median_ratio,
    align.least_squares_scale,
    align.least_squares,
    align.l1_scale,
    align.l1,
)


def maps(count: int, seed: int, ties: bool = False):
    g = torch.Generator().manual_seed(seed)
    p, t = torch.randn(2, 1, count, generator=g, dtype=torch.float64)
    w = torch.rand(1, count, generator=g, dtype=torch.float64)
    return ((2 * p).round(), (2 * t).round(), w) if ties else (p, t, w)


def test_scales_by_hand():
    pred, gt = torch.tensor([[1.0, 2.0, 4.0, 4.0]]), torch.tensor([[2.0, 6.0, 8.0, 10.0]])
    assert align.median(pred, gt) == (7 / 3, 0)
    assert align.median_ratio(pred, gt) == (2.25, 0)  # of 2, 3, 2 and 2.5
    assert align.least_squares_scale(pred, gt).scale == pytest.approx(86 / 37)
    # Half of the weight |p| of 11 is reached at the ratio 2.5, after 2 and 2 with 1 + 4.
    assert align.l1_scale(pred, gt).scale == 2.5
    assert align.l1_scale(pred, gt, weight=1 / pred).scale == 2  # each ratio once: 2, 2, 2.5, 3


@pytest.mark.parametrize("weighted", [False, True])
def test_least_squares_against_numpy(weighted):
    rng = np.random.default_rng(0)
    # A large mean: the normal equations of sums that are not centred lose it.
    pred, noise = 1e6 + rng.random((2, 9, 7)), rng.random((2, 9, 7))
    gt, valid = 3 * pred - 2 + noise, rng.random((2, 9, 7)) < 0.6
    weight = rng.random((2, 9, 7)) if weighted else np.ones((2, 9, 7))
    found = align.least_squares(*map(torch.from_numpy, (pred, gt, valid, weight)))
    scales = align.least_squares_scale(*map(torch.from_numpy, (pred, gt, valid, weight))).scale
    for i in range(2):
        p, t, w = pred[i][valid[i]], gt[i][valid[i]], weight[i][valid[i]]
        assert float(scales[i]) == pytest.approx((w * p * t).sum() / (w * p * p).sum(), rel=1e-14)
        s, b = np.polyfit(p - p.mean(), t - t.mean(), 1, w=np.sqrt(w))
        assert float(found.scale[i]) == pytest.approx(s, rel=1e-9)
        assert float(found.shift[i]) == pytest.approx(t.mean() + b - s * p.mean(), rel=1e-9)
        assert found.apply(torch.from_numpy(pred))[i].numpy() == pytest.approx(
            s * (pred[i] - p.mean()) + t.mean() + b, rel=1e-9
        )


@pytest.mark.parametrize("truncation", [None, 0.3])
@pytest.mark.parametrize("ties", [False, True])
def test_l1_is_the_minimum_of_all_lines_through_two_pixels(ties, truncation):
    for count, seed in itertools.product((1, 2, 3, 8, 15), range(4)):
        p, t, w = maps(count, seed, ties)
        x, y = p[0].tolist(), t[0].tolist()

        def loss(scale, shift, p=p, t=t, w=w):
            return float((w * (scale * p + shift - t).abs()).clamp(max=truncation or np.inf).sum())

        lines = [(0.0, b) for b in y] + [
            ((y[i] - y[j]) / (x[i] - x[j]), y[i] - (y[i] - y[j]) / (x[i] - x[j]) * x[i])
            for i, j in itertools.combinations(range(count), 2)
            if x[i] != x[j]
        ]
        best = min(loss(*line) for line in lines)
        assert loss(*align.l1(p, t, weight=w, truncation=truncation)) == pytest.approx(best, abs=1e-12)
        best = min(loss(b / a, 0.0) for a, b in zip(x, y, strict=True) if a) if any(x) else loss(0.0, 0.0)
        assert loss(*align.l1_scale(p, t, weight=w, truncation=truncation)) == pytest.approx(best, abs=1e-12)


def test_truncation_ignores_outliers():
    pred = torch.arange(1.0, 10.0).view(3, 3)
    gt = 2 * pred + 1
    gt[0] = 1000.0
    assert align.l1(pred, gt, truncation=1.0) == pytest.approx((2.0, 1.0))
    assert align.l1_scale(pred, torch.where(gt == 1000, gt, 2 * pred), truncation=1.0).scale == 2


@pytest.mark.parametrize("fit", FITS, ids=lambda fit: fit.__name__)
def test_what_does_not_count(fit):
    g = torch.Generator().manual_seed(0)
    pred, gt = 1 + torch.rand(2, 2, 5, 6, generator=g)
    mask = torch.rand(2, 5, 6, generator=g) < 0.7
    expected = fit(pred, gt, mask)
    hurt = torch.where(mask, pred, torch.nan), torch.where(mask, gt, torch.inf)
    assert all(torch.equal(a, b) for a, b in zip(expected, fit(*hurt), strict=True))
    alone = fit(pred[1], gt[1], mask[1].float())
    assert (alone.scale, alone.shift) == (expected.scale[1], expected.shift[1])
    assert expected.scale.shape == (2,) and expected.scale.dtype == torch.float64
    empty = fit(pred, gt, torch.zeros_like(mask))
    assert empty.scale.tolist() == [1, 1] and empty.shift.tolist() == [0, 0]
    assert torch.equal(empty.apply(pred), pred.double())


@pytest.mark.parametrize("fit", [align.least_squares, align.l1])
def test_a_constant_prediction_has_no_scale(fit):
    gt = torch.tensor([[1.0, 2.0, 6.0]])
    assert fit(torch.full((1, 3), 0.1), gt) == (0, {"least_squares": 3, "l1": 2}[fit.__name__])


@pytest.mark.parametrize("fit", FITS, ids=lambda fit: fit.__name__)
def test_arrays_of_numpy_are_maps_too(fit):
    rng = np.random.default_rng(0)
    pred, gt = 1 + rng.random((2, 2, 5, 6)).astype(np.float32)
    mask = rng.random((2, 5, 6)) < 0.7
    expected = fit(*map(torch.from_numpy, (pred, gt, mask)))
    for p, g, m in (
        (pred, gt, mask.astype(np.uint8) * 255),
        (pred[:, ::-1], gt[:, ::-1], mask[:, ::-1]),
        (pred.astype(">f4"), torch.from_numpy(gt), mask),
        (np.ma.masked_array(pred, ~mask), gt, None),
        (pred, gt, np.ma.masked_array(np.ones(mask.shape, bool), ~mask)),
    ):
        for a, b in zip(fit(p, g, m), expected, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=0)
    assert torch.equal(expected.apply(pred[:, ::-1]), expected.apply(torch.from_numpy(pred)).flip(1))
    text = "pred must be [B, ...] of the B = 2 aligned maps; got (5, 6)"
    with pytest.raises(ValueError, match=re.escape(text)):
        expected.apply(pred[0])
    assert torch.equal(fit(pred[:1], gt[:1]).apply(pred)[1], fit(pred[0], gt[0]).apply(pred[1]))


@pytest.mark.parametrize("fit", [align.least_squares_scale, align.least_squares, align.l1_scale, align.l1])
def test_a_weight_that_is_masked_is_0(fit):
    rng = np.random.default_rng(0)
    pred, gt, weight = 1 + rng.random((3, 5, 6))
    hole = rng.random((5, 6)) < 0.3
    assert fit(pred, gt, None, np.ma.masked_array(weight, hole)) == fit(pred, gt, None, weight * ~hole)


def test_a_negative_scale_is_found():
    pred = torch.tensor([[1.0, 2.0, 3.0]])
    for fit in (align.least_squares, align.l1):
        assert fit(pred, 4 - pred) == pytest.approx((-1.0, 4.0))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"target": torch.ones(2, 3)}, f"{SHAPES}; got {{'pred': (3, 3), 'target': (2, 3)}}"),
        ({"weight": -torch.ones(3, 3)}, "weight must be finite and >= 0 at every valid pixel"),
        ({"truncation": 0.0}, "truncation must lie in (0, inf]; got 0.0"),
    ],
)  # fmt: skip
def test_errors(arguments, error):
    with pytest.raises(ValueError, match=f"^{re.escape(error)}$"):
        align.l1(torch.ones(3, 3), **{"target": torch.ones(3, 3), **arguments})
