import logging
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from depthloss.training import cli
from depthloss.training.checkpoints.resume import flat
from depthloss.training.checkpoints.stored import find_checkpoint
from depthloss.training.configuration import sections as config
from depthloss.training.configuration.build import build_loss
from depthloss.training.configuration.flags import split_arguments
from depthloss.training.configuration.loaders import DepthData
from depthloss.training.configuration.parser import parse
from depthloss.training.data import DataError, SyntheticDataset
from depthloss.training.errors import ConfigError
from depthloss.training.evaluation.wording import number

ROOT = Path(__file__).parents[2]


def effective(*argv: str) -> dict:
    """The effective configuration of a command line, flat."""
    config_file, arguments, _ = split_arguments(list(argv))
    return flat(yaml.safe_load(parse(config_file, arguments)[1]))


def write(path: Path, tree: dict) -> str:
    path.write_text(yaml.safe_dump(tree))
    return str(path)


# ---- what is read


def test_without_a_file_it_is_the_quick_start():
    assert effective() == effective(str(ROOT / "configs/synthetic.yaml"))
    assert effective()["datasets.train.dataset"] == "synthetic"
    assert effective()["model.depth_net.sparse_branch"] is False


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "configs").glob("*.yaml")))
def test_every_configuration_parses(name):
    assert effective(str(ROOT / "configs" / name))["trainer.gradient_clip_val"] == 10.0


def test_short_flags():
    cfg = effective(
        "--supervised-method",
        "fixed-multi-domain",
        "--lambda-sg=0.3",
        "--max-epochs",
        "7",
        "--name",
        "x",
        "--gpus",
        "0,1",
        "--profile-loss",
        "--check-data",
    )
    assert cfg["model.loss.supervised_method"] == "fixed-multi-domain"
    assert cfg["model.loss.lambda_sg"] == 0.3
    assert cfg["trainer.max_epochs"] == 7
    assert cfg["name"] == "x"
    assert (cfg["trainer.accelerator"], cfg["trainer.devices"]) == ("gpu", [0, 1])
    assert cfg["profile_loss"] is True and cfg["check_data"] is True


@pytest.mark.parametrize(
    ("gpus", "accelerator", "devices"), [("cpu", "cpu", "auto"), ("0", "gpu", [0]), ("auto", "auto", "auto")]
)
def test_gpus(gpus, accelerator, devices):
    cfg = effective("--gpus", gpus)
    assert (cfg["trainer.accelerator"], cfg["trainer.devices"]) == (accelerator, devices)


@pytest.mark.parametrize(
    ("argv", "resume"),
    [
        (["c.yaml"], None),
        (["c.yaml", "--resume"], "last"),
        (["c.yaml", "--resume", "best", "--seed", "1"], "best"),
        (["c.yaml", "--resume=a/b.ckpt"], "a/b.ckpt"),
        (["c.yaml", "--resume", "--seed", "1"], "last"),
    ],
)
def test_resume_flag(argv, resume):
    config_file, arguments, found = split_arguments(argv)
    assert (config_file, found) == ("c.yaml", resume)
    assert arguments == (["--seed", "1"] if "--seed" in argv else [])


def test_the_command_line_overrides_the_file(tmp_path):
    path = write(tmp_path / "c.yaml", {"model": {"loss": {"lambda_sg": 0.1, "num_scales": 3}}, "seed": 3})
    cfg = effective(path, "--model.loss.lambda_sg", "0.2", "--datasets.train.length=8")
    assert (cfg["model.loss.lambda_sg"], cfg["model.loss.num_scales"], cfg["seed"]) == (0.2, 3, 3)
    assert (cfg["datasets.train.length"], cfg["datasets.validation.length"]) == (8, 1000)


def test_loss_keys_under_params_are_moved_with_one_line(tmp_path, caplog):
    loss = {"supervised_method": "sparse-g2", "num_scales": 2}
    path = write(tmp_path / "c.yaml", {"model": {"params": {"max_depth": 80.0, **loss}}})
    with caplog.at_level(logging.INFO, "depthloss"):
        cfg = effective(path)
    assert (cfg["model.loss.supervised_method"], cfg["model.loss.num_scales"]) == ("sparse-g2", 2)
    assert cfg["model.params.max_depth"] == 80.0 and "model.params.num_scales" not in cfg
    assert caplog.messages == ["model.params: num_scales, supervised_method taken as keys of model.loss"]
    assert effective("--model.params.lambda_sg", "0.7")["model.loss.lambda_sg"] == 0.7


def test_without_a_configuration_file_the_first_line_says_what_runs(tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.setattr(cli, "_train", lambda *_: None)
    (tmp_path / "c.yaml").write_text("name: mine")
    with caplog.at_level(logging.INFO, "depthloss"):
        cli.run([])
        cli.run(["--datasets.train.dataset=rgbd-folder", "--resume=auto", f"--name={tmp_path.name}-none"])
        cli.run([str(tmp_path / "c.yaml")])
    assert caplog.messages == [
        "no configuration file: the quick start trains a small network on rendered rooms and streets; "
        "see --help",
        "no configuration file: default settings for data of your own; see --help",
    ]
    with pytest.raises(SystemExit):
        cli.run(["--help"])
    assert "Without CONFIG.yaml the quick start runs at once" in " ".join(capsys.readouterr().out.split())


def test_a_run_on_other_data_is_called_by_their_name():
    assert effective("--datasets.train.dataset", "kitti")["name"] == "kitti"
    with pytest.raises(ConfigError, match="no checkpoint runs/kitti/checkpoints/last.ckpt"):
        cli.run(["--datasets.train.dataset=kitti", "--resume"])


def test_a_nested_keyword_of_the_loss():
    for value in ("centre", "support"):
        cfg, _ = parse(None, ["--model.loss.gradient.mask", value])
        assert f"mask='{value}'" in repr(build_loss(cfg.model.loss, 0.1, 50.0))


def test_print_config_is_a_configuration(tmp_path):
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "--print_config",
        "--lambda-sg",
        "0.25",
        "--max-epochs",
        "9",
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "printed.yaml"
    path.write_text(done.stdout)
    assert effective(str(path)) == effective("--lambda-sg", "0.25", "--max-epochs", "9")
    assert list(tmp_path.iterdir()) == [path]


def test_help_names_the_flags_and_the_trainer_keys(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for word in (
        "--gpus",
        "--resume",
        "--supervised-method",
        "--trainer.max_epochs",
        "--model.depth_net.version",
        "--model.loss.process_group",
        "--model.scheduler.warmup_steps",
        "--ema.decay",
        "--datasets.skip_bad_frames",
        "--skip-bad-frames",
    ):
        assert word in text
    assert "--trainer.callbacks" not in text


# ---- errors


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("trainer.max_epoch", "trainer.max_epochs"),
        ("model.optimzer.name", "model.optimizer.name"),
        ("model.optimizer.depth.learning_rate", "model.optimizer.depth.lr"),
        ("arch.max_epochs", "trainer.max_epochs"),
        ("model.depth_net.use_fim", "model.depth_net.use_film"),
        ("datasets.augmentation.flip", "datasets.augmentation.flip_prob"),
        ("nam", "name"),
        ("checkpoint.save_topk", "checkpoint.save_top_k"),
    ],
)
def test_an_unknown_key_names_the_nearest(tmp_path, key, nearest):
    message = f"unknown key '{key}'; the nearest known one is '{nearest}'"
    with pytest.raises(ConfigError) as error:
        effective(f"--{key}", "1")
    assert str(error.value) == f"command line: {message}"
    tree: dict = {}
    for part in reversed(key.split(".")):
        tree = {part: tree or 1}
    path = write(tmp_path / "c.yaml", tree)
    with pytest.raises(ConfigError) as error:
        effective(path)
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("argv", "texts"),
    [
        (["--trainer.callbacks", "x"], ["trainer.callbacks", "checkpoint and tensorboard"]),
        (["--trainer.max_steps=5"], ["trainer.max_steps", "trainer.max_epochs"]),
        (["--trainer.gpus=[0]"], ["trainer.gpus", "--gpus"]),
        (["--seed", "many"], ["seed", "whole number", "many"]),
        (["--model.optimizer.name", "SGD"], ["model.optimizer.name", "Adam", "AdamW", "SGD"]),
        (["--gpus", "first"], ["--gpus first", "0,1", "cpu"]),
        (["--gpus"], ["--gpus needs a value"]),
        (["--resume", "c.yaml"], ["--resume c.yaml", "configuration file comes first"]),
        (["--max-epochs", "1", "c.yaml"], ["c.yaml: the configuration file comes first: python train.py c."]),
        (["--profile-loss", "c.yaml"], ["c.yaml: the configuration file comes first: python train.py c."]),
        (["absent.yaml"], ["absent.yaml", "cannot be read"]),
        (["--model.depth_net.name", "PackNet01"], ["PackNet01", "ResNetSAN01"]),
        (["--trainer.max_epochs"], ["trainer.max_epochs", "expected one argument"]),
    ],
)
def test_errors_of_the_command_line(argv, texts):
    with pytest.raises(ConfigError) as error:
        effective(*argv)
    for text in texts:
        assert text in str(error.value)


def test_loss_keys_that_contradict(tmp_path):
    model = {"params": {"lambda_sg": 0.1}, "loss": {"lambda_sg": 0.2}}
    with pytest.raises(ConfigError, match="lambda_sg: given under model.params and under model.loss"):
        effective(write(tmp_path / "c.yaml", {"model": model}))


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (
            ["--model.loss.lamda_sg=0.3"],
            ["'model.loss.lamda_sg'", "'model.loss.lambda_sg'", "'sparse-scale-adaptive'"],
        ),
        (["--supervised-method=scale-adaptiv"], ["model.loss", "scale-adaptiv", "silog"]),
        (["--model.loss.supervised_loss_weight=0.5"], ["model.loss", "supervised_loss_weight", "1.0"]),
        (["--model.loss.gradient.msk=support"], ["model.loss", "msk"]),
        (["--datasets.train.lenght=3"], ["datasets.train", "lenght", "length"]),
        (["--datasets.train.dataset=kitty"], ["datasets.train", "kitty"]),
        (["--datasets.train.dataset=null"], ["datasets.train.dataset", "synthetic"]),
        (["--datasets.validation.dataset=rgbd-folder"], ["datasets.validation", "path"]),
        (["--checkpoint.monitor=absrel"], ["checkpoint.monitor", "absrel", "abs_rel"]),
        (["--max-epochs=0"], ["trainer.max_epochs", "0"]),
        (["--checkpoint.every_n_epochs=0"], ["checkpoint.every_n_epochs", "0"]),
        (["--tensorboard.log_frequency=0"], ["tensorboard.log_frequency", "0"]),
        (["--trainer.strategy=fsdp"], ["trainer.strategy", "ddp"]),
        (["--name=a/b"], ["name", "a/b"]),
        (["--seed=-1"], ["seed", "-1"]),
        (["--resume"], ["--resume last", "there are: none"]),
        (["--resume=other.ckpt"], ["--resume other.ckpt", "there are: none"]),
    ],
)
def test_errors_before_the_training(train, arguments, texts):
    with pytest.raises(ConfigError) as error:
        train(*arguments)
    for text in texts:
        assert text in str(error.value)
    assert not Path("runs").exists()


def test_main_ends_with_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(["--trainer.max_epoch", "3"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("train.py: error: command line: unknown key") and error.count("\n") == 1


# ---- a run


@pytest.mark.parametrize("pictures", [True])
def test_the_run_directory(train, capsys, recwarn):
    run = train("--model.depth_net.width=3", "--datasets.test.dataset=synthetic", "--datasets.test.length=2")
    assert run.directory == Path("runs/run")
    files = {str(p.relative_to(run.directory)) for p in run.directory.rglob("*") if p.is_file()}
    events = {f for f in files if "tfevents" in f}
    assert events
    assert files - events == {
        "config.yaml",
        "metrics.csv",
        "curves.png",
        "predictions.png",
        "tensorboard/hparams.yaml",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
    }
    header = (run.directory / "metrics.csv").read_text().splitlines()[0].split(",")
    for name in (
        "train/loss_step",
        "train/loss_epoch",
        "val/abs_rel",
        "val/nonfinite",
        "lr/Depth",
        "test/abs_rel",
    ):
        assert name in header
    assert effective(str(run.directory / "config.yaml"))["model.depth_net.width"] == 3
    printed = capsys.readouterr().out
    assert "Depth" in printed
    assert (
        "run, test: per image, then the mean over 2 images with valid pixels (0 without)\nprotocol: "
        in printed
    )
    assert f"\nabs_rel                {number(run.trainer.callback_metrics['test/abs_rel'])}" in printed
    assert [str(w.message) for w in recwarn if "lightning" in str(w.filename)] == []


def test_a_checkpoint_holds_plain_types(train):
    run = train("--supervised-method=sparse-adaptive-multi-domain")
    state = torch.load(run.directory / "checkpoints/last.ckpt", weights_only=True)
    assert state["config"] == yaml.safe_load((run.directory / "config.yaml").read_text())
    assert (state["epoch"], state["global_step"]) == (1, 6)
    assert {"model.supervised_loss.loss_func.log_var_structure", "model.depth_net.head.1.weight"} <= set(
        state["state_dict"]
    )
    assert [g["name"] for g in state["optimizer_states"][0]["param_groups"]] == ["Depth", "Loss"]
    assert len(state["lr_schedulers"]) == 1


def test_a_second_run_of_the_same_name_is_refused(train):
    run = train("--max-epochs=1")
    before = {p: p.read_bytes() for p in run.directory.rglob("*") if p.is_file()}
    with pytest.raises(
        ConfigError, match="runs/run already holds a run, with checkpoints in .*--resume.*--name"
    ):
        train("--seed=2")
    other = train("--name=other", "--max-epochs=1")
    with pytest.raises(ConfigError, match="runs/run already holds a run"):
        train(f"--resume={other.directory}/checkpoints/last.ckpt", "--max-epochs=2")
    assert before == {p: p.read_bytes() for p in run.directory.rglob("*") if p.is_file()}


def test_best_and_last(train):
    run = train("--checkpoint.save_top_k=2", "--max-epochs=3", "--checkpoint.monitor=mae")
    directory = run.directory / "checkpoints"
    names = sorted(p.name for p in directory.glob("*.ckpt"))
    assert len(names) == 4 and names[2:] == ["last.ckpt", "previous.ckpt"]
    assert names[0].startswith("epoch00") and "mae" in names[0]
    scores = {name: float(name.removesuffix(".ckpt").partition("mae")[2]) for name in names[:2]}
    assert find_checkpoint("best", directory).name == min(scores, key=scores.get)
    assert torch.load(directory / "last.ckpt", weights_only=True)["epoch"] == 2
    with pytest.raises(ConfigError, match="3 of 3 epochs are done; give more by --max-epochs"):
        train("--resume", "--max-epochs=3")


@pytest.mark.parametrize("pictures", [True])
def test_without_validation(train, caplog):
    caplog.set_level(logging.INFO, "depthloss")
    run = train("--datasets.validation.dataset=null", "--max-epochs=1")
    assert [p.name for p in (run.directory / "checkpoints").iterdir()] == ["last.ckpt"]
    assert (run.directory / "curves.png").exists() and not (run.directory / "predictions.png").exists()
    assert caplog.messages[-1].startswith("runs/run: curves.png, metrics.csv; checkpoints in ")


def test_an_epoch_that_was_cut_short_leaves_no_checkpoint(train, caplog, with_callback):
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = (trainer.current_epoch, batch_idx) == (1, 0)

    with_callback(Stop())
    with caplog.at_level(logging.WARNING, "depthloss"):
        run = train()
    assert run.trainer.global_step == 4
    assert torch.load(run.directory / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert "epoch 2 was cut short: no checkpoint of it is kept" in caplog.messages


def test_checkpoints_every_few_epochs_and_at_the_end(train, monkeypatch):
    saved = []
    save = L.Trainer.save_checkpoint
    monkeypatch.setattr(
        L.Trainer,
        "save_checkpoint",
        lambda self, path, *a, **k: (
            saved.append((Path(path).name, self.current_epoch)),
            save(self, path, *a, **k),
        ),
    )
    train("--max-epochs=5", "--checkpoint.every_n_epochs=2", "--trainer.check_val_every_n_epoch=4")
    assert saved == [("last.ckpt", 1), ("best.ckpt", 3), ("last.ckpt", 3), ("last.ckpt", 4)]


def test_profile_loss(train, caplog):
    with caplog.at_level(logging.INFO, "depthloss"):
        run = train("--profile-loss", "--max-epochs=1")
    values = run.trainer.callback_metrics
    assert 0 < values["time/loss_ms_epoch"] < values["time/step_ms_epoch"]
    assert 0 < values["time/loss_percent_epoch"] < 100
    assert [m for m in caplog.messages if m.startswith("loss: ") and "forward" in m and "backward" in m]


def test_check_data_names_every_fault(train, monkeypatch):
    monkeypatch.setattr(SyntheticDataset, "check", lambda self: [f"{len(self)} frames are bad"])
    summaries = []
    monkeypatch.setattr(DepthData, "log_summaries", lambda self: summaries.append(list(self.datasets)))
    with pytest.raises(DataError) as error:
        train("--check-data")
    assert summaries == [["train", "validation"]]
    assert str(error.value) == "datasets.train: 6 frames are bad\ndatasets.validation: 3 frames are bad"
    assert not Path("runs").exists()


def test_networks_are_real():
    assert set(config.NETWORKS) == {"ResNetSAN01"}
