"""What a run survives: kills, damaged files, full disks, bad frames and files that ask for code to be run."""

import errno
import logging
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import lightning as L
import pytest
import torch

from depthloss.training import cli
from depthloss.training.checkpoints.saving import CheckpointError, WholeCheckpointIO
from depthloss.training.checkpoints.stored import find_checkpoint, read_checkpoint
from depthloss.training.data import DataError, SyntheticDataset
from depthloss.training.errors import ConfigError
from depthloss.training.evaluation.load import load_run
from depthloss.training.models import SemiSupCompletionModel
from depthloss.training.models.resnet import ResNetEncoder, load_encoder_weights

from .test_resume import assert_same, load, rows

ROOT = Path(__file__).parents[2]
LAST = Path("runs/run/checkpoints/last.ckpt")
PREVIOUS = LAST.with_name("previous.ckpt")


def victim(how: str, *arguments: str) -> subprocess.CompletedProcess:
    script = str(Path(__file__).with_name("victim.py"))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env.pop("COVERAGE_PROCESS_CONFIG", None)  # Under a limit coverage cannot write its file either.
    return subprocess.run(
        [sys.executable, script, how, *arguments], env=env, capture_output=True, text=True, timeout=300
    )


# ---- kills


def test_kill_9_in_the_middle_of_an_epoch(train):
    arguments = ["--max-epochs=3", "--supervised-method=sparse-adaptive-multi-domain", "--ema.decay=0.9"]
    done = victim("kill-5", "tiny.yaml", "--name=part", *arguments)  # the second step of the second epoch
    assert done.returncode == -signal.SIGKILL, done.stderr
    part = train("--name=part", "--resume", "last", *arguments)
    whole = train("--name=whole", *arguments)
    a, b = load(whole), load(part)
    for key in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert_same(a[key], b[key], key)
    assert [r["train/loss_step"] for r in rows(part)] == [r["train/loss_step"] for r in rows(whole)]


def test_what_a_killed_process_was_writing_is_removed(train, caplog):
    train("--max-epochs=1")
    half = LAST.with_name(".last-12345.ckpt")
    half.write_bytes(b"half")
    with caplog.at_level(logging.INFO, "depthloss"):
        train("--max-epochs=2", "--resume")
    assert not half.exists() and f"{half}: removed, a killed process did not finish it" in caplog.messages


# ---- damaged files


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def flip(path: Path) -> None:
    """Change a number in the largest tensor, as a bad disk does: torch.load reads it without a word."""
    with zipfile.ZipFile(path) as archive:
        tensors = [archive.read(record) for record in archive.infolist() if "/data/" in record.filename]
    largest, content = max(tensors, key=len), path.read_bytes()
    assert content.count(largest) == 1
    path.write_bytes(content.replace(largest, b"\0\0\x80\x3f" + largest[4:]))
    torch.load(path, weights_only=True)


def test_the_last_two_are_kept(train):
    train("--max-epochs=3")
    assert [torch.load(p, weights_only=True)["epoch"] for p in (PREVIOUS, LAST)] == [1, 2]
    assert PREVIOUS.stat().st_ino != LAST.stat().st_ino


@pytest.mark.parametrize(
    ("which", "how"),
    [("last", cut), (str(LAST), cut), ("last", Path.unlink), ("auto", flip), (str(LAST), flip)],
)
def test_the_one_before_a_damaged_one_is_used_and_it_says_so(train, caplog, which, how):
    arguments = ["--max-epochs=3", "--checkpoint.save_top_k=0"]
    whole = train("--name=whole", *arguments)
    train(*arguments, "--max-epochs=2")
    how(LAST)
    with caplog.at_level(logging.WARNING, "depthloss"):
        part = train(*arguments, "--resume", which)
    assert_same(load(part)["state_dict"], load(whole)["state_dict"])
    text = "\n".join(caplog.messages)
    assert f"resuming from the newest whole checkpoint, {PREVIOUS}" in text
    if how is not Path.unlink:
        reason = "it is not the whole zip archive" if how is cut else "its record archive/data/"
        assert f"{LAST}: the file is damaged, or no checkpoint ({reason}" in text
        # nor does the damaged one come back as the previous one
        assert LAST.with_name("last.ckpt.damaged").exists()
    assert torch.load(PREVIOUS, weights_only=True)["epoch"] == 1


def test_without_a_file_the_one_before_is_used_as_well(train, caplog):
    train("--max-epochs=2")
    cut(LAST)
    with caplog.at_level(logging.WARNING, "depthloss"):
        again = cli.run([f"--resume={LAST}", "--max-epochs=3"])
    assert load(again)["epoch"] == 2
    assert len([m for m in caplog.messages if "resuming from the newest whole checkpoint" in m]) == 1


def test_going_on_from_the_previous_one_on_purpose(train):
    train("--max-epochs=2")
    train("--max-epochs=3", f"--resume={PREVIOUS}")
    assert not list(LAST.parent.glob("*.damaged"))


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for epoch in range(3):
        WholeCheckpointIO().save_checkpoint({"epoch": epoch}, tmp_path / "last.ckpt")
    assert [read_checkpoint(tmp_path / f"{n}.ckpt")["epoch"] for n in ("previous", "last")] == [1, 2]
    assert len(list(tmp_path.iterdir())) == 2


def test_auto_is_the_newest_or_none(train, tmp_path):
    assert find_checkpoint("auto", tmp_path / "absent") is None
    first = train("--max-epochs=1", "--resume", "auto")
    assert load(first)["epoch"] == 0
    assert load(train("--max-epochs=2", "--resume", "auto"))["epoch"] == 1
    best = LAST.with_name("best.ckpt")
    for steps, newest in ((3, LAST), (9, best)):  # of the same step it is the last
        torch.save({"global_step": steps}, best)
        assert find_checkpoint("auto", LAST.parent) == newest
    best.unlink()
    LAST.unlink()
    assert find_checkpoint("auto", LAST.parent) == PREVIOUS


def test_what_a_checksum_finds(train, tmp_path, caplog):
    train("--max-epochs=1")
    best = LAST.with_name("best.ckpt")
    flip(best)
    record = r"\(its record archive/data/\d+ is not what its checksum says\)"
    for path in (best, Path("runs/run")):  # nor does last.ckpt take the place of what was to be measured
        with pytest.raises(ConfigError, match=rf"^{best}: the file is damaged, or no checkpoint {record}"):
            load_run(path)
    with pytest.raises(ConfigError, match=f"model.init_from {best}: the file is damaged"):
        train("--name=other", f"--model.init_from={best}")
    with pytest.raises(CheckpointError, match=f"{best} is damaged: its record"):
        WholeCheckpointIO().load_checkpoint(best)
    # A damaged one is not the best any more: it could only be beaten by a better epoch.
    train("--max-epochs=2", "--resume")
    assert best.with_name("best.ckpt.damaged").exists() and read_checkpoint(best)["epoch"] == 1

    weights = tmp_path / "resnet18.pth"
    torch.save(ResNetEncoder(18, 0.125).state_dict(), weights)
    flip(weights)
    with pytest.raises(ValueError, match=r"resnet18.pth' is damaged: its record resnet18/data/\d+ is not"):
        load_encoder_weights(ResNetEncoder(18, 0.125), weights)


def test_a_file_without_checksums_is_read(tmp_path):
    with torch.utils.serialization.config.patch("save.compute_crc32", False):
        torch.save({"x": torch.ones(3)}, tmp_path / "x.ckpt")
    with zipfile.ZipFile(tmp_path / "x.ckpt") as archive:
        assert not any(record.CRC for record in archive.infolist())
    assert read_checkpoint(tmp_path / "x.ckpt")["x"].tolist() == [1, 1, 1]
    torch.save({"x": torch.ones(3)}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.ckpt")["x"].tolist() == [1, 1, 1]


# ---- full disks


def test_a_full_disk(train):
    train("--max-epochs=1")
    before = LAST.read_bytes()
    limit = len(before) // 2
    done = victim(f"limit-{limit}", "tiny.yaml", "--max-epochs=2", "--resume", "--checkpoint.save_top_k=0")
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"train.py: error: {LAST.resolve()} could not be written: file too large: raise the limit "
        f"(ulimit -f); what was there before is intact; resume with: python train.py --resume {LAST}"
    )
    assert LAST.read_bytes() == before
    assert sorted(p.name for p in LAST.parent.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert load(train("--max-epochs=2", "--resume"))["epoch"] == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "no space left on device: make room on its file system, which had 0.0 MiB for it; what was",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk quota exceeded: make room on its file system"),
        (PermissionError(errno.EACCES, "Permission denied"), "permission denied; what was there"),
        (RuntimeError("unexpected pos 64 vs 0"), "unexpected pos 64 vs 0; what was there"),
    ],
)
def test_why_a_checkpoint_was_not_written(tmp_path, monkeypatch, error, text):
    def fail(*args):
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(CheckpointError) as found:
        WholeCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    assert str(found.value).startswith(f"{tmp_path / 'last.ckpt'} could not be written: {text}")
    assert not list(tmp_path.iterdir())


def test_no_room_for_the_log(main, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("depthloss.training.loop.history.MetricsCSV.log_metrics", full)
    status, line = main()
    assert status == 1
    assert line.startswith(
        f"train.py: error: a file in {Path('runs/run').resolve()} could not be written: no space left on "
        "device: make room on its file system"
    )
    assert line.endswith("so there is no checkpoint to resume from; the same command starts over")


# ---- bad frames and bad losses


def test_a_corrupt_frame_is_named(main, monkeypatch):
    original = SyntheticDataset.load

    def load_or_fail(self, index):
        if index == 3:
            raise DataError("depth/0003.png: cut short")
        return original(self, index)

    monkeypatch.setattr(SyntheticDataset, "load", load_or_fail)
    assert main("--max-epochs=1") == (2, "train.py: error: depth/0003.png: cut short")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_frame_is_skipped_and_counted(train, monkeypatch, workers):
    original = SyntheticDataset.load

    def load_or_fail(self, index):
        if index == 2:
            raise DataError("frame 2: cut short")
        return original(self, index)

    monkeypatch.setattr(SyntheticDataset, "load", load_or_fail)
    settings = ["--skip-bad-frames", f"--datasets.train.num_workers={workers}"]
    train("--max-epochs=1", *settings)
    run = train("--max-epochs=2", *settings, "--resume")
    logged = [r for r in rows(run) if r["train/skipped_frames"]]
    assert [float(r["train/skipped_frames"]) for r in logged] == [1, 2]
    # the third frame of the validation set as well: it is one without valid pixels there
    validated = [r for r in rows(run) if r["val/images"]]
    assert [(float(r["val/images"]), float(r["val/empty"])) for r in validated] == [(2, 1), (2, 1)]
    assert load(run)["skipped_frames"] == 2


@pytest.mark.parametrize("epochs", [6, 3])
def test_a_loss_that_turns_nan(main, monkeypatch, epochs):
    original, steps = SemiSupCompletionModel.forward, []

    def forward(self, *args, **kwargs):
        output = original(self, *args, **kwargs)
        if self.training:
            steps.append(None)
            if len(steps) > 4:
                output["loss"] = output["loss"] * torch.nan
        return output

    monkeypatch.setattr(SemiSupCompletionModel, "forward", forward)
    status, line = main(f"--max-epochs={epochs}")
    if epochs == 6:
        assert (status, len(steps)) == (1, 14)
        assert line.startswith(
            "train.py: error: 10 steps in a row had a loss or gradient that is not finite, the last in "
        )
    else:
        assert (status, len(steps)) == (1, 9)
        best = LAST.with_name("best.ckpt").resolve()
        assert line == (
            "train.py: error: epoch 3: no step of the last epoch had a finite loss and gradient. Lower "
            "model.optimizer.depth.lr, raise model.scheduler.warmup_steps, or use --trainer.precision 32-true"
            f"; start another run from {best}, which is whole, by --model.init_from"
        )
    assert all(v.isfinite().all() for v in torch.load(LAST, weights_only=True)["state_dict"].values())


@pytest.mark.parametrize("step", [4, 5])  # the last one of the second epoch is noticed before the next
def test_weights_that_are_not_finite_end_the_run(main, with_callback, step):
    class Break(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == step + 1:
                pl_module.model.depth_net.head[1].weight.data[0, 0] = torch.inf

    with_callback(Break())
    status, line = main("--max-epochs=3")
    assert status == 1
    assert line.startswith(
        "train.py: error: epoch 2: the weights are not finite, first model.depth_net.head.1.weight (group "
        "Depth, lr 0.01), 1 tensor in all. Lower model.optimizer.depth.lr, "
    )
    for name in ("best", "last"):
        state = read_checkpoint(LAST.with_name(f"{name}.ckpt"))
        assert state["epoch"] == 0 and all(v.isfinite().all() for v in state["state_dict"].values())


def test_a_checkpoint_whose_weights_are_not_finite(train):
    train("--max-epochs=1")
    state = load(Path("runs/run"))
    name = "model.depth_net.head.1.weight"
    state["state_dict"][name][0, 0] = torch.nan
    torch.save(state, LAST)
    text = f"{LAST}: its weights are not finite, such as {name}"
    with pytest.raises(ConfigError, match=f"--resume {text}"):
        train("--max-epochs=2", "--resume")
    with pytest.raises(ConfigError, match=text.replace("model.depth_net", "depth_net")):
        load_run(LAST)
    with pytest.raises(ConfigError, match="last.ckpt: its weights are not finite, such as head.1.weight"):
        train("--name=other", f"--model.init_from={LAST}")


# ---- files from elsewhere


def test_a_checkpoint_that_holds_something_else(train):
    train("--max-epochs=1")
    state = load(Path("runs/run"))
    for key, value, text in (
        ("config", "text", "not a checkpoint of this script, its configuration is a str"),
        ("loops", 3, "not a checkpoint of this script ('int' object is not subscriptable)"),
        (
            "global_step",
            "3",
            "not a checkpoint of this script, whose counts are numbers and whose weights are",
        ),
        (
            "state_dict",
            [1],
            "not a checkpoint of this script, whose counts are numbers and whose weights are",
        ),
        ("optimizer_states", [3], "other parameters were trained: [] (group, tensors), now [('Depth', 6)]"),
        ("callbacks", 3, "it cannot be restored (AttributeError: 'int' object has no attribute "),
        ("lr_schedulers", 3, "it cannot be restored (TypeError: 'int' object is not iterable)"),
    ):
        torch.save({**state, key: value}, "x.ckpt")
        with pytest.raises(ConfigError) as error:
            train("--max-epochs=2", "--name=other", "--resume=x.ckpt")
        assert str(error.value).startswith(f"--resume x.ckpt: {text}"), key
    torch.save({**state, "config": "text"}, "x.ckpt")
    with pytest.raises(ConfigError, match="--resume x.ckpt: .*, its configuration is a str"):
        cli.run(["--resume=x.ckpt"])
    for key, text in (
        ("config", "its configuration is a str"),
        ("loops", "object has no"),
        ("state_dict", "no weig"),
    ):
        torch.save({**state, key: "text"}, "x.ckpt")
        with pytest.raises(ConfigError, match=f"x.ckpt: not a checkpoint .*{text}"):
            load_run(Path("x.ckpt"))
    with pytest.raises(ConfigError, match="model.init_from x.ckpt: it holds no weights"):
        train("--name=new", "--model.init_from=x.ckpt")


class Code:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_a_checkpoint_that_asks_for_code_is_refused(train, main):
    train("--max-epochs=2")
    state = load(Path("runs/run"))
    torch.save({**state, "more": Code()}, LAST)
    for arguments in (["--resume"], ["--resume", str(LAST)]):
        with pytest.raises(ConfigError) as error:
            train("--max-epochs=3", *arguments)
        assert f"--resume {LAST}: refused, and nothing of it was run: it asks for posix.system" in str(
            error.value
        )
    (LAST.parent / "best.ckpt").write_bytes(pickle.dumps({"more": Code()}))
    status, line = main("--max-epochs=3", "--resume=best")
    assert status == 2 and "best.ckpt: the file is damaged, or no checkpoint" in line
    assert not Path("executed").exists()


def test_weights_that_ask_for_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Code()}, "resnet18.pth")
    with pytest.raises(ConfigError, match="resnet18.pth' cannot be read as a plain state dict of tensors"):
        cli.run(["--gpus=cpu", "--model.depth_net.weights=resnet18.pth"])
    assert not Path("executed").exists()


# ---- pictures


@pytest.mark.parametrize("pictures", [True])
def test_a_picture_that_fails_stops_nothing(train, monkeypatch, caplog, pictures):
    def fail(*args, **kwargs):
        raise ValueError("no such colour")

    ticks = []  # a minute each, so that they are due after every validation
    callbacks = "depthloss.training.loop.callbacks"
    monkeypatch.setattr(f"{callbacks}.write_curves", fail)
    monkeypatch.setattr(f"{callbacks}.time.monotonic", lambda: ticks.append(61) or sum(ticks))
    run = train("--max-epochs=2")
    assert run.trainer.global_step == 6 and load(run)["epoch"] == 1
    assert [m for m in caplog.messages if m.startswith("the pictures could not be written")]
    assert "no such colour" in caplog.text
