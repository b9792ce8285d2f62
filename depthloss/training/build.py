"""Building the network and the loss that a configuration names."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace

import depthloss
from depthloss.training.config import NETWORKS, OF_PARAMS, ConfigError, options
from depthloss.training.loaders import DepthData
from depthloss.training.models import SemiSupCompletionModel


def build_model(cfg: Namespace) -> SemiSupCompletionModel:
    """Build the network and its loss from a configuration."""
    params, loss_config = cfg.model.params, cfg.model.loss
    network = cfg.model.depth_net.as_dict()
    name = network.pop("name")
    try:
        net = NETWORKS[name](min_depth=params.min_depth, max_depth=params.max_depth, **network)
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"model.depth_net: {error}") from error
    loss = build_loss(loss_config, params.min_depth, params.max_depth)
    wrapper = {
        key: getattr(loss_config, key) for key in ("supervised_loss_weight", "weight_rgbd", "flip_lr_prob")
    }
    try:
        return SemiSupCompletionModel(net, loss, **wrapper)
    except ValueError as error:
        raise ConfigError(f"model.loss: {error}") from error


def build_loss(section: Any, min_depth: float, max_depth: float) -> depthloss.SupervisedLoss:
    """Build the loss from the section `model.loss`.

    Args:
        section: a `LossConfig`, with a further field for each keyword of the loss.
        min_depth: for losses that take it, unless the section has its own; in metres.
        max_depth: likewise.

    Raises:
        ConfigError: an unknown loss, keyword or value.
    """
    own = options(section, "supervised_loss_weight", "weight_rgbd", "flip_lr_prob", "process_group")
    depths = {"min_depth": min_depth, "max_depth": max_depth}
    kwargs = {**depths, **own}
    kwargs |= {key: depth for key, depth in depths.items() if kwargs[key] == OF_PARAMS}
    try:
        if isinstance(kwargs.get("gradient"), dict):
            kwargs["gradient"] = depthloss.GradientSpec(**kwargs["gradient"])
        return depthloss.SupervisedLoss(**kwargs)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.loss: {error}") from error


def check_input(cfg: Namespace, data: DepthData) -> None:
    """Check that a network without sparse branch gets no sparse depth.

    Raises:
        ConfigError: a data set brings `input_depth`.
        DataError: its first sample cannot be read.
    """
    if getattr(cfg.model.depth_net, "sparse_branch", True):
        return
    for split, dataset in data.datasets.items():
        if "input_depth" not in dataset[0]:
            continue
        brings, fix = "it brings input_depth", f"datasets.{split}.input_depth: null"
        sparsity = "datasets.augmentation.sparsity"
        if dataset.train and dataset.augmentation.sparsity.simulate:
            brings, fix = f"{sparsity} makes an input_depth", f"{sparsity}.simulate: false"
        elif not dataset.train and dataset.augmentation.sparsity.eval_density is not None:
            brings, fix = f"{sparsity} makes an input_depth", f"{sparsity}.eval_density: null"
        raise ConfigError(
            f"datasets.{split}: {brings} and model.depth_net.sparse_branch is false; "
            f"set {fix}, or sparse_branch: true"
        )
