"""The quick start with each loss: what the runs say, the table and the picture of it. No training."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench import harness, readme
from bench.training import equal

LOSS = "sparse-scale-adaptive"
TIME = {"median": 1.0, "p20": 1.0, "p80": 1.0, "samples": 5}


def row(variant: str, seed: int, end: float, first: list[float], loss_ms: float = 2.0) -> dict:
    return {
        "loss": LOSS,
        "variant": variant,
        "seed": seed,
        "steps": 40,
        "abs_rel": [0.5, end],
        "train_loss": [3.0, 2.0],
        "first_train_loss": first,
        "loss_ms": TIME | {"median": loss_ms},
        "step_ms": TIME | {"median": 40.0},
    }


def runs(native: tuple[float, float] = (0.24, 0.20)) -> list[dict]:
    return [
        row(equal.REFERENCE, 1, 0.20, [8.0, 4.0, 2.0]),
        row(equal.REFERENCE, 2, 0.23, [9.0, 5.0, 3.0]),
        row(equal.NATIVE, 1, native[0], [8.0, 4.001, 2.1], 0.5),
        row(equal.NATIVE, 2, native[1], [9.0, 5.1, 3.0], 0.7),
    ]


def test_the_means_are_compared_with_the_spread_of_the_seeds():
    found = equal.summary(runs(), LOSS)
    assert found["seed_spread"] == pytest.approx(0.03) and found["within_seed_noise"]
    native = found["variants"][equal.NATIVE]
    assert native["at_one_seed"] == pytest.approx(0.04)  # seed 1: 0.24 - 0.20
    assert native["of_means"] == pytest.approx(0.005)  # (0.04 - 0.03) / 2
    assert (native["least"], native["most"], native["equal_steps"]) == (0.20, 0.24, 1)
    assert equal.equal_steps(runs(), LOSS, equal.NATIVE, 1) == 2  # 4.001 is within a thousandth
    assert "of_means" not in found["variants"][equal.REFERENCE]


def test_a_bias_is_not_noise():
    found = equal.summary(runs((0.24, 0.27)), LOSS)
    assert found["variants"][equal.NATIVE]["of_means"] == pytest.approx(0.04)
    assert found["within_seed_noise"] is False


def test_one_seed_judges_nothing_and_the_control_is_not_judged():
    one = [r for r in runs((0.24, 0.27)) if r["seed"] == 1]
    assert equal.summary(one, LOSS)["within_seed_noise"] is None
    control = [row(equal.NUDGED, seed, 0.5, [8.0, 4.0, 2.0]) for seed in (1, 2)]
    assert equal.summary([*runs(), *control], LOSS)["within_seed_noise"] is True


def test_without_the_reference_nothing_is_judged():
    with pytest.raises(ValueError, match="nothing to compare with: no run of 'reference'"):
        equal.summary(runs()[2:], LOSS)


def test_means_of_blocks():
    assert equal.block_means([1, 3, 5, 7, 9], 2) == [2, 6, 9]


def test_metrics_become_a_row(tmp_path):
    head = "epoch,step,time/loss_ms_step,time/step_ms_step,train/loss_step,val/abs_rel\n"
    steps = [f",{i},{2 + (i == 0)},{10 + i},{i},\n" for i in range(60)]
    (tmp_path / "metrics.csv").write_text(head + "".join(steps) + "0,59,,,,0.25\n")
    found = equal.measured(tmp_path / "metrics.csv")
    assert found["steps"] == 60 and found["abs_rel"] == [0.25]
    assert found["train_loss"] == [9.5, 29.5, 49.5] and len(found["first_train_loss"]) == equal.FIRST
    assert found["first_step_ms"] == 10 and found["loss_ms"]["median"] == 2
    assert found["step_ms"]["median"] == 10 + 34.5 and found["step_ms"]["samples"] == 50


def test_what_a_variant_changes(monkeypatch):
    def build() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Module()
        model.depth_net, model.supervised_loss = nn.Linear(3, 2), nn.Identity()
        return model

    monkeypatch.setattr(torch, "compile", lambda f, fullgraph: ("compiled", fullgraph, f))
    plain = equal.on(equal.REFERENCE, build)()
    nudged = equal.on(equal.NUDGED, build)().depth_net.weight
    moved = (nudged - plain.depth_net.weight) / plain.depth_net.weight.abs()
    assert (moved > 0).all() and (moved < 2.0**-22).all()
    assert equal.on(equal.COMPILED, build)().supervised_loss.forward[:2] == ("compiled", True)
    options = equal.parse(["--train", "--datasets.image_shape [8,8]"])
    words = {v: equal.arguments(LOSS, v, 1, options) for v in equal.VARIANTS}
    backends = [line[line.index("--model.loss.backend") + 1] for line in words.values()]
    assert backends == ["reference", "reference", "cpu", "triton", "reference"]
    assert all(line[-2:] == ["--datasets.image_shape", "[8,8]"] for line in words.values())


def test_a_gpu_has_variants_and_files_of_its_own(monkeypatch):
    assert equal.TRITON not in equal.parse([]).variants and equal.parse([]).picture == equal.PICTURE
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    options = equal.parse(["--device", "cuda", "--epochs", "3", "--train", "--trainer.precision bf16-mixed"])
    assert equal.NATIVE not in options.variants and equal.TRITON in options.variants
    assert options.out.name == "equal_nvidia_h200.json" and options.picture.name == "equal_nvidia_h200.png"
    line = equal.arguments(LOSS, equal.TRITON, 1, options)
    assert line[line.index("--gpus") + 1] == "0"
    # A run's own process has the same words.
    again = equal.parse([str(word) for word in equal.shared(options)])
    assert equal.arguments(LOSS, equal.TRITON, 1, again) == line and again.device == "cuda"


def test_a_finished_run_is_kept_for_its_commit(monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr(equal, "child", lambda *words, **_: trained.append(words) or '{"seed": 1}')
    monkeypatch.setattr(harness, "origin", lambda: {"commit": commit})
    options = equal.parse(["--runs", str(tmp_path), "--epochs", "2"])
    about = {"epochs": 2, "device": "cpu", "train": []}
    for commit, times in (("a", 1), ("a", 1), ("b", 2), ("b-dirty", 3), ("b-dirty", 4)):
        found = equal.row_of(options, LOSS, equal.COMPILED, 1)
        assert found == {"commit": commit, "seed": 1, **about} and len(trained) == times
    for file in tmp_path.rglob("row.json"):  # As of a version that knew no device.
        harness.write_json(file, {"commit": "b", "epochs": 2, "seed": 1})
    options.epochs = 3
    commit = "b"
    assert equal.row_of(options, LOSS, equal.COMPILED, 1)["epochs"] == 3 and len(trained) == 5


def test_the_table_and_the_picture(monkeypatch, tmp_path):
    result = {
        "commit": "a" * 40,
        "date": "2026-01-02T00:00:00Z",
        "versions": {"torch": "2.13.0", "python": "3.11"},
        "machine": {"cores": 2, "cpu_name": "CPU"},
        "summary": {LOSS: equal.summary(runs(), LOSS)},
        "memory": [
            {"loss": LOSS, "variant": variant, "loss_mib": 3.25, "step_mib": 60.0}
            for variant in (equal.REFERENCE, equal.NATIVE)
        ],
        "rows": runs(),
    }
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    assert readme.equal() == ""
    harness.write_json(tmp_path / "equal.json", result)
    lines = readme.equal().splitlines()
    assert lines[2] == "| reference | 0.2150 (0.2000–0.2300) | – | – | 2 | 40 | 3.2 | 60.0 |"
    assert lines[3] == "| cpu | 0.2200 (0.2000–0.2400) | 0.0050 | 0.0400 | 0.6 | 40 | 3.2 | 60.0 |"
    assert "means are within the noise of the seeds" in lines[5] and "lie 0.0300 apart" in lines[5]
    where = ["--out", str(tmp_path / "equal.json"), "--picture", str(tmp_path / "equal.png")]
    assert equal.main(["--draw", *where]) == 0
    assert (tmp_path / "equal.png").read_bytes().startswith(b"\x89PNG")
