"""The backend under test, where it runs, and how it divides images in the tests."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="these tests need Triton")
from depthloss.kernels import triton as engine  # noqa: E402
from depthloss.kernels.triton import geometry  # noqa: E402, F401
from depthloss.kernels.triton.table import Parameters  # noqa: E402

if engine.unavailable():
    pytest.skip(engine.unavailable(), allow_module_level=True)
DEVICE = "cpu" if engine.INTERPRETED else "cuda"
# Launch parameters and the most programs per image: one tile per image; many tiles, whose borders and halos
# lie everywhere; few programs that loop over many tiles.
SMALL = Parameters(tile=(16, 16), strip_rows=4, strips=1, rows=4, columns=16)
TILES = {"one": None, "small": (SMALL, 1024), "loops": (SMALL, 2)}
