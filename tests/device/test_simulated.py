"""The tests that run on a device other than the CPU, on one that is simulated, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from depthloss import dispatch

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(
        not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
        reason=f"torch {torch.__version__} takes no device that is written in Python",
    ),
    pytest.mark.skipif(
        bool(dispatch.backend_status("triton")),
        reason=f"the device is given to Triton too: {dispatch.backend_status('triton')}",
    ),
]
# They are given maps on the device, and have passed on the CPU; what they are skipped for there, too.
KERNELS = {
    "test_hard_cases.py": "",
    "test_integration.py": "not without_gpu_and_interpreter",
    "test_exact.py": "",
    "test_golden.py": "",
    "test_relations.py": "",
    "test_random.py": "",
    "test_equivalence.py": "weights or modules or penalty or images_are_summed",
}


def run(*words: str | Path) -> None:
    command = [sys.executable, "-m", "pytest", "-p", "tests.device.simulated", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--tb=short", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_library():
    run("tests/device/on_it.py")


@pytest.mark.full
@pytest.mark.parametrize("file", KERNELS)
def test_the_kernels(file):
    run(f"tests/triton/{file}", "-k", KERNELS[file])
