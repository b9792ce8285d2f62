"""What must be settled before torch and Triton are imported, and how a run tells its progress.

Without a GPU the Triton kernels run on CPU tensors, in the interpreter. Several test processes have one
thread each: threads of several processes on the same cores wait for each other.
"""

from __future__ import annotations

import os
import sys

import pytest

WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

from .progress import Progress  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_configure(config: pytest.Config) -> None:
    """A log file gets a line per minute, unless it asked for more."""
    if not WORKER and not sys.stdout.isatty() and config.option.verbose <= 0:
        config.pluginmanager.register(Progress(config), "progress")
