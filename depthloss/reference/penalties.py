"""What a residual costs: one function per kind of penalty, in one place.

A function takes r, p, g [B, H, W] in the term's domain, m bool [B, H, W], the `Penalty` and the ranks, and
returns phi(r) [B, H, W]. r is 0 outside m; p and g may be anything there. A penalty with a count of its own
returns with phi the pixels [B, H, W] that count once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..maps import select
from ..spec import Penalty
from .statistics import Ranks

_Function = Callable[[Tensor, Tensor, Tensor, Tensor, Penalty, Ranks], "Tensor | tuple[Tensor, Tensor]"]
_FUNCTIONS: dict[str, _Function] = {}


def _penalty(kind: str) -> Callable[[_Function], _Function]:
    """The function below computes the penalty of this name."""

    def enter(function: _Function) -> _Function:
        _FUNCTIONS[kind] = function
        return function

    return enter


@_penalty("l1")
def _l1(r: Tensor, p: Tensor, g: Tensor, m: Tensor, penalty: Penalty, ranks: Ranks) -> Tensor:
    return r.abs()


@_penalty("l2")
def _l2(r: Tensor, p: Tensor, g: Tensor, m: Tensor, penalty: Penalty, ranks: Ranks) -> Tensor:
    return r.square()


@_penalty("half-l2")
def _half_l2(r: Tensor, p: Tensor, g: Tensor, m: Tensor, penalty: Penalty, ranks: Ranks) -> Tensor:
    return 0.5 * r.square()


@_penalty("smooth-l1")
def _smooth_l1(r: Tensor, p: Tensor, g: Tensor, m: Tensor, penalty: Penalty, ranks: Ranks) -> Tensor:
    """r^2/(2 beta) where |r| < beta, else |r| - beta/2 (Girshick 2015)."""
    d, beta = r.abs(), penalty.a
    return torch.where(d < beta, r.square() * (0.5 / beta), d - 0.5 * beta)


@_penalty("huber")
def _huber(r: Tensor, p: Tensor, g: Tensor, m: Tensor, penalty: Penalty, ranks: Ranks) -> Tensor:
    """r^2/2 where |r| <= delta, else delta (|r| - delta/2) (Huber 1964)."""
    d, delta = r.abs(), penalty.a
    return torch.where(d <= delta, 0.5 * r.square(), delta * (d - 0.5 * delta))


@_penalty("charbonnier")
def _charbonnier(r: Tensor, p: Tensor, g: Tensor, m: Tensor, penalty: Penalty, ranks: Ranks) -> Tensor:
    """sqrt(r^2 + c^2) - c (Charbonnier et al. 1994), as r^2/(sqrt(r^2 + c^2) + c), which keeps small r."""
    square, c = r.square(), penalty.a
    return square / ((square + c * c).sqrt() + c)


@_penalty("barron")
def _barron(r: Tensor, p: Tensor, g: Tensor, m: Tensor, penalty: Penalty, ranks: Ranks) -> Tensor:
    """The general robust loss of shape alpha and scale c (Barron 2019, equation 8), with its limits."""
    alpha, half = penalty.a, 0.5 * (r / penalty.b).square()
    if alpha == 2:
        return half
    if alpha == 0:
        return half.log1p()
    if alpha == -math.inf:
        return -(-half).expm1()
    b = abs(alpha - 2)
    return (b / alpha) * (0.5 * alpha * (half * (2 / b)).log1p()).expm1()


@_penalty("abs-rel")
def _abs_rel(r: Tensor, p: Tensor, g: Tensor, m: Tensor, penalty: Penalty, ranks: Ranks) -> Tensor:
    return r.abs() / select(m, g, 1.0)


@_penalty("abs-rel-packnet")
def _abs_rel_packnet(r: Tensor, p: Tensor, g: Tensor, m: Tensor, penalty: Penalty, ranks: Ranks) -> Tensor:
    """packnet-sfm divides by the prediction."""
    return r.abs() / select(m, p, 1.0)


def _largest(x: Tensor, m: Tensor, fill: float, ranks: Ranks) -> Tensor:
    values = select(m, x.detach(), fill).flatten()
    return ranks.max(torch.cat((values, values.new_full((1,), fill))).amax())


@_penalty("berhu")
def _berhu(r: Tensor, p: Tensor, g: Tensor, m: Tensor, penalty: Penalty, ranks: Ranks) -> Tensor:
    """Reverse Huber (Laina et al. 2016): d = |r| up to c, then (d^2 + c^2)/(2c); c = a max d, detached."""
    d = r.abs()
    c = penalty.a * _largest(d, m, 0.0, ranks)
    return torch.where(d <= c, d, (d.square() + c.square()) / (2.0 * select(c > 0, c, 1.0)))


@_penalty("berhu-packnet")
def _berhu_packnet(
    r: Tensor, p: Tensor, g: Tensor, m: Tensor, penalty: Penalty, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """packnet-sfm's form: d, and d + d^2 where d > c, which counts as two pixels; c = a max r, signed,
    detached.
    """
    d = r.abs()
    large = m & (d > penalty.a * _largest(r, m, -torch.inf, ranks))
    return d + select(large, d.square()), large


def cost(
    r: Tensor, p: Tensor, g: Tensor, m: Tensor, penalty: Penalty, ranks: Ranks
) -> tuple[Tensor, Tensor | None]:
    """phi(r), and the pixels that count once more or None."""
    result = _FUNCTIONS[penalty.kind](r, p, g, m, penalty, ranks)
    return result if isinstance(result, tuple) else (result, None)
