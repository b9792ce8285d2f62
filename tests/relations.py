"""Relations between the values of a loss on changed inputs: what holds without knowing any value.

`ROWS` says of each loss of tests/cases.py what docs/losses.md promises; `RELATIONS` are the changes. A
backend joins by calling `hold`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import depthloss as dl
from depthloss.spec import Gradient, LossSpec, Moments

from . import cases

# Of a scale or a divisor: so small that it leaves no trace.
EPS = 1e-13


@dataclass(frozen=True)
class Row:
    """What a loss promises. A metric stands for its term; "total_loss" is the loss itself.

    Attributes:
        degrees: of each metric, its k in L(c p, c g) = c^k L(p, g).
        free: the metrics that do not change with scale and shift of p, each image by its own.
        symmetric: L(p, g) = L(g, p).
        batch: ``"pixels"`` pools the batch: one that is there twice has the same value. ``"images"`` is the
            mean of the images' values, ``"both"`` has terms of either kind. ``"count"``: a number of pixels
            enters the value.
        flips: what height and width must be for a flip to map the cells of all levels onto themselves:
            ``"any"``, ``"whole cells"``, ``"strided"`` (a multiple of the coarsest step, and 1), or
            ``"never"``, as nearest takes the first pixel of a cell.
        rel: relative tolerance of the scaled values.
    """

    degrees: dict[str, float]
    free: tuple[str, ...] = ()
    symmetric: bool = True
    batch: str = "pixels"
    flips: str = "any"
    rel: float = 1e-10


def _total(degree: float, **axes: object) -> Row:
    return Row({"total_loss": degree}, **axes)


_G2 = Row({"absolute": 1, "relative": 0, "gradient": 0}, ("relative", "gradient"), flips="whole cells")
_OF_INVERSE = Row(
    {"scale_adaptive/relative": 0, "scale_adaptive/absolute": 1, "loss_sg": 0},
    ("scale_adaptive/relative", "loss_sg"),
    flips="whole cells",
)
# Depth is 1/p, of which a shift of p is none.
_OF_DEPTH = replace(_OF_INVERSE, degrees=_OF_INVERSE.degrees | {"scale_adaptive/absolute": -1}, free=())
_CLAMPED = replace(_OF_DEPTH, degrees={})
_PLUS_FLOOR = Row({"ssi_component": 2, "l1_component": -1}, rel=1e-4)  # of 1/(x + 1e-6)
_DOMAINS = Row({"ssi_component": 2, "scale_adaptive/relative": 0, "loss_sg": 0}, flips="whole cells")
_FIT = {"symmetric": False, "flips": "strided"}
ROWS = {
    "g2 published": replace(_G2, flips="never"),
    "g2 document": replace(_G2, batch="both"),
    "g2 support": _G2,
    "scale-adaptive": _OF_DEPTH,
    "scale-adaptive clamped": _CLAMPED,
    "scale-adaptive inverse": _total(0, free=("total_loss",), flips="whole cells"),
    "scale-adaptive centre": replace(_OF_INVERSE, flips="never"),
    "scale-adaptive residual": _OF_DEPTH,
    # The prediction is resampled otherwise than the target.
    "scale-adaptive-progressive": replace(_CLAMPED, symmetric=False, flips="never"),
    "progressive average": _CLAMPED,
    "gradient": _total(1, flips="whole cells"),
    "gradient six levels": _total(1, flips="whole cells"),
    "ssi": _total(2),
    "silog": _total(0),
    "silog zoedepth": _total(0, batch="count"),  # n / (n - 1)
    "silog mmseg": _total(0, batch="images"),
    "ssi-silog": Row({"ssi_component": 2}),
    "ssi-silog with gradient": Row({"ssi_component": 2}, flips="whole cells"),
    "enhanced-ssi": _PLUS_FLOOR,
    "progressive-ssi": _PLUS_FLOOR,
    "ssi-trim": _total(1, symmetric=False, batch="images"),
    "berhu": _total(1),
    "berhu packnet": Row({}, symmetric=False),  # d and d^2, by the largest p - g
    "abs-rel": _total(0, symmetric=False),
    "abs-rel packnet": _total(0, symmetric=False),
    "l1": _total(1),
    "mse": _total(2),
    "scale-shift-invariant": Row({"ssi_mse": 2, "gradient_matching": 1}, ("total_loss",), **_FIT),
    "affine-invariant": _total(0, free=("total_loss",), batch="images"),
    "affine-invariant trimmed": _total(0, free=("total_loss",), batch="images"),
    "affine-invariant of the batch": _total(0, free=("total_loss",), batch="count", flips="strided"),
    "least squares l1 by images": _total(1, free=("total_loss",), **_FIT, batch="images"),
    "adaptive-multi-domain": _DOMAINS,
    "fixed-multi-domain": replace(_DOMAINS, free=("scale_adaptive/relative", "loss_sg")),
}


class Inputs(NamedTuple):
    """What a loss is called with."""

    pred: Tensor
    gt: Tensor
    mask: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        return Inputs(*map(change, self))


@dataclass(frozen=True)
class Change:
    """Inputs before and after. Of each metric, value after = factor * value before.

    Attributes:
        back: from the gradient after to the pixels before, where it is `slope` times the one before; None
            where nothing is said of it.
    """

    before: Inputs
    after: Inputs
    factors: dict[str, float]
    back: Callable[[Tensor], Tensor] | None = None
    slope: float | Tensor = 1.0
    rel: float = 1e-12


Size = tuple[int, int]
# Of the row of a loss, the step of its coarsest cells, and the size of the maps: the changes.
Relation = Callable[[Row, int, Size], Iterator[Change]]
SIZE = (24, 40)
SAME = {"total_loss": 1.0}


def _step(loss: dl.DepthLoss) -> int:
    """Pixels from one cell of the coarsest level to the next, in a row."""
    levels = [t.gradient.num_scales for t in loss.spec.terms if isinstance(t, Gradient)]
    return 1 << (max([*levels, len(getattr(loss, "levels", ())), 1]) - 1)


def _scene(size: Size) -> Inputs:
    """Three images, one of them without a valid pixel."""
    shape = (3, 1, *size)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(5)) < 0.7
    mask[1] = False
    return Inputs(*cases.maps(torch.float64, shape, 2), mask)


def _whole(size: Size, step: int, more: int = 0) -> Size:
    """A size of whole coarsest cells, and `more` pixels."""
    return tuple(-(-x // step) * step + more for x in size)


def another_order(row: Row, step: int, size: Size) -> Iterator[Change]:
    """The images in another order."""
    before = _scene(size)
    yield Change(before, before.each(lambda x: x.roll(1, 0)), SAME, lambda g: g.roll(-1, 0))


def twice(row: Row, step: int, size: Size) -> Iterator[Change]:
    """The batch with itself."""
    if row.batch != "count":
        before = _scene(size)
        after = before.each(lambda x: torch.cat((x, x)))
        yield Change(before, after, SAME, lambda g: g[:3], 0.5)


def split(row: Row, step: int, size: Size) -> Iterator[Change]:
    """An image, and beside it one without a valid pixel: of a mean over the images that halves it."""
    if row.batch in ("pixels", "images"):
        both = _scene(size).each(lambda x: x[:2])
        share = 0.5 if row.batch == "images" else 1.0
        yield Change(both.each(lambda x: x[:1]), both, {"total_loss": share}, lambda g: g[:1], share)


def transposed(row: Row, step: int, size: Size) -> Iterator[Change]:
    """Rows and columns exchanged, of a size that no cell divides."""
    before = _scene((size[0] - 1, size[1] - 3))
    yield Change(before, before.each(lambda x: x.mT), SAME, lambda g: g.mT)


def flipped(row: Row, step: int, size: Size) -> Iterator[Change]:
    """Left to right, and upside down."""
    more = {"any": -1, "whole cells": 0, "strided": 1}.get(row.flips)
    if more is None:
        return
    before = _scene(_whole(size, step, more))
    for axis in (2, 3):
        yield Change(
            before, before.each(lambda x, axis=axis: x.flip(axis)), SAME, lambda g, axis=axis: g.flip(axis)
        )


def _framed(x: Tensor, left: int, right: int) -> Tensor:
    """x with invalid pixels around it."""
    fill = False if x.dtype == torch.bool else torch.nan
    return torch.nn.functional.pad(x, (left, right, left, right), value=fill)


def more_invalid(row: Row, step: int, size: Size) -> Iterator[Change]:
    """More invalid pixels around, by whole cells. Some are there before: no border is felt."""
    before = _scene(_whole(size, step)).each(lambda x: _framed(x, 2 * step, 2 * step))
    after = before.each(lambda x: _framed(x, step, 2 * step))
    yield Change(before, after, SAME, lambda g: g[..., step : -2 * step, step : -2 * step])


def both_scaled(row: Row, step: int, size: Size) -> Iterator[Change]:
    """Prediction and target in another unit."""
    for c in (0.3, 7.0) if row.degrees else ():
        p, g, m = before = _scene(size)
        factors = {name: c**degree for name, degree in row.degrees.items()}
        back = (lambda g: g) if "total_loss" in factors else None
        yield Change(
            before, Inputs(c * p, c * g, m), factors, back, factors.get("total_loss", 0) / c, row.rel
        )


def prediction_scaled(row: Row, step: int, size: Size) -> Iterator[Change]:
    """Each image of the prediction with a scale and a shift of its own."""
    if row.free:
        p, g, m = before = _scene(size)
        a, b = (torch.tensor(x).double()[:, None, None, None] for x in ((3.0, 1.0, 0.4), (5.0, 0.0, -0.2)))
        back = (lambda g: g) if "total_loss" in row.free else None
        yield Change(before, Inputs(a * p + b, g, m), dict.fromkeys(row.free, 1.0), back, 1 / a, row.rel)


def swapped(row: Row, step: int, size: Size) -> Iterator[Change]:
    """Prediction and target exchanged."""
    if row.symmetric:
        before = _scene(size)
        yield Change(before, Inputs(before.gt, before.pred, before.mask), SAME)


RELATIONS = (
    another_order,
    twice,
    split,
    transposed,
    flipped,
    more_invalid,
    both_scaled,
    prediction_scaled,
    swapped,
)


def _without_eps(spec: LossSpec) -> LossSpec:
    """`spec` with every eps, and every offset of a logarithm, so small that a scale does not see it."""

    def exact(t: dl.spec.Term) -> dl.spec.Term:
        if isinstance(t, Moments):
            return (
                replace(t, eps=0.0)
                if t.domain.log is None
                else replace(t, eps=0.0, domain=replace(t.domain, log=0.0))
            )
        return replace(t, eps=min(t.eps, EPS), align_eps=min(t.align_eps, EPS))

    groups = (replace(group, terms=tuple(map(exact, group.terms))) for group in spec.groups)
    return replace(spec, groups=tuple(groups))


def _evaluate(
    loss: dl.DepthLoss, inputs: Inputs, backend: str, device: str
) -> tuple[dict[str, float], Tensor]:
    _, grad = cases.run(loss, *(x.to(device) for x in inputs), backend)
    return {name: value.item() for name, value in loss.metrics.items()}, grad.cpu()


def hold(name: str, relation: Relation, backend: str, device: str = "cpu", size: Size = SIZE) -> None:
    """Check a relation of a loss; it says which changes there are.

    Raises:
        AssertionError: it does not hold.
    """
    loss = cases.LOSSES[name]().double().to(device)
    loss.spec = _without_eps(loss.spec)
    if hasattr(loss, "levels"):
        loss.levels = tuple(map(_without_eps, loss.levels))
    for change in relation(ROWS[name], _step(loss), size):
        before, grad = _evaluate(loss, change.before, backend, device)
        after, moved = _evaluate(loss, change.after, backend, device)
        for metric, factor in change.factors.items():
            assert abs(before[metric]) > 1e-3, f"{metric} says nothing: {before[metric]}"
            assert after[metric] == pytest.approx(factor * before[metric], rel=change.rel), metric
        if change.back is not None:
            error = (change.back(moved) - change.slope * grad).abs().amax()
            assert error <= 100 * change.rel * (change.slope * grad).abs().amax()


def holds(name: str, relation: Relation) -> bool:
    """Whether the relation says anything of this loss."""
    return next(relation(ROWS[name], 1, SIZE), None) is not None
