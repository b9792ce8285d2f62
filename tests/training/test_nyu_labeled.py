"""NYU's one file of labelled frames, made by h5py in its layout: exact values, and every fault."""

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from depthloss.training.data import DataError, build_dataset
from depthloss.training.data.maps import read_map
from depthloss.training.data.pairs import pair

from .layouts import nyu_labeled, spoil

COMMON = {"image_shape": (24, 32), "min_depth": 0.1, "max_depth": 10.0, "train": False}


def build(path, **options):
    return build_dataset("nyu-labeled", path=path, **{**COMMON, **options})


@pytest.fixture
def written(tmp_path):
    return nyu_labeled(tmp_path)


@pytest.mark.parametrize("depth", ["raw", "filled"])
def test_frames_come_back_as_stored(tmp_path, written, depth):
    data = build(tmp_path, depth=depth)
    assert [data.name(i) for i in range(len(data))] == ["0001", "0002", "0003", "0004"]
    for i in range(4):
        frame = data.frame(i)
        np.testing.assert_array_equal(frame.rgb, written["images"][i])
        np.testing.assert_array_equal(frame.depth, written["rawDepths" if depth == "raw" else "depths"][i])
    assert data.check(progress=False) == []
    for one, other in zip(data, DataLoader(data, batch_size=None, num_workers=1), strict=True):
        assert torch.equal(one["depth"], other["depth"]) and torch.equal(one["rgb"], other["rgb"])


def test_numbers_of_a_split_and_a_crop(tmp_path, written):
    (tmp_path / "test.txt").write_text("# test\n3 bathroom\n0001\n")
    data = build(tmp_path / "nyu_depth_v2_labeled.mat", split="test.txt", crop=[2, 20, 0.5, 16])
    assert [data.name(i) for i in range(len(data))] == ["0003", "0001"]
    np.testing.assert_array_equal(data.frame(0).depth, written["rawDepths"][2, 2:22, 8:24])
    (tmp_path / "test.txt").write_text("1\n5\n")
    with pytest.raises(DataError, match=r"mat: got no frame for line 2 of test\.txt: 5; .* from 1 to 4"):
        build(tmp_path, split="test.txt")
    with pytest.raises(ValueError, match="depth: no 'fill'; did you mean 'filled'"):
        build(tmp_path, depth="fill")


def test_ground_truth_of_predictions(tmp_path, written):
    (tmp_path / "pred").mkdir()
    for i in (1, 3):
        np.save(tmp_path / f"pred/{i + 1:04d}.npy", written["depths"][i])
    found = pair(tmp_path / "pred", tmp_path / "nyu_depth_v2_labeled.mat")
    assert found.without_pred == ["0001", "0003"] and len(found.files) == 2
    for _, pred, gt in found.files:
        np.testing.assert_array_equal(read_map(pred), read_map(gt, "depths"))


@pytest.mark.parametrize(
    ("how", "got"),
    [
        ("missing", "got no such file"),
        ("empty", "got a damaged or truncated file"),
        ("truncated", "got a damaged or truncated file"),
        ("text", "got a damaged or truncated file"),
    ],
)
def test_damaged_files(tmp_path, written, how, got):
    data = build(tmp_path)
    spoil(tmp_path / "nyu_depth_v2_labeled.mat", how)
    with pytest.raises(DataError, match=rf"nyu_depth_v2_labeled\.mat: {got}.*; expected a MATLAB 7\.3 file"):
        data[0]
    with pytest.raises(DataError, match=got):
        build(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "got"),
    [
        ({"rawDepths": None, "depths": None}, "got stacks of maps: none; expected stacks of one length"),
        ({"rawDepths": np.ones((3, 32, 24))}, "got stacks of maps: depths of 4, rawDepths of 3"),
        ({"rawDepths": None}, "got no key 'rawDepths'; did you mean 'depths'"),
        ({"images": None}, "got no key 'images'"),
        (
            {"images": np.ones((4, 3, 24, 32), "u1")},
            r"got images of uint8 \[4, 3, 24, 32\]; expected uint8 \[N, 3, 32, 24\]",
        ),
        ({"images": np.ones((4, 3, 32, 24), "f4")}, r"got images of float32 \[4, 3, 32, 24\]; expected"),
    ],
)
def test_arrays_that_are_missing_or_of_another_form(tmp_path, written, arrays, got):
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "a") as file:
        for name, array in arrays.items():
            del file[name]
            if array is not None:
                file[name] = array
    with pytest.raises(DataError, match=rf"nyu_depth_v2_labeled\.mat: {got}"):
        build(tmp_path)
