"""Shared by the proofs of the native CPU engine: builds of its sources, the driver, plans as files."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import struct
import subprocess
from pathlib import Path
from unittest import mock

from depthloss.kernels.cpu.binding import c_plan, library
from depthloss.kernels.plan import make_plan

from bench import harness

DRIVER = Path(__file__).with_name("driver.cpp")


class Unavailable(Exception):
    """This machine lacks a tool; the message names it."""


def _setup() -> dict:
    """The names that setup.py, which describes the build, defines."""
    with mock.patch("setuptools.setup"):
        names = runpy.run_path(str(harness.ROOT / "setup.py"))
    names["build_file"].__globals__["SOURCES"] = harness.ROOT / names["SOURCES"]
    return names


def run(*words: object, **options: object) -> subprocess.CompletedProcess:
    """Run a command, with its output as text; a failure does not raise."""
    merged = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
    return subprocess.run([str(word) for word in words], **merged)


def compiler() -> str:
    """The compiler that setup.py uses."""
    found = _setup()["compiler"]()
    if not found or not shutil.which(found.split()[0]):
        raise Unavailable("no C++ compiler")
    return found


def version_of(cxx: str) -> str:
    return run(*cxx.split(), "--version").stdout.splitlines()[0]


def runtime(cxx: str, name: str) -> str:
    """Path of a sanitizer's library, such as ``libasan.so``."""
    found = run(*cxx.split(), f"-print-file-name={name}").stdout.strip()
    if not os.path.isabs(found):
        raise Unavailable(f"{cxx} has no {name}")
    return os.path.realpath(found)


def build(folder: Path, flags: str = "", link: str = "", sets: tuple[str, ...] = ()) -> Path:
    """Compile the engine as setup.py does, with more flags; of some instruction sets only if `sets` is given.

    Raises:
        Unavailable: there is no compiler or no ninja.
    """
    folder.mkdir(parents=True, exist_ok=True)
    setup, cxx = _setup(), compiler()
    ninja = setup["ninja"]()
    if not ninja:
        raise Unavailable("no ninja")
    target = folder / "_engine.so"
    names = setup["build_file"].__globals__
    if sets:
        known = names["INSTRUCTION_SETS"]
        names["INSTRUCTION_SETS"] = {name: known[name] for name in sets}
        if set(sets) != set(known):
            names["FLAGS"] = names["FLAGS"].replace("-DDL_X86", "")
    with mock.patch.dict(os.environ, CXXFLAGS=flags, LDFLAGS=link):
        (folder / "build.ninja").write_text(setup["build_file"](cxx, target))
    done = run(ninja, "-C", folder)
    if done.returncode:
        raise RuntimeError(f"the engine does not compile:\n{done.stdout}")
    return target


def build_driver(folder: Path, flags: str = "") -> Path:
    """Compile driver.cpp."""
    target = folder / "driver"
    words = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *flags.split()]
    done = run(*compiler().split(), *words, DRIVER, "-o", target, "-ldl", "-pthread")
    if done.returncode:
        raise RuntimeError(f"the driver does not compile:\n{done.stdout}")
    return target


def write_plan(path: Path, name: str) -> Path:
    """A loss of `harness.build` in the driver's format: plan, weights, log-variances."""
    module = harness.build(name, "reference", "cpu")
    spec = module.spec
    weights = [1.0 + 0.25 * i for i in range(spec.num_weights)]
    log_vars = [0.1 * i for i in range(len(spec.groups))] if spec.log_var_bounds else []
    numbers = b"".join(struct.pack(f"<q{len(x)}d", len(x), *x) for x in (weights, log_vars))
    path.write_bytes(bytes(c_plan(make_plan(spec))) + numbers)
    return path


def installed() -> Path:
    """Path of the engine of this installation."""
    return Path(library()._name).resolve()


def made_by(path: Path) -> str:
    """The compiler that a library was built with, as recorded in it."""
    found = re.search(rb"(?:GCC: \([^)\0]*\) |clang version )[^\0 ]+", path.read_bytes())
    return found.group().decode() if found else "unknown"
