"""How many warps of a kernel a multiprocessor holds, by registers and shared memory.

The rules and numbers are those of the CUDA C++ Programming Guide, "Technical Specifications per Compute
Capability", and of cuda_occupancy.h: a warp gets its registers in units of 256 from one of four register
files of 16,384; of shared memory a program takes what it asks for, what the system keeps for each program,
and the rest of the last unit.
"""

from __future__ import annotations

from dataclasses import dataclass

WARP = 32
SCHEDULERS = 4  # parts of a multiprocessor, each with its own registers and one instruction issued per clock
REGISTERS, REGISTER_UNIT = 16384, 256  # of a scheduler


@dataclass(frozen=True)
class Limits:
    """Of a multiprocessor: warps and programs; shared memory, what is kept per program, and a unit."""

    warps: int
    programs: int
    shared: int
    kept: int
    unit: int


LIMITS = {
    "sm_75": Limits(32, 16, 64 << 10, 0, 256),
    "sm_80": Limits(64, 32, 164 << 10, 1024, 128),
    "sm_90": Limits(64, 32, 228 << 10, 1024, 128),
    "sm_100": Limits(64, 32, 228 << 10, 1024, 128),
}


def resident_warps(target: str, threads: int, registers: int, shared: int) -> int | None:
    """Warps that a multiprocessor holds at a time; None for a target without limits here.

    Args:
        target: such as ``"sm_90"``.
        threads: of a program.
        registers: of a thread.
        shared: bytes of shared memory of a program.
    """
    limits = LIMITS.get(target)
    if limits is None:
        return None
    warps = -(-threads // WARP)
    of_a_warp = _rounded(max(registers, 1) * WARP, REGISTER_UNIT)
    fit = [limits.warps // warps, limits.programs, SCHEDULERS * (REGISTERS // of_a_warp) // warps]
    if taken := _rounded(shared + limits.kept, limits.unit):
        fit.append(limits.shared // taken)
    return warps * min(fit)


def _rounded(x: int, unit: int) -> int:
    return -(-x // unit) * unit
