"""What every loss must move at the least: p, g and the mask read once, a gradient written once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def bytes_per_pixel(dtype: torch.dtype) -> int:
    """p, g, the gradient, and a mask of one byte: 13 in float32, 7 in bfloat16."""
    return 3 * dtype.itemsize + 1


def forms(pred: Tensor, gt: Tensor, mask: Tensor, kernel: bool) -> list[Callable[[], object]]:
    """Copies of these bytes, of which the fastest counts.

    Triton's kernel, or torch's parallel copy of half as many bytes: reading and writing them moves all.
    """
    if kernel:
        from bench.speed.copy_kernel import BLOCKS, gpu_copy

        return [gpu_copy(pred, gt, mask, block) for block in BLOCKS]
    source = torch.ones(bytes_per_pixel(pred.dtype) * pred.numel() // 2, dtype=torch.uint8)
    target = source.clone()  # Touches its pages, which the first copy would otherwise fault in.
    return [lambda: target.copy_(source)]
