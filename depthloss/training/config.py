"""The sections of the configuration.

`model.loss`, `datasets.train`, `datasets.validation` and `datasets.test` are open: beside their fields they
take every keyword of the chosen loss or data set, which is checked when that is built. `model.depth_net`
takes the arguments of the network that its `name` chooses. Every other key is fixed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from depthloss.training.models import ResNetSAN01

# Names of checkpoints.
BEST, LAST = "best", "last"

# What `model.depth_net.name` can choose: called with min_depth, max_depth and the keywords of its own.
NETWORKS: dict[str, Callable[..., Any]] = {"ResNetSAN01": ResNetSAN01}


class ConfigError(ValueError):
    """A configuration that cannot be run; the text says what to change."""


@dataclasses.dataclass
class LossConfig:
    """The supervised loss; takes every keyword of the chosen loss as well, such as lambda_sg.

    Args:
        supervised_method: name of the loss; the prefix "sparse-" masks pixels without ground truth.
        supervised_num_scales: number of output scales that are supervised.
        supervised_loss_weight: weight of the supervised loss.
        weight_rgbd: weight of the loss of the RGB-D pass, where there is one.
        flip_lr_prob: probability that a training batch is mirrored.
    """

    supervised_method: str = "sparse-scale-adaptive"
    supervised_num_scales: int = 4
    supervised_loss_weight: float = 1.0
    weight_rgbd: float = 1.0
    flip_lr_prob: float = 0.5


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
    """

    name: Literal["StepLR", "CosineAnnealingLR", "none"] = "StepLR"
    step_size: int = 10
    gamma: float = 0.5
    T_max: int | None = None


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
class CheckpointConfig:
    """What is kept, beside last.ckpt.

    Args:
        dirpath: folder; null is checkpoints in the run directory.
        save_top_k: how many of the best to keep; -1 is all, 0 none. One is named best.ckpt.
        monitor: validation metric that decides what is best.
        mode: whether less (min) or more (max) is better.
        every_n_epochs: epochs between two checkpoints, the last one's as well; the last epoch always has one.
    """

    dirpath: str | None = None
    save_top_k: int = 1
    monitor: str = "abs_rel"
    mode: Literal["min", "max"] = "min"
    every_n_epochs: int = 1


@dataclasses.dataclass
class TensorboardConfig:
    """Logging to TensorBoard and metrics.csv.

    Args:
        log_dir: folder of the event files; null is tensorboard in the run directory.
        log_frequency: steps between two logged steps.
    """

    log_dir: str | None = None
    log_frequency: int = 10


OPEN_SECTIONS: dict[str, Any] = {
    "model.loss": LossConfig(),
    "datasets.train": DatasetConfig("synthetic", batch_size=4),
    "datasets.validation": DatasetConfig("synthetic"),
    "datasets.test": DatasetConfig(),
}

# Without a configuration file; the same as configs/synthetic.yaml.
QUICK_START: dict[str, Any] = {
    "name": "synthetic",
    "model": {
        "loss": {"supervised_method": "sparse-scale-adaptive"},
        "depth_net": {"sparse_branch": False},
        "optimizer": {"depth": {"lr": 3e-4}},
        "scheduler": {"name": "CosineAnnealingLR"},
    },
    "datasets": {
        "image_shape": [96, 160],
        "train": {"dataset": "synthetic", "length": 160, "batch_size": 8},
        "validation": {"dataset": "synthetic", "length": 16, "batch_size": 4},
    },
    "trainer": {"max_epochs": 20},
}


def options(section: Any, *without: str) -> dict[str, Any]:
    """Return a section as keyword arguments, without the fields named."""
    return {f.name: getattr(section, f.name) for f in dataclasses.fields(section) if f.name not in without}
