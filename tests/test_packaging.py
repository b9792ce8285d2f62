"""The built wheel is whole, and works without the clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import depthloss

ROOT = Path(__file__).parents[1]
SOURCES = ("depthloss", "kernels", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def run(*command: object, cwd: Path, **options: object) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def wheel_of(folder: Path, **env: str) -> Path:
    """The wheel, built from a copy so that the clone stays clean."""
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        copy(ROOT / name, folder / name, **({"ignore": ignored} if (ROOT / name).is_dir() else {}))
    build = (*PIP, "wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist")
    run(*build, cwd=folder, env=os.environ | env)
    (wheel,) = (folder / "dist").glob("depthloss-*.whl")
    return wheel


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which the wheel was installed. The engine is compiled without optimisation, which takes a
    quarter of the time.
    """
    folder = tmp_path_factory.mktemp("wheel")
    wheel = wheel_of(folder, CXXFLAGS="-O0")
    engine = (ROOT / "kernels" / "cpu" / "_engine.so").exists()
    assert wheel.name.endswith("-py3-none-any.whl") != engine
    run(*PIP, "install", wheel, "--no-deps", "--target", folder / "site", cwd=folder)
    return folder / "site"


def test_a_wheel_without_the_engine_says_so_in_its_name(tmp_path):
    wheel = wheel_of(tmp_path, PATH=str(Path(sys.executable).parent), CXX="")
    assert wheel.name == f"depthloss-{depthloss.__version__}-py3-none-any.whl"
    assert not any(name.endswith(".so") for name in zipfile.ZipFile(wheel).namelist())


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
    assert (site / "depthloss" / "py.typed").exists()  # Type checkers read the annotations only with it.
