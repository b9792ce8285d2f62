"""The line that says what a data set holds, and the warning about depth that can hardly be in metres."""

import logging
import random

import numpy as np
import pytest
import torch
from PIL import Image

from depthloss.training.data import SyntheticDataset, build_dataset, write_depth_png, write_rgb
from depthloss.training.data.summary import log_summary, summarise

COMMON = {"image_shape": (8, 12), "min_depth": 0.5, "max_depth": 80.0, "train": False}


def folder(root, depths, scale=256, shape=(10, 10)):
    """Frames whose depth is constant, one for each value in metres."""
    for i, depth in enumerate(depths):
        write_rgb(root / f"rgb/{i:03}.png", np.zeros((*shape, 3), np.uint8))
        write_depth_png(root / f"depth/{i:03}.png", np.full(shape, depth), scale)
    return root


def lines(root, caplog, **options):
    data = build_dataset("rgbd-folder", path=root, **{**COMMON, **options})
    caplog.clear()
    with caplog.at_level(logging.INFO, "depthloss.data"):
        log_summary("train: rgbd-folder", data)
    return caplog.messages


def test_the_line_of_a_data_set(tmp_path, caplog):
    depth = np.zeros((10, 20))
    depth[:5] = np.arange(1, 101).reshape(5, 20) / 2  # 0.5 to 50 m
    write_rgb(tmp_path / "rgb/a.png", np.zeros((10, 20, 3), np.uint8))
    write_depth_png(tmp_path / "depth/a.png", depth, 256)
    text = "train: rgbd-folder, 1 frame, 20x10; depth 0.995 to 49.5 m (1% to 99%), median 25.2 m; "
    assert lines(tmp_path, caplog) == [f"{text}50% valid"]
    # The range is that of the stored depth; valid is what is left of it.
    assert lines(tmp_path, caplog, max_depth=30.0) == [f"{text}30% valid"]
    Image.fromarray((depth < 10).astype(np.uint8)).save(tmp_path / "mask.png")
    assert lines(tmp_path, caplog, mask="mask.png", max_depth=30.0) == [f"{text}9.5% valid"]


def test_some_frames_of_many_are_read(tmp_path, caplog, monkeypatch):
    folder(tmp_path, [1 + i for i in range(22)])
    folder(tmp_path / "more", [1], shape=(12, 14))
    for part in ("rgb", "depth"):
        (tmp_path / f"more/{part}/000.png").rename(tmp_path / part / "021.png")
    data = build_dataset("rgbd-folder", path=tmp_path, **COMMON)
    read, load = [], data.load
    monkeypatch.setattr(data, "load", lambda index: read.append(index) or load(index))
    summary = summarise(data)
    assert read == [0, 3, 6, 9, 12, 15, 18, 21]
    assert (summary.frames, summary.read, summary.unreadable) == (22, 8, 0)
    assert summary.sizes == ((10, 10), (12, 14)) and summary.valid == 1
    assert str(summary).startswith("22 frames, 10x10 to 14x12; depth 1 to 19 m (1% to 99%), median ")
    assert str(summary).endswith("; 100% valid; by 8 frames")
    (tmp_path / "depth/003.png").write_bytes(b"")
    assert str(summarise(data)).endswith("; 100% valid; by 8 frames; 1 of 8 cannot be read")


@pytest.mark.parametrize(
    ("depth", "scale", "options", "warning"),
    [
        (12.5, 256, {}, None),
        (2.0, 256, {"max_depth": 10.0}, None),
        (0.26, 256, {"min_depth": 0.01, "max_depth": 5.0}, None),  # a table
        (0.02, 1000, {"min_depth": 0.001, "max_depth": 0.2, "depth_scale": 1000}, None),  # an endoscope
        (
            5.0, 256, {"depth_scale": 5000, "min_depth": 0.05},
            "the median depth is 0.256 m, very near for a max_depth of 80 m; is depth_scale=5000 right?",
        ),
        (
            5.0, 256, {"depth_scale": 5000},
            "the median depth is 0.256 m, outside of min_depth to max_depth, 0.5 to 80 m; "
            "is depth_scale=5000 right?",
        ),
        (
            2.0, 5000, {"max_depth": 10.0},
            "the median depth is 39.1 m, outside of min_depth to max_depth, 0.5 to 10 m; "
            "is depth_scale=256 right?",
        ),
        (0.0, 256, {}, "no depth at all in the frames read; is depth_scale=256 right?"),
    ],
)  # fmt: skip
def test_a_depth_that_can_hardly_be_in_metres(tmp_path, caplog, depth, scale, options, warning):
    found = lines(folder(tmp_path, [depth] * 2, scale), caplog, **options)
    assert found[1:] == ([f"train: rgbd-folder: {warning}"] if warning else [])


def test_it_draws_nothing_and_needs_no_frame(tmp_path, monkeypatch):
    data = SyntheticDataset(length=3, **COMMON)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = summarise(data)
    assert first == summarise(data)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    data = build_dataset("rgbd-folder", path=folder(tmp_path, [1, 2]), **COMMON)
    for i in range(2):
        (tmp_path / f"depth/00{i}.png").unlink()
    summary = summarise(data)
    assert str(summary) == "2 frames; 2 of 2 cannot be read" and summary.warning is None
