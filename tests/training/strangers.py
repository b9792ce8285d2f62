"""Small data sets of every layout, for tests that hold for all of them."""

import logging

import numpy as np

from depthloss.training.data import build_dataset, write_depth_png, write_rgb

from .layouts import DRIVE, depth_map, kitti, ncdb, nyu, picture

SHAPE = (8, 12)
COMMON = {"image_shape": SHAPE, "min_depth": 0.1, "max_depth": 80.0, "train": False}


def rgbd(root, frames=3, shape=SHAPE, folders=("depth", "input_depth", "mask", "classes/car")):
    """An rgbd-folder with frames in sub-folders."""
    rng = np.random.default_rng(3)
    for i in range(frames):
        name = f"{'kitchen' if i % 2 else 'bath'}/{i}"
        write_rgb(root / f"rgb/{name}.png", picture(rng, shape))
        for folder in folders:
            write_depth_png(root / folder / f"{name}.png", depth_map(rng, shape))


# By data set: its maker and options, a scene with the frames 0 and 2, picture and depth map of frame 2.
LAYOUTS = {
    "rgbd-folder": (rgbd, {}, "rgb/bath", "rgb/bath/2.png", "depth/bath/2.png"),
    "kitti": (
        kitti,
        {"split": "split.txt", "input_depth_type": "velodyne_raw", "depth_type": "groundtruth"},
        DRIVE,
        f"{DRIVE}/image_02/data/0000000002.png",
        f"{DRIVE}/proj_depth/groundtruth/image_02/0000000002.png",
    ),
    "ncdb": (
        ncdb,
        {"split": "all.json"},
        "seq0_A",
        "seq0_A/synced_data/image_a6/170002.5.png",
        "seq0_A/synced_data/newest_depth_maps/170002.5.png",
    ),
    "nyu-h5": (nyu, {}, "bath_0001", "bath_0001/00002.h5", "bath_0001/00002.h5"),
}


def make(name, root):
    """Make the data set `name` of three frames.

    Returns:
        Its options, and the paths of the scene, the picture and the depth map of `LAYOUTS`.
    """
    maker, options, *paths = LAYOUTS[name]
    maker(root, frames=3, shape=SHAPE)
    if name == "kitti":
        depth = root / DRIVE / "proj_depth"
        (depth / "velodyne_raw").symlink_to("groundtruth")
    if name == "ncdb":
        parts = [(root / f"splits/combined_{split}.json").read_text()[1:-1] for split in ("train", "val")]
        (root / "all.json").write_text(f"[{', '.join(parts)}]")
    return options, *(root / path for path in paths)


def warnings(caplog):
    """The warnings that were logged; what else is logged depends on the tests before."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def frames(name, root, **options):
    """The frames of a data set: the bytes of all maps by the frame's name."""
    data = build_dataset(name, path=root, **{**COMMON, **options})
    maps = ("rgb", "depth", "input_depth", "mask", "classes")
    found = ((data.name(i), data.load(i)) for i in range(len(data)))
    return {key: [a.tobytes() for m in maps if (a := getattr(f, m)) is not None] for key, f in found}
