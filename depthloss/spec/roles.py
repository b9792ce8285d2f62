"""Which losses the fused backends run, and which of their terms share the codes of the backward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .domain import Domain
from .penalty import OF_PIXELS
from .terms import Gradient, Moments, Pixel, Term

NOWHERE: frozenset[str] = frozenset()
EVERYWHERE = frozenset({"cpu", "triton"})
# As many pixel terms beside the structure, and as many moments.
MOST = 4


class Roles(NamedTuple):
    """The terms of a loss by what a fused backend does with them.

    The structure terms (`absolute`, `relative`, `gradient`) have one domain and one standardisation; their
    backward reads signs. `pixels` and `moments` stand for themselves: their backward reads p and g again.
    """

    absolute: Pixel | None
    relative: Pixel | None
    gradient: Gradient | None
    pixels: tuple[Pixel, ...]
    moments: tuple[Moments, ...]

    @property
    def structure(self) -> Domain | None:
        """The domain of the structure terms; None without."""
        aligned = self.relative or self.gradient
        return aligned.domain if aligned else None


def roles_of(terms: Iterable[Term]) -> Roles | None:
    """The roles of these terms, or None for a loss that no fused backend runs."""
    terms = tuple(terms)
    moments = tuple(t for t in terms if isinstance(t, Moments))
    gradients = [t for t in terms if isinstance(t, Gradient)]
    pixels = [t for t in terms if isinstance(t, Pixel)]
    relatives = [t for t in pixels if t.align != "none"]
    structure: list[Pixel | Gradient] = [*relatives, *gradients]
    if any(t.align == "mean" and t.penalty.kind != "l1" or t.align not in ("none", "mean") for t in pixels):
        return None
    if any(t.align not in ("none", "mean") or t.gradient.stencil != "sobel" for t in gradients):
        return None
    if any(t.trim for t in pixels) or any(t.domain.log is not None for t in structure):
        return None
    if any(t.penalty.kind in OF_PIXELS and t.domain.log is not None for t in pixels):
        return None
    if len(relatives) > 1 or len(gradients) > 1 or len({(t.domain, t.align) for t in structure}) > 1:
        return None
    if len({t.align_eps for t in structure if t.align == "mean"}) > 1:
        return None
    absolute = None
    if structure:
        rides = (t for t in pixels if t.mask == "abs_mask" and t.penalty.kind == "l1")
        absolute = next((t for t in rides if t.domain == structure[0].domain), None)
    others = tuple(t for t in pixels if t is not absolute and t not in relatives)
    if len(others) > MOST or len(moments) > MOST:
        return None
    return Roles(
        absolute,
        relatives[0] if relatives else None,
        gradients[0] if gradients else None,
        others,
        moments,
    )


def fused_backends(terms: Iterable[Term]) -> frozenset[str]:
    """The fused backends that run a loss of these terms."""
    return EVERYWHERE if roles_of(terms) else NOWHERE
