"""The process that trains one run of a study: `train.py`, but it ends with the process that started it."""

from __future__ import annotations

import os
import sys
import threading


def _end_with_parent() -> None:
    # Only the parent holds the other end: reading ends when it does, however it ended. Two processes must
    # never write into one run directory.
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from depthloss.training import cli  # takes seconds, in which the parent may end

    cli.main(sys.argv[1:])
