"""What a loss makes of a batch, in words and numbers: `explain`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from . import dispatch
from .losses import DepthLoss, SupervisedLoss
from .losses.supervised import as_scales, at_size, weight_of_scales
from .maps import valid_pixels
from .spec import Gradient, GradientSpec, Pixel

# Half of the pixels nearer than this speaks for the other quantity: 1/m read as metres, or metres as 1/m.
_NEAR = 0.5
# Half of the pixels beyond this many metres speaks for another unit.
_FAR = 500.0
# Alignments behind which the unit does not matter.
_SCALING = ("mean", "median", "least-squares")
_EXPECTS = {
    "depth": "depth in metres",
    "inverse depth": "inverse depth (1/m)",
    "either": "depth in metres or inverse depth (1/m), pred and gt alike",
}
# By the mask of a gradient term, what a response needs to be kept.
_KEPT = {
    "residual": "every response: the residual is 0 at invalid pixels, so edges of the mask count as edges",
    "centre": "responses whose cell is more than half valid",
    "support": "responses whose nine cells all hold a valid pixel",
}


@dataclass(frozen=True)
class Range:
    """The finite numbers of a map at the valid pixels; NaN where there are none."""

    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True)
class Term:
    """One summand of the total: ``value * weight``, and its `share` of the total, None where that is 0."""

    name: str
    value: float
    weight: float
    share: float | None


@dataclass(frozen=True)
class Level:
    """A level of the gradient term, counted from 1: the responses it kept, of so many cells.

    `Explanation.kept` says which are kept.
    """

    level: int
    kept: int
    cells: int


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; printed, it is a table.

    Attributes:
        loss: name of the class.
        total: value of the loss.
        valid: number of valid pixels.
        pixels: number of pixels.
        expects: what `pred` and `gt` must hold: ``"depth"``, ``"inverse depth"`` or ``"either"``.
        pred: range of the prediction.
        gt: range of the ground truth.
        terms: the summands of the total.
        levels: the levels of the gradient term; empty without one.
        backend: what ran: ``"reference"``, ``"cpu"`` or ``"triton"``.
        reason: why that one.
        warnings: what is probably not meant.
        coarser: for a `SupervisedLoss`, the same of its further scales.
        kept: which responses a level keeps, by the mask of the gradient term; "" without one.
    """

    loss: str
    total: float
    valid: int
    pixels: int
    expects: str
    pred: Range
    gt: Range
    terms: tuple[Term, ...]
    levels: tuple[Level, ...]
    backend: str
    reason: str
    warnings: tuple[str, ...]
    coarser: tuple[Explanation, ...] = ()
    kept: str = ""

    def __str__(self) -> str:
        """The table."""
        share = f" ({self.valid / self.pixels:.1%})" if self.pixels else ""
        blocks = [
            f"{self.loss} = {self.total:.6g}",
            f"valid    {self.valid} of {self.pixels} pixels{share}\n"
            f"expects  {_EXPECTS[self.expects]}\n"
            f"backend  {self.backend}: {self.reason}",
            _table(
                ("valid pixels", "min", "median", "max"),
                [
                    (name, x.minimum, x.median, x.maximum)
                    for name, x in (("pred", self.pred), ("gt", self.gt))
                ],
            ),
            _table(
                ("term", "value", "weight", "share"),
                [
                    (t.name, t.value, t.weight, "–" if t.share is None else f"{t.share:.1%}")
                    for t in self.terms
                ],
            ),
        ]
        if self.levels:
            rows = [(str(x.level), str(x.kept), str(x.cells)) for x in self.levels]
            blocks.append(f"{_table(('level', 'kept', 'cells'), rows)}\nkept: {self.kept}")
        if self.warnings:
            blocks.append("\n".join(["warnings", *(f"- {text}" for text in self.warnings)]))
        blocks += [f"scale {i}: {x}" for i, x in enumerate(self.coarser, 1)]
        return "\n\n".join(blocks)


def _table(head: Sequence[str], rows: Iterable[Sequence[str | float]]) -> str:
    cells = [head, *([x if isinstance(x, str) else f"{x:.4g}" for x in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    )


def explain(
    loss: DepthLoss | SupervisedLoss,
    pred: Tensor | Sequence[Tensor],
    gt: Tensor,
    mask: Tensor | None = None,
    **forward: Any,
) -> Explanation:
    """Evaluate a loss on a batch and say what it saw. For a look at a new setup, not for every step: it waits
    for the device.

    The loss is left as it is, its metrics too. A `process_group` is left out: it is this rank's batch.

    Args:
        loss: any loss of this package.
        pred: as the loss takes it; for a `SupervisedLoss` also the list of scales.
        gt: as the loss takes it.
        mask: as the loss takes it.
        **forward: further keywords of the loss's forward: `progress`, `epoch`, `abs_mask`, `weight`,
            `confidence`.

    Raises:
        TypeError: `loss` is no loss of this package, or inputs or keywords that it refuses.
        ValueError: inputs that the loss refuses.
        RuntimeError: the loss's backend was asked for by name and cannot run; or a transform of torch.func is
            active, inside which there are no numbers to read.
    """
    if isinstance(loss, SupervisedLoss):
        return _explain_scales(loss, pred, gt, mask, forward)
    if not isinstance(loss, DepthLoss):
        raise TypeError(f"loss must be a depthloss loss or SupervisedLoss; got {type(loss).__name__}")
    if not isinstance(pred, Tensor):
        raise TypeError(f"pred must be a torch.Tensor; got {type(pred).__name__}")
    if "return_metrics" in forward:
        raise TypeError("explain reads the metrics by itself; leave out return_metrics")
    if reason := dispatch.transforms.functorch():
        raise RuntimeError(f"explain reads numbers, and inside a transform there are none: {reason}")
    abs_mask, weight, confidence = (forward.get(name) for name in ("abs_mask", "weight", "confidence"))
    spec, maps = loss.spec, (pred, gt, mask, abs_mask, weight, confidence)
    dispatch.check_inputs(*maps)
    backend, reason = dispatch.backend_for(maps, spec, loss.log_vars(), loss.backend)
    probe = copy.copy(loss)  # Shares the parameters; keeps the metrics of this call to itself.
    probe.process_group = None
    with torch.no_grad(), dispatch.use_backend(backend):
        probe.forward(pred, gt, mask, **forward)
    metrics = dict(zip(probe.metrics, torch.stack(list(probe.metrics.values())).tolist(), strict=True))
    total = metrics["total_loss"]
    at = (forward.get("progress", 0.0), forward.get("epoch", 0))
    p, g = (dispatch.as_maps(x.detach()).double() for x in (pred, gt))
    valid = valid_pixels(
        dispatch.as_maps(gt.detach()), dispatch.as_maps(mask), spec.positive_gt, spec.gt_range
    )
    w = None if weight is None else dispatch.as_maps(weight.detach())
    if w is not None:
        valid = valid & (w != 0)
    gradient = next((t.gradient for t in spec.terms if isinstance(t, Gradient)), None)
    levels = _levels(gradient, metrics, p.shape)
    found = Explanation(
        loss=type(loss).__name__,
        total=total,
        valid=int(valid.sum()),
        pixels=valid.numel(),
        expects=loss.input_domain,
        pred=_range(p[valid]),
        gt=_range(g[valid]),
        terms=_terms(loss, metrics, total, at),
        levels=levels,
        backend=backend,
        reason=reason,
        warnings=(),
        kept=_KEPT[gradient.mask] if gradient and levels else "",
    )
    warnings = [
        *_of_levels(levels if loss.gradient_weight(*at) else ()),
        *_of_places(pred, gt),
        *_of_units(
            loss.input_domain, p[valid], g[valid], all(t.alignment.kind in _SCALING for t in spec.terms)
        ),
        *_of_pixels(p, g, valid, spec.positive_gt),
        *_of_logarithms(total, p, valid),
        *_of_mask(mask),
        *_of_weight(w, valid, total),
        *(
            f"{group.short_name or 'the loss'} is left out below {group.min_valid} valid pixels"
            for group in spec.groups
            if found.valid < group.min_valid
        ),
    ]
    return replace(found, warnings=tuple(warnings))


def _explain_scales(
    loss: SupervisedLoss, preds: Tensor | Sequence[Tensor], gt: Tensor, mask: Tensor | None, forward: dict
) -> Explanation:
    preds = as_scales("pred", preds)
    weights = weight_of_scales(forward.pop("weight", None), len(preds))
    scales = []
    for pred, w in zip(preds[: loss.num_scales(forward.get("progress", 0.0))], weights, strict=False):
        maps = (gt, mask, w)
        g, m, w = (at_size(x, pred.shape[-2:]) if isinstance(x, Tensor) else x for x in maps)
        scales.append(explain(loss.loss_func, pred, cast(Tensor, g), m, weight=w, **forward))
    return replace(scales[0], coarser=tuple(scales[1:]))


def _range(x: Tensor) -> Range:
    x = x[x.isfinite()]
    if not len(x):
        return Range(*(3 * [float("nan")]))
    return Range(*torch.stack([x.min(), x.median(), x.max()]).tolist())


def _terms(loss: DepthLoss, metrics: dict[str, float], total: float, at: tuple) -> tuple[Term, ...]:
    summands = [(name, metrics[name], weight) for name, weight in loss.term_weights(*at).items()]
    if loss.spec.log_var_bounds is not None:
        low, high = loss.spec.log_var_bounds
        for group, s in zip(loss.spec.groups, loss.log_vars(), strict=True):
            if metrics["num_valid_pixels"] >= max(group.min_valid, 1):
                summands.append((f"log_var_{group.short_name}", min(max(s.item(), low), high), 0.5))
    confident = [
        i for i, t in enumerate(loss.spec.terms) if isinstance(t, Pixel) and t.confidence is not None
    ]
    if len(confident) == 1 and summands[confident[0]][2]:
        # Its metric is the plain mean of the penalty: what it adds to the total is what the others leave.
        name, _, weight = summands.pop(confident[0])
        rest = math.fsum(v * w for _, v, w in summands)
        summands.insert(confident[0], (name, (total - rest) / weight, weight))
    return tuple(Term(name, v, w, v * w / total if total else None) for name, v, w in summands)


def _levels(
    gradient: GradientSpec | None, metrics: dict[str, float], shape: Sequence[int]
) -> tuple[Level, ...]:
    lost = 2 if gradient and gradient.border == "valid" else 0
    levels: list[Level] = []
    while (name := f"gradient/support_{len(levels) + 1}") in metrics:
        h, w = (max((n >> len(levels)) - lost, 0) for n in shape[1:])
        levels.append(Level(len(levels) + 1, int(metrics[name]), shape[0] * h * w))
    return tuple(levels)


def _of_levels(levels: tuple[Level, ...]) -> Iterable[str]:
    empty = [str(x.level) for x in levels if not x.kept]
    if empty:
        yield (
            f"the gradient term kept no response at level{'s' * (len(empty) > 1)} {', '.join(empty)} of "
            f"{len(levels)}: "
            + ("it is 0" if len(empty) == len(levels) else "they add nothing to it")
            + ", as the ground truth is too sparse or too small for its cells"
        )


def _of_places(pred: Tensor, gt: Tensor) -> Iterable[str]:
    if gt.requires_grad and not pred.requires_grad:
        yield "gt requires a gradient and pred does not: they seem to be in each other's place"


def _other_unit(expects: str, gt: float, aligned: bool) -> tuple[str, Callable[[float], bool]] | None:
    """What a median of the ground truth looks like where it is not what the loss expects, and which do."""
    rows: tuple[tuple[bool, str, Callable[[float], bool]], ...] = (
        (expects != "either" or not aligned, "millimetres, or the raw numbers of a file", lambda x: x > _FAR),
        (expects != "depth" and not aligned, "the reciprocal of millimetres", lambda x: x < 1 / _FAR),
        (expects == "inverse depth", "metres", lambda x: x > 1 / _NEAR),
        (expects == "depth", "inverse depth (1/m)", lambda x: x < _NEAR),
    )
    return next(((looks, wrong) for of, looks, wrong in rows if of and wrong(gt)), None)


def _of_units(expects: str, p: Tensor, g: Tensor, aligned: bool) -> Iterable[str]:
    p, g = (x[x.isfinite() & (x > 0)] for x in (p, g))
    if not len(p) or not len(g):
        return
    medians = {"pred": p.median().item(), "gt": g.median().item()}
    if unit := _other_unit(expects, medians["gt"], aligned):
        looks, wrong = unit
        # An untrained prediction may be anything: it is named only beside the ground truth.
        names = [name for name, x in medians.items() if wrong(x)]
        values = " and ".join(f"{medians[name]:.4g}" for name in names)
        several = len(names) > 1
        yield (
            f"{' and '.join(names)} look{'' if several else 's'} like {looks}, with "
            f"{'medians' if several else 'a median'} of {values}: this loss expects {_EXPECTS[expects]}"
        )
    else:
        ratio, product = medians["pred"] / medians["gt"], medians["pred"] * medians["gt"]
        if max(ratio, 1 / ratio) > 4 and max(product, 1 / product) < 3:
            yield (
                f"pred looks like the reciprocal of gt: their medians are {medians['pred']:.4g} and "
                f"{medians['gt']:.4g}, so one seems to be metres, the other 1/m"
            )


def _of_pixels(p: Tensor, g: Tensor, valid: Tensor, positive_gt: bool) -> Iterable[str]:
    for name, x in (("pred", p), ("gt", g)):
        bad = valid & ~x.isfinite()
        if count := int(bad.sum()):
            image, row, column = bad.nonzero()[0].tolist()
            where = f"image {image}, row {row}, column {column}: {x[image, row, column].item()}"
            yield f"{name} is not finite at {count} valid pixel{'s' * (count > 1)}, first in {where}"
    if not positive_gt and (count := int((valid & (g <= 0)).sum())):
        yield (
            f"gt is 0 or less at {count} valid pixel{'s' * (count > 1)}: without depth there, give a mask or "
            'the prefix "sparse-"'
        )
    n = valid.sum((1, 2))
    empty = (n == 0).nonzero().flatten().tolist()
    if len(empty) == len(n):
        yield "no pixel is valid"
    elif empty:
        yield f"no pixel is valid in image{_list(empty)}"
    for name, x in (("pred", p), ("gt", g)):
        low, high = (torch.where(valid, x, fill).flatten(1) for fill in (torch.inf, -torch.inf))
        constant = (n > 1) & (low.amin(1) == high.amax(1)) if x.numel() else n > 1
        if images := constant.nonzero().flatten().tolist():
            yield f"{name} is constant over the valid pixels of image{_list(images)}"


def _of_logarithms(total: float, p: Tensor, valid: Tensor) -> Iterable[str]:
    if not math.isfinite(total) and (count := int((valid & (p <= 0)).sum())):
        yield f"pred is 0 or less at {count} valid pixel{'s' * (count > 1)}, and the loss is not finite"


def _list(images: list[int]) -> str:
    return f"{'s' * (len(images) > 1)} {', '.join(map(str, images))}"


def _of_weight(weight: Tensor | None, valid: Tensor, total: float) -> Iterable[str]:
    if weight is not None and (count := int((valid & ~((weight > 0) & (weight < torch.inf))).sum())):
        effect = ": the loss is NaN" if math.isnan(total) else ""  # Gradient terms do not read it.
        yield f"weight is negative or not finite at {count} valid pixel{'s' * (count > 1)}{effect}"


def _of_mask(mask: Tensor | None) -> Iterable[str]:
    if mask is None or not mask.is_floating_point():
        return
    fractions = mask[mask != mask.round()]
    if count := len(fractions):
        yield (
            f"mask holds fractions at {count} pixel{'s' * (count > 1)}, such as {fractions[0].item():.4g}: a "
            "pixel is valid wherever the mask is not 0"
        )
