"""The loss's share of a step: what is timed, what is left out, and the table that is made of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import readme
from bench.training import loss_share

ROOT = Path(__file__).parents[1]
LOSSES = ["g2", "adaptive-multi-domain, inverse depth"]


class TinySAN(nn.Module):
    """Four scales, and a second pass with the sparse input."""

    def __init__(self, sparse_branch: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, 1, 1)
        self.sparse = nn.Conv2d(1, 1, 3, 1, 1) if sparse_branch else None

    def forward(self, rgb, input_depth=None):
        maps = lambda x: [0.1 + torch.sigmoid(nn.functional.avg_pool2d(x, 2**s)) for s in range(4)]  # noqa: E731
        features = self.conv(rgb)
        output = {"inv_depths": maps(features)}
        if input_depth is not None:
            assert self.sparse is not None and (input_depth > 0).any()
            output["inv_depths_rgbd"] = maps(features + self.sparse(input_depth))
            output["depth_loss"] = features.square().mean()
        return output


@pytest.fixture
def bench(monkeypatch, tmp_path):
    threads = torch.get_num_threads()
    monkeypatch.setattr(loss_share, "ResNetSAN01", TinySAN)
    arguments = ["--dry-run", "--device", "cpu", "--no-compile", "--out", str(tmp_path / "loss_share.json")]
    arguments += ["--losses", *LOSSES, "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["loss_share.py", *arguments])
    yield loss_share.Bench(loss_share.parse())
    torch.set_num_threads(threads)


def test_every_loss_is_timed_within_a_step(bench, monkeypatch):
    monkeypatch.setattr(bench, "backends", {"triton": "not for cpu tensors", "cpu": "not built"})
    result = bench.run()
    assert result["red"] == [] and result["dry_run"] and result["machine"]["threads"] == 1
    assert {item["backend"]: item["reason"] for item in result["left_out"]} == bench.backends
    found = [(row["input"], row["loss"], row["backend"]) for row in result["rows"]]
    assert found == [(i, loss, "reference") for i in loss_share.INPUTS for loss in LOSSES]
    for row in result["rows"]:
        loss, step = row["loss_ms"]["median"], row["step_ms"]["median"]
        assert 0 < loss < step and row["percent"]["median"] == pytest.approx(100 * loss / step)
        assert row["size"] == (32, 64) and row["loss_ms"]["samples"] == 1


def test_the_compiled_reference_and_what_fails_to_compile(bench, monkeypatch):
    bench.options.no_compile, bench.options.inputs, bench.options.losses = False, ["image"], ["silog"]
    monkeypatch.setattr(bench, "backends", {})
    assert [row["backend"] for row in bench.run()["rows"]] == ["reference", "reference, compiled"]

    def refuse(*_, **__):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", refuse)
    bench.rows.clear()
    (left,) = bench.run()["left_out"]
    assert left["reason"] == "RuntimeError: no compiler" and left["backend"] == "reference, compiled"


def test_what_is_wrong_is_not_timed(bench, monkeypatch):
    bench.options.inputs, bench.options.losses = ["image"], ["silog"]
    monkeypatch.setattr(bench, "backends", {"cpu": ""})
    build = bench._build
    wrong = lambda name, backend: build("g2" if backend == "cpu" else name, "reference")  # noqa: E731
    monkeypatch.setattr(bench, "_build", wrong)
    result = bench.run()
    assert [item["backend"] for item in result["red"]] == ["cpu"]
    assert [row["backend"] for row in result["rows"]] == ["reference"]


def test_the_readme_has_a_table_of_it(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "backends", {})
    result = bench.run()
    loss_share.harness.write_json(bench.options.out, result)
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    head, line, *rows = readme.loss_share().splitlines()
    assert head == "| loss | 32×64, image | 32×64, image + sparse depth |" and line == "|---|---|---|"
    first = result["rows"][0]
    cell = f"{first['loss_ms']['median']:.3g} ({first['percent']['median']:.2g}%)"
    assert rows[0].startswith(f"| `g2` | {cell} | ") and rows[1].startswith(f"| `{LOSSES[1]}` | ")
    assert "Batch 1, float32" in rows[3] and torch.__version__ in rows[3]
    assert readme.filled("x\n<!-- loss-share -->\nold\n<!-- /loss-share -->\ny") == (
        f"x\n<!-- loss-share -->\n{readme.loss_share()}\n<!-- /loss-share -->\ny"
    )


def test_a_result_that_is_committed_is_in_the_readme():
    files = list((ROOT / "bench" / "results").glob("loss_share*.json"))
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert bool(files) == ("<!-- loss-share -->" in text)
    for file in files:
        result = json.loads(file.read_text(encoding="utf-8"))
        assert not result["dry_run"] and not result["red"], file.name
        assert {row["loss"] for row in result["rows"]} == set(loss_share.LOSSES)
        assert {tuple(row["size"]) for row in result["rows"]} == set(loss_share.SIZES)
