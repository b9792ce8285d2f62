"""The quantity that a term compares."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import NamesKeywords, one_of, set_number

INVERSE_DEPTH_FLOOR = 1e-6


@dataclass(frozen=True)
class Domain(NamesKeywords):
    """What a term compares: the input x as it is, or the depth made from an inverse depth x (1/m); then
    perhaps its logarithm.

    Attributes:
        conversion: ``"identity"``; ``"inverse"`` is 1/max(x, 1e-6); ``"shifted-inverse"`` is 1/(x + 1e-6).
        minimum: lower clamp after the conversion, or None. The gradient of a clamp is 1 on the closed
            interval.
        maximum: upper clamp after the conversion, or None.
        log: offset o of ln(x + o) after the clamps, or None: no logarithm. Between prediction and target that
            are not aligned it is one logarithm, of (p + o)/(g + o).
        floor: x is at least this before the logarithm; None: NaN where x + o < 0 at a valid pixel.

    Raises:
        ValueError: unknown conversion, minimum >= maximum, or a floor without a logarithm.
    """

    conversion: str = "identity"
    minimum: float | None = None
    maximum: float | None = None
    log: float | None = None
    floor: float | None = None

    def __post_init__(self) -> None:
        one_of("conversion", self.conversion, ("identity", "inverse", "shifted-inverse"))
        low, high = self.minimum, self.maximum
        if low is not None:
            set_number(self, "minimum", "min_depth", low=0.0)
        if high is not None:
            set_number(self, "maximum", "max_depth", low=0.0, strict=True)
        if low is not None and high is not None and low >= high:
            raise ValueError(f"min_depth must be below max_depth; got min_depth={low!r}, max_depth={high!r}")
        if self.log is not None:
            set_number(self, "log", "offset", low=0.0)
        if self.floor is not None:
            set_number(self, "floor", "clamp", low=0.0, strict=True)
            if self.log is None:
                raise ValueError(f"floor needs a logarithm (log=0.0); got floor={self.floor!r} with log=None")

    @property
    def clamps(self) -> bool:
        """Whether it has a bound."""
        return self.minimum is not None or self.maximum is not None

    @property
    def converts(self) -> bool:
        """Whether it changes the input."""
        return self.conversion != "identity" or self.clamps or self.log is not None

    @property
    def key(self) -> tuple[str | float | None, ...]:
        """Its fields, for a dict: Dynamo of torch 2.6 takes only constants as keys."""
        return (self.conversion, self.minimum, self.maximum, self.log, self.floor)


IDENTITY = Domain()
DEPTH = Domain("inverse")
