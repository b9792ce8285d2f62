"""The built wheel is whole, and works without the clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("depthloss", "kernels", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def run(*command: object, cwd: Path, **options: object) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the wheel was installed, built from a copy so that the clone stays clean.

    The engine is compiled without optimisation, which takes a quarter of the time.
    """
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    build = (*pip, "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist")
    run(*build, cwd=folder, env=os.environ | {"CXXFLAGS": "-O0"})
    (wheel,) = (folder / "dist").glob("depthloss-*.whl")
    run(*pip, "install", wheel, "--no-deps", "--target", folder / "site", cwd=folder)
    return folder / "site"


def test_the_wheel_works_from_an_empty_directory(site, tmp_path):
    code = (
        "import torch, depthloss, depthloss.kernels, depthloss.training.models\n"
        "x = torch.rand(2, 1, 8, 9)\n"
        "assert depthloss.build_loss('sparse-scale-adaptive')(x, x).item() == 0\n"
        "print(depthloss.__file__, depthloss.kernels.__file__, depthloss.__version__)"
    )
    out = run(
        sys.executable, "-c", code, cwd=tmp_path, env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"}
    )
    package, kernels, version = out.split()
    assert Path(package) == site / "depthloss" / "__init__.py"
    assert Path(kernels) == site / "depthloss" / "kernels" / "__init__.py"
    assert (site / f"depthloss-{version}.dist-info" / "METADATA").exists()


def test_the_wheel_holds_every_module(site):
    ours = {p.relative_to(ROOT) for p in (ROOT / "depthloss").rglob("*.py")}
    ours |= {Path("depthloss") / p.relative_to(ROOT) for p in (ROOT / "kernels").rglob("*.py")}
    assert {p.relative_to(site) for p in (site / "depthloss").rglob("*.py")} == ours
