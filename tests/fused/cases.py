"""The matrix of the equivalence tests: its axes, a pairwise covering set of it, and the inputs of a case.

Every two values of two axes meet in some case, all 27 forms of the gradient term with three levels or more
both in float64 and in float32; `product` is what the full run adds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

import depthloss as dl
from depthloss.spec import LossSpec

from .. import cases
from . import families
from .compare import Inputs, near_kinks

F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
DTYPES = {
    "f64": (F64, F64),
    "f32": (F32, F32),
    "bf16": (BF16, BF16),
    "f16": (F16, F16),
    "f16 and f32": (F16, F32),
}
# How the Triton kernels divide an image; see tests/triton/engine.py.
TILES = ("one", "small", "loops")
GRADIENT = {
    "mask": ("residual", "centre", "support"),
    "downsample": ("nearest", "average", "bilinear"),
    "border": ("valid", "zero", "replicate"),
    "normalizer": ("full", "level"),
    "combine": ("sum", "mean"),
    "num_scales": (1, 2, 3, 4, 5, 6),
}
SHARED = {
    "shape": ((2, 17, 22), (1, 20, 33), (1, 16, 48), (3, 7, 9), (1, 1, 1), (2, 1, 13), (1, 33, 2)),
    "reduction": ("pixels", "images"),
    "dtype": tuple(DTYPES),
    "pixels": cases.MASKS,
    "mask_dtype": (torch.bool, torch.uint8, torch.float32),
    "abs_mask": (False, True),
    "layout": ("contiguous", "channels_last", "sliced", "transposed", "expanded mask", "[B, H, W]"),
    "poison": (None, "NaN", "Inf", "-1", "0"),
    "tiles": TILES,
}
STRUCTURE_AXES = {"family": tuple(families.STRUCTURE), **GRADIENT, **SHARED}
POINTWISE_AXES = {"family": tuple(families.POINTWISE), **SHARED, "shape": SHARED["shape"][:5]}


@dataclass(frozen=True)
class Case:
    """One loss on one kind of input; the fields are the axes."""

    family: str
    shape: tuple[int, int, int]
    reduction: str
    dtype: str
    pixels: str
    mask_dtype: torch.dtype
    abs_mask: bool
    layout: str
    poison: str | None
    tiles: str
    mask: str = ""
    downsample: str = ""
    border: str = ""
    normalizer: str = ""
    combine: str = ""
    num_scales: int = 0

    @property
    def spec(self) -> LossSpec:
        if not self.mask:
            return families.POINTWISE[self.family](self.reduction)
        gradient = dl.GradientSpec(**{axis: getattr(self, axis) for axis in GRADIENT})
        return families.STRUCTURE[self.family](gradient, self.reduction)

    def __str__(self) -> str:
        gradient = [
            self.mask,
            self.downsample,
            self.border,
            self.normalizer,
            self.combine,
            f"K{self.num_scales}",
        ]
        size = "x".join(map(str, self.shape))
        pixels = (
            f"{self.pixels} {str(self.mask_dtype).removeprefix('torch.')}{' abs' if self.abs_mask else ''}"
        )
        parts = [self.family, *(gradient if self.mask else ()), self.reduction, self.dtype, size, pixels]
        return "-".join([*parts, self.layout, f"{self.poison} inside", f"{self.tiles} tiles"])


def pairwise(axes: dict[str, tuple], start: list[dict], seed: int = 0) -> list[dict]:
    """Rows in which every two values of two axes meet: those of `start`, completed, then as many as it takes.

    Greedy, the same in every run: each row is the best of some that hold a pair which is still missing.
    """
    rng, names = random.Random(seed), list(axes)
    missing = {
        ((a, x), (b, y)): None for a, b in itertools.combinations(names, 2) for x in axes[a] for y in axes[b]
    }

    def gain(row: dict) -> int:
        return sum(pair in missing for pair in itertools.combinations(row.items(), 2))

    def complete(part: dict) -> dict:
        row = {name: part.get(name) for name in names}
        known = dict(part)
        for name in rng.sample(names, len(names)):
            if name in part:
                continue

            def new(value: object, name: str = name) -> int:
                pairs = (((a, x), (name, value)) for a, x in known.items())
                return sum(p in missing or p[::-1] in missing for p in pairs)

            values = rng.sample(axes[name], len(axes[name]))
            known[name] = row[name] = max(values, key=new)
        return row

    rows = []
    while missing or start:
        parts = [start.pop(0)] if start else [dict(pair) for pair in itertools.islice(missing, 1)]
        row = max((complete(part) for part in parts for _ in range(12)), key=gain)
        for pair in itertools.combinations(row.items(), 2):
            missing.pop(pair, None)
        rows.append(row)
    return rows


def covering() -> list[Case]:
    """The cases of every run."""
    forms = itertools.product(*(GRADIENT[axis] for axis in ("mask", "downsample", "border")))
    sizes = itertools.cycle(
        (((2, 17, 22), 3), ((1, 20, 33), 5), ((2, 17, 22), 4), ((1, 20, 33), 6), ((1, 16, 48), 3))
    )
    start = [
        {"mask": m, "downsample": d, "border": b, "dtype": dtype, "shape": shape, "num_scales": k}
        for (m, d, b), dtype in itertools.product(forms, ("f64", "f32"))
        for shape, k in [next(sizes)]
    ]
    rows = pairwise(STRUCTURE_AXES, start) + pairwise(POINTWISE_AXES, [])
    return [Case(**row) for row in rows]


def product() -> Iterator[Case]:
    """All 648 forms of the gradient term in the four dtypes; the other axes take turns, pointwise losses in
    all shapes, dtypes and kinds of mask.
    """
    rng = random.Random(1)

    def others(axes: dict[str, tuple]) -> dict:
        return {name: rng.choice(values) for name, values in axes.items()}

    for form in itertools.product(*GRADIENT.values(), tuple(DTYPES)[:4]):
        yield Case(**others(STRUCTURE_AXES) | dict(zip((*GRADIENT, "dtype"), form, strict=True)))
    fixed = ("family", "dtype", "pixels")
    for row in itertools.product(*(POINTWISE_AXES[axis] for axis in fixed)):
        yield Case(**others(POINTWISE_AXES) | dict(zip(fixed, row, strict=True)))


def lay_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values [B, 1, H, W] in another memory layout, or without the channel."""
    if layout == "transposed":
        return x.mT.contiguous().mT
    return x[:, 0] if layout == "[B, H, W]" else cases.lay_out(x, layout)


def draw_inputs(case: Case, spec: LossSpec, seed: int, device: str) -> Inputs:
    """Pred, gt and masks of a case."""
    b, h, w = case.shape
    shape, shared = (b, 1, h, w), case.layout == "expanded mask"
    rng = torch.Generator().manual_seed(seed + 100)
    pred, gt = cases.maps(torch.float64, shape, seed)
    mask = cases.mask(case.pixels, shape, shared)
    abs_mask = torch.rand(shape, generator=rng) < 0.4 if case.abs_mask else None
    if spec.positive_gt:
        hole = torch.rand(shape, generator=rng)
        gt = gt.masked_fill(hole < 0.3, 0.0).masked_fill(hole < 0.1, torch.inf)
    # Statistics "all" read every pixel.
    if mask is not None and case.poison and spec.statistics == "masked":
        hole = ~mask if abs_mask is None else ~mask & ~abs_mask
        pred, gt = (x.masked_fill(hole, cases.POISONS[case.poison]) for x in (pred, gt))
    pred, gt = (lay_out(x.to(d), case.layout) for x, d in zip((pred, gt), DTYPES[case.dtype], strict=True))

    def convert(m: torch.Tensor | None) -> torch.Tensor | None:
        if m is None:
            return None
        if shared and m is mask:
            kept = m[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in m.stride())]
            return kept.to(case.mask_dtype).expand(m.shape)
        return lay_out(m.to(case.mask_dtype), case.layout)

    given = pred, gt, convert(mask), convert(abs_mask)
    return Inputs(*(x if x is None else x.to(device) for x in given))


def inputs(
    case: Case, spec: LossSpec, device: str = "cpu", draw: Callable[..., Inputs] | None = None
) -> tuple[Inputs, torch.Tensor]:
    """The inputs of a case, by default those of `draw_inputs`, and its pixels [B, H, W] near a kink: of the
    first seed that has none, or the fewest.
    """
    tried = []
    for seed in range(16):
        found = (draw or draw_inputs)(case, spec, seed, device)
        near = near_kinks(spec, found)
        tried.append((found, near))
        if not near.any():
            return tried[-1]
    return min(tried, key=lambda pair: pair[1].sum().item())
