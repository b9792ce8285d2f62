"""How a run ends that does not end by itself."""

import csv
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch

from depthloss.training import cli
from depthloss.training.checkpoints.lock import locked
from depthloss.training.data import DataError, SyntheticDataset


@pytest.fixture
def stop_at(with_callback):
    """Do something at the end of a step, once: stop_at(epoch, batch, what)."""

    def install(epoch, batch, what):
        waiting = [what]

        class Stop(L.Callback):
            def on_train_batch_end(self, trainer, pl_module, outputs, batch_, batch_idx):
                if waiting and (trainer.current_epoch, batch_idx) == (epoch, batch):
                    waiting.pop()()

        with_callback(Stop())

    return install


def interrupt():
    raise KeyboardInterrupt


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


SIGNALS = pytest.mark.parametrize(
    ("how", "status", "name"), [(interrupt, 130, "Ctrl-C"), (terminate, 143, "SIGTERM")], ids=["int", "term"]
)


@SIGNALS
def test_a_signal_in_the_first_epoch(main, train, stop_at, caplog, how, status, name):
    handler = signal.getsignal(signal.SIGINT)
    stop_at(0, 1, how)
    assert main() == (
        status,
        f"train.py: error: stopped by {name} in epoch 1; no epoch was finished, so there is no checkpoint to "
        "resume from; the same command starts over",
    )
    assert signal.getsignal(signal.SIGINT) is handler
    # and so it does, with nothing left of the first attempt
    run = train()
    assert "runs/run: starting over, the run in it has no checkpoint" in caplog.messages
    with (run.directory / "metrics.csv").open(newline="") as file:
        logged = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss_step"]]
    assert logged == list(range(6))
    assert len(list(run.directory.rglob("*tfevents*"))) == 1
    assert run.trainer.global_step == 6


@SIGNALS
def test_a_signal_later(main, stop_at, how, status, name):
    stop_at(1, 1, how)
    last = "runs/run/checkpoints/last.ckpt"
    line = f"train.py: error: stopped by {name} in epoch 2; resume with: python train.py --resume {last}"
    assert main() == (status, line)
    assert cli.run(["--resume", last]).trainer.global_step == 6
    assert torch.load(last, weights_only=True)["epoch"] == 1


def test_two_runs_of_one_name(main, train, monkeypatch):
    run_dir = Path("runs/run").absolute()
    error = (
        "train.py: error: {}: another process trains here (process {} on {}): wait until it ends, or give "
    )
    host = socket.gethostname()
    for directory, arguments, key in (
        (run_dir, ("--checkpoint.dirpath=kept",), "--name"),
        (Path("kept").absolute(), ("--checkpoint.dirpath=kept",), "--checkpoint.dirpath"),
    ):
        with locked({"": directory}):
            text = error.format(directory, os.getpid(), host)
            assert main(*arguments) == (2, f"{text}this run another {key}")
        assert not Path("runs").exists() and not Path("kept").exists()

    # A killed one keeps nobody out, nor does what it has left: a file, and a process that loads data.
    code = """
import os, sys, time
from pathlib import Path
from depthloss.training.checkpoints.lock import locked
with locked({"": Path(sys.argv[1])}):
    if os.fork():
        os.kill(os.getpid(), 9)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run_dir)], start_new_session=True, stdout=subprocess.PIPE
    ) as killed:
        try:
            assert killed.wait(60) == -signal.SIGKILL
            assert (run_dir / ".lock").read_text().startswith(f"process {killed.pid} on ")
            assert train().trainer.global_step == 6
        finally:
            os.killpg(killed.pid, signal.SIGKILL)
    assert not (run_dir / ".lock").exists()


def test_ctrl_c_in_the_test(main, monkeypatch):
    monkeypatch.setattr(cli.DepthModule, "on_test_epoch_end", lambda self: interrupt())
    code, line = main("--max-epochs=1", "--datasets.test.dataset=synthetic", "--datasets.test.length=1")
    assert code == 130
    best = Path("runs/run/checkpoints/best.ckpt").resolve()
    what = f"stopped by Ctrl-C in the test; the training is done, only the test of {best} is not"
    assert line == f"train.py: error: {what}"


def test_ctrl_c_before_the_training(main, monkeypatch):
    monkeypatch.setattr(cli, "build_model", lambda cfg, pretrained: interrupt())
    assert main() == (130, "train.py: error: stopped by Ctrl-C outside of the training")


def fail(self, index):
    raise DataError("frame 3: depth/0003.png is missing")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_in_the_data_is_one_line(train, tiny_yaml, monkeypatch, capsys, workers):
    monkeypatch.setattr(SyntheticDataset, "__getitem__", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main([str(tiny_yaml), f"--datasets.train.num_workers={workers}"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.endswith("train.py: error: frame 3: depth/0003.png is missing\n")
    assert "Traceback" not in error
