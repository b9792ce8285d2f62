"""Runs a program: all lanes of many CTAs at once, the smallest block first, so that diverged lanes meet."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .arithmetic import RAW, Perturbation
from .lower import Program
from .memory import Fault, Global, Shared
from .parse import Kernel

LANES = 16384  # at most so many at once
LIMIT = 1_000_000  # blocks that a chunk of CTAs may run
perturbation = Perturbation()  # of what is launched from here on


@dataclass
class Report:
    """One launch. `instructions`: PTX instructions that its warps ran."""

    kernel: str
    ctas: int
    threads: int
    instructions: int = 0


REPORTS: list[Report] = []  # of every launch since it was cleared


@dataclass
class Launch:
    """What a launch is given."""

    ctas: int
    threads: int
    shared: int
    parameters: dict[str, bytes]
    memory: Global
    report: Report


class Machine:
    """Some CTAs of a launch at work."""

    def __init__(self, program: Program, launch: Launch, first: int, ctas: int) -> None:
        self.program, self.launch, self.ctas, self.threads = program, launch, ctas, launch.threads
        self.n = n = ctas * launch.threads
        thread, cta = np.tile(np.arange(launch.threads), ctas), np.repeat(np.arange(ctas), launch.threads)
        self.cta, self.lane = cta, thread & 31
        self.warp = np.arange(n) & ~31  # the first lane of each lane's warp
        self.who = ((cta + first + 1) << 32) + (thread >> 5) + 1  # see memory.py
        self.shared = Shared(ctas, launch.shared)
        self.all = np.arange(n)
        self.registers = list(program.initial)
        zero = np.zeros(1, np.uint32)
        special = {
            "%tid.x": thread, "%ctaid.x": cta + first, "%laneid": thread & 31,
            "%ntid.x": zero + launch.threads, "%nctaid.x": zero + launch.ctas,
            "%tid.y": zero, "%tid.z": zero, "%ctaid.y": zero, "%ctaid.z": zero
        }  # fmt: skip
        for name, slot in program.special.items():
            self.registers[slot] = special[name].astype(np.uint32)

    def run(self) -> None:
        """Until every lane has returned."""
        blocks, registers = self.program.blocks, self.registers
        end = len(blocks)
        where = np.zeros(self.n, np.int32)  # the block of each lane; all in one: `mask` is None
        here, together = 0, True
        for _ in range(LIMIT):
            if not together:
                here = int(where.min())
            if here >= end:
                return
            mask = None if together else where == here
            if mask is not None and mask.all():
                mask, together = None, True
            code = blocks[here]
            warps = self.n // 32 if mask is None else int(mask.reshape(-1, 32).any(1).sum())
            self.launch.report.instructions += warps * code.cost
            for line, step, drop in code.steps:
                try:
                    step(self, registers, mask)
                except Fault as fault:
                    raise Fault(self.program.kernel.fault(line, str(fault))) from None
                for slot in drop:
                    registers[slot] = None
            target = end if code.end == "ret" else code.target
            taken = None
            if code.guard:
                slot, negated = code.guard
                taken = np.broadcast_to(~registers[slot] if negated else registers[slot], (self.n,))
            elif target is None:
                target = here + 1
            if mask is None and (taken is None or taken.all() or not taken.any()):
                here = target if taken is None or taken[0] else here + 1
                continue
            if mask is None:
                mask, together = np.ones(self.n, np.bool_), False
            where[mask] = target if taken is None else np.where(taken, target, here + 1)[mask]
        raise Fault(f"{self.program.kernel.name} does not end: {LIMIT} basic blocks have run")

    # -- memory
    def lanes(self, mask: np.ndarray | None, guard: np.ndarray | None) -> np.ndarray:
        """Indices of the lanes that take part."""
        if guard is None:
            return self.all if mask is None else np.flatnonzero(mask)
        guard = np.broadcast_to(guard, (self.n,))
        return np.flatnonzero(guard if mask is None else guard & mask)

    def _of(self, x: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        if len(x) == 1:
            return np.broadcast_to(x, lanes.shape)
        return x if lanes is self.all else x[lanes]

    def _pieces(self, space: str, address: np.ndarray, size: int, lanes: np.ndarray) -> list:
        if space == "global":
            return self.launch.memory.pieces(address, size)
        return [(self.shared.bytes, self.shared.place(address, size, self.cta[lanes]), slice(None))]

    def _spread(self, x: np.ndarray, lanes: np.ndarray) -> np.ndarray:
        """Values of some lanes, and 0 of the others."""
        if lanes is self.all:
            return x
        full = np.zeros(self.n, x.dtype)
        full[lanes] = x
        return full

    def read(
        self, space: str, address: np.ndarray, size: int, count: int, lanes: np.ndarray, line: int
    ) -> list:
        """`count` numbers of `size` bytes for each lane."""
        if not lanes.size:
            return [np.zeros(1, RAW[size])] * count
        address, who = self._of(address, lanes), self.who[lanes]
        found = [np.empty(lanes.shape, RAW[size]) for _ in range(count)]
        for memory, at, which in self._pieces(space, address, size * count, lanes):
            if space == "shared":
                self.shared.check_written(at, size * count)
            for out, values in zip(found, memory.read(at, size, count, who[which], line), strict=True):
                out[which] = values
        return [self._spread(x, lanes) for x in found]

    def write(self, space: str, address: np.ndarray, values: list, lanes: np.ndarray, line: int) -> None:
        if not lanes.size:
            return
        address, who = self._of(address, lanes), self.who[lanes]
        values = [self._of(x, lanes) for x in values]
        size = values[0].itemsize * len(values)
        for memory, at, which in self._pieces(space, address, size, lanes):
            memory.write(at, [x[which] for x in values], who[which], line)

    def atomic(self, space: str, op: str, address: np.ndarray, values: list, lanes: np.ndarray, line: int):
        """What was at the address of each lane before."""
        if not lanes.size:
            return values[0]
        address, who = self._of(address, lanes), self.who[lanes]
        values = [self._of(x, lanes) for x in values]
        before = np.empty_like(values[0])
        for memory, at, which in self._pieces(space, address, before.itemsize, lanes):
            before[which] = memory.atomic(op, at, [x[which] for x in values], who[which], line)
        return self._spread(before, lanes)

    # -- warps
    def whole_warps(self, mask: np.ndarray | None, members: np.ndarray) -> None:
        """All lanes of each warp that is here are here, and are meant."""
        if (members != 0xFFFFFFFF).any():
            raise Fault("some lanes of a warp are meant, not all")
        if mask is not None:
            warps = mask.reshape(-1, 32)
            if (warps.any(1) != warps.all(1)).any():
                raise Fault("lanes of the warp are missing")

    def shuffle(self, mode: str, x: np.ndarray, b: np.ndarray, c: np.ndarray, members: np.ndarray, mask):
        """(the value of another lane, or the own one where there is none; whether there is one)."""
        self.whole_warps(mask, members)
        lane, b, c = self.lane, b.astype(np.int64) & 31, c.astype(np.int64)
        segment, clamp = (c >> 8) & 31, c & 31
        least = lane & segment
        bound = least | (clamp & ~segment)
        j = {"bfly": lane ^ b, "idx": least | (b & ~segment), "up": lane - b}[mode]
        valid = j >= bound if mode == "up" else j <= bound
        other = self.warp + np.where(valid, j, lane)
        return np.broadcast_to(x, (self.n,))[other], np.broadcast_to(valid, (self.n,))

    def reduce(self, op: str, x: np.ndarray) -> np.ndarray:
        """Over the lanes of each warp."""
        function = {"add": np.add, "min": np.minimum, "max": np.maximum}[op]
        warps = np.broadcast_to(x, (self.n,)).reshape(-1, 32)
        return np.repeat(function.reduce(warps, axis=1, dtype=x.dtype), 32)

    def ballot(self, p: np.ndarray) -> np.ndarray:
        """A bit for each lane of the warp."""
        warps = np.broadcast_to(p, (self.n,)).reshape(-1, 32)
        bits = np.packbits(warps, axis=1, bitorder="little").view(np.uint32)
        return np.repeat(bits[:, 0], 32)

    def _words(self, address: np.ndarray, count: int, mask: np.ndarray | None) -> tuple[np.ndarray, list]:
        """Addresses: lanes 8 i … 8 i + 7 give the rows of matrix i; lane l has word l % 4 of row l / 4."""
        self.whole_warps(mask, np.array([0xFFFFFFFF]))
        address, lanes, found = np.broadcast_to(address, (self.n,)), self.lanes(mask, None), []
        for i in range(count):
            row = address[self.warp + 8 * i + (self.lane >> 2)]
            if (row[lanes] & 15).any():
                raise Fault("a row of a matrix is not aligned to 16 bytes")
            found.append(row + 4 * (self.lane & 3).astype(np.uint32))
        return lanes, found

    def load_matrices(self, address: np.ndarray, count: int, mask: np.ndarray | None, line: int) -> list:
        lanes, words = self._words(address, count, mask)
        return [self.read("shared", word, 4, 1, lanes, line)[0] for word in words]

    def store_matrices(self, address: np.ndarray, values: list, mask: np.ndarray | None, line: int) -> None:
        lanes, words = self._words(address, len(values), mask)
        for word, value in zip(words, values, strict=True):
            self.write("shared", word, [value], lanes, line)

    def barrier(self, mask: np.ndarray | None) -> None:
        """All threads of a CTA, or none, and from here on nobody races with what was before."""
        if mask is None:
            self.who += 1 << 8
            return
        arrived = mask.reshape(self.ctas, -1)
        if (arrived.any(1) != arrived.all(1)).any():
            raise Fault("a barrier at which some threads do not arrive")
        self.who[mask] += 1 << 8


@functools.lru_cache(maxsize=512)
def program(name: str, ptx: str, perturbation: Perturbation) -> Program:
    return Program(Kernel(name, ptx), perturbation)


_LOCK = threading.Lock()


def load(name: str, ptx: str) -> Callable:
    """What a launch of this kernel calls."""

    def launch(
        grid: tuple[int, int, int], threads: int, shared: int, parameters: list[bytes], tensors: list
    ) -> None:
        code = program(name, ptx, perturbation)
        named = dict(zip(code.kernel.parameters, parameters, strict=True))
        if list(map(len, parameters)) != list(code.kernel.parameters.values()) or grid[1:] != (1, 1):
            raise Fault(f"{name}: arguments of {list(map(len, parameters))} bytes, grid {grid}")
        report = Report(name, grid[0], threads)
        memory, chunk = Global(tensors), max(1, LANES // threads)
        with _LOCK, np.errstate(all="ignore"):
            for first in range(0, grid[0], chunk):
                given = Launch(grid[0], threads, shared, named, memory, report)
                Machine(code, given, first, min(chunk, grid[0] - first)).run()
        REPORTS.append(report)

    return launch
