"""bench/sparse_gradient.py runs, and its committed table is that of its committed numbers."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
sys.path.insert(0, str(ROOT / "bench"))
bench = importlib.import_module("sparse_gradient")


def test_it_measures_every_form(tmp_path, capsys):
    assert bench.main(["--dry-run", "--out", str(tmp_path / "x.json")]) == 0
    result = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    names = list(dict.fromkeys(row["ground_truth"] for row in result["rows"]))
    assert names == ["dense", "5% random", "64 lines", "32 lines", "16 lines", "LiDAR, 64 beams"]
    assert len(result["rows"]) == len(names) * len(bench.FORMS) * len(bench.LEVELS)
    rows = {(r["ground_truth"], r["mask"], r["downsample"], r["levels"]): r for r in result["rows"]}
    dense, sparse = (rows[name, "support", "average", 4] for name in ("dense", "5% random"))
    assert dense["value"]["smooth"] > dense["value"]["sharp"] > 0
    assert dense["kept_per_frame"][0] > 6000 and sparse["kept_per_frame"][0] == 0
    assert rows["5% random", "residual", "average", 4]["kept_per_frame"] == [7680, 1920, 480, 120]
    assert bench.table(result) in (tmp_path / "x.md").read_text(encoding="utf-8")


def test_the_committed_table():
    result = json.loads((RESULTS / "sparse_gradient.json").read_text(encoding="utf-8"))
    assert bench.table(result) in (RESULTS / "sparse_gradient.md").read_text(encoding="utf-8")
    # The default under "sparse-" is the form that tells a sharp prediction from a smooth one on random points.
    ratio = {}
    for row in result["rows"]:
        value = row["value"]
        if row["ground_truth"] == "5% random" and row["levels"] == 4 and value["sharp"] > 0:
            ratio[*row["size"], row["mask"], row["downsample"]] = value["smooth"] / value["sharp"]
    for size in bench.SIZES:
        assert max(ratio[*size, mask, cells] for mask in ("centre", "residual") for cells in (
            "average", "bilinear")) < 1.5 < 3 < ratio[*size, "support", "average"]  # fmt: skip
