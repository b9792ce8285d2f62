"""Every frame of five public sources against a direct read with Pillow.

The frames are not part of the project: DEPTHLOSS_DATA names a folder with index.json.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from depthloss.training.data import EpochSampler, build_dataset

from .layouts import DRIVE

DATA = Path(os.environ.get("DEPTHLOSS_DATA", Path(__file__).resolve().parents[2] / ".." / "shared" / "data"))
pytestmark = pytest.mark.skipif(
    not (DATA / "index.json").is_file(),
    reason="needs real RGB-D frames: set DEPTHLOSS_DATA to a folder with index.json",
)
# Source: number of frames.
SOURCES = {
    "kitti_raw_sfnd": 16,
    "tri_dgp": 18,
    "sevenscenes_redkitchen": 13,
    "tum_fr2_slambook2": 2,
    "icl_nuim_SYNTHETIC": 5,
}


def records(source):
    return [r for r in json.loads((DATA / "index.json").read_text()) if r["source"] == source]


def pixels(file):
    with Image.open(DATA / file) as image:
        return np.asarray(image)


@pytest.mark.parametrize("source", SOURCES)
def test_every_frame_is_what_pillow_reads(source):
    found = records(source)
    assert len(found) == SOURCES[source]
    (scale,) = {record["depth_scale"] for record in found}
    raw = "depth_raw" if "depth_raw" in found[0] else None
    data = build_dataset(
        "rgbd-folder", path=DATA / source, depth_scale=scale, input_depth=raw, image_shape=(96, 128),
        min_depth=0.0, max_depth=300.0, train=False,
    )  # fmt: skip
    assert [data.name(i) for i in range(len(data))] == sorted(record["id"] for record in found)
    assert data.check(progress=False) == []
    for index, record in enumerate(sorted(found, key=lambda record: record["id"])):
        frame = data.frame(index)
        np.testing.assert_array_equal(frame.rgb, pixels(record["rgb"]))
        stored = pixels(record["depth"])
        np.testing.assert_array_equal(frame.depth, stored.astype(np.float32) / np.float32(scale))
        assert frame.depth.shape == tuple(record["depth_size"][::-1])
        valid, stats = frame.depth[frame.depth > 0], record["stats"]
        assert valid.size / frame.depth.size == pytest.approx(stats["valid_frac"], abs=1e-4)
        assert [valid.min(), valid.max()] == pytest.approx([stats["min"], stats["max"]], abs=1e-3)
        if raw:
            stored = pixels(record["depth_raw"])
            np.testing.assert_array_equal(frame.input_depth, stored.astype(np.float32) / np.float32(scale))
        else:
            assert frame.input_depth is None


def test_driving_frames_load_at_training_size():
    data = build_dataset(
        "rgbd-folder", path=DATA / "kitti_raw_sfnd", input_depth="depth_raw", image_shape=(96, 320),
        min_depth=1.0, max_depth=80.0, train=True,
    )  # fmt: skip
    batch = next(iter(DataLoader(data, batch_size=4, sampler=EpochSampler(data, True, 0))))
    assert batch["rgb"].shape == (4, 3, 96, 320)
    for key in ("depth", "input_depth"):
        assert batch[key].shape == (4, 1, 96, 320)
        valid = batch[key][batch[key] > 0]
        assert 0.2 < valid.numel() / batch[key].numel() < 0.5
        assert valid.min() >= 1 and valid.max() <= 80
        # Scattered, not interpolated: still multiples of 1/256 m.
        assert torch.equal(valid * 256, (valid * 256).round())


def test_driving_frames_in_the_layout_of_kitti_raw(tmp_path):
    """With the crop of packnet-sfm: the bottom 352 rows and the middle 1216 columns."""
    found = records("kitti_raw_sfnd")[:2]
    lines = []
    for record in found:
        file = f"image_02/data/{record['id']}.png"
        depth = tmp_path / DRIVE / "proj_depth"
        velodyne = depth / f"velodyne/image_02/{record['id']}.npz"
        links = {tmp_path / DRIVE / file: "rgb", depth / f"groundtruth/image_02/{record['id']}.png": "depth"}
        for link, key in links.items():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((DATA / record[key]).resolve())
        velodyne.parent.mkdir(parents=True, exist_ok=True)
        np.savez(velodyne, velodyne_depth=pixels(record["depth_raw"]) / 256)
        lines.append(f"{DRIVE}/{file}")
    (tmp_path / "split.txt").write_text("\n".join(lines))
    data = build_dataset(
        "kitti", path=tmp_path, split="split.txt", input_depth_type="velodyne", crop=[-352, 0, 0.5, 1216],
        image_shape=(352, 1216), min_depth=0.0, max_depth=300.0, train=False,
    )  # fmt: skip
    window = (slice(375 - 352, 375), slice(621 - 608, 621 + 608))
    for index, record in enumerate(found):
        sample = data[index]
        rgb = pixels(record["rgb"])[window].transpose(2, 0, 1)
        np.testing.assert_array_equal(np.rint(sample["rgb"].numpy() * 255), rgb)
        for key, file in (("depth", "depth"), ("input_depth", "depth_raw")):
            np.testing.assert_array_equal(sample[key][0].numpy() * 256, pixels(record[file])[window])
