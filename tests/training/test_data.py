"""Files, transforms, registry and sampler; the data sets are in test_folder.py and test_synthetic.py."""

import numpy as np
import pytest
from PIL import Image
from torch.utils.data.distributed import DistributedSampler

from depthloss.training.data import (
    Augmentation,
    DataError,
    EpochSampler,
    available_datasets,
    build_dataset,
    read_depth_png,
    read_mask,
    read_rgb,
    write_depth_png,
    write_rgb,
)
from depthloss.training.data import transforms as T

COMMON = {"image_shape": (24, 32), "min_depth": 0.1, "max_depth": 80.0, "train": False}


def random_depth(rng, shape, valid=0.3, low=1.0, high=60.0):
    depth = rng.uniform(low, high, shape).astype(np.float32)
    return np.where(rng.random(shape) < valid, depth, np.float32(0))


# ---- files


def test_depth_png_round_trip_is_exact_to_the_millimetre(tmp_path):
    millimetres = np.arange(65536).reshape(256, 256)
    write_depth_png(tmp_path / "d.png", millimetres / 1000, depth_scale=1000)
    depth = read_depth_png(tmp_path / "d.png", depth_scale=1000)
    assert depth.dtype == np.float32
    np.testing.assert_array_equal(np.rint(depth.astype(np.float64) * 1000), millimetres)
    np.testing.assert_array_equal(depth, (millimetres / 1000).astype(np.float32))
    assert Image.open(tmp_path / "d.png").mode in ("I;16", "I")


def test_depth_png_marks_invalid_values_and_refuses_what_16_bits_cannot_hold(tmp_path):
    write_depth_png(tmp_path / "d.png", np.array([[np.nan, np.inf, -1.0, 0.0, 2.0]]), 256)
    np.testing.assert_array_equal(read_depth_png(tmp_path / "d.png", 256), [[0, 0, 0, 0, 2.0]])
    with pytest.raises(ValueError, match=r"300\.000 m.*depth_scale=256.*255\.996 m"):
        write_depth_png(tmp_path / "d.png", np.array([[300.0]]), 256)
    with pytest.raises(ValueError, match="depth_scale must be a positive number"):
        read_depth_png(tmp_path / "d.png", 0)


def test_rgb_round_trip_and_conversion_of_grey_and_alpha(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_rgb(tmp_path / "a.png", rgb)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), rgb)
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "grey.png"), np.repeat(rgb[..., :1], 3, 2))
    Image.fromarray(np.concatenate([rgb, rgb[..., :1]], 2)).save(tmp_path / "alpha.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "alpha.png"), rgb)
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    write_rgb(tmp_path / "a.jpg", flat)
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - flat).max() <= 3
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got float64 \[2, 2, 3\]"):
        write_rgb(tmp_path / "a.png", np.zeros((2, 2, 3)))


def test_masks_of_any_depth(tmp_path):
    keep = np.array([[True, False], [False, True]])
    for name, image in {
        "eight": Image.fromarray(keep.astype(np.uint8)),
        "sixteen": Image.fromarray(keep.astype(np.uint16) * 300),
        "one": Image.fromarray(keep),
        "alpha": Image.fromarray(
            np.stack([keep * 255] + [keep * 0] * 2 + [np.full((2, 2), 255)], 2).astype(np.uint8)
        ),
    }.items():
        image.save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), keep, err_msg=name)


def test_a_depth_map_is_no_picture(tmp_path):
    write_depth_png(tmp_path / "d.png", np.ones((4, 4)), 256)
    with pytest.raises(DataError, match="expected an 8-bit RGB PNG or JPEG"):
        read_rgb(tmp_path / "d.png")


# ---- transforms


def test_scatter_keeps_the_nearest_of_several_and_their_exact_values():
    depth = np.zeros((4, 4), np.float32)
    depth[0, 0], depth[1, 1], depth[0, 1] = 7.25, 3.5, 9.0  # one target pixel
    depth[2, 3] = 5.125
    np.testing.assert_array_equal(T.resize_depth(depth, (2, 2)), [[3.5, 0], [0, 5.125]])


@pytest.mark.parametrize("shape", [(96, 320), (100, 333), (375, 1242), (500, 1300), (10, 17)])
def test_scatter_never_invents_a_depth(shape):
    depth = random_depth(np.random.default_rng(2), (375, 1242), 0.05)
    out = T.resize_depth(depth, shape)
    assert out.shape == shape and out.dtype == np.float32
    assert np.isin(out, depth).all()
    y, x = np.nonzero(depth)
    rows = np.floor((y + 0.5) * shape[0] / 375).astype(int)
    cols = np.floor((x + 0.5) * shape[1] / 1242).astype(int)
    expected = np.full(shape, np.inf)
    for r, c, d in zip(rows, cols, depth[y, x], strict=True):
        expected[r, c] = min(expected[r, c], d)
    np.testing.assert_array_equal(out, np.where(np.isinf(expected), 0, expected))


def test_mask_resize_lets_no_masked_depth_through():
    rng = np.random.default_rng(3)
    keep = rng.random((37, 53)) < 0.9
    depth = np.where(keep, np.float32(50), np.float32(2))  # the masked-out surface is the nearer one
    for shape in ((12, 20), (37, 53), (80, 90)):
        mask = T.resize_mask(keep, shape)
        assert mask.shape == shape and mask.any() and not mask.all()
        kept = T.resize_depth(depth, shape)[mask]
        assert set(np.unique(kept)) <= {0.0, 50.0}
    np.testing.assert_array_equal(
        T.resize_mask(np.array([[True, False]]), (2, 4)), [[True, True, False, False]] * 2
    )


def test_range_filter_invalidates_and_never_clamps():
    depth = np.array([[0.0, 0.4, 0.5, 3.0, 80.0, 80.5, np.inf, np.nan, -2.0]], np.float32)
    np.testing.assert_array_equal(T.limit_range(depth, 0.5, 80), [[0, 0, 0.5, 3.0, 80.0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(T.limit_range(depth, 0, 80)[0, :2], np.float32([0, 0.4]))


def test_rgb_resize_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    small = T.resize_rgb(stripes, (16, 16))
    assert small.shape == (16, 16, 3) and np.abs(small[:, 2:-2].astype(int) - 100).max() <= 4


def test_color_jitter_values():
    rgb = np.random.default_rng(4).integers(0, 256, (6, 5, 3), dtype=np.uint8)

    def rng():
        return np.random.default_rng(7)

    np.testing.assert_array_equal(T.color_jitter(rgb, (0, 0, 0, 0), rng()), rgb)
    generator = rng()
    generator.permutation(4)
    draws = generator.uniform(-1, 1, 4)
    brighter = T.color_jitter(rgb, (0.2, 0, 0, 0), rng())
    np.testing.assert_allclose(brighter, np.clip(rgb * (1 + 0.2 * draws[0]), 0, 255), atol=1.0)
    grey = np.full((4, 4, 3), 90, np.uint8)
    np.testing.assert_array_equal(T.color_jitter(grey, (0, 0.5, 0.5, 0.5), rng()), grey)
    red = np.full((4, 4, 3), (200, 0, 0), np.uint8)
    turned = T._shift_hue(Image.fromarray(red), 1 / 3)
    np.testing.assert_allclose(np.asarray(turned), np.full((4, 4, 3), (0, 200, 0)), atol=4)


def test_augmentation_keeps_all_maps_aligned():
    y, x = np.mgrid[0:64, 0:96]
    depth = (1 + y + 100 * x).astype(np.float32)
    rgb = np.stack([y, x, x], 2).astype(np.uint8)
    mask = x % 2 == 0
    aug = Augmentation(jittering=(), flip_prob=0.5, crop_scale=(0.4, 0.4))
    flips = 0
    for index in range(8):
        frame = T.Frame(rgb, depth, depth, mask)
        for name in ("crop", "flip"):
            frame = T.STEPS[name](frame, aug, (64, 96), T.sample_rng(name, 0, 0, index))
        red, blue = frame.rgb[..., 0].astype(int), frame.rgb[..., 1].astype(int)
        np.testing.assert_array_equal(frame.depth, 1 + red + 100 * blue)
        np.testing.assert_array_equal(frame.input_depth, frame.depth)
        np.testing.assert_array_equal(frame.mask, blue % 2 == 0)
        assert frame.depth.shape == (40, 61)
        flips += blue[0, 0] > blue[0, 1]
    assert 0 < flips < 8


def test_augmentation_options_are_checked():
    with pytest.raises(TypeError, match="no option 'jitering'; did you mean 'jittering'"):
        Augmentation.from_dict({"jitering": ()})
    for wrong in (
        {"jittering": (0.2,)},
        {"jittering": (0, 0, 0, 0.6)},
        {"flip_prob": 2},
        {"crop_scale": (0, 1)},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Augmentation.from_dict(wrong)
    assert Augmentation.from_dict({"jittering": None}).jittering == ()
    assert Augmentation.from_dict(None) == Augmentation((0.2, 0.2, 0.2, 0.05), 0.0, (1.0, 1.0))


# ---- registry


def test_unknown_names_and_options_name_the_nearest():
    assert available_datasets() == ("synthetic", "rgbd-folder", "kitti", "ncdb", "nyu-h5", "nyu-labeled")
    with pytest.raises(ValueError, match="unknown dataset 'sintetic'; did you mean 'synthetic'.*rgbd-folder"):
        build_dataset("sintetic", **COMMON)
    with pytest.raises(TypeError, match="no option 'depth_scal'; did you mean 'depth_scale'.*Known: path, "):
        build_dataset("rgbd-folder", path=".", depth_scal=1, **COMMON)
    with pytest.raises(TypeError, match="'rgbd-folder' needs the option 'path'"):
        build_dataset("rgbd-folder", **COMMON)
    with pytest.raises(TypeError, match="'kitti' needs the option 'split'"):
        build_dataset("kitti", path=".", **COMMON)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_shape": (0, 4)}, "image_shape must be two positive integers"),
        ({"min_depth": 5.0, "max_depth": 5.0}, "min_depth < max_depth"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"length": 0}, "length must be >= 1"),
        ({"gt": "sparse"}, "gt must be 'dense', 'scanline' or a fraction"),
        ({"gt": 1.5}, "gt must be"),
        ({"input_depth": "lidar"}, "input_depth must be"),
    ],
)
def test_values_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        build_dataset("synthetic", **{**COMMON, **wrong})


# ---- sampler


def test_sampler_order_depends_on_seed_and_epoch_only():
    sampler = EpochSampler(range(50), shuffle=True, seed=3)
    assert isinstance(sampler, DistributedSampler) and len(sampler) == 50
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        pairs = list(sampler)
        assert [e for e, _ in pairs] == [epoch] * 50
        assert sorted(i for _, i in pairs) == list(range(50))
        epochs.append(pairs)
    assert [i for _, i in epochs[0]] != [i for _, i in epochs[1]]
    resumed = EpochSampler(range(50), shuffle=True, seed=3)
    resumed.set_epoch(2)
    assert list(resumed) == epochs[2]
    other = EpochSampler(range(50), shuffle=True, seed=4)
    other.set_epoch(2)
    assert list(other) != epochs[2]
    assert list(EpochSampler(range(4), shuffle=False, seed=3)) == [(0, 0), (0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize(("total", "replicas"), [(10, 4), (8, 4), (3, 8), (1, 3)])
def test_sampler_shards_one_order_and_pads_it(total, replicas):
    whole = [i for _, i in EpochSampler(range(total), True, 5)]
    ranks = [list(EpochSampler(range(total), True, 5, replicas, rank)) for rank in range(replicas)]
    each = -(-total // replicas)
    assert all(len(r) == each for r in ranks)
    woven = [pair[1] for group in zip(*ranks, strict=True) for pair in group]
    assert woven == [whole[k % total] for k in range(each * replicas)]


def test_sampler_skips_what_was_used_before_a_resume():
    sampler = EpochSampler(range(9), True, 0)
    whole = list(sampler)
    sampler.skip(4)
    assert len(sampler) == 9
    assert list(sampler) == whole[4:]
    assert list(sampler) == whole
    with pytest.raises(ValueError, match=r"samples must be in \[0, 9\], got 10"):
        sampler.skip(10)
    with pytest.raises(ValueError, match="empty"):
        EpochSampler([], True, 0)
    with pytest.raises(ValueError, match="rank"):
        EpochSampler(range(4), True, 0, num_replicas=2, rank=2)
