"""Global and shared memory: bounds, alignment, races, memory that nobody has written, atomics."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import torch

from .arithmetic import RAW


class Fault(Exception):
    """What no GPU would run as it is meant."""


# ---- races -------------------------------------------------------------------------------------------------
# Who touches memory, as one number: CTA << 32 | barriers passed << 8 | warp + 1.
_SEVERAL_WARPS = np.int64(0xFF)
_SEVERAL_CTAS = np.int64((1 << 62) | 0xFF)


def conflict(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Whether no barrier lies between two: of two CTAs, or of two warps of one between the same barriers.

    The lanes of one warp count as running in lockstep.
    """
    differ = old ^ new
    return (old != 0) & ((differ >> 32 != 0) | ((differ != 0) & (differ >> 8 == 0)))


def both(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Who stands for two accesses: the later one, or a mark for several."""
    joined = np.where(conflict(old, new), new | _SEVERAL_WARPS, new)
    return np.where((old != 0) & ((old ^ new) >> 32 != 0), _SEVERAL_CTAS, joined)


class Shadow:
    """Of each granule of memory, who has read it, written it and changed it by an atomic operation."""

    AGAINST = {"read": ("write", "atomic"), "write": ("write", "atomic", "read"), "atomic": ("write", "read")}

    def __init__(self, granules: int) -> None:
        self.who = {kind: np.zeros(granules, np.int64) for kind in self.AGAINST}
        self.line = {kind: np.zeros(granules, np.int32) for kind in self.AGAINST}

    def note(self, kind: str, at: np.ndarray, who: np.ndarray, line: int, same=None) -> str | None:
        """Note an access; a race is described. `same`: lanes that write what is there already: no race."""
        for other in self.AGAINST[kind]:
            bad = conflict(self.who[other][at], who)
            if other == "write" and same is not None:
                bad &= ~same
            if bad.any():
                return f"the {other} at PTX line {self.line[other][at[bad][0]]}"
        mine = self.who[kind]
        mine[at] = joined = both(mine[at], who)
        # Lanes of this very access.
        last = mine[at]
        together = both(last, joined)
        for which in ((together != last) & (together < _SEVERAL_CTAS), together == _SEVERAL_CTAS):
            mine[at[which]] = together[which]
        self.line[kind][at] = line
        return None


# ---- memory ------------------------------------------------------------------------------------------------
def _operate(op: str, old: np.ndarray, values: list[np.ndarray]) -> np.ndarray:
    """What an atomic operation leaves."""
    if op == "cas":
        return np.where(old == values[0], values[1], old)
    function: dict[str, Callable] = {
        "add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
        "xor": np.bitwise_xor, "exch": lambda _, new: new
    }  # fmt: skip
    return function[op](old, values[0])


class Bytes:
    """A piece of memory: lanes read and write at offsets, which are inside and aligned."""

    def __init__(self, data: np.ndarray, granule: int) -> None:
        self.views = {n: data[: data.size // n * n].view(RAW[n]) for n in (1, 2, 4, 8)}
        self.granule = granule
        self.shadow = Shadow(-(-data.size // granule))

    def _note(self, kind: str, at: np.ndarray, size: int, who: np.ndarray, line: int, same=None) -> None:
        first = at // self.granule
        for i in range(-(-size // self.granule)):
            race = self.shadow.note(kind, first + i, who, line, same)
            if race:
                raise Fault(f"a race: no barrier between this {kind} and {race}")

    def read(self, at: np.ndarray, size: int, count: int, who: np.ndarray, line: int) -> list[np.ndarray]:
        self._note("read", at, size * count, who, line)
        return [self.views[size][at // size + i] for i in range(count)]

    def write(self, at: np.ndarray, values: list[np.ndarray], who: np.ndarray, line: int) -> None:
        """Several threads may write one number if it is the same, as Triton's redundant threads do."""
        size = values[0].itemsize
        places = [(self.views[size], at // size + i, x) for i, x in enumerate(values)]
        same = np.logical_and.reduce([memory[index] == x for memory, index, x in places])
        self._note("write", at, size * len(values), who, line, same)
        for memory, index, x in places:
            memory[index] = x
            if (memory[index] != x).any():
                raise Fault("a race: lanes of one instruction write different numbers to one address")

    def atomic(
        self, op: str, at: np.ndarray, values: list[np.ndarray], who: np.ndarray, line: int
    ) -> np.ndarray:
        """One lane after the other where several have one address; what was there before each of them."""
        size, kind = values[0].itemsize, values[0].dtype
        self._note("atomic", at, size, who, line)
        index = at // size
        order = np.argsort(index, kind="stable")
        ordered = index[order]
        first = np.searchsorted(ordered, ordered)  # of those with the same address
        turn = np.empty_like(index)
        turn[order] = np.arange(len(index)) - first
        memory, before = self.views[size], np.empty_like(values[0])
        for i in range(int(turn.max()) + 1):
            now = turn == i
            before[now] = memory[index[now]].view(kind)
            memory[index[now]] = _operate(op, before[now], [x[now] for x in values]).view(memory.dtype)
        return before


class Shared:
    """The shared memory of many CTAs, one behind the other."""

    def __init__(self, ctas: int, size: int) -> None:
        self.size, self.stride = size, (size + 15) & ~15
        self.bytes = Bytes(np.zeros(max(ctas * self.stride, 16), np.uint8), granule=1)

    def place(self, address: np.ndarray, size: int, cta: np.ndarray) -> np.ndarray:
        """Offsets of addresses."""
        at = address.astype(np.int64)
        bad = (at & (size - 1) != 0) | (at + size > self.size)
        if bad.any():
            what = "misaligned" if at[bad][0] & (size - 1) else "out of bounds"
            raise Fault(f"{size} bytes at {at[bad][0]} of {self.size} bytes of shared memory: {what}")
        return at + cta * self.stride

    def check_written(self, at: np.ndarray, size: int) -> None:
        """Before a read."""
        who = self.bytes.shadow.who
        for i in range(size):
            if ((who["write"][at + i] | who["atomic"][at + i]) == 0).any():
                raise Fault("shared memory is read before it was written")


class Tensor:
    """A tensor that a launch was given: the addresses of its elements, and its storage as bytes."""

    def __init__(self, name: str, x: torch.Tensor, storages: dict[int, Bytes]) -> None:
        self.name, storage = name, x.untyped_storage()
        self.base = storage.data_ptr() & ~15
        self.first = self.last = x.data_ptr()
        if not x.numel():
            return
        for size, stride in zip(x.shape, x.stride(), strict=True):
            self.last += (size - 1) * stride * x.element_size()
        self.last += x.element_size()
        known = storages.get(self.base)
        if known is None or known.granule > x.element_size():
            size = storage.data_ptr() + storage.nbytes() - self.base
            data = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.base))
            storages[self.base] = Bytes(data, x.element_size())
        self.storages = storages

    @property
    def bytes(self) -> Bytes:
        return self.storages[self.base]

    def holds(self, address: np.ndarray, size: int) -> np.ndarray:
        return (address >= self.first) & (address + np.uint64(size) <= self.last)


class Global:
    """The tensors of a launch, and nothing else."""

    def __init__(self, tensors: list[tuple[str, torch.Tensor]]) -> None:
        storages: dict[int, Bytes] = {}
        self.tensors = [Tensor(name, x, storages) for name, x in tensors]

    def pieces(self, address: np.ndarray, size: int) -> list[tuple[Bytes, np.ndarray, np.ndarray | slice]]:
        """(memory, offsets, which lanes) of addresses, which are aligned and inside a tensor."""
        if (address & np.uint64(size - 1)).any():
            bad = int(address[address & np.uint64(size - 1) != 0][0])
            raise Fault(f"{size} bytes at {bad:#x}: misaligned; {self.nearest(bad)}")
        found, left = [], np.ones(address.shape, np.bool_)
        for tensor in self.tensors:
            here = tensor.holds(address, size) & left
            if here.all():
                return [(tensor.bytes, (address - np.uint64(tensor.base)).astype(np.int64), slice(None))]
            if here.any():
                which = np.flatnonzero(here)
                found.append(
                    (tensor.bytes, (address[which] - np.uint64(tensor.base)).astype(np.int64), which)
                )
                left &= ~here
        if left.any():
            bad = int(address[left][0])
            raise Fault(f"{size} bytes at {bad:#x}: out of bounds; {self.nearest(bad)}")
        return found

    def nearest(self, address: int) -> str:
        """The tensor that an address is nearest to, in words."""
        if not self.tensors:
            return "the kernel was given no tensor"

        def distance(tensor: Tensor) -> int:
            return max(tensor.first - address, address - tensor.last + 1, 0)

        tensor = min(self.tensors, key=distance)
        size = tensor.last - tensor.first
        where = f"{size} bytes from {tensor.first:#x}: at its byte {address - tensor.first}"
        return f"the nearest tensor is {tensor.name}, {where}"
