"""NYU as HDF5 files: what is read is what was written, and every fault."""

import importlib.util

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from depthloss.training.data import DataError, build_dataset

from .layouts import nyu, spoil

COMMON = {"image_shape": (24, 32), "min_depth": 0.1, "max_depth": 10.0, "train": False}


def build(path, **options):
    return build_dataset("nyu-h5", path=path, **{**COMMON, **options})


def replace_key(file, **arrays):
    with h5py.File(file, "a") as h5:
        for key, array in arrays.items():
            del h5[key]
            if array is not None:
                h5[key] = array


@pytest.mark.parametrize("channels_first", [True, False])
def test_frames_are_read_to_the_millimetre(tmp_path, channels_first):
    written = nyu(tmp_path, channels_first=channels_first)
    data = build(tmp_path, input_depth="sparse")
    assert [data.name(i) for i in range(len(data))] == sorted(written)
    for index, name in enumerate(sorted(written)):
        frame, sample, maps = data.frame(index), data[index], written[name]
        np.testing.assert_array_equal(frame.rgb, maps["rgb"])
        for key, stored in (("depth", "depth"), ("input_depth", "sparse")):
            np.testing.assert_array_equal(getattr(frame, key), maps[stored])
            np.testing.assert_allclose(sample[key][0].numpy(), maps[stored], atol=5e-4, rtol=0)
    assert build(tmp_path)[0].keys() == {"rgb", "depth", "name", "index"}
    assert data.check(progress=False) == []


def test_layout_is_told_by_the_size_of_the_depth_map(tmp_path):
    """An image of three rows or columns is the case that the length of the first axis gets wrong."""
    written = nyu(tmp_path, frames=1, shape=(3, 5), channels_first=False)
    np.testing.assert_array_equal(build(tmp_path).frame(0).rgb, *[m["rgb"] for m in written.values()])


def test_split_mask_and_crop(tmp_path):
    written = nyu(tmp_path)
    (tmp_path / "val.txt").write_text("kitchen_0001/00001.h5 # held out\n\nbath_0001/00000.h5\n")
    keep = np.arange(24 * 32).reshape(24, 32) % 4 > 0
    for name in written:
        with h5py.File(tmp_path / f"{name}.h5", "a") as file:
            file["keep"] = keep.astype(np.uint8)
    data = build(tmp_path, split="val.txt", mask="keep", crop=[2, 20, 0.5, 16])
    assert [data.name(i) for i in range(len(data))] == ["kitchen_0001/00001", "bath_0001/00000"]
    frame, window = data.frame(0), (slice(2, 22), slice(8, 24))
    np.testing.assert_array_equal(frame.depth, written["kitchen_0001/00001"]["depth"][window])
    np.testing.assert_array_equal(frame.mask, keep[window])
    assert data[1]["mask"].shape == (1, 24, 32)
    with pytest.raises(DataError, match=r"00000\.h5: got the crop \(45, 426, 41, 560\) does not fit 32x24"):
        build(tmp_path, crop=[45, 426, 41, 560])
    with pytest.raises(
        DataError, match=r"no file for 1 of 2 frames \(line 1 of val\.txt: kitchen_0001/00001\."
    ):
        spoil(tmp_path / "kitchen_0001/00001.h5", "missing")
        build(tmp_path, split="val.txt")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_files_are_read_in_workers(tmp_path):
    nyu(tmp_path)
    data = build(tmp_path)
    alone, workers = (list(DataLoader(data, batch_size=2, num_workers=n)) for n in (0, 2))
    for a, b in zip(alone, workers, strict=True):
        assert torch.equal(a["depth"], b["depth"]) and a["name"] == b["name"]


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "text"])
def test_damaged_files(tmp_path, how):
    nyu(tmp_path)
    data = build(tmp_path)
    spoil(tmp_path / "bath_0001/00002.h5", how)
    got = "no such file" if how == "missing" else "a damaged or truncated file"
    message = rf"bath_0001/00002\.h5: got {got}.*; expected an HDF5 file with the keys rgb and depth"
    with pytest.raises(DataError, match=message):
        data[1]
    (fault,) = data.check(progress=False)
    assert "00002.h5: got " + got in fault


@pytest.mark.parametrize(
    ("arrays", "got"),
    [
        ({"depth": None}, r"no 'depth' \(it has rgb, sparse\); expected an HDF5 file"),
        ({"depth": None, "rgb": None}, r"no 'rgb' and no 'depth' \(it has sparse\)"),
        (
            {"depth": np.ones((1, 24, 32), "f4")},
            r"depth of float32 \[1, 24, 32\]; expected floating-point depth",
        ),
        ({"depth": np.ones((24, 32), "u2")}, r"depth of uint16 \[24, 32\]; expected floating-point depth"),
        (
            {"depth": np.ones((12, 16), "f4")},
            r"rgb of uint8 \[3, 24, 32\]; expected uint8 rgb \[3, 12, 16\] or",
        ),
        (
            {"rgb": np.ones((3, 24, 32), "f4")},
            r"rgb of float32 \[3, 24, 32\]; expected uint8 rgb \[3, 24, 32\]",
        ),
        ({"depth": h5py.Empty("f4")}, r"depth of object \[\]; expected floating-point depth"),
        ({"rgb": np.ones((24, 32), "u1")}, r"rgb of uint8 \[24, 32\]; expected uint8 rgb"),
        ({"sparse": np.ones((24, 31), "f4")}, r"sparse of float32 \[24, 31\]; expected a map \[24, 32\]"),
    ],
)
def test_keys_that_are_missing_or_of_another_form(tmp_path, arrays, got):
    nyu(tmp_path)
    replace_key(tmp_path / "bath_0001/00000.h5", **arrays)
    with pytest.raises(DataError, match=rf"bath_0001/00000\.h5: got {got}"):
        build(tmp_path, **({"input_depth": "sparse"} if "sparse" in arrays else {}))


def test_depth_that_is_no_number_is_invalid(tmp_path):
    written = nyu(tmp_path, frames=1)
    depth = next(iter(written.values()))["depth"].astype(np.float64)
    depth[0, :3] = np.nan, -1.0, np.inf
    replace_key(tmp_path / "bath_0001/00000.h5", depth=depth)
    frame = build(tmp_path).frame(0)
    depth[0, :3] = 0
    np.testing.assert_array_equal(frame.depth, depth.astype(np.float32))
    assert frame.depth.dtype == np.float32


def test_without_h5py_the_error_names_the_fix(tmp_path, monkeypatch):
    nyu(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="HDF5 files with h5py, which is missing; pip install h5py"):
        build(tmp_path)


def test_a_folder_without_files(tmp_path):
    with pytest.raises(DataError, match="got no h5 file; expected files NAME.h5 with the keys rgb and depth"):
        build(tmp_path)
