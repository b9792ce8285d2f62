"""The metrics of an image: name, unit, meaning and formula of each. A new one is one entry of `METRICS`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import Array, Segments, as_map, chosen, double, fastest, joined, largest, log, where

# Share of the valid pixels in the pairs of ordinal_error, and the ratio from which on depths differ.
PAIRS, TAU = 0.3, 0.01
# Pixels whose terms are worked out at once: their arrays stay in a cache.
PIECE = 2**15


class Pixels:
    """The valid pixels of an image, and what several metrics are made of.

    Attributes:
        p: predicted depth, float64 [N] in metres, > 0 or NaN; a tensor, or an array of NumPy.
        g: ground truth depth, likewise.
    """

    def __init__(self, p: Array, g: Array) -> None:
        self.p, self.g = p, g

    @cached_property
    def error(self) -> Array:
        """p - g, in metres."""
        return self.p - self.g

    @cached_property
    def square(self) -> Array:
        """(p - g)²."""
        return self.error * self.error

    @cached_property
    def quotient(self) -> Array:
        """p / g."""
        return self.p / self.g

    @cached_property
    def log_error(self) -> Array:
        """ln p - ln g."""
        return log(self.quotient)

    @cached_property
    def inverse_error(self) -> Array:
        """1/p - 1/g, in 1/km."""
        return 1000 * (1 / self.p - 1 / self.g)

    @cached_property
    def capped_inverse_error(self) -> Array:
        """The same with 1/p = 0 where p <= 1e-4 m, as in NLSPN's metric."""
        return 1000 * (where(self.p <= 1e-4, 0.0, 1 / self.p) - 1 / self.g)

    @cached_property
    def ratio(self) -> Array:
        """The larger of p/g and g/p."""
        return largest(self.quotient, self.g / self.p)


# At every pixel, [N]; a bool counts as 0 or 1. Its arithmetic is what NumPy and torch both have: operators,
# and the functions of `arrays`.
Term = Callable[[Pixels], Array]


@dataclass(frozen=True)
class Meaning:
    """What a metric is called and means.

    Attributes:
        unit: "" = none.
        more: True = more is better, False = less is better, None = unknown.
        text: what it is, in a line of words and formulas; p: prediction, g: ground truth, d = ln p - ln g.
    """

    unit: str
    more: bool | None
    text: str

    @property
    def arrow(self) -> str:
        """An arrow up where more is better, down where less is, else nothing."""
        return {True: "↑", False: "↓", None: ""}[self.more]


@dataclass(frozen=True)
class PerImage(Meaning):
    """A metric of the pixels of one image.

    Attributes:
        value: of these pixels, given as tensors, 0-dim float64; NaN if there are none.
    """

    value: Callable[[Pixels], Tensor]


@dataclass(frozen=True)
class Pooled(Meaning):
    """A metric that is a function of means over pixels: it can be taken over the pixels of many images too.

    Attributes:
        terms: what the means are of, each [N]. Metrics that share a term name the same function.
        value: of the means, in this order, all of one shape.
    """

    terms: tuple[Term, ...]
    value: Callable[..., Tensor] = lambda mean: mean


def _square(x: Pixels) -> Array:
    return x.square


def _log_square(x: Pixels) -> Array:
    return x.log_error * x.log_error


def _within(limit: float) -> tuple[Term]:
    return (lambda x: x.ratio < limit,)


def _d_auc(x: Pixels) -> Array:
    """Area under the share of pixels with max(p/g, g/p) < 1.25^k over k, as UniDepth's evaluation has it.

    The trapezoidal rule over 100 exponents from 0.01 to 5, divided by 5: 0.998 for a perfect prediction.
    """
    ratio = torch.as_tensor(x.ratio)
    exponents = torch.linspace(0.01, 5.0, 100, dtype=torch.float64, device=ratio.device)
    passed = 100 - torch.bucketize(ratio, 1.25**exponents, right=True)
    # The two ends count half; a pixel passes the last one or none.
    steps = passed - 0.5 * (passed > 0).double() - 0.5 * (passed == 100).double()
    return fastest(steps * (4.99 / 99 / 5))


def _silog(log_square: Tensor, log_error: Tensor) -> Tensor:
    return 100 * (log_square - log_error.square()).clamp(min=0).sqrt()


def srmse(x: Pixels) -> Tensor:
    """RMSE of the maps standardised by mean and mean absolute deviation, as G2-MonoDepth's test has it."""

    def standardised(depth: Tensor) -> Tensor:
        centred = depth - depth.mean()
        return centred / (centred.abs().mean() + 1e-6)

    return (standardised(x.p) - standardised(x.g)).square().mean().sqrt()


def _ordinal_error(x: Pixels) -> Tensor:
    """Share of pairs with another order than in the ground truth, as G2-MonoDepth's test has it.

    The pairs depend on the number of pixels alone: both halves are random draws without repetition, seeded
    by 1 and 2 as there, but by torch's generator. A pair with a prediction that is not finite is wrong.
    """
    p, g = x.p, x.g
    if not len(g):
        return torch.full((), torch.nan, dtype=g.dtype, device=g.device)
    a, b = (_draw(len(g), seed).to(g.device) for seed in (1, 2))
    return (_order(p[a], p[b]) != _order(g[a], g[b])).double().mean()


def _draw(count: int, seed: int) -> Tensor:
    # On the CPU, so that every device draws the same.
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[: max(1, int(PAIRS * count))]


def _order(a: Tensor, b: Tensor) -> Tensor:
    ratio = a / b
    order = (ratio >= 1 + TAU).double() - (ratio <= 1 / (1 + TAU)).double()
    return torch.where(ratio.isfinite(), order, torch.nan)


METRICS: dict[str, PerImage | Pooled] = {
    "abs_rel": Pooled("", False, "mean of |p − g| / g", (lambda x: abs(x.error) / x.g,)),
    "sq_rel": Pooled("m", False, "mean of (p − g)² / g", (lambda x: x.square / x.g,)),
    "rmse": Pooled("m", False, "root of the mean of (p − g)²", (_square,), Tensor.sqrt),
    "rmse_log": Pooled("", False, "root of the mean of d², d = ln p − ln g", (_log_square,), Tensor.sqrt),
    "log10": Pooled("", False, "mean of |log₁₀ p − log₁₀ g|", (lambda x: abs(x.log_error) / math.log(10),)),
    "silog": Pooled(
        *("×100", False, "100 · standard deviation of d: blind to a wrong scale"),
        (_log_square, lambda x: x.log_error),
        _silog,
    ),
    "a1": Pooled("share", True, "share of the pixels with max(p / g, g / p) < 1.25", _within(1.25)),
    "a2": Pooled("share", True, "the same with 1.25²", _within(1.25**2)),
    "a3": Pooled("share", True, "the same with 1.25³", _within(1.25**3)),
    "d103": Pooled("share", True, "the same with 1.03", _within(1.03)),
    "d105": Pooled("share", True, "the same with 1.05", _within(1.05)),
    "d110": Pooled("share", True, "the same with 1.10", _within(1.10)),
    "d_auc": Pooled("share", True, "mean of that share over 1.25^k, k from 0.01 to 5 (δ-AUC)", (_d_auc,)),
    "mae": Pooled("m", False, "mean of |p − g|", (lambda x: abs(x.error),)),
    "irmse": Pooled(
        *("1/km", False, "root of the mean of (1/p − 1/g)²"),
        (lambda x: x.inverse_error * x.inverse_error,),
        Tensor.sqrt,
    ),
    "imae": Pooled("1/km", False, "mean of |1/p − 1/g|", (lambda x: abs(x.inverse_error),)),
    "srmse": PerImage(
        "", False, "rmse of both maps standardised by mean and mean absolute deviation (G2)", srmse
    ),
    "ordinal_error": PerImage(
        "share", False, "share of drawn pairs of pixels in another order of depth (G2)", _ordinal_error
    ),
}


def pooled() -> dict[str, Pooled]:
    """Return the metrics of `METRICS` that can be taken over the pixels of many images."""
    return {name: metric for name, metric in METRICS.items() if isinstance(metric, Pooled)}


def terms() -> list[Term]:
    """Return the terms of the pooled metrics, each once."""
    return list(dict.fromkeys(term for metric in pooled().values() for term in metric.terms))


def pixel_terms(p: Tensor, g: Tensor) -> Tensor:
    """Return `terms()` at every pixel, float64 [terms, N]; `p` and `g` as in `image_metrics`."""
    pixels = Pixels(fastest(p), fastest(g))
    with np.errstate(all="ignore"):  # a prediction that is not > 0 shows as NaN or infinity
        return torch.stack([torch.as_tensor(term(pixels)).double() for term in terms()])


def means(which: Sequence[Term], images: Sequence[Pixels]) -> dict[Term, Tensor]:
    """Return the means of terms over the pixels of each image.

    Many small images are taken together, and a large one in pieces: both is faster. Neither changes a bit.

    Args:
        which: the terms.
        images: their valid pixels, as tensors.

    Returns:
        float64 [images] by term, on the CPU; NaN for an image without a pixel.
    """
    sums = np.zeros((len(which), len(images)))
    with np.errstate(all="ignore"):  # a prediction that is not > 0 shows as NaN or infinity
        for first, p, g in _groups(images):
            parts, place = Segments([len(x) for x in p]), slice(first, first + len(p))
            pixels = Pixels(*(fastest(joined(x)) for x in (p, g)))
            for of_term, term in zip(sums, which, strict=True):
                found = parts.sum(term(pixels))
                of_term[place] += found.cpu().numpy() if isinstance(found, Tensor) else found
        sums /= [len(image.p) for image in images]
    return dict(zip(which, torch.from_numpy(sums), strict=True))


def _groups(images: Sequence[Pixels]) -> Iterator[tuple[int, list[Tensor], list[Tensor]]]:
    """Yield pieces of consecutive images, about `PIECE` pixels in all: first image, p and g of each piece."""
    first, held = 0, 0
    p: list[Tensor] = []
    g: list[Tensor] = []
    for i, image in enumerate(images):
        for start in range(0, max(1, len(image.p)), PIECE):
            piece = slice(start, start + PIECE)
            if p and held + len(image.p) - start > PIECE:
                yield first, p, g
                p, g, held = [], [], 0
            if not p:
                first = i
            whole = len(image.p) <= PIECE
            p.append(image.p if whole else image.p[piece])
            g.append(image.g if whole else image.g[piece])
            held += len(p[-1])
    if p:
        yield first, p, g


def pool(means: Tensor) -> Tensor:
    """Return the metrics of `pooled()`, [..., metrics], of the means [..., terms] of their terms."""
    mean = dict(zip(terms(), means.unbind(-1), strict=True))
    return torch.stack([m.value(*(mean[term] for term in m.terms)) for m in pooled().values()], -1)


def image_metrics(p: Tensor, g: Tensor) -> Tensor:
    """Measure one image.

    Args:
        p: predicted depth at the valid pixels, float64 [N] in metres, > 0 or NaN.
        g: ground truth depth there, float64 [N] in metres.

    Returns:
        float64 [metrics], as `METRICS` and in its units. NaN without a pixel.

    Raises:
        ValueError: p and g are not both [N]: maps go to `measure`.
    """
    p, g = (double(torch.as_tensor(as_map(x))) for x in (p, g))
    if p.shape != g.shape or p.ndim != 1:
        raise ValueError(
            f"p and g must both be [N], the valid pixels; got {list(p.shape)} and {list(g.shape)}"
        )
    pixels = Pixels(p, g)
    of_terms = torch.stack(list(means(terms(), [pixels]).values()))[:, 0].to(p.device)
    of_means = dict(zip(pooled(), pool(of_terms), strict=True))
    values: list[Any] = [of_means[n] if n in of_means else m.value(pixels) for n, m in METRICS.items()]
    return torch.stack(values)


def check_depths(min_depth: float, max_depth: float) -> None:
    """Check a range of depth.

    Raises:
        ValueError: not 0 < min_depth < max_depth < infinity.
    """
    if not 0 < min_depth < max_depth < float("inf"):
        raise ValueError(f"0 < min_depth < max_depth needed (metres), got {min_depth!r} and {max_depth!r}")


def range_name(low: float, high: float) -> str:
    """Return "[0, 1) m"."""
    return f"[{low:g}, {high:g}) m"


def valid_pixels(gt: Tensor, min_depth: float, max_depth: float, mask: Tensor | None = None) -> Tensor:
    """Return the pixels that count: `min_depth < gt < max_depth`, both strict, and `mask`.

    Args:
        gt: depth in metres, of any shape; anything at invalid pixels.
        min_depth: in metres.
        max_depth: in metres.
        mask: of the same shape, True = keep; None = every pixel.

    Returns:
        bool, of the same shape.
    """
    valid = (gt > min_depth) & (gt < max_depth)
    return valid if mask is None else valid & mask.bool()


def clamped(pred: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """Return the prediction clamped to [min_depth, max_depth], and NaN where it is not finite."""
    return torch.where(pred.isfinite(), pred.clamp(min_depth, max_depth), torch.nan)


def pixel_vector(values: Tensor, valid: Tensor) -> Tensor:
    """Return the values at the valid pixels as float64 [N]; on the CPU if their device has no float64."""
    return double(chosen(values.detach(), valid))
