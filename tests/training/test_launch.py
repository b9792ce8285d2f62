"""Where a run finds itself: on a cluster, under torchrun, without a GPU or package that was asked for."""

import logging
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.loggers.logger import DummyLogger

from depthloss.training import cli
from depthloss.training.configuration.parser import parse
from depthloss.training.errors import ConfigError
from depthloss.training.loop import trainer
from depthloss.training.loop.trainer import _processes, check_trainer

from .test_resume import load

SLURM = {"NTASKS": "1", "JOB_ID": "1234", "JOB_NAME": "train", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": 0, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "WORLD_SIZE": 4}


def test_slurm_does_not_requeue_by_itself_but_the_same_command_goes_on(
    train, monkeypatch, caplog, with_callback
):
    for name, value in SLURM.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with caplog.at_level(logging.INFO, "depthloss"):
        first = train("--max-epochs=1", "--resume=auto")
    environment = first.trainer._accelerator_connector.cluster_environment
    assert isinstance(environment, SLURMEnvironment) and environment.auto_requeue is False
    line = "SLURM: with --resume auto, the same command starts a run and, requeued, resumes it"
    assert line in caplog.messages
    assert load(train("--max-epochs=2", "--resume=auto"))["epoch"] == 1


def test_a_run_that_is_started_twice_is_told_how_to_resume(train):
    train("--max-epochs=1")
    with pytest.raises(ConfigError, match="already holds a run.* resume it by --resume"):
        train("--max-epochs=1")


def test_auto_without_a_file_is_the_quick_start(tiny_yaml, monkeypatch):
    monkeypatch.setattr(cli, "_train", lambda cfg, text, resume: (cfg.name, resume))
    assert cli.run(["--resume", "auto"]) == ("synthetic", None)


def test_torchrun_has_made_the_processes(monkeypatch):
    cfg, _ = parse(None, [])
    assert _processes(cfg.trainer) == {}
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, str(value))
    assert _processes(cfg.trainer) == {"devices": 2, "num_nodes": 2}
    cfg, _ = parse(None, ["--trainer.devices=1", "--trainer.num_nodes=4"])
    assert _processes(cfg.trainer) == {}


def test_a_gpu_that_is_not_there_comes_before_the_data(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    cfg, _ = parse(None, ["--trainer.accelerator=gpu", "--trainer.devices=[0]"])
    with pytest.raises(
        ConfigError, match="--gpus: GPU 0 is not there: .* Use --gpus cpu to train without one"
    ):
        check_trainer(cfg)


def test_a_gpu_that_is_not_there(train, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"GPU 2 is not there: .* sees 1 here.*--gpus cpu"):
        train("--gpus", "0,2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="--gpus cpu"):
        train("--trainer.accelerator=gpu")


def test_weights_and_biases(train, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"wandb.project: 'p' needs .* pip install 'depthloss\[wandb\]'"):
        train("--wandb.project=p")
    made, logged = [], {}

    class Wandb(DummyLogger):
        def __init__(self, **kwargs):
            super().__init__()
            made.append(kwargs)

        def log_metrics(self, metrics, step=None):
            logged.update(metrics)

        def log_hyperparams(self, tree):
            logged.update(name=tree["name"])

    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(trainer, "WandbLogger", Wandb)
    train("--wandb.project=p", "--max-epochs=1")
    assert made == [{"name": "run", "save_dir": Path("runs/run"), "project": "p"}]
    assert logged["name"] == "run" and {"train/loss_epoch", "val/abs_rel"} <= logged.keys()
