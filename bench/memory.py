"""What a call costs beside time: memory, launches, waiting for the GPU."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import harness
import rivals
import torch
from harness import LossSubject
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

SMALL = (1, 1, 64, 96)


def peak_bytes(subject: LossSubject) -> int:
    """Most memory that torch gave out at a time during forward and backward; the gradient counts."""
    device = subject.seed.device.type
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        subject.call("forward+backward", None)
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        subject.call("forward+backward", None)
    now = most = 0
    for event in prof.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def saved_bytes(subject: LossSubject) -> int:
    """Memory that the forward keeps for the backward beyond the inputs and parameters."""
    own = {x.untyped_storage().data_ptr() for clone in subject.clones for x in clone}
    own |= {x.untyped_storage().data_ptr() for x in (*subject.module.parameters(), *subject.module.buffers())}
    kept = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), x
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        loss, _ = subject._forward()
    return sum(size for size, _ in kept.values())


def launches(subject: LossSubject) -> dict[str, int]:
    """Kernels, copies and fills on the GPU, of the forward and of the backward."""
    result = {}
    for phase in ("forward", "backward"):
        state = subject.start(phase)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as prof:
            subject.call(phase, state)
            torch.cuda.synchronize()
        result[phase] = sum(
            e.device_type == torch.autograd.DeviceType.CUDA and not getattr(e, "is_user_annotation", False)
            for e in prof.events()
        )
    return result


def host_syncs(subject: LossSubject) -> int:
    """How often forward and backward wait for the GPU."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            subject.call("forward+backward", None)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(w.message) for w in found)


def _status(name: str) -> int:
    return 1024 * int(re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)[1])


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
            [sys.executable, __file__, json.dumps(asdict(self))],
            capture_output=True,
            text=True,
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no output")
        return int(done.stdout)

    def run(self) -> int:
        """The same in this process, which must be fresh."""
        torch.set_num_threads(self.threads)
        eager = self.backend == "eager"
        module = rivals.build(self.loss) if eager else harness.build(self.loss, self.backend, "cpu")
        domain = harness.build(self.loss, "reference", "cpu").input_domain

        def subject(shape: tuple[int, ...]) -> LossSubject:
            maps = harness.inputs(shape, harness.DTYPES[self.dtype], "cpu", 1.0, domain)
            return LossSubject(module, [maps], not eager, instruction_set=self.instruction_set)

        subject(SMALL).evaluate()  # Code and threads come into memory.
        measured = subject(self.shape)
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # The peak starts anew from what is resident now.
        before = _status("VmRSS")
        measured.call("forward+backward", None)
        return _status("VmHWM") - before


def measures(
    pixels: int, on_gpu: bool, counted: bool, process: Process | None = None
) -> dict[str, Callable[[LossSubject], object] | None]:
    """What goes into a row, each as a function, None where it cannot be told.

    Not `counted` is what keeps its memory between calls.
    """
    allocated = (lambda s: peak_bytes(s) / pixels) if counted else None
    resident = (lambda s: process.resident_peak_bytes() / pixels) if process else None
    return {
        "peak_bytes_per_pixel": allocated if on_gpu else resident,
        "torch_peak_bytes_per_pixel": None if on_gpu else allocated,
        "saved_bytes_per_pixel": (lambda s: saved_bytes(s) / pixels) if counted else None,
        "host_syncs": host_syncs if on_gpu else None,
    }


if __name__ == "__main__":
    fields = json.loads(sys.argv[1])
    print(Process(**fields | {"shape": tuple(fields["shape"])}).run())
