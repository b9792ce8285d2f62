"""The process that compiles for the emulator: this one's Triton may be the interpreter."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import pytest


@pytest.fixture(scope="session")
def compiling(tmp_path_factory):
    """The environment of a process that compiles; kernels are kept for the session, or where it says."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # of all workers
    with pytest.MonkeyPatch.context() as patch:

        def enter() -> None:
            patch.setenv("TRITON_INTERPRET", "0")
            patch.setenv("OMP_NUM_THREADS", "1")
            if "TRITON_CACHE_DIR" not in os.environ:
                patch.setenv("TRITON_CACHE_DIR", str(folder / "triton"))

        yield enter, patch.undo


@pytest.fixture(scope="session")
def emulated(compiling) -> Callable:
    """`emulated(function, *arguments)` calls a function of `cases.py` in that process."""
    from .cases import start

    enter, leave = compiling
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        enter()
        pool.submit(start).result()
        leave()
        yield lambda function, *arguments: pool.submit(function, *arguments).result()
