"""Data sets for training and evaluation. A new one is a `DepthDataset` and one line in `DATASETS`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from depthloss.training.data.base import DepthDataset
from depthloss.training.data.folder import RGBDFolder
from depthloss.training.data.io import (
    DataError,
    read_depth_npz,
    read_depth_png,
    read_mask,
    read_picture,
    read_rgb,
    write_depth_png,
    write_rgb,
)
from depthloss.training.data.kitti import KITTI
from depthloss.training.data.ncdb import NCDB
from depthloss.training.data.nyu import NYUH5
from depthloss.training.data.nyu_labeled import NYULabeled
from depthloss.training.data.sampler import EpochSampler
from depthloss.training.data.synthetic import SyntheticDataset
from depthloss.training.data.transforms import Augmentation
from depthloss.training.errors import did_you_mean

__all__ = [
    "DATASETS",
    "KITTI",
    "NCDB",
    "NYUH5",
    "NYULabeled",
    "Augmentation",
    "DataError",
    "DepthDataset",
    "EpochSampler",
    "RGBDFolder",
    "SyntheticDataset",
    "available_datasets",
    "build_dataset",
    "dataset_options",
    "read_depth_npz",
    "read_depth_png",
    "read_mask",
    "read_picture",
    "read_rgb",
    "write_depth_png",
    "write_rgb",
]

DATASETS: dict[str, type[DepthDataset]] = {
    "synthetic": SyntheticDataset,
    "rgbd-folder": RGBDFolder,
    "kitti": KITTI,
    "ncdb": NCDB,
    "nyu-h5": NYUH5,
    "nyu-labeled": NYULabeled,
}


def available_datasets() -> tuple[str, ...]:
    """Return the names that `build_dataset` knows."""
    return tuple(DATASETS)


def dataset_options(name: str) -> dict[str, inspect.Parameter]:
    """Return the options of a data set beyond those all share.

    Args:
        name: name of a data set.

    Raises:
        ValueError: the name is unknown (the nearest one is named).
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}{did_you_mean(name, DATASETS)}")
    parameters = inspect.signature(DATASETS[name]).parameters
    return {key: p for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def build_dataset(
    name: str,
    *,
    image_shape: tuple[int, int],
    min_depth: float,
    max_depth: float,
    train: bool,
    seed: int = 0,
    augmentation: Mapping[str, Any] | Augmentation | None = None,
    skip_bad_frames: bool = False,
    **options: Any,
) -> DepthDataset:
    """Build a data set by name.

    Args:
        name: one of `available_datasets()`.
        image_shape: (H, W) of every map of a sample.
        min_depth: depth below is invalid (0), in metres.
        max_depth: depth above is invalid (0), in metres.
        train: whether to augment.
        seed: seed of the augmentation, >= 0.
        augmentation: mapping with the fields of `Augmentation`; None = its defaults.
        skip_bad_frames: continue where the files of a frame are missing or faulty, see `DepthDataset`.
        **options: options of the data set, see its class.

    Returns:
        The data set; see `DepthDataset` for its samples.

    Raises:
        ValueError: unknown name, or a value out of range.
        TypeError: unknown or missing option (the known ones and the nearest are named).
        DataError: the files are missing or faulty.
    """
    known = dataset_options(name)
    for key in options:
        if key not in known:
            raise TypeError(f"dataset {name!r} has no option {key!r}{did_you_mean(key, known)}")
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in options:
            raise TypeError(f"dataset {name!r} needs the option {key!r}; its options: {', '.join(known)}")
    return DATASETS[name](
        image_shape=image_shape,
        min_depth=min_depth,
        max_depth=max_depth,
        train=train,
        seed=seed,
        augmentation=augmentation,
        skip_bad_frames=skip_bad_frames,
        **options,
    )
