"""Checks of the values of a configuration."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.strategies import StrategyRegistry

from depthloss.training.errors import ConfigError


def _at_least(low: float) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value >= low, f">= {low}"


# Keys whose numbers may be infinite: open ends of a range, and arguments of a network.
_UNCHECKED = (".gt_range", "model.depth_net")


# Rules that are checked before anything is built; None passes, except in `model.params`.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (
        lambda name: (
            name not in ("", ".", "..")
            and name.isprintable()
            and not {"/", "\\"} & set(name)
            and len(name.encode(errors="replace")) <= 200
        ),
        "the name of a directory, without slashes, printable and at most 200 bytes long",
    ),
    "seed": (lambda seed: 0 <= seed < 2**32, "from 0 to 4294967295"),
    "model.params.min_depth": (lambda depth: 0 < depth < float("inf"), "positive, in metres"),
    "model.optimizer.depth.lr": _at_least(0),
    "model.optimizer.depth.weight_decay": _at_least(0),
    "model.optimizer.loss_lr_mult": _at_least(0),
    "model.scheduler.step_size": _at_least(1),
    "model.scheduler.gamma": (lambda gamma: gamma > 0, "> 0"),
    "model.scheduler.T_max": _at_least(1),
    "model.scheduler.warmup_steps": _at_least(0),
    "ema.decay": (lambda decay: 0 < decay < 1, "between 0 and 1, such as 0.999; null is no average"),
    "ema.every_n_steps": _at_least(1),
    **{f"datasets.{split}.batch_size": _at_least(1) for split in ("train", "validation", "test")},
    **{f"datasets.{split}.num_workers": _at_least(0) for split in ("train", "validation", "test")},
    "trainer.gradient_clip_val": _at_least(0),
    "trainer.accumulate_grad_batches": _at_least(1),
    "trainer.limit_train_batches": (lambda limit: limit > 0, "> 0 (null: all)"),
    # Lightning would replace the sampler that knows the epoch by its own.
    "trainer.overfit_batches": (lambda n: n == 0, "0 (see datasets.train.limit, or length)"),
    "checkpoint.save_top_k": _at_least(-1),
    "checkpoint.every_n_epochs": _at_least(1),
    "tensorboard.log_frequency": _at_least(1),
}


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Yield the floats of a configuration that must be finite, with their keys."""
    if key.endswith(_UNCHECKED):
        return
    if isinstance(value, float):
        yield key, value
    elif isinstance(value, (list, tuple)):
        for x in value:
            yield from _numbers(x, key)
    else:
        items = vars(value) if isinstance(value, Namespace) or dataclasses.is_dataclass(value) else value
        for name, x in items.items() if isinstance(items, dict) else ():
            yield from _numbers(x, f"{key}.{name}".lstrip("."))


def check_values(cfg: Any) -> None:
    """Check all that needs nothing but the configuration.

    Raises:
        ConfigError: a value is invalid; its key is named.
    """
    for key, number in _numbers(cfg):
        if not math.isfinite(number):
            raise ConfigError(f"{key} must be a finite number, got {number}")
    for key, (holds, rule) in _RULES.items():
        value = functools.reduce(getattr, key.split("."), cfg)
        if value is None and key == "model.params.min_depth" or value is not None and not holds(value):
            raise ConfigError(f"{key} must be {rule}, got {value!r}")
    params = cfg.model.params
    if params.max_depth is None or not params.min_depth < params.max_depth < float("inf"):
        raise ConfigError(
            f"model.params.max_depth must be finite and larger than min_depth = {params.min_depth}, "
            f"got {params.max_depth}"
        )
    strategy = cfg.trainer.strategy
    known = ["auto", *StrategyRegistry.available_strategies()]
    if isinstance(strategy, str) and strategy not in known:
        raise ConfigError(f"trainer.strategy: unknown strategy {strategy!r}; known: {', '.join(known)}")
