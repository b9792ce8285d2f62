"""What every data set shares: the way from a stored frame to a sample, and the check of all files."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from depthloss.training.data.io import DataError, logger
from depthloss.training.data.transforms import Augmentation, Frame, augment, limit_range, resize


class DepthDataset(Dataset[dict[str, Any]], ABC):
    """Base of the data sets.

    A subclass gives `__len__`, `load` and `name`; the keyword-only arguments of its `__init__` are its
    options in `build_dataset`.

    A sample is a dict of
        "rgb": float32 [3, H, W] in [0, 1];
        "depth": float32 [1, H, W] in metres, 0 = invalid;
        "input_depth": float32 [1, H, W] in metres, 0 = none (only if the data set has it);
        "mask": bool [1, H, W], True = keep (only if the data set has it);
        "name": str; "index": int.

    Args:
        image_shape: (H, W) of every map of a sample.
        min_depth: depth below is invalid (0), in metres.
        max_depth: depth above is invalid (0), in metres.
        train: whether to augment.
        seed: seed of the augmentation, >= 0.
        augmentation: mapping with the fields of `Augmentation`; None = its defaults.

    Raises:
        ValueError: an argument is out of range.
        TypeError: `augmentation` has an unknown key.
    """

    def __init__(
        self,
        *,
        image_shape: tuple[int, int],
        min_depth: float,
        max_depth: float,
        train: bool,
        seed: int = 0,
        augmentation: Mapping[str, Any] | Augmentation | None = None,
    ) -> None:
        shape = tuple(image_shape)
        if len(shape) != 2 or any(isinstance(s, bool) or int(s) != s or s < 1 for s in shape):
            raise ValueError(f"image_shape must be two positive integers (H, W), got {image_shape!r}")
        if not (0 <= min_depth < max_depth and math.isfinite(max_depth)):
            raise ValueError(
                f"0 <= min_depth < max_depth needed (metres), got {min_depth!r} and {max_depth!r}"
            )
        if seed < 0:
            raise ValueError(f"seed must be >= 0, got {seed!r}")
        self.image_shape = (int(shape[0]), int(shape[1]))
        self.min_depth = float(min_depth)
        self.max_depth = float(max_depth)
        self.train = bool(train)
        self.seed = int(seed)
        self.augmentation = Augmentation.from_dict(augmentation)

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of frames."""

    @abstractmethod
    def load(self, index: int) -> Frame:
        """Return frame `index` (0 <= index < len) as stored, before range limits and augmentation."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of frame `index`, for logs and pictures."""

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return one sample.

        Args:
            key: an index (epoch 0), or (epoch, index) as `EpochSampler` yields it. In training the
                augmentation depends on (seed, epoch, index) only.

        Raises:
            IndexError: the index is out of range.
            DataError: a file of the frame is missing or faulty.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        epoch, index = operator.index(epoch), operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for a data set of {len(self)} frames")
        index %= len(self)
        frame = self._limit(self.load(index))
        if self.train:
            frame = augment(
                frame, self.augmentation, self.image_shape, seed=self.seed, epoch=epoch, index=index
            )
        else:
            frame = resize(frame, self.image_shape)
        return self._sample(frame, index)

    def check(self, progress: bool = True) -> list[str]:
        """Read every frame and collect every fault.

        Also logs a warning with the number of frames that have no depth within [min_depth, max_depth].

        Args:
            progress: show a progress bar.

        Returns:
            One message per fault, in order of the frames; empty if all is well.
        """
        faults: list[str] = []
        empty = 0
        for index in tqdm(range(len(self)), desc="checking data", unit="frame", disable=not progress):
            found = self.faults(index)
            faults += found
            if not found and not self._limit(self.load(index)).depth.any():
                empty += 1
        if empty:
            logger.warning(
                "%d of %d frames have no depth within [%g, %g] m; is the unit (depth_scale) right?",
                empty, len(self), self.min_depth, self.max_depth,
            )  # fmt: skip
        return faults

    def faults(self, index: int) -> list[str]:
        """Return the faults of frame `index`; a data set of several files per frame names each of them."""
        try:
            self.load(index)
        except DataError as error:
            return [str(error)]
        return []

    def _limit(self, frame: Frame) -> Frame:
        # Before the resize: a point out of range must not win a pixel from a valid one.
        def limit(depth: np.ndarray | None) -> np.ndarray | None:
            return None if depth is None else limit_range(depth, self.min_depth, self.max_depth)

        return Frame(frame.rgb, limit(frame.depth), limit(frame.input_depth), frame.mask)

    def _sample(self, frame: Frame, index: int) -> dict[str, Any]:
        rgb = np.ascontiguousarray(frame.rgb.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
        sample: dict[str, Any] = {"rgb": torch.from_numpy(rgb), "depth": _plane(frame.depth, np.float32)}
        if frame.input_depth is not None:
            sample["input_depth"] = _plane(frame.input_depth, np.float32)
        if frame.mask is not None:
            sample["mask"] = _plane(frame.mask, np.bool_)
        return {**sample, "name": self.name(index), "index": index}


def _plane(array: np.ndarray, dtype: type) -> torch.Tensor:
    return torch.from_numpy(np.array(array[None], dtype=dtype, order="C"))
