"""What a residual costs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..checks import NamesKeywords, check_number, one_of, set_number

# Of each kind, the names of its numbers `a` and `b` in errors. The formulas are in
# depthloss/reference/penalties.py, and in one file of each engine: kernels/cpu/penalty.hpp,
# kernels/triton/penalty.py.
PENALTIES: dict[str, tuple[str, ...]] = {
    "l1": (),
    "l2": (),
    "half-l2": (),
    "smooth-l1": ("beta",),
    "huber": ("delta",),
    "charbonnier": ("c",),
    "barron": ("alpha", "c"),
    "abs-rel": (),
    "abs-rel-packnet": (),
    "berhu": ("threshold",),
    "berhu-packnet": ("threshold",),
}
# These read p and g themselves, or the largest residual of the batch.
OF_PIXELS = frozenset({"abs-rel", "abs-rel-packnet", "berhu", "berhu-packnet"})
# These need the largest residual of the batch before any of their values.
OF_LARGEST = frozenset({"berhu", "berhu-packnet"})
# Of these some pixels count once more.
COUNTS = frozenset({"berhu-packnet"})


@dataclass(frozen=True)
class Penalty(NamesKeywords):
    """phi(r) of a residual r = p - g.

    Attributes:
        kind: ``"l1"`` |r|; ``"l2"`` r^2; ``"half-l2"`` r^2/2; ``"smooth-l1"`` r^2/(2a) below a, else
            |r| - a/2; ``"huber"`` r^2/2 up to a, else a(|r| - a/2); ``"charbonnier"`` sqrt(r^2 + a^2) - a;
            ``"barron"``, the general robust loss of shape a and scale b (Barron 2019), any a, 0 and -inf
            included; ``"abs-rel"`` |r|/g; ``"abs-rel-packnet"`` |r|/p; ``"berhu"`` and ``"berhu-packnet"``,
            reverse Huber with c = a max |r| (packnet: a max r) over the batch.
        a: its first number: the threshold of smooth L1, Huber and reverse Huber, the constant of
            Charbonnier, the shape of Barron's loss.
        b: its second number: the scale of Barron's loss.

    Raises:
        ValueError: unknown kind, a number that it has not, or one out of range.
    """

    kind: str = "l1"
    a: float = 0.0
    b: float = 0.0

    def __post_init__(self) -> None:
        one_of("kind", self.kind, tuple(PENALTIES))
        said = PENALTIES[self.kind]
        for i, name in enumerate(("a", "b")):
            if i < len(said) and said[i] == "alpha":
                if self.a != -math.inf:
                    check_number("alpha", self.a)
                object.__setattr__(self, "a", float(self.a))
            elif i < len(said):
                set_number(self, name, said[i], low=0.0, strict=True)
            elif getattr(self, name) != 0:
                raise ValueError(
                    f"penalty {self.kind!r} has no number {name!r}; got {name}={getattr(self, name)!r}"
                )
