"""Building Lightning's trainer for a configuration and this machine."""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.accelerators import MPSAccelerator
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from depthloss.metrics import METRICS
from depthloss.training.checkpoints.saving import WholeCheckpointIO, checkpoint_callbacks
from depthloss.training.configuration.loaders import DepthData
from depthloss.training.configuration.sections import options
from depthloss.training.errors import ConfigError, counted, did_you_mean
from depthloss.training.loop.callbacks import (
    Averaging,
    LossProfiler,
    Pictures,
    RunProgress,
)
from depthloss.training.loop.history import MetricsCSV, rows_before
from depthloss.training.loop.support import GradientSupport
from depthloss.training.models import SemiSupCompletionModel

log = logging.getLogger("depthloss.training")

FIND_UNUSED = "_find_unused_parameters_true"


def check_trainer(cfg: Namespace) -> None:
    """Check what the training needs of the machine and of Lightning, before anything is built.

    Raises:
        ConfigError: something is missing, or two settings conflict; the text says what to change.
    """
    trainer = cfg.trainer
    if trainer.max_epochs is None or trainer.max_epochs < 1:
        raise ConfigError(
            f"trainer.max_epochs must be >= 1, got {trainer.max_epochs}: the losses' schedules need an end"
        )
    if isinstance(trainer.strategy, str) and trainer.strategy.startswith(("fsdp", "deepspeed")):
        raise ConfigError(
            f"trainer.strategy: {trainer.strategy} shards the gradients that are checked here; use ddp"
        )
    monitor = cfg.checkpoint.monitor
    if "/" not in monitor and monitor not in METRICS:
        raise ConfigError(f"checkpoint.monitor: no metric {monitor!r}{did_you_mean(monitor, METRICS)}")
    if cfg.wandb.project is not None and importlib.util.find_spec("wandb") is None:
        raise ConfigError(
            f"wandb.project: {cfg.wandb.project!r} needs the package wandb: pip install 'depthloss[wandb]', "
            "or set it to null"
        )
    _check_devices(trainer)
    precision = str(trainer.precision)
    if precision in ("16", "16-mixed") and _on_cpu(trainer):
        raise ConfigError(
            f"trainer.precision: {precision} needs a GPU, and this run is on the CPU: use bf16-mixed there, "
            "or 32-true"
        )
    if cfg.ema.decay is not None and precision in ("16-true", "bf16-true", "transformer-engine-float16"):
        raise ConfigError(
            f"ema.decay: with trainer.precision {precision} the average is held in so few bits that small "
            "updates are lost; use 16-mixed or bf16-mixed"
        )


def _on_cpu(trainer: Namespace) -> bool:
    gpu = torch.cuda.is_available() or MPSAccelerator.is_available()
    return trainer.accelerator == "cpu" or (trainer.accelerator == "auto" and not gpu)


def _check_devices(trainer: Namespace) -> None:
    if trainer.accelerator not in ("gpu", "cuda"):
        return
    there, wanted = torch.cuda.device_count(), trainer.devices
    missing = [i for i in wanted if i >= there] if isinstance(wanted, list) else ["any"] if not there else []
    if missing:
        raise ConfigError(
            f"--gpus: GPU {', '.join(map(str, missing))} is not there: torch {torch.__version__} sees "
            f"{there} here. Use --gpus cpu to train without one"
        )


def monitor_mode(monitor: str, mode: str | None = None) -> str:
    """Return whether less ("min") or more ("max") of a metric is better; `mode` if that is given."""
    metric = METRICS.get(monitor.rpartition("/")[2])
    return mode or ("max" if metric and metric.more else "min")


def validates(cfg: Namespace, data: DepthData) -> bool:
    """Return whether the run measures anything between its epochs."""
    return "validation" in data.datasets and cfg.trainer.limit_val_batches not in (0, 0.0)


def build_trainer(
    cfg: Namespace,
    tree: dict[str, Any],
    model: SemiSupCompletionModel,
    data: DepthData,
    run_dir: Path,
    checkpoint_dir: Path,
    events: Path,
    resume_step: int | None,
) -> L.Trainer:
    """Build the trainer with its loggers, callbacks and plugins.

    Args:
        cfg: the configuration.
        tree: the same as plain types.
        model: what will be trained.
        data: its data.
        run_dir: where metrics.csv and the pictures go.
        checkpoint_dir: where the checkpoints go.
        events: where TensorBoard's files go.
        resume_step: step that the run is resumed from; None if it is new.

    Raises:
        ConfigError: Lightning refuses a setting.
    """
    metrics_csv = run_dir / "metrics.csv"
    goes_on = rank_zero_only.rank == 0 and resume_step is not None
    csv_logger = MetricsCSV(metrics_csv, rows_before(metrics_csv, resume_step) if goes_on else ())
    tensorboard = TensorBoardLogger(
        events, name="", version="", default_hp_metric=False, purge_step=resume_step
    )
    loggers = [csv_logger, tensorboard]
    if cfg.wandb.project is not None:
        loggers.append(WandbLogger(name=cfg.name, save_dir=run_dir, project=cfg.wandb.project))
    for logger in loggers[1:]:
        logger.log_hyperparams(tree)

    settings = {
        **cfg.trainer.as_dict(),
        **_processes(cfg.trainer),
        "plugins": _plugins(cfg.trainer.plugins),
        "default_root_dir": run_dir,
        "log_every_n_steps": cfg.tensorboard.log_frequency,
        "logger": loggers,
        "callbacks": _callbacks(cfg, data, run_dir, checkpoint_dir),
        "use_distributed_sampler": False,
    }
    if "validation" not in data.datasets:
        settings["limit_val_batches"] = 0
    try:
        trainer = L.Trainer(**settings)
        strategy = cfg.trainer.strategy
        if not isinstance(trainer.strategy, DDPStrategy) or "find_unused" in str(strategy):
            return trainer
        if isinstance(strategy, str) and (idle := _without_gradient(model, data)):
            settings["strategy"] = strategy.replace("auto", "ddp") + FIND_UNUSED
            log.info(
                "trainer.strategy: %s, as %s no gradient in this run, such as %s",
                settings["strategy"],
                counted(len(idle), "parameter") + (" gets" if len(idle) == 1 else " get"),
                idle[0],
            )
            trainer = L.Trainer(**settings)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {error}") from error
    return trainer


def _without_gradient(model: SemiSupCompletionModel, data: DepthData) -> list[str]:
    net = model.depth_net
    if not hasattr(net, "parameters_without_gradient"):
        return []
    learns = {name for name, p in net.named_parameters() if p.requires_grad}
    scales = model.supervised_loss.supervised_num_scales
    names = net.parameters_without_gradient(scales, input_depth=data.datasets["train"].gives_input)
    return [name for name in names if name in learns]


def _processes(trainer: Namespace) -> dict[str, int]:
    # torchrun has started the processes; Lightning must be told how many.
    if not TorchElasticEnvironment.detect():
        return {}
    here, world = (int(os.environ[key]) for key in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    found = {"devices": here} if trainer.devices == "auto" else {}
    return found | ({"num_nodes": world // here} if trainer.num_nodes == 1 else {})


def _plugins(given: Any) -> list[Any]:
    plugins = [*given] if isinstance(given, (list, tuple)) else [given] if given else []
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeCheckpointIO())
    if (
        not any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
        and SLURMEnvironment.detect()
        and not TorchElasticEnvironment.detect()
    ):
        plugins.append(SLURMEnvironment(auto_requeue=False))
        log.info("SLURM: with --resume auto, the same command starts a run and, requeued, resumes it")
    return plugins


def _callbacks(cfg: Namespace, data: DepthData, run_dir: Path, checkpoint_dir: Path) -> list[L.Callback]:
    keep = options(cfg.checkpoint, "dirpath")
    if "/" not in keep["monitor"]:
        keep["monitor"] = f"val/{keep['monitor']}"
    keep["mode"] = monitor_mode(keep["monitor"], keep["mode"])
    if not validates(cfg, data) and keep["monitor"].startswith("val/"):
        log.info("no validation: only the last checkpoint is kept")
        keep["save_top_k"] = 0
    return [
        *([] if cfg.trainer.enable_progress_bar is False else [RunProgress()]),
        *([] if cfg.ema.decay is None else [Averaging(cfg.ema)]),
        Pictures(run_dir, title=cfg.name),
        GradientSupport(),
        *([LossProfiler()] if cfg.profile_loss else []),
        *checkpoint_callbacks(checkpoint_dir, **keep),
    ]
