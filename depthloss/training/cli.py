"""The command `train.py`: reads the configuration, builds everything from it, and runs."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from depthloss.training.checkpoints.finetune import init_from
from depthloss.training.checkpoints.lock import locked
from depthloss.training.checkpoints.resume import (
    check_fits,
    check_resume,
    how_to_resume,
    parse_from_checkpoint,
    refuse_other_run,
)
from depthloss.training.checkpoints.saving import CheckpointError, remove_unfinished
from depthloss.training.checkpoints.stored import find_checkpoint, read_checkpoint, set_aside_damaged
from depthloss.training.command import complain, start_log
from depthloss.training.configuration.build import build_model, check_input, check_last_batch
from depthloss.training.configuration.flags import split_arguments
from depthloss.training.configuration.loaders import DepthData
from depthloss.training.configuration.parser import parse
from depthloss.training.configuration.sections import LAST
from depthloss.training.data import DataError
from depthloss.training.errors import ConfigError
from depthloss.training.evaluation.protocol import Protocol
from depthloss.training.evaluation.result import Evaluation
from depthloss.training.evaluation.tables import summary_table
from depthloss.training.files import NO_ROOM, chain, check_folder, reason, whole_file
from depthloss.training.loop.guard import TrainingDiverged
from depthloss.training.loop.module import DepthModule
from depthloss.training.loop.trainer import (
    FIND_UNUSED,
    build_trainer,
    check_trainer,
    validates,
)
from depthloss.training.models import NetworkError

log = logging.getLogger("depthloss.training")

_complain = functools.partial(complain, "train.py")

# Warnings of Lightning and torch that are true, but that a user of this script need not act on.
QUIET = (
    ".*does not have many workers.*",
    ".*exists and is not empty.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*GPU available but not used.*",
    ".*your dataloader is not resumable.*",  # DepthData makes it so
    ".*It is recommended to use .self.log.*sync_dist.*",  # the metrics join the ranks themselves
    ".*Detected call of .lr_scheduler.step.*",  # a first step that was skipped
)


class Stopped(RuntimeError):
    """A signal or a full disk stopped the run; the text says whether and how it can be resumed."""

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
    """Run the command; an error of the user ends it with one line and exit status 2, another with 1."""
    level = logging.INFO if rank_zero_only.rank == 0 else logging.WARNING
    argv = start_log(sys.argv[1:] if argv is None else argv, level)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        run(argv)
    except (ConfigError, NetworkError) as error:
        sys.exit(_complain(error, 2))
    except DataError as error:
        # From a process of a DataLoader, the text of the error is its traceback.
        sys.exit(_complain(str(error).rpartition("DataError: ")[2].strip(), 2))
    except TrainingDiverged as error:
        sys.exit(_complain(error, 1))
    except Stopped as error:
        sys.exit(_complain(error, error.status))
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        sys.exit(_complain(_no_room(error, Path()), 1))
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
        Stopped: Ctrl-C, SIGTERM or a full disk during the training or the test.
        SystemExit: after `--help` and `--print_config`.
    """
    config_file, arguments, resume = split_arguments(argv)
    if resume and config_file is None and not {"-h", "--help"} & set(arguments):
        cfg, text, resume = parse_from_checkpoint(resume, arguments)
    else:
        cfg, text = parse(config_file, arguments)
    if config_file is None and not isinstance(resume, Path):
        log.info("%s", _without_file(cfg))
    with warnings.catch_warnings():
        for message in QUIET:
            warnings.filterwarnings("ignore", message=message)
        return _train(cfg, text, resume)


def _without_file(cfg: Namespace) -> str:
    if cfg.datasets.train.dataset == "synthetic":
        what = "the quick start trains a small network on rendered rooms and streets"
    else:
        what = "default settings for data of your own"
    return f"no configuration file: {what}; see --help"


def _train(cfg: Namespace, text: str, resume: str | Path | None) -> Run:
    check_trainer(cfg)
    run_dir = Path(cfg.trainer.default_root_dir) / cfg.name
    checkpoint_dir = Path(cfg.checkpoint.dirpath or run_dir / "checkpoints")
    events = Path(cfg.tensorboard.log_dir) / cfg.name if cfg.tensorboard.log_dir else run_dir / "tensorboard"
    if rank_zero_only.rank:
        return _train_in(run_dir, checkpoint_dir, events, cfg, text, resume)
    for key, folder in (
        ("trainer.default_root_dir", run_dir),
        ("checkpoint.dirpath", checkpoint_dir),
        ("tensorboard.log_dir", events),
    ):
        check_folder(key, folder)
    with locked({"--name": run_dir, "--checkpoint.dirpath": checkpoint_dir}):
        return _train_in(run_dir, checkpoint_dir, events, cfg, text, resume)


def _train_in(
    run_dir: Path, checkpoint_dir: Path, events: Path, cfg: Namespace, text: str, resume: str | Path | None
) -> Run:
    checkpoint = find_checkpoint(resume, checkpoint_dir) if resume else None
    if rank_zero_only.rank == 0:
        refuse_other_run(cfg.name, run_dir, checkpoint_dir, checkpoint)
        remove_unfinished(checkpoint_dir)
    tree = yaml.safe_load(text)
    state = read_checkpoint(checkpoint) if checkpoint else None
    step = check_resume(checkpoint, state, tree, cfg.trainer.max_epochs) if checkpoint else None

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    params = cfg.model.params
    module = DepthModule(
        build_model(cfg, pretrained=checkpoint is None),
        cfg.model.optimizer,
        cfg.model.scheduler,
        params.min_depth,
        params.max_depth,
        cfg.seed,
        tree,
        cfg.model.loss.process_group,
    )
    if checkpoint:
        check_fits(checkpoint, state, module, module.parameter_groups())
        if cfg.model.init_from:
            log.info("model.init_from: not read again, as the run resumes from its own checkpoint")
    elif cfg.model.init_from:
        log.info("%s", init_from(module.model.depth_net, cfg.model.init_from))
    del state  # Lightning reads it once more
    sections = {split: getattr(cfg.datasets, split) for split in ("train", "validation", "test")}
    data = DepthData(
        sections,
        cfg.datasets.image_shape,
        params.min_depth,
        params.max_depth,
        cfg.datasets.augmentation,
        cfg.seed,
        cfg.datasets.skip_bad_frames,
    )
    check_input(cfg, data)
    interval = cfg.trainer.check_val_every_n_epoch
    if validates(cfg, data) and interval and interval > cfg.trainer.max_epochs:
        raise ConfigError(
            f"trainer.check_val_every_n_epoch: {interval} is more than trainer.max_epochs "
            f"({cfg.trainer.max_epochs}): nothing would ever be validated; use datasets.validation.dataset "
            "null if that is meant"
        )
    data.log_summaries()
    if cfg.check_data:
        data.check()

    if rank_zero_only.rank == 0:
        if checkpoint is None and (run_dir / "config.yaml").exists():
            log.info("%s: starting over, the run in it has no checkpoint", run_dir)
            for file in (run_dir / "metrics.csv", *events.glob("events.out.tfevents.*")):
                file.unlink(missing_ok=True)
        with whole_file(run_dir / "config.yaml") as file:
            file.write_text(text, encoding="utf-8")
        if checkpoint:
            set_aside_damaged(checkpoint)
        log.info("%s", _plan(cfg, run_dir, checkpoint_dir, predicts=validates(cfg, data)))
    trainer = build_trainer(cfg, tree, module.model, data, run_dir, checkpoint_dir, events, step)
    check_last_batch(cfg, data, module.model, trainer.world_size)
    # After the last one, as while pictures are drawn, Lightning counts on.
    epoch = lambda: f"in epoch {min(trainer.current_epoch + 1, cfg.trainer.max_epochs)}"  # noqa: E731
    resume = lambda: how_to_resume(checkpoint_dir, cfg.model.depth_net.name)  # noqa: E731
    with _stoppable(run_dir, epoch, resume):
        try:
            trainer.fit(
                module, datamodule=data, ckpt_path=checkpoint, weights_only=True if checkpoint else None
            )
        except Exception as error:  # Lightning restores whatever a checkpoint holds, unchecked.
            if checkpoint is None or module.started or isinstance(error, (ConfigError, CheckpointError)):
                raise
            raise ConfigError(
                f"--resume {checkpoint}: it cannot be restored ({type(error).__name__}: {error}); "
                "resume from another one"
            ) from error
    if "test" in data.datasets:
        best = _to_test(trainer, checkpoint_dir)
        if best is None:
            log.warning("no test: there is no checkpoint, as no epoch was finished")
        else:
            log.info("test: %s", best)
            advice = f"the training is done, only the test of {best} is not"
            with _stoppable(run_dir, lambda: "in the test", lambda: advice):
                trainer.test(module, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
            if trainer.is_global_zero:
                print(_test_table(cfg, trainer), flush=True)
    if trainer.is_global_zero:
        log.info("%s", _summary(run_dir, checkpoint_dir, trainer))
    return Run(run_dir, trainer, module)


@contextlib.contextmanager
def _stoppable(run_dir: Path, where: Callable[[], str], advice: Callable[[], str]) -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SIGTERMException as error:
        raise Stopped(f"stopped by SIGTERM {where()}; {advice()}", 143) from error
    except SystemExit as error:
        # Lightning turns Ctrl-C into this, and then ignores further ones.
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise Stopped(f"stopped by Ctrl-C {where()}; {advice()}", 130) from error
    except Exception as error:
        # The loggers, which also write, may fail once more while Lightning handles the first failure.
        for cause in chain(error):
            if isinstance(cause, CheckpointError):
                raise Stopped(f"{cause}; {advice()}", 1) from error
            if isinstance(cause, OSError) and cause.errno in NO_ROOM:
                raise Stopped(f"{_no_room(cause, run_dir)}; {advice()}", 1) from error
            if "parameters that were not used in producing" in str(cause):
                raise ConfigError(
                    "trainer.strategy: some parameters get no gradient in a step, which DDP must know of; "
                    f"use ddp{FIND_UNUSED}"
                ) from error
        raise


def _no_room(error: OSError, directory: Path) -> str:
    where = error.filename or f"a file in {directory.resolve()}"
    return f"{where} could not be written: {reason(error, directory)}"


def _to_test(trainer: L.Trainer, checkpoint_dir: Path) -> Path | None:
    best = [Path(c.best_model_path) for c in trainer.checkpoint_callbacks if c.monitor and c.best_model_path]
    return next((p for p in (*best, checkpoint_dir / f"{LAST}.ckpt") if p.is_file()), None)


def _test_table(cfg: Namespace, trainer: L.Trainer) -> str:
    found = {key.removeprefix("test/"): float(value) for key, value in trainer.callback_metrics.items()}
    found |= {key: int(found[key]) for key in ("images", "empty", "nonfinite")}
    params = cfg.model.params
    protocol = Protocol(params.min_depth, params.max_depth, resolution="network", edges=False)
    return summary_table([Evaluation(f"{cfg.name}, test", protocol.to_dict(), found)])


def _plan(cfg: Namespace, run_dir: Path, checkpoint_dir: Path, predicts: bool) -> str:
    parts = [
        f"{run_dir}: gets metrics.csv, and {'curves.png and predictions.png' if predicts else 'curves.png'} "
        "once a minute and at the end",
        f"checkpoints go to {checkpoint_dir}",
    ]
    if cfg.trainer.enable_progress_bar is not False:
        parts.append("the first batches tell how long it takes")
    return "; ".join(parts)


def _summary(run_dir: Path, checkpoint_dir: Path, trainer: L.Trainer) -> str:
    values = {
        k: float(v) for k, v in trainer.callback_metrics.items() if k in ("val/abs_rel", "test/abs_rel")
    }
    metrics = ", ".join(f"{k} {v:.4f}" for k, v in values.items())
    files = [n for n in ("curves.png", "predictions.png", "metrics.csv") if (run_dir / n).exists()]
    return f"{run_dir}: {metrics and metrics + '; '}{', '.join(files)}; checkpoints in {checkpoint_dir}"


if __name__ == "__main__":
    main()
