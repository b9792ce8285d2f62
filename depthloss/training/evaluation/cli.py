"""The command `evaluate.py`: measures a checkpoint or folders of predictions, and writes the report."""

from __future__ import annotations

import functools
import logging
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace

from depthloss.training.command import (
    DEBUG,
    check_at_least,
    choose_device,
    complain,
    parse_flags,
    program,
    start_log,
    typed,
)
from depthloss.training.configuration.build import input_option
from depthloss.training.data import DataError, DepthDataset
from depthloss.training.data.summary import log_summary
from depthloss.training.errors import ConfigError
from depthloss.training.evaluation import folders_cli
from depthloss.training.evaluation.evaluate import evaluate
from depthloss.training.evaluation.folders_cli import USAGE, is_folders
from depthloss.training.evaluation.load import Run, build_data, load_run
from depthloss.training.evaluation.protocol import Alignment, Crop, CropOf, Protocol
from depthloss.training.evaluation.report.files import FILES, write_files
from depthloss.training.evaluation.result import Evaluation
from depthloss.training.evaluation.tables import text_tables
from depthloss.training.evaluation.wording import plural
from depthloss.training.files import check_folder
from depthloss.training.models import NetworkError

log = logging.getLogger("depthloss.evaluation")

_complain = functools.partial(complain, "evaluate.py")

EPILOG = """Further flags --datasets.KEY VALUE override the configuration in the checkpoint, such as
--datasets.test.depth_scale 1000 or --datasets.augmentation.sparsity.eval_density 0.05."""


@dataclass
class Result:
    """What the command found.

    Attributes:
        directory: holds metrics.json, metrics.csv, report.html, table.md and table.tex.
        methods: in the order of the command line; the first is compared with the others.
    """

    directory: Path
    methods: list[Evaluation]

    @property
    def candidate(self) -> Evaluation:
        """The first method."""
        return self.methods[0]

    @property
    def baseline(self) -> Evaluation | None:
        """The second one, if there is one."""
        return self.methods[1] if len(self.methods) > 1 else None


def main(argv: list[str] | None = None) -> None:
    """Run the command; an error of the user ends it with one line and exit status 2."""
    argv = start_log(sys.argv[1:] if argv is None else argv)
    try:
        run(argv)
    except (ConfigError, NetworkError) as error:
        sys.exit(_complain(error, 2))
    except DataError as error:
        # From a process of a DataLoader, the text of the error is its traceback.
        sys.exit(_complain(str(error).rpartition("DataError: ")[2].strip(), 2))
    except KeyboardInterrupt:
        sys.exit(_complain("stopped by Ctrl-C", 130))


def run(argv: list[str]) -> Result | None:
    """Evaluate as the command line says, print the tables and write the files.

    With --pred it is `folders_cli`, else a checkpoint is evaluated.

    Args:
        argv: the command line without the program's name.

    Returns:
        What was found; None if there was only something to print.

    Raises:
        ConfigError: the checkpoint, a flag or the data cannot be used, or the files cannot be written.
        DataError: a file of the data is missing or faulty.
        SystemExit: after `--help`.
    """
    if is_folders(argv):
        found = folders_cli.run(argv)
        return None if found is None else Result(*found)
    options, overrides = _parse(argv)
    device = choose_device(options.device)
    run = load_run(Path(options.checkpoint), options.split, options.data, overrides, options.network)
    other = None
    if options.baseline is not None:
        other = load_run(Path(options.baseline), run.split, networks=options.network)
    protocol = _protocol(options, run)
    out = _out(options, overrides, run, other, protocol)
    check_folder("--out", out)
    data = build_data(run, protocol.min_depth, protocol.max_depth)
    section = getattr(run.cfg.datasets, run.split)
    log_summary(f"{run.split}: {section.dataset}", data)
    names = _names(run, other)
    common: dict[str, Any] = {
        "device": device,
        "batch_size": options.batch_size or section.batch_size,
        "num_workers": section.num_workers if options.num_workers is None else options.num_workers,
        "progress": not options.no_progress,
    }
    found: list[Evaluation] = []
    for name, one in zip(names, filter(None, (run, other)), strict=True):
        use_input, gets = _input(name, one, run, data)
        found.append(
            evaluate(
                one.model.to(device),
                data,
                protocol,
                image_shape=tuple(one.cfg.datasets.image_shape),
                use_input=use_input,
                name=name,
                show=[sample.index for sample in found[0].samples] if found else None,
                origin=_origin(argv, one, run, len(data)) | {"input": gets},
                **common,
            )
        )
        one.model.cpu()
    print(text_tables(found), flush=True)
    write_files(out, found, run.metrics_csv)
    log.info("%s: %s", out, ", ".join(FILES))
    return Result(out, found)


def _parse(argv: list[str]) -> tuple[Namespace, list[str]]:
    parser = ArgumentParser(
        prog=program("evaluate.py"),
        usage=(
            f"{program('evaluate.py')} CHECKPOINT [--baseline CHECKPOINT] [--flag value ...]\n"
            f"       {program('evaluate.py')} {USAGE}"
        ),
        description="Evaluate a checkpoint of depthloss train, or with --pred folders of predictions of any "
        "model; --protocols --help shows the flags of that form.",
        epilog=EPILOG,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=str, help="file, or run directory: its best.ckpt, else last.ckpt")
    parser.add_argument(
        "--data",
        type=str | None,
        help="data set in place of the run's: a path, or a name such as synthetic",
    )
    parser.add_argument("--baseline", type=str | None, help="checkpoint to compare with on the same frames")
    parser.add_argument(
        "--split",
        type=Literal["validation", "test"] | None,
        help="which data of the run; null is test if it has one, else validation",
    )
    parser.add_argument("--crop", type=Crop, default="none", help="part of the image that counts")
    parser.add_argument(
        "--crop-of",
        type=CropOf,
        default="frame",
        help="what --crop is a share of: the stored frame, or what the data set's own crop leaves of it",
    )
    parser.add_argument(
        "--alignment", type=Alignment, default="none", help="of each prediction to its ground truth"
    )
    parser.add_argument(
        "--flip-tta", action="store_true", help="take the mean with the prediction for the mirrored image"
    )
    parser.add_argument(
        "--resolution",
        type=Literal["ground-truth", "network"],
        default="ground-truth",
        help="size at which prediction and ground truth are compared",
    )
    parser.add_argument("--min-depth", type=float | None, help="in metres; null is the network's")
    parser.add_argument("--max-depth", type=float | None, help="in metres; null is the network's")
    parser.add_argument(
        "--out", type=str | None, help="folder of the files; null is evaluation/NAME beside the checkpoint"
    )
    parser.add_argument("--batch-size", type=int | None, help="frames at once; null is the configuration's")
    parser.add_argument("--num-workers", type=int | None, help="processes that load; likewise")
    parser.add_argument("--device", type=str, default="auto", help="cpu, cuda, cuda:1, mps or auto")
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        help="package.module.Class that may be imported, as the checkpoint's network is of your own",
    )
    parser.add_argument(DEBUG, action="store_true", help="show the traceback of an error")
    parser.add_argument("--no-progress", action="store_true", help="do not show how far it is")

    rest, overrides = [], []
    words = iter(argv)
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--datasets.") and not flag.startswith("--datasets.train."):
            overrides.append(word if "=" in word else f"{word}={next(words, '')}")
        else:
            rest.append(word)
    options = parse_flags(parser, rest)
    check_at_least(options, batch_size=1, num_workers=0)
    return options, overrides


def _protocol(options: Namespace, run: Run) -> Protocol:
    params = run.cfg.model.params
    try:
        return Protocol(
            min_depth=params.min_depth if options.min_depth is None else options.min_depth,
            max_depth=params.max_depth if options.max_depth is None else options.max_depth,
            crop=options.crop,
            crop_of=options.crop_of,
            alignment=options.alignment,
            flip_tta=options.flip_tta,
            resolution=options.resolution.replace("-", " "),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _out(options: Namespace, overrides: list[str], run: Run, other: Run | None, protocol: Protocol) -> Path:
    if options.out is not None:
        return Path(options.out)
    # Each split, data set and protocol has a folder of its own, so that no evaluation replaces another.
    words = [run.path.stem, run.split, Path(options.data).name if options.data else ""]
    for flag, _, value in (override.partition("=") for override in overrides):
        words.append(re.sub(r"[^\w.]+", "-", f"{flag.rpartition('.')[2]}-{Path(value).name}").strip("-"))
    of = "-of-data" if protocol.crop_of == "data" else ""
    words += [f"{protocol.crop}{of}"] * (protocol.crop != "none")
    words += [protocol.alignment] * (protocol.alignment != "none")
    words += ["flip"] * protocol.flip_tta + ["network-size"] * (protocol.resolution == "network")
    words += [f"to-{protocol.max_depth:g}m"] * (protocol.max_depth != run.cfg.model.params.max_depth)
    words += [f"from-{protocol.min_depth:g}m"] * (protocol.min_depth != run.cfg.model.params.min_depth)
    words += [f"against-{other.name}-{other.path.stem}"] if other else []
    return run.path.parent / "evaluation" / "-".join(filter(None, words))


def _names(run: Run, other: Run | None) -> list[str]:
    if other is None:
        return [run.name]
    names = [run.name, other.name]
    for name in (lambda r: f"{r.name}/{r.path.stem}", lambda r: str(r.path)):
        if names[0] == names[1]:
            names = [name(run), name(other)]
    return names if names[0] != names[1] else [names[0], f"{names[1]} (baseline)"]


def _input(name: str, run: Run, candidate: Run, data: DepthDataset) -> tuple[bool, str]:
    """Return whether a network gets the sparse depth that the data has, and in words what it gets."""
    if run.takes_input is False:
        if data.gives_input:
            log.info("%s: the network has no sparse branch; it gets RGB alone", name)
        return False, "RGB alone"
    if data.gives_input:
        return True, "RGB and sparse depth"
    if run.takes_input is None:
        return False, "RGB alone"
    option = input_option(candidate.cfg, candidate.split)
    log.warning(
        "%s: the network has a sparse branch and the data no sparse depth: it gets RGB alone%s",
        name, f"; set --{option}" if option else "",
    )  # fmt: skip
    return False, "RGB alone, without the sparse depth that it can take"


def _origin(argv: list[str], run: Run, candidate: Run, frames: int) -> dict[str, Any]:
    section = getattr(candidate.cfg.datasets, candidate.split)
    return {
        "command": f"{typed('evaluate.py')} {shlex.join(argv)}",
        "checkpoint": str(run.path),
        "weights": "running average" if run.averaged else "as trained",
        "trained": f"{plural(run.epochs, 'epoch')}, {plural(run.steps, 'step')}",
        "split": candidate.split,
        "data": " ".join(str(x) for x in (section.dataset, section.path) if x),
        "frames": frames,
    }


if __name__ == "__main__":
    main()
