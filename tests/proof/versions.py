"""Try versions of torch and Triton, and enter in depthloss/tested.json what was tried.

    python -m tests.proof.versions torch 2.6.0 2.13.0       the tests, each in a new environment of up to 6 GB
    python -m tests.proof.versions triton 3.4.0 3.9.0       the kernels, with this environment's torch
    python -m tests.proof.versions torch 2.6.0 --environment DIR       keep the environment, or use it again

For a torch: the tests that need neither training nor pages, and those of the kernels in Triton's interpreter
where its Triton is new enough. They run in a virtual environment with that torch, the Triton that it brings,
and else the versions of constraints.txt. For a Triton: the kernels of all losses compiled for one GPU as
launched (`bench.gpu.aot --quick`), and some losses executed by the emulator. One environment is there at a
time, in a temporary folder. A row replaces one of the same versions and check. The command fails if anything
does, or if a test or a process does not end: the error has the stack of what hung.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from importlib.metadata import requires
from pathlib import Path

from bench import harness
from depthloss.env import TESTED, tested

ROOT = Path(__file__).parents[2]
# The pages and the committed rows are of no torch.
LEFT_OUT = ("training", "triton", "test_readme.py", "test_versions.py")
TESTS = {
    "tests": ["tests", *(f"--ignore=tests/{name}" for name in LEFT_OUT)],
    "tests of the kernels": ["tests/triton"],
}
# Of the emulator's tests: what is in every run, and both half precisions on every architecture.
EMULATED = ["tests/triton/emulator/test_losses.py", "-m", "full or not full", "-k"]
EMULATED += [
    "test_agrees or test_several_terms or test_medians and f32 or test_executed "
    "or test_more_agree and bf16 and (sm_75 or sm_80 or sm_89 or sm_100 or sm_120)"
]
# Seconds: a test takes a minute at most, and all that one process does half an hour.
TEST_LIMIT, LIMIT = 300, 3600
KEYS = ("torch", "triton", "python", "check")
# What of an environment goes into a row; printed by the environment itself.
WHO = "import json; from depthloss.env import report; print(json.dumps(report()))"


def main() -> int:
    """Try all; 1 if anything failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", choices=("torch", "triton"))
    parser.add_argument("versions", nargs="+")
    parser.add_argument("--environment", type=Path, help="a folder to keep it in, used again if it is there")
    options = parser.parse_args()
    good = True
    for version in options.versions:
        with tempfile.TemporaryDirectory() as folder:
            where = options.environment or Path(folder)
            if options.package == "torch":
                rows = of_torch(version, where)
            else:
                rows = of_triton(version, where)
        for row in rows:
            print(json.dumps(row), flush=True)
            good &= not row["failed"]
        enter(rows)
    return int(not good)


def of_torch(version: str, folder: Path) -> list[dict]:
    """The rows of the tests with this torch."""
    python = folder / "bin" / "python"
    if not python.exists():
        make(folder, version)
    who = _who(python, {})
    # Nothing to say of a Triton that is too old for the kernels.
    old = "needs triton" in who["backend triton"]
    return [
        _row(who, check, **_pytest(python, words, {}), tests=" ".join(words))
        for check, words in TESTS.items()
        if not (old and check == "tests of the kernels")
    ]


def make(folder: Path, version: str) -> None:
    """A virtual environment with this torch, its Triton, and the packages that the tests need."""
    given = [line.split(";")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = dict(line.split("==") for line in given if "==" in line)
    torch, triton = pins.pop("torch"), pins.pop("triton")
    wanted = [f"torch=={version}", *_needed()]
    # torch's build for the CPU brings none.
    wanted += [f"triton=={triton}"] if version == torch else []
    _run([sys.executable, "-m", "venv", folder], {}, check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(f"{name}=={pin}" for name, pin in pins.items()))
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-cache-dir"]
    _run([*pip, *wanted, "--constraint", constraints], {}, check=True)
    _run([*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT], {}, check=True)


def _needed() -> list[str]:
    """What the extras train and test ask for beside torch and Triton."""
    others = ("torch>", "triton", "depthloss", "wandb")
    return [x.split(";")[0].strip() for x in requires("depthloss") or () if not x.startswith(others)]


def of_triton(version: str, folder: Path) -> list[dict]:
    """The rows of the kernels with this Triton."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-deps"]
    if not (folder / "triton").exists():
        _run([*pip, "--target", folder, f"triton=={version}"], {}, check=True)
    environment = {"PYTHONPATH": str(folder), "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": f"{folder}/cache"}
    python = Path(sys.executable)
    who = _who(python, environment)
    done = _run([python, "-m", "bench.gpu.aot", "--quick", "--jobs", "1"], environment)
    kernels = re.search(r"^(\d+) kernels in .*", done.stdout, re.M)
    if not kernels:
        raise RuntimeError(_told("failed", done.args, done.stdout, done.stderr))
    wrong = re.findall(r"^\w+ \(.*\): .*", done.stdout, re.M)
    print(*wrong, sep="\n", file=sys.stderr)
    # A spill is slow, and not wrong; that a product is exact is read off what the committed version makes.
    failed, spilling = (sum(word in text for text in wrong) for word in ("does not compile", "spills"))
    counts = {"passed": int(kernels[1]) - failed, "failed": failed, "skipped": 0}
    counts |= {"spilling": spilling, "unrecognised": len(wrong) - failed - spilling}
    compiled = _row(who, "kernels compiled", **counts)
    return [compiled, _row(who, "losses emulated", **_pytest(python, EMULATED, environment))]


def _who(python: Path, environment: dict[str, str]) -> dict[str, str]:
    return json.loads(_run([python, "-c", WHO], environment, check=True).stdout) | {"commit": _commit()}


def _pytest(python: Path, words: list[str], environment: dict[str, str]) -> dict[str, int]:
    """How many tests passed, failed and were skipped; what failed goes to stderr.

    Raises:
        RuntimeError: pytest wrote no results, as where a test took longer than TEST_LIMIT.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "tests.xml")
        command = [python, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={file}", "--tb=short"]
        command += ["-o", f"faulthandler_timeout={TEST_LIMIT}", "-o", "faulthandler_exit_on_timeout=true"]
        done = _run([*command, *words], environment)
        if not file.exists():
            raise RuntimeError(_told("was cut off", [*command, *words], done.stdout, done.stderr))
        if done.returncode:
            print(done.stdout[-20000:], done.stderr[-2000:], file=sys.stderr)
        counts = {name: int(x) for name, x in ET.parse(file).getroot()[0].attrib.items() if x.isdigit()}
    failed = counts["failures"] + counts["errors"]
    return {
        "passed": counts["tests"] - failed - counts["skipped"],
        "failed": failed,
        "skipped": counts["skipped"],
    }


def _run(command: list, environment: dict[str, str], check: bool = False) -> subprocess.CompletedProcess:
    """Run a command, and end what it leaves, or all that it started if it takes longer than LIMIT.

    Raises:
        RuntimeError: it took longer, or failed and `check` was set.
    """
    settings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"} | environment
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=settings, start_new_session=True, **pipes) as process:
        try:
            out, error = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGABRT)  # Python prints its stack.
            time.sleep(1)
            os.killpg(process.pid, signal.SIGKILL)
            raise RuntimeError(_told(f"took more than {LIMIT} s", command, *process.communicate())) from None
        finally:
            with contextlib.suppress(ProcessLookupError):  # Nothing is left.
                os.killpg(process.pid, signal.SIGKILL)
    if check and process.returncode:
        raise RuntimeError(_told(f"failed with {process.returncode}", command, out, error))
    return subprocess.CompletedProcess(command, process.returncode, out, error)


def _told(what: str, command: list, out: str, error: str) -> str:
    return f"{' '.join(map(str, command))} {what}:\n{out[-4000:]}\n{error[-8000:]}"


def _row(who: dict[str, str], check: str, **facts: object) -> dict:
    return {
        **{name: who[name].split("+")[0] for name in ("torch", "triton", "python")},
        "check": check,
        **facts,
        "machine": harness.cpu_name(),
        "commit": who["commit"],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _commit() -> str:
    """The commit of the package, and whether it was changed since."""
    git = lambda *words: _run(["git", *words], {}, check=True).stdout.strip()  # noqa: E731
    changed = git("status", "--porcelain", "--", "depthloss", "kernels", f":!{TESTED.relative_to(ROOT)}")
    return git("rev-parse", "HEAD") + "-dirty" * bool(changed)


def enter(rows: list[dict]) -> None:
    """Put the rows in the file, each in the place of the one that it replaces."""
    found = {tuple(row[key] for key in KEYS): row for row in [*tested(), *rows]}
    order = lambda row: [[int(x) for x in row[key].split(".")] for key in KEYS[:3]]  # noqa: E731
    harness.write_json(TESTED, {"rows": sorted(found.values(), key=lambda row: (row["check"], *order(row)))})


if __name__ == "__main__":
    sys.exit(main())
