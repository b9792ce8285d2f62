"""Launch parameters by architecture and image size; `bench/gpu/tune.py` proposes the rows.

Which pixels a program sums depends on the tile, so a row's tiles are part of what makes a result
reproducible: equal bits are promised for equal architecture and image size.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Parameters:
    """Tile sizes, all but `strip_rows` and `rows` powers of two, and warps of each kernel.

    Attributes:
        tile: rows and columns of a program in the phases moments and pyramid.
        step: rows of the tile that a program takes at a time: as many pixels as its registers hold.
        tile_warps: warps of both.
        strip_rows: rows that a program of the Sobel phase streams down.
        strips: strips of 30 columns beside each other in it; one warp each is best.
        strip_warps: its warps.
        rows: rows that a program of the backward streams down.
        columns: its columns.
        column_warps: its warps.
        finish_warps: warps of the one program that finishes.
        finish_registers: the most registers of its threads, or None: as many as the compiler likes, which may
            spill in order to have fewer. NVIDIA only.
        pyramid_registers: likewise of pyramid, in float64.
        strip_registers: likewise of the Sobel phase, in float32.
        column_registers: likewise of the gradient of losses whose terms fill them, in float32.
    """

    tile: tuple[int, int] = (64, 64)
    step: int = 8
    tile_warps: int = 4
    strip_rows: int = 32
    strips: int = 2
    strip_warps: int = 2
    rows: int = 16
    columns: int = 64
    column_warps: int = 1
    finish_warps: int = 8
    finish_registers: int | None = None
    pyramid_registers: int | None = None
    strip_registers: int | None = None
    column_registers: int | None = None


# (smallest compute capability x 10, or the start of the AMD architecture's name; pixels per image up to which
# the row holds). The first row that fits is taken. Nothing here has been measured on a GPU yet.
TABLE: tuple[tuple[int | str, float, Parameters], ...] = (
    (
        0,
        float("inf"),
        Parameters(finish_registers=128, pyramid_registers=128, strip_registers=64, column_registers=80),
    ),
    ("gfx9", float("inf"), Parameters(strip_warps=1)),
)


def choose(arch: int | str, height: int, width: int) -> Parameters:
    """The parameters for images of height x width on `arch`: 90 for compute capability 9.0, or "gfx942"."""
    for least, pixels, parameters in TABLE:
        if isinstance(arch, str) != isinstance(least, str) or height * width > pixels:
            continue
        if arch.startswith(least) if isinstance(arch, str) else arch >= least:
            return parameters
    return Parameters()


def one_tile(height: int, width: int) -> Parameters:
    """One program per image and level, for the interpreter: its cost is per program, not per pixel."""

    def power(x: int, least: int, most: int) -> int:
        return min(max(1 << max(x - 1, 0).bit_length(), least), most)

    return Parameters(
        tile=(power(height, 32, 2048), power(width, 32, 2048)),
        step=2048,
        strip_rows=min(max(height, 1), 256),
        strips=power(-(-width // 30), 1, 64),
        rows=min(max(height, 1), 256),
        columns=power(width, 16, 2048),
    )
