"""Evaluating the runs of a study, each once."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from depthloss.training.ablation.study import Trial
from depthloss.training.ablation.trials import last_checkpoint
from depthloss.training.configuration.parser import parse
from depthloss.training.errors import ConfigError
from depthloss.training.evaluation.evaluate import evaluate
from depthloss.training.evaluation.load import build_data, load_run
from depthloss.training.evaluation.protocol import Protocol
from depthloss.training.files import whole_file

log = logging.getLogger("depthloss.training")

BATCH_SIZE = 8


def evaluate_trial(trial: Trial, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the last checkpoint of a run on its validation set; an earlier result is read instead.

    The last and not the best, which was chosen by a metric that is measured here.

    Args:
        trial: the run.
        settings: keywords of `Protocol`; the range of depth is that of the run, unless it is among them.

    Returns:
        `Evaluation.to_dict()` without the rows of the frames and of classes by range.

    Raises:
        ConfigError: the run or the settings cannot be evaluated.
    """
    checkpoint = last_checkpoint(trial)
    protocol = make_protocol(trial, settings)
    # A finished checkpoint is never written again.
    of = {
        "checkpoint": [checkpoint.stat().st_size, checkpoint.stat().st_mtime_ns],
        "data": trial.tree.get("datasets"),
        "protocol": json.loads(json.dumps(dataclasses.asdict(protocol))),
    }
    kept = trial.directory / "evaluation.json"
    if (found := _read(kept)).get("of") == of:
        return found["evaluation"]
    cfg, _ = parse(trial.tree, [])  # the validation set of the study, which may have changed
    run = load_run(checkpoint, split="validation", networks=[cfg.model.depth_net.name])
    run.cfg = cfg
    on_gpu = torch.cuda.is_available() and run.cfg.trainer.accelerator != "cpu"
    device = "cuda" if on_gpu else "cpu"
    evaluation = evaluate(
        run.model.to(device),
        build_data(run, protocol.min_depth, protocol.max_depth),
        protocol,
        device,
        BATCH_SIZE,
        use_input=run.takes_input is not False,
        name=trial.name,
        show=(),
        origin={"checkpoint": checkpoint.name, "epochs": run.epochs, "steps": run.steps},
        progress=False,
    ).to_dict()
    for rows in ("frames", "class_ranges"):  # nearly all of its size
        del evaluation[rows]
    with whole_file(kept) as file:
        text = json.dumps({"of": of, "evaluation": evaluation}, indent=1, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")
    return evaluation


def make_protocol(trial: Trial, settings: Mapping[str, Any]) -> Protocol:
    """Return the protocol of a run.

    Raises:
        ConfigError: a setting that `Protocol` does not know, or a value out of range.
    """
    params = (trial.tree.get("model") or {}).get("params") or {}
    depths = {key: params[key] for key in ("min_depth", "max_depth") if key in params}
    try:
        return Protocol(**{**depths, **settings})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"evaluation: {error}") from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
