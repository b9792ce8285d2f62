"""bench/training/sparse_gradient.py runs, and its committed table is that of its committed numbers."""

from __future__ import annotations

import json
from pathlib import Path

from bench.training import sparse_gradient as bench

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"


def rows(result: dict) -> dict[tuple, dict]:
    """The rows with four levels, by size, ground truth, mask and cells."""
    return {
        (tuple(r["size"]), r["ground_truth"], r["mask"], r["downsample"]): r
        for r in result["rows"]
        if r["levels"] == 4
    }


def test_it_measures_every_form(tmp_path):
    assert bench.main(["--dry-run", "--out", str(tmp_path / "x.json")]) == 0
    result = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    names = list(dict.fromkeys(row["ground_truth"] for row in result["rows"]))
    assert names == ["dense", "5% random", "64 lines", "32 lines", "16 lines", "LiDAR, 64 beams"]
    assert len(result["rows"]) == len(names) * len(bench.FORMS) * len(bench.LEVELS)
    found, size = rows(result), (48, 160)
    dense = found[size, "dense", "support", "average"]
    assert dense["value"]["smooth"] > 0 < dense["value"]["sharp"]
    assert found[size, "5% random", "support", "bilinear"]["kept_per_frame"] == [0, 0, 0, 0]
    assert found[size, "5% random", "residual", "average"]["kept_per_frame"] == [7680, 1920, 480, 120]
    assert bench.table(result) in (tmp_path / "x.md").read_text(encoding="utf-8")


def test_what_the_documents_say_of_the_committed_table():
    result = json.loads((RESULTS / "sparse_gradient.json").read_text(encoding="utf-8"))
    assert bench.table(result) in (RESULTS / "sparse_gradient.md").read_text(encoding="utf-8")
    found = rows(result)

    def ratio(size: tuple[int, int], name: str, mask: str, cells: str = "average") -> float:
        value = found[size, name, mask, cells]["value"]
        return value["smooth"] / value["sharp"]

    for size in bench.SIZES:
        assert ratio(size, "5% random", "support") > 0.95 * ratio(size, "dense", "support") > 3
        assert all(ratio(size, f"{n} lines", "support") > 1.9 for n in (64, 32))
        assert ratio(size, "LiDAR, 64 beams", "support") > 3.5
        assert sum(found[size, "16 lines", "support", "average"]["kept_per_frame"]) == 0
        assert sum(found[size, "5% random", "support", "bilinear"]["kept_per_frame"]) < 2
        sparse = [name for _, name, _, _ in found if name != "dense"]
        assert all(
            1 < ratio(size, name, "residual", c) < 1.75 for name in sparse for c in ("average", "bilinear")
        )
        assert ratio(size, "5% random", "centre") < 1.3 and ratio(size, "LiDAR, 64 beams", "centre") < 2.3
        assert all(9.5 < ratio(size, f"{n} lines", "centre") < 12 for n in (64, 32, 16))
