"""The sections of the configuration.

`model.loss`, `datasets.train`, `datasets.validation` and `datasets.test` are open: beside their fields they
have one for every keyword of the loss or data set that they choose. `model.depth_net` takes the arguments of
the network that its `name` chooses. Every other key is fixed.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Container
from typing import Any, Literal, get_type_hints

import docstring_parser

import depthloss
from depthloss.training.data import DATASETS, dataset_options
from depthloss.training.errors import ConfigError
from depthloss.training.models import ResNetSAN01

# Names of checkpoints.
BEST, LAST, PREVIOUS = "best", "last", "previous"

# A value of `--resume`, beside a file, BEST and LAST.
AUTO = "auto"

# Networks that `model.depth_net.name` chooses, beside package.module.Class. They are called with their own
# keywords, and with min_depth and max_depth if they take these.
NETWORKS: dict[str, Callable[..., Any]] = {"ResNetSAN01": ResNetSAN01}

# In front of the name of a recipe, as `depthloss.SupervisedLoss` has it.
RECIPE = "recipe/"

# As min_depth or max_depth of a loss: the value of model.params.
OF_PARAMS = "model.params"


@dataclasses.dataclass
class LossConfig:
    """The supervised loss; takes every keyword of the chosen loss as well, such as lambda_sg.

    Args:
        supervised_method: name of the loss; the prefix "sparse-" masks pixels without ground truth. Or
            recipe/NAME, for which model.loss.recipe NAME is short.
        supervised_num_scales: number of output scales that are supervised.
        supervised_loss_weight: weight of the supervised loss.
        weight_rgbd: weight of the loss of the RGB-D pass, where there is one.
        flip_lr_prob: probability that a training sample is mirrored.
        process_group: with several processes, the loss of their joined batch, with statistics over all of it;
            false is the mean of a loss per process.
    """

    supervised_method: str = "sparse-scale-adaptive"
    supervised_num_scales: int = 4
    supervised_loss_weight: float = 1.0
    weight_rgbd: float = 1.0
    flip_lr_prob: float = 0.5
    process_group: bool = False


@dataclasses.dataclass
class RangeConfig:
    """The range of depth that counts.

    Args:
        min_depth: smallest depth, in metres.
        max_depth: largest depth, in metres.
    """

    min_depth: float = 0.05
    max_depth: float = 100.0


@dataclasses.dataclass
class GroupConfig:
    """A group of parameters.

    Args:
        lr: learning rate.
        weight_decay: weight decay.
    """

    lr: float = 1e-4
    weight_decay: float = 0.0


@dataclasses.dataclass
class OptimizerConfig:
    """The optimiser.

    Args:
        name: Adam or AdamW.
        depth: the network's group.
        loss_lr_mult: learning rate of the loss's own parameters, as a multiple of the network's.
    """

    name: Literal["Adam", "AdamW"] = "Adam"
    depth: GroupConfig = dataclasses.field(default_factory=GroupConfig)
    loss_lr_mult: float = 1.0


@dataclasses.dataclass
class SchedulerConfig:
    """The learning rate over the epochs.

    Args:
        name: StepLR, CosineAnnealingLR or none.
        step_size: StepLR: epochs between two reductions.
        gamma: StepLR: factor of a reduction.
        T_max: CosineAnnealingLR: epochs until the rate is 0; null is trainer.max_epochs.
        warmup_steps: steps of the optimiser, the first at 1/warmup_steps of the rate and the last at all of
            it; 0 is no warm-up.
    """

    name: Literal["StepLR", "CosineAnnealingLR", "none"] = "StepLR"
    step_size: int = 10
    gamma: float = 0.5
    T_max: int | None = None
    warmup_steps: int = 0


@dataclasses.dataclass
class EmaConfig:
    """The running average of the weights, which validation, test and checkpoints then take.

    Args:
        decay: share of the average that an update keeps, such as 0.999; null is no average.
        every_n_steps: steps of the optimiser between two updates.
        ramp: keep at most (1 + n)/(10 + n) in update n, so that the untrained weights are soon forgotten.
    """

    decay: float | None = None
    every_n_steps: int = 1
    ramp: bool = True


@dataclasses.dataclass
class DatasetConfig:
    """A data set; takes every option of the chosen one as well.

    Args:
        dataset: name of the data set, such as synthetic or rgbd-folder; null is none.
        path: where its files lie.
        batch_size: samples per step, on each device.
        num_workers: processes that load.
    """

    dataset: str | None = None
    path: str | None = None
    batch_size: int = 1
    num_workers: int = 0


@dataclasses.dataclass
class TrainingSetConfig(DatasetConfig):
    """The data set of the training; takes every option of the chosen one as well.

    Args:
        dataset: name of the data set, such as synthetic or rgbd-folder.
        path: where its files lie.
        batch_size: samples per step, on each device.
        num_workers: processes that load.
        drop_last: leave out the last batch of an epoch if it is smaller than the others.
    """

    drop_last: bool = False


@dataclasses.dataclass
class CheckpointConfig:
    """What is kept, beside last.ckpt and the one before it, previous.ckpt.

    Args:
        dirpath: folder; null is checkpoints in the run directory.
        save_top_k: how many of the best to keep; -1 is all, 0 none. One is named best.ckpt.
        monitor: validation metric that decides what is best.
        mode: whether less (min) or more (max) is better; null is what the monitor calls for.
        every_n_epochs: epochs between two last.ckpt; the last epoch always has one. Best looks at every
            validated epoch.
    """

    dirpath: str | None = None
    save_top_k: int = 1
    monitor: str = "abs_rel"
    mode: Literal["min", "max"] | None = None
    every_n_epochs: int = 1


@dataclasses.dataclass
class TensorboardConfig:
    """Logging to TensorBoard and metrics.csv.

    Args:
        log_dir: folder of the event files, the run's name is appended; null is tensorboard in the run
            directory.
        log_frequency: steps between two logged steps.
    """

    log_dir: str | None = None
    log_frequency: int = 10


@dataclasses.dataclass
class WandbConfig:
    """Logging to Weights & Biases as well; it needs the package wandb.

    Args:
        project: name of the project; null is not to.
    """

    project: str | None = None


# Keys of lightning.Trainer that this project sets itself, and what to use instead.
OWNED_TRAINER_KEYS = {
    "logger": "metrics.csv and TensorBoard events are always written; see the sections tensorboard and wandb",
    "callbacks": "see the sections checkpoint and tensorboard",
    "log_every_n_steps": "use tensorboard.log_frequency",
    "enable_checkpointing": "see the section checkpoint",
    "use_distributed_sampler": "the data sets bring their own sampler",
    "max_steps": "use trainer.max_epochs: the schedules of the losses are in epochs",
    "min_steps": "use trainer.min_epochs",
    "barebones": "it switches off the logging that this script relies on",
    "fast_dev_run": "use trainer.limit_train_batches, trainer.limit_val_batches and trainer.max_epochs",
    "enable_autolog_hparams": "the effective configuration is always logged",
    "model_registry": "checkpoints stay in the run directory",
    "gpus": "use the flag --gpus, or trainer.accelerator and trainer.devices",
}

TRAINER_DEFAULTS = {
    "max_epochs": 30,
    "gradient_clip_val": 10.0,
    "num_sanity_val_steps": 1,
    "enable_model_summary": False,
    "default_root_dir": "runs",
}

# The open sections with their defaults; the first field of each chooses the loss or data set.
OPEN_SECTIONS: dict[str, Any] = {
    "model.loss": LossConfig(),
    "datasets.train": TrainingSetConfig("synthetic", batch_size=4),
    "datasets.validation": DatasetConfig(),  # "synthetic" where the training set is
    "datasets.test": DatasetConfig(),
}

# Used without a configuration file; the same as configs/synthetic.yaml.
QUICK_START: dict[str, Any] = {
    "name": "synthetic",
    "model": {
        "params": {"min_depth": 0.4, "max_depth": 90.0},
        "loss": {"supervised_method": "sparse-scale-adaptive", "flip_lr_prob": 0.0},
        "depth_net": {"sparse_branch": False, "width": 0.25},
        "optimizer": {"depth": {"lr": 3e-3}},
        "scheduler": {"name": "CosineAnnealingLR", "warmup_steps": 40},
    },
    "datasets": {
        "image_shape": [64, 96],
        "augmentation": {"jittering": []},
        "train": {
            "dataset": "synthetic",
            "scenes": 16,
            "scene_seed": 0,
            "length": 320,
            "cache": True,
            "batch_size": 8,
        },
        "validation": {
            "dataset": "synthetic",
            "scenes": 16,
            "scene_seed": 0,
            "length": 32,
            "cache": True,
            "batch_size": 8,
        },
    },
    "trainer": {"max_epochs": 24},
}

# Used without a configuration file where the command line names other data: the quick start's settings are
# tuned to its rendered scenes. The run is named after the data set.
OWN_DATA: dict[str, Any] = {
    "model": {
        "loss": {"supervised_method": "sparse-scale-adaptive"},
        "depth_net": {"sparse_branch": False},
        "optimizer": {"depth": {"lr": 3e-4}},
        "scheduler": {"name": "CosineAnnealingLR"},
    },
    "datasets": {"image_shape": [96, 160], "train": {"batch_size": 8}},
    "trainer": {"max_epochs": 20},
}


def chooser(section: str) -> str:
    """Return the key that chooses the loss or data set of an open section."""
    return f"{section}.{dataclasses.fields(OPEN_SECTIONS[section])[0].name}"


def options(section: Any, *without: str) -> dict[str, Any]:
    """Return a section as keyword arguments, without the fields named."""
    return {f.name: getattr(section, f.name) for f in dataclasses.fields(section) if f.name not in without}


@dataclasses.dataclass(frozen=True)
class Option:
    """A keyword of a loss or data set, as a key of an open section."""

    type: Any
    default: Any
    text: str


def open_options(section: str, choice: str | None, mentioned: Container[str] = ()) -> dict[str, Option]:
    """Return the options that an open section has by its choice of a loss or data set.

    Args:
        section: one of `OPEN_SECTIONS`.
        choice: the value of its first field; None has no options.
        mentioned: keys that are given; a schedule makes scale-adaptive its progressive form.

    Raises:
        ConfigError: there is no loss or data set of that name.
    """
    if choice is None and section != "model.loss":
        return {}
    if not isinstance(choice, str):
        kind = "loss" if section == "model.loss" else "data set"
        raise ConfigError(f"{section}: the name of a {kind} is needed, got {choice!r}")
    try:
        if section == "model.loss":
            scheduled = any(f"model.loss.{key}" in mentioned for key in ("alpha_schedule", "scale_schedule"))
            if scheduled and choice.removeprefix("sparse-") == "scale-adaptive":
                choice = "scale-adaptive-progressive"
            taken: Any = None
            if choice.startswith(RECIPE):
                name = choice.removeprefix(RECIPE)
                if name not in depthloss.RECIPES:
                    depthloss.recipe(name)  # Says which there are.
                recipe = depthloss.RECIPES[name]
                taken, parameters = recipe.built, recipe.parameters
            else:
                taken = type(depthloss.build_loss(choice))
                parameters = dict(inspect.signature(taken).parameters)
            parameters.pop("process_group", None)
        else:
            parameters = dataset_options(choice)
            taken = DATASETS[choice]
    except ValueError as error:
        raise ConfigError(f"{section}: {error}") from error
    hints = get_type_hints(taken.__init__ if inspect.isclass(taken) else taken)
    if section == "model.loss":
        hints = get_type_hints(depthloss.DepthLoss.__init__) | hints
    texts = {p.arg_name: p.description or "" for p in docstring_parser.parse(inspect.getdoc(taken)).params}
    fixed = {f.name for f in dataclasses.fields(OPEN_SECTIONS[section])}
    found = {}
    for name, parameter in parameters.items():
        kind, default = hints.get(name, Any), parameter.default
        if section == "model.loss" and name in ("min_depth", "max_depth"):
            kind, default = kind | Literal[OF_PARAMS], OF_PARAMS
        elif name == "gradient":
            kind = dict[str, Any] | None
        elif default is parameter.empty:
            kind, default = kind | None, None
        if name not in fixed:
            found[name] = Option(kind, default, " ".join(texts.get(name, "").split()))
    return found
