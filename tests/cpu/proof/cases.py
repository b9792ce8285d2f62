"""The cases of fuzz.py: a loss and its inputs, drawn from one number."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import torch
from depthloss.kernels import cpu
from torch import Tensor

from depthloss import dispatch
from depthloss.maps import valid_pixels
from depthloss.spec import Domain, LossSpec

from ... import cases
from ...fused.compare import Inputs
from ...fused.draw import draw_aligned, draw_call, draw_spec

F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
DTYPES = (*[(F32, F32)] * 4, *[(F64, F64)] * 3, (BF16, BF16), (F16, F16), (F16, F32), (F32, F64), (BF16, F16))
LOSSES = [name for name, build in cases.LOSSES.items() if "cpu" in build().spec.fused]
VALUES = (
    *["scene"] * 6, *["steps"] * 2, "constant", "equal", "twice", "huge", "tiny", "subnormal", "mixed",
    "zeros", "negative", "bad pixel",
)  # fmt: skip
MASKS = (
    "none", "dense", *["random"] * 3, "sparse", "one pixel", "stripes", "blocks", "one empty image",
    "all empty",
)  # fmt: skip
MASK_DTYPES = (
    *[torch.bool] * 3, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, F16, BF16, F32, F64,
)  # fmt: skip
LAYOUTS = (
    *["contiguous"] * 4, "channels_last", "sliced", "transposed", "offset", "expanded images",
    "expanded rows", "sliding",
)  # fmt: skip
POISONS = (math.nan, math.inf, -math.inf, -1.0, 0.0, 60000.0)
MOST_PIXELS = 60_000


@dataclass
class Case:
    """A loss and its inputs."""

    spec: LossSpec
    inputs: Inputs
    weights: tuple[float, ...]
    log_vars: tuple[float, ...]
    threads: int
    instruction_set: str
    values: str

    def __str__(self) -> str:
        maps = [x if x is None else f"{tuple(x.shape)} {x.dtype} strides {x.stride()}" for x in self.inputs]
        return (
            f"values {self.values!r}, {self.threads} threads, {self.instruction_set}\n"
            f"pred, gt, masks, weight, confidence: {maps}\n"
            f"weights {self.weights}, log-variances {self.log_vars}\n{self.spec}"
        )


def shares_memory(x: Tensor) -> bool:
    """Whether elements may share memory."""
    return x.untyped_storage().nbytes() < x.numel() * x.itemsize


def _shape(rng: random.Random) -> tuple[int, int, int, int]:
    few, many = rng.randint(1, 17), rng.randint(1, 3000)
    h, w = rng.choice(
        (
            (rng.randint(1, 40), rng.randint(1, 40)),
            (rng.randint(1, 40), rng.randint(1, 40)),
            (rng.randint(1, 260), few),
            (few, many),
            (many, few),
            (rng.randint(1, 300), rng.randint(1, 300)),
            (rng.choice((16, 32, 64, 65, 128)), rng.choice((16, 32, 48, 64, 160))),
        )
    )
    return rng.choice((1, 1, 2, 3)) if 3 * h * w <= MOST_PIXELS else 1, 1, h, w


def _loss(rng: random.Random) -> LossSpec:
    if rng.random() < 0.3:
        return cases.LOSSES[rng.choice(LOSSES)]().spec
    if rng.random() < 0.5:
        return draw_aligned(rng)
    spec = draw_spec(rng)
    if rng.random() > 0.15:
        return spec
    domain = Domain("shifted-inverse", rng.choice((None, 0.7)), rng.choice((None, 4.3)))
    groups = (replace(g, terms=tuple(replace(t, domain=domain) for t in g.terms)) for g in spec.groups)
    return replace(spec, groups=tuple(groups))


def _mask(rng: random.Random, generator: torch.Generator, shape: tuple[int, ...]) -> Tensor | None:
    """A mask of any dtype; numbers other than 1 may mark valid pixels."""
    kind, m = rng.choice(MASKS), torch.zeros(shape, dtype=torch.bool)
    if kind == "none":
        return None
    if kind == "one pixel" and m.numel():
        m.view(-1)[rng.randrange(m.numel())] = True
    elif kind in ("dense", "one empty image"):
        m[kind == "one empty image" :] = True
    elif kind in ("random", "sparse"):
        density = rng.choice((0.1, 0.5, 0.9, 0.99)) if kind == "random" else 0.02
        m = torch.rand(shape, generator=generator) < density
    elif kind == "stripes":
        m[..., rng.randrange(3) :: rng.randint(1, 7), :] = True
    elif kind == "blocks":
        size = rng.choice((3, 8, 20))
        coarse = torch.rand((shape[0], 1, *(-(-n // size) for n in shape[2:])), generator=generator) < 0.6
        m = coarse.repeat_interleave(size, 2).repeat_interleave(size, 3)[..., : shape[2], : shape[3]]
    dtype = rng.choice(MASK_DTYPES)
    if dtype == torch.bool:
        return m
    floats = dtype.is_floating_point
    valid = rng.choice((1.0, 0.5, -3.0, math.nan) if floats else (1, 2, 100))
    return torch.where(m, torch.tensor(valid, dtype=dtype), torch.tensor(-0.0 if floats else 0, dtype=dtype))


def _values(
    rng: random.Random, generator: torch.Generator, kind: str, shape: tuple[int, ...], dtypes: tuple
) -> tuple[Tensor, Tensor]:
    """Prediction and ground truth, in float64."""
    pred, gt = cases.maps(F64, shape, rng.getrandbits(32))
    narrow = min(map(torch.finfo, dtypes), key=lambda info: info.max)
    uniform = lambda: torch.rand(shape, generator=generator, dtype=F64)  # noqa: E731
    if kind == "steps":
        # Off the bounds and clamps of the losses, which are kinks themselves.
        step = rng.choice((0.25, 0.05, 1 / 256))
        pred, gt = (((x / step).round() + 0.37) * step for x in (pred, gt))
    elif kind == "constant":
        flat = [torch.full(shape, rng.uniform(0.1, 3.0), dtype=F64) for _ in range(2)]
        pred, gt = rng.choice((flat, (flat[0], gt), (pred, flat[1])))
    elif kind in ("equal", "twice"):
        gt = gt.to(dtypes[0]).to(dtypes[1]).to(F64)
        pred = gt * (2 if kind == "twice" else 1)
    elif kind in ("huge", "tiny", "subnormal"):
        scale = {
            "huge": min(1e30, narrow.max / 100),
            "tiny": max(narrow.tiny * 1e4, 1e-100),  # float64 keeps room for products
            "subnormal": narrow.tiny / 10,
        }
        pred, gt = pred * scale[kind], gt * scale[kind]
    elif kind == "mixed":
        pred, gt = (x * 10 ** (6 * uniform() - 3) for x in (pred, gt))
    elif kind == "zeros":
        pred, gt = (
            x.masked_fill(uniform() < 0.3, 0.0).masked_fill(uniform() < 0.1, -0.0) for x in (pred, gt)
        )
    elif kind == "negative":
        pred = pred - 0.3
    return pred, gt


def _lay_out(rng: random.Random, x: Tensor) -> Tensor:
    """The same values in a random memory layout; where elements share memory, the first ones repeat."""
    kind, (b, _, h, w) = rng.choice(LAYOUTS), x.shape
    if kind == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if kind == "transposed":
        return x.mT.contiguous().mT
    if kind == "sliced":
        big = torch.full((b, 2, 2 * h + 1, 3 * w + 2), 7).to(x.dtype)
        return big[:, 1:, 1::2, 2::3].copy_(x)
    if kind == "offset":
        return torch.full((x.numel() + 5,), 3).to(x.dtype)[5:].copy_(x.flatten()).view(x.shape)
    if kind == "expanded images":
        return x[:1].clone().expand(x.shape)
    if kind == "expanded rows":
        return x[:, :, :1].clone().expand(x.shape)
    step = max(1, w // 2)
    if kind == "sliding" and x.numel() >= b * h * step + w:  # A row starts in the middle of the previous one.
        return x.flatten()[: b * h * step + w].clone().as_strided(x.shape, (h * step, h * step, step, 1))
    return x.contiguous()


def _extras(
    rng: random.Random, spec: LossSpec, weighted: bool, hole: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """A weight and a confidence of each pixel, where a call brings them; anything at pixels in a hole."""
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    uniform = lambda: torch.rand(hole.shape, generator=generator)  # noqa: E731
    weight = confidence = None
    if weighted:
        weight = rng.choice((2 * uniform(), 10 ** (4 * uniform() - 2), (3 * uniform()).round()))
        weight = weight.masked_fill(uniform() < rng.choice((0.0, 0.2, 0.9)), 0.0)
        weight = _lay_out(rng, weight.to(rng.choice((F32, F64, BF16))))
    if spec.confidence:
        confidence = 2 * uniform() - 0.1  # Some below its floor.
        confidence = _lay_out(rng, confidence.to(rng.choice((F32, F64, BF16))))
    for x in (weight, confidence):
        if x is not None and not shares_memory(x):
            x.masked_fill_(hole, rng.choice(POISONS))
    return weight, confidence


def draw_case(number: int) -> Case:
    """Case `number`."""
    rng = random.Random(number)
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    spec, shape, dtypes, values = _loss(rng), _shape(rng), rng.choice(DTYPES), rng.choice(VALUES)
    # Of its own generator, so that the numbers of the other draws do not depend on it.
    other = random.Random(f"{number}: weights, confidences, losses of [B]")
    spec, weighted = draw_call(other, spec)
    pred, gt = _values(rng, generator, values, shape, dtypes)
    if spec.positive_gt and spec.statistics == "masked":
        hole = torch.rand(shape, generator=generator)
        gt = gt.masked_fill(hole < 0.2, rng.choice((0.0, -1.0))).masked_fill(hole < 0.1, math.inf)
    pred, gt = (_lay_out(rng, x.to(d)) for x, d in zip((pred, gt), dtypes, strict=True))
    given = [_mask(rng, generator, shape), _mask(rng, generator, shape) if rng.random() < 0.3 else None]
    mask, abs_mask = (m if m is None else _lay_out(rng, m) for m in given)
    hole = torch.zeros(shape, dtype=torch.bool)
    if spec.statistics == "masked" and mask is not None:
        hole = (mask == 0) if abs_mask is None else (mask == 0) & (abs_mask == 0)
    weight, confidence = _extras(other, spec, weighted, hole)
    if weight is not None:
        hole = hole | (weight == 0)
    if spec.statistics == "masked" and (mask is not None or weight is not None):
        for x in (pred, gt):
            if not shares_memory(x):  # Otherwise a valid pixel may share the hole's memory.
                x.masked_fill_(hole, rng.choice(POISONS))
    if values == "bad pixel":
        x = rng.choice((pred, gt))
        if not shares_memory(x):
            x[tuple(rng.randrange(n) for n in shape)] = rng.choice((math.nan, math.inf, -math.inf))
    if rng.random() < 0.1:
        pred, gt = pred[:, 0], gt[:, 0]
    weights = tuple(rng.choice((0.0, 1.0, rng.uniform(0.1, 2.0))) for _ in range(spec.num_weights))
    log_vars = tuple(rng.uniform(-1.5, 2.0) for _ in spec.groups) if spec.log_var_bounds else ()
    sets = [name for name in ("base", "avx2", "avx512") if cpu.choose(name)]
    cpu.choose(None)
    inputs = Inputs(pred, gt, mask, abs_mask, weight, confidence)
    return Case(spec, inputs, weights, log_vars, rng.randint(1, 3), rng.choice(sets), values)


def valid(case: Case) -> tuple[Tensor, Tensor]:
    """The pixels of the statistics and those of the absolute term, [B, H, W]."""
    g, mask, abs_mask = (dispatch.as_maps(x) for x in case.inputs[1:4])
    m = valid_pixels(g, mask, case.spec.positive_gt)
    m_abs = m if abs_mask is None else valid_pixels(g, abs_mask, case.spec.positive_gt)
    if (w := case.inputs.weight) is not None:
        m, m_abs = (x & (dispatch.as_maps(w) != 0) for x in (m, m_abs))
    return torch.ones_like(m) if case.spec.statistics == "all" else m, m_abs
