"""Count the instructions per pixel of the native CPU engine with valgrind; fail if they grow.

    python -m tests.cpu.proof.instructions [--renew]    writes bench/results/cpu_instructions.json
    python -m tests.cpu.proof.instructions --check      compares, writes nothing

Counted are one forward and backward of one image by the engine of this installation, on one thread, in
float32, in its AVX2 form (valgrind does not know AVX-512), called by driver.cpp without Python. The command
fails, and writes nothing, if forward or backward of a loss has more than 5% more instructions per pixel than
the committed file says; `--renew` accepts the growth. Engines of different compilers are not compared.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import sys
import tempfile
from pathlib import Path

from bench import harness

from . import tools

OUT = harness.RESULTS / "cpu_instructions.json"
LOSSES = ("g2 published", "g2 document", "scale-adaptive", "adaptive-multi-domain")
SHAPE, DENSITY, ISA = (1, 384, 640), 0.7, "avx2"
FORWARD, BACKWARD = ("dl_measure", "dl_combine"), ("dl_backward",)
PHASES = ("moments", "deviations", "structure", "level", "gradient")
GROWTH = 1.05
LEAST = 0.05  # Functions with fewer instructions per pixel are not listed.
ABOUT = {
    "forward": "instructions per pixel of dl_measure and dl_combine, including what they call",
    "backward": "the same of dl_backward",
    "phases": "the same of each phase (kernels/cpu/engine.h); 'other' is the rest",
    "functions": "of a function itself, excluding what it calls; 'system' is the C and C++ library",
}


def plain(name: str) -> str:
    """A function's name without instruction set, arithmetic type, arguments and result."""
    name = re.sub(r" \[clone .*\]$|\(anonymous namespace\)::", "", name).replace(f"{ISA}::", "")
    name = name.replace("<float, ", "<").replace("<float>", "").replace(" >", ">")
    name = name.split("(", 1)[0]
    return name.split(" ")[-1] if " " in name and "<" not in name.split(" ")[0] else name


class Profile:
    """Costs in a callgrind file: of each function of `library` itself, and including what it calls."""

    def __init__(self, path: Path, library: Path) -> None:
        self.own: collections.Counter[str] = collections.Counter()
        self.inclusive: collections.Counter[str] = collections.Counter()
        own_object = called_object = caller = called = ""
        awaits = False
        for line in path.read_text(errors="replace").splitlines():
            key, _, value = line.partition("=")
            if key == "ob":
                own_object = called_object = value
            elif key == "cob":
                called_object = value
            elif key == "fn":
                caller, called_object = value, own_object
            elif key == "cfn":
                called = value
            elif key == "calls":
                awaits = True
            elif line[:1].isdigit() or line[:1] in "+-*":
                words, here = line.split(), own_object == str(library)
                cost = int(words[1]) if len(words) > 1 else 0
                if not awaits:
                    self.own[plain(caller)] += cost * here
                    continue
                if called != caller:
                    self.inclusive[plain(called)] += cost
                if here and called_object != own_object:
                    self.own["system"] += cost
                awaits, called_object = False, own_object


def count(loss: str, driver: Path, library: Path, folder: Path) -> dict:
    """The row of one loss."""
    plan, out = tools.write_plan(folder / "plan", loss), folder / "callgrind"
    words = ["--tool=callgrind", f"--callgrind-out-file={out}", "--compress-strings=no", "--compress-pos=no"]
    done = tools.run("valgrind", *words, driver, library, plan, *SHAPE, DENSITY, ISA, "once")
    if done.returncode:
        raise tools.Unavailable(f"{loss} does not run under valgrind: {done.stdout.splitlines()[-1]}")
    profile, pixels = Profile(out, library), SHAPE[0] * SHAPE[1] * SHAPE[2]
    of = lambda names: sum(profile.inclusive[name] for name in names)  # noqa: E731
    phases = {name: of([name]) for name in PHASES}
    whole = of(FORWARD + BACKWARD)
    if not all(of([name]) for name in FORWARD + BACKWARD) or sum(phases.values()) > whole:
        raise RuntimeError(f"{out} does not tell what the phases cost")
    phases["other"] = whole - sum(phases.values())
    per_pixel = lambda costs: {k: round(v / pixels, 2) for k, v in costs.items() if v >= LEAST * pixels}  # noqa: E731
    return {
        "loss": loss,
        "forward": round(of(FORWARD) / pixels, 2),
        "backward": round(of(BACKWARD) / pixels, 2),
        "phases": per_pixel(phases),
        "functions": per_pixel(dict(profile.own.most_common())),
    }


def measure() -> dict:
    """All rows, with what was measured.

    Raises:
        Unavailable: valgrind, the compiler or AVX2 is missing.
    """
    try:
        version = tools.run("valgrind", "--version").stdout.strip()
    except OSError:
        raise tools.Unavailable("no valgrind") from None
    library = tools.installed()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        driver = tools.build_driver(folder)
        rows = [count(loss, driver, library, folder) for loss in LOSSES]
    return {
        "compiler": tools.made_by(library),
        "valgrind": version,
        "instruction_set": ISA,
        "shape": list(SHAPE),
        "dtype": "float32",
        "density": DENSITY,
        "about": ABOUT,
        "rows": rows,
    }


def grown(found: dict, committed: dict) -> list[str]:
    """Losses with more than 5% more instructions than the committed file says."""
    before = {row["loss"]: row for row in committed["rows"]}
    return [
        f"{row['loss']}, {way}: {row[way]} instructions per pixel, {before[row['loss']][way]} committed"
        for row in found["rows"]
        for way in ("forward", "backward")
        if row["loss"] in before and row[way] > GROWTH * before[row["loss"]][way]
    ]


def comparable(found: dict, committed: dict) -> str:
    """Why the two cannot be compared, or an empty string."""
    for key in ("compiler", "shape", "density", "instruction_set"):
        if found[key] != committed.get(key):
            return f"not compared: {key} {found[key]}, in {OUT.name} {committed.get(key)}"
    return ""


def main() -> int:
    """Count, compare, write; 1 if a number has grown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    parser.add_argument("--renew", action="store_true", help="write the file even if the numbers have grown")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    try:
        found = measure()
    except tools.Unavailable as error:
        print(f"cannot count: {error}")
        return 2
    print(f"instructions per pixel, {ISA}, {found['compiler']}")
    for row in found["rows"]:
        phases = ", ".join(f"{name} {value:g}" for name, value in row["phases"].items())
        print(f"{row['loss']:<22} forward {row['forward']:>7}  backward {row['backward']:>6}  ({phases})")
    committed = json.loads(OUT.read_text(encoding="utf-8")) if OUT.exists() else None
    if committed and not options.renew:
        problem = comparable(found, committed)
        growth = [] if problem else grown(found, committed)
        print("\n".join([problem, *growth] if problem else growth) or "none has grown by more than 5%")
        if growth:
            return 1
    if not options.check:
        command = harness.command("tests.cpu.proof.instructions", sys.argv[1:])
        harness.write_json(options.out, {**harness.origin(), "command": command, **found})
        print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
