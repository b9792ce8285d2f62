from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from depthloss.training import cli
from depthloss.training.configuration import sections as config
from depthloss.training.configuration.loaders import DepthData
from depthloss.training.loop import trainer
from depthloss.training.loop.callbacks import Pictures
from depthloss.training.models import ResNetSAN01


class TinyNet(nn.Module):
    """Two scales of bounded inverse depth from a few weights, with batch norm and dropout."""

    # The training step (counted from 0) in which to fail, as a killed process would; None = never.
    fail_at: int | None = None
    calls = 0

    def __init__(self, min_depth: float = 0.05, max_depth: float = 100.0, width: int = 4) -> None:
        super().__init__()
        self.low, self.high = 1 / max_depth, 1 / min_depth
        self.features = nn.Sequential(nn.Conv2d(3, width, 5, 2, 2), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout2d(0.2), nn.Conv2d(width, 1, 3, 1, 1))

    def forward(self, rgb: torch.Tensor, input_depth: torch.Tensor | None = None) -> dict:
        if self.training:
            TinyNet.calls += 1
            if TinyNet.calls - 1 == TinyNet.fail_at:
                raise RuntimeError("killed")
        small = self.low + (self.high - self.low) * torch.sigmoid(self.head(self.features(rgb)) - 3)
        full = nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
        return {"inv_depths": [full, small] if self.training else [full]}


TINY = {
    "name": "run",
    "model": {
        "depth_net": {"name": "Tiny"},
        "optimizer": {"depth": {"lr": 1e-2}},
        "scheduler": {"step_size": 2},
    },
    "datasets": {
        "image_shape": [32, 64],
        "train": {"dataset": "synthetic", "length": 6, "batch_size": 2},
        "validation": {"dataset": "synthetic", "length": 3, "batch_size": 2},
    },
    "trainer": {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "default_root_dir": "runs",
    },
    "tensorboard": {"log_frequency": 1},
}


@pytest.fixture
def tiny_net(monkeypatch):
    monkeypatch.setitem(config.NETWORKS, "Tiny", TinyNet)
    monkeypatch.setattr(TinyNet, "fail_at", None)
    monkeypatch.setattr(TinyNet, "calls", 0)
    return TinyNet


@pytest.fixture
def tiny_yaml(tmp_path, monkeypatch, tiny_net) -> Path:
    """A configuration that trains in a second; the working directory is a temporary one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture
def pictures() -> bool:
    """Whether runs draw their pictures, which takes longer than all the rest: override where they count."""
    return False


@pytest.fixture
def train(tiny_yaml, monkeypatch, pictures):
    """Train the tiny network: train("--name", "x", ...) -> the finished run; data sets are not summed up."""
    monkeypatch.setattr(DepthData, "log_summaries", lambda self: None)
    if not pictures:
        monkeypatch.setattr(Pictures, "_draw", lambda self, trainer: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda *arguments: cli.run([str(tiny_yaml), *arguments])
    torch.set_num_threads(threads)


@pytest.fixture
def main(train, tiny_yaml, capsys):
    """Run the command: main("--name=x") -> (exit status, last line of standard error)."""

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(tiny_yaml), *arguments])
        return stop.value.code, capsys.readouterr().err.splitlines()[-1]

    return call


@pytest.fixture
def with_callback(monkeypatch):
    """Give the runs of a test a further callback: with_callback(callback)."""

    def install(callback):
        original = trainer.checkpoint_callbacks
        monkeypatch.setattr(trainer, "checkpoint_callbacks", lambda *a, **k: [callback, *original(*a, **k)])

    return install


@pytest.fixture(scope="module")
def one_thread():
    """Maps this small gain nothing from threads, and on a busy machine waiting threads cost a lot."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def full_net():
    """ResNet-18 with sparse branch; tests must copy it before they change it."""
    torch.manual_seed(0)
    return ResNetSAN01()
