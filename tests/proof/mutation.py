"""Plant bugs, one at a time, and see whether the tests notice.

    python -m tests.proof.mutation [--only WORD] [--out FILE]    writes bench/results/mutations.json

The bugs are in bugs_of_*.py, with the suites that are to notice each. They are planted in a copy of this
clone, whose native engine is compiled without optimisation and for the baseline instructions alone. The test
that notices a bug must pass without it. With --only the rows of the other bugs stay as they are. Exit status
1 if a bug is not noticed: then a test is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

from bench import harness

from . import bugs_of_native, bugs_of_python, bugs_of_triton
from .bug import ROOT, SUITES, Mutation, mutated

MODULE = "tests.proof.mutation"
MUTATIONS = [*bugs_of_python.BUGS, *bugs_of_native.BUGS, *bugs_of_triton.BUGS]
OUT = harness.RESULTS / "mutations.json"
LIMIT = 1200  # seconds of a suite; a bug may be an endless loop
BUILD = (
    "import sys; from pathlib import Path; from tests.cpu.proof import tools; "
    "tools.build(Path(sys.argv[1]), '-O0', sets=('base',))"
)


class Copy:
    """A copy of the tracked and the new files of this clone, with an engine of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.build, self.engine = root / "clone", root / "build", root / "_engine.so"
        listed = subprocess.run(
            ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():  # Not one that was deleted.
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.root / name)
        # As in the wheel: an editable installation would find the kernels of this clone.
        (self.root / "depthloss" / "kernels").symlink_to("../kernels")
        shutil.copy(self.compiled(), self.engine)
        self.install(self.engine)

    def run(self, *words: object, limit: float | None = None) -> subprocess.CompletedProcess:
        """Run Python in the copy."""
        env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.root)}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = (sys.executable, *map(str, words))
        return subprocess.run(command, cwd=self.root, env=env, timeout=limit, **options)

    def compiled(self) -> Path:
        """The native engine, compiled as far as its sources have changed."""
        done = self.run("-c", BUILD, self.build)
        if done.returncode:
            raise RuntimeError(f"the native engine does not compile:\n{done.stdout}")
        return self.build / "_engine.so"

    def install(self, engine: Path) -> None:
        """Put an engine where the copy finds it."""
        shutil.copy(engine, self.root / "kernels" / "cpu" / "_engine.so")

    def failure(self, *words: str) -> str | None:
        """The first of these tests that fails, or None.

        Raises:
            RuntimeError: the tests do not run.
        """
        report = self.build / "report.xml"
        options = ("-x", "-p", "no:cacheprovider", f"--junitxml={report}")
        try:
            done = self.run("-m", "pytest", *options, *words, limit=LIMIT)
        except subprocess.TimeoutExpired:
            return f"more than {LIMIT} seconds"
        if done.returncode < 0:
            return f"the process ended with status {done.returncode}"
        if done.returncode == 0:
            return None
        if done.returncode != 1:
            raise RuntimeError(f"the tests do not run:\n{done.stdout}")
        for case in ElementTree.parse(report).iter("testcase"):
            if case.find("failure") is not None or case.find("error") is not None:
                return f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        raise RuntimeError(f"no test of the report failed:\n{done.stdout}")

    def noticed(self, mutation: Mutation) -> str | None:
        """The first test that notices the bug, or None."""
        path, native = self.root / mutation.path, mutation.path.startswith("kernels/cpu/")
        sound = path.read_text(encoding="utf-8")
        path.write_text(mutated(mutation, self.root), encoding="utf-8")
        try:
            if native:
                self.install(self.compiled())
            found = (self.failure(*SUITES[suite]) for suite in mutation.suites)
            test = next(filter(None, found), None)
        finally:
            path.write_text(sound, encoding="utf-8")
            self.install(self.engine)
        return test


def merged(rows: list[dict], path: Path) -> list[dict]:
    """The rows, and those of the file for the other bugs that there are, in the order of `MUTATIONS`."""
    old = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    known = {(row["file"], row["bug"]): row for row in [*old, *rows]}
    return [known[key] for m in MUTATIONS if (key := (m.path, m.kind)) in known]


def run(mutations: list[Mutation], out: Path) -> int:
    """Plant each bug, write what came of each to `out`, and return how many were missed."""
    rows: list[dict] = []
    described = {
        **harness.origin(),
        "command": harness.command(MODULE, sys.argv[1:]),
        "cpu_name": harness.cpu_name(),
        "cores": os.cpu_count(),
    }
    with tempfile.TemporaryDirectory() as folder:
        copy = Copy(Path(folder))
        for mutation in mutations:
            begin = time.monotonic()
            test = copy.noticed(mutation)
            seconds = round(time.monotonic() - begin, 1)
            found = {"noticed": test is not None, "by": test, "seconds": seconds}
            rows.append({"file": mutation.path, "bug": mutation.kind, **found, "commit": described["commit"]})
            harness.write_json(out, {**described, "rows": merged(rows, out)})
            print(f"{'noticed' if test else 'MISSED':<8} {mutation.name}: {test} ({seconds} s)", flush=True)
        tests = {row["by"] for row in rows if "::" in (row["by"] or "")}
        if tests and (failed := copy.failure(*sorted(tests))):
            raise RuntimeError(f"without a bug {failed} fails too")
    missed = sum(not row["noticed"] for row in rows)
    print(f"{len(rows)} bugs, {missed} missed")
    return missed


def main() -> int:
    """Run, print, write; 1 if a bug was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", metavar="WORD", help="those whose file or description has it")
    parser.add_argument("--out", type=Path, default=OUT, help="path of the JSON (default: %(default)s)")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if not options.only or options.only in m.name]
    if not chosen:
        parser.error(f"no mutation has {options.only!r} in its file or description")
    return 1 if run(chosen, options.out) else 0


if __name__ == "__main__":
    sys.exit(main())
