"""`frame`, and what `skip_bad_frames` does with files that are missing or damaged."""

import logging

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from depthloss.training.data import DataError, base, build_dataset

from .layouts import depth_map, kitti, ncdb, nyu, picture, spoil, write_depth_png, write_mask, write_rgb

COMMON = {
    "image_shape": (24, 32),
    "min_depth": 1.0,
    "max_depth": 80.0,
    "train": True,
    "skip_bad_frames": True,
}
SHAPE = (48, 64)


def make(path, frames=6):
    rng = np.random.default_rng(0)
    for i in range(frames):
        write_rgb(path / f"rgb/{i}.png", picture(rng, SHAPE))
        for folder in ("depth", "input_depth"):
            write_depth_png(path / folder / f"{i}.png", depth_map(rng, SHAPE))
        write_mask(path / f"mask/{i}.png", rng.random(SHAPE) < 0.9)
        write_mask(path / f"classes/{'car' if i % 2 else 'tree'}/{i}.png", rng.random(SHAPE) < 0.2)
    return path


def build(path, **options):
    return build_dataset("rgbd-folder", path=path, **{**COMMON, **options})


def test_frame_is_at_stored_size_within_range_and_not_augmented(tmp_path):
    make(tmp_path)
    data = build(tmp_path, min_depth=10.0, augmentation={"flip_prob": 1.0})
    stored, frame = data.load(2), data.frame(2)
    np.testing.assert_array_equal(frame.rgb, stored.rgb)
    for key in ("depth", "input_depth"):
        full = getattr(stored, key)
        np.testing.assert_array_equal(getattr(frame, key), np.where(full >= 10, full, 0))
        assert ((full > 0) & (full < 10)).any()
    np.testing.assert_array_equal(data.frame(-1).rgb, data.load(5).rgb)
    with pytest.raises(IndexError, match="index 6 is out of range for a data set of 6 frames"):
        data.frame(6)


def test_folder_classes_are_read_for_evaluation(tmp_path):
    make(tmp_path)
    data = build(tmp_path, train=False, skip_bad_frames=False)
    assert data.class_names == ("car", "tree")
    for i in range(2):
        frame, sample = data.frame(i), data[i]
        assert frame.classes.shape == (*SHAPE, 2) and frame.classes.dtype == bool
        assert frame.classes[..., 1 - i].any() and not frame.classes[..., i].any()
        # Nearest by pixel centres: every second row and column from the first or second on.
        np.testing.assert_array_equal(sample["classes"].numpy(), frame.classes[1::2, 1::2].transpose(2, 0, 1))
    assert "classes" not in build(tmp_path)[0]
    assert build(tmp_path, train=False, classes=["tree"])[0]["classes"].shape == (1, 24, 32)
    with pytest.raises(DataError, match="classes: got no class 'tres'; did you mean 'tree'"):
        build(tmp_path, train=False, classes=["tres"])
    write_mask(tmp_path / "classes/tree/4.png", np.ones((3, 3), bool))
    with pytest.raises(
        DataError, match="classes/tree/4.png: got 3x3 pixels; expected 64x48 as in .*rgb/4.png"
    ):
        data[4]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_training_takes_the_next_readable_frame(tmp_path, caplog):
    data = build(make(tmp_path))
    assert data[0, 1]["skipped"] == 0 and "skipped" not in build(tmp_path, skip_bad_frames=False)[0]
    spoil(tmp_path / "depth/5.png", "truncated")
    spoil(tmp_path / "rgb/0.png", "missing")
    with caplog.at_level(logging.WARNING, "depthloss.data"):
        sample = data[3, 5]
        assert (sample["name"], sample["index"], sample["skipped"]) == ("1", 1, 2)
        batch = next(iter(DataLoader(data, batch_size=6)))
    assert batch["skipped"].dtype == torch.int64 and batch["skipped"].tolist() == [1, 0, 0, 0, 0, 2]
    assert batch["name"] == ["1", "1", "2", "3", "4", "1"]
    # Each is named once, whatever the number of times that it is met.
    assert [m.split(" is skipped: ")[0] for m in warnings(caplog)] == ["frame 5", "frame 0"]
    assert "depth/5.png: got a damaged or truncated file" in caplog.text
    assert torch.equal(data[3, 5]["rgb"], sample["rgb"])
    with pytest.raises(DataError, match="depth/5.png: got a damaged"):
        build(tmp_path, skip_bad_frames=False, names=["1", "5"])[1]


def test_evaluation_takes_an_empty_frame(tmp_path, caplog):
    make(tmp_path)
    spoil(tmp_path / "input_depth/4.png", "8-bit")
    data = build(tmp_path, train=False)
    with caplog.at_level(logging.WARNING, "depthloss.data"):
        batch = next(iter(DataLoader(data, batch_size=6)))
    (message,) = warnings(caplog)
    assert message.startswith("frame 4 is skipped")
    assert batch["skipped"].tolist() == [0, 0, 0, 0, 1, 0] and batch["index"].tolist() == list(range(6))
    for key in ("rgb", "depth", "input_depth", "mask", "classes"):
        assert not batch[key][4].any() and batch[key][3].any(), key
    frame = data.frame(4)
    assert frame.depth.shape == (24, 32) and frame.classes.shape == (24, 32, 2) and not frame.depth.any()
    assert len(data.check(progress=False)) == 1


def test_too_many_in_a_row_is_a_fault(tmp_path, monkeypatch):
    data = build(make(tmp_path))
    for i in (1, 2, 3):
        spoil(tmp_path / f"depth/{i}.png", "empty")
    assert data[1]["skipped"] == 3
    monkeypatch.setattr(base, "MAX_TRIES", 3)
    with pytest.raises(
        DataError, match="3 frames in a row cannot be read, the last: .*depth/3.png: got an empty"
    ):
        data[1]
    monkeypatch.undo()
    for i in (0, 4, 5):
        spoil(tmp_path / f"depth/{i}.png", "empty")
    for train in (True, False):
        with pytest.raises(DataError, match="6 frames in a row cannot be read"):
            build(tmp_path, train=train)


def test_missing_files_at_start_up_are_warned_of(tmp_path, caplog):
    make(tmp_path)
    (tmp_path / "rgb/0.png").unlink()
    (tmp_path / "input_depth/3.png").unlink()
    with pytest.raises(DataError, match=r"rgb: got no file for 1 of 6 frames \(0\)"):
        build(tmp_path, skip_bad_frames=False)
    with caplog.at_level(logging.WARNING, "depthloss.data"):
        data = build(tmp_path)
    assert len(data) == 6 and data[0]["skipped"] == 1 and data[3]["skipped"] == 1
    for text in ("rgb: got no file for 1 of 6 frames (0)", "input_depth: got no file for 1 of 6 frames (3)"):
        assert text in caplog.text
    for i in range(1, 6):
        (tmp_path / f"rgb/{i}.png").rename(tmp_path / f"rgb/{i}x.png")
    with pytest.raises(DataError, match="rgb: got no file for 6 of 6 frames"):
        build(tmp_path, names=[str(i) for i in range(6)])


@pytest.mark.parametrize("name", ["kitti", "ncdb", "nyu-h5"])
def test_every_layout_skips(tmp_path, name):
    if name == "kitti":
        kitti(tmp_path)
        bad, options = next(tmp_path.rglob("groundtruth/*/0000000001.png")), {"split": "split.txt"}
    elif name == "ncdb":
        ncdb(tmp_path)
        bad, options = next(tmp_path.rglob("newest_depth_maps/170001.5.png")), {"split": "train"}
    else:
        nyu(tmp_path)
        bad, options = tmp_path / "bath_0001/00002.h5", {}
    for train in (True, False):
        data = build_dataset(name, path=tmp_path, **{**COMMON, "train": train, **options})
        good = bad.read_bytes()
        spoil(bad, "truncated")
        samples = list(DataLoader(data, batch_size=3))[0]
        bad.write_bytes(good)
        assert samples["skipped"].tolist() == [0, 1, 0]
        assert samples["index"].tolist() == ([0, 2, 2] if train else [0, 1, 2])
        assert samples["depth"][1].any() == train


@pytest.mark.parametrize("name", ["rgbd-folder", "kitti", "ncdb", "nyu-h5"])
def test_names_of_frames_are_kept_in_arrays(tmp_path, name):
    """Python objects would be copied page by page into every worker."""
    make_it = {"rgbd-folder": make, "kitti": kitti, "ncdb": ncdb, "nyu-h5": nyu}[name]
    make_it(tmp_path, frames=20)
    split = {"kitti": {"split": "split.txt"}, "ncdb": {"split": "train"}}.get(name, {})
    data = build_dataset(name, path=tmp_path, **COMMON, **split)
    arrays = [value for value in vars(data).values() if isinstance(value, np.ndarray)]
    assert any(array.shape == (len(data),) for array in arrays)
    assert all(array.dtype.kind in "Si" for array in arrays)
    for value in vars(data).values():
        assert isinstance(value, np.ndarray) or not hasattr(value, "__len__") or len(value) < 10
