"""Counts the PTX instructions that the kernels of a loss execute, forward and backward.

    TRITON_INTERPRET=0 python -m tests.triton.emulator.count "g2 document" --shape 1 192 640 --arch 90

prints a line of JSON: of each kernel its CTAs, their threads, and instructions per pixel of the batch: those
of its warps x 32 / pixels. PTX is not machine code: compare such counts with each other only.
"""

from __future__ import annotations

import argparse
import json
import math

import torch

from ... import cases as losses
from ...fused import compare
from . import machine
from .cases import emulate, start


def executed(
    loss: torch.nn.Module,
    shape: tuple[int, int, int],
    arch: int = 90,
    dtype: torch.dtype = torch.float32,
    tiles: str = "table",
) -> dict[str, dict[str, float]]:
    """Instructions by kernel, in a process that `start` has prepared.

    Args:
        loss: a loss that has a fused form.
        shape: images, rows, columns; no pixel is invalid.
        arch: 90 for compute capability 9.0.
        dtype: of both maps.
        tiles: launch parameters, of `cases.TILES`; `table`: as launched.
    """
    emulate(arch, tiles)
    pred, gt = losses.maps(dtype, (shape[0], 1, *shape[1:]))
    given = compare.Inputs(pred, gt, torch.ones_like(pred, dtype=torch.bool))
    machine.REPORTS.clear()
    compare.evaluate("triton", given, loss.spec, loss.weights(0.0, 0), (0.0,) * len(loss.log_vars()))
    return {
        report.kernel: {
            "ctas": report.ctas,
            "threads": report.threads,
            "per_pixel": round(32 * report.instructions / math.prod(shape), 2),
        }
        for report in machine.REPORTS
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("losses", nargs="+", choices=list(losses.LOSSES), metavar="loss")
    parser.add_argument("--shape", nargs=3, type=int, default=(1, 192, 640))
    parser.add_argument("--arch", type=int, default=90)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    start()
    for name in options.losses:
        found = executed(
            losses.LOSSES[name](), tuple(options.shape), options.arch, getattr(torch, options.dtype)
        )
        print(json.dumps({"loss": name, "kernels": found}))


if __name__ == "__main__":
    main()
