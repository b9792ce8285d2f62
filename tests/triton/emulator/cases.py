"""What is held against the reference, and how, in a process whose Triton compiles for the emulator.

The functions here run in that process (`conftest.py` starts it); each raises AssertionError, or `Fault`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from depthloss.kernels import triton as engine
from depthloss.kernels.triton import geometry, table
from depthloss.kernels.triton.table import Parameters

import depthloss as dl
from depthloss.losses import DepthLoss
from depthloss.maps import working_dtype
from depthloss.spec import Group, LossSpec

from ... import cases
from ...fused import cases as fused_cases
from ...fused import compare, families, weighted
from ...test_distributed import evaluate
from . import driver, machine
from .arithmetic import Perturbation

FUSED = [name for name, build in cases.LOSSES.items() if "triton" in build().spec.fused]
# Launch parameters, None = the table's, and the most programs per image. Few rows compile quickly.
TINY = Parameters(tile=(16, 16), strip_rows=2, strips=1, rows=2, columns=16)
WIDE = Parameters(tile=(32, 32), strip_rows=4, strips=2, rows=4, columns=32)
TILES = {"table": (None, 1024), "one": (WIDE, 1024), "small": (TINY, 1024), "loops": (TINY, 2)}
PERTURBED = Perturbation(approximations=True, contraction=True)


@dataclass(frozen=True)
class Case:
    """A loss of `tests/cases.py` on one kind of input."""

    loss: str
    dtype: str = "f32"
    shape: tuple[int, int, int] = (2, 33, 65)
    pixels: str = "70%"
    poison: str | None = "NaN"
    layout: str = "contiguous"
    tiles: str = "small"
    arch: int = 90
    perturbed: bool = False

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        parts = (
            self.loss,
            f"sm_{self.arch}",
            self.dtype,
            size,
            self.pixels,
            self.poison,
            self.layout,
            self.tiles,
        )
        return "-".join(map(str, parts)) + "-perturbed" * self.perturbed


def build(name: str) -> DepthLoss:
    """A loss of `tests/cases.py`, or a family."""
    return cases.LOSSES[name]() if name in cases.LOSSES else families.module(name)


def lay_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values, where vector loads may assume less."""
    if layout == "unaligned":  # whole rows, one element behind a base that is aligned
        view = x.new_zeros(x.numel() + 17)[1 : 1 + x.numel()].view(x.shape)
    elif layout == "cropped":  # rows of an odd number of elements
        view = x.new_zeros((*x.shape[:-1], x.shape[-1] + 1))[..., 1:]
    elif layout == "row shift":  # rows a multiple of 16 apart, from an odd element on
        view = x.new_zeros((*x.shape[:-1], x.shape[-1] + 32))[..., 3 : 3 + x.shape[-1]]
    else:
        return fused_cases.lay_out(x, layout)
    return view.copy_(x)


def maps(case: Case, spec: LossSpec) -> tuple[compare.Inputs, torch.Tensor]:
    """The inputs of a case and its pixels near a kink: of the first seed that has none, or the fewest."""
    b, h, w = case.shape
    tried = []
    for seed in range(8):
        pred, gt = cases.maps(torch.float64, (b, 1, h, w), seed)
        mask = cases.mask(case.pixels, pred.shape, shared=case.layout == "expanded mask")
        if mask is not None and case.poison and spec.statistics == "masked":
            pred, gt = (x.masked_fill(~mask, cases.POISONS[case.poison]) for x in (pred, gt))
        pair = (x.to(d) for x, d in zip((pred, gt), fused_cases.DTYPES[case.dtype], strict=True))
        given = compare.Inputs(*(lay_out(x, case.layout) for x in pair), mask)
        if mask is not None and case.layout != "expanded mask":
            given = given._replace(mask=lay_out(mask, case.layout))
        tried.append((given, compare.near_kinks(spec, given)))
        if not tried[-1][1].any():
            break
    return min(tried, key=lambda pair: pair[1].sum().item())


# ---- the process -------------------------------------------------------------------------------------------
def _poisoned(allocate: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> torch.Tensor:
        x = allocate(*args, **kwargs)
        nonsense = {torch.uint8: 0x7F, torch.int16: 0x7F7F, torch.int32: 0x7F7F7F7F}
        return x.fill_(torch.nan if x.is_floating_point() else nonsense.get(x.dtype, 1))

    return call


def start() -> None:
    """Once, before the first case: depthloss's Triton backend takes CPU tensors; fresh memory holds NaN."""
    torch.set_num_threads(1)
    assert not engine.INTERPRETED, "TRITON_INTERPRET must be 0 before Triton is imported"
    engine.DEVICES, engine.unavailable = ("cpu",), lambda: None
    compare.ROUNDING[torch.bfloat16] = 2.0**-8  # Compiled kernels round.
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        setattr(owner, name, _poisoned(getattr(owner, name)))


def emulate(arch: int = 90, tiles: str = "small", perturbed: bool = False) -> driver.Driver:
    """From here on: this architecture, these launch parameters, this arithmetic."""
    parameters, geometry.MAX_PROGRAMS = TILES[tiles]
    engine.parameters = lambda device, h, w: parameters or table.choose(arch, h, w)
    machine.perturbation = PERTURBED if perturbed else Perturbation()
    return driver.install(arch)


# ---- the checks --------------------------------------------------------------------------------------------
def _moved(given: compare.Inputs) -> compare.Inputs:
    """Maps 2 ulp off, in float32: 1 / x that is 2 ulp off is the reciprocal of such a number."""
    rng = torch.Generator().manual_seed(0)

    def move(x: torch.Tensor) -> torch.Tensor:
        return x * (1 + 2.0**-22 * (2 * torch.randint(2, x.shape, generator=rng) - 1))

    return given._replace(pred=move(given.pred), gt=move(given.gt))


def _hold(
    spec: LossSpec,
    given: compare.Inputs,
    near: torch.Tensor,
    numbers: tuple,
    repeat: bool,
    moved: bool = False,
) -> None:
    """`moved`: the error allowed is that of the reference on maps 2 ulp off, as conversions may be."""
    results = [compare.evaluate("triton", given, spec, *numbers) for _ in range(1 + repeat)]
    oracle = compare.evaluate("reference", given.double(), spec, *numbers)
    eager = compare.evaluate("reference", _moved(given) if moved else given, spec, *numbers)
    compare.assert_agrees(spec, results[0], eager, oracle, near.view(given.pred.shape))
    for x, y in zip(results[0], results[-1], strict=True):
        assert torch.equal(x, y), "another run gave other bits"


def agrees(case: Case, repeat: bool = False) -> None:
    """Loss, metrics, gradient and log-variances of a loss are the reference's."""
    emulate(case.arch, case.tiles, case.perturbed)
    loss = cases.LOSSES[case.loss]()
    log_vars = (0.3, -0.2)[: len(loss.log_vars())]
    _hold(loss.spec, *maps(case, loss.spec), (loss.weights(0.4, 3), log_vars), repeat)


def agrees_in_the_matrix(
    case: fused_cases.Case, spec: LossSpec | None = None, perturbed: bool = False, repeat: bool = False
) -> None:
    """As `agrees`, of a case of the covering matrix, or of another spec on its inputs."""
    emulate(tiles=case.tiles, perturbed=perturbed)
    spec = spec or case.spec
    numbers = families.weights(spec), families.log_vars(spec)
    # The difference of two depths, each a reciprocal, can be less than either by far.
    moved = perturbed and case.dtype == "f32"
    _hold(spec, *fused_cases.inputs(case, spec), numbers, repeat, moved)


def agrees_with_extras(case: weighted.Case) -> None:
    """As `agrees`, of a loss with a weight or a confidence of each pixel, or a value of [B]."""
    emulate(tiles="loops")
    numbers = families.weights(case.spec), families.log_vars(case.spec)
    _hold(case.spec, *weighted.inputs(case, case.spec), numbers, repeat=True)


def equal_maps_are_exactly_zero(form: tuple[str, str, str], dtype: str) -> None:
    """R, G and their gradient."""
    emulate()
    _, gt = cases.maps(fused_cases.DTYPES[dtype][0], (1, 1, 14, 19), seed=3)
    gt, mask = 7.3 * gt, cases.mask("70%", gt.shape)
    gt = gt.masked_fill(~mask & (torch.rand(gt.shape) < 0.5), torch.nan)
    mask_form, downsample, border = form
    gradient = dl.GradientSpec(mask=mask_form, downsample=downsample, border=border, num_scales=3)
    terms = families.structure_terms("ARG", gradient)
    spec = LossSpec((Group(tuple(terms)),))
    result = compare.evaluate("triton", compare.Inputs(gt, gt.clone(), mask), spec, families.weights(spec))
    assert result.total == 0 and not result.grad.any()
    assert not result.terms[: spec.metric_names.index("gradient/support_1")].any()


def nothing_valid_is_exactly_zero(name: str) -> None:
    """No image, no pixel, no valid pixel."""
    emulate()
    for shape in ((0, 1, 8, 8), (2, 1, 0, 5), (2, 1, 5, 0), (2, 1, 6, 9)):
        pred, gt = torch.full(shape, torch.nan), torch.full(shape, torch.inf)
        loss = build(name)
        value, grad = cases.run(loss, pred, gt, torch.zeros(shape, dtype=torch.bool), "triton")
        assert value == 0 and grad.shape == shape and not grad.any(), shape
        assert loss.metrics["total_loss"] == 0 and loss.metrics["num_valid_pixels"] == 0
        assert all(metric.isfinite() for metric in loss.metrics.values())
        assert not any(parameter.grad.any() for parameter in loss.parameters())


def same_bits(name: str, dtype: str) -> None:
    """Without a gradient, and with the weights as a tensor, as compiled graphs hand them over."""
    emulate()
    loss = build(name)
    given, _ = maps(Case(name, dtype), loss.spec)
    weights, work = loss.weights(0.4, 3), working_dtype(given.pred, given.gt)
    log_vars = [torch.tensor(v, dtype=work) for v in (0.3, -0.2)[: len(loss.log_vars())]]
    by_pointer = torch.tensor(weights, dtype=work)
    found = [
        engine.forward(*given[:4], loss.spec, w, log_vars, None, work, saves, *given[4:])
        for w, saves in ((weights, True), (weights, False), (by_pointer, True))
    ]
    for how, other in (("without a gradient", found[1]), ("weights by pointer", found[2])):
        assert torch.equal(found[0][0], other[0]) and torch.equal(found[0][1], other[1]), how


def rank(number: int, folder: str, names: tuple[str, ...]) -> None:
    """One of two gloo processes: its results on its share of the batch."""
    start()
    emulate()
    from ..test_ranks import SPLIT, joined_batch

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=number, world_size=2
    )
    parts = [x[SPLIT[number] : SPLIT[number + 1]] for x in joined_batch()]
    results = {}
    for name in names:
        loss = build(name).double()
        loss.backend, loss.process_group = "triton", torch.distributed.group.WORLD
        results[name] = evaluate(loss, *parts)
    torch.save(results, os.path.join(folder, f"{number}.pt"))
    # The group ends with the process: destroyed just after a collective, torch 2.6 often hangs.
