"""The reference backend: every loss in plain PyTorch, differentiated by autograd.

This is what a reader opens to learn what a loss *is*, and what every fused path is tested against.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import spec as s
from ..maps import convert, log_ratio, select, valid_pixels, working_dtype
from . import pyramid, statistics, terms
from .alignment import aligned_residual, large_enough
from .pyramid import gradient_term
from .statistics import Ranks, batch_mean, count

__all__ = ["evaluate", "pyramid", "statistics", "terms"]


class _Batch:
    """One batch as the terms see it: upcast inputs, masks, and what several terms share, computed once."""

    def __init__(
        self,
        pred: Tensor,
        gt: Tensor,
        mask: Tensor,
        abs_mask: Tensor,
        spec: s.LossSpec,
        ranks: Ranks,
        weight: Tensor | None,
        confidence: Tensor | None,
    ) -> None:
        self.pred, self.gt, self.mask, self.abs_mask = pred, gt, mask, abs_mask
        self.weight, self.confidence = weight, confidence
        self.spec, self.ranks = spec, ranks
        self.all_pixels = spec.statistics == "all"
        # The pixels of every term but the absolute one.
        self.structure = torch.ones_like(mask) if self.all_pixels else mask
        self.centre = any(isinstance(t, s.Gradient) and t.gradient.mask == "centre" for t in spec.terms)
        self._shared: dict[tuple, Any] = {}

    def _once(self, key: tuple, compute: Callable[[], Any]) -> Any:
        if key not in self._shared:
            self._shared[key] = compute()
        return self._shared[key]

    def gated(self, open_: Tensor) -> _Batch:
        """The same batch, empty unless `open_`."""
        masks = self.mask & open_, self.abs_mask & open_
        extra = self.weight, self.confidence
        return _Batch(self.pred, self.gt, *masks, self.spec, self.ranks, *extra)

    def pixels(self, term: s.Term) -> Tensor:
        """The pixels that the term compares."""
        return self.abs_mask if term.mask == "abs_mask" else self.structure

    def maps(self, domain: s.Domain, m: Tensor) -> tuple[Tensor, Tensor]:
        """p and g in `domain`, of the pixels `m`."""
        key = ("maps", *domain.key, m is not self.structure)
        return self._once(key, lambda: (convert(self.pred, m, domain), convert(self.gt, m, domain)))

    def keep(self, domain: s.Domain) -> Tensor:
        """The pixels whose residual is read: the valid ones; for mask "centre" also where both are finite."""
        if not self.centre:
            return self.structure
        p, g = self.maps(domain, self.structure)
        return self._once(("keep", *domain.key), lambda: self.structure | (p.isfinite() & g.isfinite()))

    def residual(self, term: s.Term, m: Tensor) -> Tensor:
        """p - g after what the term's alignment does to both, by the statistics of the pixels `m`."""
        domain, pixels = term.domain, self.pixels(term)
        align = term.alignment
        if align.kind == "none" and domain.log is not None:
            compute = lambda: log_ratio(self.pred, self.gt, pixels, domain)  # noqa: E731
        elif align.kind == "none":
            compute = lambda: operator.sub(*self.maps(domain, pixels))  # noqa: E731
        else:
            keep = self.keep(domain)
            compute = lambda: aligned_residual(  # noqa: E731
                *self.maps(domain, pixels), m, align, keep, self.weight
            )
        return self._once(("residual", *domain.key, *align, pixels is not self.structure), compute)


def _evaluate_term(t: s.Term, b: _Batch) -> tuple[Tensor, ...]:
    """The term's value, what its metric says, then its parts."""
    m = b.pixels(t)
    if isinstance(t, s.Moments):
        value = terms.moments(b.residual(t, m), m, t, b.ranks, b.weight)
        return value, value
    if isinstance(t, s.Pixel):
        p, g = b.maps(t.domain, m)
        m = large_enough(m, t.alignment, b.pred)
        value = plain = terms.pixel(b.residual(t, m), p, g, m, t, b.ranks, b.all_pixels, b.weight)
        if t.confidence is not None:
            of_c = b.weight, b.confidence
            value = terms.pixel(b.residual(t, m), p, g, m, t, b.ranks, b.all_pixels, *of_c)
        return value, plain
    m = large_enough(m, t.alignment, b.pred)
    value, levels, kept = gradient_term(
        b.residual(t, m), m, t.gradient, t.eps, b.ranks, b.keep(t.domain), b.all_pixels, t.reduction
    )
    return (value, value, *levels.unbind(), *kept.unbind()) if t.parts else (value, value)


def _kendall(
    losses: list[Tensor],
    log_vars: Sequence[Tensor],
    active: list[Tensor],
    bounds: tuple[float, float],
    spec: s.LossSpec,
    values: dict[str, Tensor],
) -> Tensor:
    """Sum of exp(-s)/2 L + s/2 over the active groups (Kendall, Gal, Cipolla 2018, s = ln sigma^2)."""
    low, high = bounds
    # A plain clamp has no gradient outside its bounds, so an overshot parameter would stay there.
    log_vars = [v.to(losses[0].dtype) for v in log_vars]
    log_vars = [v + (v.clamp(low, high) - v).detach() for v in log_vars]
    precisions = [(-v).exp() for v in log_vars]
    total = losses[0].new_zeros(())
    for group, loss, v, precision, on in zip(spec.groups, losses, log_vars, precisions, active, strict=True):
        total = total + select(on, 0.5 * precision * loss + 0.5 * v)
        values[f"sigma_{group.short_name}"] = (0.5 * v).exp()
        values[f"weight_{group.short_name}"] = precision / sum(precisions)
    return total


def evaluate(
    pred: Tensor,
    gt: Tensor,
    mask: Tensor | None,
    abs_mask: Tensor | None,
    spec: s.LossSpec,
    weights: Sequence[float],
    log_vars: Sequence[Tensor] = (),
    process_group: dist.ProcessGroup | None = None,
    weight: Tensor | None = None,
    confidence: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Evaluate one loss.

    Args:
        pred: [B, H, W], floating point, any strides.
        gt: [B, H, W], floating point.
        mask: [B, H, W], non-zero = valid, or None = every pixel.
        abs_mask: mask of the absolute term, or None = `mask`.
        spec: the loss.
        weights: `spec.num_weights` numbers: one per term, then one per group where no log-variance weights
            it.
        log_vars: 0-dim tensors, one per group, where `spec.log_var_bounds` is set.
        process_group: evaluate the joined batch of these ranks.
        weight: [B, H, W] floating point, how much each pixel counts; 0 as an invalid pixel, a negative one
            or NaN makes the loss NaN.
        confidence: [B, H, W] floating point, the c of the terms that have one.

    Returns:
        The loss (0-dim, or [B] where `spec.by_image`; float32 or float64, differentiable) and the detached
        vector of the numbers that `spec.metric_names` names; means over the images where `spec.by_image`.
    """
    dtype = working_dtype(pred, gt)
    conditions = spec.positive_gt, spec.gt_range
    valid = valid_pixels(gt, mask, *conditions)
    absolute = valid if abs_mask is None else valid_pixels(gt, abs_mask, *conditions)
    pred, gt = pred.to(dtype), gt.to(dtype)
    if weight is not None:
        weight = weight.detach().to(dtype)
        valid, absolute = valid & (weight != 0), absolute & (weight != 0)
        weight = select(weight >= 0, weight, torch.nan)
    if confidence is not None:
        confidence = confidence.to(dtype)
    ranks = Ranks(process_group)
    n = ranks.sum(count(valid, dtype).sum())
    batch = _Batch(pred, gt, valid, absolute, spec, ranks, weight, confidence)

    values: dict[str, Tensor] = {}
    term_weights = iter(weights)
    losses, active = [], []
    for group in spec.groups:
        gated = batch.gated(n >= group.min_valid) if group.min_valid > 0 else batch
        loss = pred.new_zeros(())
        for term in group.terms:
            factor, (value, shown, *parts) = next(term_weights), _evaluate_term(term, gated)
            # Not new_full: torch.compile would make a graph for each value of a schedule.
            reported = (pred.new_ones(()) * factor,) if term.weight_name else ()
            values.update(zip(term.metric_names, (shown, *reported, *parts), strict=True))
            loss = loss + factor * value
        if group.name:
            values[group.name] = loss
        losses.append(loss)
        active.append(n >= max(group.min_valid, 1))
    if spec.log_var_bounds is None:
        first, *others = [factor * loss for factor, loss in zip(term_weights, losses, strict=True)]
        total = sum(others, first)
    else:
        total = _kendall(losses, log_vars, active, spec.log_var_bounds, spec, values)
    values["num_valid_pixels"], values["total_loss"] = n, total
    if confidence is not None:
        values["confidence"] = terms.pooled_mean(confidence, valid, ranks)
    found = [values[name].detach() for name in spec.metric_names]
    return total, torch.stack([batch_mean(x, ranks) if x.dim() else x for x in found])
