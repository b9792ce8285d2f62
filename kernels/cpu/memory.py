"""Memory of large results, used again when their tensors are gone.

The system clears pages as they are touched for the first time, which takes longer than what the engine writes
to them; and the C library gives large pieces back to the system whenever its heap happens to end with them.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Sequence
from ctypes import c_uint8

import torch
from torch import Tensor

LEAST = 1 << 20  # bytes; what is smaller stays in the heap anyway
# What waits for its next use; the oldest goes first. Threads and the garbage collector may come in between
# any two lines: only its atomic operations are used.
_idle: deque[Tensor] = deque(maxlen=4)


@functools.lru_cache(maxsize=16)
def _lease(size: int) -> type:
    class Lease(c_uint8 * size):
        """What a tensor holds on to: lets its piece of memory go when the tensor does."""

        def __del__(self, give_back: Callable[[Tensor], None] = _idle.append) -> None:
            give_back(self.piece)

    return Lease


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor as of `torch.empty`, whose memory comes back here when its last view is gone.

    Its storage cannot be resized.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST:
        return torch.empty(shape, dtype=dtype, device="cpu")
    piece = _take(size)
    lease = _lease(size).from_address(piece.data_ptr())
    lease.piece = piece
    # In place: a view that an autograd function returns could not be changed in place.
    return torch.frombuffer(lease, dtype=dtype).resize_(shape)


def clear() -> None:
    """Give what waits for its next use back to the system."""
    _idle.clear()


def _take(size: int) -> Tensor:
    for _ in range(len(_idle)):
        try:
            piece = _idle.popleft()
        except IndexError:  # Another thread has taken it.
            break
        if size <= piece.numel() <= size + size // 4:
            return piece
        _idle.append(piece)
    return torch.empty(size, dtype=torch.uint8, device="cpu")
