"""Whether weights are numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def nonfinite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity; the device is waited for once."""
    numbers = {name: t for name, t in tensors.items() if t.is_floating_point() or t.is_complex()}
    if not numbers:
        return []
    device = next(iter(numbers.values())).device
    finite = torch.stack([t.isfinite().all().to(device) for t in numbers.values()]).tolist()
    return [name for name, holds in zip(numbers, finite, strict=True) if not holds]
