"""``depthloss doctor``: what this machine can run, and whether every backend is right here."""

from __future__ import annotations

import sys
import time

import torch

from . import dispatch, env
from .losses import build_loss

# One loss for each kind of phase. A Triton kernel takes seconds to compile: one loss that has few.
_LOSSES = ("g2", "scale-adaptive", "silog", "adaptive-multi-domain", "l1")
_FEW = ("ssi",)
_TOLERANCE = 1e-4


def _maps(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prediction, ground truth and mask [2, 1, 37, 53]; what is not valid is NaN."""
    numbers = torch.Generator().manual_seed(0)
    gt = torch.rand(2, 1, 37, 53, generator=numbers) * 4 + 0.5
    pred = gt * (1 + 0.2 * torch.rand(gt.shape, generator=numbers))
    mask = torch.rand(gt.shape, generator=numbers) < 0.7
    return pred.to(device), torch.where(mask, gt, torch.nan).to(device), mask.to(device)


def _difference(name: str, backend: str, device: str) -> float:
    """The largest relative difference of loss and gradient, float32, to the reference in float64."""
    results = []
    for dtype, where in ((torch.float32, backend), (torch.float64, "reference")):
        loss = build_loss(name, backend=where).to(device, dtype)
        pred, gt, mask = _maps(device)
        pred = pred.to(dtype, copy=True).requires_grad_()
        value = loss(pred, gt.to(dtype), mask)
        (grad,) = torch.autograd.grad(value, pred)
        results.append((value.detach().double(), grad.double()))
    (value, grad), (exact, exact_grad) = results
    found = ((value - exact).abs() / exact.abs(), (grad - exact_grad).abs().max() / exact_grad.abs().max())
    return max(float("inf") if x.isnan() else x.item() for x in found)


def _indented(lines: dict[str, str]) -> str:
    return "\n".join(f"  {line}" for line in env.table(lines).splitlines())


def check_backend(name: str) -> tuple[bool, str]:
    """Run a few losses on an available backend; whether it is right, and what was found, in words."""
    device = "cuda" if name == "triton" and torch.cuda.is_available() else "cpu"
    losses = _FEW if name == "triton" else _LOSSES
    begin, found = time.monotonic(), {}
    for loss in losses:
        if name != "reference" and name not in build_loss(loss).spec.fused:
            continue
        try:
            found[loss] = _difference(loss, name, device)
        except Exception as error:  # Whatever it is, it is what the user wants to know.
            return False, f"FAILED: {loss}: {type(error).__name__}: {error}"
    worst = max(found, key=found.__getitem__)
    took = f"{', '.join(found)}; {time.monotonic() - begin:.1f} s"
    if found[worst] > _TOLERANCE:
        return False, f"WRONG: {worst} differs from the reference by {found[worst]:.1e} ({took})"
    what = "its float32 agrees with float64" if name == "reference" else "agrees with the reference"
    return True, f"{what} to {found[worst]:.0e}\n  ({took})"


def main(argv: list[str]) -> int:
    """Print the report and the checks; 1 if an available backend does not compute the right numbers."""
    if argv in (["-h"], ["--help"]):
        print("usage: depthloss doctor")
        print("What this machine can run, and whether its numbers are right.")
        return 0
    if argv:
        print(f"depthloss doctor: error: it takes no arguments; got {' '.join(argv)}", file=sys.stderr)
        return 2
    lines, good = env.report(), True
    lines = {key: value for key, value in lines.items() if not key.startswith("backend ")}
    print(env.table(lines), flush=True)  # First: a backend may end the process.
    print(f"\nwhat was tested with these versions\n{_indented(env.tested_here())}", flush=True)
    for name in dispatch.BACKENDS:
        reason = dispatch.backend_status(name)
        print(f"\nbackend {name}: {f'not available: {reason}' if reason else 'available'}", flush=True)
        if reason is None:
            right, text = check_backend(name)
            good = good and right
            print(f"  {text}", flush=True)
    if not good:
        print("\nPlease report this with the text above. depthloss.use_backend('reference') avoids it.")
    return int(not good)
