"""A Triton driver without a GPU: the JIT's own path, from `kernel[(n,)](...)` to the launch, on CPU tensors.

`install(90)` replaces Triton's CUDA backend and driver in this process: kernels are compiled as for compute
capability 9.0, up to PTX, and a launch runs that PTX (`machine.py`). Arguments are flattened and converted as
Triton's launcher does it.
"""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from collections.abc import Callable

import torch
import triton
from triton.backends import Backend, backends
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend

from . import machine

FORMATS = {"i1": "b", "i8": "b", "i16": "h", "i32": "i", "i64": "q", "u1": "B", "u8": "B", "u16": "H",
           "u32": "I", "u64": "Q", "fp16": "e", "fp32": "f", "f32": "f", "fp64": "d"}  # fmt: skip
SHARED_BYTES = {75: 65536, 80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
Load = Callable[[str, str], Callable]
_DEVICES = itertools.count(1000)


class PtxBackend(CUDABackend):
    """Compiles to PTX and no further; its hash keeps what it compiles apart from cubins in a shared cache."""

    def __init__(self, target: GPUTarget) -> None:
        super().__init__(target)
        self.binary_ext = "ptx"

    def add_stages(self, stages, options, language) -> None:
        super().add_stages(stages, options, language)
        del stages["cubin"]

    def hash(self) -> str:
        return f"ptx-{self.target.arch}"


def leaves(name: str, kind: object, value: object) -> list[tuple[str, str, object]]:
    """(name, type, argument) of what the compiled kernel takes: tuples flattened, constants left out."""
    if isinstance(kind, tuple):
        parts = zip(kind, value, strict=True)
        return [x for i, (k, v) in enumerate(parts) for x in leaves(f"{name}[{i}]", k, v)]
    return [] if kind == "constexpr" else [(name, kind, value)]


def pack(kind: str, value: object) -> bytes:
    """The bytes of one parameter."""
    if kind.startswith("*"):
        address = value.data_ptr() if isinstance(value, torch.Tensor) else value or 0
        return struct.pack("Q", address)
    if kind == "bf16":
        return struct.pack("f", value)[2:]
    return struct.pack(FORMATS[kind], value)


class Launcher:
    """`driver.launcher_cls`."""

    def __init__(self, src, metadata) -> None:
        self.signature, self.metadata = dict(src.signature), metadata
        # A pointer to each of these memories follows the arguments; Triton 3.4 has no profile.
        scratch = (getattr(metadata, f"{kind}_scratch_size", None) for kind in ("global", "profile"))
        self.scratch = [size for size in scratch if size is not None]
        if metadata.num_ctas != 1 or metadata.launch_cooperative_grid or any(self.scratch):
            raise NotImplementedError(f"{metadata.name}: clusters, cooperative launches and scratch memory")

    def __call__(self, x, y, z, stream, function, packed, launch_metadata, enter, leave, *args) -> None:
        named = zip(self.signature.items(), args, strict=True)
        given = [x for (name, kind), value in named for x in leaves(name, kind, value)]
        parameters = [pack(kind, value) for _, kind, value in given] + len(self.scratch) * [bytes(8)]
        tensors = [(name, value) for name, _, value in given if isinstance(value, torch.Tensor)]
        function((x, y, z), 32 * self.metadata.num_warps, self.metadata.shared, parameters, tensors)


class Driver:
    """`triton.runtime.driver.active`, and `driver.utils`."""

    launcher_cls = Launcher

    def __init__(self, arch: int, load: Load) -> None:
        self.arch, self.load, self.utils = arch, load, self
        # The JIT keeps kernels by device: another architecture is another one, and so is another loader.
        self.device = arch if load is machine.load else next(_DEVICES)
        self.compiled = Counter()  # kernels compiled or found in the cache, by name

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": SHARED_BYTES[self.arch], "multiprocessor_count": 132, "warpSize": 32}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple:
        self.compiled[name] += 1
        return kernel, self.load(name, kernel.decode()), 32, 0, 1024


def install(arch: int, load: Load = machine.load) -> Driver:
    """Make this driver Triton's. `load(name, ptx)` gives what a launch calls, by default the emulator's."""
    backends["nvidia"] = Backend(PtxBackend, backends["nvidia"].driver)
    driver = Driver(arch, load)
    triton.runtime.driver.set_active(driver)
    return driver
