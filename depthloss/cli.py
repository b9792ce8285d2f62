"""The command ``depthloss``: doctor, bench, train, evaluate, predict."""

from __future__ import annotations

import importlib
import os
import shlex
import sys

COMMANDS = {
    "doctor": ("depthloss.doctor", "what this machine can run, and whether its numbers are right", ""),
    "bench": ("depthloss.benchmark.cli", "how fast and how lean the losses are on this machine", ""),
    "train": ("depthloss.training.cli", "train a network", "train"),
    "evaluate": (
        "depthloss.training.evaluation.cli",
        "measure a trained network, or folders of predictions",
        "train",
    ),
    "predict": ("depthloss.training.prediction.cli", "predict the depth of images", "train"),
}


def usage() -> str:
    """The help text."""
    rows = "\n".join(f"  {name:<10}{text}" for name, (_, text, _) in COMMANDS.items())
    return f"usage: depthloss COMMAND ...\n\n{rows}\n\n`depthloss COMMAND --help` says more.\n"


def _program() -> str:
    """What was typed: "depthloss", or a script of the user's own that calls `main`."""
    script, main = sys.argv[0], sys.modules["__main__"]
    # A notebook has no file, and what `python -m` runs, which has a spec, is not typed as a file.
    file = os.path.abspath(getattr(main, "__file__", None) or "")
    own = main.__spec__ is None and script.endswith(".py") and os.path.abspath(script) == file
    return f"python {shlex.quote(script)}" if own else "depthloss"


def main(argv: list[str] | None = None) -> int:
    """Run a command; 2 where there is none of that name, or where it needs packages that are missing."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    if arguments[0] == "--version":
        print(importlib.import_module("depthloss.version").__version__)
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"depthloss: error: no command {name!r}\n\n{usage()}", end="", file=sys.stderr)
        return 2
    module, _, extra = COMMANDS[name]
    try:
        command = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not extra or (error.name or "").startswith("depthloss"):
            raise
        print(
            f"depthloss {name}: error: it needs the package {error.name!r}, which is not installed: "
            f"pip install 'depthloss[{extra}]'",
            file=sys.stderr,
        )
        return 2
    if not extra:
        try:
            return command.main(rest) or 0
        except BrokenPipeError:  # `| head` has what it wanted; nothing more can be written.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
    commands = importlib.import_module("depthloss.training.command")
    with commands.started_as(f"{name}.py", f"{_program()} {name}"):
        return command.main(rest) or 0


if __name__ == "__main__":
    sys.exit(main())
