"""What this machine can run, and why: ``python -m depthloss.env``."""

from __future__ import annotations

import json
import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from . import dispatch
from .version import __version__

# What `python -m tests.proof.versions` tried.
TESTED = Path(__file__).with_name("tested.json")
# What it checks of each package.
CHECKS = {
    "torch": ("tests", "tests of the kernels"),
    "triton": ("kernels compiled", "losses emulated"),
}
# What changes which backend runs, and how fast.
_VARIABLES = ("DEPTHLOSS_CPU_LIBRARY", "TRITON_INTERPRET", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")

_MISSING = "not installed"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _MISSING


def cpu_name() -> str:
    """The processor's name where the system tells it, else its architecture."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.M) if info.exists() else []
    return names[0] if names else platform.machine()


def threads(number: int) -> str:
    """A number of threads in words."""
    return f"{number} thread{'s' * (number != 1)}"


def report() -> dict[str, str]:
    """Versions, devices and backends, each with the reason where something cannot be used."""
    lines = {
        "depthloss": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "torch": torch.__version__,
        "triton": _version("triton"),
        "cuda": torch.version.cuda or "torch was built without it",
        "hip": torch.version.hip or "torch was built without it",
        "cpu": f"{threads(torch.get_num_threads())}, {torch.backends.cpu.get_cpu_capability()}",
    }
    for package in ("numpy", "lightning"):
        lines[package] = _version(package)
    for name in _VARIABLES:
        if name in os.environ:
            lines[name] = os.environ[name]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            lines[f"gpu {i}"] = torch.cuda.get_device_name(i)
    else:
        lines["gpu"] = "none that torch can use"
    for name in dispatch.BACKENDS:
        reason = dispatch.backend_status(name)
        lines[f"backend {name}"] = "available" if reason is None else f"not available: {reason}"
    return lines


def tested() -> list[dict[str, Any]]:
    """What was tried with which versions, a row per check: ``torch``, ``triton``, ``python``, ``check``, and
    how many ``passed``, ``failed`` and were ``skipped``.
    """
    rows: list[dict[str, Any]] = json.loads(TESTED.read_text(encoding="utf-8"))["rows"]
    return rows


def tested_here() -> dict[str, str]:
    """What was tried with this torch and this Triton, or which versions were."""
    lines = {}
    for package, names in CHECKS.items():
        here = _version(package).split("+")[0]
        rows = [row for row in tested() if row["check"] in names]
        found = [row for row in rows if row[package] == here]
        others = ", ".join(dict.fromkeys(row[package] for row in rows))
        name, why = (package, here) if here == _MISSING else (f"{package} {here}", "not tried")
        lines[name] = "; ".join(map(_outcome, found)) or f"{why}; tried were {others}"
    return lines


def _outcome(row: dict[str, Any]) -> str:
    failed = f", {row['failed']} failed" if row["failed"] else ""
    return f"{row['passed']} {row['check']}{' passed' * row['check'].startswith('tests')}{failed}"


def table(lines: dict[str, str]) -> str:
    """The report as text, a line for each entry."""
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def main() -> None:
    """Print the report."""
    print(table(report()))


if __name__ == "__main__":
    main()
