"""Resident memory of a forward and a backward on a CPU, each measured in a process of its own."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from depthloss.kernels import cpu

from .measure import DTYPES, domain_of, forward_and_backward, inputs

SMALL = (1, 1, 64, 96)
# Variables with which glibc gives free blocks back to the system: else they would count as used.
RETURNED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def _status(name: str) -> int:
    return 1024 * int(re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)[1])


def growth(call: Callable[[], object]) -> int:
    """By how many bytes this process's resident memory grows at most in a call; Linux only."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # The peak restarts from what is resident now.
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


@dataclass(frozen=True)
class Process:
    """A loss on a CPU, in a process of its own; backend "eager" is the form of rivals.py."""

    loss: str
    backend: str
    shape: tuple[int, ...]
    dtype: str
    threads: int
    instruction_set: str | None = None

    def resident_peak_bytes(self) -> int:
        """By how much its resident memory grows at most in its first forward and backward.

        Native code's own memory counts, of which torch's profiler knows nothing; what it keeps between calls
        too, as this call is the first. Freed blocks go back to the system at once: they do not count.

        Raises:
            RuntimeError: it failed, for example because this is no Linux.
        """
        done = subprocess.run(
            [sys.executable, "-m", "depthloss.benchmark.memory", json.dumps(asdict(self))],
            capture_output=True,
            text=True,
            env=os.environ | RETURNED_AT_ONCE,
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output")
        return int(done.stdout)

    def run(self) -> int:
        """The same in this process, which must be fresh."""
        torch.set_num_threads(self.threads)
        if self.instruction_set:
            cpu.choose(self.instruction_set)
        call = forward_and_backward(self.loss, self.backend, "cpu")
        maps = partial(
            inputs, dtype=DTYPES[self.dtype], device="cpu", density=1.0, domain=domain_of(self.loss)
        )
        call(*maps(SMALL))  # Code and threads come into memory.
        measured = maps(self.shape)
        measured[0].requires_grad_()
        return growth(lambda: call(*measured))


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    print(Process(**fields | {"shape": tuple(fields["shape"])}).run())
