"""Which losses the fused backends run, and which of their terms share the codes of the backward."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .domain import Domain
from .penalty import OF_PIXELS
from .terms import Gradient, Moments, Pixel, Term

# The fused backends that take a weight of each pixel.
WEIGHTED = frozenset({"cpu", "triton"})
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
    """The roles of these terms, or None for a loss that has more of one kind than there are roles."""
    terms = tuple(terms)
    moments = tuple(t for t in terms if isinstance(t, Moments))
    gradients = [t for t in terms if isinstance(t, Gradient)]
    pixels = [t for t in terms if isinstance(t, Pixel)]
    relatives = [t for t in pixels if t.align != "none" or t.trim]
    structure: list[Pixel | Gradient] = [*relatives, *gradients]
    if any(t.penalty.kind in OF_PIXELS and t.domain.log is not None for t in pixels):
        return None
    if len(relatives) > 1 or len(gradients) > 1 or len({(t.domain, t.alignment) for t in structure}) > 1:
        return None
    absolute = None
    if structure and structure[0].domain.log is None:
        rides = (t for t in pixels if t.mask == "abs_mask" and t.domain == structure[0].domain)
        absolute = next((t for t in rides if t.penalty.kind == "l1" and t.confidence is None), None)
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
    roles = roles_of(terms)
    if roles is None:
        return frozenset()
    centre = roles.gradient is not None and roles.gradient.gradient.mask == "centre"
    if centre and roles.relative is not None and roles.relative.trim:
        return frozenset({"triton"})  # A code of the native engine has one bit for both.
    return frozenset({"triton", "cpu"})
