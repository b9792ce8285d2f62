"""What the commands share: their log, the text of an error, flags, the choice of a device."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from depthloss.training.errors import ConfigError, did_you_mean

log = logging.getLogger("depthloss")


# A flag of all commands: `complain` then shows the traceback.
DEBUG = "--debug"


_started: dict[str, str] = {}


@contextlib.contextmanager
def started_as(script: str, command: str) -> Iterator[None]:
    """Let help and errors of a script name the command that runs it."""
    _started[script] = command
    try:
        yield
    finally:
        del _started[script]


def program(script: str) -> str:
    """The name of a script in its help and errors: ``"train.py"``, or ``"depthloss train"``."""
    return _started.get(script, script)


def typed(script: str) -> str:
    """What the user types to run a script: ``"python train.py"``, or ``"depthloss train"``."""
    return _started.get(script, f"python {script}")


def start_log(argv: Sequence[str], level: int = logging.INFO) -> list[str]:
    """Write the log of this package to standard error.

    Args:
        argv: a command line.
        level: of the log; that of --debug is `logging.DEBUG`.

    Returns:
        The command line without --debug.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.DEBUG if DEBUG in argv else level)
    return [word for word in argv if word != DEBUG]


def complain(script: str, message: object, status: int) -> int:
    """Write an error to standard error, wrapped in a terminal, and return the exit status.

    With --debug the traceback of the error that is being handled comes before it.
    """
    log.debug("", exc_info=True)
    text = f"{program(script)}: error: {message}"
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        lines = (
            textwrap.wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
            for line in text.splitlines()
        )
        text = "\n".join("\n".join(line) for line in lines)
    print(text, file=sys.stderr)
    return status


def plain_words(error: ArgumentError, spellings: Mapping[str, str] = {}, flag: bool = False) -> str:
    """Return an error of the parser about a value as one line that says what is needed.

    Args:
        error: as jsonargparse raises it.
        spellings: by the last part of a key, how its value is written.
        flag: whether the key is that of a flag, such as --batch-size.
    """
    text = " ".join(str(error).split())
    found = re.match(r'Parser key "([^"]+)": ', text)
    if found is None:
        return text
    key = f"--{found[1].replace('_', '-')}" if flag else found[1]
    if load := re.search(r"Unable to load config '(.*?)' - ", text):
        return f"{key}: a section of keys, or the YAML file that holds them, is needed, got {load[1]!r}"
    given = re.search(r"(?:Got|Given) value: (.*)", text)
    if given and (spelling := spellings.get(found[1].rpartition(".")[2])):
        return f"{key}: write it as {spelling}; got {given[1]}"
    kinds = re.findall(
        r"Expected (?:an? )?(?:<class '(\w+)'>|typing\.Literal\[(.*?)\]|(dot import path))", text
    )
    if not kinds or not given:
        return text
    needed = list(
        dict.fromkeys(_KINDS.get(kind or path, kind) or f"one of {choice}" for kind, choice, path in kinds)
    )
    value = given[1].strip()
    number = "a text" in needed and re.fullmatch(r"[-+.\deE]+", value)
    hint = "; in a YAML file, a text that looks like a number needs quotes" if number else ""
    return f"{key}: {' or '.join(needed)} is needed, got {value}{hint}"


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list such as [1, 2]",
    "tuple": "a list such as [1, 2]",
    "dict": "a mapping such as {key: value}",
    "NoneType": "null",
    "dot import path": "package.module.Class",
}


def parse_flags(parser: ArgumentParser, argv: Sequence[str]) -> Namespace:
    """Parse a command line.

    Raises:
        ConfigError: a flag is unknown (the nearest is named), or a value is invalid.
    """
    known = [option for action in parser._actions for option in action.option_strings]
    for word in argv:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            raise ConfigError(f"unknown flag {flag!r}{did_you_mean(flag, known)}")
    try:
        return parser.parse_args(argv)
    except ArgumentError as error:
        raise ConfigError(plain_words(error, flag=True)) from error


def check_at_least(options: Namespace, **least: int) -> None:
    """Check that options are not below their minimum; None passes.

    Raises:
        ConfigError: an option is below it.
    """
    for name, low in least.items():
        if options[name] is not None and options[name] < low:
            raise ConfigError(f"--{name.replace('_', '-')} must be >= {low}, got {options[name]}")


def choose_device(name: str) -> torch.device:
    """Return the device that `--device` means.

    Raises:
        ConfigError: it cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"--device {name}: not usable here ({reason}); use --device cpu") from error
    return device
