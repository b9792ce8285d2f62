"""What an evaluation asks of every pixel: which are finite, which are chosen, how many. No gradients.

On the CPU NumPy answers, with the same values: three to fifteen times as fast as torch for these questions.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def finite(x: Tensor) -> Tensor:
    """Return where a map is finite, bool in its shape."""
    return torch.from_numpy(np.isfinite(x.numpy())) if _fast(x) else x.isfinite()


def chosen(x: Tensor, mask: Tensor) -> Tensor:
    """Return the values [N] where a mask of the same shape is True, in the order of rows."""
    return torch.from_numpy(x.numpy()[mask.numpy()]) if _fast(x) and _fast(mask) else x[mask]


def count(mask: Tensor) -> int:
    """Return how many values of a mask are True."""
    return int(np.count_nonzero(mask.numpy())) if _fast(mask) else int(mask.sum())


def share(mask: Tensor) -> Tensor:
    """Return the share of a mask [N] that is True, 0-dim float64; NaN if it is empty."""
    value = count(mask) / len(mask) if len(mask) else math.nan
    return torch.scalar_tensor(value, dtype=torch.float64, device=mask.device)


def between(x: Tensor, low: float, high: float, inclusive: bool = False) -> Tensor:
    """Return where low < x < high, or with `inclusive` low <= x <= high; a NaN is not."""
    y = x.numpy() if _fast(x) else x
    return torch.as_tensor((y >= low) & (y <= high) if inclusive else (y > low) & (y < high))


def _fast(x: Tensor) -> bool:
    """Whether NumPy can read a tensor."""
    return x.is_cpu and x.dtype != torch.bfloat16 and not x.requires_grad
