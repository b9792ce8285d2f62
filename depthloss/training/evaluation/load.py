"""A trained network and its data, rebuilt from a checkpoint alone."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from depthloss.training.checkpoints.stored import choose_checkpoint, config_in, read_checkpoint
from depthloss.training.configuration.build import build_model
from depthloss.training.configuration.loaders import build_split
from depthloss.training.configuration.networks import check_trusted, takes_input
from depthloss.training.configuration.parser import parse
from depthloss.training.data import DATASETS, DepthDataset, dataset_options
from depthloss.training.errors import ConfigError
from depthloss.training.models import SemiSupCompletionModel
from depthloss.training.weights import nonfinite

log = logging.getLogger("depthloss.evaluation")

SPLITS = ("train", "validation", "test")


@dataclass
class Run:
    """A trained network.

    Attributes:
        path: of the checkpoint.
        name: of the run.
        cfg: its configuration, with the data that it is to be evaluated on.
        split: section of that data, "validation" or "test".
        model: the network, in evaluation mode, on the CPU.
        averaged: whether its weights are a running average.
        epochs: that it was trained for.
        steps: of the optimiser.
    """

    path: Path
    name: str
    cfg: Namespace
    split: str
    model: SemiSupCompletionModel
    averaged: bool
    epochs: int
    steps: int

    @property
    def takes_input(self) -> bool | None:
        """Whether the network takes sparse input depth; None if it can do without."""
        return takes_input(self.cfg.model.depth_net)

    @property
    def metrics_csv(self) -> Path | None:
        """The metrics.csv of the training, if it is found."""
        guesses = (self.path.parent.parent, Path(self.cfg.trainer.default_root_dir or "runs") / self.name)
        return next((file for path in guesses if (file := path / "metrics.csv").is_file()), None)


def load_run(
    path: Path,
    split: str | None = None,
    data: str | None = None,
    overrides: Sequence[str] = (),
    networks: Sequence[str] = (),
) -> Run:
    """Rebuild a network and its configuration from a checkpoint; nothing in it is executed.

    Args:
        path: the checkpoint, or a run directory.
        split: section of the data; None = test if the run has one, else validation.
        data: replaces the split's data: a name such as "synthetic", or the path of a data set of the same
            kind, of an rgbd-folder where the run has another kind that has no path.
        overrides: further arguments for its configuration, such as "--datasets.test.depth_scale=1000".
        networks: classes, as package.module.Class, that may be imported because it names one as its network.

    Raises:
        ConfigError: no checkpoint of `train.py`, or what it holds does not fit.
    """
    path = choose_checkpoint(path)
    state = read_checkpoint(path, "")
    tree, weights = config_in(path, state, ""), state.get("state_dict")
    if not tree or not weights or not isinstance(weights, dict):
        raise ConfigError(
            f"{path}: not a checkpoint of depthloss train, it holds no configuration or no weights"
        )
    # Of the section trainer only the run directory is needed; its other keys may name any class.
    trainer = tree.get("trainer") or {}
    tree = {**tree, "trainer": {k: v for k, v in trainer.items() if k == "default_root_dir"}}
    check_trusted(tree, networks, str(path), "--network")
    sections = tree.get("datasets", {})
    if split is None:
        split = "test" if (sections.get("test") or {}).get("dataset") else "validation"
    chosen = (sections.get(split) or {}).get("dataset")
    of_data = _data_arguments(split, data, chosen, overrides)
    try:
        cfg, _ = parse(tree, [*of_data, *overrides])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    model = build_model(cfg, pretrained=False)
    _fill(model, weights, path)
    try:
        epochs = state.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
        counts = int(epochs.get("processed", state.get("epoch", 0))), int(state.get("global_step", 0))
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a checkpoint of depthloss train ({error})") from error
    return Run(
        path=path,
        name=cfg.name,
        cfg=cfg,
        split=split,
        model=model.eval(),
        averaged=state.get("weights") == "averaged",
        epochs=counts[0],
        steps=counts[1],
    )


def build_data(run: Run, min_depth: float, max_depth: float) -> DepthDataset:
    """Build the data set of a run's split, for a range of depth that holds the network's and the given one.

    Raises:
        ConfigError: there is none, or it cannot be built.
    """
    datasets, params = run.cfg.datasets, run.cfg.model.params
    section = getattr(datasets, run.split)
    if section.dataset is None:
        there = [split for split in SPLITS[1:] if getattr(datasets, split).dataset]
        fix = f", or use --split {there[0]}" if there else ""
        raise ConfigError(f"datasets.{run.split}: the run has no such data; give it by --data{fix}")
    return build_split(
        run.split,
        section,
        image_shape=datasets.image_shape,
        min_depth=min(params.min_depth, min_depth),
        max_depth=max(params.max_depth, max_depth),
        augmentation=datasets.augmentation,
        # The seed that the training gives this split: it decides what a rendered data set shows.
        seed=run.cfg.seed + SPLITS.index(run.split),
        skip_bad_frames=datasets.skip_bad_frames,
    )


def _data_arguments(split: str, data: str | None, chosen: str | None, overrides: Sequence[str]) -> list[str]:
    if data is None:
        return []
    key = f"--datasets.{split}"
    if data in DATASETS:
        return [f"{key}.dataset={data}"]
    if not os.path.exists(os.path.expanduser(data)):
        raise ConfigError(f"--data {data}: no such path, and no data set; known: {', '.join(DATASETS)}")
    arguments = [f"{key}.path={data}"]
    if any(override.partition("=")[0] == f"{key}.dataset" for override in overrides):
        return arguments
    if chosen is None or "path" not in dataset_options(chosen):
        log.info("--data %s: read as an rgbd-folder; %s.dataset NAME chooses another kind", data, key)
        arguments.append(f"{key}.dataset=rgbd-folder")
    return arguments


def _fill(model: SemiSupCompletionModel, weights: dict[str, Any], path: Path) -> None:
    own = {
        name.removeprefix("model."): value
        for name, value in weights.items()
        if name.startswith("model.") and isinstance(value, torch.Tensor)
    }
    if names := nonfinite(own):
        raise ConfigError(
            f"{path}: its weights are not finite, such as {names[0]}: take an earlier checkpoint"
        )
    try:
        model.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: its weights do not fit the network that it names: {reason}") from error
