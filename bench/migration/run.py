"""Hold the lines of docs/migration against the published formulas: python -m bench.migration.run."""

from __future__ import annotations

import argparse
import ast
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.harness import RESULTS, ROOT, machine, origin, write_json
from bench.migration.forms import FORMS, INVERSE, Batch

PAGES = ROOT / "docs" / "migration"
BLOCK = re.compile(r"<!-- form: (\S+) -->\n```python\n(.*?)```", re.S)
# Valid pixels of a depth camera on a room, and of a LiDAR on a street.
SIZES = {"480×640, 72% valid": (4, 480, 640, 0.72), "352×1216, 3.4% valid": (4, 352, 1216, 0.034)}


def lines() -> dict[str, dict[str, str]]:
    """By page, then by form: the code that replaces it."""
    return {
        page.stem: dict(BLOCK.findall(page.read_text(encoding="utf-8")))
        for page in sorted(PAGES.glob("*.md"))
        if page.stem != "README"
    }


def batch(form: str, b: int, h: int, w: int, valid: float, dtype: torch.dtype, seed: int = 0) -> Batch:
    """Maps of 1 to 9 m (or 1/m) with holes of 0, and a prediction that is up to a third off."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.rand(b, 1, h, w, generator=generator, dtype=torch.float64)

    mask, raw_mask = draw() < valid, draw() < 0.05
    gt = 1.0 + 8.0 * draw()
    pred = gt * (0.75 + 0.5 * draw())
    if form in INVERSE:
        pred, gt = 1.0 / pred, 1.0 / gt
    gt = torch.where(mask, gt, 0.0)
    return Batch(
        pred.to(dtype).requires_grad_(), gt.to(dtype), mask, raw_mask, (1.0 + draw().exp()).to(dtype)
    )


def replacement(code: str) -> Callable[[Batch], Tensor]:
    """The lines of a page, as a function of a batch. What they build is built once."""
    tree = ast.parse(code)
    call = tree.body.pop()
    assert isinstance(call, ast.Assign) and ast.unparse(call.targets[0]) == "loss", "a block ends in loss = …"
    namespace: dict[str, object] = {}
    exec(compile(tree, "docs/migration", "exec"), namespace)
    assert isinstance(call.value, ast.Call)
    if isinstance(call.value.func, ast.Call):
        namespace["built"] = eval(ast.unparse(call.value.func), namespace)
        call.value.func = ast.Name("built", ast.Load())
    run = compile(ast.unparse(call.value), "docs/migration", "eval")
    return lambda x: eval(run, namespace | {f.name: getattr(x, f.name) for f in fields(x)})


def agreement(form: str, code: str, size: tuple[int, int, int, float]) -> tuple[float, float]:
    """Relative difference of the value, and largest difference of the gradient by its maximum; float64."""
    results = []
    for loss in (FORMS[form], replacement(code)):
        x = batch(form, *size, torch.float64)
        value = loss(x)
        (grad,) = torch.autograd.grad(value, x.pred)
        results.append((value.detach(), grad))
    (theirs, grad), (ours, own) = results
    return ((ours - theirs) / theirs).abs().item(), ((own - grad).abs().max() / grad.abs().max()).item()


def speed(form: str, code: str, size: tuple[int, int, int, float], repeats: int) -> float:
    """How many times the CPU time of ours the formula takes, forward and backward in float32; median."""
    x = batch(form, *size, torch.float32)
    losses = FORMS[form], replacement(code)
    times: list[list[float]] = [[], []]
    for _ in range(repeats + 1):
        for taken, loss in zip(times, losses, strict=True):
            leaf = replace(x, pred=x.pred.detach().requires_grad_())
            begin = time.process_time()
            loss(leaf).backward()
            taken.append(time.process_time() - begin)
    theirs, ours = (statistics.median(taken[1:]) for taken in times)
    return theirs / ours


def main() -> int:
    """Measure, and write bench/results/migration.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS / "migration.json")
    parser.add_argument("--repeats", type=int, default=7, help="samples of a time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for page, forms in lines().items():
        for form, code in forms.items():
            for label, size in SIZES.items():
                value, gradient = agreement(form, code, size)
                times = speed(form, code, size, args.repeats)
                row = {"page": page, "form": form, "maps": label, "value": value, "gradient": gradient}
                rows.append(row | {"times": times})
                print(f"{form:20} {label:22} {value:8.1e} {gradient:8.1e} {times:6.1f}×", file=sys.stderr)
    write_json(args.out, origin() | {"machine": machine("cpu"), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
