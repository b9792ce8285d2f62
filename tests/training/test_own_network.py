"""A network that is not of this package: the one of docs/own_network.md, and what can be wrong with one."""

import logging
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from depthloss.training import cli as training
from depthloss.training.configuration import sections as config
from depthloss.training.configuration.build import build_model, check_input
from depthloss.training.configuration.loaders import DepthData
from depthloss.training.configuration.networks import check_trusted
from depthloss.training.configuration.parser import parse
from depthloss.training.data import write_rgb
from depthloss.training.errors import ConfigError
from depthloss.training.evaluation import cli as evaluation
from depthloss.training.evaluation.load import load_run
from depthloss.training.evaluation.report import files
from depthloss.training.loop.callbacks import Pictures
from depthloss.training.models import NetworkError, SemiSupCompletionModel
from depthloss.training.prediction import cli as prediction

from .conftest import TINY

PAGE = (Path(__file__).parents[2] / "docs/own_network.md").read_text(encoding="utf-8")
NAME = "mynets.SmallNet"
GIVEN = f"--model.depth_net.name={NAME}"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory: mynets.py as the page has it, and a configuration that trains in a second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(Pictures, "_draw", lambda self, trainer: None)
    monkeypatch.setattr(files, "write_page", lambda path, *_, **__: path.write_text(""))
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    Path("mynets.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1])
    model = TINY["model"] | {"depth_net": {"name": NAME, "width": 4}}
    Path("own.yaml").write_text(yaml.safe_dump(TINY | {"model": model}))
    yield tmp_path
    sys.modules.pop("mynets", None)


def tree(depth_net: dict) -> dict:
    return TINY | {"model": {"depth_net": depth_net}}


def data_of(cfg) -> DepthData:
    sections = {split: getattr(cfg.datasets, split) for split in ("train", "validation", "test")}
    return DepthData(sections, (32, 64), 0.05, 100.0, cfg.datasets.augmentation)


def refusal(call, *arguments, error=ConfigError, **keywords) -> str:
    with pytest.raises(error) as found:
        call(*arguments, **keywords)
    assert "\n" not in str(found.value)
    return str(found.value)


# ---- the whole way


def test_the_network_of_the_page(here, capsys):
    run = training.run(["own.yaml"])
    net = run.module.model.depth_net
    assert (type(net).__name__, net.head.in_channels, net.min_depth) == ("SmallNet", 4, 0.05)

    text = refusal(training.run, ["--resume", "--name=run", "--max-epochs=3"])
    assert text == (
        "--resume runs/run/checkpoints/last.ckpt: its network is mynets.SmallNet, which is not of this "
        "package. To import it runs code, so the command must name it: add --model.depth_net.name "
        "mynets.SmallNet if you trust it"
    )
    resumed = training.run(["--resume", "--name=run", "--max-epochs=3", GIVEN])
    assert resumed.trainer.global_step == 9
    again = training.run(["own.yaml", "--resume", "--max-epochs=4"])
    assert again.trainer.global_step == 12

    text = refusal(evaluation.run, ["runs/run", "--device=cpu"])
    assert text.endswith(f"add --network {NAME} if you trust it")
    arguments = ["runs/run", "--device=cpu", "--no-progress", "--network", NAME]
    found = evaluation.run([*arguments, "--baseline=runs/run/checkpoints/last.ckpt"])
    assert found.candidate.summary["images"] == 3 and found.candidate.summary["nonfinite"] == 0
    assert found.candidate.origin["input"] == "RGB alone"

    write_rgb("photo.png", np.zeros((13, 21, 3), np.uint8))
    report = prediction.run(["runs/run", "photo.png", "--out=found", "--device=cpu", f"--network={NAME}"])
    assert (report.done, np.load("found/npy/photo.npy").shape) == (1, (13, 21))

    with pytest.raises(SystemExit):
        training.run(["own.yaml", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--model.depth_net.width WIDTH channels. (type: int, default: 16)" in text
    assert "model.depth_net.min_depth" not in text


def test_what_to_do_after_a_stop_names_the_network(here):
    (here / "checkpoints").mkdir()
    (here / "checkpoints/last.ckpt").touch()
    text = training.how_to_resume(Path("checkpoints"), NAME)
    resume = "resume with: python train.py --resume checkpoints/last.ckpt"
    assert text == f"{resume} --model.depth_net.name {NAME}"
    text = training.how_to_resume(Path("checkpoints"), "ResNetSAN01")
    assert text == resume


# ---- what the configuration says of it


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("Small", "model.depth_net.name: unknown network 'Small'. Known: ResNetSAN01, or package.module.Cl"),
        ("gone.Net", "model.depth_net.name: gone.Net: no module 'gone' in {here}, on PYTHONPATH, or instal"),
        ("mynets.gone.Net", "mynets.gone.Net: no module 'mynets.gone' in "),
        ("mynets.SmalNet", "mynets has no class 'SmalNet'; did you mean 'SmallNet'? Known: SmallNet"),
        ("mynets.F", "model.depth_net.name: mynets.F is no class of torch.nn.Module. Known: SmallNet"),
        ("os.system", "model.depth_net.name: os.system is no class of torch.nn.Module"),
        ("bad.Net", "importing bad failed: NameError: name 'nn' is not defined ({here}/bad.py, line 1)"),
        ("torn.Net", "importing torn failed: SyntaxError: '(' was never closed (torn.py, line 2)"),
        ("needs.Net", "importing needs failed: ModuleNotFoundError: No module named 'nothere' ({here}/ne"),
        ("odd.Named", "the constructor of odd.Named has a keyword `name`, which chooses the network"),
        ("odd.Needs", "the following arguments are required: model.depth_net.layers"),
        ("odd.Fussy", "model.depth_net: ValueError: too odd ({here}/odd.py, line 7)"),
        ("odd.Half", "model.depth_net: its size_multiple must be a whole number >= 1, got 1.5"),
        ("odd.Eights", "H and W must be multiples of 24 for odd.Eights, got [32, 64]; the nearest is [24, 7"),
        ((NAME, "widht", 3), "'model.depth_net.widht'; the nearest known one is 'model.depth_net.width'"),
        ((NAME, "width", "x"), "model.depth_net.width: a whole number is needed, got x"),
    ],
)  # fmt: skip
def test_what_cannot_be(here, network, text):
    Path("bad.py").write_text("class Net(nn.Module): pass\n")
    Path("torn.py").write_text("x = 1\nclass Net(\n")
    Path("needs.py").write_text("import nothere\n")
    Path("odd.py").write_text(
        "from torch import nn\n"
        "class Named(nn.Module):\n def __init__(self, name='x'): pass\n"
        "class Needs(nn.Module):\n def __init__(self, layers: int): pass\n"
        "class Fussy(nn.Module):\n def __init__(self): raise ValueError('too odd')\n"
        "class Half(nn.Module):\n size_multiple = 1.5\n"
        "class Eights(nn.Module):\n def __init__(self):\n  super().__init__()\n  self.size_multiple = 24\n"
    )
    name, *keyword = [network] if isinstance(network, str) else network
    depth_net = {"name": name} | ({keyword[0]: keyword[1]} if keyword else {})
    found = refusal(lambda: build_model(parse(tree(depth_net), [])[0]))
    assert text.format(here=here) in found
    for name in ("bad", "torn", "needs", "odd"):
        sys.modules.pop(name, None)


def test_keywords_without_types_and_of_a_base_class(here):
    Path("mynets.py").write_text(
        Path("mynets.py").read_text()
        + "class Wider(SmallNet):\n"
        + "    def __init__(self, layers=None, act: nn.Module | None = None, **keywords):\n"
        + "        super().__init__(**keywords)\n        self.layers, self.act = layers, act\n"
    )
    act = {"class_path": "torch.nn.ReLU"}
    network = {"name": "mynets.Wider", "layers": [1, 2], "act": act}
    cfg, text = parse(tree(network), ["--model.depth_net.width=3"])
    net = build_model(cfg).depth_net
    assert (net.layers, type(net.act), net.head.in_channels, net.min_depth) == ([1, 2], nn.ReLU, 3, 0.05)
    assert parse(yaml.safe_load(text), [])[1] == text
    check_trusted(yaml.safe_load(text), ["mynets.Wider"], "x.ckpt", "--network")


def test_the_commands_of_the_page(here, caplog):
    """The quick start's width is a share of channels; that of the page's network is their number."""
    commands = re.findall(r"^python train\.py (configs/\S+) (.*?)(?: +#.*)?$", PAGE, re.M)
    assert len(commands) == 2
    for file, arguments in commands:
        words = [word for word in arguments.split() if word != "--help"]
        cfg, _ = parse(Path(__file__).parents[2] / file, words)
        assert cfg.model.depth_net.width == (32 if "32" in words else 16)
    left_out = [text.partition(" left out")[0] for text in caplog.messages]
    assert left_out == ["model.depth_net: sparse_branch", "model.depth_net: sparse_branch, width"]


@pytest.mark.parametrize("name", [{}, {"name": "gone.Net"}])
def test_in_the_place_of_the_network_of_a_file(here, caplog, name):
    cfg, _ = parse(tree(name | {"sparse_branch": False}), [GIVEN, "--model.depth_net.width=3"])
    assert build_model(cfg).depth_net.head.in_channels == 3
    former = name.get("name", "ResNetSAN01")
    line = f"model.depth_net: sparse_branch left out: it is of {former}, not of mynets.SmallNet"
    assert line in caplog.messages


def test_sparse_depth_for_a_network_that_takes_none(here):
    cfg, _ = parse("own.yaml", ["--datasets.augmentation.sparsity.simulate=true"])
    assert refusal(check_input, cfg, data_of(cfg)) == (
        "datasets.train: datasets.augmentation.sparsity makes an input_depth and the forward of "
        "mynets.SmallNet has no argument input_depth; set datasets.augmentation.sparsity.simulate: false"
    )


# ---- what a checkpoint may name


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ("model.loss.gradient", {"x": {"class_path": "evil.Net"}}, "model.loss.gradient.x.class_path"),
        ("model.loss.gradient", "{x: {class_path: evil.Net}}", "model.loss.gradient"),
        ("trainer.plugins", [{"class_path": "evil.Net"}], "trainer.plugins.class_path"),
        ("trainer.profiler", "evil.Net", "trainer.profiler"),
        ("trainer", {"strategy.class_path": "evil.Net"}, "trainer.strategy.class_path"),
        ("model", {"depth_net.name": "evil.Net"}, "model.depth_net.name"),
        ("config", "evil.yaml", "config"),
        ("model.depth_net.name", "evil.Net", None),
    ],
)
def test_a_class_that_a_checkpoint_names_is_not_imported(here, path, value, key):
    Path("evil.py").write_text("raise SystemExit('imported')")
    config = yaml.safe_load(parse(None, [])[1])
    *parents, leaf = path.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[leaf] = section.get(leaf) | value if isinstance(section.get(leaf), dict) else value
    text = f"names classes to import ({key}), which runs code" if key else "its network is evil.Net, which is"
    assert text in refusal(check_trusted, config, [], "x.ckpt", "--network")
    torch.save({"config": config, "state_dict": {"x": torch.zeros(1)}}, "x.ckpt")
    with pytest.raises(ConfigError):
        load_run(Path("x.ckpt"))
    with pytest.raises(ConfigError):
        training.run(["--resume=x.ckpt"])
    assert "evil" not in sys.modules


def test_an_ordinary_configuration_names_no_class():
    check_trusted(yaml.safe_load(parse(None, ["--trainer.strategy=ddp"])[1]), [], "x.ckpt", "--network")


# ---- what it returns


class Returns(nn.Module):
    """Returns what it was given."""

    def __init__(self, output, depth_output=None):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.output = output
        if depth_output is not None:
            self.depth_output = depth_output

    def forward(self, rgb):
        return self.output


class L1(nn.Module):
    def forward(self, inv_depths, gt, **kwargs):
        return {"loss": (inv_depths[0] - gt).abs().mean(), "metrics": {}}


BATCH = {"rgb": torch.rand(2, 3, 4, 6), "depth": torch.full((2, 1, 4, 6), 2.0)}
TWO, HALF = torch.full((2, 1, 4, 6), 2.0), torch.full((2, 1, 4, 6), 0.5)


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (TWO, "depth"),
        (HALF, "inverse_depth"),
        (TWO[:, 0], "depth"),
        ([HALF, HALF[..., ::2, ::2]], "inverse_depth"),
        ((TWO[:, 0],), "depth"),
        ({"depth": TWO, "features": None}, None),
        ({"inverse_depth": [HALF]}, None),
        ({"inv_depths": [HALF]}, None),
        (TWO.half(), "depth"),
    ],
)
def test_what_a_network_may_return(output, kind):
    model = SemiSupCompletionModel(Returns(output, kind), L1(), flip_lr_prob=0.0)
    for mode in (model.train(), model.eval()):
        assert torch.equal(mode(BATCH)["inv_depths"][0], HALF)
    assert model.train()(BATCH)["loss"] == 0


ATTRIBUTE = "Returns: its attribute depth_output must be 'depth' or 'inverse_depth', to say what it returns"
NOT_POSITIVE = (
    "first batch is not positive: end forward with something that is, such as "
    "torch.nn.functional.softplus(x) + 1e-3"
)
NOT_FINE = "the first map must have their H and W; resize it in forward (torch.nn.functional.interpolate)"


@pytest.mark.parametrize(
    ("output", "kind", "text"),
    [
        (TWO, None, f"{ATTRIBUTE}; got None"),
        (TWO, "disparity", f"{ATTRIBUTE}; got 'disparity'"),
        ({"disp": TWO}, "depth", "a dict with the keys disp: one of them must be 'depth' or 'inverse_depth'"),
        ([], "depth", "an empty list: at least one map is needed"),
        (None, "depth", "NoneType: a tensor of floats is needed"),
        (TWO.long(), "depth", "torch.int64: a tensor of floats is needed"),
        (TWO.expand(2, 3, 4, 6), "depth", "[2, 3, 4, 6] for images [2, 3, 4, 6]: [B, 1, H, W] is needed"),
        (TWO[0], "depth", "[1, 4, 6] for images [2, 3, 4, 6]: [B, 1, H, W] is needed"),
        (TWO[..., ::2], "depth", f"[2, 1, 4, 3] for images [2, 3, 4, 6]: {NOT_FINE}"),
        (TWO - 2, "depth", f"Returns: 100 % of the depth of its {NOT_POSITIVE}"),
        ([HALF, -HALF], "inverse_depth", f"Returns: 100 % of the inverse depth of its {NOT_POSITIVE}"),
    ],
)  # fmt: skip
def test_what_a_network_may_not_return(output, kind, text):
    model = SemiSupCompletionModel(Returns(output, kind), L1())
    assert refusal(model, BATCH, error=NetworkError) == (
        text if text.startswith("Returns") else f"Returns returned {text}"
    )


def test_only_the_values_of_the_first_batch_are_checked():
    net = Returns(TWO, "depth")
    model = SemiSupCompletionModel(net, L1())
    model(BATCH)
    net.output = TWO - 2
    assert not model(BATCH)["loss"].isfinite()  # a step with that is skipped


def test_a_network_that_needs_sparse_depth(monkeypatch):
    class Needs(nn.Module):
        def forward(self, rgb, input_depth):
            return {"depth": input_depth}

    model = SemiSupCompletionModel(Needs(), L1()).eval()
    assert torch.equal(model(BATCH | {"input_depth": TWO})["inv_depths"][0], HALF)
    assert refusal(model, BATCH, error=NetworkError) == (
        "Needs needs input_depth, and the data has none: give it some, or give the argument of forward a "
        "default of None"
    )
    monkeypatch.setitem(config.NETWORKS, "Needs", Needs)
    cfg, _ = parse(tree({"name": "Needs"}), [])
    assert refusal(check_input, cfg, data_of(cfg)) == (
        "datasets.train: it has no sparse depth, and the forward of Needs needs input_depth: give it some, "
        "or give this argument a default of None"
    )
    other = SemiSupCompletionModel(Returns(TWO, "depth"), L1()).eval()
    text = refusal(other, BATCH | {"input_depth": TWO}, error=NetworkError)
    assert text == "Returns: its forward has no argument input_depth"


def test_the_command_says_it_in_one_line(here, capsys):
    Path("mynets.py").write_text(Path("mynets.py").read_text().replace('depth_output = "depth"', ""))
    logging.getLogger("depthloss").setLevel(logging.INFO)
    with pytest.raises(SystemExit) as stop:
        training.main(["own.yaml"])
    assert stop.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("train.py: error: SmallNet: its attribute depth_output must be 'depth' or")
