import numpy as np
import pytest
import torch

from depthloss.metrics.edges import (
    boundary_scores,
    edge_metrics,
    is_dense,
    near_discontinuities,
)

from . import textbook


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


def step(columns=12, at=6, near=2.0, far=4.0, rows=5) -> torch.Tensor:
    """A wall of two depths with a vertical edge before column `at`."""
    depth = torch.full((rows, columns), near)
    depth[:, at:] = far
    return depth


def all_valid(depth: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(depth, dtype=torch.bool)


def blocks(seed: int, shape=(9, 11)) -> np.ndarray:
    """Rectangles at random depths, with noise that makes and breaks small steps."""
    rng = np.random.default_rng(seed)
    depth = np.full(shape, 8.0)
    for _ in range(5):
        y, x = rng.integers(0, shape[0] - 2), rng.integers(0, shape[1] - 2)
        depth[y : y + rng.integers(2, 6), x : x + rng.integers(2, 6)] = rng.uniform(2, 9)
    return depth * rng.uniform(0.95, 1.05, shape)


# ---- near a discontinuity


@pytest.mark.parametrize("turned", [False, True])
def test_three_pixels_on_either_side(turned):
    depth = step(rows=12) if not turned else step(rows=12).T
    near = near_discontinuities(depth, all_valid(depth), 1.1)
    columns = near.T if turned else near
    assert columns[0].nonzero().flatten().tolist() == [3, 4, 5, 6, 7, 8]
    assert torch.equal(columns, columns[:1].expand_as(columns))


def test_the_ratio_decides_and_not_the_difference():
    for far, found in ((2.19, False), (2.21, True), (1.83, False), (1.81, True)):
        depth = step(far=far)
        assert near_discontinuities(depth, all_valid(depth), 1.1).any() == found, far
    depth = step(near=50.0, far=54.0)
    assert not near_discontinuities(depth, all_valid(depth), 1.1).any()


def test_only_between_valid_pixels():
    depth, valid = step(), all_valid(step())
    valid[:, 6] = False
    depth[:, 6] = 0
    assert not near_discontinuities(depth, valid, 1.1).any()


def test_a_slanted_plane_has_none():
    # a road: 1/depth grows linearly down the image; neighbours near the horizon differ by more than 1.1
    depth = (100 / torch.arange(1.0, 21.0))[:, None].expand(20, 8).clone()
    assert (depth[:-1] / depth[1:]).max() == 2
    assert not near_discontinuities(depth, all_valid(depth), 1.1).any()
    assert not near_discontinuities(depth.T, all_valid(depth.T), 1.1).any()
    depth[5:12, 5] = 3.0  # a pole that stands on it
    near = near_discontinuities(depth, all_valid(depth), 1.1)
    assert near[8].tolist() == [False, False, True, True, True, True, True, True]
    assert not near[0].any() and not near[16:].any()


def test_the_errors_of_both_parts_by_hand():
    gt = step()
    pred = gt.clone()
    pred[:, 5] = 3.0  # |3 - 2| / 2 on one of the six columns near the edge
    pred[:, 0] = 2.2  # 0.1 on one of the six others
    found = edge_metrics(pred, gt, all_valid(gt), 1.1)
    assert found["edge_abs_rel"] == pytest.approx(0.5 / 6)
    assert found["flat_abs_rel"] == pytest.approx(0.1 / 6)
    valid = all_valid(gt)
    valid[:, 0] = False
    assert edge_metrics(pred, gt, valid, 1.1)["flat_abs_rel"] == 0


def test_what_an_image_has_not_is_left_out():
    flat = torch.full((6, 6), 3.0)
    assert edge_metrics(flat * 1.5, flat, all_valid(flat), 1.1) == {"flat_abs_rel": pytest.approx(0.5)}
    narrow = step(columns=6, at=3)
    assert "flat_abs_rel" not in edge_metrics(narrow, narrow, all_valid(narrow), 1.1)


def test_a_prediction_that_is_not_finite_shows():
    gt = step()
    pred = gt.clone()
    pred[0, 5] = torch.nan
    found = edge_metrics(pred, gt, all_valid(gt), 1.1)
    assert np.isnan(found["edge_abs_rel"]) and found["flat_abs_rel"] == 0
    assert found["boundary_recall"] == pytest.approx(0.8) and found["boundary_precision"] == 1


@pytest.mark.parametrize(
    ("density", "dense"), [(1.0, True), (0.85, True), (0.5, False), (0.05, False), (0.0, False)]
)
def test_dense_enough(density, dense):
    generator = torch.Generator().manual_seed(0)
    assert is_dense(torch.rand(60, 80, generator=generator) < density) == dense


def test_scan_lines_are_not_dense_and_a_map_without_sky_is():
    lines = torch.zeros(60, 80, dtype=torch.bool)
    lines[::3] = True
    assert not is_dense(lines) and not is_dense(lines.T)
    ground = torch.zeros(60, 80, dtype=torch.bool)
    ground[35:] = True
    assert is_dense(ground)


# ---- boundaries


def test_a_perfect_prediction_in_any_scale():
    gt = step()
    assert boundary_scores(7 * gt, gt, all_valid(gt)) == pytest.approx((1, 1, 1))
    assert boundary_scores(gt.flip(1), gt, all_valid(gt)) == (0, 0, 0)  # the order of near and far counts
    assert boundary_scores(torch.ones_like(gt), gt, all_valid(gt)) == (0, 0, 0)


def test_thresholds_by_hand():
    # steps of ratio 1.2 in one half of the rows and 1.1 in the other; only the first is predicted, and one
    # more of ratio 1.2 where there is none
    gt = step(near=2.0, far=2.4, rows=4)
    gt[2:, 6:] = 2.2
    pred = step(near=2.0, far=2.4, rows=4)
    pred[2:, 6:] = 2.0
    pred[:, 10:] *= 1.2
    valid = all_valid(gt)
    valid[2] = False  # so that no step lies between the rows
    thresholds = np.linspace(1.05, 1.25, 10)
    rows = []
    for t in thresholds:
        true = 2 * (t < 1.2) + 1 * (t < 1.1)
        hits, predicted = 2 * (t < 1.2), 5 * (t < 1.2)
        if true:
            rows.append((t, 2 * hits / (true + predicted), hits / predicted, hits / true))
    t, *columns = map(np.array, zip(*rows, strict=True))
    expected = [np.average(column, weights=t) for column in columns]
    assert boundary_scores(pred, gt, valid) == pytest.approx(tuple(expected))
    assert expected[1] == pytest.approx(0.4)


@pytest.mark.parametrize("seed", range(4))
def test_boundaries_against_numpy(seed):
    gt, pred = blocks(seed), blocks(seed) * np.random.default_rng(seed).uniform(0.9, 1.1, (9, 11))
    valid = np.random.default_rng(seed + 9).random(gt.shape) < 0.9
    found = boundary_scores(*map(torch.from_numpy, (pred, gt, valid)))
    assert found == pytest.approx(textbook.boundary_scores(pred, gt, valid))
    assert 0 < found[0] < 1


def test_no_true_boundary_no_score():
    flat = torch.full((5, 5), 2.0)
    assert boundary_scores(step(5, 2), flat, all_valid(flat)) is None
