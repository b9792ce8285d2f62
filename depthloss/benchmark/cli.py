"""``depthloss bench``: time and memory of the losses on this machine, as a table, JSON and plots."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from depthloss import env
from depthloss.files import write_json
from depthloss.kernels import cpu

from .compare import compare, read
from .draw import draw
from .measure import FORMS, Case, measure
from .memory import Process
from .rivals import RIVALS

LOSSES = ("g2 published", "scale-adaptive", "silog", "l1")
SIZES = ((1, 192, 640), (4, 192, 640), (4, 384, 640), (8, 384, 1280))
VALID = (1.0, 0.05)


def _loss(text: str) -> str:
    return {"g2": "g2 published"}.get(text, text)


def _size(text: str) -> tuple[int, int, int]:
    try:
        b, h, w = (int(n) for n in text.lower().replace("×", "x").split("x"))
        if min(b, h, w) < 1:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"a size is BxHxW, as 4x192x640; got {text!r}") from None
    return b, h, w


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"a share of valid pixels lies in (0, 1]; got {text!r}")
    return share


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        "depthloss bench", description="Time and memory of the losses: a table, bench.json and bench.png."
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--losses", nargs="+", type=_loss, choices=RIVALS, default=list(LOSSES),
                        metavar="LOSS", help=f"of {', '.join(RIVALS)}")  # fmt: skip
    parser.add_argument("--sizes", nargs="+", type=_size, default=list(SIZES), metavar="BxHxW")
    parser.add_argument("--valid", nargs="+", type=_share, default=list(VALID), metavar="SHARE",
                        help="share of valid pixels")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device)
    parser.add_argument("--threads", type=int, help="threads of PyTorch and of the engine on a CPU")
    parser.add_argument("--compile", action="store_true",
                        help="torch.compile of the other forms too: 10 to 30 s for each")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=0.3, help="for each form of each case")
    parser.add_argument(
        "--no-memory",
        action="store_true",
        help="do not measure memory, which takes a process per form and size",
    )
    parser.add_argument("--out", type=Path, default=Path("depthloss-bench"), metavar="DIR",
                        help="gets bench.json and bench.png")  # fmt: skip
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"),
                        help="measure nothing: what changed between two bench.json")  # fmt: skip
    options = parser.parse_args(argv)
    cores = os.cpu_count() or 1
    if options.threads is not None and not 1 <= options.threads <= cores:
        parser.error(
            f"--threads must lie from 1 to {cores}, the cores of this machine; got {options.threads}"
        )
    if not 0 <= options.seconds < math.inf:
        parser.error(f"--seconds must be 0 or more, and finite; got {options.seconds}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    return options


def machine(device: str) -> dict:
    """Where this runs."""
    return {
        "cpu": env.cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if device == "cuda" else None,
        "engine": None if cpu.unavailable() else cpu.instruction_set(),
        "environment": env.report(),
    }


def memory(case: Case, form: str, device: str, said: Callable[[str], None]) -> float | None:
    """Bytes per pixel beyond the inputs at the peak; None where it cannot be told."""
    if device != "cpu" or "compiled" in form or not Path("/proc/self/clear_refs").exists():
        return None
    b, h, w = case.shape
    backend = {"ours": "auto", "by hand": "eager"}.get(form, form)
    threads = torch.get_num_threads()
    process = Process(case.loss, backend, (b, 1, h, w), "float32", threads)
    try:
        return process.resident_peak_bytes() / (b * h * w)
    except (RuntimeError, ValueError) as error:
        said(f"{case.loss}, memory of {form}: {error}")
        return None


def table(rows: list[dict]) -> str:
    """A line for each case: our time and backend, each other form as a multiple of our time, memory."""
    forms = [form for form in FORMS if form != "ours" and any(row["form"] == form for row in rows)]
    short = {"by hand, compiled": "compiled", "reference, compiled": "ref. comp."}
    lines = [
        f"{'loss':<19}{'size':>10}{'valid':>6}{'ours ms':>8} {'on':<9}"
        + "".join(f"{short.get(form, form):>10}" for form in forms)
        + f"{'B/px':>7}"
    ]
    for case in dict.fromkeys((row["loss"], tuple(row["shape"]), row["valid"]) for row in rows):
        own = {row["form"]: row for row in rows if (row["loss"], tuple(row["shape"]), row["valid"]) == case}
        if "ours" not in own:
            continue
        ours = own["ours"]["ms"]["median"]
        used = own["ours"].get("memory")
        lines.append(
            f"{case[0][:19]:<19}{'x'.join(map(str, case[1])):>10}{case[2]:>6.0%}{ours:>8.3g} "
            f"{own['ours']['backend']:<9}"
            + "".join(f"{own[f]['ms']['median'] / ours:>9.1f}x" if f in own else f"{'-':>10}" for f in forms)
            + f"{'-' if used is None else f'{used:.1f}':>7}"
        )
    return "\n".join(lines)


def _progress(cases: list[Case]) -> Iterable[Case]:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return cases
    return tqdm(cases, unit="case", disable=None)  # None: no bar where standard error is no terminal.


def run(options: argparse.Namespace) -> dict:
    """Measure all cases; Ctrl-C ends it with what there is."""
    if options.threads:
        torch.set_num_threads(options.threads)
    forms = [form for form in FORMS if options.compile or not form.endswith("compiled")]
    cases = [Case(n, s, v) for n in options.losses for s in options.sizes for v in options.valid]
    rows, said = [], []
    begin = time.monotonic()
    try:
        for case in _progress(cases):
            found = measure(case, forms, options.device, options.seconds, said.append)
            for row in found:
                row["memory"] = None
                if not options.no_memory and case.valid == options.valid[0]:
                    row["memory"] = memory(case, row["form"], options.device, said.append)
            rows += found
    except KeyboardInterrupt:
        said.append("all that was not measured yet: stopped by Ctrl-C")
    return {
        "made_by": "depthloss bench",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": options.device,
        "machine": machine(options.device),
        "seconds": round(time.monotonic() - begin, 1),
        "left_out": said,
        "rows": rows,
    }


def _place(folder: Path) -> Path:
    """The file of the result in a folder, which is made; a result that is in it gets another name."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "bench.json"
    if file.exists():
        n = next(n for n in itertools.count(1) if not (folder / f"bench.{n}.json").exists())
        file.rename(folder / f"bench.{n}.json")
        print(f"the result that was there is {folder / f'bench.{n}.json'} now")
    with tempfile.TemporaryFile(dir=folder):  # Tells now whether it can be written.
        return file


def main(argv: list[str]) -> int:
    """Measure, print, write; or compare. 1 if a form of ours was left out, 2 for what the user got wrong."""
    options = parse(argv)
    if options.compare:
        try:
            print(compare(*map(read, options.compare)))
        except ValueError as error:
            print(f"depthloss bench: error: {error}", file=sys.stderr)
            return 2
        return 0
    try:
        file = _place(options.out)
    except OSError as error:
        print(f"depthloss bench: error: --out {options.out} cannot be written: {error}", file=sys.stderr)
        return 2
    count = len(options.losses) * len(options.sizes) * len(options.valid)
    plural = "s" * (count != 1)
    print(f"{count} case{plural}, seconds each; Ctrl-C ends it with what there is", file=sys.stderr)
    result = run(options)
    print(table(result["rows"]))
    where = result["machine"]
    print(
        "Forward + backward, float32, medians; the other forms as multiples of our time.\n"
        f"{where['gpu'] or where['cpu']}, {env.threads(where['threads'])}, torch {torch.__version__}."
    )
    for text in result["left_out"]:
        print(f"left out: {text}")
    write_json(file, result)
    print(f"wrote {file}")
    if result["rows"]:
        picture = file.with_suffix(".png")
        try:
            draw(result, picture)
            print(f"wrote {picture}")
        except ModuleNotFoundError as error:
            print(f"no plot, as {error.name} is not installed: pip install 'depthloss[bench]'")
    return int(any(", ours: " in text for text in result["left_out"]) or not result["rows"])
