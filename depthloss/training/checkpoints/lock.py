"""The lock on the directories of a run."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from depthloss.training.errors import ConfigError

NAME = ".lock"


@contextlib.contextmanager
def locked(directories: dict[str, Path]) -> Iterator[None]:
    """Keep other runs out of directories; a directory that was made for this and is still empty is removed
    again.

    The system releases the lock when the process ends, however it ends: a file that a killed process left
    behind locks nobody out.

    Args:
        directories: by the key that chooses each, for the error; one below another needs no lock of its own.

    Raises:
        ConfigError: another process has one of them.
    """
    with contextlib.ExitStack() as stack:
        held: list[Path] = []
        for key, directory in ((key, Path(os.path.abspath(d))) for key, d in directories.items()):
            if not any(path in (directory, *directory.parents) for path in held):
                stack.enter_context(_locked(key, directory))
                held.append(directory)
        yield


@contextlib.contextmanager
def _locked(key: str, directory: Path) -> Iterator[None]:
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / NAME
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        owner = ""
        with contextlib.suppress(OSError):  # that process has just ended
            owner = f" ({file.read_text(encoding='utf-8').strip()})"
        raise ConfigError(
            f"{directory}: another process trains here{owner}: wait until it ends, or give this run another "
            f"{key}"
        ) from error
    try:
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()
        with contextlib.suppress(OSError):  # not empty
            for path in made:
                path.rmdir()
