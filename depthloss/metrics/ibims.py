"""Depth boundary and planarity errors of iBims-1 (Koch et al., ECCV Workshops 2018, arXiv:1805.01328).

The numbers of the authors' Python script, version 0.9, which says that its boundary errors differ from the
paper: its Canny detector is that of scikit-image, the paper's that of Matlab.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

REACH = 10.0  # pixels; an edge farther off counts as this far
SHARE = 0.05  # of the image: a smaller plane is left out


class BoundaryErrors(NamedTuple):
    """In pixels."""

    accuracy: float
    completeness: float


class PlanarityErrors(NamedTuple):
    """Means over the planes: deviation from the best plane in cm, angle to the true plane in degrees."""

    flatness: float
    orientation: float


def depth_boundary_errors(pred: Tensor, edges: Tensor) -> BoundaryErrors | None:
    """Compare the edges of a predicted depth map with the true ones.

    Accuracy is the mean distance of the predicted edge pixels to the true ones, over those nearer than 10
    pixels. Completeness is the mean distance of predicted and true edge pixels to each other, cut at 10
    pixels. Both are 10 if no predicted edge is near a true one.

    Args:
        pred: depth [H, W]; NaN or 0 where it is unknown. The edges are those of Canny's detector on the map
            scaled to [0, 1].
        edges: bool [H, W], the true edges.

    Returns:
        In pixels; None without a true edge.
    """
    edges = edges.bool()
    if not bool(edges.any()):
        return None
    found = canny(normalised(pred))
    of_gt, of_pred = distances(edges), distances(found)
    near = found & (of_gt < REACH)
    if not bool(near.any()):
        return BoundaryErrors(REACH, REACH)
    total = of_gt[found].sum() + of_pred[edges].sum()
    return BoundaryErrors(float(of_gt[near].mean()), float(total / (found.sum() + edges.sum())))


def normalised(depth: Tensor) -> Tensor:
    """Depth scaled to [0, 1] over its known pixels, NaN elsewhere, in float32 as in the script."""
    depth = torch.where(depth.isfinite() & (depth != 0), depth, torch.nan).float()
    known = depth[depth.isfinite()]
    if not len(known):
        return depth
    depth = depth - known.min()
    return depth / (known.max() - known.min())


def distances(edges: Tensor) -> Tensor:
    """Euclidean distance of each pixel to the nearest edge pixel, cut at `REACH`; float64 [H, W]."""
    reach = int(REACH)
    h, w = edges.shape
    padded = F.pad(edges, [reach] * 4)
    square = torch.full((h, w), REACH**2, dtype=torch.float64, device=edges.device)
    for y in range(-reach, reach + 1):
        for x in range(-reach, reach + 1):
            if (length := float(y * y + x * x)) < REACH**2:
                there = padded[reach + y : reach + y + h, reach + x : reach + x + w]
                square = torch.where(there & (square > length), length, square)
    return square.sqrt()


def canny(image: Tensor, sigma: float = math.sqrt(2), low: float = 0.15, high: float = 0.3) -> Tensor:
    """Return the edges of a map, bool [H, W]: Canny 1986 in the form of scikit-image's `feature.canny`.

    Gaussian smoothing (cut at 4 sigma, zeros beyond the border, divided by the smoothed support), Sobel
    gradients (borders reflected), interpolated non-maximum suppression, two thresholds, eight neighbours.

    Args:
        image: float [H, W]; a NaN spreads over the pixels that it is smoothed into, which have no edge.
        sigma: of the smoothing, in pixels.
        low: threshold of a gradient that continues an edge.
        high: threshold of a gradient that begins one.
    """
    image = image.double()
    radius = int(4 * sigma + 0.5)
    grid = torch.arange(-radius, radius + 1, dtype=torch.float64, device=image.device)
    kernel = torch.exp(-0.5 * (grid / sigma) ** 2)
    kernel = kernel / kernel.sum()

    def smooth(x: Tensor) -> Tensor:
        x = F.conv2d(F.pad(x[None, None], [0, 0, radius, radius]), kernel.view(1, 1, -1, 1))
        return F.conv2d(F.pad(x, [radius, radius, 0, 0]), kernel.view(1, 1, 1, -1))[0, 0]

    smoothed = smooth(image) / (smooth(torch.ones_like(image)) + torch.finfo(torch.float64).eps)
    edge, mean = torch.tensor([[-1.0, 0, 1], [1, 2, 1]], dtype=torch.float64, device=image.device)
    outside = _symmetric(smoothed)
    across = F.conv2d(outside[None, None], (mean[:, None] * edge).view(1, 1, 3, 3))[0, 0]
    down = F.conv2d(outside[None, None], (edge[:, None] * mean).view(1, 1, 3, 3))[0, 0]
    magnitude = torch.hypot(across, down)
    ridge = _ridge(across, down, magnitude) & (magnitude >= low)
    ridge[[0, -1]] = False
    ridge[:, [0, -1]] = False
    return _connected(ridge & (magnitude >= high), ridge)


def _symmetric(x: Tensor) -> Tensor:
    """Pad by one pixel, the border repeated."""
    return F.pad(x[None, None], [1, 1, 1, 1], mode="replicate")[0, 0]


def _ridge(across: Tensor, down: Tensor, magnitude: Tensor) -> Tensor:
    """Pixels whose gradient is not smaller than the interpolated ones before and after it, along it."""
    h, w = magnitude.shape
    padded = F.pad(magnitude, [1, 1, 1, 1])

    def at(y: int, x: int) -> Tensor:
        return padded[1 + y : 1 + y + h, 1 + x : 1 + x + w]

    steep = down.abs() >= across.abs()
    share = torch.where(steep, (across / down).abs(), (down / across).abs())
    same = (across >= 0) == (down >= 0)
    result = torch.ones_like(steep)
    for sign in (1, -1):
        diagonal = torch.where(same, at(sign, sign), torch.where(steep, at(sign, -sign), at(-sign, sign)))
        straight = torch.where(steep, at(sign, 0), at(0, sign))
        result &= diagonal * share + straight * (1 - share) <= magnitude
    return result


def _connected(seeds: Tensor, mask: Tensor) -> Tensor:
    """The pixels of `mask` that are connected with a seed."""
    while True:
        grown = (F.max_pool2d(seeds[None].float(), 3, stride=1, padding=1)[0] > 0) & mask
        if torch.equal(grown, seeds):
            return seeds
        seeds = grown


def planarity_errors(
    pred: Tensor, gt: Tensor, planes: Tensor, normals: Tensor, intrinsics: Tensor
) -> PlanarityErrors | None:
    """Measure how flat and how well oriented the planes of an image are in a prediction.

    The depth of each plane is scaled to the median of the ground truth and turned into points, x to the
    right, y forward, z up. Flatness is the standard deviation of their distance to their best plane,
    orientation the angle of its normal to the true one. Planes of less than 5 % of the image are left out.

    Args:
        pred: depth [H, W] in metres, NaN or 0 where it is unknown.
        gt: likewise.
        planes: int [H, W], which plane a pixel is of, from 1 on; 0 = none.
        normals: [planes, 3], unit normals in the axes named above.
        intrinsics: [3, 3], of a pixel whose centre is a whole number, from 0 on.

    Returns:
        Means over the planes; None if none is large enough.
    """
    k = intrinsics.double()
    found = []
    for number, normal in enumerate(normals.double(), 1):
        inside = planes == number
        if int(inside.sum()) < SHARE * planes.numel():
            continue
        of_gt, of_pred = (torch.where(x.isfinite() & (x != 0), x.double(), torch.nan) for x in (gt, pred))
        depth = of_pred * (_median(of_gt[inside]) / _median(of_pred[inside]))
        known = inside & depth.isfinite()
        if int(known.sum()) < 3:
            continue
        y, x = known.nonzero(as_tuple=True)
        z = depth[known]
        points = torch.stack([(x - k[0, 2]) * z / k[0, 0], z, -(y - k[1, 2]) * z / k[1, 1]], 1)
        centred = points - points.mean(0)
        best = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, 0]
        flatness = 100 * (centred @ best).square().mean().sqrt()
        best = best if best @ normal >= 0 else -best
        angle = torch.atan2(torch.linalg.cross(normal, best).norm(), normal @ best)
        found.append((float(flatness), math.degrees(float(angle))))
    if not found:
        return None
    flat, turned = zip(*found, strict=True)
    return PlanarityErrors(math.fsum(flat) / len(flat), math.fsum(turned) / len(turned))


def _median(x: Tensor) -> Tensor:
    ordered = x[x.isfinite()].sort().values
    if not len(ordered):
        return torch.full((), torch.nan, dtype=x.dtype, device=x.device)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
