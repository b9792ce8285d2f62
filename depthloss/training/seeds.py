"""Random streams by name."""

from __future__ import annotations

import zlib

import numpy as np


def sample_rng(*key: int | str) -> np.random.Generator:
    """Random stream for a key such as (stream name, seed, epoch, index), the same in every process.

    Args:
        key: non-negative integers and names.
    """
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key]
    # SeedSequence treats missing words as zeros; the length keeps (a,) and (a, 0) apart.
    return np.random.Generator(np.random.PCG64([len(words), *words]))
