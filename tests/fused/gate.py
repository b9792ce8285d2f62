"""Compare the fused kernels with the reference in float64 on this machine, at small odd sizes.

    python -m tests.fused.gate [--device cuda] [--backend triton] [--few]

It stands in for the tests where pytest is missing, and compute-sanitizer runs it (--few). The reference runs
on the CPU, so that only the fused kernels run on the GPU. Checked are loss and gradient, exact zeros at
invalid pixels that hold NaN, and the same bits in a second run. Exit status 1 if a check fails.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys

import torch

from bench import harness

LOSSES = ("g2 published", "g2 document", "scale-adaptive", "adaptive-multi-domain", "ssi-silog", "berhu")
FEW = LOSSES[:4]
SHAPES = ((2, 1, 37, 51), (3, 1, 5, 130))
DENSITIES = (1.0, 0.3)
# Of a small image, one pixel that crosses a kink in float32 is a large part.
KINK_PIXELS = 0.02


def close(got: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether the two agree to rounding, except for single pixels at a kink; NaN never does."""
    tolerance = (3e-5 if dtype == torch.float32 else 1e-2) * expected.abs().max().clamp(min=1e-30)
    wrong = ~((got - expected).abs() <= tolerance)
    return bool(got.isfinite().all()) and float(wrong.double().mean()) <= KINK_PIXELS


def check(
    backend: str, device: str, name: str, shape: tuple[int, ...], dtype: torch.dtype, density: float
) -> str:
    """What is wrong, or an empty string."""
    domain = harness.build(name, "reference", "cpu").input_domain
    pred, gt, mask = harness.inputs(shape, dtype, "cpu", density, domain)
    expected, gradients = harness.oracle(name, pred, gt, mask)
    if name != "g2 document":  # Its mask "centre" reads invalid neighbours.
        pred, gt = pred.masked_fill(~mask, torch.nan), gt.masked_fill(~mask, torch.nan)
    module = harness.build(name, backend, device)
    subject = harness.LossSubject(module, [tuple(x.to(device) for x in (pred, gt, mask))])
    loss, found = subject.evaluate()
    again, second = subject.evaluate()
    loss, found, again, second = loss.cpu(), [x.cpu() for x in found], again.cpu(), [x.cpu() for x in second]
    if not torch.allclose(loss, expected, rtol=1e-5, atol=1e-7):
        return f"loss {loss.item():.8g}, expected {expected.item():.8g}"
    if not all(close(a, b, dtype) for a, b in zip(found, gradients, strict=True)):
        return "gradient"
    if name != "g2 document" and found[0][~mask].any():
        return "gradient at invalid pixels"
    if not torch.equal(loss, again) or not all(torch.equal(a, b) for a, b in zip(found, second, strict=True)):
        return "not the same bits in a second run"
    return ""


def main() -> int:
    """Check every case and say which are wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--backend", default="triton")
    parser.add_argument("--few", action="store_true", help="one size, float32: fit for a sanitizer")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, metavar="NAME", help=f"of {'; '.join(LOSSES)}")
    options = parser.parse_args()
    if options.backend == "triton" and options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # Before triton is imported.
    cases = (FEW, SHAPES[:1], (torch.float32,)) if options.few else (LOSSES, SHAPES, harness.DTYPES.values())
    wrong = total = 0
    for name, shape, dtype, density in itertools.product(*cases, DENSITIES):
        if options.losses and name not in options.losses:
            continue
        problem = check(options.backend, options.device, name, shape, dtype, density)
        wrong, total = wrong + bool(problem), total + 1
        label = f"{name} {'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')} density {density:g}"
        print(f"{'WRONG' if problem else 'ok':<6} {label}{f': {problem}' if problem else ''}", flush=True)
    print(f"{total - wrong} of {total} right")
    return 1 if wrong or not total else 0


if __name__ == "__main__":
    sys.exit(main())
