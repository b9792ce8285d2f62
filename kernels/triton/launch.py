"""The launches of a loss: a list of (kernel, programs, arguments, options), built from its plan and its
inputs.

Forward: moments, (by_largest,) pyramid, sobel, finish: at most 4. Medians take a fill and 2 launches of
select more, a trim beside them 2 again, a trim without them a fill and 3; in float64 5 and 6.
Backward: coarse, gradient: at most 2.
What is launched does not depend on the data, nothing is read back, and all sizes come from shapes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import JITFunction

from ..plan import MOST, Plan
from . import backward as k_backward
from . import coefficients as k_coefficients
from . import finish as k_finish
from . import gradient as k_gradient
from . import histogram
from . import moments as k_moments
from . import pyramid as k_pyramid
from . import select as k_select
from . import sobel as k_sobel
from . import totals as k_totals
from .constant import Constant
from .geometry import Geometry, cdiv, up
from .inputs import Has, Inputs
from .table import Parameters


@dataclass
class Launch:
    """One kernel launch, as data."""

    kernel: Any
    programs: int
    args: tuple
    constants: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    counts: Tensor | None = None  # what it counts, for ranks to add up before the next launch

    @property
    def named(self) -> dict[str, Any]:
        """The kernel's constants, and options; what Triton's default of fusion is depends on its version."""
        found = {**self.constants, "enable_fp_fusion": True, **self.options}
        if "PLAN" in found and isinstance(self.kernel, JITFunction):  # The interpreter takes it as it is.
            found["PLAN"] = Constant(found["PLAN"])
        return found

    def run(self) -> None:
        """Launch it; with no program there is nothing to do."""
        if self.programs:
            self.kernel[(self.programs,)](*self.args, **self.named)


def coefficient_count(b: int) -> int:
    """Numbers that the forward saves beside the codes."""
    return k_coefficients.HEAD.value + b * k_coefficients.COEFFICIENTS.value


def log_var_gradients(plan: Plan, coefficients: Tensor) -> Tensor:
    """d total / d log-variance of each group, from what the forward saved."""
    first = k_coefficients.LOG_VAR.value
    return coefficients[first : first + plan.num_log_vars]


def _map(x: Tensor | None, like: Tensor) -> tuple:
    """A kernel's map argument; without a tensor one that is never read."""
    if x is None:
        return (like, 0, 0, 0)
    if x.dtype == torch.bool:
        x = x.view(torch.uint8)
    return (x, *x.stride())


def _inputs(pred: Tensor, *others: Tensor | None) -> Inputs:
    return Inputs(_map(pred, pred), *(_map(x, pred) for x in others))


def _has(mask: Tensor | None, abs_mask: Tensor | None, weight: Tensor | None) -> Has:
    return Has(mask is not None, abs_mask is not None, weight is not None)


def _views(codes: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor, Tensor]:
    first, second, _ = geometry.code_bytes
    return codes[:first].view(torch.uint16), codes[first : first + second], codes[first + second :]


def _acc(dtype: torch.dtype) -> tl.dtype:
    return tl.float64 if dtype == torch.float64 else tl.float32


class Forward:
    """The forward of one batch: `before` the ranks exchange their totals, and `after`.

    Without ranks to ask, everything is in `before` and the last launch also finishes.
    """

    def __init__(
        self,
        plan: Plan,
        parameters: Parameters,
        pred: Tensor,
        gt: Tensor,
        mask: Tensor | None,
        abs_mask: Tensor | None,
        weights: Sequence[float] | Tensor,
        log_vars: Sequence[Tensor],
        dtype: torch.dtype,
        saves: bool,
        world: int = 1,
        exchange: bool = False,
        weight: Tensor | None = None,
        confidence: Tensor | None = None,
    ) -> None:
        g = self.geometry = Geometry(plan, pred.shape, parameters)
        self.plan, self.parameters, self.acc = plan, parameters, _acc(dtype)
        empty = lambda n, kind=dtype: torch.empty(n, dtype=kind, device=pred.device)  # noqa: E731
        r, strips = g.b * g.programs, g.b * g.strips
        # Without the mask of absolute terms, for the kernels that have none: no reason to compile again.
        self.inputs = _inputs(pred, gt, mask, abs_mask, weight, confidence)
        self.maps = self.inputs._replace(abs_mask=_map(pred, pred), confidence=_map(pred, pred))
        self.has = _has(mask, abs_mask, weight)
        self.total, self.terms = empty(g.b if plan.by_image else ()), empty(plan.num_metrics)
        self.codes = empty(sum(g.code_bytes) if saves else 0, torch.uint8)
        self.coefficients = empty(coefficient_count(g.b) if saves or plan.num_log_vars else 0)
        self.moments = empty((k_moments.ROWS, r))
        self.totals = empty((1, k_totals.TOTALS.value))
        self.found = empty(MOST) if plan.largest else self.moments  # the largest residuals
        self.images = empty((g.b, k_pyramid.IMAGE.value)) if plan.codes else self.moments
        self.sums = empty((k_sobel.ROWS, strips)) if plan.codes else self.moments
        self.exchange, self.saves = exchange, saves
        self.digits = histogram.digits(self.acc.primitive_bitwidth)
        self.medians = self._selection(2 * g.b, plan.by_median)
        by_pointer = isinstance(weights, Tensor)
        self.weights = (weights,) if by_pointer else _split(weights, dtype)
        self.by_pointer, self.log_vars = by_pointer, tuple(log_vars)
        tile = {
            "PLAN": plan, "ACC": self.acc, "TH": g.tile[0], "TW": g.tile[1],
            "HAS": _has(mask, None, weight)
        }  # fmt: skip
        # A fused multiply-add turns exact zeros into signs: never where one is taken.
        exact = {"enable_fp_fusion": False}
        warps = {"num_warps": parameters.tile_warps, **exact}
        # Logarithms beside other sums fill the registers.
        logarithms = any(t.domain.log is not None for t in plan.moments)
        heavy = logarithms and (plan.codes or len(plan.moments) > 1)
        step = max(1, min(parameters.step, g.tile[0]) >> heavy)
        sizes = (g.h, g.w, g.tiles_x, g.tiles, g.programs, r)
        self.first = Launch(
            k_moments.moments,
            r,
            (self.inputs, self.moments, self.medians[0], *sizes),
            {**tile, "HAS": self.has, "STEP": step},
            warps,
        )
        self.middle = []
        if plan.largest:
            constants = {**tile, "HAS": self.has, "GIVEN": exchange, "RP": 1024, "STEP": step}
            args = (self.inputs, self.moments, self.found, *sizes)
            self.middle.append(Launch(k_moments.by_largest, r, args, constants, warps))
        if plan.codes:
            self.middle += self._structure(empty, tile, sizes, strips, exact)
        self.world = world

    def _selection(self, number: int, wanted: bool) -> tuple[Tensor, Tensor]:
        """Histograms and states of so many selections; what is not wanted is never read."""
        if not wanted:
            return self.moments, self.moments
        device, pixels = self.moments.device, self.geometry.b * self.geometry.h * self.geometry.w
        # A bin holds at most all pixels of the batch.
        kind = torch.int64 if pixels >= 2**31 else torch.int32
        counts = torch.zeros((self.digits, number, histogram.BINS.value), dtype=kind, device=device)
        shape = (self.digits, number, histogram.STATE.value)
        return counts, torch.empty(shape, dtype=torch.int64, device=device)

    def _select(self, found, deviations, sizes, tile, options, of_residual: bool) -> list[Launch]:
        """The launches that count the digits of a selection which no other phase counts."""
        (counts, states), plan = found, self.plan
        kernel = k_select.select_kept if of_residual else k_select.select
        images = (self.images,) if of_residual else ()
        constants = {**tile, "NPP": up(self.geometry.programs)} if of_residual else tile
        programs = self.geometry.b * self.geometry.programs
        launches = []
        for digit in range(not of_residual or plan.by_median, self.digits):
            args = (self.maps, deviations, *images, counts, states, self.geometry.b, *sizes, digit)
            summed = counts[digit] if of_residual and plan.trim_batch else None
            launches.append(Launch(kernel, programs, args, constants, options, summed))
        return launches

    def _structure(self, empty, tile, sizes, strips, exact) -> list[Launch]:
        g, plan, parameters = self.geometry, self.plan, self.parameters
        wide = (torch.float64,) if plan.fits else ()
        deviations = empty((k_pyramid.ROWS, g.b * g.programs), *wide)
        cells = g.cells if g.pooled > 1 else 0
        level_p, info = empty(cells), empty(cells, torch.int16)
        # A residual that is not aligned is pooled as one map.
        level_g = empty(cells) if plan.aligned else level_p
        levels = {"NPP": up(g.programs), "LEVELS": g.levels}
        warps = {"num_warps": parameters.tile_warps, **exact}
        by_pixel = {**tile, "STEP": min(parameters.step, g.tile[0])}
        digits = {"DIGITS": self.digits}
        medians = []
        if plan.by_median:
            medians = self._select(self.medians, deviations, sizes, by_pixel, warps, of_residual=False)
        trimmed = self._selection(1 if plan.trim_batch else g.b, plan.trim > 0)
        trims = []
        if plan.trim > 0:
            trims = self._select(trimmed, deviations, sizes, by_pixel, warps, of_residual=True)
        args = (
            self.maps, self.moments, *self.medians, deviations, trimmed[0], self.images, level_p, level_g,
            info, g.b, *sizes
        )  # fmt: skip
        # Pooled cells lie whole in a block; two maps fill the registers twice as fast as one.
        step = min(max(parameters.step << (not plan.aligned), 1 << (g.pooled - 1)), g.tile[0])
        options = dict(warps)
        if parameters.pyramid_registers and self.acc == tl.float64:
            options["maxnreg"] = parameters.pyramid_registers
        constants = {**tile, **levels, **digits, "LEVELS": g.pooled, "STEP": step, "DIVIDES": g.divides}
        counted = trimmed[0][0] if plan.by_median and plan.trim_batch else None
        pyramid = Launch(k_pyramid.pyramid, g.b * g.programs, args, constants, options, counted)
        code0, code, high = _views(self.codes, g) if self.saves else (info, self.codes, self.codes)
        args = (
            self.inputs, deviations, self.images, level_p, level_g, info, *trimmed, code0, code, high,
            self.sums, g.b, g.h, g.w, g.programs, g.b * g.programs, g.strips
        )  # fmt: skip
        constants = {
            "PLAN": plan, "CODES": self.saves, "ACC": self.acc, "TH": parameters.strip_rows,
            "S": parameters.strips, "HAS": self.has, **levels, **digits
        }  # fmt: skip
        options = {"num_warps": parameters.strip_warps, **exact}
        if parameters.strip_registers and self.total.dtype == torch.float32:  # float64 takes twice as many.
            options["maxnreg"] = parameters.strip_registers
        return [*medians, pyramid, *trims, Launch(k_sobel.sobel, strips, args, constants, options)]

    def largest_of_rank(self) -> Launch:
        """The largest residuals of this rank alone, where those of all ranks are wanted before the sums."""
        r = self.geometry.b * self.geometry.programs
        constants = {"PLAN": self.plan, "RP": 1024, "ACC": self.acc}
        return Launch(k_moments.rank_largest, 1, (self.moments, self.found, r), constants)

    def last(self, collect: bool, combine: bool) -> Launch:
        """The finishing launch: collects the totals of this rank, combines those of all, or both."""
        g, parameters = self.geometry, self.parameters
        npp = up(g.programs)
        # Constants of the image's size only: a batch of another size runs the same kernel.
        block = 256  # numbers of one block: a few a thread, or the loops over them are long code
        bc = max(1, min(16, block // npp))
        args = (
            self.moments, self.images, self.sums, self.found, self.totals, self.weights, self.log_vars,
            self.total, self.terms, self.coefficients, g.b, g.h, g.w, g.programs, g.b * g.programs, g.strips
        )  # fmt: skip
        constants = {
            "PLAN": self.plan, "HAS": self.has, "BY_POINTER": self.by_pointer, "COLLECT": collect,
            "COMBINE": combine,
            "SAVES": self.saves, "ACC": self.acc, "TH": parameters.strip_rows, "S": parameters.strips,
            "NPP": npp, "BC": bc, "QC": block,
            "QB": max(1, min(up(g.strips), block // bc)), "LEVELS": g.levels, "WORLD": self.world,
            "WP": up(self.world),
        }  # fmt: skip
        options = {"num_warps": parameters.finish_warps, "enable_fp_fusion": False}
        if parameters.finish_registers:
            options["maxnreg"] = parameters.finish_registers
        return Launch(k_finish.finish, 1, args, constants, options)


def _split(weights: Sequence[float], dtype: torch.dtype) -> tuple[float, ...]:
    """Weights as arguments, which Triton hands over in float32: those of float64 as their bits, 22 + 21 + 21.

    Such numbers are exact in float32; as integers they would be specialised on.
    """
    if dtype != torch.float64:
        return tuple(float(w) for w in weights)
    bits = struct.unpack(f"{len(weights)}Q", struct.pack(f"{len(weights)}d", *weights))
    parts = ([x >> 42 for x in bits], [x >> 21 & 0x1FFFFF for x in bits], [x & 0x1FFFFF for x in bits])
    return tuple(float(x) for part in parts for x in part)


def backward_launches(
    plan: Plan,
    parameters: Parameters,
    grad_output: Tensor,
    codes: Tensor,
    coefficients: Tensor,
    pred: Tensor,
    gt: Tensor,
    mask: Tensor | None,
    abs_mask: Tensor | None,
    dtype: torch.dtype,
    weight: Tensor | None = None,
    confidence: Tensor | None = None,
    wants_confidence: bool = False,
) -> tuple[list[Launch], Tensor, Tensor, Tensor]:
    """The launches of the backward, the gradient of pred that they write, those of the log-variances, and
    that of the confidence, empty if it is not wanted.
    """
    g, p, acc = Geometry(plan, pred.shape, parameters), parameters, _acc(dtype)
    out = torch.empty_like(pred)
    of_confidence = torch.empty_like(confidence) if wants_confidence else pred.new_empty(0)
    log_vars = torch.empty(plan.num_log_vars, dtype=dtype, device=pred.device)
    code0, code, high = _views(codes, g)
    cells = torch.empty(g.cells, dtype=dtype, device=pred.device)
    shared = {"PLAN": plan, "ACC": acc, "TH": p.rows, "TW": p.columns, "LEVELS": g.levels}
    options = {"num_warps": p.column_warps}
    launches = []
    if g.cells:
        per_image = g.count(p.columns, p.rows, 1)
        args = (code, high, coefficients, cells, g.b, g.h, g.w, per_image)
        launches.append(Launch(k_backward.coarse, g.b * per_image, args, shared, options))
    tiles = cdiv(g.w, p.columns) * cdiv(g.h, p.rows)
    args = (
        _inputs(pred, gt, mask, abs_mask, weight, confidence), code0, cells, coefficients, grad_output,
        _map(out, pred), _map(of_confidence if wants_confidence else None, pred), log_vars, g.b, g.h, g.w,
        tiles
    )  # fmt: skip
    # Terms that read p and g beside codes fill the registers: one row a round.
    heavy = plan.codes and plan.reads_inputs
    constants = {
        **shared, "HAS": _has(mask, abs_mask, weight), "ROUND": 1 if heavy else 2, "DIVIDES": g.divides,
        "WANTS_CONFIDENCE": wants_confidence
    }  # fmt: skip
    options = {"num_warps": p.column_warps}
    if heavy and p.column_registers and acc == tl.float32:
        options["maxnreg"] = p.column_registers
    launches.append(Launch(k_gradient.gradient, g.b * tiles, args, constants, options))
    return launches, out, log_vars, of_confidence
