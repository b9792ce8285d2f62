"""What a data set holds, in one line: frames, their size, and whether its depth may be in metres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from depthloss.training.data.base import DepthDataset
from depthloss.training.data.io import DataError, logger

SAMPLED = 8  # frames that are read
# Below it a median depth is taken for a wrong unit, unless max_depth is less than 20 times as much.
NEAR = 0.3  # metres
_PIXELS = 1 << 17  # depths that are kept of a frame, evenly spread over its valid ones


@dataclass(frozen=True)
class Summary:
    """A data set, by a sample of its frames.

    Attributes:
        frames: in the data set.
        read: frames of the sample.
        unreadable: those of them that cannot be read.
        sizes: their (H, W), without repetition.
        depth: 1%, 50% and 99% quantile of the stored depth in metres; None without any depth.
        valid: share of their pixels that count: depth in the data set's range, and not masked.
        warning: why the depth is probably not in metres; None if it may be.
    """

    frames: int
    read: int
    unreadable: int
    sizes: tuple[tuple[int, int], ...]
    depth: tuple[float, float, float] | None
    valid: float
    warning: str | None

    def __str__(self) -> str:
        """Return the line, such as "9 frames, 64x48; depth 1 to 5 m (1% to 99%), median 3 m; 20% valid"."""
        sizes = " to ".join(f"{w}x{h}" for h, w in dict.fromkeys((*self.sizes[:1], *self.sizes[-1:])))
        frames = f"{self.frames} frame{'s' * (self.frames != 1)}"
        parts = [f"{frames}, {sizes}" if sizes else frames]
        if self.depth:
            low, median, high = (f"{metres:.3g}" for metres in self.depth)
            parts.append(f"depth {low} to {high} m (1% to 99%), median {median} m")
        if self.sizes:
            parts.append(f"{100 * self.valid:.3g}% valid")
        if self.read < self.frames:
            parts.append(f"by {self.read} frames")
        if self.unreadable:
            parts.append(f"{self.unreadable} of {self.read} cannot be read")
        return "; ".join(parts)


def summarise(dataset: DepthDataset) -> Summary:
    """Read a few frames, spread evenly over a data set, and sum up what they hold. Nothing random is drawn.

    Args:
        dataset: the data set.
    """
    total = len(dataset)
    indices = np.unique(np.linspace(0, total - 1, min(SAMPLED, total)).round().astype(int))
    sizes, depths, counted, pixels, unreadable = set(), [], 0, 0, 0
    for index in indices.tolist():
        try:
            frame = dataset.load(index)
        except DataError:  # The error is raised where the frame is needed.
            unreadable += 1
            continue
        stored = frame.depth[(frame.depth > 0) & np.isfinite(frame.depth)]
        depths.append(stored[:: 1 + len(stored) // _PIXELS])
        valid = dataset.limit(frame).depth > 0
        counted += int(np.count_nonzero(valid if frame.mask is None else valid & frame.mask))
        pixels += frame.depth.size
        sizes.add(frame.depth.shape)
    together = np.concatenate(depths) if depths else np.empty(0)
    depth = tuple(np.percentile(together, (1, 50, 99)).tolist()) if together.size else None
    return Summary(
        frames=total,
        read=len(indices),
        unreadable=unreadable,
        sizes=tuple(sorted(sizes)),
        depth=depth,
        valid=counted / max(1, pixels),
        warning=_warning(dataset, depth) if sizes else None,
    )


def _warning(dataset: DepthDataset, depth: tuple[float, float, float] | None) -> str | None:
    low, high = dataset.min_depth, dataset.max_depth
    if depth is None:
        return f"no depth at all in the frames read; {dataset.unit_hint}"
    median = f"the median depth is {depth[1]:.3g} m"
    if not low <= depth[1] <= high:
        return f"{median}, outside of min_depth to max_depth, {low:g} to {high:g} m; {dataset.unit_hint}"
    if depth[1] < min(NEAR, high / 20):
        return f"{median}, very near for a max_depth of {high:g} m; {dataset.unit_hint}"
    return None


def log_summary(name: str, dataset: DepthDataset) -> None:
    """Log what a data set holds, and a warning if its depth is probably not in metres.

    Args:
        name: what it is, to begin the line with.
        dataset: the data set.
    """
    summary = summarise(dataset)
    logger.info("%s, %s", name, summary)
    if summary.warning:
        logger.warning("%s: %s", name, summary.warning)
