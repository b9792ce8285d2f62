"""The benchmark of loading runs dry on every data set, and its stopwatch counts every stage once."""

import importlib
import json
import sys
import time

import pytest

from bench.training import loader
from depthloss.training.data import DATASETS


def test_every_data_set_is_measured(tmp_path, monkeypatch, capsys):
    pytest.importorskip("h5py")
    monkeypatch.setenv("COMMIT", "0" * 40)
    monkeypatch.setattr(loader.torch, "set_num_threads", lambda _: None)
    out = tmp_path / "loader.json"
    monkeypatch.setattr(sys, "argv", ["loader.py", "--dry-run", "--out", str(out)])
    loader.harness.origin.cache_clear()
    assert loader.main() == 0
    loader.harness.origin.cache_clear()
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["commit"] == "0" * 40 and result["machine"]["cpu_name"] and result["left_out"] == []
    assert result["command"] == ["-m", "bench.training.loader", "--dry-run"]
    assert {row["dataset"] for row in result["rows"]} == set(DATASETS)
    assert {row["case"] for row in result["rows"]} == set(loader.CASES)
    for row in result["rows"]:
        spent = row["cpu_ms"]
        assert sum(spent.values()) == pytest.approx(row["cpu_ms_per_frame"], rel=0.3)
        assert row["frames_per_s"]["0"] > 0
        assert {"limit", "to tensors", "collate", "jitter"} <= spent.keys()
        files = row["dataset"] not in ("synthetic", "nyu-h5", "nyu-labeled")
        assert ("decode rgb" in spent) == ("decode depth" in spent) == files
        assert ("render" in spent) == (row["dataset"] == "synthetic")
        assert ("read h5" in spent) == row["dataset"].startswith("nyu")
    printed = capsys.readouterr().out
    lines = out.with_suffix(".md").read_text(encoding="utf-8").splitlines()[2:]
    assert len(lines) == 2 + len(result["rows"]) and all(line in printed for line in lines)
    assert len({line.count("|") for line in lines}) == 1


def test_the_stopwatch_counts_nested_stages_once():
    watch = loader.Stopwatch()

    def busy(seconds):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    inner = watch.timed("inner", lambda: busy(0.02))

    def both():
        busy(0.01)
        inner()
        inner()

    watch.timed("outer", both)()
    assert watch.spent["inner"] == pytest.approx(0.04, rel=0.1)
    assert watch.spent["outer"] == pytest.approx(0.01, rel=0.1)


def test_the_stopwatch_leaves_everything_as_it_was():
    def functions():
        owners = [
            importlib.import_module(f"depthloss.training.data.{m}") for m in ("folder", "transforms", "nyu")
        ]
        return [{**vars(o)} for o in (*owners, loader.SyntheticDataset, loader.DepthDataset)] + [
            {**loader.STEPS}
        ]

    before = functions()
    with pytest.raises(ZeroDivisionError), loader.Stopwatch().watching():
        assert functions() != before
        1 / 0  # noqa: B018
    assert functions() == before
