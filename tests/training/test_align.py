import numpy as np
import pytest
import torch

from depthloss.training.data.transforms import Window
from depthloss.training.evaluation.protocol import Protocol, aligned, crop_mask, crop_reaches_out

MEDIAN, LSTSQ = (Protocol(max_depth=80.0, alignment=name) for name in ("median", "lstsq"))


def bounds(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """First row and the one after the last, then the columns, of a rectangle."""
    inside = mask.nonzero()
    (top, left), (bottom, right) = inside.min(0).values.tolist(), inside.max(0).values.tolist()
    assert len(inside) == (bottom + 1 - top) * (right + 1 - left)
    return top, bottom + 1, left, right + 1


def test_crops_of_kitti():
    assert bounds(crop_mask(Protocol(crop="garg"), 375, 1242)) == (153, 371, 44, 1197)
    assert bounds(crop_mask(Protocol(crop="eigen"), 375, 1242)) == (124, 342, 44, 1197)
    assert crop_mask(Protocol(), 375, 1242) is None


# crop=[-352, 0, 0.5, 1216] of 1242x375 pixels, as the KITTI configurations have it
KB = Window((375, 1242), (23, 375), (13, 1229))


@pytest.mark.parametrize(
    ("crop_of", "shape", "window", "expected", "pixels"),
    [
        ("frame", (375, 1242), None, (153, 371, 44, 1197), 251_354),
        ("data", (375, 1242), None, (153, 371, 44, 1197), 251_354),
        # The same pixels of the stored frame, 23 rows and 13 columns further up and left.
        ("frame", (352, 1216), KB, (130, 348, 31, 1184), 251_354),
        ("data", (352, 1216), KB, (143, 349, 43, 1172), 232_574),
        # The same at half the size, as the network sees it: 130.04 / 2, 348.96 / 2, 31.6 / 2, 1184.4 / 2.
        ("frame", (176, 608), KB, (65, 174, 15, 592), 62_893),
    ],
)
def test_what_a_crop_is_a_share_of(crop_of, shape, window, expected, pixels):
    protocol = Protocol(crop="garg", crop_of=crop_of)
    mask = crop_mask(protocol, *shape, window)
    assert (bounds(mask), int(mask.sum())) == (expected, pixels)
    assert not crop_reaches_out(protocol, *shape, window)
    name = {"frame": "stored frame", "data": "data set's crop"}[crop_of]
    assert f"; crop garg of the {name}; " in protocol.text()


def test_a_crop_that_reaches_out_of_the_data_set_s_crop():
    window = Window((100, 100), (50, 90), (0, 100))
    protocol = Protocol(crop="garg")
    assert crop_reaches_out(protocol, 40, 100, window)  # rows 40 to 99 of the stored frame
    assert bounds(crop_mask(protocol, 40, 100, window)) == (0, 40, 3, 96)
    assert not crop_reaches_out(Protocol(crop="garg", crop_of="data"), 40, 100, window)
    assert not crop_reaches_out(Protocol(), 40, 100, window)
    assert "; crop none; " in Protocol(crop_of="data").text()
    with pytest.raises(ValueError, match="crop_of must be one of frame, data; got 'all'"):
        Protocol(crop_of="all")


def test_the_median_by_hand():
    gt = torch.tensor([[2.0, 4.0, 6.0, 8.0, 0.0]])
    pred = torch.tensor([[1.0, 2.0, 5.0, 9.0, 7.0]])
    valid = gt > 0
    found = aligned(MEDIAN, pred, gt, valid)[0]
    assert found.tolist() == pytest.approx([x * 5 / 3.5 for x in (1, 2, 5, 9, 7)])
    pred[0, 3] = torch.nan  # without the fourth, 4 / 2
    found = aligned(MEDIAN, pred, gt, valid)[0]
    assert found[:3].tolist() == pytest.approx([2, 4, 10]) and torch.isnan(found[3])


def test_least_squares_in_inverse_depth():
    rng = np.random.default_rng(0)
    gt, pred = rng.uniform(1, 60, (2, 9, 7))
    valid = rng.random((9, 7)) < 0.6
    system = np.stack([1 / pred[valid], np.ones(valid.sum())], 1)
    (s, t), *_ = np.linalg.lstsq(system, 1 / gt[valid], rcond=None)
    found = aligned(LSTSQ, *map(torch.from_numpy, (pred, gt, valid))).numpy()
    assert found == pytest.approx(1 / np.maximum(s / pred + t, 1 / 80))
    # a prediction of the right form fits exactly
    of_form = 1 / (0.3 / gt + 0.02)
    found = aligned(LSTSQ, *map(torch.from_numpy, (of_form, gt, valid))).numpy()
    assert found == pytest.approx(gt)
    # a constant one has no scale
    found = aligned(LSTSQ, torch.ones(9, 7), *map(torch.from_numpy, (gt, valid))).numpy()
    assert found == pytest.approx(1 / np.mean(1 / gt[valid]))


def test_nothing_to_align_to():
    pred = torch.full((2, 2), 3.0)
    for protocol in (MEDIAN, LSTSQ):
        assert torch.equal(aligned(protocol, pred, pred, pred < 0), pred.double())
