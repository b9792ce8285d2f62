"""What the commands share: their log, the text of an error, the choice of a device."""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap

import torch

from depthloss.training.config import ConfigError


def start_log(level: int = logging.INFO) -> None:
    """Write the log of this package to standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("depthloss").setLevel(level)


def complain(program: str, message: object, status: int) -> int:
    """Write an error to standard error and return the exit status: in a terminal wrapped, else as it is."""
    text = f"{program}: error: {message}"
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        lines = (
            textwrap.wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
            for line in text.splitlines()
        )
        text = "\n".join("\n".join(line) for line in lines)
    print(text, file=sys.stderr)
    return status


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
