"""Small data sets in the layouts of the public ones; each maker returns the metres that it wrote."""

import json

import numpy as np
from PIL import Image

from depthloss.training.data import write_depth_png, write_rgb

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"


def depth_map(rng, shape, scale=256.0, valid=0.3, low=1.0, high=60.0):
    """Depth in metres that a PNG of this scale holds exactly; 0 = invalid."""
    units = np.rint(rng.uniform(low, high, shape) * scale)
    return (np.where(rng.random(shape) < valid, units, 0) / scale).astype(np.float32)


def picture(rng, shape):
    return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)


def write_mask(file, keep):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(keep.astype(np.uint8) * 255).save(file)


def kitti(root, frames=3, shape=(40, 126), cameras=("image_02", "image_03"), velodyne=True):
    """KITTI raw and split.txt; {image path: {"rgb", "depth", "input_depth"}} in the order of the split."""
    rng = np.random.default_rng(0)
    written = {}
    for i in range(frames):
        camera = cameras[i % len(cameras)]
        image = f"{DRIVE}/{camera}/data/{i:010d}.png"
        maps = {"rgb": picture(rng, shape), "depth": depth_map(rng, shape)}
        write_rgb(root / image, maps["rgb"])
        write_depth_png(root / DRIVE / "proj_depth/groundtruth" / camera / f"{i:010d}.png", maps["depth"])
        if velodyne:
            # Metres as they are: an npz file holds more than 1/256 m.
            maps["input_depth"] = depth_map(rng, shape, scale=1000.0, valid=0.05)
            file = root / DRIVE / "proj_depth/velodyne" / camera / f"{i:010d}.npz"
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(file, velodyne_depth=maps["input_depth"])
        written[image] = maps
    (root / "split.txt").write_text("\n".join(written) + "\n")
    return written


def ncdb(root, frames=4, shape=(24, 40), depth_folder="newest_depth_maps", low=1.0, high=15.0):
    """Two NCDB sequences; splits of the first frames (train), the last (val), and one of each (test).

    Returns:
        {"SEQUENCE/STEM": {"rgb", "depth", "car", "road"}}.
    """
    rng = np.random.default_rng(1)
    written, entries = {}, []
    for i in range(frames):
        sequence, stem = f"seq{i % 2}_A/synced_data", f"17000{i}.5"
        maps = {"rgb": picture(rng, shape), "depth": depth_map(rng, shape, low=low, high=high)}
        write_rgb(root / sequence / "image_a6" / f"{stem}.png", maps["rgb"])
        write_depth_png(root / sequence / depth_folder / f"{stem}.png", maps["depth"])
        masks = root / sequence / "segmentation_results/class_masks"
        cars = [rng.random(shape) < 0.2 for _ in range(i % 3)]  # 0, 1 or 2 instances
        for k, car in enumerate(cars):
            write_mask(masks / "car" / f"{stem}_{k}.png", car)
        maps["car"] = np.logical_or.reduce([*cars, np.zeros(shape, bool)])
        maps["road"] = rng.random(shape) < 0.5
        write_mask(masks / "road" / f"{stem}.png", maps["road"])
        written[f"{sequence}/{stem}"] = maps
        entries.append({"dataset_root": sequence, "new_filename": stem})
    for split, chosen in {"train": entries[:-1], "val": entries[-1:], "test": entries[:2]}.items():
        (root / "splits").mkdir(exist_ok=True)
        (root / "splits" / f"combined_{split}.json").write_text(json.dumps(chosen))
    return written


def nyu(root, frames=3, shape=(24, 32), channels_first=True):
    """NYU as h5 files in two folders; {name: {"rgb", "depth", "sparse"}}."""
    import h5py

    rng = np.random.default_rng(2)
    written = {}
    for i in range(frames):
        name = f"{'kitchen' if i % 2 else 'bath'}_0001/{i:05d}"
        maps = {
            "rgb": picture(rng, shape),
            "depth": depth_map(rng, shape, scale=1000.0, valid=0.9, high=10.0),
            "sparse": depth_map(rng, shape, scale=1000.0, valid=0.05, high=10.0),
        }
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(root / f"{name}.h5", "w") as file:
            for key, value in maps.items():
                file[key] = value.transpose(2, 0, 1) if key == "rgb" and channels_first else value
        written[name] = maps
    return written


def nyu_labeled(root, frames=4, shape=(24, 32)):
    """NYU's file: axes [H, W, N] and [H, W, 3, N] reversed in HDF5; {name: array [N, H, W, ...]}."""
    import h5py

    rng = np.random.default_rng(4)
    raw = rng.uniform(0.7, 9.9, (frames, *shape)).astype(np.float32)
    filled, raw[:, 3:9] = raw.copy(), 0
    pictures = rng.integers(0, 256, (frames, *shape, 3), np.uint8)
    written = {"images": pictures, "rawDepths": raw, "depths": filled}
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        for name, stack in written.items():
            axes = (0, 3, 2, 1) if stack.ndim == 4 else (0, 2, 1)
            file.create_dataset(name, data=stack.transpose(axes), chunks=True, compression="gzip")
        for name in ("labels", "instances"):
            file[name] = np.zeros((frames, *shape[::-1]), np.uint16)
        file["accelData"] = np.zeros((4, frames), np.float32)
        file["#refs#/a"] = np.zeros((3, 2, 2), np.float32)
    return written


def spoil(file, how):
    """Damage a file on purpose."""
    good = file.read_bytes()
    if how == "missing":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "truncated":
        file.write_bytes(good[: len(good) // 2])
    elif how == "corrupt":
        middle = len(good) // 2
        file.write_bytes(
            good[:middle] + bytes(255 - b for b in good[middle : middle + 20]) + good[middle + 20 :]
        )
    elif how == "text":
        file.write_text("version https://git-lfs.github.com/spec/v1")
    elif how == "8-bit":
        Image.fromarray(np.ones((4, 4), np.uint8)).save(file)
    elif how == "colour":
        Image.fromarray(np.ones((4, 4, 3), np.uint8)).save(file)
    elif how == "folder":
        file.unlink()
        file.mkdir()
    else:
        raise ValueError(how)
