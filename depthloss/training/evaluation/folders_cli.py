"""`evaluate.py --pred DIR --gt DIR --protocol NAME`: folders of predictions by a published protocol."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from depthloss.protocols import KINDS, Protocol, load_protocol, protocol_names
from depthloss.training.command import DEBUG, check_at_least, parse_flags, program, typed
from depthloss.training.errors import ConfigError, did_you_mean
from depthloss.training.evaluation.maps import evaluate_maps
from depthloss.training.evaluation.report.files import FILES, write_files
from depthloss.training.evaluation.result import Evaluation
from depthloss.training.evaluation.tables import text_tables
from depthloss.training.evaluation.units import Reading
from depthloss.training.files import check_folder

log = logging.getLogger("depthloss.evaluation")

# A command line with one of these is of this form.
FLAGS = ("--pred", "--gt", "--protocol", "--protocols", "--print-protocol")
USAGE = "--pred DIR ... --gt DIR --protocol NAME [KEY=VALUE ...]"
EPILOG = """KEY=VALUE replaces a key of the protocol, such as max_depth=80 or crop=garg; --print-protocol
shows all. Files are paired by their path below the folders without suffix, or, if no path fits, by file name.
Of --kind, --pred-scale and --pred-key, NAME=VALUE is for one method."""


def is_folders(argv: Sequence[str]) -> bool:
    """Return whether a command line is of this form."""
    return any(word.partition("=")[0] in FLAGS for word in argv)


def run(argv: list[str]) -> tuple[Path, list[Evaluation]] | None:
    """Evaluate folders as the command line says, print the tables and write the files.

    Args:
        argv: the command line without the program's name.

    Returns:
        The folder of the files, and the result of each method; None if there was only something to print.

    Raises:
        ConfigError: a flag or the protocol cannot be used, or the files cannot be written.
        DataError: a folder or file is missing or faulty.
        SystemExit: after `--help`.
    """
    options, overrides = _parse(argv)
    if options.protocols:
        for name in protocol_names():
            print(load_protocol(name).text())
        return None
    if options.protocol is None:
        raise ConfigError(f"--protocol is needed: one of {', '.join(protocol_names())}, or a YAML file")
    try:
        protocol = load_protocol(options.protocol, **overrides)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"--protocol {options.protocol}: {error}") from error
    if options.print_protocol:
        print(protocol.to_yaml(), end="")
        return None
    if not options.pred or options.gt is None:
        raise ConfigError("--pred and --gt are needed: the folders of predictions and of ground truth")
    methods = _methods([*options.pred, *options.baseline])
    kinds = _of_methods("--kind", options.kind, methods, _kind)
    for kind in kinds.values():
        try:
            protocol.aligned_by(kind)
        except ValueError as error:
            raise ConfigError(f"--kind {kind}: {error}") from error
    if options.cameras is not None and not protocol.per_clip:
        raise ConfigError(f"--cameras is for protocols of clips; {protocol.name} takes single images")
    reading = Reading(
        {"": options.gt_scale, **_of_methods("--pred-scale", options.pred_scale, methods, _scale)},
        {"": options.gt_key, **_of_methods("--pred-key", options.pred_key, methods, str)},
        tuple(options.gt_invalid),
        options.gt_hypersim_distance,
    )
    out = Path(options.out) if options.out else _out(methods, protocol)
    check_folder("--out", out)
    found = evaluate_maps(
        methods,
        options.gt,
        protocol,
        kinds,
        mask=options.mask,
        rgb=options.rgb,
        cameras=options.cameras,
        reading=reading,
        ranges=_ranges(options.ranges),
        keep_going=options.keep_going,
        num_workers=options.num_workers,
        origin={"command": f"{typed('evaluate.py')} {shlex.join(argv)}"},
        progress=not options.no_progress,
    )
    print(text_tables(found), flush=True)
    write_files(out, found)
    log.info("%s: %s", out, ", ".join(FILES))
    return out, found


def _parse(argv: list[str]) -> tuple[Namespace, dict[str, Any]]:
    parser = ArgumentParser(
        prog=program("evaluate.py"),
        usage=f"{program('evaluate.py')} {USAGE}",
        description="Evaluate folders of predictions, of any model, by a published protocol.",
        epilog=EPILOG,
        exit_on_error=False,
        allow_abbrev=False,
    )
    many = {"type": str, "nargs": "+", "action": "extend", "default": []}
    parser.add_argument("--pred", **many, help="folders of predictions, DIR or NAME=DIR")
    parser.add_argument("--baseline", **many, help="further ones; the first of all is compared with them")
    parser.add_argument("--gt", type=str | None, help="folder of ground truth, depth in metres")
    parser.add_argument("--mask", type=str | None, help="folder of masks, non-zero = keep")
    parser.add_argument("--rgb", type=str | None, help="folder of pictures, for the report")
    parser.add_argument(
        "--cameras", type=str | None, help="folder with intrinsics and poses of each clip, CLIP.npz, for tae"
    )
    parser.add_argument("--protocol", type=str | None, help="name, see --protocols, or a YAML file")
    parser.add_argument("--kind", **many, help=f"of the predictions: {', '.join(KINDS)}; else the protocol's")
    parser.add_argument("--pred-scale", **many, help="units per metre of 16-bit PNGs; else 256")
    parser.add_argument("--gt-scale", type=float, default=256.0, help="the same of the ground truth")
    parser.add_argument("--pred-key", **many, help="name of the prediction in files that hold several")
    parser.add_argument("--gt-key", type=str | None, help="the same of the ground truth")
    parser.add_argument(
        "--gt-invalid", type=float, nargs="+", default=[], help="its numbers that mean no value, before scale"
    )
    parser.add_argument(
        "--gt-hypersim-distance",
        type=bool | None,
        help="whether it is Hypersim's distance to the camera, which becomes depth: true or false",
    )
    parser.add_argument(
        "--ranges", type=str | None, help="measure by distance too: where ranges begin in metres, as 0,10,30"
    )
    parser.add_argument(
        "--out", type=str | None, help="folder of the files; else evaluation/METHODS-PROTOCOL"
    )
    parser.add_argument(
        "--keep-going", action="store_true", help="leave out and list a frame whose files are faulty"
    )
    parser.add_argument(
        "--num-workers", type=int | None, help="processes; null is one per core if there are many frames"
    )
    parser.add_argument("--protocols", action="store_true", help="list the protocols, and stop")
    parser.add_argument("--print-protocol", action="store_true", help="print the protocol as YAML, and stop")
    parser.add_argument(DEBUG, action="store_true", help="show the traceback of an error")
    parser.add_argument("--no-progress", action="store_true", help="do not show how far it is")
    rest, overrides = _overrides(argv)
    options = parse_flags(parser, rest)
    check_at_least(options, num_workers=0)
    if not 0 < options.gt_scale < float("inf"):
        raise ConfigError(f"--gt-scale must be > 0 and finite, got {options.gt_scale}")
    return options, overrides


def _overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Split a command line into flags with their values, and KEY=VALUE of the protocol."""
    known = [one.name for one in fields(Protocol) if one.name not in ("name", "changed")]
    rest: list[str] = []
    values: dict[str, Any] = {}
    expects = False  # whether the last flag takes the next word
    lists = False  # whether it may take more of them
    for word in argv:
        key, equals, text = word.partition("=")
        if word.startswith("--"):
            lists = key in ("--pred", "--baseline", "--kind", "--pred-scale", "--pred-key")
            expects = not equals and key not in _SWITCHES
            rest += [key, text] if lists and equals else [word]  # argparse takes one word after "="
        elif expects or (lists and key not in known):
            expects = False
            rest.append(word)
        elif not equals or key not in known:
            hint = (
                did_you_mean(key, known) if equals else "; write KEY=VALUE to replace a key of the protocol"
            )
            raise ConfigError(f"{word!r} is no flag, and no key of a protocol{hint}")
        else:
            try:
                values[key] = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ConfigError(f"{word}: the value is no YAML: {error}") from error
    return rest, values


_SWITCHES = ("--keep-going", "--protocols", "--print-protocol", "--no-progress", "--help", "-h", DEBUG)


def _methods(words: Sequence[str]) -> dict[str, Path]:
    """Return the folders by name: NAME of NAME=DIR, else the last part of the path that tells them apart."""
    named = [word.partition("=") if re.match(r"[^/\\=]+=", word) else ("", "", word) for word in words]
    folders = [Path(folder) for _, _, folder in named]
    depth = 1
    while True:
        names = [
            name or "/".join(folder.absolute().parts[-depth:])
            for (name, _, _), folder in zip(named, folders, strict=True)
        ]
        if len(set(names)) == len(names):
            return dict(zip(names, folders, strict=True))
        depth += 1
        if depth > max(len(folder.absolute().parts) for folder in folders):
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"--pred: two methods are called {twice!r}; name them: NAME=DIR")


def _of_methods(
    flag: str, words: Sequence[str], methods: Sequence[str] | dict[str, Path], read: Callable[[str], Any]
) -> dict[str, Any]:
    """Return the values of a flag by method: VALUE is for all, NAME=VALUE for one."""
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.rpartition("=")
        if not equals:
            found = {**dict.fromkeys(methods, read(word)), **found}
        elif name not in methods:
            raise ConfigError(f"{flag} {word}: there is no method {name!r}{did_you_mean(name, methods)}")
        else:
            found[name] = read(value)
    return found


def _kind(word: str) -> str:
    if word not in KINDS:
        raise ConfigError(f"--kind {word}: there is no such kind{did_you_mean(word, KINDS)}")
    return word


def _scale(word: str) -> float:
    try:
        scale = float(word)
    except ValueError:
        scale = 0.0
    if not 0 < scale < float("inf"):
        raise ConfigError(f"--pred-scale must be > 0 and finite, got {word!r}")
    return scale


def _ranges(text: str | None) -> list[float]:
    try:
        lows = [float(word) for word in text.split(",")] if text else []
    except ValueError:
        lows = [-1.0]
    if lows != sorted(set(lows)) or any(not 0 <= low < float("inf") for low in lows):
        raise ConfigError(f"--ranges must be ascending depths >= 0 in metres, such as 0,10,30; got {text!r}")
    return lows


def _out(methods: dict[str, Path], protocol: Protocol) -> Path:
    # Each protocol has a folder of its own, so that no evaluation replaces another.
    words = [*methods, protocol.name]
    for key in protocol.changed:
        value = getattr(protocol, key)
        words.append(f"{key}-{value:g}" if isinstance(value, float) else f"{key}-{value}")
    return Path("evaluation") / re.sub(r"[^\w.]+", "-", "-".join(words)).strip("-")[:200]
