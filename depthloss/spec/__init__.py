"""What a loss is, as data: frozen, validated descriptions that every backend executes.

A loss is a `LossSpec`: groups of terms. There are three kinds of term, `Pixel`, `Gradient` and `Moments`, and
each says along its axes what it computes:

    value (domain) -> alignment -> residual -> {pixel penalty | multi-scale gradient | moments} -> reduction

Numbers that change from call to call (weights, learnable log-variances) are not part of it. Nothing here
imports torch.
"""

from .domain import DEPTH, IDENTITY, INVERSE_DEPTH_FLOOR, Domain
from .gradient import GradientPreset, GradientSpec
from .loss import Backend, Group, GtRange, LossSpec, parse
from .penalty import PENALTIES, Penalty
from .terms import (
    NOT_ALIGNED,
    Absolute,
    Alignment,
    DifferenceMoments,
    Gradient,
    GradientMatching,
    LeastSquares,
    LogMoments,
    MedianAlignment,
    Moments,
    Pixel,
    Pointwise,
    Relative,
    Term,
    TrimmedAlignment,
)

__all__ = [
    "DEPTH",
    "IDENTITY",
    "INVERSE_DEPTH_FLOOR",
    "NOT_ALIGNED",
    "PENALTIES",
    "Absolute",
    "Alignment",
    "Backend",
    "DifferenceMoments",
    "Domain",
    "Gradient",
    "GradientMatching",
    "GradientPreset",
    "GradientSpec",
    "Group",
    "GtRange",
    "LeastSquares",
    "LogMoments",
    "LossSpec",
    "MedianAlignment",
    "Moments",
    "Penalty",
    "Pixel",
    "Pointwise",
    "Relative",
    "Term",
    "TrimmedAlignment",
    "parse",
]
