"""Checks of weights: the checksums of their file, which torch.load ignores, and finite values."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_AT_ONCE = 2**20  # bytes


def damage(path: Path) -> str | None:
    """Return what is wrong with a file that torch.save wrote; None if it is whole, or has no checksums.

    Every byte is read: a third of a second per GB of a file that the system has in memory.

    Args:
        path: a zip archive; in torch's format before 1.6, and in records that were written without one
            (`torch.serialization.set_crc32_options(False)`), there is no checksum to compare.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.CRC:
                    try:
                        with archive.open(record) as file:
                            while file.read(_AT_ONCE):
                                pass
                    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
                        return f"its record {record.filename} is not what its checksum says"
    except zipfile.BadZipFile as error:
        return str(error)
    return None


@torch.no_grad()
def nonfinite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity; synchronises with the device once."""
    numbers = {name: t for name, t in tensors.items() if t.is_floating_point() or t.is_complex()}
    if not numbers:
        return []
    device = next(iter(numbers.values())).device
    finite = torch.stack([t.isfinite().all().to(device) for t in numbers.values()]).tolist()
    return [name for name, holds in zip(numbers, finite, strict=True) if not holds]
