"""All maps of a frame stay registered through crop, resize, flip, jitter and the sparsity simulator."""

import numpy as np
import pytest

from depthloss.training.data import Augmentation, DepthDataset
from depthloss.training.data import transforms as T

H, W = 75, 124
BITS = 7
KEEP = (np.add.outer(np.arange(H) // 16, np.arange(W) // 16) % 3) > 0


def coded() -> T.Frame:
    """Every map tells the row and column that its pixels come from."""
    y, x = np.mgrid[:H, :W]
    bits = [(a >> k) & 1 for a in (y, x) for k in range(BITS)]
    return T.Frame(
        rgb=np.stack([2 * y + 40, 0 * x, 2 * x + 5], 2).astype(np.uint8),
        depth=(1 + y * W + x).astype(np.float32),
        mask=KEEP.copy(),
        classes=np.stack(bits, 2).astype(bool),
    )


def source_of_depth(depth):
    return (depth.astype(int) - 1) // W, (depth.astype(int) - 1) % W


def source_of_classes(classes):
    weights = 1 << np.arange(BITS)
    return classes[..., :BITS] @ weights, classes[..., BITS:] @ weights


def check_registered(frame, shape):
    assert all(getattr(frame, part).shape[:2] == shape for part in ("rgb", "depth", "mask", "classes"))
    y, x = source_of_classes(frame.classes)
    down, right = np.diff(y, axis=0), np.diff(x, axis=1)
    assert (np.diff(y, axis=1) == 0).all() and (np.diff(x, axis=0) == 0).all()
    assert (down >= 0).all() and ((right >= 0).all() or (right <= 0).all())
    # Source pixels per target pixel; a centre lies at most half of it from what landed there, rounded up.
    reach_y, reach_x = (np.ptp(y) + 1) / shape[0], (np.ptp(x) + 1) / shape[1]
    there = frame.depth > 0
    dy, dx = source_of_depth(frame.depth)
    assert (np.abs(dy - y)[there] <= np.ceil(reach_y / 2)).all()
    assert (np.abs(dx - x)[there] <= np.ceil(reach_x / 2)).all()
    for channel, coordinate in ((0, y), (2, x)):
        colour = frame.rgb[..., channel].astype(float)
        assert np.corrcoef(colour.ravel(), coordinate.ravel())[0, 1] > 0.99
    assert KEEP[dy, dx][there & frame.mask].all()
    near = np.ones(shape, bool)
    for sy in (-2, 0, 2):
        for sx in (-2, 0, 2):
            near &= KEEP[np.clip(y + sy, 0, H - 1), np.clip(x + sx, 0, W - 1)]
    assert frame.mask[near & (reach_y < 3)].all()
    if frame.input_depth is not None:
        has = frame.input_depth > 0
        np.testing.assert_array_equal(frame.input_depth[has], frame.depth[has])
        assert frame.mask[has].all()


@pytest.mark.parametrize("shape", [(24, 40), (32, 64), (75, 124), (96, 160)])
@pytest.mark.parametrize("crop", [(1.0, 1.0), (0.3, 0.8)])
def test_every_augmentation_keeps_all_maps_registered(shape, crop):
    aug = Augmentation(
        jittering=(0.1, 0.1, 0.1, 0.0),
        flip_prob=0.5,
        crop_scale=crop,
        sparsity={"simulate": True, "noise_prob": 0, "blur_prob": 0, "shares": (0, 0.5, 0.5, 0)},
    )
    flips = points = 0
    corners = set()
    for index in range(12):
        frame = T.augment(coded(), aug, shape, seed=0, epoch=index % 3, index=index)
        check_registered(frame, shape)
        y, x = source_of_classes(frame.classes)
        flips += x[0, 0] > x[0, -1]
        corners.add((y[0, 0], min(x[0, 0], x[0, -1])))
        points += np.count_nonzero(frame.input_depth)
    assert 0 < flips < 12 and points > 0
    assert (len(corners) == 1) == (crop == (1.0, 1.0))


@pytest.mark.parametrize("shape", [(24, 40), (75, 124), (96, 160)])
def test_preparing_for_evaluation_keeps_all_maps_registered(shape):
    aug = Augmentation(sparsity={"eval_density": 0.2})
    frame = T.prepare(coded(), aug, shape, index=3)
    check_registered(frame, shape)
    assert np.count_nonzero(frame.input_depth) == round(0.2 * np.count_nonzero(frame.depth * frame.mask))
    assert T.prepare(coded(), Augmentation(), shape, index=3).input_depth is None


def test_a_class_map_takes_what_a_pixel_s_centre_falls_on():
    classes = np.arange(6).reshape(2, 3)[..., None] == np.arange(6)
    for shape, expected in (
        ((4, 6), [[0, 0, 1, 1, 2, 2]] * 2 + [[3, 3, 4, 4, 5, 5]] * 2),
        ((1, 1), [[4]]),
        ((2, 2), [[0, 2], [3, 5]]),
    ):
        out = T.resize_classes(classes, shape)
        assert out.dtype == bool and out.shape == (*shape, 6) and (out.sum(2) == 1).all()
        np.testing.assert_array_equal(out.argmax(2), expected)


def test_samples_carry_classes_in_evaluation():
    class Coded(DepthDataset):
        class_names = tuple(map(str, range(2 * BITS)))

        def __len__(self):
            return 1

        def load(self, index):
            return coded()

        def name(self, index):
            return "coded"

    data = Coded(image_shape=(24, 40), min_depth=0.1, max_depth=1e6, train=False)
    sample = data[0]
    assert sample["classes"].shape == (2 * BITS, 24, 40)
    expected = T.resize_classes(coded().classes, (24, 40))
    np.testing.assert_array_equal(sample["classes"].numpy(), expected.transpose(2, 0, 1))


def by_hand(depth, shape):
    """The definition: every valid pixel moves, the nearest wins."""
    out = np.full(shape, np.inf, np.float32)
    y, x = np.nonzero(depth > 0)
    rows = np.floor((y + 0.5) * shape[0] / depth.shape[0]).astype(int)
    cols = np.floor((x + 0.5) * shape[1] / depth.shape[1]).astype(int)
    np.minimum.at(out, (rows, cols), depth[y, x])
    return np.where(np.isinf(out), 0, out)


@pytest.mark.parametrize("valid", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("shape", [(20, 30), (75, 40), (1, 1), (76, 125), (150, 30), (10, 500)])
def test_resized_depth_is_what_the_definition_says(shape, valid):
    rng = np.random.default_rng(1)
    depth = rng.uniform(1e-3, 1e5, (H, W)).astype(np.float32) * (rng.random((H, W)) < valid)
    depth = depth.astype(np.float32)
    before = depth.copy()
    for view in (depth, depth[:, ::-1], depth[3:50, 7:90]):
        np.testing.assert_array_equal(T.resize_depth(view, shape), by_hand(view, shape))
    np.testing.assert_array_equal(depth, before)
