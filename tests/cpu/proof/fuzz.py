"""Random losses on random inputs: the native CPU engine against the reference in float64.

    python -m tests.cpu.proof.fuzz --seconds 600 [--first N] [--out FILE]
    python -m tests.cpu.proof.fuzz --replay N

The number N determines case N (cases.py): the loss, the shape, dtype, memory layout and values of every input
(depth in steps with its ties, constants, huge, tiny and subnormal numbers, NaN and Inf at invalid pixels,
sometimes at a valid one), the masks, weights and confidences, threads and the instruction set. What must
hold:

* another number of threads and another instruction set give the same bits;
* loss, metrics and gradients agree by the rules of tests/fused/compare.py. Pixels whose gradient depends on
  the sign of a rounding error are left out; their effect on others through the statistics is allowed;
* where such pixels are many, the gradient is a subgradient: its derivative in random directions lies between
  the one-sided derivatives of the float64 reference;
* invalid pixels get exactly 0, and NaN or Inf at a valid pixel shows in the loss.

The cases run in a child process, so that a crash is reported with its case. Exit status 1 if a case fails.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from unittest import mock

import torch
from depthloss.kernels import cpu
from torch import Tensor

import depthloss as dl
from bench import harness
from depthloss import dispatch
from depthloss.maps import convert, select, working_dtype
from depthloss.reference.statistics import mean_per_image, standardise
from depthloss.spec import IDENTITY, Gradient, Moments, Pixel, Term
from depthloss.spec.penalty import OF_LARGEST

from ...fused import compare
from ...fused.compare import ROUNDING, Result, assert_agrees, evaluate, near_kinks
from .cases import F32, F64, Case, draw_case, shares_memory, valid

MODULE = "tests.cpu.proof.fuzz"
MOST_WRONG = 5
# With a larger share of pixels near a kink the gradient is checked as a subgradient.
MANY = 0.02
TIED = ("steps", "constant", "zeros")
WILD = ("zeros", "mixed", "huge", "tiny")
# Standardised maps of fewer pixels are nearly equal.
FEW = 30
LARGE = 100.0
# A changed sign adds to all gradients, through the statistics, up to this times the share of such pixels.
OF_A_SIGN = 16.0


def largest(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


def same(a: Result, b: Result) -> bool:
    """Whether all bits agree; NaN is NaN."""
    pairs = zip(a, b, strict=True)
    return all(
        torch.equal(x.isnan(), y.isnan()) and torch.equal(x.nan_to_num(7), y.nan_to_num(7)) for x, y in pairs
    )


def has_ties(case: Case) -> bool:
    """Whether many pixels have equal values."""
    pred, gt = case.inputs[:2]
    bounded = any(t.domain.minimum is not None or t.domain.maximum is not None for t in case.spec.terms)
    # Float64 itself loses 1e-100 beside the value of an invalid pixel, which mask "centre" reads.
    lost = case.values == "tiny" and reads_invalid(case)
    return case.values in TIED or bounded or lost or any(map(shares_memory, (pred, gt)))


def reads_invalid(case: Case) -> bool:
    """Whether the Sobel filter reads invalid pixels."""
    return any(isinstance(t, Gradient) and t.gradient.mask == "centre" for t in case.spec.terms)


def kinks(case: Case) -> Tensor:
    """The pixels whose gradient depends on rounding, [B, H, W]. With ties, also those where the reference has
    exactly 0, which another order of additions may not give.
    """
    if not has_ties(case):
        return near_kinks(case.spec, case.inputs)
    on_or_near = lambda x, magnitude, eps: x.abs() < compare.ULPS * eps * magnitude  # noqa: E731
    with mock.patch.object(compare, "_near", on_or_near):
        return near_kinks(case.spec, case.inputs)


def sizes(case: Case) -> tuple[float, float, float]:
    """The largest number that the relative or the gradient term subtracts, the gradient of one such number
    (rounding errors are shares of them where the sum is much less), and the largest slope of a standardised
    value.
    """
    p, g, _, _, w, _ = (dispatch.as_maps(x) for x in case.inputs.double())
    (m, _), number, gradient, steepest = valid(case), 0.0, 0.0, 0.0
    weight = select(m, torch.ones_like(p) if w is None else w)
    for t in case.spec.terms:
        if isinstance(t, Moments) or (t.align == "none" and not isinstance(t, Gradient)):
            continue
        for x in (convert(x, m, t.domain) for x in (p, g)):
            read = m | x.isfinite()
            if t.align == "mean":
                z, n = standardise(x, m, t.align_eps, read, w), weight.sum((1, 2))
                n = torch.where(n > 0, n, 1.0)
                deviation = select(m, x - mean_per_image(x, m, w)[:, None, None]).abs()
                deviation = (weight * deviation).sum((1, 2)) / n
                slope = 1.0 if t.domain == IDENTITY else largest(select(m, x)) ** 2
                share = slope * weight.amax((1, 2)) if weight.numel() else n
                gradient = max(gradient, largest(share / (n * (deviation + t.eps))))
                steepest = max(steepest, slope * largest(1.0 / (deviation + t.eps)))
                x = z
            number = max(number, largest(select(read, x)))
    return number, gradient, steepest


def settled(case: Case, number: float, result: Result, oracle: Result) -> Result:
    """The result, with numbers replaced by the oracle's where they differ by no more than the rounding of the
    values whose differences they sum: between nearly equal maps nothing else is left.
    """
    double = result.terms.dtype == F64
    # An inverse depth of 0 becomes 1e6 m.
    share = (1e-8 if double else 1e-5) if case.values in WILD else 0.0

    def settle(x: Tensor, y: Tensor) -> Tensor:
        allowed = number * (2.0**-48 if double else 2.0**-20) + share * y.abs()
        return torch.where((x - y).abs() <= allowed, y.to(x.dtype), x)

    numbers = {
        name: settle(getattr(result, name), getattr(oracle, name)) for name in ("total", "terms", "log_vars")
    }
    return result._replace(**numbers)


def _is_detached(t: Term) -> bool:
    """Whether a part that moves with the prediction is constant in the backward, or shared by ties."""
    return t.align == "median" or (isinstance(t, Pixel) and (t.trim > 0 or t.penalty.kind in OF_LARGEST))


def is_subgradient(case: Case, gradient: Tensor, noise: float, steepest: float, number: int) -> bool:
    """Compare the gradient with one-sided derivatives of the float64 reference; False if those are useless.

    `noise`: of a pixel's gradient; `steepest`: see `sizes`.
    """
    if case.spec.by_image or any(_is_detached(t) for t in case.spec.terms):
        return False
    given, dtype = case.inputs.double(), gradient.dtype
    double = working_dtype(*case.inputs[:2]) == F64
    used = torch.logical_or(*valid(case)).view(gradient.shape) & given.pred.isfinite()
    if used.sum() < FEW:
        return False
    pred = given.pred.contiguous()
    gradient = torch.where(used, gradient.double(), 0.0)
    log_vars = [torch.tensor(v, dtype=F64) for v in case.log_vars]

    def value(x: Tensor) -> float:
        with torch.no_grad(), dl.use_backend("reference"):
            total, _ = dispatch.evaluate(x, *given[1:4], case.spec, case.weights, log_vars, **given.extras)
            return total.item()

    middle, step = value(pred), (1e-7 if double else 1e-5) * largest(torch.where(used, pred, 0.0))
    if not step or step * steepest > 1e-2:  # The step would change the statistics.
        return False
    generator = torch.Generator().manual_seed(number)
    for _ in range(2):
        direction = torch.rand(pred.shape, generator=generator, dtype=F64) - 0.5
        direction = torch.where(used, direction, 0.0)

        def slope(length: float, direction: Tensor = direction) -> float:
            return (value(pred + length * direction) - middle) / length

        found, parts = (gradient * direction).sum().item(), (gradient * direction).abs().sum().item()
        slack = (1e-3 if dtype in (F32, F64) else 1e-2) * parts + 1e-13 * abs(middle) / step
        slack += noise * direction.abs().sum().item()
        # With another kink within the step, or a curved loss, differences are not derivatives.
        if not all(abs(slope(x) - slope(x / 2)) <= slack / 4 for x in (step, -step)):
            return False
        low, high = sorted((slope(step), slope(-step)))
        if not low - slack <= found <= high + slack:
            raise AssertionError(f"no subgradient: {found:.6e} along a direction of [{low:.6e}, {high:.6e}]")
    return True


def hold(case: Case, number: int) -> str:
    """Check a case; the name of the rule that applied.

    Raises:
        AssertionError: the case fails.
    """
    spec, given = case.spec, case.inputs
    arguments = given, spec, case.weights, case.log_vars
    cpu.choose(None)
    torch.set_num_threads(1)
    result = evaluate("cpu", *arguments)
    torch.set_num_threads(case.threads)
    cpu.choose(case.instruction_set)
    again = evaluate("cpu", *arguments)
    cpu.choose(None)
    torch.set_num_threads(1)
    assert same(result, again), f"other bits with {case.threads} threads on {case.instruction_set}"
    oracle = evaluate("reference", given.double(), *arguments[1:])
    eager = evaluate("reference", *arguments)
    bad = ~oracle.terms.isfinite()
    if bad.any():
        assert not result.terms[bad].isfinite().any(), "NaN or Inf at a valid pixel does not show"
        return "not finite"
    m, m_abs = valid(case)
    if not reads_invalid(case):
        assert not dispatch.as_maps(result.grad)[~m & ~m_abs].any(), "a gradient at an invalid pixel"
    if spec.confidence:
        of_confidence = dispatch.as_maps(result.of_confidence)
        assert not of_confidence[~m & ~m_abs].any(), "a gradient of the confidence at an invalid pixel"
    # Numbers beyond the range of the dtypes.
    tiny = torch.finfo(result.grad.dtype).tiny
    if not all(x.isfinite().all() for x in (*eager, oracle.grad)) or 0 < largest(oracle.grad) < tiny:
        return "out of range"
    statistics = any(t.align != "none" for t in spec.terms)
    number_size, gradient_size, steepest = sizes(case)
    result = settled(case, number_size, result, oracle)
    double = result.terms.dtype == F64
    noise = gradient_size * (2.0**-48 if double else 2.0**-21)
    if case.values == "constant":  # Moments that vanish.
        noise += 1e-17 if double else 1e-9
    everywhere = torch.ones_like(oracle.grad, dtype=torch.bool)
    # Subnormal numbers have no relative rounding, and equal standardised maps differ by rounding alone: every
    # sign can depend on it.
    assert_agrees(spec, result, eager, oracle, everywhere)
    if case.values in ("subnormal", "twice"):
        return "without gradient"
    near = kinks(case).view(oracle.grad.shape)
    share = near.double().mean().item() if near.numel() else 0.0
    # Mask "centre" reads large numbers of invalid pixels, beside which float32 loses the others.
    told = (
        share > MANY
        and has_ties(case)
        and number_size < LARGE
        and is_subgradient(case, result.grad, noise, steepest, number)
    )
    if share > MANY and statistics:
        return "subgradient" if told else "without gradient"
    error, of_eager = (
        largest((x.grad.double() - oracle.grad).masked_fill(near, 0.0)) for x in (result, eager)
    )
    scale = largest(oracle.grad)
    least, factor = {F64: 1e-10, **ROUNDING}[result.grad.dtype], 1 if case.values == "scene" else 4
    allowed = factor * (2 * of_eager + least * scale) + OF_A_SIGN * share * scale * statistics + noise
    assert error <= allowed, f"gradient: error {error:.3e}, allowed {allowed:.3e}"
    return "beside kinks" if share else "exact"


def _inside(options: argparse.Namespace) -> int:
    """Run the cases; a file tells the parent the present case, and the results at the end."""
    counts: collections.Counter[str] = collections.Counter()
    begin, number, wrong = time.monotonic(), options.first, []
    torch.set_num_threads(1)
    with open(options.progress, "w", encoding="utf-8") as file:
        while time.monotonic() - begin < options.seconds and len(wrong) < MOST_WRONG:
            file.seek(0)
            file.write(f"{number:<20}\n")
            file.flush()
            try:
                counts[hold(draw_case(number), number)] += 1
            except Exception as error:
                wrong.append(number)
                print(f"case {number}: {type(error).__name__}: {error}", flush=True)
                if not isinstance(error, AssertionError):
                    traceback.print_exc()
            number += 1
        json.dump({"cases": number - options.first, "rules": counts, "wrong": wrong}, file)
    return 1 if wrong else 0


def fuzz(seconds: float, first: int) -> dict:
    """Run cases from `first` on for some seconds, in a child process; the results."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder, "progress")
        progress.touch()
        words = ["--inside", "--progress", progress, "--seconds", seconds, "--first", first]
        done = subprocess.run([sys.executable, "-m", MODULE, *map(str, words)], check=False)
        last, _, summary = progress.read_text(encoding="utf-8").partition("\n")
    if summary:
        found = json.loads(summary)
    else:
        number = int(last or first)
        print(f"case {number}: the process ended with status {done.returncode}")
        found = {"cases": number - first + 1, "rules": {}, "wrong": [number]}
    for number in found["wrong"]:
        print(f"to see it again: python -m tests.cpu.proof.fuzz --replay {number}")
    return {"seconds": seconds, "first": first, **found}


def main() -> int:
    """Run, print, write; 1 if a case failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument(
        "--first", type=int, default=0, metavar="N", help="the first case; the next follow it"
    )
    parser.add_argument("--replay", type=int, metavar="N", help="run only case N, here")
    parser.add_argument("--out", type=Path, help="path of the JSON")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return _inside(options)
    if reason := dispatch.backend_status("cpu"):
        print(f"cannot run: {reason}")
        return 2
    if options.replay is not None:
        torch.set_num_threads(1)
        print(case := draw_case(options.replay), flush=True)
        print(f"holds: {hold(case, options.replay)}")
        return 0
    found = fuzz(options.seconds, options.first)
    rules = ", ".join(f"{name} {n}" for name, n in sorted(found["rules"].items()))
    print(f"{found['cases']} cases ({rules}), {len(found['wrong'])} wrong")
    if options.out:
        machine = {"cpu_name": harness.cpu_name(), "instruction_set": cpu.instruction_set()}
        command = harness.command(MODULE, sys.argv[1:])
        harness.write_json(options.out, {**harness.origin(), "command": command, "machine": machine, **found})
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
