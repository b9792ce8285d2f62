"""Two processes on the CPU, started by torchrun and by Lightning, beside one process on the same data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from depthloss.training.configuration import sections as config

from . import ranks
from .test_resume import assert_same, rows

ROOT = Path(__file__).parents[2]


def launch(*command: str, cwd: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two ranks found, and what they said."""
    folder = tmp_path_factory.mktemp("ranks")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
    done = launch(*torchrun, ranks.__file__, str(folder), cwd=ROOT)
    found = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]
    return found, done.stdout + done.stderr


@pytest.mark.parametrize("method", ranks.METHODS)
def test_two_processes_with_a_group_are_one_on_the_joined_batch(two, train, monkeypatch, method):
    monkeypatch.setitem(config.NETWORKS, "Plain", ranks.Plain)
    one = ranks.joined(method, 1)
    assert len(one["gradients"]) == 2
    for rank in two[0]:
        found = rank["joined"][method]
        for a, b in zip(one["gradients"], found["gradients"], strict=True):
            assert a.keys() == b.keys()
            for name, gradient in a.items():
                assert (b[name] - gradient).abs().max() <= 1e-9 * gradient.abs().max(), name
        # three frames on two ranks: the one that is there twice counts once
        assert found["metrics"]["val/images"] == 3
        assert found["metrics"] == pytest.approx(one["metrics"], rel=1e-6)
    assert_same(two[0][0]["joined"][method]["weights"], two[0][1]["joined"][method]["weights"])


def test_a_bad_frame_on_one_rank_is_skipped_on_all(two):
    (first, second), _ = two
    assert first["bad"]["skipped"] == second["bad"]["skipped"] == 1
    buffers = ("running_mean", "running_var", "num_batches_tracked")  # those of the first rank count
    for name, weight in first["bad"]["weights"].items():
        assert weight.isfinite().all()
        if not name.endswith(buffers):
            assert torch.equal(weight, second["bad"]["weights"][name]), name


def test_a_resumed_run_is_that_of_two_processes(two):
    for whole, part in (rank["resumed"] for rank in two[0]):
        assert_same(whole, part)


def test_parameters_without_a_gradient(two):
    found, said = two
    assert [rank["idle"]["steps"] for rank in found] == [2, 2]
    line = "trainer.strategy: ddp_find_unused_parameters_true, as 2 parameters get no gradient in this run"
    assert f"rank 0: {line}, such as sparse.weight" in said
    for rank in found:
        assert rank["idle"]["error"] == (
            "trainer.strategy: some parameters get no gradient in a step, which DDP must know of; "
            "use ddp_find_unused_parameters_true"
        )


def test_lightning_starts_the_processes_itself(tmp_path):
    arguments = (
        "--name=x --gpus cpu --trainer.devices 2 --trainer.strategy ddp --max-epochs 1 "
        "--datasets.image_shape [32,64] --datasets.train.length 4 --datasets.train.batch_size 1 "
        "--datasets.validation.length 3 --datasets.validation.batch_size 1 --tensorboard.log_frequency 1 "
        "--datasets.test.dataset synthetic --datasets.test.length 3 --datasets.test.batch_size 2 "
        "--supervised-method sparse-adaptive-multi-domain --model.loss.process_group true"
    )
    done = launch(sys.executable, str(ROOT / "train.py"), *arguments.split(), cwd=tmp_path)
    logged = rows(tmp_path / "runs/x")
    assert [int(r["step"]) for r in logged if r["train/loss_step"]] == [0, 1], "two steps, on each rank"
    assert [
        float(r[f"{split}/images"]) for split in ("val", "test") for r in logged if r[f"{split}/images"]
    ] == [3, 3]
    assert done.stdout.count("group  tensors") == 1
    assert torch.load(tmp_path / "runs/x/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2
