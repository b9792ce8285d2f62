"""Two builds of the native CPU engine, bit for bit: losses, metrics, gradients.

    python -m tests.cpu.proof.same_bits BEFORE AFTER [--clone FOLDER] [--every N]

BEFORE and AFTER are compiled engines (kernels/cpu/_engine.so, kept under another name). Where their layouts
differ, the Python of this clone refuses BEFORE: FOLDER is a clone as it was when that was compiled (`git
worktree add FOLDER COMMIT`). The cases: every loss that both run, every mask, dtype and size, in turns with
threads, instruction sets, memory layouts and dtypes of the mask. A process for each library. Prints what
differs, and by how much; exit status 1 if anything does.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[3]
SHAPES = ((3, 1, 24, 41), (1, 1, 150, 97), (2, 1, 66, 160))
MASK_DTYPES = (torch.bool, torch.bool, torch.float32, torch.uint8)
SETS = ("base", "avx2", "avx512")


class Case(NamedTuple):
    """A loss by its name in tests/cases.py, and what it is evaluated on."""

    loss: str
    mask: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    layout: str
    mask_dtype: torch.dtype
    threads: int
    instruction_set: str


def draw_cases(every: int = 1) -> list[Case]:
    """All cases, or each `every`-th."""
    from tests import cases

    losses = [name for name, build in cases.LOSSES.items() if "cpu" in build().spec.fused]
    found = []
    for loss in losses:
        turns = random.Random(loss)  # A loss that the other side does not know moves none of the others.
        rows = list(itertools.product(cases.MASKS, cases.DTYPES, SHAPES))
        turns.shuffle(rows)
        for row in rows[::every]:
            layout, mask_dtype = turns.choice(cases.LAYOUTS), turns.choice(MASK_DTYPES)
            found.append(Case(loss, *row, layout, mask_dtype, turns.randint(1, 3), turns.choice(SETS)))
    return found


def evaluate(case: Case) -> dict[str, Tensor]:
    """What the engine makes of a case: the loss, its metrics, and the gradients."""
    from depthloss.kernels import cpu

    import depthloss as dl
    from tests import cases

    module = cases.LOSSES[case.loss]()
    shared = case.layout == "expanded mask"
    pred, gt = (cases.lay_out(x, case.layout) for x in cases.maps(case.dtype, case.shape))
    mask = cases.mask(case.mask, case.shape, shared)
    if mask is not None:
        mask = mask.to(case.mask_dtype)
    pred.requires_grad_()
    cpu.choose(case.instruction_set)  # Where this machine lacks it, the best that there is.
    torch.set_num_threads(case.threads)
    with dl.use_backend("cpu"):
        loss = module(pred, gt, mask)
        loss.backward()
    cpu.choose(None)
    metrics = {f"metric {name}": torch.as_tensor(value) for name, value in module.metrics.items()}
    weights = {f"gradient of {name}": x.grad for name, x in module.named_parameters()}
    found = {"loss": loss, **metrics, "gradient": pred.grad, **weights}
    return {name: x.detach().clone() for name, x in found.items() if x is not None}


def difference(a: Tensor, b: Tensor) -> float | None:
    """How far two tensors are apart, as a share of the largest number of both; None if all bits agree (NaN is
    NaN).
    """
    if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a.isnan(), b.isnan()):
        return torch.inf
    a, b = a.nan_to_num(0.0).double(), b.nan_to_num(0.0).double()
    if torch.equal(a, b) and torch.equal(a.signbit(), b.signbit()):
        return None
    size = torch.maximum(a.abs(), b.abs()).max()
    return ((a - b).abs().max() / size.clamp(min=1e-300)).item()


def differences(before: dict[Case, dict], after: dict[Case, dict]) -> list[tuple[Case, str, float]]:
    """Of the cases of both, the numbers that differ, and by how much."""
    found = []
    for case in before.keys() & after.keys():
        one, other = before[case], after[case]
        found += [(case, name, torch.inf) for name in one.keys() ^ other.keys()]
        apart = ((name, difference(one[name], other[name])) for name in one.keys() & other.keys())
        found += [(case, name, d) for name, d in apart if d is not None]
    return found


def _results_of(library: Path, clone: Path, every: int, folder: str) -> dict[Case, dict]:
    out = Path(folder) / "results.pt"
    words = [sys.executable, __file__, "--inside", clone, "--every", every, out, out]
    env = {**os.environ, "DEPTHLOSS_CPU_LIBRARY": str(library.resolve()), "OMP_NUM_THREADS": "1"}
    subprocess.run([str(word) for word in words], env=env, cwd=clone, check=True)
    return {Case(*key): value for key, value in torch.load(out).items()}


def _inside(clone: Path, every: int, out: Path) -> None:
    """Evaluate all cases with the Python of a clone, wherever this one is installed."""
    sys.path[0] = str(clone)
    kernels = clone / "kernels" / "__init__.py"
    import depthloss  # noqa: F401

    spec = importlib.util.spec_from_file_location(
        "depthloss.kernels", kernels, submodule_search_locations=[str(kernels.parent)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["depthloss.kernels"] = module
    spec.loader.exec_module(module)
    torch.save({tuple(case): evaluate(case) for case in draw_cases(every)}, out)


def main() -> int:
    """Run, print; 1 if anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--clone", type=Path, default=ROOT, help="whose Python goes with BEFORE")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th case")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        _inside(options.inside, options.every, options.after)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        before = _results_of(options.before, options.clone.resolve(), options.every, folder)
        after = _results_of(options.after, ROOT, options.every, folder)
    found = differences(before, after)
    for case, name, d in sorted(found, key=lambda row: -row[2])[:20]:
        print(f"{name} differs by {d:.1e} of the largest: {case}")
    wrong = len({case for case, _, _ in found})
    losses = {case.loss for case in before.keys() & after.keys()}
    print(f"{len(before.keys() & after.keys())} cases of {len(losses)} losses, {wrong} differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
