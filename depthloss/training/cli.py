"""The command `train.py`: reads the configuration, builds everything from it, and runs."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from depthloss.training.build import build_model, check_input
from depthloss.training.callbacks import LossProfiler, Pictures, WholeCheckpointIO, checkpoint_callbacks
from depthloss.training.config import LAST, ConfigError, options
from depthloss.training.data import DataError
from depthloss.training.loaders import DepthData
from depthloss.training.metrics import METRICS
from depthloss.training.module import DepthModule, TrainingDiverged
from depthloss.training.parser import nearest, parse, split_arguments
from depthloss.training.report import whole_file
from depthloss.training.resume import (
    check_fits,
    check_resume,
    find_checkpoint,
    how_to_go_on,
    parse_from_checkpoint,
    read_checkpoint,
    refuse_other_run,
    rows_before,
)

log = logging.getLogger("depthloss.training")

# Of Lightning and torch: true, but nothing that a user of this script can or need act on.
QUIET = (
    ".*does not have many workers.*",
    ".*exists and is not empty.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*GPU available but not used.*",
    ".*your dataloader is not resumable.*",  # DepthData makes it so
    ".*It is recommended to use .self.log.*sync_dist.*",  # the metrics join the ranks themselves
)


class Stopped(RuntimeError):
    """A signal stopped the run; the text says whether and how it can go on."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclasses.dataclass
class Run:
    """A finished run.

    Attributes:
        directory: holds config.yaml, metrics.csv, checkpoints and pictures.
        trainer: Lightning's trainer.
        module: the trained module.
    """

    directory: Path
    trainer: L.Trainer
    module: DepthModule


def main(argv: list[str] | None = None) -> None:
    """Run the command; errors of the user's making end it with one line and exit status 2, others with 1."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("depthloss").setLevel(logging.INFO)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        run(sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        sys.exit(_complain(error, 2))
    except DataError as error:
        # From a process of a DataLoader, the text of the error is its traceback.
        sys.exit(_complain(str(error).rpartition("DataError: ")[2].strip(), 2))
    except TrainingDiverged as error:
        sys.exit(_complain(error, 1))
    except Stopped as error:
        sys.exit(_complain(error, error.status))
    except KeyboardInterrupt:
        sys.exit(_complain("stopped by Ctrl-C outside of the training", 130))


def run(argv: list[str]) -> Run:
    """Train as the command line says.

    Args:
        argv: the command line without the program's name.

    Returns:
        The finished run.

    Raises:
        ConfigError: the configuration cannot be run.
        DataError: a file of a data set is missing or faulty.
        TrainingDiverged: too many steps in a row were not finite.
        Stopped: Ctrl-C or SIGTERM during the training or the test.
        SystemExit: after `--help` and `--print_config`.
    """
    config_file, arguments, resume = split_arguments(argv)
    if resume and config_file is None and not {"-h", "--help"} & set(arguments):
        cfg, text = parse_from_checkpoint(resume, arguments)
    else:
        cfg, text = parse(config_file, arguments)
    with warnings.catch_warnings():
        for message in QUIET:
            warnings.filterwarnings("ignore", message=message)
        return _train(cfg, text, resume)


def _train(cfg: Namespace, text: str, resume: str | None) -> Run:
    _check(cfg)
    run_dir = Path(cfg.trainer.default_root_dir) / cfg.name
    checkpoint_dir = Path(cfg.checkpoint.dirpath or run_dir / "checkpoints")
    checkpoint = find_checkpoint(resume, checkpoint_dir) if resume else None
    if rank_zero_only.rank == 0:
        refuse_other_run(cfg.name, run_dir, checkpoint_dir, checkpoint)
    tree = yaml.safe_load(text)
    state = read_checkpoint(checkpoint) if checkpoint else None
    step = check_resume(checkpoint, state, tree, cfg.trainer.max_epochs) if checkpoint else None

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    params = cfg.model.params
    module = DepthModule(
        build_model(cfg),
        cfg.model.optimizer,
        cfg.model.scheduler,
        params.min_depth,
        params.max_depth,
        cfg.seed,
        tree,
    )
    if checkpoint:
        check_fits(checkpoint, state, module, module.parameter_groups())
    del state  # Lightning reads it once more
    sections = {split: getattr(cfg.datasets, split) for split in ("train", "validation", "test")}
    data = DepthData(
        sections,
        cfg.datasets.image_shape,
        params.min_depth,
        params.max_depth,
        cfg.datasets.augmentation,
        cfg.seed,
    )
    check_input(cfg, data)
    interval = cfg.trainer.check_val_every_n_epoch
    if _validates(cfg, data) and interval and interval > cfg.trainer.max_epochs:
        raise ConfigError(
            f"trainer.check_val_every_n_epoch: {interval} is more than trainer.max_epochs "
            f"({cfg.trainer.max_epochs}): nothing would ever be validated; use datasets.validation.dataset "
            "null if that is meant"
        )
    if cfg.check_data:
        data.check()

    events = Path(cfg.tensorboard.log_dir) / cfg.name if cfg.tensorboard.log_dir else run_dir / "tensorboard"
    if rank_zero_only.rank == 0:
        if checkpoint is None and (run_dir / "config.yaml").exists():
            log.info("%s: starting over, the run in it has no checkpoint", run_dir)
            for file in (run_dir / "metrics.csv", *events.glob("events.out.tfevents.*")):
                file.unlink(missing_ok=True)
        with whole_file(run_dir / "config.yaml") as file:
            file.write_text(text, encoding="utf-8")
    trainer = _build_trainer(cfg, tree, data, run_dir, checkpoint_dir, events, step)
    with _stoppable(trainer, lambda: how_to_go_on(checkpoint_dir)):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
    if "test" in data.datasets:
        best = _to_test(trainer, checkpoint_dir)
        if best is None:
            log.warning("no test: there is no checkpoint, as no epoch was finished")
        else:
            log.info("test: %s", best)
            with _stoppable(trainer, lambda: f"the training is done, only the test of {best} is not"):
                trainer.test(module, datamodule=data, ckpt_path=best, weights_only=True)
    if trainer.is_global_zero:
        log.info("%s", _summary(run_dir, checkpoint_dir, trainer))
    return Run(run_dir, trainer, module)


@contextlib.contextmanager
def _stoppable(trainer: L.Trainer, advice: Callable[[], str]) -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException as error:
        raise Stopped(f"stopped by SIGTERM in epoch {trainer.current_epoch}; {advice()}", 143) from error
    except SystemExit as error:
        # Lightning turns Ctrl-C into this, and leaves further ones ignored.
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise Stopped(f"stopped by Ctrl-C in epoch {trainer.current_epoch}; {advice()}", 130) from error


def _to_test(trainer: L.Trainer, checkpoint_dir: Path) -> Path | None:
    best = [Path(c.best_model_path) for c in trainer.checkpoint_callbacks if c.monitor and c.best_model_path]
    return next((p for p in (*best, checkpoint_dir / f"{LAST}.ckpt") if p.is_file()), None)


def _check(cfg: Namespace) -> None:
    trainer = cfg.trainer
    if trainer.max_epochs is None or trainer.max_epochs < 1:
        raise ConfigError(
            f"trainer.max_epochs must be >= 1, got {trainer.max_epochs}: the losses' schedules need an end"
        )
    if isinstance(trainer.strategy, str) and trainer.strategy.startswith(("fsdp", "deepspeed")):
        raise ConfigError(
            f"trainer.strategy: {trainer.strategy} shards the gradients that are checked here; use ddp"
        )
    for key, value in (
        ("checkpoint.every_n_epochs", cfg.checkpoint.every_n_epochs),
        ("tensorboard.log_frequency", cfg.tensorboard.log_frequency),
    ):
        if value < 1:
            raise ConfigError(f"{key} must be >= 1, got {value}")
    monitor = cfg.checkpoint.monitor
    if "/" not in monitor and monitor not in METRICS:
        raise ConfigError(
            f"checkpoint.monitor: no metric {monitor!r}; the nearest is {nearest(monitor, METRICS)!r}"
        )
    if trainer.accelerator in ("gpu", "cuda"):
        there, wanted = torch.cuda.device_count(), trainer.devices
        missing = (
            [i for i in wanted if i >= there] if isinstance(wanted, list) else ["any"] if not there else []
        )
        if missing:
            raise ConfigError(
                f"--gpus: GPU {', '.join(map(str, missing))} is not there: torch {torch.__version__} sees "
                f"{there} here. Use --gpus cpu to train without one"
            )


def _build_trainer(
    cfg: Namespace,
    tree: dict[str, Any],
    data: DepthData,
    run_dir: Path,
    checkpoint_dir: Path,
    events: Path,
    resume_step: int | None,
) -> L.Trainer:
    csv_logger = CSVLogger(run_dir, name="", version="", flush_logs_every_n_steps=1)
    if rank_zero_only.rank == 0 and resume_step is not None:
        # CSVLogger begins by deleting the file.
        history = rows_before(run_dir / "metrics.csv", resume_step)
        csv_logger.experiment.metrics.extend(history)
        csv_logger.save()
    tensorboard = TensorBoardLogger(
        events, name="", version="", default_hp_metric=False, purge_step=resume_step
    )
    tensorboard.log_hyperparams(tree)

    keep = options(cfg.checkpoint, "dirpath")
    if "/" not in keep["monitor"]:
        keep["monitor"] = f"val/{keep['monitor']}"
    if not _validates(cfg, data) and keep["monitor"].startswith("val/"):
        log.info("no validation: only the last checkpoint is kept")
        keep["save_top_k"] = 0
    # A log file gets a new line for every refresh.
    bar = TQDMProgressBar(refresh_rate=1 if sys.stdout.isatty() else 50)
    callbacks = [
        *([] if cfg.trainer.enable_progress_bar is False else [bar]),
        Pictures(run_dir, title=cfg.name),
        *([LossProfiler()] if cfg.profile_loss else []),
        *checkpoint_callbacks(checkpoint_dir, **keep),
    ]
    plugins = cfg.trainer.plugins or []
    plugins = [*plugins] if isinstance(plugins, (list, tuple)) else [plugins]
    if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
        plugins.append(WholeCheckpointIO())
    settings = {
        **cfg.trainer.as_dict(),
        "plugins": plugins,
        "default_root_dir": run_dir,
        "log_every_n_steps": cfg.tensorboard.log_frequency,
    }
    if "validation" not in data.datasets:
        settings["limit_val_batches"] = 0
    settings |= {
        "logger": [csv_logger, tensorboard],
        "callbacks": callbacks,
        "use_distributed_sampler": False,
    }
    try:
        return L.Trainer(**settings)
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise ConfigError(f"trainer: {error}") from error


def _validates(cfg: Namespace, data: DepthData) -> bool:
    return "validation" in data.datasets and cfg.trainer.limit_val_batches not in (0, 0.0)


def _summary(run_dir: Path, checkpoint_dir: Path, trainer: L.Trainer) -> str:
    values = {
        k: float(v) for k, v in trainer.callback_metrics.items() if k in ("val/abs_rel", "test/abs_rel")
    }
    metrics = ", ".join(f"{k} {v:.4f}" for k, v in values.items())
    pictures = "curves.png, predictions.png, metrics.csv"
    return f"{run_dir}: {metrics and metrics + '; '}{pictures}; checkpoints in {checkpoint_dir}"


def _complain(message: object, status: int) -> int:
    print(f"train.py: error: {message}", file=sys.stderr)
    return status
