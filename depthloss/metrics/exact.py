"""Sums of float64 numbers that do not depend on their order, on the batches or on the ranks.

A number is written as whole digits to base 2^32, which are added as int64. That is exact and associative.
Every device has int64, and no conversion to half precision touches it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BITS = 32
DIGITS = 6
LOWEST = -96  # the last digit counts 2^-96, what is below is cut off; 2^96 and above counts as not finite
WIDTH = DIGITS + 1  # the last column counts the numbers that were not finite


def to_digits(values: Tensor) -> Tensor:
    """Return float64 [...] as int64 [..., WIDTH], which may be added up 2^31 times."""
    finite = values.abs() < 2.0 ** (LOWEST + BITS * DIGITS)
    mantissa, exponent = torch.frexp(torch.where(finite, values, 0.0))
    whole = (mantissa.abs() * 2.0**53).long()
    position = exponent.long() - 53 - LOWEST
    whole = whole >> (-position).clamp(0, 63)
    position = position.clamp(min=0)
    first, shift = position // BITS, position % BITS
    rest = whole >> (BITS - shift)
    low = (whole - (rest << (BITS - shift))) << shift
    digits = torch.stack([low, rest & (2**BITS - 1), rest >> BITS], -1) * mantissa.sign().long().unsqueeze(-1)
    out = torch.zeros(*values.shape, WIDTH, dtype=torch.long, device=values.device)
    out.scatter_(-1, torch.stack([first, first + 1, first + 2], -1), digits)
    out[..., -1] = (~finite).long()
    return out


def from_digits(digits: Tensor) -> Tensor:
    """Return the sums, float64 [...] on the CPU, correctly rounded; NaN where a number was not finite."""
    rows = digits.reshape(-1, WIDTH).tolist()
    sums = [
        math.nan if invalid else math.ldexp(float(sum(d << (BITS * i) for i, d in enumerate(row))), LOWEST)
        for *row, invalid in rows
    ]
    return torch.tensor(sums, dtype=torch.float64).reshape(digits.shape[:-1])
