"""Sparse input depth made from the ground truth, from none of it to all: the simulator of G2-MonoDepth.

In its order: noise -> blur -> holes -> thinning to the density drawn, at random or along scan lines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from depthloss.training.data.resize import centres

# Where "many" points end and "few" begin.
FEW = 0.1
# Corners of a hole's outline; its radius varies from the full one down to this share of it.
CORNERS, DENT = 12, 0.4
# The largest slope of the scan lines: a sensor rolled by about 3 degrees.
SLOPE = 0.05


@dataclass(frozen=True)
class Sparsity:
    """How an input depth is made from the ground truth; in training drawn per (seed, epoch, index).

    Values "of G2" are those with which G2-MonoDepth ("A General Framework of Generalized Depth Inference from
    Monocular RGB+X Data") was trained.

    Attributes:
        simulate: whether to make the input of every training sample; false leaves all up to `hole_size`
            without effect.
        shares: shares of samples whose input is dense (and blurred: depth recovery), has many points
            (density from U(0.1, 1)), few (from U(0, 0.1)), or none (all 0: estimation from RGB alone).
            Density is the share of the valid ground truth that noise, blur and holes leave. Values of G2.
        scanline_prob: of the samples with many or few points, the share whose points lie on scan lines,
            as a LiDAR has them; those of the others are at random. Not in G2, whose points are at random.
        beams: range of the number of scan lines over the height of the map, evenly spaced, slightly
            tilted; more where the density needs more. 16 to 64 are the beams of common sensors.
        noise_prob: share of samples with noise, and in them U(0, 1) of the points. Value of G2.
        noise: range of the noise's standard deviation, as a share of the depth of each point, and within
            the range of depth that the frame has. The numbers are those of G2, where they are shares of
            the largest depth of the data set, which would drown the near points of a street.
        blur_prob: share of samples that are blurred, beside the dense ones, which all are. Value of G2.
        blur_levels: range of k in the factor 2**k of the blur: nearest-neighbour sampling down by it, and
            up again. It also moves depth to where the ground truth has none. Values of G2.
        hole_prob: share of samples with holes. Value of G2, which has a folder of masks for it; here they
            are random outlines.
        holes: range of the number of holes of such a sample.
        hole_size: range of a hole's radii, as a share of the height and of the width.
        eval_density: in evaluation, the density of an input that is made from the ground truth too: exact,
            at random, without noise, blur and holes, and always the same for a frame, so that results are
            comparable. None: evaluation takes the input that the data set has, if any.
    """

    simulate: bool = False
    shares: tuple[float, float, float, float] = (0.2, 0.2, 0.2, 0.4)
    scanline_prob: float = 0.5
    beams: tuple[int, int] = (16, 64)
    noise_prob: float = 0.5
    noise: tuple[float, float] = (0.01, 0.1)
    blur_prob: float = 0.5
    blur_levels: tuple[int, int] = (1, 4)
    hole_prob: float = 0.8
    holes: tuple[int, int] = (1, 5)
    hole_size: tuple[float, float] = (0.05, 0.3)
    eval_density: float | None = None

    def __post_init__(self) -> None:
        """Normalise lists from a configuration file and check ranges."""
        shares = _numbers(self.shares, 4, float)
        if shares is None or min(shares) < 0 or not math.isclose(sum(shares), 1):
            raise ValueError(
                "sparsity.shares must be four numbers >= 0 (dense, many, few, none) whose sum is 1, "
                f"got {self.shares!r}"
            )
        object.__setattr__(self, "shares", shares)
        for name in ("scanline_prob", "noise_prob", "blur_prob", "hole_prob", "eval_density"):
            value = getattr(self, name)
            if name == "eval_density" and value is None:
                continue
            if (number := _numbers([value], 1, float)) is None or not 0 <= number[0] <= 1:
                raise ValueError(f"sparsity.{name} must be in [0, 1], got {value!r}")
        for name, kind, least in (
            ("beams", int, 1),
            ("noise", float, 0),
            ("blur_levels", int, 0),
            ("holes", int, 0),
            ("hole_size", float, 0),
        ):
            value = getattr(self, name)
            pair = _numbers(value, 2, kind)
            if pair is None or not least <= pair[0] <= pair[1]:
                what = "integers" if kind is int else "numbers"
                raise ValueError(f"sparsity.{name} must be two {what}, {least} <= low <= high, got {value!r}")
            object.__setattr__(self, name, pair)

    def idle(self) -> list[str]:
        """Return the fields that were changed and have no effect, as `simulate` is false."""
        names = [f.name for f in fields(self) if f.name not in ("simulate", "eval_density")]
        return [] if self.simulate else [n for n in names if getattr(self, n) != getattr(Sparsity, n)]


def _numbers(values: Any, count: int, kind: type) -> tuple | None:
    """Return `count` finite numbers as `kind`, or None if that is not what `values` holds."""
    try:
        found = tuple(kind(x) for x in values)
        same = len(found) == count and all(
            math.isfinite(x) and y == x for x, y in zip(found, values, strict=True)
        )
    except (TypeError, ValueError, OverflowError):
        return None
    return found if same else None


def simulate(
    depth: np.ndarray, mask: np.ndarray | None, sparsity: Sparsity, rng: np.random.Generator
) -> np.ndarray:
    """Make the input of a training sample.

    Args:
        depth: float32 [H, W], ground truth in metres, 0 = invalid.
        mask: bool [H, W], True = keep; or None. What is masked out is in no input.
        sparsity: what to draw.
        rng: random stream.

    Returns:
        float32 [H, W] in metres, 0 = none. Without noise every value occurs in `depth`.
    """
    depth = _visible(depth, mask)
    kind = int(np.searchsorted(np.cumsum(sparsity.shares)[:3], rng.random(), side="right"))
    if kind == 3:
        return np.zeros_like(depth)
    density = (1.0, rng.uniform(FEW, 1.0), rng.uniform(0.0, FEW))[kind]
    if rng.random() < sparsity.noise_prob:
        depth = _noise(depth, rng.uniform(*sparsity.noise), rng)
    if rng.random() < (sparsity.blur_prob if kind else 1.0):
        depth = _blur(depth, 2 ** int(rng.integers(*sparsity.blur_levels, endpoint=True)))
    if rng.random() < sparsity.hole_prob:
        depth = np.where(_holes(depth.shape, sparsity, rng), np.float32(0), depth)
    lines = None
    if kind and rng.random() < sparsity.scanline_prob:
        height = depth.shape[0]
        beams = max(int(rng.integers(*sparsity.beams, endpoint=True)), math.ceil(density * height))
        lines = _scan_lines(depth.shape, min(beams, height), rng)
    return _thin(depth, density, rng, lines)


def sample_at(
    depth: np.ndarray, mask: np.ndarray | None, density: float, rng: np.random.Generator
) -> np.ndarray:
    """Make an input for evaluation: round(density * valid) pixels of the ground truth, at random.

    Args:
        depth: float32 [H, W], ground truth in metres, 0 = invalid.
        mask: bool [H, W], True = keep; or None. What is masked out is in no input.
        density: share of the valid pixels, in [0, 1].
        rng: random stream.

    Returns:
        float32 [H, W] in metres, 0 = none.
    """
    return _thin(_visible(depth, mask), density, rng)


def _visible(depth: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    return depth if mask is None else np.where(mask, depth, np.float32(0))


def _noise(depth: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    at = np.nonzero(depth)
    values = depth[at]
    if not values.size:
        return depth
    hit = rng.random(values.size, dtype=np.float32) < rng.random()
    factor = 1 + np.float32(sigma) * hit * rng.standard_normal(values.size, dtype=np.float32)
    noisy = depth.copy()
    noisy[at] = np.clip(values * factor, values.min(), values.max())
    return noisy


def _blur(depth: np.ndarray, factor: int) -> np.ndarray:
    # Down and up in one gather: the pixel under the centre of each block.
    rows, cols = (
        centres(small, size)[centres(size, small)]
        for size, small in ((size, max(1, size // factor)) for size in depth.shape)
    )
    return depth[rows[:, None], cols]


def _holes(shape: tuple[int, int], sparsity: Sparsity, rng: np.random.Generator) -> np.ndarray:
    """Random star-shaped outlines, stretched and turned; bool [H, W], True = hole."""
    h, w = shape
    canvas = Image.new("1", (w, h))
    draw = ImageDraw.Draw(canvas)
    corners = np.exp(2j * np.pi * np.arange(CORNERS) / CORNERS)
    for _ in range(int(rng.integers(*sparsity.holes, endpoint=True))):
        star = corners * rng.uniform(DENT, 1.0, CORNERS)
        tall, wide = rng.uniform(*sparsity.hole_size, 2) * shape
        outline = (wide * star.real + 1j * tall * star.imag) * np.exp(2j * np.pi * rng.random())
        x, y = rng.random() * w + outline.real, rng.random() * h + outline.imag
        draw.polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=1)
    return np.asarray(canvas)


def _scan_lines(shape: tuple[int, int], beams: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels on `beams` parallel lines, one pixel thick; bool [H, W]."""
    h, w = shape
    spacing = np.float32(h / beams)
    slope, phase = rng.uniform(-SLOPE, SLOPE), rng.random()
    shift = (phase * spacing + slope * (np.arange(w) - w / 2)).astype(np.float32)
    return (np.arange(h, dtype=np.float32)[:, None] + shift) % spacing < 1


def _thin(
    depth: np.ndarray, density: float, rng: np.random.Generator, lines: np.ndarray | None = None
) -> np.ndarray:
    """Keep `density` of the non-zero pixels; of those on `lines`, if given, as many as there are at most."""
    points = depth.ravel()
    count = round(density * np.count_nonzero(points))
    chosen = np.flatnonzero(points if lines is None else np.where(lines.ravel(), points, 0))
    if count < len(chosen):
        chosen = chosen[rng.choice(len(chosen), count, replace=False, shuffle=False)]
    out = np.zeros_like(points)
    out[chosen] = points[chosen]
    return out.reshape(depth.shape)
