"""Runs PTX text, for the tests of the emulator itself: no GPU, no Triton."""

from __future__ import annotations

import struct

import numpy as np
import torch

from .machine import load

LETTER = {1: "b", 2: "h", 4: "w", 8: "d"}
HEAD = """.version 8.7
.target sm_90a
.extern .shared .align 16 .b8 memory[];
.visible .entry test({parameters})
{{
.reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %w<9>; .reg .b64 %d<9>; .reg .b32 %r<9>; .reg .b64 %rd<99>;
mov.u32 %r0, %tid.x;
cvt.u64.u32 %rd90, %r0;
"""


def run(body: str, *tensors: torch.Tensor, threads: int = 32, ctas: int = 1, shared: int = 0) -> None:
    """%rd0, %rd1, … are the tensors; %r0 is the thread, %rd90 too."""
    text = HEAD.format(parameters=",\n".join(f".param .u64 t{i}" for i in range(len(tensors))))
    text += "".join(f"ld.param.b64 %rd{i}, [t{i}];\n" for i in range(len(tensors))) + body + "\nret;\n}\n"
    addresses = [struct.pack("Q", x.data_ptr()) for x in tensors]
    named = [(f"t{i}", x) for i, x in enumerate(tensors)]
    load("test", text)((ctas, 1, 1), threads, shared, addresses, named)


def compute(instructions: str, *operands: np.ndarray, result: str) -> np.ndarray:
    """Instructions with operands {a}, {b}, {c} and a result {d}, a lane for each element of the arrays."""
    n, given = len(operands[0]), [*operands, np.zeros(len(operands[0]), result)]
    names, before = {}, ""
    for i, (letter, x) in enumerate(zip(["a", "b", "c"][: len(operands)] + ["d"], given, strict=True)):
        size = x.itemsize
        names[letter] = f"%{LETTER[size]}{i}"
        before += f"mad.lo.s64 %rd{50 + i}, %rd90, {size}, %rd{i};\n"
        if letter != "d":
            before += f"ld.global.b{8 * size} {names[letter]}, [%rd{50 + i}];\n"
    after = f";\nst.global.b{8 * given[-1].itemsize} [%rd{50 + len(operands)}], {names['d']};"
    tensors = [torch.from_numpy(x.view(f"i{x.itemsize}").copy()) for x in given]
    run(before + instructions.format(**names) + after, *tensors, threads=n)
    return tensors[-1].numpy().view(result)
