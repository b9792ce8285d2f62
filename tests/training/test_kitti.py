"""KITTI raw: what is read is what was written, the crop, and every fault."""

import logging

import numpy as np
import pytest
import torch

from depthloss.training.data import DataError, build_dataset, read_depth_npz, write_depth_png, write_rgb
from depthloss.training.data.crop import check_crop, crop_window

from .layouts import DRIVE, kitti, spoil, write_mask

COMMON = {"image_shape": (40, 126), "min_depth": 0.1, "max_depth": 80.0, "train": False, "split": "split.txt"}


def build(path, **options):
    return build_dataset("kitti", path=path, **{**COMMON, **options})


def test_frames_are_read_to_the_millimetre(tmp_path):
    written = kitti(tmp_path)
    data = build(tmp_path, input_depth_type="velodyne")
    assert [data.name(i) + ".png" for i in range(len(data))] == list(written)
    for index, maps in enumerate(written.values()):
        frame, sample = data.frame(index), data[index]
        np.testing.assert_array_equal(frame.rgb, maps["rgb"])
        assert torch.equal(sample["rgb"], torch.from_numpy(maps["rgb"]).permute(2, 0, 1) / 255)
        for key in ("depth", "input_depth"):
            np.testing.assert_array_equal(getattr(frame, key), maps[key])
            np.testing.assert_allclose(sample[key][0].numpy(), maps[key], atol=5e-4, rtol=0)
            assert maps[key].any()
    assert data[0].keys() == {"rgb", "depth", "input_depth", "name", "index"}
    assert build(tmp_path)[0].keys() == {"rgb", "depth", "name", "index"}
    swapped = build(tmp_path, depth_type="velodyne", input_depth_type="groundtruth").frame(1)
    maps = list(written.values())[1]
    np.testing.assert_array_equal(swapped.depth, maps["input_depth"])
    np.testing.assert_array_equal(swapped.input_depth, maps["depth"])


def test_split_lines_with_comments_further_words_and_a_choice(tmp_path):
    images = list(kitti(tmp_path, frames=5))
    lines = ["# eigen", "", f"{images[4]} {DRIVE}/depth.png 721.5", f"  {images[1]}", f"{images[2]}  # good"]
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/few.txt").write_text("\r\n".join(lines))
    data = build(tmp_path, split="splits/few.txt")
    assert [f"{data.name(i)}.png" for i in range(len(data))] == [images[4], images[1], images[2]]
    data = build(tmp_path, split=str(tmp_path / "splits/few.txt"), offset=1, stride=2, limit=3)
    assert [f"{data.name(i)}.png" for i in range(len(data))] == [images[1]]


def test_frames_without_depth_are_left_out_and_counted(tmp_path, caplog):
    images = list(kitti(tmp_path, frames=5))
    lost = tmp_path / DRIVE / "proj_depth"
    (lost / "groundtruth/image_03/0000000001.png").unlink()
    (lost / "velodyne/image_02/0000000002.npz").unlink()
    with caplog.at_level(logging.WARNING, "depthloss.data"):
        data = build(tmp_path)
    assert [f"{data.name(i)}.png" for i in range(len(data))] == [images[i] for i in (0, 2, 3, 4)]
    (message,) = caplog.messages
    assert message == (
        f"{tmp_path}: 1 of 5 frames are left out as they have no depth file: line 2 of split.txt: "
        f"{DRIVE}/proj_depth/groundtruth/image_03/0000000001.png"
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING, "depthloss.data"):
        assert len(build(tmp_path, input_depth_type="velodyne")) == 3
    assert "2 of 5 frames are left out" in caplog.text
    with pytest.raises(DataError, match=r"no depth file for any of 5 frames \(.*proj_depth/lidar/.*\.npz"):
        build(tmp_path, depth_type="lidar")


@pytest.mark.parametrize(
    ("crop", "shape", "rows", "cols"),
    [
        ((-352, 0, 0.5, 1216), (375, 1242), (23, 375), (13, 1229)),
        ((-352, 0, 0.5, 1216), (370, 1224), (18, 370), (4, 1220)),
        ((10, 20, 30, 40), (100, 200), (10, 30), (30, 70)),
        ((10, -5, 0, 0), (100, 200), (10, 95), (0, 200)),
        ((0.25, 10, -30, 20), (100, 200), (20, 30), (170, 190)),
        ((5, -7), (100, 200), (5, 100), (0, 193)),
        ((), (100, 200), (0, 100), (0, 200)),
        (None, (100, 200), (0, 100), (0, 200)),
    ],
)
def test_crop_grammar(crop, shape, rows, cols):
    assert crop_window(check_crop(crop), shape) == (slice(*rows), slice(*cols))


@pytest.mark.parametrize(
    "crop", [(1,), (1, 2, 3), (0.5, 2), ("a", 1), (True, 1), (0, 10.0, 0, 10), (0.5, 0, 0, 1), (1.5, 4, 0, 1)]
)
def test_crops_of_another_form(crop):
    with pytest.raises(ValueError, match="crop"):
        check_crop(crop)


def test_crop_cuts_every_map_in_training_and_evaluation(tmp_path):
    written = kitti(tmp_path)
    keep = np.arange(40 * 126).reshape(40, 126) % 3 > 0
    write_mask(tmp_path / "hood.png", keep)
    options = {"crop": [-30, 0, 0.5, 100], "mask": "hood.png", "input_depth_type": "velodyne"}
    frame = build(tmp_path, **options).frame(1)
    maps, window = list(written.values())[1], (slice(10, 40), slice(13, 113))
    for key in ("rgb", "depth", "input_depth"):
        np.testing.assert_array_equal(getattr(frame, key), maps[key][window])
    np.testing.assert_array_equal(frame.mask, keep[window])
    augmentation = {"jittering": ()}
    train = build(tmp_path, train=True, image_shape=(30, 100), augmentation=augmentation, **options)
    np.testing.assert_array_equal(train[1]["depth"][0].numpy(), maps["depth"][window])
    message = r"0000000000.png: got the crop \(-50, 0, 0, 0\) does not fit 126x40 pixels; .*option crop"
    with pytest.raises(DataError, match=message):
        build(tmp_path, crop=[-50, 0, 0, 0])


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "corrupt", "text"])
def test_every_fault_of_an_npz_file_has_its_own_message(tmp_path, how):
    file = tmp_path / "a.npz"
    depth = np.random.default_rng(0).uniform(1, 9, (20, 30)).astype(np.float32)
    np.savez_compressed(file, velodyne_depth=depth)
    np.testing.assert_array_equal(read_depth_npz(file, "velodyne_depth"), depth)
    spoil(file, how)
    got = "no such file" if how == "missing" else "a damaged or truncated file"
    with pytest.raises(DataError, match=rf"a\.npz: got {got}.*; expected an npz file with the key 'velodyne"):
        read_depth_npz(file, "velodyne_depth")


def test_npz_files_that_hold_something_else(tmp_path):
    file = tmp_path / "a.npz"
    for arrays, got in (
        ({"depth": np.ones((2, 2))}, r"no key 'velodyne_depth' \(it has depth\)"),
        ({"velodyne_depth": np.ones((2, 2, 1))}, r"float64 \[2, 2, 1\]"),
        ({"velodyne_depth": np.array([["a"]])}, r"<U1 \[1, 1\]"),
        # A pickle would run code when it is read.
        (
            {"velodyne_depth": np.array([[{}]], dtype=object)},
            "a damaged or truncated file .*allow_pickle=False",
        ),
    ):
        np.savez(file, **arrays)
        with pytest.raises(DataError, match=f"a.npz: got {got}"):
            read_depth_npz(file, "velodyne_depth")
    with open(file, "wb") as out:
        np.save(out, np.ones((2, 2)))
    with pytest.raises(DataError, match="a.npz: got a file that is no npz archive"):
        read_depth_npz(file, "velodyne_depth")
    np.savez(file, velodyne_depth=np.array([[np.nan, np.inf, -1, 0, 2.5]]))
    np.testing.assert_array_equal(read_depth_npz(file, "velodyne_depth"), np.float32([[0, 0, 0, 0, 2.5]]))


def test_check_names_every_faulty_file_of_a_frame(tmp_path):
    kitti(tmp_path, frames=4)
    data = build(tmp_path, input_depth_type="velodyne")
    assert data.check(progress=False) == []
    depth = tmp_path / DRIVE / "proj_depth"
    spoil(tmp_path / DRIVE / "image_03/data/0000000001.png", "truncated")
    spoil(depth / "groundtruth/image_03/0000000001.png", "8-bit")
    spoil(depth / "velodyne/image_03/0000000001.npz", "truncated")
    np.savez(depth / "velodyne/image_02/0000000002.npz", velodyne_depth=np.ones((39, 126), np.float32))
    write_depth_png(depth / "groundtruth/image_02/0000000002.png", np.ones((40, 125)))
    faults = data.check()
    assert len(faults) == 5
    for text, parts in zip(
        faults,
        [
            ("image_03/data/0000000001.png", "truncated"),
            ("groundtruth/image_03/0000000001.png", "8-bit greyscale PNG; expected a 16-bit"),
            ("velodyne/image_03/0000000001.npz", "truncated"),
            ("groundtruth/image_02/0000000002.png", "125x40 pixels; expected 126x40 as in"),
            ("velodyne/image_02/0000000002.npz", "126x39 pixels; expected 126x40 as in"),
        ],
        strict=True,
    ):
        assert all(part in text for part in parts), (text, parts)
    with pytest.raises(DataError, match=r"(?s)0000000002\.png: got 125x40.*0000000002\.npz: got 126x39"):
        data[2]


@pytest.mark.parametrize(
    ("break_it", "options", "message"),
    [
        (None, {"split": "none.txt"}, "none.txt: got no such file; expected a text file with one image path"),
        (lambda p: (p / "split.txt").write_text("# none\n"), {}, "split.txt: got no image path"),
        (
            lambda p: (p / "split.txt").write_text("a/b.png\n"),
            {},
            r"split\.txt: got the image path 'a/b\.png' \(line 1 of split\.txt\); expected DATE/.*image_02",
        ),
        (
            lambda p: (p / "split.txt").write_bytes(b"\xff\xfe\x00"),
            {},
            "split.txt: got a file that cannot be",
        ),
        (
            lambda p: (p / DRIVE / "image_03/data/0000000001.png").unlink(),
            {},
            r"no file for 1 of 3 frames \(line 2 of split\.txt: 2011_09_26/.*image_03/data/0000000001\.png\)",
        ),
        (
            lambda p: write_rgb(p / DRIVE / "image_02/data/0000000000.png", np.zeros((41, 126, 3), np.uint8)),
            {},
            r"groundtruth/image_02/0000000000\.png: got 126x40 pixels; expected 126x41",
        ),
        (None, {"mask": "nowhere.png"}, "nowhere.png: got no such file; expected a mask"),
        (None, {"path": "/nowhere"}, "nowhere: got no such folder; expected a folder with DATE/DRIVE_sync"),
        (None, {"offset": 3}, "no frame with offset=3"),
    ],
)
def test_faults_show_at_start_up(tmp_path, break_it, options, message):
    kitti(tmp_path)
    if break_it:
        break_it(tmp_path)
    with pytest.raises(DataError, match=message):
        build(**{"path": tmp_path, **options})


def test_a_unit_that_cannot_be_is_said_at_start_up(tmp_path, caplog):
    kitti(tmp_path)
    with caplog.at_level(logging.WARNING, "depthloss.data"):
        build(tmp_path, min_depth=70.0)
    (message,) = caplog.messages
    assert "has no depth between 70 and 80 m; is proj_depth/groundtruth in metres?" in message
