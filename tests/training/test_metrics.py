import numpy as np
import pytest
import torch

from depthloss.training.metrics import METRICS, DepthMetrics


def measure(pred, gt, mask=None, min_depth=0.5, max_depth=80.0) -> dict[str, float]:
    metrics = DepthMetrics(min_depth, max_depth)
    metrics.update(pred, gt, mask)
    return {k: float(v) for k, v in metrics.compute().items()}


def numpy_metrics(pred, gt, low, high) -> dict[str, float]:
    """Independently, image by image, from the textbook."""
    rows = []
    for p, g in zip(pred.astype(np.float64), gt.astype(np.float64), strict=True):
        keep = np.logical_and(g > low, g < high)
        if not keep.any():
            continue
        p, g = np.clip(p[keep], low, high), g[keep]
        d = np.log(p) - np.log(g)
        worst = np.max([p / g, g / p], axis=0)
        rows.append(
            {
                "abs_rel": np.mean(np.abs(p - g) / g),
                "sq_rel": np.mean((p - g) ** 2 / g),
                "rmse": np.sqrt(np.mean((p - g) ** 2)),
                "rmse_log": np.sqrt(np.mean(d**2)),
                "silog": 100 * np.sqrt(np.mean(d**2) - np.mean(d) ** 2),
                "a1": np.mean(worst < 1.25),
                "a2": np.mean(worst < 1.25**2),
                "a3": np.mean(worst < 1.25**3),
                "mae": np.mean(np.abs(p - g)),
            }
        )
    return {name: np.mean([row[name] for row in rows]) for name in METRICS}


def test_by_hand():
    # one image, two valid pixels: 2 m seen as 3 m, 8 m seen as 4 m
    gt = torch.tensor([[[[2.0, 8.0, 0.0]]]])
    found = measure(torch.tensor([[[[3.0, 4.0, 9.0]]]]), gt)
    assert found["abs_rel"] == pytest.approx((1 / 2 + 4 / 8) / 2)
    assert found["sq_rel"] == pytest.approx((1 / 2 + 16 / 8) / 2)
    assert found["rmse"] == pytest.approx(np.sqrt((1 + 16) / 2))
    a, b = np.log(3 / 2), np.log(4 / 8)
    assert found["rmse_log"] == pytest.approx(np.sqrt((a * a + b * b) / 2))
    assert found["silog"] == pytest.approx(100 * (a - b) / 2)
    assert (found["a1"], found["a2"], found["a3"]) == (0.0, 0.5, 0.5)  # ratios 1.5 and 2
    assert found["mae"] == pytest.approx(2.5)
    assert (found["images"], found["empty"], found["nonfinite"]) == (1, 0, 0)


def test_against_numpy_over_several_batches():
    rng = np.random.default_rng(0)
    gt = rng.uniform(0.1, 100, (7, 1, 11, 13)).astype(np.float32) * (rng.random((7, 1, 11, 13)) < 0.4)
    gt[3] = 0
    pred = (gt + 1) * rng.uniform(0.3, 3, gt.shape).astype(np.float32)
    metrics = DepthMetrics(0.5, 80.0)
    for part in (slice(0, 2), slice(2, 3), slice(3, 7)):
        metrics.update(torch.from_numpy(pred[part]), torch.from_numpy(gt[part]).float())
    found = metrics.compute()
    for name, value in numpy_metrics(pred, gt, 0.5, 80.0).items():
        assert found[name].item() == pytest.approx(value, rel=1e-5), name
    assert (found["images"], found["empty"]) == (6, 1)


def test_the_mean_is_over_images_not_pixels():
    gt = torch.zeros(2, 1, 1, 4)
    gt[0] = 10.0
    gt[1, 0, 0, 0] = 10.0
    pred = torch.cat([torch.full((1, 1, 1, 4), 11.0), torch.full((1, 1, 1, 4), 15.0)])
    assert measure(pred, gt)["abs_rel"] == pytest.approx((0.1 + 0.5) / 2)


def test_the_range_is_strict_and_the_prediction_clamped():
    gt = torch.tensor([[[[0.5, 80.0, 40.0, 79.0]]]])
    found = measure(torch.tensor([[[[9.0, 9.0, 400.0, 0.001]]]]), gt)
    assert found["abs_rel"] == pytest.approx((1.0 + 78.5 / 79) / 2)


def test_the_mask():
    gt = torch.full((1, 1, 1, 2), 10.0)
    pred = torch.tensor([[[[10.0, 20.0]]]])
    mask = torch.tensor([[[[True, False]]]])
    assert measure(pred, gt, mask)["abs_rel"] == 0
    assert measure(pred, gt, ~mask)["abs_rel"] == pytest.approx(1.0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_prediction_that_is_not_finite_shows(value):
    gt = torch.full((1, 1, 1, 4), 10.0)
    pred = gt.clone()
    pred[..., 0] = value
    found = measure(pred, gt)
    assert found["nonfinite"] == 1
    assert np.isnan(found["abs_rel"]) and np.isnan(found["rmse"])
    assert found["a1"] == 0.75
    gt[..., 0] = 0  # not valid: of no matter
    found = measure(pred, gt)
    assert (found["nonfinite"], found["abs_rel"], found["a1"]) == (0, 0.0, 1.0)


def test_invalid_ground_truth_may_hold_anything():
    gt = torch.tensor([[[[10.0, torch.nan, torch.inf, -5.0]]]])
    assert measure(torch.full_like(gt, 20.0), gt)["abs_rel"] == pytest.approx(1.0)


def test_no_valid_pixel_at_all():
    found = measure(torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3))
    assert (found["images"], found["empty"]) == (0, 2)
    assert all(np.isnan(found[name]) for name in METRICS)


def test_half_precision_is_measured_in_float32():
    gt = torch.full((1, 1, 64, 64), 30.0)
    assert measure(gt.bfloat16() * 1.5, gt)["abs_rel"] == pytest.approx(0.5)


def test_errors():
    with pytest.raises(ValueError, match=r"0 < min_depth < max_depth.*0.*80"):
        DepthMetrics(0.0, 80.0)
    with pytest.raises(ValueError, match=r"\(1, 1, 4, 4\).*\(1, 1, 4, 5\)"):
        DepthMetrics(0.5, 80.0).update(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 5))
