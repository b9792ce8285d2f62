"""The matrix of losses with a weight or a confidence of each pixel, or a value of [B]."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from depthloss.spec import Absolute, Domain, Group, LossSpec, Moments, Penalty, Pixel, Term

from ..cases import POISONS
from . import aligned, cases
from .compare import Inputs

BESIDE: dict[str, tuple[Term, ...]] = {
    "nothing": (),
    "absolute": (Absolute(name="absolute"),),
    "moments": (
        Moments(name="silog", domain=Domain(log=0.1), eps=1e-8, scale=10.0),
        Moments(name="ssi", form="plain", domain=Domain("inverse", 1.1)),
    ),
    "pixels": (
        Pixel(name="abs-rel", penalty=Penalty("abs-rel"), eps=0.5),
        Pixel(name="berhu", penalty=Penalty("berhu", 0.3), mask="abs_mask", domain=Domain("inverse")),
    ),
    "confidence": (
        Pixel(name="sure", penalty=Penalty("huber", 0.2), confidence=0.3, mask="abs_mask"),
        Pixel(name="surer", domain=Domain("inverse", log=0.1), confidence=0.1),
    ),
}
AXES = {
    "align": ("none", "mean", "median", "least squares", "packnet"),
    "penalty": ("", "l1", "l2", "huber", "barron"),
    "gradient": tuple(aligned.GRADIENT),
    "domain": tuple(aligned.DOMAIN),
    "beside": tuple(BESIDE),
    "weighted": (True, False),
    "confident": (True, False),
    "reduction": ("pixels", "images", "images-sum", "none"),
    **{name: aligned.AXES[name] for name in ("shape", "dtype", "pixels", "mask_dtype", "layout", "poison")},
    "abs_mask": (False, True),
}


@dataclass(frozen=True)
class Case:
    """One loss on one kind of input; the fields are the axes."""

    align: str
    penalty: str
    gradient: str
    domain: str
    beside: str
    weighted: bool
    confident: bool
    reduction: str
    shape: tuple[int, int, int]
    dtype: str
    pixels: str
    mask_dtype: torch.dtype
    layout: str
    poison: str | None
    abs_mask: bool

    @property
    def spec(self) -> LossSpec:
        axes = (self.align, self.penalty, "none", self.gradient, self.domain, self.reduction)
        terms = aligned.terms_of(*axes)
        if self.confident and self.penalty:
            terms[0] = replace(terms[0], confidence=0.2)
        others = [replace(t, reduction=self.reduction) for t in BESIDE[self.beside]]
        groups = [Group(tuple(part), name) for name, part in (("first", terms), ("second", others)) if part]
        return LossSpec(tuple(groups))

    def __str__(self) -> str:
        extras = "+".join(name for name in ("weighted", "confident") if getattr(self, name))
        parts = (self.align, self.penalty, self.gradient, self.domain, self.beside, extras, self.reduction)
        mask = f"{self.pixels} {str(self.mask_dtype).removeprefix('torch.')}{' abs' if self.abs_mask else ''}"
        size = "x".join(map(str, self.shape))
        return "-".join((*parts, self.dtype, size, mask, self.layout, f"{self.poison} inside"))


def _possible(row: dict) -> bool:
    if not row["penalty"] and row["gradient"] == "none" and row["beside"] == "nothing":
        return False
    if row["gradient"] == "centre" and row["domain"] == "log":
        return False
    return not (row["weighted"] and row["align"] == "median")


def covering() -> list[Case]:
    """Every two values of two axes, where they go together; three times, as some rows are impossible."""
    rows = (row for seed in range(3) for row in cases.pairwise(AXES, [], seed))
    return list(dict.fromkeys(Case(**row) for row in rows if _possible(row)))


def inputs(case: Case, spec: LossSpec, device: str = "cpu") -> tuple[Inputs, torch.Tensor]:
    """The inputs of a case, and its pixels near a kink."""
    return cases.inputs(case, spec, device, _draw)


def _draw(case: Case, spec: LossSpec, seed: int, device: str) -> Inputs:
    """With a weight, of which a fifth is 0, and a confidence, of which some are below its floor; both are
    anything where no mask is valid.
    """
    given = cases.draw_inputs(case, spec, seed, device)
    rng = torch.Generator().manual_seed(seed + 200)
    shape = (case.shape[0], 1, *case.shape[1:])
    read = torch.zeros(shape, dtype=torch.bool)
    for m in (given.mask, given.abs_mask):
        read |= torch.ones_like(read) if m is None else (m != 0).view(shape).cpu()
    uniform = lambda: torch.rand(shape, generator=rng, dtype=torch.float64)  # noqa: E731
    if case.weighted:
        weight = (2 * uniform()).masked_fill(uniform() < 0.2, 0.0)
        weight = weight.to(cases.DTYPES[case.dtype][1])
        if case.poison and case.gradient != "centre":  # A pixel of weight 0 is invalid.
            hole = (weight == 0).view(given.pred.shape).to(device)
            for x in (given.pred, given.gt):
                x.masked_fill_(hole, POISONS[case.poison])
        weight = weight.masked_fill(~read, -1.0).to(device)
        given = given._replace(weight=cases.lay_out(weight, case.layout))
    if spec.confidence:
        c = (2 * uniform() - 0.1).masked_fill(~read, torch.nan)
        c = c.to(device, cases.DTYPES[case.dtype][0])
        given = given._replace(confidence=cases.lay_out(c, case.layout))
    return given
