"""The golden numbers of tests/golden and how a loss is held against them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import depthloss
from depthloss import dispatch

from .cases import BACKENDS

DEVICES = {"triton": "cuda" if torch.cuda.is_available() else "cpu"}
FOLDER = Path(__file__).parent / "golden"
both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
backends = pytest.mark.parametrize("backend", BACKENDS)


@dataclass(frozen=True, eq=False)
class Case:
    """One golden case: arrays by field name."""

    file: str
    name: str
    fields: dict[str, np.ndarray]

    def __getitem__(self, field: str) -> np.ndarray:
        return self.fields[field]

    def __contains__(self, field: str) -> bool:
        return field in self.fields

    def number(self, field: str) -> float | None:
        """A scalar field; None where it is missing or stored as NaN."""
        value = float(self.fields.get(field, np.nan))
        return None if np.isnan(value) else value

    def flag(self, field: str) -> bool:
        return bool(self.number(field))


@functools.cache
def load(file: str) -> dict[str, Case]:
    """All cases of one file, in its order."""
    fields: dict[str, dict[str, np.ndarray]] = {}
    with np.load(FOLDER / f"{file}.npz") as arrays:
        for key in arrays.files:
            case, field = key.split("/")
            fields.setdefault(case, {})[field] = arrays[key]
    return {name: Case(file, name, values) for name, values in fields.items()}


def files() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


def params(file: str, keep: Callable[[Case], bool] = lambda case: True) -> list:
    """The cases of a file as test parameters."""
    return [pytest.param(case, id=case.name) for case in load(file).values() if keep(case)]


def skip_unless_it_runs(backend: str, loss: depthloss.DepthLoss) -> None:
    """A fused backend covers the losses that name it, on the machines that have it."""
    if backend == "reference":
        return
    if backend not in loss.spec.fused:
        pytest.skip(f"this loss has no fused form on {backend!r}")
    if (reason := dispatch.backend_status(backend)) is not None:
        pytest.skip(f"{backend!r}: {reason}")


def tensor(array: np.ndarray, dtype: torch.dtype | None = None, backend: str = "reference") -> torch.Tensor:
    return torch.tensor(array, dtype=dtype, device=DEVICES.get(backend, "cpu"))


def maps(
    case: Case, dtype: torch.dtype, backend: str = "reference"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`pred` that requires a gradient, `gt`, and `mask` (uint8)."""
    pred = tensor(case["pred"], dtype, backend).requires_grad_()
    return pred, tensor(case["gt"], dtype, backend), tensor(case["mask"], None, backend)


def assert_golden(
    case: Case,
    loss: torch.Tensor,
    pred: torch.Tensor,
    grad: np.ndarray | None = None,
    floors: tuple[float, float] = (5e-7, 2e-6),
) -> None:
    """Backpropagate, then hold loss and gradient against the case (or another gradient), as tight as the
    dtype allows.

    float64: loss 1e-9 relative, gradient 1e-8 of its maximum. float32: twice the deviation of the original
    in float32, with floors.
    """
    loss_tolerance, grad_tolerance = 1e-9, 1e-8
    if pred.dtype == torch.float32:
        loss_tolerance = max(2.0 * float(case["ref_fp32_loss_rel"]), floors[0])
        grad_tolerance = max(2.0 * float(case["ref_fp32_grad_relmax"]), floors[1])
    assert loss.shape == () and loss.dtype == pred.dtype
    (found,) = torch.autograd.grad(loss, pred)
    assert found.dtype == pred.dtype and found.shape == pred.shape
    expected = float(case["loss"])
    assert abs(loss.item() - expected) <= loss_tolerance * (abs(expected) or 1.0), "loss"
    grad = case["grad"] if grad is None else grad
    error = np.abs(found.double().cpu().numpy() - grad).max()
    assert error <= grad_tolerance * np.abs(grad).max(), f"gradient: {error:.3e}"
