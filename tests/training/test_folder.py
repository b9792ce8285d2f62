"""Faulty files and the `rgbd-folder` data set; real frames are in test_frames.py."""

import importlib.util
import logging
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from depthloss.training.data import (
    DataError,
    EpochSampler,
    build_dataset,
    read_depth_png,
    read_rgb,
    write_depth_png,
    write_rgb,
)
from depthloss.training.data.transforms import resize_depth

from .layouts import spoil
from .test_maps import WRITE

COMMON = {"image_shape": (24, 32), "min_depth": 0.1, "max_depth": 80.0, "train": False}


def random_depth(rng, shape, valid=0.3, low=1.0, high=60.0):
    depth = rng.uniform(low, high, shape).astype(np.float32)
    return np.where(rng.random(shape) < valid, depth, np.float32(0))


def make_folder(path, frames=4, shape=(48, 64), scale=256.0, extra=()):
    """A small data set; `extra` names further depth folders."""
    rng = np.random.default_rng(0)
    for i in range(frames):
        write_rgb(path / "rgb" / f"f{i:02d}.png", rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        for folder in ("depth", *extra):
            write_depth_png(path / folder / f"f{i:02d}.png", random_depth(rng, shape), scale)
    return path


def build_folder(path, **options):
    return build_dataset("rgbd-folder", path=path, **{**COMMON, **options})


def same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]) if torch.is_tensor(a[key]) else a[key] == b[key], key


@pytest.mark.parametrize(
    ("how", "got"),
    [
        ("missing", "got no such file; expected a 16-bit greyscale PNG .*; check the path"),
        ("corrupt", "got a damaged or truncated file .*; expected a 16-bit .*; copy or export it again"),
        ("truncated", "got a damaged or truncated file .*; expected a 16-bit .*; copy or export it again"),
        ("empty", "got an empty file; expected"),
        ("text", "got a file that is no PNG; expected"),
        ("8-bit", "got an 8-bit greyscale PNG; expected a 16-bit greyscale PNG .*; re-export"),
        ("colour", "got an 8-bit RGB PNG; expected a 16-bit greyscale PNG .*; re-export"),
        ("folder", "got a folder; expected a 16-bit greyscale PNG .*; check the path"),
    ],
)
def test_every_fault_of_a_depth_file_has_its_own_message(tmp_path, how, got):
    path = tmp_path / "frame.png"
    write_depth_png(path, random_depth(np.random.default_rng(1), (40, 50)), 256)
    spoil(path, how)
    with pytest.raises(DataError, match=f"frame.png: {got}"):
        read_depth_png(path, 256)


@pytest.mark.parametrize(
    ("how", "got"),
    [("missing", "no such file"), ("corrupt", "damaged"), ("truncated", "damaged"), ("text", "no image")],
)
def test_every_fault_of_a_picture_has_its_own_message(tmp_path, how, got):
    path = tmp_path / "frame.png"
    write_depth_png(path, random_depth(np.random.default_rng(1), (40, 50)), 256)
    spoil(path, how)
    with pytest.raises(DataError, match=f"frame.png: got .*{got}.*; expected an 8-bit RGB PNG or JPEG"):
        read_rgb(path)


def test_range_filter_comes_before_the_resize(tmp_path):
    """A point out of range must not win a pixel from a valid one."""
    depth = np.zeros((48, 64), np.float32)
    depth[0, 0], depth[1, 1] = 0.25, 9.0
    write_rgb(tmp_path / "rgb" / "a.png", np.zeros((48, 64, 3), np.uint8))
    write_depth_png(tmp_path / "depth" / "a.png", depth, 256)
    assert build_folder(tmp_path, min_depth=0.5)[0]["depth"][0, 0, 0] == 9.0


def test_folder_sample_has_the_agreed_form(tmp_path):
    make_folder(tmp_path, extra=("depth_raw",))
    keep = np.zeros((48, 64), np.uint8)
    keep[:24] = 255
    for i in range(4):
        (tmp_path / "mask").mkdir(exist_ok=True)
        Image.fromarray(keep).save(tmp_path / "mask" / f"f{i:02d}.png")
    data = build_folder(tmp_path, input_depth="depth_raw")
    assert len(data) == 4
    sample = data[2]
    assert sample["name"] == "f02" and sample["index"] == 2
    assert sample["rgb"].shape == (3, 24, 32) and sample["rgb"].dtype == torch.float32
    assert 0 <= sample["rgb"].min() and 0.5 < sample["rgb"].max() <= 1
    for key, folder in (("depth", "depth"), ("input_depth", "depth_raw")):
        stored = read_depth_png(tmp_path / folder / "f02.png", 256)
        np.testing.assert_array_equal(sample[key][0].numpy(), resize_depth(stored, (24, 32)))
        assert sample[key].shape == (1, 24, 32) and sample[key].dtype == torch.float32
    assert sample["mask"].dtype == torch.bool
    assert sample["mask"][0, :12].all() and not sample["mask"][0, 12:].any()
    same(data[-2], sample)
    with pytest.raises(IndexError, match="index 4 is out of range for a data set of 4 frames"):
        data[4]
    plain = build_folder(tmp_path, mask=None)
    assert plain[0].keys() == {"rgb", "depth", "name", "index"}
    one = build_folder(tmp_path, mask="mask/f00.png")[3]["mask"]
    assert torch.equal(one, sample["mask"])


def test_folder_depth_scale_and_default_collate(tmp_path):
    make_folder(tmp_path, shape=(24, 32), scale=1000)
    loader = DataLoader(build_folder(tmp_path, depth_scale=1000, max_depth=30.0), batch_size=3)
    batch = next(iter(loader))
    assert batch["rgb"].shape == (3, 3, 24, 32) and batch["depth"].shape == (3, 1, 24, 32)
    assert batch["name"] == ["f00", "f01", "f02"]
    assert batch["index"].dtype == torch.int64 and batch["index"].tolist() == [0, 1, 2]
    stored = read_depth_png(tmp_path / "depth" / "f01.png", 1000)
    np.testing.assert_array_equal(batch["depth"][1, 0].numpy(), np.where(stored > 30, 0, stored))
    assert (stored > 30).any()


@pytest.mark.parametrize("suffix", sorted(WRITE))
def test_depth_maps_of_every_format(tmp_path, suffix):
    """No value is a hole, whatever marks it, and none is mixed with its neighbours in a resize."""
    make_folder(tmp_path, frames=2, extra=("input_depth",))
    depth = np.full((48, 64), 7.0, np.float32)
    depth.flat[::3] = np.resize([0.0, -1.0, np.nan, np.inf, -np.inf, 65535.0], depth[::1].size // 3)
    for file in (*tmp_path.glob("depth/*"), *tmp_path.glob("input_depth/*")):
        file.unlink()
        WRITE[suffix](file.with_suffix(suffix), depth)
    data = build_folder(tmp_path, invalid=[65535], max_depth=1e6)
    holes = np.arange(depth.size).reshape(depth.shape) % 3 == 0
    for stored in (data.load(1).depth, data.load(1).input_depth):
        np.testing.assert_array_equal(stored, np.where(holes, 0, 7))
    assert set(data[1]["depth"].unique().tolist()) <= {0.0, 7.0}
    for one, other in zip(data, DataLoader(data, batch_size=None, num_workers=1), strict=True):
        same(one, other)
    path = tmp_path / f"depth/f01{suffix}"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (found,) = data.check(progress=False)
    assert found.startswith(f"{path}: got ")


def test_which_depth_maps_and_what_they_mean(tmp_path):
    make_folder(tmp_path, frames=1)
    stored = np.array([[1500, 65535] * 32] * 48, np.uint16)
    np.savez(tmp_path / "depth/f00.npz", depth=stored, confidence=stored * 0)
    with pytest.raises(
        DataError, match=r"f00\.npz and f00\.png; expected one .* or choose with the option depth_suffix"
    ):
        build_folder(tmp_path)
    options = {"depth_suffix": ".npz", "depth_scale": 1000}
    with pytest.raises(
        DataError, match=r"f00\.npz: got 2 maps \(depth, confidence\).*\(depth_key of a data set\)"
    ):
        build_folder(tmp_path, **options)
    data = build_folder(tmp_path, **options, depth_key="depth", invalid=[65535])
    np.testing.assert_array_equal(data.load(0).depth[0, :2], np.float32([1.5, 0]))
    assert build_folder(tmp_path, depth_suffix=".png").unit_hint == "is depth_scale=256 right?"
    assert data.unit_hint == "is it in metres, or if it is integers, is depth_scale=1000 right?"
    with pytest.raises(ValueError, match=r"depth_suffix: no format '\.npx'; did you mean"):
        build_folder(tmp_path, depth_suffix=".npx")
    with pytest.raises(ValueError, match="invalid must be a list of numbers"):
        build_folder(tmp_path, depth_suffix=".png", invalid=["none"])


def test_distances_of_hypersim_become_depth(tmp_path):
    make_folder(tmp_path, frames=1)
    (tmp_path / "depth/f00.png").unlink()
    y, x = np.mgrid[:48, :64] - np.array([23.5, 31.5])[:, None, None]
    WRITE[".hdf5"](tmp_path / "depth/f00.hdf5", 3 * np.sqrt(1 + (x**2 + y**2) / (886.81 / 16) ** 2))
    np.testing.assert_allclose(build_folder(tmp_path, hypersim_distance=True).load(0).depth, 3, rtol=1e-6)
    assert build_folder(tmp_path).load(0).depth.max() > 3.3


def test_an_exr_without_its_package_is_no_frame_to_skip(tmp_path, monkeypatch):
    make_folder(tmp_path, frames=2)
    (tmp_path / "depth/f01.png").rename(tmp_path / "depth/f01.exr")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"depth: got an EXR file, and .* 'depthloss\[exr\]'"):
        build_folder(tmp_path, skip_bad_frames=True)


def test_folder_selection(tmp_path):
    make_folder(tmp_path, frames=6)

    def names(**options):
        data = build_folder(tmp_path, **options)
        return [data.name(i)[1:] for i in range(len(data))]

    assert names() == ["00", "01", "02", "03", "04", "05"]
    assert names(limit=2) == ["00", "01"]
    assert names(offset=1, stride=2, limit=2) == ["01", "03"]
    assert names(names=["f04", "f01"]) == ["04", "01"]
    (tmp_path / "val.txt").write_text("# held out\nf05.png 3.2\n\nf00\n")
    assert names(split="val.txt") == ["05", "00"]
    with pytest.raises(ValueError, match="either names or split"):
        names(split="val.txt", names=["f00"])
    with pytest.raises(
        DataError, match=r"rgb: got no file for 1 of 2 frames \(f9\).*correct the list of names"
    ):
        names(names=["f00", "f9"])
    with pytest.raises(DataError, match="nope.txt: got no such file"):
        names(split="nope.txt")
    with pytest.raises(ValueError, match="limit >= 1"):
        names(limit=0)
    with pytest.raises(DataError, match="no frame with offset=6"):
        names(offset=6)


def test_folder_with_subfolders_and_dotted_names(tmp_path):
    for name in ("b/1305.17", "a/x"):
        write_rgb(tmp_path / "rgb" / f"{name}.jpg", np.zeros((24, 32, 3), np.uint8))
        write_depth_png(tmp_path / "depth" / f"{name}.png", np.ones((24, 32)), 256)
    (tmp_path / "rgb" / "._x.jpg").write_bytes(b"hidden")
    data = build_folder(tmp_path)
    assert [s["name"] for s in data] == ["a/x", "b/1305.17"]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda p: p.joinpath("depth").rename(p / "Depth"), "depth: got no such folder"),
        (lambda p: [f.unlink() for f in p.glob("rgb/*")], "rgb: got no image"),
        (lambda p: p.joinpath("depth/f01.png").unlink(), r"depth: got no file for 1 of 4 frames \(f01\)"),
        (lambda p: p.joinpath("rgb/f01.png").unlink(), r"rgb: got no file for 1 of 4 frames \(f01\)"),
        (lambda p: write_rgb(p / "rgb/f01.jpg", np.zeros((4, 4, 3), np.uint8)), "one image per name"),
        (lambda p: spoil(p / "depth/f00.png", "8-bit"), "f00.png: got an 8-bit greyscale PNG"),
        (
            lambda p: write_depth_png(p / "depth/f00.png", np.ones((47, 64)), 256),
            "depth/f00.png: got 64x47 pixels; expected 64x48 as in .*rgb/f00.png",
        ),
    ],
)
def test_folder_faults_show_at_start_up(tmp_path, break_it, message):
    make_folder(tmp_path)
    break_it(tmp_path)
    with pytest.raises(DataError, match=message):
        build_folder(tmp_path)


def test_folder_options_that_name_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: got a file; expected a folder with rgb/NAME"):
        build_folder(tmp_path / "file")
    with pytest.raises(DataError, match="nowhere: got no such folder; expected a folder with rgb/NAME"):
        build_folder(tmp_path / "nowhere")
    make_folder(tmp_path, extra=("depth_raw",))
    with pytest.raises(DataError, match="depth_rw: got no such folder; did you mean 'depth_raw'"):
        build_folder(tmp_path, input_depth="depth_rw")
    (tmp_path / "depth_raw" / "f03.png").unlink()
    with pytest.raises(DataError, match=r"depth_raw: got no file for 1 of 4 frames \(f03\)"):
        build_folder(tmp_path, input_depth="depth_raw")
    assert len(build_folder(tmp_path, input_depth="depth_raw", limit=3)) == 3


def test_check_lists_every_fault_and_frames_without_depth(tmp_path, caplog, capsys, monkeypatch):
    data = build_folder(make_folder(tmp_path, frames=5))
    assert data.check(progress=False) == []
    assert capsys.readouterr().err == ""
    spoil(tmp_path / "depth/f01.png", "truncated")
    write_depth_png(tmp_path / "depth/f02.png", np.ones((24, 32)), 256)
    (tmp_path / "rgb/f03.png").unlink()
    spoil(tmp_path / "depth/f03.png", "colour")
    write_depth_png(tmp_path / "depth/f04.png", np.full((48, 64), 200.0), 256)
    with caplog.at_level(logging.WARNING, "depthloss.data"):
        faults = data.check()
    assert capsys.readouterr().err == ""  # no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert data.check() == faults
    assert "checking data   0%" in capsys.readouterr().err
    assert len(faults) == 4
    for text, parts in zip(
        faults,
        [("f01", "truncated"), ("f02", "32x24"), ("rgb/f03", "no such file"), ("f03", "RGB PNG")],
        strict=True,
    ):
        assert all(part in text for part in parts)
    assert "1 of 5 frames have no depth within [0.1, 80] m" in caplog.text
    with pytest.raises(DataError, match="f01.png: got a damaged or truncated file"):
        data[1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_augmentation_depends_on_seed_epoch_and_index_only(tmp_path):
    make_folder(tmp_path, frames=6, extra=("input_depth",))
    options = {"train": True, "seed": 11, "augmentation": {"crop_scale": (0.5, 1.0), "flip_prob": 0.5}}
    data = build_folder(tmp_path, **options)

    def batches(workers, epoch):
        sampler = EpochSampler(data, shuffle=True, seed=1)
        sampler.set_epoch(epoch)
        return list(DataLoader(data, batch_size=2, sampler=sampler, num_workers=workers))

    alone = batches(0, 1)
    for a, b in zip(alone, batches(2, 1), strict=True):
        same(a, b)
    index = int(alone[0]["index"][0])
    same(data[1, index], {k: v[0] if torch.is_tensor(v) else v[0] for k, v in alone[0].items()})
    assert not torch.equal(data[1, index]["rgb"], data[2, index]["rgb"])
    same(data[0, 3], data[3])
    same(build_folder(tmp_path, **options)[4, 3], data[4, 3])
    assert not torch.equal(build_folder(tmp_path, **{**options, "seed": 12})[4, 3]["rgb"], data[4, 3]["rgb"])
    evaluation = build_folder(tmp_path, **{**options, "train": False})
    same(evaluation[1, 3], evaluation[2, 3])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fault_in_a_worker_keeps_its_type_and_message(tmp_path):
    data = build_folder(make_folder(tmp_path))
    spoil(tmp_path / "depth/f02.png", "corrupt")
    with pytest.raises(DataError, match="f02.png: got a damaged or truncated file"):
        list(DataLoader(data, num_workers=1))


def test_depth_out_of_range_is_said_at_start(tmp_path, caplog):
    make_folder(tmp_path)
    with caplog.at_level("WARNING"):
        build_folder(tmp_path)
        assert not caplog.messages
        build_folder(tmp_path, depth_scale=1.0)
    (message,) = caplog.messages
    assert "has no depth between 0.1 and 80 m; is depth_scale=1 right?" in message
