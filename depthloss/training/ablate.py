"""The command of ablation studies: `python -m depthloss.training.ablate configs/ablation/STUDY.yaml`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from depthloss import env
from depthloss.training.ablation import plots, tables
from depthloss.training.ablation.evaluation import evaluate_trial, make_protocol
from depthloss.training.ablation.results import Run, Table, trajectory
from depthloss.training.ablation.study import Study, Trial, read_study
from depthloss.training.ablation.trials import check_trials, train
from depthloss.training.command import DEBUG, complain, start_log
from depthloss.training.errors import ConfigError
from depthloss.training.files import check_folder, whole_file
from depthloss.training.progress import Progress

log = logging.getLogger("depthloss.training")

DESCRIPTION = """Train the variants of a study in every condition and with every seed, and compare them.

A run that is finished is skipped, one that was interrupted is resumed: the same command can be given again at
any time. Further arguments (--dotted.key value) change every run.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 1 if a run failed."""
    argv = start_log(sys.argv[1:] if argv is None else argv)
    try:
        return run(argv)
    except ConfigError as error:
        return complain("ablate", error, 2)
    except KeyboardInterrupt:
        return complain("ablate", "stopped; the same command resumes", 130)


def run(argv: list[str]) -> int:
    """Train and evaluate as the command line says.

    Raises:
        ConfigError: the study or a flag is wrong; nothing has been trained.
    """
    parser = argparse.ArgumentParser(
        prog="python -m depthloss.training.ablate", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument("study", type=Path, help="the study, such as configs/ablation/terms.yaml")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where STUDY/RUN is kept (runs)")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of those of the study")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="train and compare these alone")
    parser.add_argument(
        "--out", type=Path, help="folder of results.json, results.md and pictures (RUNS/STUDY)"
    )
    parser.add_argument("--threads", type=int, help="threads of torch; default: torch's own number")
    parser.add_argument(DEBUG, action="store_true", help="show the traceback of an error")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--train-only", action="store_true", help="train, and leave it at that")
    part.add_argument("--evaluate-only", action="store_true", help="evaluate the finished runs")
    options, rest = parser.parse_known_args(argv)

    study = read_study(options.study)
    if unknown := sorted(set(options.only or ()) - set(study.variants)):
        raise ConfigError(f"--only: no variant {', '.join(unknown)}; known: {', '.join(study.variants)}")
    if options.threads is not None:
        if options.threads < 1:
            raise ConfigError(f"--threads must be >= 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    root = options.runs / study.name
    out = options.out or root
    check_folder("--runs", root)
    check_folder("--out", out)
    trials = list(study.trials(root, options.seeds, options.only, _overrides(rest)))
    make_protocol(trials[0], study.evaluation)
    epochs = check_trials(trials)
    command = shlex.join(["python", "-m", "depthloss.training.ablate", *argv])
    runs: list[Run] = []
    trained = sum(done >= wanted for done, wanted in epochs.values())
    with Progress(len(trials), study.name, "runs", done=trained) as progress:
        for trial in trials:
            done, wanted = epochs[trial.name]
            to_train = done < wanted
            error = "not trained" if to_train else None
            if to_train and not options.evaluate_only:
                error = train(trial, done, options.threads)
            if options.train_only:
                runs.append({"error": error})
            else:
                runs.append(_result(study, trial, error))
                if not error or trial is trials[-1]:
                    _write(options.study, study, runs, len(trials), command, out)
            progress.update(int(to_train), lambda name=trial.name: name)
    return int(any(run["error"] for run in runs))


def _result(study: Study, trial: Trial, error: str | None) -> Run:
    result: Run = {
        "name": trial.name,
        "condition": trial.condition,
        "variant": trial.variant,
        "seed": trial.seed,
        "overrides": trial.overrides,
        "error": error,
        **trajectory(trial),
    }
    return result if error else {**result, "evaluation": evaluate_trial(trial, study.evaluation)}


def _write(file: Path, study: Study, runs: Sequence[Run], wanted: int, command: str, out: Path) -> None:
    results = {
        "study": study.name,
        "command": command,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": env.report()
        | {"cpu_name": env.cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "wanted_runs": wanted,
        "runs": runs,
    }
    with whole_file(out / "results.json") as path:
        text = json.dumps(results, indent=1, ensure_ascii=False)
        # A list of numbers on one line.
        text = re.sub(r"\[[^][{}\"]*\]", lambda match: "".join(match[0].split()).replace(",", ", "), text)
        path.write_text(text + "\n", encoding="utf-8")
    table = Table(study, runs)
    pictures = {
        "metrics.png": plots.write_metrics(table, tables.shown(table), out / "metrics.png"),
        "weights.png": plots.write_weights(runs, out / "weights.png"),
    }
    text = tables.write(file, table, results, [name for name, there in pictures.items() if there])
    with whole_file(out / "results.md") as path:
        path.write_text(text, encoding="utf-8")


def _overrides(arguments: list[str]) -> dict[str, Any]:
    """Read `--dotted.key value` and `--dotted.key=value`; values are YAML."""
    found, rest = {}, list(arguments)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if not flag.startswith("--") or (not equals and not rest):
            raise ConfigError(f"{flag}: --dotted.key value is needed")
        value = value if equals else rest.pop(0)
        try:
            found[flag[2:]] = yaml.safe_load(value)
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise ConfigError(f"{flag}: {value!r} cannot be read as YAML: {error}") from error
    return found


if __name__ == "__main__":
    sys.exit(main())
