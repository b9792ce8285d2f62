"""What a GPU computes, beside what the emulator says that the same PTX computes.

    python -m tests.triton.emulator.beside_gpu [--out FILE] [--dry-run]

A number may differ where the emulator rounds correctly and a GPU approximates (division, ex2, sqrt), or where
ptxas fuses a product and a sum. Anything else is a mistake of the emulator, of ptxas, or a race. Fails where
the two are further apart than a kernel may be from the reference. `--dry-run`: Triton's interpreter stands
for the GPU.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import torch

from depthloss.files import write_json

# Losses that have every kernel between them, and the dtypes of their maps.
CASES = (
    ("g2 published", "f32"),
    ("g2 document", "f32"),
    ("g2 document", "bf16"),
    ("adaptive-multi-domain", "f32"),
    ("ssi-silog", "f16"),
    ("berhu", "f64"),
    ("affine-invariant trimmed", "f32"),
    ("affine-invariant of the batch", "f64"),
    ("scale-shift-invariant", "f32"),
    ("ssi-trim", "bf16"),
)
FIELDS = ("total", "terms", "grad", "log_vars")
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def evaluated(name: str, dtype: str, tiles: str, device: str) -> dict[str, torch.Tensor]:
    """The numbers of a loss on odd maps, with the launch parameters `tiles`, in the present process, and the
    pixels near a kink.
    """
    from depthloss.kernels import triton as engine
    from depthloss.kernels.triton import geometry

    from ...fused.compare import evaluate
    from .cases import TILES, Case, build, maps

    loss = build(name)
    given, near = maps(Case(name, dtype, (2, 33, 65)), loss.spec)
    parameters, programs = TILES[tiles]
    with mock.patch.object(engine, "parameters", lambda *_: parameters):
        with mock.patch.object(geometry, "MAX_PROGRAMS", programs):
            log_vars = (0.3, -0.2)[: len(loss.log_vars())]
            result = evaluate("triton", given.to(device), loss.spec, loss.weights(0.4, 3), log_vars)
    found = {field: getattr(result, field).cpu() for field in FIELDS}
    return found | {"near": near.view(given.pred.shape)}


def emulated(name: str, dtype: str, tiles: str, architecture: int) -> dict[str, torch.Tensor]:
    """`evaluated`, in the process of the emulator."""
    from .cases import emulate

    emulate(architecture, tiles)
    return evaluated(name, dtype, tiles, "cpu")


def ulps(x: torch.Tensor, y: torch.Tensor) -> int:
    """How many numbers of their dtype lie between two tensors at most."""
    steps = []
    for z in (x, y):
        bits = z.contiguous().view(INTEGERS[z.dtype.itemsize]).long()
        steps.append(torch.where(bits < 0, torch.iinfo(INTEGERS[z.dtype.itemsize]).min - bits, bits))
    return int((steps[0] - steps[1]).abs().max())


def compared(found: dict[str, torch.Tensor], said: dict[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """Of each result: how many numbers differ, by how many ulp, and by which part: of the largest entry of
    the gradient, of any other number itself. A gradient near a kink is left out.
    """
    rows = {}
    for field in FIELDS:
        x, y = found[field], said[field]
        if field == "grad":
            x, y = (z.masked_fill(said["near"], 0) for z in (x, y))
        if not y.numel():
            continue
        # The derivative by a log-variance is a difference of numbers as large as 1/2.
        least = {"grad": 1e-30, "log_vars": 0.5}.get(field, 1e-3)
        exact = y.double().abs()
        scale = (exact.max() if field == "grad" else exact).clamp(min=least)
        apart = float(((x.double() - y.double()).abs() / scale).max())
        different = int((x != y).sum())
        rows[field] = {"different": different, "of": y.numel(), "ulp": ulps(x, y), "part": apart}
    return rows


def agree(results: dict[str, dict[str, float]], said: dict[str, torch.Tensor]) -> bool:
    """Whether no result is further off than a kernel may be from the reference."""
    from ...fused.compare import OF_A_NUMBER, ROUNDING

    rounding = {torch.float64: 1e-10, **ROUNDING}
    least = 1e-12 if said["total"].dtype == torch.float64 else OF_A_NUMBER
    allowed = {"grad": 2 * max(rounding[said[field].dtype] for field in ("grad", "total"))}
    return all(result["part"] <= allowed.get(field, least) for field, result in results.items())


def main() -> int:
    """Compare, print, write after each case; 1 if a case is further apart than rounding."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="path of the JSON")
    parser.add_argument("--dry-run", action="store_true", help="two cases, in Triton's interpreter")
    options = parser.parse_args()
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # Before Triton is imported.
        if not options.out:
            parser.error("--dry-run needs --out, as it measures no GPU")
    elif not torch.cuda.is_available():
        parser.error("torch finds no GPU; --dry-run works without one")
    from bench import harness

    from .cases import start

    device, architecture = ("cpu", 90) if options.dry_run else ("cuda", harness.architecture())
    if not options.out:
        options.out = harness.RESULTS / f"emulated_{harness.slug(torch.cuda.get_device_name())}.json"
    about = {
        **harness.origin(),
        "command": harness.command("tests.triton.emulator.beside_gpu", sys.argv[1:]),
        "machine": harness.machine(device),
        "dry_run": options.dry_run,
    }
    rows: list[dict] = []
    with mock.patch.dict(os.environ, TRITON_INTERPRET="0", OMP_NUM_THREADS="1"):
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        pool.submit(start).result()
    with pool:
        for name, dtype in CASES[1:6:4] if options.dry_run else CASES:
            for tiles in ("small",) if options.dry_run else ("small", "loops"):
                task = pool.submit(emulated, name, dtype, tiles, architecture)
                found, said = evaluated(name, dtype, tiles, device), task.result()
                results, near = compared(found, said), int(said["near"].sum())
                good = agree(results, said)
                row = {"loss": name, "dtype": dtype, "tiles": tiles, "agrees": good, "left_out": near}
                rows.append(row | {"results": results})
                shown = ", ".join(
                    f"{field} {r['different']}/{r['of']} by {r['ulp']} ulp, {r['part']:.1e}"
                    for field, r in results.items()
                )
                print(f"{'ok' if good else 'WRONG':<6}{name} {dtype} {tiles}: {shown}", flush=True)
                write_json(options.out, {**about, "rows": rows})
    wrong = sum(not row["agrees"] for row in rows)
    print(f"{len(rows) - wrong} of {len(rows)} agree; wrote {options.out}")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
