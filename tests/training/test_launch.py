"""Where a run finds itself: on a cluster, under torchrun, without the GPU that was asked for."""

import logging

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment

from depthloss.training import cli
from depthloss.training.config import ConfigError
from depthloss.training.parser import parse
from depthloss.training.trainer import _processes, check_trainer

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
    line = "SLURM: with --resume auto, the same command starts a run and, requeued, goes on with it"
    assert line in caplog.messages
    assert load(train("--max-epochs=2", "--resume=auto"))["epoch"] == 1


def test_a_run_that_is_started_twice_is_told_how_to_go_on(train):
    train("--max-epochs=1")
    with pytest.raises(ConfigError, match="already holds a run.* go on with it by --resume"):
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
