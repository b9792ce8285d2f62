"""Building the network and the loss that a configuration names."""

from __future__ import annotations

import logging
from typing import Any

from jsonargparse import Namespace

import depthloss
from depthloss.training.config import NETWORKS, OF_PARAMS, ConfigError, options
from depthloss.training.data import dataset_options
from depthloss.training.loaders import DepthData
from depthloss.training.models import SemiSupCompletionModel

log = logging.getLogger("depthloss.training")


def build_model(cfg: Namespace, pretrained: bool = True) -> SemiSupCompletionModel:
    """Build the network and its loss from a configuration.

    Args:
        cfg: the configuration.
        pretrained: false leaves out the weights that the training started from: a checkpoint has all of them,
            and their file need not be here.
    """
    params, loss_config = cfg.model.params, cfg.model.loss
    network = cfg.model.depth_net.as_dict()
    name = network.pop("name")
    if not pretrained and network.get("weights"):
        network |= {"weights": None, "version": network["version"].removesuffix("pt")}
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
        min_depth: for losses that take it, unless the section has its own; in metres. The log says where a
            loss has no use for it.
        max_depth: likewise.

    Raises:
        ConfigError: an unknown loss, keyword or value.
    """
    kwargs = options(section, "supervised_loss_weight", "weight_rgbd", "flip_lr_prob", "process_group")
    depths = {"min_depth": min_depth, "max_depth": max_depth}
    kwargs |= {key: depth for key, depth in depths.items() if kwargs.get(key) == OF_PARAMS}
    if unused := [f"model.params.{key}" for key in depths if key not in kwargs]:
        log.info(
            "model.loss: %s has no use for %s",
            section.supervised_method, " and ".join(unused),
        )  # fmt: skip
    try:
        if isinstance(kwargs.get("gradient"), dict):
            kwargs["gradient"] = depthloss.GradientSpec(**kwargs["gradient"])
        return depthloss.SupervisedLoss(**kwargs)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.loss: {error}") from error


def check_input(cfg: Namespace, data: DepthData) -> None:
    """Check that sparse depth meets a network that takes it; one that gets none is named.

    Raises:
        ConfigError: a data set brings `input_depth` to a network without sparse branch.
    """
    takes = getattr(cfg.model.depth_net, "sparse_branch", None)
    for split, dataset in data.datasets.items():
        if takes is None or takes == dataset.gives_input:
            continue
        option = input_option(cfg, split)
        if takes:
            log.info(
                "datasets.%s has no sparse depth for the network's sparse branch: RGB alone; set %s, or "
                "model.depth_net.sparse_branch: false",
                split, option,
            )  # fmt: skip
            continue
        brings, fix = "it brings input_depth", f"{option}: null"
        sparsity = "datasets.augmentation.sparsity"
        if dataset.train and dataset.augmentation.sparsity.simulate:
            brings, fix = f"{sparsity} makes an input_depth", f"{sparsity}.simulate: false"
        elif not dataset.train and dataset.augmentation.sparsity.eval_density is not None:
            brings, fix = f"{sparsity} makes an input_depth", f"{sparsity}.eval_density: null"
        raise ConfigError(
            f"datasets.{split}: {brings} and model.depth_net.sparse_branch is false; "
            f"set {fix}, or sparse_branch: true"
        )


def input_option(cfg: Namespace, split: str) -> str:
    """Return the key that says where the data set of a split has its sparse input depth."""
    known = dataset_options(getattr(cfg.datasets, split).dataset)
    return f"datasets.{split}.{next(key for key in known if key.startswith('input_depth'))}"
