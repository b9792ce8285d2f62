"""Metrics of depth maps: `metric(name)` is the row of one, with its value, unit, direction and meaning.

The functions need torch only. `DepthMetrics` and `StratifiedMetrics` are classes of torchmetrics, which comes
with the extra `train`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extras import lazily
from .boundaries import depth_pro_f1, moge_f1
from .edges import EDGE_METRICS, boundary_scores, edge_metrics, is_dense, near_discontinuities
from .ibims import depth_boundary_errors, planarity_errors
from .published import Maps, PerClip, PerMap, mean, measure, measure_all, metric, names
from .table import (
    METRICS,
    Meaning,
    PerImage,
    Pixels,
    Pooled,
    check_depths,
    clamped,
    image_metrics,
    pixel_vector,
    pooled,
    range_name,
    valid_pixels,
)
from .video import temporal_alignment_error

if TYPE_CHECKING:
    from .means import DepthMetrics, StratifiedMetrics

__all__ = [
    "EDGE_METRICS",
    "METRICS",
    "DepthMetrics",
    "Maps",
    "Meaning",
    "PerClip",
    "PerImage",
    "PerMap",
    "Pixels",
    "Pooled",
    "StratifiedMetrics",
    "boundary_scores",
    "check_depths",
    "clamped",
    "depth_boundary_errors",
    "depth_pro_f1",
    "edge_metrics",
    "image_metrics",
    "is_dense",
    "mean",
    "measure",
    "measure_all",
    "metric",
    "moge_f1",
    "names",
    "near_discontinuities",
    "pixel_vector",
    "planarity_errors",
    "pooled",
    "range_name",
    "temporal_alignment_error",
    "valid_pixels",
]


def __getattr__(name: str) -> Any:
    return lazily(__name__, "means", ("DepthMetrics", "StratifiedMetrics"), name)
