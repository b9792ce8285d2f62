"""Memory, launches and host synchronisations of a call."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from bench.harness import LossSubject, allocated
from depthloss.benchmark.memory import Process


def peak_bytes(subject: LossSubject) -> int:
    """Peak of torch's allocator during forward and backward; the gradient counts."""
    device = subject.seed.device.type
    if device == "cuda":
        return allocated(lambda: subject.call("forward+backward", None))
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
    """Number of kernels, copies and fills on the GPU, forward and backward."""
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
    """How often the host waits for the GPU during forward and backward."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            subject.call("forward+backward", None)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(w.message) for w in found)


def measures(
    pixels: int, on_gpu: bool, counted: bool, process: Process | None = None
) -> dict[str, Callable[[LossSubject], object] | None]:
    """The measures of a row, each as a function, None where it does not apply.

    `counted` is False for what keeps its memory between calls.
    """
    allocated = (lambda s: peak_bytes(s) / pixels) if counted else None
    resident = (lambda s: process.resident_peak_bytes() / pixels) if process else None
    return {
        "peak_bytes_per_pixel": allocated if on_gpu else resident,
        "torch_peak_bytes_per_pixel": None if on_gpu else allocated,
        "saved_bytes_per_pixel": (lambda s: saved_bytes(s) / pixels) if counted else None,
        "host_syncs": host_syncs if on_gpu else None,
    }
