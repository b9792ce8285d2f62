"""Run the native CPU engine under the sanitizers of its compiler, and under valgrind.

    python -m tests.cpu.proof.sanitize [--fuzz SECONDS]    writes bench/results/cpu_sanitize.json
    python -m tests.cpu.proof.sanitize --quick             a short part of it, writes nothing

address, undefined   the engine built with -fsanitize=address,undefined: tests/cpu (the covering matrix,
                     random losses, hard cases) and fuzz.py in a child process that loads this
                     library (DEPTHLOSS_CPU_LIBRARY); then, without Python, every dtype and a search for
                     leaks. Fresh memory holds NaN, the engine's working memory has no slack at its end, a
                     thread's part of it has asserted bounds, and all but the smallest images compute their
                     levels band by band.
thread               driver.cpp on 1 to 4 threads, called from three threads at once, and forked
memcheck             the driver with the engine of this installation: values used before they are set

Exit status 1 if anything was reported or failed; 2 if this machine lacks a tool.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from bench import harness

from . import tools
from .fuzz import MODULE as FUZZ

OUT = harness.RESULTS / "cpu_sanitize.json"
ADDRESS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"
THREAD = "-fsanitize=thread"
# All but the smallest images (bytes) compute their levels band by band; bounds of threads' memory hold.
BUILD = "-DDL_MAPS=16384 -DDL_BOUNDS"
LOSSES = (
    "g2 published", "g2 document", "scale-adaptive", "adaptive-multi-domain", "ssi-silog", "gradient",
    "scale-shift-invariant", "affine-invariant trimmed", "midas-robust", "ssi-trim", "vggt-depth",
)  # fmt: skip
# Tests of these programs, which would build everything again.
NOT_AGAIN = "tests/cpu/proof"
OPTIONS = {
    "ASAN_OPTIONS": "max_malloc_fill_size=1000000000:malloc_fill_byte=255:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "die_after_fork=0",
    "OMP_NUM_THREADS": "1",
}
# Python keeps memory until its end, which is not a leak of the engine.
IN_PYTHON = {**OPTIONS, "ASAN_OPTIONS": f"{OPTIONS['ASAN_OPTIONS']}:detect_leaks=0"}


class Report:
    """The runs and their results."""

    def __init__(self) -> None:
        self.rows: list[dict] = []

    def add(self, what: str, tool: str, words: list, environment: dict, **counts: object) -> str:
        """Run a command and record it; returns its output."""
        begin = time.monotonic()
        done = tools.run(*words, env={**os.environ, **environment}, cwd=harness.ROOT)
        passed = done.returncode == 0
        row = {"what": what, "tool": tool, "passed": passed, "seconds": round(time.monotonic() - begin, 1)}
        self.rows.append({**row, **counts, **({} if passed else {"output": done.stdout[-4000:]})})
        print(f"{'ok' if passed else 'FAILED':<7} {tool:<18} {what}", flush=True)
        if not passed:
            print(done.stdout[-4000:])
        return done.stdout

    @property
    def passed(self) -> bool:
        """Whether there were runs, and all passed."""
        return bool(self.rows) and all(row["passed"] for row in self.rows)


def sanitized(folder: Path, flags: str, quick: bool) -> tuple[Path, Path]:
    """The engine and the driver; short runs use the baseline instructions only, unoptimised."""
    folder.mkdir()
    level = "-O0 -g1" if quick else "-O1 -g"
    sets = ("base",) if quick or flags == THREAD else ()
    library = tools.build(folder, f"{level} {flags} {BUILD} -Wno-error", flags, sets)
    return library, tools.build_driver(folder, flags)


def drive(
    report: Report, tool: str, before: list, driver: Path, library: Path, modes: tuple, losses: tuple
) -> None:
    """Run the driver on small images of odd sizes, on wide and on high ones."""
    for loss in losses:
        plan = tools.write_plan(driver.with_name("plan"), loss)
        for mode in modes:
            shapes = [(3, 150, 97)] if mode[0] == "threads" else [(2, 37, 51), (1, 3, 1100), (1, 130, 1)]
            for shape in (*shapes, (1, 700, 19)):
                words = [*before, driver, library, plan, *shape, 0.7, "best", *mode]
                report.add(f"driver {mode[0]}, {loss}, {'x'.join(map(str, shape))}", tool, words, OPTIONS)


def address(report: Report, folder: Path, quick: bool, seconds: float) -> None:
    """Address and undefined-behaviour sanitizers, in one build."""
    cxx, tool = tools.compiler(), "address, undefined"
    library, driver = sanitized(folder / "address", ADDRESS, quick)
    # ASan must be loaded first, and needs the C++ library, in which it looks up `throw`.
    preload = " ".join(tools.runtime(cxx, name) for name in ("libasan.so", "libstdc++.so.6"))
    environment = {**IN_PYTHON, "LD_PRELOAD": preload, "DEPTHLOSS_CPU_LIBRARY": str(library)}
    if not quick:
        results = folder / "results.xml"
        words = [
            sys.executable,
            "-m",
            "pytest",
            "tests/cpu",
            f"--ignore={NOT_AGAIN}",
            "-p",
            "no:cacheprovider",
        ]
        report.add("tests/cpu", tool, [*words, f"--junitxml={results}"], environment)
        if results.exists():
            suite = ElementTree.parse(results).getroot()[0]
            names = ("tests", "failures", "errors", "skipped")
            report.rows[-1] |= {name: int(suite.get(name)) for name in names}
    found = folder / "fuzz.json"
    words = [sys.executable, "-m", FUZZ, "--seconds", seconds, "--first", 10**6, "--out", found]
    report.add(f"random cases for {seconds:g} seconds", tool, words, environment)
    if found.exists():
        report.rows[-1]["cases"] = json.loads(found.read_text(encoding="utf-8"))["cases"]
    drive(
        report,
        "address, leaks",
        [],
        driver,
        library,
        (("dtypes",), ("once",)),
        LOSSES[:1] if quick else LOSSES,
    )


def thread(report: Report, folder: Path) -> None:
    """Thread sanitizer, at fixed addresses: random ones of newer Linux kernels leave it no room."""
    library, driver = sanitized(folder / "thread", THREAD, False)
    drive(report, "thread", ["setarch", "-R"], driver, library, (("threads", 4),), LOSSES)


def memcheck(report: Report, folder: Path) -> None:
    """Valgrind, in the AVX2 form: it does not know AVX-512."""
    (folder / "memcheck").mkdir()
    driver = tools.build_driver(folder / "memcheck")
    before = ["valgrind", "--tool=memcheck", "--error-exitcode=9", "--leak-check=no"]
    drive(report, "memcheck", before, driver, tools.installed(), (("once",),), LOSSES)


def run(folder: Path, quick: bool, seconds: float) -> Report:
    """Run everything, or the short part.

    Raises:
        Unavailable: no compiler, or none with these sanitizers.
    """
    report = Report()
    address(report, folder, quick, seconds)
    if not quick:
        thread(report, folder)
        memcheck(report, folder)
    return report


def main() -> int:
    """Run, print, write; 1 if a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one loss; no tests, no threads, no valgrind")
    parser.add_argument("--fuzz", type=float, metavar="SECONDS", help="of fuzz.py; default 60, quick 6")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    seconds = options.fuzz or (6.0 if options.quick else 60.0)
    with tempfile.TemporaryDirectory() as name:
        try:
            report = run(Path(name), options.quick, seconds)
        except tools.Unavailable as error:
            print(f"cannot run: {error}")
            return 2
    if not options.quick:
        result = {
            **harness.origin(),
            "command": harness.command("tests.cpu.proof.sanitize", sys.argv[1:]),
            "compiler": tools.version_of(tools.compiler()),
            "cpu_name": harness.cpu_name(),
            "flags": {"address, undefined": ADDRESS, "thread": THREAD, "both": BUILD},
            "options": IN_PYTHON,
            "passed": report.passed,
            "rows": report.rows,
        }
        harness.write_json(options.out, result)
        print(f"wrote {options.out}")
    print(f"{sum(row['passed'] for row in report.rows)} of {len(report.rows)} passed")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
