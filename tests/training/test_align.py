import numpy as np
import pytest
import torch

from depthloss.training.evaluation.align import align
from depthloss.training.evaluation.protocol import crop_mask


def test_crops_of_kitti():
    for crop, rows, columns in (("garg", (153, 371), (44, 1197)), ("eigen", (124, 342), (44, 1197))):
        inside = crop_mask(crop, 375, 1242).nonzero()
        assert inside.min(0).values.tolist() == [rows[0], columns[0]]
        assert inside.max(0).values.tolist() == [rows[1] - 1, columns[1] - 1]
        assert len(inside) == (rows[1] - rows[0]) * (columns[1] - columns[0])
    assert crop_mask("none", 375, 1242) is None


def test_the_median_by_hand():
    gt = torch.tensor([[2.0, 4.0, 6.0, 8.0, 0.0]])
    pred = torch.tensor([[1.0, 2.0, 5.0, 9.0, 7.0]])
    valid = gt > 0
    aligned = align(pred, gt, valid, "median", 80.0)
    assert aligned.flatten().tolist() == pytest.approx([x * 5 / 3.5 for x in (1, 2, 5, 9, 7)])
    pred[0, 3] = torch.nan  # without the fourth, 4 / 2
    aligned = align(pred, gt, valid, "median", 80.0)[0]
    assert aligned[:3].tolist() == pytest.approx([2, 4, 10]) and torch.isnan(aligned[3])


def test_least_squares_in_inverse_depth():
    rng = np.random.default_rng(0)
    gt, pred = rng.uniform(1, 60, (2, 9, 7))
    valid = rng.random((9, 7)) < 0.6
    system = np.stack([1 / pred[valid], np.ones(valid.sum())], 1)
    (s, t), *_ = np.linalg.lstsq(system, 1 / gt[valid], rcond=None)
    found = align(*map(torch.from_numpy, (pred, gt, valid)), "lstsq", 80.0).numpy()
    assert found == pytest.approx(1 / np.maximum(s / pred + t, 1 / 80))
    # a prediction of the right form fits exactly
    of_form = 1 / (0.3 / gt + 0.02)
    found = align(*map(torch.from_numpy, (of_form, gt, valid)), "lstsq", 80.0).numpy()
    assert found == pytest.approx(gt)
    # a constant one has no scale
    found = align(torch.ones(9, 7), *map(torch.from_numpy, (gt, valid)), "lstsq", 80.0).numpy()
    assert found == pytest.approx(1 / np.mean(1 / gt[valid]))


def test_nothing_to_align_to():
    pred = torch.full((2, 2), 3.0)
    for alignment in ("median", "lstsq"):
        assert torch.equal(align(pred, pred, pred < 0, alignment, 80.0), pred.double())
