"""Metrics as single publications have them, which protocols ask for, and `measure`, which computes any."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..arrays import Array, as_tensors
from .boundaries import depth_pro_f1, moge_f1
from .edges import EDGE_METRICS, edge_metrics, is_dense
from .ibims import BoundaryErrors, PlanarityErrors, depth_boundary_errors, planarity_errors
from .table import METRICS, Meaning, PerImage, Pixels, Pooled, _log_square, means, pixel_vector, srmse
from .video import temporal_alignment_error


@dataclass(frozen=True)
class Maps:
    """What the metrics of one image are taken of: tensors, as which arrays of NumPy are kept.

    Attributes:
        pred: depth, [H, W] in metres, NaN where it is not finite.
        gt: depth, [H, W] in metres.
        valid: [H, W], non-zero = the pixel counts; kept as bool.
        max_depth: the largest depth that a prediction can have, in metres; for units that are a share of it.
        edge_ratio: of neighbouring depths, beyond which `EDGE_METRICS` see a discontinuity.
        edges: bool [H, W], the depth edges of iBims-1; None = unknown.
        planes: int [H, W], which plane a pixel is of, from 1 on, 0 = none; None = unknown.
        normals: float [planes, 3], the true unit normals of the planes, x to the right, y forward, z up.
        intrinsics: float [3, 3], of a pixel whose centre is a whole number, from 0 on; None = unknown.

    Raises:
        ValueError: pred, gt and valid are not [H, W] of one size.
    """

    pred: Tensor
    gt: Tensor
    valid: Tensor
    max_depth: float | None = None
    edge_ratio: float = 1.1
    edges: Tensor | None = None
    planes: Tensor | None = None
    normals: Tensor | None = None
    intrinsics: Tensor | None = None

    def __post_init__(self) -> None:
        """Check the sizes, and make tensors of arrays."""
        maps = ("pred", "gt", "valid", "edges", "planes", "normals", "intrinsics")
        for name, x in as_tensors({name: getattr(self, name) for name in maps}).items():
            object.__setattr__(self, name, x)
        if self.valid.dtype != torch.bool:
            object.__setattr__(self, "valid", self.valid != 0)
        shapes = {name: tuple(getattr(self, name).shape) for name in ("pred", "gt", "valid")}
        if len(set(shapes.values())) != 1 or self.gt.ndim != 2:
            raise ValueError(f"pred, gt and valid must be [H, W] of one size; got {shapes}")

    @functools.cached_property
    def dense(self) -> bool:
        """Whether the ground truth shows its discontinuities."""
        return is_dense(self.valid)

    @functools.cached_property
    def near_edges(self) -> dict[str, float]:
        """Those of `EDGE_METRICS` that there are data for."""
        return edge_metrics(self.pred, self.gt, self.valid, self.edge_ratio) if self.dense else {}

    @functools.cached_property
    def boundary_errors(self) -> BoundaryErrors | None:
        """Of iBims-1; None without its edges."""
        return None if self.edges is None else depth_boundary_errors(self.pred, self.edges)

    @functools.cached_property
    def planarity(self) -> PlanarityErrors | None:
        """Of iBims-1; None without its planes."""
        if self.planes is None or self.normals is None or self.intrinsics is None:
            return None
        return planarity_errors(self.pred, self.gt, self.planes, self.normals, self.intrinsics)


@dataclass(frozen=True)
class PerMap(Meaning):
    """A metric of whole maps.

    Attributes:
        value: of the maps; None where the data do not allow it.
    """

    value: Callable[[Maps], float | None]


@dataclass(frozen=True)
class PerClip(Meaning):
    """A metric of a clip: pred [T, H, W] in metres, valid, intrinsics [3, 3], camera to world [T, 4, 4]."""

    value: Callable[[Tensor, Tensor, Tensor], float]


def _capped_square(x: Pixels) -> Array:
    return x.capped_inverse_error * x.capped_inverse_error


@functools.lru_cache(maxsize=8)
def _g2_pairs(count: int) -> tuple[Tensor, Tensor]:
    drawn = []
    for seed in (1, 2):
        order = list(range(count))
        random.Random(seed).shuffle(order)
        drawn.append(torch.tensor(order[: int(0.3 * count)], dtype=torch.long))
    return drawn[0], drawn[1]


def _g2_ordinal_error(x: Pixels) -> Tensor:
    """As G2-MonoDepth's test has it, with its draw: random.shuffle of the pixels, seeded by 1 and 2.

    Ratios and limits are float32 as there: of whole numbers, many ratios lie on a limit. NaN for less than
    four pixels, which make no pair.
    """
    a, b = (pairs.to(x.g.device) for pairs in _g2_pairs(len(x.g)))
    high, low = (torch.tensor(limit, dtype=torch.float32, device=x.g.device) for limit in (1.01, 1 / 1.01))

    def order(steps: Tensor) -> Tensor:
        ratio = steps[a].float() / steps[b].float()
        return torch.where(ratio.isfinite(), (ratio >= high).double() - (ratio <= low).double(), torch.nan)

    return (order(x.p) != order(x.g)).double().mean()


def _in_steps(of: Callable[[Pixels], Tensor]) -> Callable[[Maps], float | None]:
    """A metric of depth in whole steps of max_depth / 65535: G2-MonoDepth's script reads 16-bit PNGs."""

    def value(maps: Maps) -> float | None:
        if maps.max_depth is None:
            return None
        unit = maps.max_depth / 65535
        steps = ((pixel_vector(x, maps.valid) / unit).round() for x in (maps.pred, maps.gt))
        return float(of(Pixels(*steps)))

    return value


def _boundary(of: Callable[[Tensor, Tensor, Tensor], float]) -> Callable[[Maps], float | None]:
    return lambda maps: of(maps.pred, maps.gt, maps.valid) if maps.dense else None


def _near_edges(name: str) -> Callable[[Maps], float | None]:
    return lambda maps: maps.near_edges.get(name)


PUBLISHED: dict[str, Meaning] = {
    "silog_half": Pooled(
        *("", False, "root of mean d² − ½ (mean d)² (Depth Anything V2, mmseg)"),
        (_log_square, lambda x: x.log_error),
        lambda square, mean: (square - 0.5 * mean.square()).clamp(min=0).sqrt(),
    ),
    "sq_rel_kitti": Pooled(
        *("", False, "mean of (p − g)² / g² (KITTI's benchmark)"),
        (lambda x: x.square / (x.g * x.g),),
    ),
    "log_mae": Pooled("", False, "mean of |d|", (lambda x: abs(x.log_error),)),
    "bad_125": Pooled(
        *("%", False, "100 · share of the pixels with max(p / g, g / p) > 1.25 (MiDaS)"),
        (lambda x: 100.0 * ~(x.ratio <= 1.25),),
    ),
    "rmse_mm": Pooled("mm", False, "rmse in mm", (lambda x: 1e6 * x.square,), Tensor.sqrt),
    "mae_mm": Pooled("mm", False, "mae in mm", (lambda x: 1e3 * abs(x.error),)),
    "irmse_capped": Pooled(
        "1/km", False, "irmse, 1/p = 0 where p <= 1e-4 m (NLSPN)", (_capped_square,), Tensor.sqrt
    ),
    "imae_capped": Pooled(
        "1/km", False, "imae, 1/p = 0 where p <= 1e-4 m (NLSPN)", (lambda x: abs(x.capped_inverse_error),)
    ),
    "rmse_g2": PerMap(
        "",
        False,
        "rmse in steps of max_depth / 65535, over 256 (G2's script)",
        _in_steps(lambda x: x.square.mean().sqrt() / 256),
    ),
    "srmse_g2": PerMap("", False, "srmse in steps of max_depth / 65535 (G2's script)", _in_steps(srmse)),
    "ordinal_error_g2": PerMap(
        "share",
        False,
        "ordinal error in these steps, over the pairs that G2's script draws",
        _in_steps(_g2_ordinal_error),
    ),
    "depth_pro_f1": PerMap(
        *("share", True, "boundary F1 as Depth Pro's script has it: mean of four directions"),
        _boundary(depth_pro_f1),
    ),
    **{
        f"moge_f1_r{radius}": PerMap(
            "share",
            True,
            f"boundary F1 as MoGe's script has it: pairs of pixels up to {radius} px apart",
            _boundary(functools.partial(moge_f1, radius=radius)),
        )
        for radius in (1, 2, 3)
    },
    "dbe_acc": PerMap(
        "px",
        False,
        "distance of the predicted edges to the true ones, those nearer than 10 px (iBims-1)",
        lambda maps: maps.boundary_errors and maps.boundary_errors.accuracy,
    ),
    "dbe_com": PerMap(
        "px",
        False,
        "mean distance between predicted and true edges, both ways, at most 10 px (iBims-1)",
        lambda maps: maps.boundary_errors and maps.boundary_errors.completeness,
    ),
    "pe_flat": PerMap(
        "cm",
        False,
        "deviation of the predicted points of a plane from their best plane (iBims-1)",
        lambda maps: maps.planarity and maps.planarity.flatness,
    ),
    "pe_ori": PerMap(
        "°",
        False,
        "angle between the best plane of the predicted points and the true one (iBims-1)",
        lambda maps: maps.planarity and maps.planarity.orientation,
    ),
    "tae": PerClip(
        "%",
        False,
        "100 · abs_rel between a frame's depth and its neighbour's, moved into it (Video Depth Anything)",
        temporal_alignment_error,
    ),
}  # fmt: skip

_EDGES = {name: PerMap(m.unit, m.more, m.text, _near_edges(name)) for name, m in EDGE_METRICS.items()}


def metric(name: str) -> Meaning:
    """Return the row of a metric.

    Raises:
        ValueError: there is none of that name.
    """
    for table in (METRICS, _EDGES, PUBLISHED):
        if name in table:
            return table[name]
    raise ValueError(f"there is no metric {name!r}; there are {', '.join(names())}")


def names() -> list[str]:
    """Return the names of all metrics, in the order of tables."""
    return [*METRICS, *_EDGES, *PUBLISHED]


def measure(which: Iterable[str], maps: Maps) -> dict[str, float]:
    """Measure one image.

    Args:
        which: names of metrics; those of clips are passed over.
        maps: with at least one valid pixel.

    Returns:
        By name, in that order. A metric that the data do not allow, such as a boundary F1 on sparse ground
        truth, is no key.

    Raises:
        ValueError: there is no metric of a name.
        TypeError: one name in the place of several.
    """
    if isinstance(which, str):
        raise TypeError(f"which must be names of metrics, as [{which!r}]; got one name")
    pixels = Pixels(pixel_vector(maps.pred, maps.valid), pixel_vector(maps.gt, maps.valid))
    return measure_all(which, [pixels], lambda i: maps)[0]


def measure_all(
    which: Iterable[str], images: Sequence[Pixels], maps_of: Callable[[int], Maps]
) -> list[dict[str, float]]:
    """Measure images; see `measure`, to whose values it is equal.

    Args:
        which: names of metrics.
        images: the valid pixels of each, at least one.
        maps_of: returns the maps of an image, given its place in `images`; called if a metric needs maps.

    Returns:
        Of each image what `measure` returns.
    """
    rows = {name: metric(name) for name in which}
    pooled = [row for row in rows.values() if isinstance(row, Pooled)]
    mean_of = means(list(dict.fromkeys(term for row in pooled for term in row.terms)), images)
    columns = {
        name: row.value(*(mean_of[term] for term in row.terms)).tolist()
        for name, row in rows.items()
        if isinstance(row, Pooled)
    }
    of_maps = any(isinstance(row, PerMap) for row in rows.values())
    found = []
    for i, image in enumerate(images):
        maps = maps_of(i) if of_maps else None
        values: dict[str, float] = {}
        for name, row in rows.items():
            if name in columns:
                values[name] = columns[name][i]
            elif isinstance(row, PerImage):
                values[name] = float(row.value(image))
            elif isinstance(row, PerMap) and maps and (value := row.value(maps)) is not None:
                values[name] = float(value)
        found.append(values)
    return found


def mean(rows: Iterable[dict[str, float]], which: Iterable[str]) -> dict[str, float]:
    """Return the mean of each metric over the rows that have it; one that none has is no key."""
    rows = list(rows)
    found = {name: [row[name] for row in rows if name in row] for name in which}
    return {name: math.fsum(values) / len(values) for name, values in found.items() if values}
