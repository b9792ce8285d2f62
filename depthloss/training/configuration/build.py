"""Building the network and the loss that a configuration names."""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from jsonargparse import Namespace

import depthloss
from depthloss.training.configuration.loaders import DepthData
from depthloss.training.configuration.networks import (
    check_shape,
    keywords,
    needs_input,
    network_class,
    takes_input,
    where,
)
from depthloss.training.configuration.sections import NETWORKS, OF_PARAMS, options
from depthloss.training.data import dataset_options
from depthloss.training.errors import ConfigError
from depthloss.training.models import SemiSupCompletionModel, input_parameter

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
    kind = network_class(name)
    network |= {key: getattr(params, key) for key in ("min_depth", "max_depth") if key in keywords(kind)}
    try:
        net = kind(**network)
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"model.depth_net: {error if name in NETWORKS else where(error)}") from error
    check_shape(net, name, cfg.datasets.image_shape)
    loss = build_loss(loss_config, params.min_depth, params.max_depth, quiet=not pretrained)
    wrapper = {
        key: getattr(loss_config, key) for key in ("supervised_loss_weight", "weight_rgbd", "flip_lr_prob")
    }
    try:
        return SemiSupCompletionModel(net, loss, **wrapper)
    except ValueError as error:
        raise ConfigError(f"model.loss: {error}") from error


def build_loss(
    section: Any, min_depth: float, max_depth: float, quiet: bool = False
) -> depthloss.SupervisedLoss:
    """Build the loss from the section `model.loss`.

    Args:
        section: a `LossConfig`, with a further field for each keyword of the loss.
        min_depth: for losses that take it, unless the section has its own; in metres. The log says where a
            loss has no use for it.
        max_depth: likewise.
        quiet: leave these lines out of the log, as where no training begins.

    Raises:
        ConfigError: an unknown loss, keyword or value.
    """
    kwargs = options(section, "supervised_loss_weight", "weight_rgbd", "flip_lr_prob", "process_group")
    depths = {"min_depth": min_depth, "max_depth": max_depth}
    kwargs |= {key: depth for key, depth in depths.items() if kwargs.get(key) == OF_PARAMS}
    unused = [f"model.params.{key}" for key in depths if key not in kwargs]
    if unused and not quiet:
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
    """Check that data and network agree on sparse depth; log where the network gets none.

    Raises:
        ConfigError: a data set brings `input_depth` to a network that takes none, or none to one that must
            have it.
    """
    takes, needs = takes_input(cfg.model.depth_net), needs_input(cfg.model.depth_net)
    for split, dataset in data.datasets.items():
        if needs and not dataset.gives_input:
            raise ConfigError(
                f"datasets.{split}: it has no sparse depth, and the forward of {cfg.model.depth_net.name} "
                "needs input_depth: give it some, or give this argument a default of None"
            )
        if takes is None or takes == dataset.gives_input:
            continue
        option = input_option(cfg, split)
        if takes:
            log.info(
                "datasets.%s has no sparse depth for the network's sparse branch: RGB alone; set %s"
                "model.depth_net.sparse_branch: false",
                split, f"{option}, or " if option else "",
            )  # fmt: skip
            continue
        brings, fix = "it brings input_depth", f"{option}: null" if option else None
        sparsity = "datasets.augmentation.sparsity"
        if dataset.train and dataset.augmentation.sparsity.simulate:
            brings, fix = f"{sparsity} makes an input_depth", f"{sparsity}.simulate: false"
        elif not dataset.train and dataset.augmentation.sparsity.eval_density is not None:
            brings, fix = f"{sparsity} makes an input_depth", f"{sparsity}.eval_density: null"
        lacks, more = "model.depth_net.sparse_branch is false", "sparse_branch: true"
        if not hasattr(cfg.model.depth_net, "sparse_branch"):
            lacks, more = f"the forward of {cfg.model.depth_net.name} has no argument input_depth", None
        fixes = ", or ".join(filter(None, (fix, more)))
        fixes = f"set {fixes}" if fixes else "choose another network or data set"
        raise ConfigError(f"datasets.{split}: {brings} and {lacks}; {fixes}")


def check_last_batch(cfg: Namespace, data: DepthData, model: SemiSupCompletionModel, processes: int) -> None:
    """Check that the network can train on the smallest batch of an epoch, if that is a single image.

    A batch norm that gets one value per channel, as after global pooling, has nothing to normalise.

    Args:
        cfg: the configuration.
        data: its data.
        model: what will be trained, on the CPU.
        processes: that share the training set.

    Raises:
        ConfigError: there is no batch, or such a batch norm.
    """
    section, total, shape = cfg.datasets.train, len(data.datasets["train"]), list(cfg.datasets.image_shape)
    whole, rest = divmod(-(-total // processes), section.batch_size)
    if section.drop_last and not whole:
        raise ConfigError(
            f"datasets.train.drop_last: nothing is left of {total} images in batches of {section.batch_size}"
            f"{f' on {processes} processes' if processes > 1 else ''}; use a smaller batch_size, or false"
        )
    limit, batches = cfg.trainer.limit_train_batches, whole + bool(rest)
    taken = batches if limit is None else int(batches * limit) if isinstance(limit, float) else limit
    short = rest == 1 and taken >= batches and not section.drop_last
    if not (section.batch_size == 1 or short) or (cfg.trainer.sync_batchnorm and processes > 1):
        return
    net = copy.deepcopy(model.depth_net).train()
    sparse = torch.zeros(1, 1, *shape) if data.datasets["train"].gives_input else None
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            net(torch.zeros(1, 3, *shape), *([sparse] if input_parameter(net) else []))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        if short:
            what, fix = f"the last batch has 1 of {total} images", "set drop_last: true, another batch_size"
        else:
            what, fix = "a batch has 1 image", "set batch_size to 2 or more"
        raise ConfigError(
            f"datasets.train: {what}, which leaves a batch norm of the network one value per channel at "
            f"datasets.image_shape {shape}; {fix}, or a larger image_shape"
        ) from error


def input_option(cfg: Namespace, split: str) -> str | None:
    """Return the key that says where the data set of a split has its sparse input depth, if there is one."""
    known = dataset_options(getattr(cfg.datasets, split).dataset)
    option = next((key for key in known if key.startswith("input_depth")), None)
    return f"datasets.{split}.{option}" if option else None
