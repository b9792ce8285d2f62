"""Sizes: how many programs, cells and bytes a batch takes."""

from __future__ import annotations

from collections.abc import Sequence

import triton

from ..plan import Plan
from .table import Parameters

MAX_PROGRAMS = 1024  # per image, of the phases whose partial sums other programs add up


def up(x: int) -> int:
    """The power of two from x on."""
    return triton.next_power_of_2(max(x, 1))


def cdiv(x: int, y: int) -> int:
    """x / y, rounded up; also of symbolic sizes."""
    return -(-x // y)


def level_size(plan: Plan, h: int, w: int, k: int) -> tuple[int, int]:
    """Rows and columns of level k; also of symbolic sizes."""
    return (cdiv(h, 2**k), cdiv(w, 2**k)) if plan.strided else (h // 2**k, w // 2**k)


class Geometry:
    """Sizes that follow from the plan, the shape of the batch and the launch parameters."""

    def __init__(self, plan: Plan, shape: Sequence[int], parameters: Parameters) -> None:
        self.plan, self.parameters = plan, parameters
        self.b, self.h, self.w = b, h, w = tuple(shape)
        # Levels that have a cell; the others count as 0. Strided levels have one each.
        self.levels = plan.levels if plan.strided else min(plan.levels, min(h, w).bit_length()) or 1
        # Those that phase 2 makes cells of.
        self.pooled = 1 if plan.strided else self.levels
        least = 1 << (self.pooled - 1)
        self.tile = tuple(max(size, least) for size in parameters.tile)
        self.tiles_x = cdiv(w, self.tile[1])
        self.tiles = self.tiles_x * cdiv(h, self.tile[0])
        self.programs = max(1, min(self.tiles, MAX_PROGRAMS))
        self.strips = self.count(30 * parameters.strips, parameters.strip_rows, 0) if plan.codes else 1
        levels = range(1, self.levels) if plan.codes else ()
        self.level_shapes = [level_size(plan, h, w, k) for k in levels]
        self.cells = b * sum(x * y for x, y in self.level_shapes)
        # Then nearest sampling needs no division.
        self.divides = plan.strided or (h | w) % (1 << (self.levels - 1)) == 0

    def count(self, columns: int, rows: int, first: int) -> int:
        """Tiles of columns x rows over the levels from `first` on, per image."""
        sizes = [level_size(self.plan, self.h, self.w, k) for k in range(first, self.levels)]
        return sum(cdiv(w, columns) * cdiv(h, rows) for h, w in sizes)

    @property
    def code_bytes(self) -> tuple[int, int, int]:
        """Bytes of the codes at full resolution, of the coarse levels, and of the counts' high bits."""
        return code_bytes(self.plan, self.b, self.h, self.w)


def code_bytes(plan: Plan, b: int, h: int, w: int) -> tuple[int, int, int]:
    """As `Geometry.code_bytes`; also of symbolic sizes."""
    if not plan.codes:
        return 0, 0, 0
    sizes = [level_size(plan, h, w, k) for k in range(plan.levels)]
    rows = [b * rows * (columns + 2) for rows, columns in sizes]
    high = sum(rows[3:]) if plan.two_byte_counts else 0
    # Whole 16 bytes: Triton compiles a kernel again for a pointer that is not a multiple of them.
    return tuple(16 * cdiv(n, 16) for n in (2 * rows[0], sum(rows[1:]), high))
