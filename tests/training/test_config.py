"""The sections of the configuration: what is open in them, and what is refused before anything is built."""

import logging
from pathlib import Path

import numpy as np
import pytest
import yaml

import depthloss
from depthloss.training import cli
from depthloss.training.checkpoints.resume import flat
from depthloss.training.configuration.build import build_loss, build_model, check_input
from depthloss.training.configuration.flags import split_arguments
from depthloss.training.configuration.loaders import DepthData
from depthloss.training.configuration.parser import parse
from depthloss.training.data import write_depth_png, write_rgb
from depthloss.training.errors import ConfigError

from . import layouts


def effective(*argv: str) -> dict:
    """The effective configuration of a command line, flat."""
    config_file, arguments, _ = split_arguments(list(argv))
    return flat(yaml.safe_load(parse(config_file, arguments)[1]))


def refusal(*argv: str) -> str:
    """The text of the error of a command line."""
    with pytest.raises(ConfigError) as error:
        effective(*argv)
    return str(error.value)


def write(path: Path, tree: dict) -> str:
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def data_of(cfg) -> DepthData:
    sections = {split: getattr(cfg.datasets, split) for split in ("train", "validation", "test")}
    params = cfg.model.params
    return DepthData(sections, cfg.datasets.image_shape, params.min_depth, params.max_depth)


@pytest.fixture
def folder(tmp_path) -> Path:
    """An rgbd-folder of two frames with sparse input depth."""
    for i in range(2):
        write_rgb(tmp_path / f"d/rgb/{i}.png", np.zeros((32, 64, 3), np.uint8))
        for part in ("depth", "input_depth"):
            write_depth_png(tmp_path / f"d/{part}/{i}.png", np.ones((32, 64)))
    return tmp_path / "d"


# ---- the open sections


def test_every_option_has_its_default(tmp_path):
    file = write(tmp_path / "c.yaml", {"seed": 1})
    cfg = effective(file, "--supervised-method=sparse-silog", "--datasets.test.dataset=rgbd-folder")
    loss = {k.removeprefix("model.loss."): v for k, v in cfg.items() if k.startswith("model.loss.")}
    own = dict.fromkeys(("lam", "scale", "eps", "offset", "unbiased", "reduction", "preset", "gt_range"))
    fixed = {
        "supervised_method": "sparse-silog",
        "supervised_num_scales": 4,
        "supervised_loss_weight": 1.0,
        "weight_rgbd": 1.0,
        "flip_lr_prob": 0.5,
        "process_group": False,
    }
    assert loss == {**fixed, **own, "clamp": "preset", "root": True, "backend": "auto"}
    test = {k.removeprefix("datasets.test."): v for k, v in cfg.items() if k.startswith("datasets.test.")}
    assert (test["depth_scale"], test["input_depth"], test["stride"], test["limit"]) == (
        256.0,
        "auto",
        1,
        None,
    )
    assert cfg["datasets.train.gt"] == "dense" and "datasets.train.depth_scale" not in cfg


def test_help_shows_the_options_of_the_choice(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help", "--supervised-method", "silog"])
    text = capsys.readouterr().out
    assert "--model.loss.lam LAM" in text and "--model.loss.lambda_sg" not in text
    assert "--datasets.train.gt_beams" in text
    assert "number of scan lines of gt=" in text
    assert "LossConfig(" not in text and "The supervised loss" in text


def test_the_range_of_a_loss_follows_model_params(monkeypatch, caplog):
    monkeypatch.setattr(
        depthloss, "SupervisedLoss", lambda **kwargs: (kwargs.get("min_depth"), kwargs.get("max_depth"))
    )

    def depths(*arguments: str):
        cfg, _ = parse(None, ["--model.params.max_depth=7.5", *arguments])
        return build_loss(cfg.model.loss, cfg.model.params.min_depth, cfg.model.params.max_depth)

    assert depths() == (0.4, 7.5)
    assert depths("--model.loss.max_depth=3") == (0.4, 3.0)
    assert depths("--model.loss.max_depth=null") == (0.4, None)
    assert not caplog.messages
    with caplog.at_level(logging.INFO, "depthloss"):
        assert depths("--model.loss.supervised_method=l1") == (None, None)
    assert caplog.messages == [
        "model.loss: l1 has no use for model.params.min_depth and model.params.max_depth"
    ]


def test_a_recipe(tmp_path):
    """Under model.loss.recipe, in a file or on the command line, with its own defaults."""
    tree = {"model": {"loss": {"recipe": "midas-robust", "trim": 0.1}}}

    def built(source, *arguments: str):
        cfg, _ = parse(source, list(arguments))
        return build_loss(cfg.model.loss, 0.05, 80.0).loss_func

    file = write(tmp_path / "c.yaml", tree)
    assert built(file).spec == depthloss.recipe("midas-robust", trim=0.1).spec
    assert built(file, "--model.loss.alpha=0").spec.terms[0].trim == 0.1
    midas = built(None, "--model.loss.recipe", "midas", "--model.loss.alpha=0.1")
    assert midas.spec == depthloss.recipe("midas").spec and midas.weights(0.0, 0) == (1.0, 0.1, 1.0)
    # Inverse depth comes in: what is of depth converts; max_depth is that of model.params.
    expected = depthloss.recipe("nlspn", max_depth=90.0).spec.on_inverse_depth()
    cfg, _ = parse(None, ["--model.loss.recipe=nlspn"])
    assert build_loss(cfg.model.loss, 0.05, 90.0).loss_func.spec == expected
    assert "unknown recipe 'midsa'; did you mean 'midas'?" in refusal("--model.loss.recipe=midsa")
    both = write(tmp_path / "d.yaml", {"model": {"loss": {"recipe": "midas", "supervised_method": "l1"}}})
    with pytest.raises(ConfigError, match="give a recipe or a supervised_method, not both"):
        parse(both, [])
    with pytest.raises(ConfigError, match="needs a confidence with each call"):
        built(None, "--model.loss.recipe=vggt-depth")


def test_a_preset_and_a_range_of_the_loss(tmp_path):
    """The tree gives a preset; what is given beside it goes over it, a default of the class does not."""
    tree = {"model": {"loss": {"supervised_method": "silog", "preset": "mmseg", "gt_range": [0.02, None]}}}

    def built(*arguments: str):
        cfg, _ = parse(write(tmp_path / "c.yaml", tree), list(arguments))
        return build_loss(cfg.model.loss, 0.05, 100.0).loss_func.spec

    assert built() == depthloss.SILogLoss(preset="mmseg", gt_range=(0.02, None)).spec
    (term,) = built("--model.loss.lam=0.85", "--model.loss.clamp=null").terms
    assert (term.lam, term.scale, term.eps, term.reduction) == (0.85, 1.0, 0.0, "images")
    assert term.domain.floor is None
    with pytest.raises(
        ConfigError, match="model.loss.preset: one of 'packnet', .* or null is needed, got mmsg"
    ):
        built("--model.loss.preset=mmsg")
    assert "model.loss.preset" in refusal("--supervised-method=l1", "--model.loss.preset=mmseg")


def test_a_schedule_opens_the_progressive_loss():
    cfg = effective("--model.loss.alpha_schedule=constant")
    assert (cfg["model.loss.alpha_schedule"], cfg["model.loss.scale_schedule"]) == ("constant", "linear")
    assert "model.loss.epsilon" not in cfg
    assert "'linear', 'constant', 'none' is needed, got cosine" in refusal(
        "--model.loss.alpha_schedule=cosine"
    )


def test_another_loss_than_the_file_s(tmp_path, caplog):
    printed = yaml.safe_load(parse(None, ["--model.loss.lambda_sg=0.3"])[1])
    with caplog.at_level(logging.WARNING, "depthloss"):
        cfg = effective(write(tmp_path / "c.yaml", printed), "--supervised-method=silog")
    assert cfg == effective("--supervised-method=silog")
    name = "sparse-scale-adaptive"
    assert f"model.loss: lambda_sg left out: it is of {name}, not of silog" in caplog.messages


def test_the_configuration_may_be_a_tree():
    tree = yaml.safe_load(parse(None, ["--model.loss.lambda_sg=0.3"])[1])
    assert yaml.safe_load(parse(tree, ["--seed=7"])[1]) == {**tree, "seed": 7}


def test_the_run_is_named_after_its_file(tmp_path):
    assert effective(write(tmp_path / "night.yaml", {"seed": 1}))["name"] == "night"
    assert effective(write(tmp_path / "night.yaml", {"name": "day"}))["name"] == "day"
    assert effective()["name"] == "synthetic"


# ---- which data sets there are


@pytest.mark.parametrize(
    ("train", "validation"), [({"dataset": "rgbd-folder"}, None), ({}, "synthetic"), (None, None)]
)
def test_validation_is_synthetic_only_beside_synthetic_training(tmp_path, train, validation):
    cfg = effective(write(tmp_path / "c.yaml", {"datasets": {"train": train}}))
    assert cfg["datasets.validation.dataset"] == validation


def test_the_quick_start_on_other_data_has_no_validation(folder, caplog):
    cfg, _ = parse(None, ["--datasets.train.dataset=rgbd-folder", f"--datasets.train.path={folder}"])
    assert not caplog.messages
    assert list(data_of(cfg).datasets) == ["train"]
    # What is chosen for the rooms and streets says nothing about other data.
    assert (cfg.model.params.max_depth, cfg.model.depth_net.width) == (100.0, 1.0)
    assert cfg.datasets.augmentation.jittering and cfg.model.loss.flip_lr_prob == 0.5


@pytest.mark.parametrize(
    ("train", "left_out"),
    [
        ({"dataset": "kitti", "path": "d", "split": "s.txt", "limit": 2}, "limit, path, split"),
        ({"dataset": "ncdb", "path": "d", "split": "train", "input_depth": None}, "path, split"),
    ],
)
def test_another_data_set_than_the_file_s_gets_none_of_its_options(tmp_path, caplog, train, left_out):
    path = write(tmp_path / "c.yaml", {"datasets": {"train": {**train, "batch_size": 3}}})
    for now in ("synthetic", "rgbd-folder"):
        cfg = effective(path, f"--datasets.train.dataset={now}")
        said = f"datasets.train: {left_out} left out: it is of {train['dataset']}, not of {now}"
        assert said in caplog.messages
        assert (cfg["datasets.train.path"], cfg["datasets.train.batch_size"]) == (None, 3)
        assert cfg.get("datasets.train.split") is None and cfg.get("datasets.train.limit") is None
    caplog.clear()
    more = ["--datasets.train.path=e", "--datasets.train.split=x", "--datasets.train.limit=1"]
    assert effective(path, "--datasets.train.dataset=rgbd-folder", *more)["datasets.train.path"] == "e"
    assert not caplog.messages


def test_a_path_without_data_set_is_that_of_the_command_line_s(tmp_path):
    path = write(tmp_path / "c.yaml", {"datasets": {"train": {"path": "d", "limit": 3}}})
    cfg = effective(path, "--datasets.train.dataset=rgbd-folder")
    assert (cfg["datasets.train.path"], cfg["datasets.train.limit"]) == ("d", 3)


def test_the_data_sets_are_logged(caplog):
    small = [f"--datasets.{split}.length=1" for split in ("train", "test")]
    off = "--datasets.validation.dataset=null"
    cfg, _ = parse(None, ["--datasets.test.dataset=synthetic", *small, off, "--datasets.image_shape=[32,64]"])
    data = data_of(cfg)
    with caplog.at_level(logging.INFO, "depthloss"):
        data.log_summaries()
    train, none, test = caplog.messages[-3:]
    assert train.startswith("train: synthetic, 1 frame, 64x32; depth ") and none == "validation: none"
    assert test.startswith("test: synthetic, 1 frame, 64x32; depth ")


def test_null_switches_a_data_set_off(tmp_path):
    tree = {"datasets": {"validation": None, "test": None}, "checkpoint": None, "model": {"loss": None}}
    cfg = effective(write(tmp_path / "c.yaml", tree))
    assert cfg["datasets.validation.dataset"] is None and cfg["datasets.test.dataset"] is None
    assert cfg["model.loss.lambda_sg"] == 0.5 and cfg["checkpoint.mode"] is None
    for arguments in (["--datasets.validation=null"], ["--datasets.validation", "null"]):
        assert effective(*arguments)["datasets.validation.dataset"] is None
    path = write(tmp_path / "c.yaml", {"datasets": {"validation": {"dataset": "synthetic", "length": 3}}})
    assert "datasets.validation.length" not in effective(path, "--datasets.validation.dataset=null")


def test_an_option_without_data_set(tmp_path):
    tree = {"datasets": {"train": {"dataset": "rgbd-folder"}, "validation": {"limit": 3}}}
    text = "unknown key 'datasets.validation.limit': no data set is chosen; datasets.validation.dataset is "
    assert text in refusal(write(tmp_path / "c.yaml", tree))


# ---- errors


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("datasets.train.batchsize", "'datasets.train.batch_size'; datasets.train.dataset is 'synthetic'"),
        ("datasets.train.num_worker", "'datasets.train.num_workers'; datasets.train.dataset is 'synthetic'"),
        ("model.loss.weight_rgdb", "'model.loss.weight_rgbd'; model.loss.supervised_method is 'silog'"),
        ("model.loss.flip_lr", "'model.loss.flip_lr_prob'; model.loss.supervised_method is 'silog'"),
        ("lam", "'model.loss.lam'"),
        ("batch_size", "'datasets.train.batch_size'"),
        ("batch-size", "'datasets.train.batch_size'"),
        ("test.batch-size", "'datasets.test.batch_size'"),
        ("validation.num-workers", "'datasets.validation.num_workers'"),
        ("epochs", "'trainer.max_epochs', short --max-epochs"),
        ("gpu", "'gpus'"),
    ],
)
def test_the_nearest_key(flag, nearest):
    text = f"command line: unknown key '{flag}'; the nearest known one is {nearest}"
    assert refusal("--supervised-method=silog", f"--{flag}=1") == text


def test_the_nearest_key_of_a_short_flag():
    text = "unknown key 'lambda_sg'; the nearest known one is 'model.loss.lambda_sg', short --lambda-sg"
    assert refusal("--lambda_sg=0.3") == f"command line: {text}"


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        (
            f"--name={'x' * 201}",
            "name must be the name of a directory, without slashes, printable and at most 200 ",
        ),
        (
            "--name=a\0b",
            "name must be the name of a directory, without slashes, printable and at most 200 bytes",
        ),
        ("--seed=5000000000", "seed must be from 0 to 4294967295, got 5000000000"),
        ("--name=..", "name must be the name of a directory, without slashes, printable"),
        ("--datasets.train.batch_size=0", "datasets.train.batch_size must be >= 1, got 0"),
        ("--datasets.validation.num_workers=-1", "datasets.validation.num_workers must be >= 0, got -1"),
        ("--model.scheduler.step_size=0", "model.scheduler.step_size must be >= 1, got 0"),
        ("--model.scheduler.T_max=0", "model.scheduler.T_max must be >= 1, got 0"),
        ("--model.optimizer.depth.lr=-1", "model.optimizer.depth.lr must be >= 0, got -1.0"),
        ("--model.optimizer.depth.weight_decay=-1", "depth.weight_decay must be >= 0, got -1.0"),
        ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val must be >= 0, got -1"),
        ("--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be >= 1, got 0"),
        ("--trainer.limit_train_batches=0", "trainer.limit_train_batches must be > 0 (null: all), got 0"),
        ("--trainer.overfit_batches=1", "trainer.overfit_batches must be 0 (see datasets.train.limit, or"),
        ("--checkpoint.save_top_k=-2", "checkpoint.save_top_k must be >= -1, got -2"),
        (
            "--model.params.max_depth=0.01",
            "max_depth must be finite and larger than min_depth = 0.4, got 0.01",
        ),
        ("--trainer.strategy=foo", "trainer.strategy: unknown strategy 'foo'; known: auto, ddp, "),
        ("--datasets.image_shape=[100,330]", "got [100, 330]; the nearest is [96, 320]"),
        (
            "--datasets.augmentation.flip_prob=2",
            "datasets.augmentation: flip_prob must be in [0, 1], got 2.0",
        ),
        (
            "--datasets.train.length=abc",
            "datasets.train.length: a whole number is needed, got abc",
        ),
        ("--model.loss.lambda_sg=much", "model.loss.lambda_sg"),
        ("--model.optimizer.depth.lr=.inf", "model.optimizer.depth.lr must be a finite number, got inf"),
        ("--model.loss.lambda_sg=.nan", "model.loss.lambda_sg must be a finite number, got nan"),
        ("--model.loss.weight_rgbd=1e999", "model.loss.weight_rgbd must be a finite number, got inf"),
        ("--model.params.min_depth=.nan", "model.params.min_depth must be a finite number, got nan"),
        (
            "--datasets.augmentation.jittering=[.inf,0,0,0]",
            "datasets.augmentation.jittering must be a finite",
        ),
        ("--trainer.gradient_clip_val=.inf", "trainer.gradient_clip_val must be a finite number, got inf"),
    ],
)
def test_values_that_cannot_be(argument, text):
    assert text in refusal(argument)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"datasets": 3}, "datasets: a mapping with the keys of the section is needed, got 3"),
        ({"model": {"loss": "l1"}}, "model.loss: a mapping with the keys of the section is needed, got 'l1'"),
        (
            {"model": {"loss": {"supervised_method": None}}},
            "model.loss: the name of a loss is needed, got None",
        ),
        ({"datasets": {"train": {"dataset": 3}}}, "datasets.train: the name of a data set is needed, got 3"),
        (
            {"model": {"depth_net": {"name": [1]}}},
            "model.depth_net.name: the name of a network is needed, got [1]",
        ),
        (
            {"model": {"params": {"min_depth": None}}},
            "model.params.min_depth must be positive, in metres, got None",
        ),
        (
            {"model": {"params": {"max_depth": None}}},
            "model.params.max_depth must be finite and larger than min_depth = 0.05, got None",
        ),
        (
            {"datasets": {"augmentation": {"flip_prob": None}}},
            "datasets.augmentation: flip_prob must be in [0, 1], got None",
        ),
        ({"datasets": {"image_shape": None}}, "datasets.image_shape: [H, W] is needed, got None"),
    ],
)
def test_sections_that_cannot_be(tmp_path, tree, text):
    assert refusal(write(tmp_path / "c.yaml", tree)) == text


def test_a_network_without_sparse_branch_refuses_input_depth(folder):
    choice = ["--datasets.train.dataset=rgbd-folder", f"--datasets.train.path={folder}"]
    cfg, _ = parse(None, [*choice, "--datasets.image_shape=[32,64]"])
    text = "datasets.train: it brings input_depth and model.depth_net.sparse_branch is false; set "
    with pytest.raises(ConfigError, match=text + "datasets.train.input_depth: null, or sparse_branch: true"):
        check_input(cfg, data_of(cfg))
    for more in ("--datasets.train.input_depth=null", "--model.depth_net.sparse_branch=true"):
        cfg, _ = parse(None, [*choice, "--datasets.image_shape=[32,64]", more])
        check_input(cfg, data_of(cfg))


def test_the_key_of_the_sparse_input_is_that_of_the_data_set(tmp_path):
    layouts.kitti(tmp_path, frames=1)
    tree = {"dataset": "kitti", "path": str(tmp_path), "split": "split.txt", "input_depth_type": "velodyne"}
    network = {"model": {"depth_net": {"sparse_branch": False}}}
    cfg, _ = parse({"datasets": {"train": tree, "image_shape": [32, 64]}, **network}, [])
    with pytest.raises(ConfigError, match="set datasets.train.input_depth_type: null"):
        check_input(cfg, data_of(cfg))


def test_a_sparse_branch_without_sparse_depth_is_told(caplog):
    cfg, _ = parse(
        None, ["--model.depth_net.sparse_branch=true", "--datasets.validation.input_depth=scanline"]
    )
    with caplog.at_level(logging.INFO, "depthloss"):
        data = data_of(cfg)
        caplog.clear()
        check_input(cfg, data)
    [said] = caplog.messages
    assert said.startswith("datasets.train has no sparse depth for the network's sparse branch: RGB alone; ")
    assert "set datasets.train.input_depth, or model.depth_net.sparse_branch: false" in said


def test_what_a_checkpoint_fills_needs_no_pretrained_weights():
    cfg, _ = parse(None, ["--model.depth_net.weights=gone.pth", "--model.depth_net.version=18pt"])
    with pytest.raises(ConfigError, match="gone.pth"):
        build_model(cfg)
    assert build_model(cfg, pretrained=False).depth_net.encoder.depth == 18
    assert cfg.model.depth_net.weights == "gone.pth"


def test_the_network_s_own_errors_name_the_section():
    cfg, _ = parse(None, ["--model.depth_net.dropout=2"])
    with pytest.raises(ConfigError, match="^model.depth_net: dropout=2"):
        build_model(cfg)


@pytest.mark.parametrize("text", ["[" * 5000, "a: " + "[" * 60 + "]" * 60, "&a {b: *a}"])
def test_a_file_that_is_nested_without_end(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    assert refusal(str(tmp_path / "c.yaml")) == f"{tmp_path / 'c.yaml'}: nested too deeply"
