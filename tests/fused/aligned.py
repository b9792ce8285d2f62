"""The matrix of the losses that align p and g: alignment, penalty, trim, gradient term, domain."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch

from depthloss.spec import PENALTIES, Domain, Gradient, GradientSpec, Group, LossSpec, Penalty, Pixel

from .cases import SHARED, TILES, pairwise

ALIGN = {
    "none": {"align": "none"},
    "mean": {"align": "mean"},
    "median": {"align": "median"},
    "median, added floor": {"align": "median", "scale_floor": "add", "align_eps": 0.2},
    "median below its floor": {"align": "median", "align_eps": 50.0},
    "median detached": {"align": "median", "align_grad": "detached"},
    "least squares": {"align": "least-squares"},
    "packnet": {"align": "packnet-trim", "min_pixels": 30},
}
TRIM = {
    "none": {},
    "image": {"trim": 0.2},
    "most": {"trim": 0.97},
    "batch": {"trim": 0.3, "trim_over": "batch", "reduction": "pixels"},
}
GRADIENT = {
    "none": None,
    "forward": GradientSpec.preset("midas"),
    "forward, deep": replace(GradientSpec.preset("midas", num_scales=6), combine="mean", normalizer="full"),
    "sparse": GradientSpec.preset("sparse", num_scales=3),
    "published": GradientSpec.preset("g2-published", num_scales=3),
    "bilinear": GradientSpec.preset("scale-adaptive", num_scales=3),
    "centre": GradientSpec.preset("g2-document", num_scales=3),
}
DOMAIN = {
    "identity": Domain(),
    "inverse": Domain("inverse", 1.1, 4.5),
    "clamped": Domain(minimum=0.3, maximum=0.8),
    "log": Domain(log=0.1, floor=0.35),
}
PENALTY = ("l1", "l2", "half-l2", "smooth-l1", "huber", "charbonnier", "barron")
AXES = {
    "align": tuple(ALIGN),
    "penalty": ("", *PENALTY),
    "trim": tuple(TRIM),
    "gradient": tuple(GRADIENT),
    "domain": tuple(DOMAIN),
    **{name: SHARED[name] for name in ("shape", "dtype", "pixels", "mask_dtype", "layout", "poison")},
    "reduction": ("pixels", "images", "images-sum"),
    "tiles": TILES,
}


@dataclass(frozen=True)
class Case:
    """One loss on one kind of input; the fields are the axes, penalty "" is no pixel term."""

    align: str
    penalty: str
    trim: str
    gradient: str
    domain: str
    shape: tuple[int, int, int]
    dtype: str
    pixels: str
    mask_dtype: torch.dtype
    layout: str
    poison: str | None
    reduction: str
    tiles: str
    abs_mask: bool = False

    @property
    def spec(self) -> LossSpec:
        axes = (self.align, self.penalty, self.trim, self.gradient, self.domain, self.reduction)
        return LossSpec((Group(tuple(terms_of(*axes))),))

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        trim = self.trim if self.penalty else "none"
        parts = (self.align, self.penalty, f"trim {trim}", self.gradient, self.domain, self.reduction)
        mask = f"{self.pixels} {str(self.mask_dtype).removeprefix('torch.')}"
        rest = (self.dtype, size, mask, self.layout, f"{self.poison} inside", f"{self.tiles} tiles")
        return "-".join((*parts, *rest))


def terms_of(
    align: str, penalty: str, trim: str, gradient: str, domain: str, reduction: str
) -> list[Pixel | Gradient]:
    """The terms of a loss by the names of its axes."""
    shared = {**ALIGN[align], "domain": DOMAIN[domain]}
    terms: list[Pixel | Gradient] = []
    if penalty:
        numbers = (0.3 for _ in PENALTIES[penalty])
        how = {"reduction": reduction, **TRIM[trim]}
        terms.append(Pixel(name="aligned", penalty=Penalty(penalty, *numbers), **shared, **how))
    if form := GRADIENT[gradient]:
        by_image = "images" if reduction == "images-sum" else reduction
        eps = 0.0 if form.stencil == "forward" else 1e-6
        terms.append(Gradient(name="gradient", gradient=form, reduction=by_image, eps=eps, **shared))
    return terms


def _possible(row: dict) -> bool:
    if not row["penalty"] and row["gradient"] == "none":
        return False
    centre = row["gradient"] == "centre"
    return not (centre and (row["domain"] == "log" or (row["trim"] != "none" and row["penalty"])))


def covering() -> list[Case]:
    """Every two values of two axes, where they go together."""
    return [Case(**row) for row in pairwise(AXES, []) if _possible(row)]


def draw_terms(rng: random.Random) -> list[Pixel | Gradient]:
    """Those of a random loss."""
    names = ("align", "penalty", "trim", "gradient", "domain", "reduction")
    while not _possible(row := {name: rng.choice(AXES[name]) for name in names}):
        pass
    return terms_of(**row)


def product(count: int = 1500) -> list[Case]:
    """Random cases, the same in every run."""
    rng, rows = random.Random(2), []
    for _ in range(count):
        row = {name: rng.choice(values) for name, values in AXES.items()}
        if _possible(row):
            rows.append(Case(**row))
    return rows
