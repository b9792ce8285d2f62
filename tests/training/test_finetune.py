"""Starting from the weights of another run: what is taken, what is said, and what is refused."""

import logging
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from depthloss.training.checkpoints.finetune import init_from
from depthloss.training.errors import ConfigError
from depthloss.training.models.resnet import ResNetEncoder, load_encoder_weights

from .steps import same


class Net(nn.Module):
    def __init__(self, width: int = 2, deeper: bool = False):
        super().__init__()
        self.first = nn.Conv2d(3, width, 1)
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, 1, 1)
        self.more = nn.Conv2d(1, 1, 1) if deeper else None


def checkpoint(path, net, prefix="model.depth_net.", **extra) -> str:
    state = {f"{prefix}{name}": value for name, value in net.state_dict().items()}
    torch.save({"state_dict": state | {"val_metrics.x": torch.zeros(1)}, **extra}, path)
    return str(path)


@pytest.mark.parametrize("prefix", ["model.depth_net.", "depth_net.", "model.", "module.", ""])
def test_a_file_that_fits(tmp_path, prefix):
    source, net = Net(), Net()
    path = checkpoint(tmp_path / "a.ckpt", source, prefix, global_step=12, weights="averaged")
    lines = init_from(net, path).splitlines()
    assert same(net.state_dict(), source.state_dict())
    assert lines[0] == f"model.init_from: the network starts from {path} (12 steps, running average)"
    assert lines[1:3] == [
        "  loaded          9 tensors, 100% of the network's values",
        "  missing         0 tensors",
    ]
    assert lines[3].startswith(f"  unexpected  {0 if prefix else 1:>5} tensors")
    assert lines[4] == "  wrong shape     0 tensors"


@pytest.mark.parametrize("legacy", [False, True])
def test_plain_files_of_weights(tmp_path, legacy):
    source = Net()
    torch.save(source.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=not legacy)
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        net = Net()
        assert init_from(net, str(tmp_path / name)).splitlines()[0].endswith(f"starts from {tmp_path / name}")
        assert same(net.state_dict(), source.state_dict())


def test_single_numbers_are_no_network(tmp_path):
    """The scalars of ResNetSAN01 fit one of any width."""
    source, net = (nn.ParameterDict({"a": torch.ones(()), "b": torch.ones(n, 2)}) for n in (7, 80))
    torch.save(source.state_dict(), tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="nothing in it fits the network ParameterDict: .*another shape: b"):
        init_from(net, str(tmp_path / "a.pt"))


def test_what_does_not_fit_stays_and_is_named(tmp_path):
    source, net = Net(width=3, deeper=True), Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        source.last.bias.fill_(7)
    state = source.state_dict()
    del state["norm.num_batches_tracked"]
    torch.save(state, tmp_path / "a.pt")
    assert init_from(net, str(tmp_path / "a.pt")).splitlines() == [
        f"model.init_from: the network starts from {tmp_path / 'a.pt'}",
        "  loaded          1 tensors, 5% of the network's values",
        "  missing         1 tensors, as at the start of a new run: norm.num_batches_tracked",
        "  unexpected      2 tensors, left out: more.weight, more.bias",
        "  wrong shape     7 tensors, as at the start of a new run: first.weight (file [3, 3, 1, 1], network "
        "[2, 3, 1, 1]), first.bias (file [3], network [2]), norm.weight (file [3], network [2]), and 4 more",
    ]
    assert net.last.bias.item() == 7
    assert same({**net.state_dict(), "last.bias": 0}, {**before, "last.bias": 0})


NOTHING = "nothing in it fits the network Net: it has"
OWN = "the network has first.weight, first.bias, norm.weight, and 6 more"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("gone.ckpt", "model.init_from gone.ckpt: no such checkpoint"),
        ("folder", "model.init_from folder: no best and no last checkpoint in folder/checkpoints"),
        ("torn.ckpt", "model.init_from torn.ckpt: the file is damaged, or no checkpoint ("),
        ("torn.safetensors", "model.init_from torn.safetensors: it cannot be read: "),
        ("code.ckpt", "model.init_from code.ckpt: refused, and nothing of it was run: it asks for "),
        (
            "empty.ckpt",
            "model.init_from empty.ckpt: it holds no weights: neither a state dict, nor one under",
        ),
        ("other.ckpt", f"model.init_from other.ckpt: {NOTHING} x, norm.num_batches_tracked; {OWN}"),
        (
            "wide.ckpt",
            f"model.init_from wide.ckpt: {NOTHING} last.bias; {OWN}; of another shape: last.bias (file [5], "
            "network [1])",
        ),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, source, text):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for name in ("torn.ckpt", "torn.safetensors"):
        Path(name).write_bytes(b"PK and no more")
    torch.save({"state_dict": Net()}, "code.ckpt")
    torch.save({"epoch": 3}, "empty.ckpt")
    torch.save({"x": torch.zeros(1), "norm.num_batches_tracked": torch.tensor(1)}, "other.ckpt")
    torch.save({"last.bias": torch.zeros(5)}, "wide.ckpt")
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ConfigError) as error:
        init_from(net, source)
    assert str(error.value).startswith(text) and "\n" not in str(error.value)
    assert same(net.state_dict(), before)


class Start(L.Callback):
    """Keeps the weights that the training starts from."""

    def on_fit_start(self, trainer, pl_module):
        self.state = {k: v.clone() for k, v in pl_module.model.depth_net.state_dict().items()}


def test_a_run_that_starts_from_another(train, caplog, with_callback):
    train("--name=first", "--ema.decay=0.5")
    state = torch.load("runs/first/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    trained = {k: v for k, v in state.items() if k.startswith("model.depth_net.")}
    with_callback(start := Start())
    second = ("--name=second", "--supervised-method=silog")
    with caplog.at_level(logging.INFO, "depthloss"):
        run = train(*second, "--model.init_from=runs/first", "--max-epochs=1")
    assert same({f"model.depth_net.{k}": v for k, v in start.state.items()}, trained)
    assert "starts from runs/first/checkpoints/best.ckpt (6 steps, running average)" in caplog.text
    # an optimiser and epochs of its own
    assert (run.trainer.global_step, run.trainer.optimizers[0].state_dict()["state"][0]["step"]) == (3, 3)

    with pytest.raises(
        ConfigError, match="model.init_from .now None, was 'runs/first'.*Leave them as they were"
    ):
        train(*second, "--resume", "--max-epochs=2")
    with caplog.at_level(logging.INFO, "depthloss"):
        train(*second, "--resume", "--max-epochs=2", "--model.init_from=runs/first")
    assert "model.init_from: not read again, as the run resumes from its own checkpoint" in caplog.text
    assert caplog.text.count("the network starts from") == 1


def test_an_encoder_from_a_checkpoint(tmp_path, caplog):
    source, encoder = nn.Module(), ResNetEncoder(18)
    source.encoder, source.decoder = ResNetEncoder(18), nn.Conv2d(1, 1, 1)
    path = checkpoint(tmp_path / "a.ckpt", source)
    with caplog.at_level(logging.INFO, "depthloss"):
        load_encoder_weights(encoder, path)
    assert same(encoder.state_dict(), source.encoder.state_dict())
    assert f"loaded 120 tensors from {path}" in caplog.text
    with pytest.raises(ValueError, match="is not a ResNet-34 in torchvision's key names; missing: layer1.2"):
        load_encoder_weights(ResNetEncoder(34), path)
    with pytest.raises(FileNotFoundError, match="is a folder: give a file, such as best.ckpt in it"):
        load_encoder_weights(encoder, tmp_path)
