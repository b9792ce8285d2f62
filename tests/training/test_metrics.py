import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from depthloss.metrics.exact import WIDTH, from_digits, to_digits
from depthloss.metrics.means import DepthMetrics, StratifiedMetrics
from depthloss.metrics.table import METRICS, image_metrics, pooled

from . import textbook

BOUNDS = [(0, 1), (1, 2), (2, 3), (3, 10), (10, 80)]


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


def measure(pred, gt, mask=None, min_depth=0.5, max_depth=80.0) -> dict[str, float]:
    metrics = DepthMetrics(min_depth, max_depth)
    metrics.update(pred, gt, mask)
    return {k: float(v) for k, v in metrics.compute().items()}


def pairs(count: int) -> list[np.ndarray]:
    """30 % of the pixels, drawn twice."""
    draws = [torch.randperm(count, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    return [draw[: max(1, int(0.3 * count))].numpy() for draw in draws]


def random_maps(count=7, shape=(11, 13), density=0.4, seed=0):
    rng = np.random.default_rng(seed)
    gt = rng.uniform(0.1, 100, (count, 1, *shape)).astype(np.float32)
    gt *= rng.random(gt.shape) < density
    pred = (gt + 1) * rng.uniform(0.3, 3, gt.shape).astype(np.float32)
    mask = rng.random(gt.shape) < 0.7
    return pred, gt, mask


def close(found, expected):
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-9, abs=1e-12), name


# ---- formulas


def test_by_hand():
    # one image, two valid pixels: 2 m seen as 3 m, 8 m seen as 4 m
    gt = torch.tensor([[[[2.0, 8.0, 0.0]]]])
    found = measure(torch.tensor([[[[3.0, 4.0, 9.0]]]]), gt)
    assert found["abs_rel"] == pytest.approx((1 / 2 + 4 / 8) / 2)
    assert found["sq_rel"] == pytest.approx((1 / 2 + 16 / 8) / 2)
    assert found["rmse"] == pytest.approx(np.sqrt((1 + 16) / 2))
    a, b = np.log(3 / 2), np.log(4 / 8)
    assert found["rmse_log"] == pytest.approx(np.sqrt((a * a + b * b) / 2))
    assert found["log10"] == pytest.approx((np.log10(1.5) + np.log10(2)) / 2)
    assert found["silog"] == pytest.approx(100 * (a - b) / 2)
    assert (found["a1"], found["a2"], found["a3"]) == (0.0, 0.5, 0.5)  # ratios 1.5 and 2
    assert found["mae"] == pytest.approx(2.5)
    # 500 and 125 per km, seen as 333.3 and 250
    assert found["irmse"] == pytest.approx(np.sqrt(((500 / 3) ** 2 + 125**2) / 2))
    assert found["imae"] == pytest.approx((500 / 3 + 125) / 2)
    # less the mean 5, over the mean deviation 3: -1 and 1; 3.5 and 0.5 give the same
    assert found["srmse"] == pytest.approx(0.0, abs=1e-5)
    assert found["ordinal_error"] in (0.0, 1.0)  # a single pair
    assert (found["images"], found["empty"], found["nonfinite"]) == (1, 0, 0)


def test_a_ratio_on_the_limit_is_over_it():
    p, g = torch.tensor([1.25, 2.0, 4.0]).double(), torch.tensor([1.0, 2.5, 4.0]).double()
    assert dict(zip(METRICS, image_metrics(p, g).tolist(), strict=True))["a1"] == pytest.approx(1 / 3)


def test_srmse_by_hand():
    g = torch.tensor([1.0, 3.0]).double()

    def srmse(p):
        return dict(zip(METRICS, image_metrics(torch.tensor(p).double(), g).tolist(), strict=True))["srmse"]

    assert srmse([2.0, 2.0]) == pytest.approx(1 / (1 + 1e-6))
    assert srmse([11.0, 31.0]) == pytest.approx(0, abs=1e-6)
    assert srmse([3.0, 1.0]) == pytest.approx(2, rel=1e-5)


def test_ordinal_error_by_hand():
    count = 100
    g = 1.5 ** torch.linspace(1, 20, count).double()
    a, b = pairs(count)
    assert len(a) == 30 and len(set(a)) == 30
    distinct = np.mean(a != b)
    cases = {"same": (3 * g, 0.0), "flat": (torch.full_like(g, 2.0), distinct), "turned": (1 / g, distinct)}
    for name, (p, expected) in cases.items():
        found = dict(zip(METRICS, image_metrics(p, g).tolist(), strict=True))
        assert found["ordinal_error"] == pytest.approx(expected), name


@pytest.mark.parametrize("masked", [False, True])
def test_against_numpy_over_several_batches(masked):
    pred, gt, mask = random_maps()
    gt[3] = 0
    metrics = DepthMetrics(0.5, 80.0)
    for part in (slice(0, 2), slice(2, 3), slice(3, 7)):
        arrays = [torch.from_numpy(x[part]) for x in (pred, gt, mask)]
        metrics.update(*(arrays if masked else arrays[:2]))
    rows = []
    for p, g, m in zip(pred, gt, mask, strict=True):
        keep = (g > 0.5) & (g < 80) & (m if masked else True)
        if keep.any():
            rows.append(textbook.image(np.clip(p[keep], 0.5, 80), g[keep], pairs(keep.sum())))
    found = metrics.compute()
    close(found, {name: np.mean([row[name] for row in rows]) for name in METRICS})
    assert (found["images"], found["empty"], found["nonfinite"]) == (6, 1, 0)


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


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_prediction_that_is_not_finite_shows(value):
    gt = torch.full((1, 1, 1, 4), 10.0)
    pred = gt.clone()
    pred[..., 0] = value
    found = measure(pred, gt)
    assert found["nonfinite"] == 1
    shares = ("a1", "a2", "a3", "d103", "d105", "d110", "d_auc", "ordinal_error")
    assert all(np.isnan(found[name]) for name in METRICS if name not in shares)
    assert found["a1"] == found["d103"] == 0.75 and found["d_auc"] == pytest.approx(0.75 * 0.998)
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


def test_half_precision_is_measured_in_full():
    gt = torch.full((1, 1, 64, 64), 30.0)
    assert measure(gt.bfloat16() * 1.5, gt)["abs_rel"] == pytest.approx(0.5)


def test_errors():
    with pytest.raises(ValueError, match=r"0 < min_depth < max_depth.*0.*80"):
        DepthMetrics(0.0, 80.0)
    with pytest.raises(ValueError, match=r"\(1, 1, 4, 4\).*\(1, 1, 4, 5\)"):
        DepthMetrics(0.5, 80.0).update(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 5))
    with pytest.raises(ValueError, match=r"classes must be \[C, N\] = \[2, 3\], got \[1, 3\]"):
        StratifiedMetrics(BOUNDS, ("a", "b")).update(torch.ones(3), torch.ones(3), torch.ones(1, 3) > 0)


# ---- by range and class


def stratify(p, g, classes=None, names=()):
    metrics = StratifiedMetrics(BOUNDS, names)
    for part in np.array_split(np.arange(len(g)), 3):  # as if of three images
        arrays = torch.from_numpy(p[part]).double(), torch.from_numpy(g[part]).double()
        metrics.update(*arrays, None if classes is None else torch.from_numpy(classes[:, part]))
    return metrics.compute()


def test_ranges_and_classes_against_numpy():
    rng = np.random.default_rng(1)
    g = rng.choice([0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 7.0, 10.0, 60.0], 300) * rng.choice([1.0, 1.1], 300)
    p = np.clip(g * rng.uniform(0.4, 2.5, 300), 0.5, 80)
    classes = np.stack([rng.random(300) < 0.3, rng.random(300) < 0.5, np.zeros(300, bool)])  # they overlap
    tables = stratify(p, g, classes, ("car", "tree", "boat"))
    for row, (low, high) in zip(tables["ranges"], BOUNDS, strict=True):
        inside = (g >= low) & (g < high)
        assert (row["range"], row["pixels"]) == (f"[{low}, {high}) m", inside.sum())
        close(row, textbook.pooled(p[inside], g[inside]))
    for row, of in zip(tables["classes"], classes, strict=True):
        assert row["pixels"] == of.sum()
        if of.any():
            close(row, textbook.pooled(p[of], g[of]))
    boat = tables["classes"][2]
    assert (boat["class"], boat["images"]) == ("boat", 0) and math.isnan(boat["abs_rel"])
    assert [row["images"] for row in tables["classes"]] == [3, 3, 0]
    assert {row["class"] for row in tables["class_ranges"]} == {"car", "tree"}
    for row in tables["class_ranges"]:
        of = classes[("car", "tree").index(row["class"])] & (g >= row["low"]) & (g < row["high"])
        assert row["pixels"] == of.sum() > 0
        close(row, textbook.pooled(p[of], g[of]))


def test_a_class_counts_what_lies_below_the_first_range():
    metrics = StratifiedMetrics([(2.0, 5.0)], ("a",))
    metrics.update(torch.tensor([2.0, 3.0]).double(), torch.tensor([1.0, 3.0]).double(), torch.ones(1, 2) > 0)
    tables = metrics.compute()
    assert (tables["ranges"][0]["abs_rel"], tables["ranges"][0]["pixels"]) == (0.0, 1)
    assert (tables["classes"][0]["abs_rel"], tables["classes"][0]["pixels"]) == (0.5, 2)


def test_a_prediction_that_is_not_finite_spoils_its_range_alone():
    g = np.array([0.6, 1.5, 1.6, 5.0])
    tables = stratify(np.array([0.6, np.nan, 1.6, 5.0]), g)
    assert [math.isnan(row["abs_rel"]) for row in tables["ranges"]] == [False, True, True, False, True]
    assert tables["ranges"][1]["a1"] == 0.5
    assert (tables["ranges"][2]["pixels"], tables["ranges"][4]["pixels"]) == (0, 0)  # nothing to measure


# ---- exact sums


def test_digits_are_exact():
    rng = np.random.default_rng(0)
    values = rng.normal(size=4000) * 10.0 ** rng.integers(-9, 12, 4000)
    digits = to_digits(torch.from_numpy(values))
    assert torch.equal(from_digits(digits), torch.from_numpy(values))
    assert digits.shape == (4000, WIDTH) and digits[:, :-1].abs().max() < 2**32
    assert from_digits(digits.sum(0)).item() == math.fsum(values)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.5, 2.0**95.9, -(2.0**-40), 1 / 3])
def test_digits_of(value):
    assert from_digits(to_digits(torch.tensor(value).double())).item() == torch.tensor(value).double().item()


def test_digits_end_somewhere():
    assert from_digits(to_digits(torch.tensor(2.0**-97).double())).item() == 0
    for value in (math.inf, -math.inf, math.nan, 2.0**96):
        sums = to_digits(torch.tensor([value, 1.0]).double()).sum(0)
        assert math.isnan(from_digits(sums).item())


def batches(seed=0):
    pred, gt, mask = (torch.from_numpy(x) for x in random_maps(12, seed=seed))
    return list(zip(pred.split(2), gt.split(2), mask.split(2), strict=True))


def fresh() -> tuple:
    return DepthMetrics(0.5, 80.0), StratifiedMetrics(BOUNDS, ("a",))


def filled(parts, metrics=None) -> tuple:
    """Both metrics after these batches."""
    whole, strata = metrics or fresh()
    for pred, gt, mask in parts:
        whole.update(pred, gt, mask)
        for p, g, m in zip(pred, gt, mask, strict=True):
            keep = (g > 0.5) & (g < 80)
            strata.update(p[keep].clamp(0.5, 80).double(), g[keep].double(), m[keep][None])
    return whole, strata


def numbers(metrics) -> dict:
    whole, strata = metrics
    return {"whole": {k: float(v) for k, v in whole.compute().items()}, **strata.compute()}


def test_neither_order_nor_precision_changes_a_bit():
    parts = batches()
    expected = numbers(filled(parts))
    assert numbers(filled(parts[::-1])) == expected
    single = [tuple(x[i : i + 1] for x in part) for part in parts for i in range(2)]
    assert numbers(filled(single)) == expected
    metrics = filled(parts[:3])
    for metric in metrics:
        metric.to(torch.bfloat16)  # as a trainer of precision bf16-true does
    assert numbers(filled(parts[3:], metrics)) == expected


def _rank(rank: int, shares, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for i, share in enumerate(shares):
        found = numbers(filled(batches()[j] for j in share[rank]))
        torch.save(found, f"{folder}/{i}-{rank}.pt")
    # The group ends with the process: destroyed just after a collective, torch 2.6 often hangs.


@pytest.mark.filterwarnings("ignore:The ``compute`` method")  # the empty rank has nothing
@pytest.mark.filterwarnings("ignore:.*fork")
def test_two_processes_are_exactly_one(tmp_path):
    equal, unequal, empty = ((0, 2, 4), (1, 3, 5)), ((0, 1, 2, 3, 5), (4,)), (range(6), ())
    shares = (equal, unequal, empty)
    mp.start_processes(_rank, (shares, str(tmp_path)), nprocs=2, start_method="fork")
    expected = numbers(filled(batches()))
    assert expected["whole"]["images"] == 12
    for i in range(len(shares)):
        for rank in range(2):
            assert torch.load(tmp_path / f"{i}-{rank}.pt", weights_only=True) == expected, (i, rank)


def test_pooled_and_per_image_agree_on_one_image():
    pred, gt, _ = random_maps(1, density=1.0)
    keep = (gt > 0.5) & (gt < 80)
    p, g = torch.from_numpy(pred[keep]).clamp(0.5, 80).double(), torch.from_numpy(gt[keep]).double()
    metrics = StratifiedMetrics([(0.0, 80.0)])
    metrics.update(p, g)
    close(metrics.compute()["ranges"][0], dict(zip(pooled(), image_metrics(p, g).tolist(), strict=False)))
