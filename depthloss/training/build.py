"""Building the network and the loss that a configuration names."""

from __future__ import annotations

import inspect
from typing import Any

from jsonargparse import Namespace

import depthloss
from depthloss.training.config import NETWORKS, ConfigError, options
from depthloss.training.models import SemiSupCompletionModel
from depthloss.training.parser import nearest


def build_model(cfg: Namespace) -> SemiSupCompletionModel:
    """Build the network and its loss from a configuration."""
    params, loss_config = cfg.model.params, cfg.model.loss
    network = cfg.model.depth_net.as_dict()
    name = network.pop("name")
    try:
        net = NETWORKS[name](min_depth=params.min_depth, max_depth=params.max_depth, **network)
    except (ValueError, OSError) as error:
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
    own = options(section, "supervised_loss_weight", "weight_rgbd", "flip_lr_prob")
    kwargs = {"min_depth": min_depth, "max_depth": max_depth, **own}
    try:
        if isinstance(kwargs.get("gradient"), dict):
            kwargs["gradient"] = depthloss.GradientSpec(**kwargs["gradient"])
        return depthloss.SupervisedLoss(**kwargs)
    except TypeError as error:
        method = section.supervised_method
        known = list(inspect.signature(type(depthloss.SupervisedLoss(method).loss_func)).parameters)
        common = {"supervised_method", "supervised_num_scales", "min_depth", "max_depth"}
        unknown = [key for key in own if key not in common and key not in known]
        hints = [
            f"{key!r} is no keyword of {method}; the nearest is {nearest(key, known)!r}" for key in unknown
        ]
        raise ConfigError(f"model.loss: {'; '.join(hints) or error}") from error
    except ValueError as error:
        raise ConfigError(f"model.loss: {error}") from error
