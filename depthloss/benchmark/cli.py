"""``depthloss bench``: time and memory of the losses on this machine, as a table, JSON and plots."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from depthloss import env
from depthloss.kernels import cpu

from .compare import compare, read
from .draw import draw
from .measure import FORMS, Case, measure
from .memory import Process
from .rivals import RIVALS

LOSSES = ("g2 published", "scale-adaptive", "silog", "l1")
SIZES = ((1, 192, 640), (4, 192, 640), (4, 384, 640), (8, 384, 1280))
VALID = (1.0, 0.05)


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
    parser = argparse.ArgumentParser("depthloss bench", description=__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--losses", nargs="+", choices=RIVALS, default=list(LOSSES), metavar="LOSS",
                        help=f"of {', '.join(RIVALS)}")  # fmt: skip
    parser.add_argument("--sizes", nargs="+", type=_size, default=list(SIZES), metavar="BxHxW")
    parser.add_argument("--valid", nargs="+", type=_share, default=list(VALID), metavar="SHARE",
                        help="share of valid pixels")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device)
    parser.add_argument("--threads", type=int, help="threads of PyTorch and of the engine on a CPU")
    parser.add_argument("--compile", action="store_true",
                        help="torch.compile of the other forms too: 10 to 30 s each and size")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=0.3, help="for each form of each case")
    parser.add_argument("--no-memory", action="store_true", help="a process for each form and size less")
    parser.add_argument("--out", type=Path, default=Path("depthloss-bench"), metavar="DIR",
                        help="gets bench.json and bench.png")  # fmt: skip
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"),
                        help="measure nothing: what changed between two bench.json")  # fmt: skip
    options = parser.parse_args(argv)
    if options.threads is not None and options.threads < 1:
        parser.error(f"--threads must be 1 or more; got {options.threads}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    return options


def machine(device: str) -> dict:
    """Where this runs."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else env.report()["platform"],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if device == "cuda" else None,
        "engine": None if cpu.unavailable() else cpu.instruction_set(),
        "environment": env.report(),
    }


def memory(case: Case, form: str, device: str) -> float | None:
    """Bytes per pixel beyond the inputs at the peak; None where it cannot be told."""
    if device != "cpu" or "compiled" in form or not Path("/proc/self/clear_refs").exists():
        return None
    b, h, w = case.shape
    backend = {"ours": "auto", "by hand": "eager"}.get(form, form)
    threads = torch.get_num_threads()
    return Process(case.loss, backend, (b, 1, h, w), "float32", threads).resident_peak_bytes() / (b * h * w)


def table(rows: list[dict]) -> str:
    """A line for each case: our time, and each other form as a multiple of it."""
    forms = [form for form in FORMS if any(row["form"] == form for row in rows)]
    head = f"{'loss':<28}{'size':>14}{'valid':>7}{'ours, ms':>10}"
    lines = [head + "".join(f"{form:>21}" for form in forms if form != "ours") + f"{'bytes/pixel':>13}"]
    for case in dict.fromkeys((row["loss"], tuple(row["shape"]), row["valid"]) for row in rows):
        own = {row["form"]: row for row in rows if (row["loss"], tuple(row["shape"]), row["valid"]) == case}
        if "ours" not in own:
            continue
        ours = own["ours"]["ms"]["median"]
        cells = [f"{own[f]['ms']['median'] / ours:.1f}x" if f in own else "-" for f in forms if f != "ours"]
        used = own["ours"].get("memory")
        size = "x".join(map(str, case[1]))
        lines.append(
            f"{case[0]:<28}{size:>14}{case[2]:>7.0%}{ours:>10.3g}"
            + "".join(f"{cell:>21}" for cell in cells)
            + f"{'-' if used is None else f'{used:.1f}':>13}"
        )
    return "\n".join(lines)


def _progress(cases: list[Case]) -> Iterable[Case]:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return cases
    return tqdm(cases, unit="case", disable=None)  # None: no bar where standard error is no terminal.


def run(options: argparse.Namespace) -> dict:
    """Measure all cases."""
    if options.threads:
        torch.set_num_threads(options.threads)
    forms = [form for form in FORMS if options.compile or not form.endswith("compiled")]
    cases = [Case(n, s, v) for n in options.losses for s in options.sizes for v in options.valid]
    rows, said = [], []
    begin = time.monotonic()
    for case in _progress(cases):
        found = measure(case, forms, options.device, options.seconds, said.append)
        for row in found:
            wanted = not options.no_memory and case.valid == options.valid[0]
            row["memory"] = memory(case, row["form"], options.device) if wanted else None
        rows += found
    return {
        "made_by": "depthloss bench",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": options.device,
        "machine": machine(options.device),
        "seconds": round(time.monotonic() - begin, 1),
        "left_out": said,
        "rows": rows,
    }


def main(argv: list[str]) -> int:
    """Measure, print, write; or compare. 1 if a form of ours was left out, 2 for a file that is no result."""
    options = parse(argv)
    if options.compare:
        try:
            print(compare(*map(read, options.compare)))
        except ValueError as error:
            print(f"depthloss bench: error: {error}", file=sys.stderr)
            return 2
        return 0
    result = run(options)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "bench.json"
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(file)
    print(table(result["rows"]))
    where = result["machine"]
    print(
        f"Forward + backward, float32; the other forms as multiples of our time, medians. "
        f"{where['gpu'] or where['cpu']}, {where['threads']} threads, torch {torch.__version__}."
    )
    for text in result["left_out"]:
        print(f"left out: {text}")
    try:
        draw(result, options.out / "bench.png")
        print(f"wrote {file} and {options.out / 'bench.png'}")
    except ModuleNotFoundError as error:
        print(f"wrote {file}; no plot, as {error.name} is not installed: pip install 'depthloss[bench]'")
    return int(any(", ours: " in text for text in result["left_out"]))
