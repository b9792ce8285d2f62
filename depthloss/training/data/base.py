"""What every data set shares: the way from a stored frame to a sample, and the check of all files."""

from __future__ import annotations

import math
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from depthloss.training.data.io import DataError, logger
from depthloss.training.data.transforms import Augmentation, Frame, augment, limit_range, prepare
from depthloss.training.errors import counted
from depthloss.training.progress import Progress

# With skip_bad_frames: so many bad frames in a row are an error of the data set.
MAX_TRIES = 100


class DepthDataset(Dataset[dict[str, Any]], ABC):
    """Base of the data sets.

    A subclass gives `__len__`, `load` and `name`; the keyword-only arguments of its `__init__` are its
    options in `build_dataset`.

    A sample is a dict of
        "rgb": float32 [3, H, W] in [0, 1];
        "depth": float32 [1, H, W] in metres, 0 = invalid;
        "input_depth": float32 [1, H, W] in metres, 0 = none (only if the data set has it);
        "mask": bool [1, H, W], True = keep (only if the data set has it);
        "classes": bool [C, H, W], the pixels of each of `class_names` (for evaluation, if there are any);
        "name": str; "index": int;
        "skipped": int, number of unreadable frames skipped for it (only with `skip_bad_frames`).

    Attributes:
        class_names: the C object classes; empty where frames carry none, as in training.
        maps: the optional maps that every frame has: "input_depth", "mask".

    Args:
        image_shape: (H, W) of every map of a sample.
        min_depth: depth below is invalid (0), in metres.
        max_depth: depth above is invalid (0), in metres.
        train: whether to augment.
        seed: seed of the augmentation, >= 0.
        augmentation: mapping with the fields of `Augmentation`; None = its defaults.
        skip_bad_frames: continue where the files of a frame are missing or faulty: in training with the next
            frame that can be read, in evaluation with an empty one (black, no depth). Each is logged.

    Raises:
        ValueError: an argument is out of range.
        TypeError: `augmentation` has an unknown key.
    """

    class_names: tuple[str, ...] = ()
    maps: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        image_shape: tuple[int, int],
        min_depth: float,
        max_depth: float,
        train: bool,
        seed: int = 0,
        augmentation: Mapping[str, Any] | Augmentation | None = None,
        skip_bad_frames: bool = False,
    ) -> None:
        shape = tuple(image_shape) if isinstance(image_shape, Sequence) else ()
        if len(shape) != 2 or any(not isinstance(s, Integral) or isinstance(s, bool) or s < 1 for s in shape):
            raise ValueError(
                f"image_shape must be two positive integers (H, W), such as (192, 320), got {image_shape!r}"
            )
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
        self.skip_bad_frames = bool(skip_bad_frames)
        self._logged: set[int] = set()  # bad frames that this process has named

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of frames."""

    @abstractmethod
    def load(self, index: int) -> Frame:
        """Return frame `index` (0 <= index < len) as stored, before range limits and augmentation."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of frame `index`, for logs and pictures."""

    @property
    def unit_hint(self) -> str:
        """A question about the unit of depth, for the warning that it is probably not in metres."""
        return "is it in metres?"

    @property
    def gives_input(self) -> bool:
        """Whether samples have "input_depth": stored, or made from the ground truth."""
        sparsity = self.augmentation.sparsity
        made = sparsity.simulate if self.train else sparsity.eval_density is not None
        return made or "input_depth" in self.maps

    def frame(self, index: int) -> Frame:
        """Return frame `index` at its stored size: depth limited to its range, no augmentation.

        Raises:
            IndexError: the index is out of range.
            DataError: a file of the frame is missing or faulty; with `skip_bad_frames` the frame is an empty
                one of size `image_shape` instead.
        """
        return self._read_or_empty(self._position(index))[0]

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
        epoch, index = operator.index(epoch), self._position(index)
        if self.train:
            frame, at, skipped = self._next_readable(index)
            # Keyed by the requested index: a frame that replaces another is augmented differently from
            # itself.
            frame = augment(
                frame, self.augmentation, self.image_shape, seed=self.seed, epoch=epoch, index=index
            )
        else:
            at = index
            frame, skipped = self._read_or_empty(index)
            frame = prepare(frame, self.augmentation, self.image_shape, index=index)
        sample = self._sample(frame, at)
        if self.skip_bad_frames:
            sample["skipped"] = skipped
        return sample

    def check(self, progress: bool = True) -> list[str]:
        """Read every frame and collect every fault.

        Also logs a warning with the number of frames that have no depth within [min_depth, max_depth].

        Args:
            progress: show how far it is.

        Returns:
            One message per fault, in order of the frames; empty if all is well.
        """

        def look(index: int) -> tuple[list[str], bool]:
            frame, faults = self._inspect(index)
            return faults, frame is not None and not self.limit(frame).depth.any()

        faults: list[str] = []
        empty = 0
        # Threads: decoding an image releases the interpreter's lock.
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            looks = pool.map(look, range(len(self)))
            with Progress(len(self), "checking data", "frames", show=progress) as shown:
                for found, blank in looks:
                    faults += found
                    empty += blank
                    shown.update()
        finally:
            pool.shutdown(cancel_futures=True)
        if empty:
            logger.warning(
                "%d of %d frames have no depth within [%g, %g] m; is the unit (depth_scale) right?",
                empty, len(self), self.min_depth, self.max_depth,
            )  # fmt: skip
        return faults

    def faults(self, index: int) -> list[str]:
        """Return the faults of frame `index`; a data set of several files per frame names each of them."""
        return self._inspect(index)[1]

    def _inspect(self, index: int) -> tuple[Frame | None, list[str]]:
        """Read frame `index`: the frame as `load` gives it, or None and its faults."""
        try:
            return self.load(index), []
        except DataError as error:
            return None, [str(error)]

    def _position(self, index: int) -> int:
        index = operator.index(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for a data set of {counted(len(self), 'frame')}")
        return index % len(self)

    def _next_readable(self, index: int) -> tuple[Frame, int, int]:
        """The first readable frame from `index` on, its index, and the number of frames skipped."""
        skipped = 0
        while True:
            at = (index + skipped) % len(self)
            try:
                return self.limit(self.load(at)), at, skipped
            except DataError as error:
                if not self.skip_bad_frames:
                    raise
                self._log_skip(at, error)
                skipped += 1
                if skipped == min(MAX_TRIES, len(self)):
                    raise DataError(
                        f"{counted(skipped, 'frame')} in a row cannot be read, the last: {error}"
                    ) from error

    def _read_or_empty(self, index: int) -> tuple[Frame, int]:
        """Frame `index`, and 0; or with `skip_bad_frames` an empty one, and 1."""
        try:
            return self.limit(self.load(index)), 0
        except DataError as error:
            if not self.skip_bad_frames:
                raise
            self._log_skip(index, error)
        empty = np.zeros(self.image_shape, np.float32)
        return Frame(
            rgb=np.zeros((*self.image_shape, 3), np.uint8),
            depth=empty,
            input_depth=empty if "input_depth" in self.maps else None,
            mask=empty.astype(bool) if "mask" in self.maps else None,
            classes=np.zeros((*self.image_shape, len(self.class_names)), bool) if self.class_names else None,
        ), 1

    def _log_skip(self, index: int, error: DataError) -> None:
        if index not in self._logged:
            self._logged.add(index)
            logger.warning("frame %s is skipped: %s", self.name(index), error)

    def limit(self, frame: Frame) -> Frame:
        """Return a frame with depth outside of [min_depth, max_depth] set to 0 (invalid)."""

        # Before the resize: a point out of range must not win a pixel from a valid one.
        def limit(depth: np.ndarray | None) -> np.ndarray | None:
            return None if depth is None else limit_range(depth, self.min_depth, self.max_depth)

        return replace(frame, depth=limit(frame.depth), input_depth=limit(frame.input_depth))

    def _sample(self, frame: Frame, index: int) -> dict[str, Any]:
        rgb = np.ascontiguousarray(frame.rgb.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
        sample: dict[str, Any] = {"rgb": torch.from_numpy(rgb), "depth": _plane(frame.depth, np.float32)}
        if frame.input_depth is not None:
            sample["input_depth"] = _plane(frame.input_depth, np.float32)
        if frame.mask is not None:
            sample["mask"] = _plane(frame.mask, np.bool_)
        if frame.classes is not None:
            sample["classes"] = torch.from_numpy(np.ascontiguousarray(frame.classes.transpose(2, 0, 1)))
        return {**sample, "name": self.name(index), "index": index}


def _plane(array: np.ndarray, dtype: type) -> torch.Tensor:
    return torch.from_numpy(np.array(array[None], dtype=dtype, order="C"))
