"""Adding a penalty as CONTRIBUTING.md says: four files, and every backend runs it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from depthloss import dispatch

ROOT = Path(__file__).parents[1]
WALK = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Adding a penalty\n")[2]
# (file, "before" or "after", text of the file, what to insert)
BLOCKS = re.findall(
    r"^```(?:python|cpp)\n(?:#|//) (\S+), (before|after) (.*?)\n(.*?)^```",
    WALK.partition("\n## ")[0],
    re.M | re.S,
)
RUN = """
import importlib.util, sys
root = sys.argv[1]
import torch, depthloss  # The folder that this runs in comes before any installation.
assert depthloss.__file__.startswith(root)
spec = importlib.util.spec_from_file_location(
    "depthloss.kernels", f"{root}/kernels/__init__.py", submodule_search_locations=[f"{root}/kernels"]
)
sys.modules["depthloss.kernels"] = importlib.util.module_from_spec(spec)
from depthloss import dispatch
from depthloss.spec import Group, LossSpec, Penalty, Pixel

loss = LossSpec((Group((Pixel(name="own", penalty=Penalty("tanh", 0.7)),)),))
generator = torch.Generator().manual_seed(0)
p, g = (torch.rand(2, 24, 33, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
m = torch.rand(p.shape, generator=generator) < 0.6
p.requires_grad_()
expected = 0.7 * ((p - g)[m].abs() / 0.7).tanh().mean()
(slope,) = torch.autograd.grad(expected, p)
for name in sys.argv[2:]:
    value, _ = dispatch.evaluate(p, g, m, None, loss, (1.0, 1.0), backend=name)
    (found,) = torch.autograd.grad(value, p)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(found, slope, rtol=1e-9, atol=1e-15)
try:
    Penalty("tanh", 0.0)
except ValueError as error:
    assert str(error) == "width must lie in (0, inf]; got 0.0"
"""


def test_the_walk_changes_four_files():
    assert {name for name, *_ in BLOCKS} == {
        "depthloss/spec/penalty.py",
        "depthloss/reference/penalties.py",
        "kernels/triton/penalty.py",
        "kernels/cpu/penalty.hpp",
    }


@pytest.fixture
def walked(tmp_path):
    """A copy of the project with the walk's blocks in it, the engine not built."""
    for name in ("depthloss", "kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "setup.py", tmp_path)
    for name, where, text, block in BLOCKS:
        file = tmp_path / name
        found = re.findall(r"\s+".join(map(re.escape, text.split())), file.read_text())
        assert len(found) == 1, (name, text)
        old, _, new = file.read_text().partition(found[0])
        if where == "before":
            start = old.rindex("\n") + 1  # Of the line.
            file.write_text(old[:start] + block + old[start:] + found[0] + new)
        else:
            file.write_text(old + found[0] + "\n" + block.rstrip("\n") + new)
    return tmp_path


def run(root: Path, *backends: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", RUN, str(root), *backends], check=True, cwd=root, env=environment)


def test_the_reference_and_triton_run_it(walked):
    run(walked, "reference", *(() if dispatch.backend_status("triton") else ("triton",)))


@pytest.mark.full
@pytest.mark.skipif(bool(dispatch.backend_status("cpu")), reason="there is no compiler for the engine")
def test_the_native_engine_runs_it(walked):
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    environment = os.environ | {"CXXFLAGS": "-O0"}
    subprocess.run(build, check=True, cwd=walked, env=environment)
    run(walked, "cpu")
