"""The copy on a GPU: p, g and the mask read once, a gradient written once."""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements per program.
BLOCKS = (1024, 2048, 4096, 8192)


@triton.jit
def _copy(p, g, m, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    ok = i < n
    valid = tl.load(m + i, mask=ok, other=0) != 0
    value = tl.load(p + i, mask=ok, other=0.0)
    tl.store(out + i, tl.where(valid, value, tl.load(g + i, mask=ok, other=0.0)), mask=ok)


def gpu_copy(p: Tensor, g: Tensor, m: Tensor, block: int) -> Callable[[], object]:
    """The copy kernel on contiguous maps, m bool."""
    out, n, mask = torch.empty_like(p), p.numel(), m.view(torch.uint8)
    return lambda: _copy[(triton.cdiv(n, block),)](p, g, mask, out, n, BLOCK=block, num_warps=4)
