"""Shared by the benchmarks: machine, inputs, losses under test, correctness gate, result files."""

from __future__ import annotations

import functools
import math
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from depthloss.kernels import cpu
from torch import Tensor

import depthloss
from depthloss.benchmark.measure import DTYPES, FORMS_OF_LOSSES, build, inputs, oracle  # noqa: F401
from depthloss.benchmark.measure import error as errors  # noqa: F401
from depthloss.benchmark.rivals import EPOCH, PROGRESS
from depthloss.env import cpu_name, report
from depthloss.files import write_json  # noqa: F401

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PHASES = ("forward", "backward", "forward+backward", "no-grad")
# Relative errors below these pass: a sum in float32 rounds, and single pixels cross a kink in float32.
LOSS_TOLERANCE = 5e-6
GRADIENT_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 6e-3}
MAX_ROTATION_BYTES = 2**30


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter(done.stdout.splitlines()), "").strip() if done.returncode == 0 else ""


@functools.cache
def machine(device: str) -> dict:
    """This machine: `depthloss.env`, the processor, and the driver, architecture and cache of a GPU."""
    result = {"cpu_name": cpu_name(), "cores": os.cpu_count(), "environment": report()}
    result["cpu_capability"] = torch.backends.cpu.get_cpu_capability()
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        result |= {
            "gpu": properties.name,
            "architecture": architecture(),
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "driver": _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
            or "unknown",
        }
    return result | {"cache_bytes": cache_bytes(device)}


def architecture() -> int | str:
    """Key of the table of launch parameters: compute capability x 10, or the AMD architecture's name."""
    properties = torch.cuda.get_device_properties(0)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0]
    return 10 * properties.major + properties.minor


@functools.cache
def origin() -> dict:
    """Commit, date and versions. The variable COMMIT names the commit of a tree without a repository."""
    commit = os.environ.get("COMMIT") or _first_line("git", "describe", "--always", "--dirty", "--abbrev=40")
    return {
        "commit": commit or "unknown",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": {name: report()[name] for name in ("depthloss", "python", "torch", "triton", "cuda")},
    }


def allocated(function: Callable[[], object]) -> int:
    """The peak of torch's allocator during a call, less what was allocated before it, in bytes."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def cache_bytes(device: str) -> int:
    """Size of the last-level cache: L2 of the GPU, or the largest cache that the system reports."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    sizes = [f.read_text().strip() for f in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    units = {"K": 2**10, "M": 2**20}
    return max((int(s[:-1]) * units[s[-1]] for s in sizes if s[-1:] in units), default=32 * 2**20)


def command(module: str, argv: Sequence[str]) -> list[str]:
    """The command line after `python`, without --out."""
    words = [word for word in argv if not word.startswith("--out=")]
    if "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    return ["-m", module, *words]


def reason(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".replace(str(ROOT), ".").replace("\n", " ")[:300]


def slug(name: str) -> str:
    """A device's name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def rotation(shape: Sequence[int], dtype: torch.dtype, device: str) -> int:
    """How many clones of the inputs take three times the last-level cache."""
    one = math.prod(shape) * (2 * dtype.itemsize + 1)
    wanted = -(-3 * cache_bytes(device) // one) + 1
    return max(2, min(wanted, MAX_ROTATION_BYTES // one))


def fused_losses(backends: Sequence[str] = ("cpu", "triton")) -> list[str]:
    """Every loss that one of the fused backends runs, both variants of g2 first."""
    names = [*FORMS_OF_LOSSES, *(name for name in depthloss.available_losses() if name != "g2")]
    return [name for name in names if build(name, "auto", "cpu").spec.fused.intersection(backends)]


def choose(instruction_set: str) -> None:
    """Select the instruction set of the CPU engine.

    Raises:
        RuntimeError: this machine, or this build, does not have it.
    """
    if not cpu.choose(instruction_set):
        raise RuntimeError(f"this machine, or this build of the engine, does not have {instruction_set}")


def instruction_sets() -> list[str]:
    """Instruction sets to measure the CPU engine on: AVX-512 and AVX2 where available, else the baseline."""
    if cpu.unavailable():
        return ["base"]
    found = [name for name in ("avx512", "avx2") if cpu.choose(name)]
    cpu.choose(None)
    return found or ["base"]


class LossSubject:
    """One implementation of a loss on rotating inputs: a subject of the clocks.

    `instruction_set`: for the backend cpu.
    """

    phases = PHASES

    def __init__(
        self,
        call: torch.nn.Module,
        clones: Sequence[tuple[Tensor, Tensor, Tensor]],
        ours: bool = True,
        before: Callable[[], None] | None = None,
        instruction_set: str | None = None,
    ) -> None:
        self.module, self.before, self.instruction_set = call, before, instruction_set
        self.schedule = {"progress": PROGRESS, "epoch": EPOCH} if ours else {}
        self.clones = [(pred.detach().requires_grad_(), gt, mask) for pred, gt, mask in clones]
        self.rotation, self._next = len(clones), -1
        # Made once: it does not depend on the call.
        self.seed = torch.ones((), device=clones[0][0].device)
        self.parameters = [p for p in call.parameters() if p.requires_grad]

    def _forward(self) -> tuple[Tensor, list[Tensor]]:
        self._next = (self._next + 1) % self.rotation
        if self.before:
            self.before()
        pred, gt, mask = self.clones[self._next]
        return self.module(pred, gt, mask, **self.schedule), [pred, *self.parameters]

    def _backward(self, loss: Tensor, targets: list[Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss, targets, self.seed.to(loss.dtype))

    def start(self, phase: str) -> object:
        """Choose the instruction set; for the backward, run the forward."""
        if self.instruction_set:
            choose(self.instruction_set)
        return self._forward() if phase == "backward" else None

    def call(self, phase: str, state: object) -> object:
        """One call of the phase."""
        if phase == "backward":
            return self._backward(*state)
        if phase == "forward":
            return self._forward()[0]
        if phase == "no-grad":
            with torch.no_grad():
                return self._forward()[0]
        return self._backward(*self._forward())

    def evaluate(self) -> tuple[Tensor, list[Tensor]]:
        """The loss and its gradients, on the next inputs."""
        loss, targets = self.start("backward")
        return loss.detach().double(), [g.double() for g in self._backward(loss, targets)]


def green(found: dict[str, float], eager: dict[str, float], dtype: torch.dtype) -> bool:
    """Whether errors are within twice those of the eager slicing form, or below the tolerances."""
    least = {"loss": LOSS_TOLERANCE, "gradient": GRADIENT_TOLERANCE[dtype]}
    return all(found[key] <= max(2 * eager[key], least[key]) for key in least)
