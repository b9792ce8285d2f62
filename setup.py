"""The part of the packaging that depends on the layout, and the build of the native CPU engine.

The engine is plain C++17 behind a C interface: it needs a compiler and ninja, not torch, and one library
serves every Python and every torch. Without a compiler the package installs without it.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("kernels", "cpu")
FLAGS = "-std=c++17 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra -Werror -Wno-psabi -pthread"
VERSION = re.search(r'"(.+)"', Path("depthloss", "version.py").read_text().split("__version__")[1])[1]
FLAGS += f" -DDL_VERSION={VERSION}"
# The phases are compiled once for each; which one runs is decided on the machine that runs it.
INSTRUCTION_SETS = {"base": ""}
if platform.machine().lower() in ("x86_64", "amd64"):
    FLAGS += " -DDL_X86"
    INSTRUCTION_SETS |= {"avx2": "-mavx2 -mfma", "avx512": "-mavx512f -mavx512bw -mavx512vl -mavx512dq"}


def compiler() -> str | None:
    """The C++ compiler: CXX, or the first that is there."""
    named = os.environ.get("CXX")
    return named or next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)


def ninja() -> str | None:
    """The program ninja, of the build's environment or of the machine."""
    beside = Path(sys.executable).with_name("ninja")
    if beside.exists():
        return str(beside)
    try:
        import ninja as package
    except ImportError:
        return shutil.which("ninja")
    return str(Path(package.BIN_DIR, "ninja"))


def build_file(cxx: str, target: Path) -> str:
    """What ninja is to do."""
    flags = f"{FLAGS} {os.environ.get('CXXFLAGS', '')}".strip()
    rules = [
        "ninja_required_version = 1.5",
        f"flags = {flags}",
        f"rule compile\n command = {cxx} $flags $extra -MMD -MF $out.d -c $in -o $out",
        " depfile = $out.d\n deps = gcc",
        f"rule link\n command = {cxx} -shared -pthread {os.environ.get('LDFLAGS', '')} -o $out $in",
    ]
    units = {name: ("phases.cpp", f"-DDL_ISA={name} {extra}") for name, extra in INSTRUCTION_SETS.items()}
    units |= {name: (f"{name}.cpp", "") for name in ("engine", "finish", "statistics", "threads")}
    for name, (source, extra) in units.items():
        rules.append(f"build {name}.o: compile {(SOURCES / source).resolve()}\n extra = {extra}")
    objects = " ".join(f"{name}.o" for name in units)
    return "\n".join([*rules, f"build {target.resolve()}: link {objects}", ""])


class BuildEngine(build_ext):
    """Builds the engine with ninja, or says in one line why it does not."""

    def build_extension(self, ext: Extension) -> None:
        cxx, tool = compiler(), ninja()
        if not cxx or not tool or os.name == "nt":
            missing = "g++ or clang++ on this system" if not cxx or os.name == "nt" else "ninja"
            print(
                f"depthloss: the native CPU engine is not built, as there is no {missing}; "
                "the rest works without it"
            )
            return
        target, folder = Path(self.get_ext_fullpath(ext.name)), Path(self.build_temp, "engine")
        folder.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_text(build_file(cxx, target))
        done = subprocess.run(
            [tool, "-C", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout}\ndepthloss: the native CPU engine does not compile with {cxx}")

    def get_ext_filename(self, name: str) -> str:
        """Without the tag of this Python: the library is no Python module."""
        return str(Path(*name.split("."))) + ".so"

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]

    def copy_extensions_to_source(self) -> None:
        """For an editable installation; the engine may have been left out."""
        self.extensions = [e for e in self.extensions if Path(self.get_ext_fullpath_of_build(e)).exists()]
        super().copy_extensions_to_source()

    def get_ext_fullpath_of_build(self, ext: Extension) -> str:
        return os.path.join(self.build_lib, self.get_ext_filename(ext.name))


class PlatformWheel(bdist_wheel):
    """One wheel for every Python of a platform; without the engine, for every platform."""

    def get_tag(self) -> tuple[str, str, str]:
        built = Path(self.bdist_dir, "depthloss", "kernels", "cpu", "_engine.so").exists()
        return ("py3", "none", super().get_tag()[2] if built else "any")


kernels = ["depthloss.kernels", *(f"depthloss.kernels.{name}" for name in find_packages("kernels"))]
setup(
    packages=[*find_packages(include=["depthloss", "depthloss.*"]), *kernels],
    package_dir={"depthloss.kernels": "kernels"},
    ext_modules=[Extension("depthloss.kernels.cpu._engine", sources=[])],
    cmdclass={"build_ext": BuildEngine, "bdist_wheel": PlatformWheel},
)
