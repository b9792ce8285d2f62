import logging
import os
import tempfile
from pathlib import Path

import lightning as L
import pytest
import torch

from depthloss.training.checkpoints.saving import (
    CheckpointError,
    WholeCheckpointIO,
    checkpoint_callbacks,
)
from depthloss.training.errors import ConfigError
from depthloss.training.loop.trainer import monitor_mode


@pytest.fixture
def saved(monkeypatch):
    """The checkpoints that a run writes: (name, epoch)."""
    calls = []
    save = L.Trainer.save_checkpoint

    def record(self, path, *args, **kwargs):
        calls.append((Path(path).name, self.current_epoch))
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(L.Trainer, "save_checkpoint", record)
    return calls


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [
        ("a1", "max"),
        ("val/a2", "max"),
        ("val/a3", "max"),
        ("abs_rel", "min"),
        ("val/silog", "min"),
        ("mae", "min"),
    ],
)
def test_the_mode_follows_the_monitor(tmp_path, monitor, mode):
    assert monitor_mode(monitor) == mode
    for given, wanted in ((None, mode), ("min", "min"), ("max", "max")):
        best, last = checkpoint_callbacks(tmp_path, 1, monitor, monitor_mode(monitor, given), 1)
        assert (best.monitor, best.mode) == (monitor, wanted)
        assert last.monitor is None


def test_the_best_by_a_metric_of_which_more_is_better(train):
    run = train("--max-epochs=3", "--checkpoint.monitor=a3", "--checkpoint.save_top_k=-1")
    (best,) = [c for c in run.trainer.checkpoint_callbacks if c.monitor]
    scores = {path: float(score) for path, score in best.best_k_models.items()}
    assert len(scores) == 3 and len(set(scores.values())) > 1
    assert float(best.best_model_score) == scores[best.best_model_path] == max(scores.values())


def test_every_validated_epoch_can_be_the_best(train, saved):
    train(
        "--max-epochs=5",
        "--checkpoint.every_n_epochs=3",
        "--trainer.check_val_every_n_epoch=2",
        "--checkpoint.save_top_k=-1",
    )
    names = [(name.partition("-")[0], epoch) for name, epoch in saved]
    assert names == [("epoch001", 1), ("last.ckpt", 2), ("epoch003", 3), ("last.ckpt", 4)]


def test_the_best_are_those_of_an_unbroken_run(train, tiny_net, monkeypatch):
    arguments = ["--max-epochs=5", "--checkpoint.every_n_epochs=2", "--checkpoint.save_top_k=2"]
    whole = train("--name=whole", *arguments)
    monkeypatch.setattr(tiny_net, "calls", 0)
    monkeypatch.setattr(tiny_net, "fail_at", 10)  # three steps per epoch: after epoch 2 made the best
    with pytest.raises(RuntimeError, match="killed"):
        train("--name=part", *arguments)
    monkeypatch.setattr(tiny_net, "fail_at", None)
    part = train("--name=part", *arguments, "--resume")
    names = [sorted(p.name for p in run.directory.glob("checkpoints/*")) for run in (whole, part)]
    assert len(names[0]) == 4 and names[0] == names[1]


def test_nothing_is_ever_validated(train):
    with pytest.raises(ConfigError) as error:
        train("--max-epochs=2", "--trainer.check_val_every_n_epoch=3")
    assert "trainer.check_val_every_n_epoch: 3 is more than trainer.max_epochs (2)" in str(error.value)
    assert not Path("runs").exists()
    train("--max-epochs=1", "--trainer.check_val_every_n_epoch=3", "--datasets.validation.dataset=null")


TEST_SET = ("--datasets.test.dataset=synthetic", "--datasets.test.length=2")


@pytest.mark.parametrize(("kept", "name"), [(1, "best.ckpt"), (0, "last.ckpt")])
def test_the_test_is_of_the_best_or_the_last(train, caplog, kept, name):
    with caplog.at_level(logging.INFO, "depthloss"):
        train(*TEST_SET, f"--checkpoint.save_top_k={kept}", "--max-epochs=1")
    (message,) = [m for m in caplog.messages if m.startswith("test: ")]
    assert message.endswith(f"checkpoints/{name}")


def test_no_test_without_a_checkpoint(train, caplog, with_callback):
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = True

    with_callback(Stop())
    with caplog.at_level(logging.WARNING, "depthloss"):
        run = train(*TEST_SET)
    assert caplog.messages == [
        "epoch 1 was cut short: no checkpoint of it is kept",
        "no test: there is no checkpoint, as no epoch was finished",
    ]
    assert "test/abs_rel" not in run.trainer.callback_metrics


def test_a_checkpoint_is_written_beside_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    path = tmp_path / "new" / "best.ckpt"
    WholeCheckpointIO().save_checkpoint({"x": torch.ones(2)}, path)
    moved = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append((Path(a).parent, Path(b))), replace(a, b)))
    WholeCheckpointIO().save_checkpoint({"x": torch.zeros(2)}, path)
    assert moved == [(path.parent, path)]
    assert torch.load(path, weights_only=True)["x"].tolist() == [0, 0]

    def fail(checkpoint, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError, match=f"{path} could not be written: disk full; what was there"):
        WholeCheckpointIO().save_checkpoint({}, path)
    assert [p.name for p in path.parent.iterdir()] == ["best.ckpt"]
    assert torch.load(path, weights_only=True)["x"].tolist() == [0, 0]


def test_a_run_writes_them_so(train):
    run = train("--max-epochs=1")
    assert isinstance(run.trainer.strategy.checkpoint_io, WholeCheckpointIO)


def test_a_shared_folder_of_checkpoints_is_named(train):
    train("--max-epochs=1", "--checkpoint.dirpath=shared")
    with pytest.raises(
        ConfigError, match="checkpoint.dirpath: shared already holds the checkpoints of a run"
    ):
        train("--name=other", "--max-epochs=1", "--checkpoint.dirpath=shared")
    assert not Path("runs/other").exists()
    # and a run is not taken for unfinished because its checkpoints lie elsewhere
    with pytest.raises(ConfigError, match="runs/run already holds a run, with checkpoints in shared"):
        train("--max-epochs=1")


def test_the_events_of_each_run_have_a_folder(train):
    for name in ("a", "b"):
        train(f"--name={name}", "--max-epochs=1", "--tensorboard.log_dir=events")
    assert {p.parent for p in Path("events").rglob("*tfevents*")} == {Path("events/a"), Path("events/b")}
