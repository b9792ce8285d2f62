"""Adding a data set as docs/data.md says, and what is checked of the data before a training."""

import logging
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from depthloss.training.configuration.build import check_input, check_last_batch
from depthloss.training.configuration.parser import parse
from depthloss.training.data import DATASETS, DataError, build_dataset
from depthloss.training.errors import ConfigError
from depthloss.training.evaluation.cli import _input

from .test_config import data_of

PAGE = Path(__file__).parents[2] / "docs/data.md"
OWN = ["dataset=npz-folder", "limit=3", "batch_size=2"]


@pytest.fixture
def own(tmp_path):
    """The data set of the page, with a folder of three files; the arguments that choose it."""
    before = dict(DATASETS)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "npz_folder"})
    rng = np.random.default_rng(0)
    for i in range(3):
        (tmp_path / "a").mkdir(exist_ok=True)
        depth = np.full((40, 60), 2.0 + i, np.float32)
        np.savez(tmp_path / f"a/{i}.npz", rgb=rng.integers(0, 256, (40, 60, 3), dtype=np.uint8), depth=depth)
    chosen = [f"--datasets.train.{option}" for option in (*OWN, f"path={tmp_path}")]
    yield [*chosen, "--datasets.image_shape=[32,64]"]
    DATASETS.clear()
    DATASETS.update(before)


def test_the_data_set_of_the_page(own, tmp_path, caplog):
    cfg, text = parse(None, own)
    assert "limit: 3" in text
    data = data_of(cfg)
    with caplog.at_level(logging.INFO, "depthloss"):
        data.log_summaries()
    line = "train: npz-folder, 3 frames, 60x40; depth 2 to 4 m (1% to 99%), median 3 m; 100% valid"
    assert caplog.messages[-2:] == [line, "validation: none"]
    sample = data.datasets["train"][1]
    assert sample["name"] == "a/1.npz" and sample["rgb"].shape == (3, 32, 64)
    assert set(sample["depth"].unique().tolist()) == {0.0, 3.0}  # larger than stored: not every pixel has one
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=1, global_rank=0, strategy=strategy)
    assert [len(batch["name"]) for batch in data._loader("train")] == [2, 1]
    data.sections["train"].drop_last = True
    assert [len(batch["name"]) for batch in data._loader("train")] == [2]
    (tmp_path / "a/2.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"a/2\.npz: got a damaged file .*; expected files NAME\.npz with"):
        data.check()
    with pytest.raises(TypeError, match="dataset 'npz-folder' has no option 'limits'; did you mean 'limit'?"):
        shape = {"image_shape": (8, 8), "min_depth": 1, "max_depth": 9}
        build_dataset("npz-folder", path=tmp_path, limits=1, train=True, **shape)


def test_one_file_is_all(tmp_path, monkeypatch, capsys):
    """The file of the page, run as a command, has the commands of the package with its data set in them."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    file = tmp_path / "npz_folder.py"
    file.write_text(code, encoding="utf-8")
    monkeypatch.setitem(DATASETS, "npz-folder", None)  # gone again at the end
    train = ["train", "--datasets.train.dataset=npz-folder", "--print_config"]
    for command, text in ((train, "limit: null"), (["evaluate", "--help"], f"usage: python {file} evaluate")):
        monkeypatch.setattr("sys.argv", [str(file), *command])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(file), run_name="__main__")
        assert not end.value.code and text in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["npz_folder.py"]


def test_a_data_set_without_an_option_for_sparse_depth(own, caplog):
    cfg, _ = parse(None, [*own, "--model.depth_net.sparse_branch=true"])
    data = data_of(cfg)
    with caplog.at_level(logging.INFO, "depthloss"):
        check_input(cfg, data)
    assert caplog.messages[-1] == (
        "datasets.train has no sparse depth for the network's sparse branch: RGB alone; set "
        "model.depth_net.sparse_branch: false"
    )
    run = SimpleNamespace(takes_input=True, cfg=cfg, split="train")
    assert _input("run", run, run, data.datasets["train"])[0] is False
    assert caplog.messages[-1].endswith("the data no sparse depth: it gets RGB alone")
    cfg, _ = parse(None, [*own, "--model.depth_net.sparse_branch=false"])
    check_input(cfg, data)
    data.datasets["train"].maps = ("input_depth",)
    with pytest.raises(ConfigError) as error:
        check_input(cfg, data)
    assert str(error.value) == (
        "datasets.train: it brings input_depth and model.depth_net.sparse_branch is false; "
        "set sparse_branch: true"
    )


# ---- the last batch


class Pooled(nn.Module):
    """A batch norm that sees one value per channel and image."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, rgb, input_depth=None):
        return self.norm(rgb.mean((2, 3)))


LAST = "the last batch has 1 of {n} images, which leaves a batch norm of the network one value per channel"


@pytest.mark.parametrize(
    ("length", "settings", "processes", "message"),
    [
        (4, {"batch_size": 2}, 1, None),
        (5, {"batch_size": 2}, 1, LAST.format(n=5)),
        (5, {"batch_size": 2, "drop_last": True}, 1, None),
        (5, {"batch_size": 3}, 1, None),
        (5, {"batch_size": 2}, 2, LAST.format(n=5)),  # three for each
        (7, {"batch_size": 2}, 2, None),
        (5, {"batch_size": 1}, 1, "a batch has 1 image, which leaves a batch norm of the network one value"),
        (1, {"batch_size": 4}, 1, LAST.format(n=1)),
        (3, {"batch_size": 4, "drop_last": True}, 1, "nothing is left of 3 images in batches of 4; use a"),
        (5, {"batch_size": 4, "drop_last": True}, 2, "in batches of 4 on 2 processes; use a smaller"),
        (5, {"batch_size": 2, "limit": 2}, 1, None),
        (5, {"batch_size": 2, "limit": 0.7}, 1, None),
        (5, {"batch_size": 2, "limit": 1.0}, 1, LAST.format(n=5)),
        (5, {"batch_size": 2, "sync": True}, 2, None),
    ],
)
def test_a_last_batch_of_one_image(length, settings, processes, message):
    section = SimpleNamespace(**{"drop_last": False, "batch_size": settings["batch_size"]})
    section.drop_last = settings.get("drop_last", False)
    trainer = SimpleNamespace(
        limit_train_batches=settings.get("limit"), sync_batchnorm=settings.get("sync", False)
    )
    datasets = SimpleNamespace(train=section, image_shape=(8, 12))
    cfg = SimpleNamespace(datasets=datasets, trainer=trainer)
    train = type("Data", (list,), {"gives_input": True})([None] * length)
    model = SimpleNamespace(depth_net=Pooled().eval())
    state = torch.get_rng_state()
    arguments = cfg, SimpleNamespace(datasets={"train": train}), model, processes
    if message is None:
        check_last_batch(*arguments)
    else:
        with pytest.raises(ConfigError, match=re.escape(message)) as error:
            check_last_batch(*arguments)
        assert str(error.value).startswith("datasets.train")
    assert torch.equal(torch.get_rng_state(), state) and not model.depth_net.training
    assert model.depth_net.norm.num_batches_tracked == 0


def test_one_image_is_enough_where_more_than_one_value_is_left():
    norm = SimpleNamespace(depth_net=nn.BatchNorm2d(3))
    norm.depth_net.forward = lambda rgb, input_depth: nn.BatchNorm2d.forward(norm.depth_net, rgb)
    cfg, _ = parse(None, ["--datasets.train.length=1", "--datasets.image_shape=[32,64]"])
    check_last_batch(cfg, data_of(cfg), norm, 1)


# ---- spelling


SHAPE = "datasets.image_shape: write it as [H, W], such as [192, 320]; got"


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("image_shape=(64, 96)", f"{SHAPE} (64, 96)"),
        ("image_shape=64x96", f"{SHAPE} 64x96"),
        ("image_shape=[64]", f"{SHAPE} [64]"),
        ("train.crop=(1, 2)", "datasets.train.crop: write it as [y, height, x, width], such as [-352,"),
    ],
)
def test_errors_show_the_right_spelling(argument, message):
    with pytest.raises(ConfigError) as error:
        parse(None, ["--datasets.train.dataset=kitti", f"--datasets.{argument}"])
    assert str(error.value).startswith(message)


def test_a_list_of_folders_is_no_path():
    train = {"dataset": "rgbd-folder", "path": ["a", "b"]}
    with pytest.raises(ConfigError) as error:
        parse({"datasets": {"train": train}}, [])
    text = "datasets.train.path: write it as one folder, such as data/frames; got ['a', 'b']"
    assert str(error.value) == text
    cfg, _ = parse(None, ["--datasets.train.dataset=rgbd-folder", "--datasets.train.path=[a,b]"])
    message = r"datasets\.train: .*/\[a,b\]: got no such folder; .*; give a single folder as the option path"
    with pytest.raises(ConfigError, match=message):
        data_of(cfg)


@pytest.mark.parametrize("shape", ["(64, 96)", 64, (64, "96"), (64.0, 96), (True, 96)])
def test_the_shape_of_a_data_set(shape):
    with pytest.raises(ValueError, match=r"image_shape must be two positive integers \(H, W\), such as \("):
        build_dataset("synthetic", image_shape=shape, min_depth=1, max_depth=9, train=True)


def test_an_epoch_that_would_never_end():
    cfg, _ = parse(None, ["--datasets.train.length=1000000000000"])
    with pytest.raises(ConfigError) as error:
        data_of(cfg)
    text = "length must be >= 1, and at most 10,000,000 frames, such as 1000; got 1000000000000"
    assert str(error.value) == f"datasets.train: {text}"
