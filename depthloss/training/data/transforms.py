"""From a frame as stored to a sample of the wanted size: range, crop, resize, flip, jitter, sparse input.

Order: `limit_range` -> `STEPS` in training, `prepare` in evaluation. Every step of `STEPS` draws from its own
random stream, so that a step added later changes none of the numbers the others draw.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageEnhance

from depthloss.training.data.io import logger
from depthloss.training.data.resize import resize_classes, resize_depth, resize_mask, resize_rgb
from depthloss.training.data.sparsity import Sparsity, sample_at, simulate
from depthloss.training.errors import did_you_mean
from depthloss.training.seeds import sample_rng

REPLACED = "augmentation.sparsity: input depth is made from the ground truth, the stored one is not used"
Options = TypeVar("Options")


@dataclass(frozen=True)
class Window:
    """The part of a picture that was cropped from it, in its pixels.

    Attributes:
        shape: (H, W) of the picture.
        rows: first row, and the one after the last.
        columns: likewise.
    """

    shape: tuple[int, int]
    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclass(frozen=True)
class Frame:
    """One RGB-D frame; all maps have the same H, W once resized.

    Attributes:
        rgb: uint8 [H, W, 3].
        depth: float32 [H, W], ground truth in metres, 0 = invalid.
        input_depth: float32 [H, W], sparse input in metres, 0 = none; or None.
        mask: bool [H, W], True = keep; or None.
        classes: bool [H, W, C], which object classes a pixel is of; or None. Only for evaluation.
        window: the part of the stored frame that the data set's crop left; None = all of it.
    """

    rgb: np.ndarray
    depth: np.ndarray
    input_depth: np.ndarray | None = None
    mask: np.ndarray | None = None
    classes: np.ndarray | None = None
    window: Window | None = None

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> Frame:
        """Apply `function` to every array of the frame; the window, which it may change, is left out."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "window"}
        return Frame(**{name: None if a is None else function(a) for name, a in arrays.items()})


@dataclass(frozen=True)
class Augmentation:
    """What is drawn per (seed, epoch, index) in training; evaluation uses `sparsity.eval_density` alone.

    Attributes:
        jittering: brightness, contrast, saturation and hue: factors from U(max(0, 1 - x), 1 + x), hue shift
            from U(-x, x) of a full turn; () switches it off.
        flip_prob: probability of a left-right flip. 0 by default: the model flips its batches itself.
        crop_scale: range of the area fraction of a random crop that is resized to `image_shape`; (1, 1) is
            no crop. Depth values are unchanged, as after a change of focal length.
        sparsity: how to make the input depth of a sample from its ground truth, instead of one that the data
            set has; see `Sparsity`, whose default is not to.
    """

    jittering: tuple[float, ...] = (0.2, 0.2, 0.2, 0.05)
    flip_prob: float = 0.0
    crop_scale: tuple[float, float] = (1.0, 1.0)
    sparsity: Sparsity = Sparsity()

    def __post_init__(self) -> None:
        """Normalise lists from a configuration file and check ranges."""
        jittering = tuple(float(x) for x in self.jittering or ())
        if (
            len(jittering) not in (0, 4)
            or any(not x >= 0 for x in jittering)
            or (jittering and jittering[3] > 0.5)
        ):
            raise ValueError(
                "jittering must be () or four numbers >= 0 (brightness, contrast, saturation, hue <= 0.5), "
                f"got {self.jittering!r}"
            )
        if self.flip_prob is None or not 0 <= self.flip_prob <= 1:
            raise ValueError(f"flip_prob must be in [0, 1], got {self.flip_prob!r}")
        scale = tuple(float(x) for x in self.crop_scale or (1.0, 1.0))
        if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(
                f"crop_scale must be (low, high) with 0 < low <= high <= 1, got {self.crop_scale!r}"
            )
        object.__setattr__(self, "jittering", jittering)
        object.__setattr__(self, "crop_scale", scale)
        object.__setattr__(self, "sparsity", _from_options(Sparsity, self.sparsity, "augmentation.sparsity"))

    @classmethod
    def from_dict(cls, options: Mapping[str, Any] | Augmentation | None) -> Augmentation:
        """Build from a mapping; None means the defaults.

        Raises:
            TypeError: a key is no augmentation option (the nearest one is named).
            ValueError: a value is out of range.
        """
        made = _from_options(cls, options, "augmentation")
        if idle := made.sparsity.idle():
            _say_once(f"augmentation.sparsity: simulate is false, so {', '.join(idle)} has no effect")
        return made


def _from_options(cls: type[Options], options: Any, name: str) -> Options:
    if isinstance(options, cls):
        return options
    known = [f.name for f in fields(cls)]
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise TypeError(f"{name} must be a mapping, got {options!r}; its keys: {', '.join(known)}")
    for key in options:
        if key not in known:
            raise TypeError(f"{name} has no option {key!r}{did_you_mean(key, known)}")
    return cls(**options)


def limit_range(depth: np.ndarray, min_depth: float, max_depth: float) -> np.ndarray:
    """Set depth outside [min_depth, max_depth], zero, negative and non-finite values to 0 (invalid).

    Args:
        depth: float32 [H, W] in metres.
        min_depth: smallest valid depth in metres.
        max_depth: largest valid depth in metres.
    """
    with np.errstate(invalid="ignore"):
        valid = (depth > 0) & (depth >= min_depth) & (depth <= max_depth)
    # The bits times 0 or 1: on scattered pixels np.where takes five times as long.
    bits = np.asarray(depth, np.float32).view(np.uint32)
    return np.multiply(bits, valid, dtype=np.uint32).view(np.float32)


def color_jitter(rgb: np.ndarray, factors: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation and hue in random order.

    Args:
        rgb: uint8 [H, W, 3].
        factors: (brightness, contrast, saturation, hue), see `Augmentation.jittering`.
        rng: random stream; eight numbers are drawn whatever the factors are.

    Returns:
        uint8 [H, W, 3].
    """
    order = rng.permutation(4)
    draws = rng.uniform(-1.0, 1.0, 4)
    image = Image.fromarray(np.ascontiguousarray(rgb))
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for step in order:
        amount = factors[step]
        if amount == 0:
            continue
        if step == 3:
            image = _shift_hue(image, float(draws[3]) * amount)
        else:
            low, high = max(0.0, 1.0 - amount), 1.0 + amount
            image = enhancers[step](image).enhance(low + (high - low) * (float(draws[step]) + 1) / 2)
    return np.asarray(image)


def _shift_hue(image: Image.Image, turn: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shift = round(turn * 256)
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _crop(frame: Frame, aug: Augmentation, shape: tuple[int, int], rng: np.random.Generator) -> Frame:
    if aug.crop_scale == (1.0, 1.0):
        return frame
    h, w = frame.depth.shape
    side = math.sqrt(rng.uniform(*aug.crop_scale))
    ch, cw = max(1, round(h * side)), max(1, round(w * side))
    y, x = int(rng.integers(h - ch + 1)), int(rng.integers(w - cw + 1))
    return frame.map(lambda a: a[y : y + ch, x : x + cw])


def _flip(frame: Frame, aug: Augmentation, shape: tuple[int, int], rng: np.random.Generator) -> Frame:
    return frame.map(lambda a: a[:, ::-1]) if rng.random() < aug.flip_prob else frame


def _jitter(frame: Frame, aug: Augmentation, shape: tuple[int, int], rng: np.random.Generator) -> Frame:
    if not aug.jittering:
        return frame
    return replace(frame, rgb=color_jitter(frame.rgb, aug.jittering, rng))


def resize(frame: Frame, shape: tuple[int, int]) -> Frame:
    """Resize every map of the frame to `shape` (H, W), each by its own rule."""
    return Frame(
        rgb=resize_rgb(frame.rgb, shape),
        depth=resize_depth(frame.depth, shape),
        input_depth=None if frame.input_depth is None else resize_depth(frame.input_depth, shape),
        mask=None if frame.mask is None else resize_mask(frame.mask, shape),
        classes=None if frame.classes is None else resize_classes(frame.classes, shape),
        window=frame.window,
    )


def _sparsify(frame: Frame, aug: Augmentation, shape: tuple[int, int], rng: np.random.Generator) -> Frame:
    if not aug.sparsity.simulate:
        return frame
    if frame.input_depth is not None:
        _say_once(REPLACED)
    return replace(frame, input_depth=simulate(frame.depth, frame.mask, aug.sparsity, rng))


@functools.cache
def _say_once(message: str) -> None:
    logger.info("%s", message)


Step = Callable[[Frame, Augmentation, tuple[int, int], np.random.Generator], Frame]

STEPS: dict[str, Step] = {
    "crop": _crop,
    "resize": lambda frame, aug, shape, rng: resize(frame, shape),
    "flip": _flip,
    "jitter": _jitter,
    "sparsity": _sparsify,
}


def augment(
    frame: Frame, augmentation: Augmentation, shape: tuple[int, int], *, seed: int, epoch: int, index: int
) -> Frame:
    """Apply `STEPS` in order, each with the random stream (step, seed, epoch, index).

    Args:
        frame: the frame as stored, depth already limited to its valid range.
        augmentation: what to draw.
        shape: target (H, W).
        seed: seed of the run.
        epoch: epoch number.
        index: index of the frame in its data set.

    Returns:
        The frame at `shape`.
    """
    for name, step in STEPS.items():
        frame = step(frame, augmentation, shape, sample_rng(name, seed, epoch, index))
    return frame


def prepare(frame: Frame, augmentation: Augmentation, shape: tuple[int, int], *, index: int) -> Frame:
    """Resize a frame for evaluation, and thin its ground truth to `sparsity.eval_density` where that is set.

    What is drawn depends on the index alone, so that runs of different seeds are tested on the same input.

    Args:
        frame: the frame as stored, depth already limited to its valid range.
        augmentation: whose `sparsity` counts.
        shape: target (H, W).
        index: index of the frame in its data set.

    Returns:
        The frame at `shape`.
    """
    frame = resize(frame, shape)
    density = augmentation.sparsity.eval_density
    if density is None:
        return frame
    if frame.input_depth is not None:
        _say_once(REPLACED)
    rng = sample_rng("evaluation input", index)
    return replace(frame, input_depth=sample_at(frame.depth, frame.mask, density, rng))
