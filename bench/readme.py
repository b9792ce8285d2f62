"""Fill the tables of the documentation from bench/results: python -m bench.readme [--check]."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import depthloss
from bench import bars
from depthloss import env

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
INPUTS = {"rgb": "RGB", "rgbd": "RGB + sparse LiDAR"}


def overfit() -> str:
    """The overfit check on real frames, one row per run."""
    rows = [
        "| input | loss | abs_rel, after 10 epochs → at the end | σ structure, scale | steps | time |",
        "|---|---|---|---|---|---|",
    ]
    machines = set()
    for kind, label in INPUTS.items():
        for file in sorted((RESULTS / "kitti_overfit").glob(f"{kind}_*.json"), reverse=True):
            r = json.loads(file.read_text(encoding="utf-8"))
            sigma = ", ".join(f"{v['last']:.2f}" for v in r["sigma"].values()) if "sigma" in r else "–"
            method = r["command"].split("--supervised-method ")[1].split()[0]
            abs_rel = f"{r['abs_rel']['first']:.3f} → **{r['abs_rel']['last']:.3f}**"
            rows.append(
                f"| {label} | `{method}` | {abs_rel} | {sigma} | {r['steps']} | {r['wall_s'] / 60:.1f} min |"
            )
            m = r["machine"]
            machines.add(f"{m['cores']} CPU cores ({m['cpu']}), torch {m['torch']}")
    return "\n".join([*rows, "", f"Measured on {'; '.join(sorted(machines))}."])


def loss_share() -> str:
    """Milliseconds of each loss in a training step and its share of it, a table per device."""
    parts = []
    for file in sorted(RESULTS.glob("loss_share*.json")):
        data = json.loads(file.read_text(encoding="utf-8"))
        rows = {(tuple(r["size"]), r["input"], r["loss"], r["backend"]): r for r in data["rows"]}
        cases, losses, backends = (
            list(dict.fromkeys(key)) for key in zip(*((k[:2], k[2], k[3]) for k in rows), strict=True)
        )
        parts.append(
            f"| loss | {' | '.join(f'{h}×{w}, {source}' for (h, w), source in cases)} |\n"
            f"|---|{'---|' * len(cases)}\n"
            + "\n".join(
                f"| `{loss}` | {' | '.join(_shares(rows, case, loss, backends) for case in cases)} |"
                for loss in losses
            )
        )
        m, v = data["machine"], data["versions"]
        where = m.get("gpu") or f"{m['threads']} of {m['cores']} CPU cores ({m['cpu_name']})"
        parts.append(
            f"Batch {data['batch']}, float32; ms of the loss (share of the step): {' → '.join(backends)}. "
            f"Medians of {data['steps']} steps on {where}, torch {v['torch']}."
        )
    return "\n\n".join(parts)


def _shares(rows: dict, case: tuple, loss: str, backends: list[str]) -> str:
    found = [rows.get((*case, loss, backend)) for backend in backends]
    return " → ".join(
        f"{r['loss_ms']['median']:.3g} ({r['percent']['median']:.2g}%)" if r else "–" for r in found
    )


def equal() -> str:
    """What the quick start learns with each way to compute its loss, at which time and memory."""
    parts = []
    for file in sorted(RESULTS.glob("equal.json")):
        data = json.loads(file.read_text(encoding="utf-8"))
        seeds = len({row["seed"] for row in data["rows"]})
        parts += [_equal(data, loss, found) for loss, found in data["summary"].items()]
        note = (
            f"{seeds} seed{'s' * (seeds > 1)} of {data['rows'][0]['steps']} steps. Differences are to the "
            "reference. MiB: by how much a process grows at the peak."
        )
        parts.append(f"{note} {_where(data)}")
        parts.append("![training loss, abs_rel, time and memory with each loss](pictures/equal.png)")
    return "\n\n".join(parts)


def _equal(data: dict, loss: str, found: dict) -> str:
    head = ["loss", "abs_rel at the end (least–most)", "its mean differs by", "at one seed by up to"]
    head += ["ms: the loss", "ms: the step", "MiB: the loss", "MiB: the step"]
    lines = [_line(head), f"|{'---|' * len(head)}"]
    sizes = {(m["loss"], m["variant"]): m for m in data["memory"]}
    for variant, end in found["variants"].items():
        apart = [f"{end[key]:.4f}" if key in end else "–" for key in ("of_means", "at_one_seed")]
        rows = [r for r in data["rows"] if (r["loss"], r["variant"]) == (loss, variant)]
        times = [_ms(statistics.median(r[key]["median"] for r in rows)) for key in ("loss_ms", "step_ms")]
        size = sizes.get((loss, variant))
        memory = [f"{size[key]:.1f}" if size else "–" for key in ("loss_mib", "step_mib")]
        ends = f"{end['mean']:.4f} ({end['least']:.4f}–{end['most']:.4f})"
        lines.append(_line([variant, ends, *apart, *times, *memory]))
    verdicts = {True: "within", False: "**not within**", None: "of too few runs to be compared with"}
    verdict = verdicts[found["within_seed_noise"]]
    note = (
        f"`{loss}`: the means are {verdict} the noise of the seeds: the reference's own results lie "
        f"{found['seed_spread']:.4f} apart."
    )
    return "\n".join([*lines, "", note])


PYTORCH = (*bars.EAGER, "compile", "compile slicing")


def speed_cpu() -> str:
    """Both variants of g2 on a CPU beside PyTorch and a copy; the other losses, if measured."""
    data = json.loads((RESULTS / "speed_cpu.json").read_text(encoding="utf-8"))
    threads = list(dict.fromkeys(row["threads"] for row in data["rows"]))
    speeds = [row["gigabytes_per_second"] for row in data["rows"] if row["variant"] == "copy"]
    copy = (
        "`copy` moves what must be moved, 13 bytes per pixel: both maps and the mask in, the gradient out; "
        f"here at {min(speeds):.0f} to {max(speeds):.0f} GB/s. Each sample is up to "
        f"{bars.MOST_CALLS} calls in a row, on inputs that are in no cache."
    )
    parts = [_speeds(data, threads[0]), f"{copy} {_memory(data['rows'])} {_where(data)}"]
    for n in threads[1:]:
        parts.append(_folded(env.threads(n), _speeds(data, n)))
    others = RESULTS / "speed_cpu_losses.json"
    if others.exists():
        rest = json.loads(others.read_text(encoding="utf-8"))
        case = rest["rows"][0]
        title = f"The other losses, {_shape(case)}, {env.threads(case['threads'])}"
        parts.append(_folded(title, f"{_other_losses(rest)}\n\n{_where(rest)}"))
    return "\n\n".join(parts)


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _shape(row: dict) -> str:
    b, _, h, w = row["shape"]
    return f"{b}×{h}×{w}"


def _ours(rows: list[dict]) -> dict[str, str]:
    """Our measured variants and their labels, the best instruction set first."""
    measured = {row["variant"] for row in rows}
    names = {bars.variant("cpu", key): label for key, label in bars.INSTRUCTION_SETS.items()}
    return {name: label for name, label in names.items() if name in measured}


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ms(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _ratio(value: float, times: str = "") -> str:
    return "–" if math.isnan(value) else f"{value:.1f}{times}"


def _speeds(data: dict, threads: int) -> str:
    """Milliseconds of every case at a number of threads; a ratio to PyTorch needs torch.compile."""
    rows = [row for row in data["rows"] if (row["threads"], row["dtype"]) == (threads, "float32")]
    measured, ours = {row["variant"] for row in rows}, _ours(rows)
    rivals = [name for name in PYTORCH if name in measured]
    compared = list(ours)[:1] if "compile" in measured else []
    head = ["`g2`", "shape", "valid", *rivals, *(f"**ours, {label}**" for label in ours.values()), "copy"]
    head += [f"{label} / copy" for label in ours.values()]
    head += [f"best PyTorch / {ours[name]}" for name in compared]
    lines = [_line(head), f"|{'---|' * len(head)}"]
    for case in bars.cases(rows).values():
        first, best = next(iter(case.values())), bars.fastest(case, rivals, "wall")
        time = {name: bars.milliseconds(case.get(name), "wall") for name in (*rivals, *ours, "copy")}
        cells = [first["loss"].removeprefix("g2 "), _shape(first), f"{100 * first['density']:g}%"]
        cells += [_ms(ms) for ms in time.values()]
        cells += [_ratio(time[name] / time["copy"]) for name in ours]
        cells += [_ratio(best / time[name], "×") for name in compared]
        lines.append(_line(cells))
    return "\n".join([f"Milliseconds of forward + backward, float32, {env.threads(threads)}:", "", *lines])


def _span(values: Iterable[float | None]) -> str:
    known = [value for value in values if value is not None] or [math.nan]
    texts = dict.fromkeys(f"{x:.3g}" if x < 100 else f"{x:.0f}" for x in (min(known), max(known)))
    return "–".join(texts)


def _memory(rows: list[dict]) -> str:
    """Peak and saved bytes per pixel over all shapes."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        name = bars.backend(row["variant"])
        name = {"cpu": "ours", "compile": "torch.compile¹"}.get(name, row["variant"])
        if row["variant"] != "copy":
            found.setdefault(name, []).append(row)
    parts = []
    for name, own in sorted(found.items(), key=lambda item: item[0] != "ours"):
        peak = _span(r["torch_" * name.endswith("¹") + "peak_bytes_per_pixel"] for r in own)
        parts.append(f"{name} {peak} and {_span(r['saved_bytes_per_pixel'] for r in own)}")
    note = " ¹ What torch's allocator gave out." * ("torch.compile¹" in found)
    return (
        "Bytes per pixel beyond the inputs, at the peak (native work memory included) and saved for the "
        f"backward: {'; '.join(parts)}.{note}"
    )


def _where(data: dict, what: str = "Medians") -> str:
    m, v = data["machine"], data["versions"]
    return (
        f"{what} on {m['cores']} CPU cores ({m['cpu_name']}), torch {v['torch']}, Python {v['python']}, "
        f"{_when(data)}."
    )


def _when(data: dict) -> str:
    commit, _, dirty = data["commit"].partition("-")
    return f"commit {commit[:10]}{' with changes' * bool(dirty)}, {data['date'][:10]}"


def _other_losses(data: dict) -> str:
    """Milliseconds of the losses that have no bars, by density."""
    ours, label = next(iter(_ours(data["rows"]).items()))
    densities = list(dict.fromkeys(row["density"] for row in data["rows"]))
    head = ["loss"]
    for density in densities:
        head += [f"eager slicing, {100 * density:g}% valid", f"**ours, {label}**", "ratio"]
    lines = {}
    for case in bars.cases(data["rows"]).values():
        first, slow = next(iter(case.values())), bars.milliseconds(case.get("eager slicing"), "wall")
        fast = bars.milliseconds(case.get(ours), "wall")
        line = lines.setdefault(first["loss"], dict.fromkeys(densities, ["–"] * 3))
        line[first["density"]] = [_ms(slow), _ms(fast), _ratio(slow / fast, "×")]
    body = [_line([f"`{loss}`", *(x for d in densities for x in line[d])]) for loss, line in lines.items()]
    return "\n".join([_line(head), f"|{'---|' * len(head)}", *body])


def speed() -> str:
    """Time and memory of four cases beside eager PyTorch and torch.compile."""
    names = ("speed_cpu", "speed_cpu_losses")
    files = [json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in names]
    head = (
        "4×384×640, 2 threads",
        "valid",
        "ours",
        "eager",
        "torch.compile",
        "memory, ours",
        "memory, eager",
    )
    lines = [_line(head), f"|{'---|' * len(head)}"]
    for file, loss, density in (
        (0, "g2 published", 1.0),
        (0, "g2 published", 0.05),
        (1, "silog", 0.05),
        (1, "adaptive-multi-domain", 0.05),
    ):
        rows = [row for row in files[file]["rows"] if (row["loss"], row["density"]) == (loss, density)]
        rows = [row for row in rows if tuple(row["shape"]) == (4, 1, 384, 640) and row["threads"] == 2]
        (case,) = bars.cases(rows).values()
        name = next(iter(_ours(rows)))
        time = bars.milliseconds(case[name], "wall")
        rivals = (bars.EAGER, [rival for rival in PYTORCH if rival not in bars.EAGER])
        slower = [bars.fastest(case, forms, "wall") / time for forms in rivals]
        memory = [f"{case[key]['peak_bytes_per_pixel']:.3g}" for key in (name, "eager slicing")]
        cells = (f"`{loss.split()[0]}`", f"{100 * density:g}%", f"{_ms(time)} ms")
        lines.append(_line((*cells, *(_ratio(x, "×") for x in slower), *memory)))
    note = (
        "Forward + backward, float32. eager, torch.compile: the time of the fastest form of each divided by "
        "ours (– was not measured). Memory: bytes per pixel beyond the inputs, at the peak."
    )
    later = "" if _when(files[0]) == _when(files[1]) else f" The last two rows: {_when(files[1])}."
    return "\n".join([*lines, "", f"{note} {_where(files[0])}{later}"])


def recipes() -> str:
    """The recipes of the library: what each computes, its source, and where ours differs."""
    rows = [
        "| recipe | loss | what it computes | input | source | ours differs |",
        "|---|---|---|---|---|---|",
    ]
    groups: dict[int, list[str]] = {}
    for name, recipe in depthloss.RECIPES.items():
        groups.setdefault(id(recipe), []).append(name)
    for names in groups.values():
        recipe = depthloss.RECIPES[names[0]]
        options = ", ".join(f"{key}={value!r}" for key, value in recipe.options.items())
        built = f"`{recipe.loss}`" if isinstance(recipe.loss, str) else "its own"
        source = f"{recipe.source} @ {recipe.commit[:10]}" if recipe.commit else recipe.source
        needs = f"; a call brings `{'`, `'.join(recipe.inputs)}`" if recipe.inputs else ""
        cells = (
            ", ".join(f"`{name}`" for name in names),
            f"{built} ({options})" if options else built,
            recipe.formula,
            depthloss.recipe(names[0]).input_domain + needs,
            source,
            recipe.deviates or "–",
        )
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows)


def _migration() -> dict:
    return json.loads((RESULTS / "migration.json").read_text(encoding="utf-8"))


def _difference(x: float) -> str:
    return "0" if x == 0 else f"{x:.0e}"


def migration(page: str | None = None) -> str:
    """What stands in the place of other projects' losses, and how far both agree; of one page or of all."""
    data = _migration()
    cases: dict[tuple[str, str], dict[str, dict]] = {}
    for row in data["rows"]:
        if page in (None, row["page"]):
            cases.setdefault((row["page"], row["form"]), {})[row["maps"]] = row
    maps = list(next(iter(cases.values())))
    head = ["formula", "value differs by", "gradient differs by", *(f"CPU time, {name}" for name in maps)]
    lines = [_line(head), f"|{'---|' * len(head)}"]
    for (origin, form), case in cases.items():
        name = f"`{form}`" if page else f"[`{form}`]({origin}.md)"
        worst = (max(row[key] for row in case.values()) for key in ("value", "gradient"))
        ratios = (_ratio(case[label]["times"], "×") for label in maps)
        lines.append(_line((name, *map(_difference, worst), *ratios)))
    note = (
        "Differences in float64: of the value relative to it, of the gradient the largest, relative to its "
        "largest number. CPU time: how many times ours the published formula in plain PyTorch takes, forward "
        "and backward in float32, batch 4, one thread."
    )
    return "\n".join([*lines, "", f"{note} {_where(data)}"])


def versions() -> str:
    """Which torch and Triton were tried, and with what result."""
    rows = env.tested()
    of_torch = [row for row in rows if row["check"] in env.CHECKS["torch"]]
    of_triton = [row for row in rows if row["check"] in env.CHECKS["triton"]]
    commands = "; ".join(dict.fromkeys(f"{row['check']}: `pytest {row['tests']}`" for row in of_torch))
    parts = (
        _checks("torch, with Triton", of_torch, "torch"),
        _checks("Triton", of_triton, "triton"),
        f"Passed, failed, skipped, with Python {', '.join(dict.fromkeys(row['python'] for row in rows))}. "
        f"Made by `python -m tests.proof.versions`, without a GPU. {commands}.",
    )
    return "\n\n".join(parts)


def _checks(title: str, rows: list[dict], package: str) -> str:
    """A line for each version, a column for each check."""
    checks = env.CHECKS[package]
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        name = f"{row['torch']}, {row['triton']}" if package == "torch" else row["triton"]
        found.setdefault(name, {})[row["check"]] = _counts(row)
    lines = [_line((title, *checks)), f"|{'---|' * (1 + len(checks))}"]
    lines += [_line((name, *(counts.get(x, "–") for x in checks))) for name, counts in found.items()]
    return "\n".join(lines)


def _counts(row: dict) -> str:
    remarks = {"spilling": "spill registers", "unrecognised": "with multiply-adds not recognised as exact"}
    found = [f"{row[key]} {text}" for key, text in remarks.items() if row.get(key)]
    return "; ".join([f"{row['passed']}, {row['failed']}, {row['skipped']}", *found])


def evaluation() -> str:
    """Time and memory of evaluating folders of predictions, beside reading their files alone."""
    data = json.loads((RESULTS / "evaluation.json").read_text(encoding="utf-8"))
    rows = [
        "| pairs | protocol | time / reading alone | CPU time / reading alone | CPU ms per pair | memory |",
        "|---|---|---|---|---|---|",
    ]
    for r in data["rows"]:
        h, w = data["shapes"][r["files"]]
        each = "in one process" if not r["workers"] else f"in {r['workers']} processes"
        pairs = f"{r['frames']:,} {r['files'][1:]} of {h}×{w}, {each}"
        grown = r["resident_mib"]["after"] - r["resident_mib"]["before"]
        what = "none: reading" if r["what"] == "read" else f"`{r['what']}`"
        ratios = [f"{r[f'{key}_times_reading']:.2f}" for key in ("seconds", "cpu_seconds")]
        ms = 1000 * r["cpu_seconds"] / r["frames"]
        rows.append(f"| {pairs} | {what} | {ratios[0]} | {ratios[1]} | {ms:.3g} | {grown:+.0f} MiB |")
    where = _where(data, "Measured once")
    return "\n".join([*rows, "", f"Memory: growth of the main process. {where}"])


TABLES = {
    "evaluation": evaluation,
    "versions": versions,
    "migration": migration,
    **{
        f"migration {page}": partial(migration, page)
        for page in {row["page"] for row in _migration()["rows"]}
    },
    "recipes": recipes,
    "overfit": overfit,
    "loss-share": loss_share,
    "equal": equal,
    "speed-cpu": speed_cpu,
    "speed": speed,
}
PAGES = (
    *("README.md", "docs/performance.md", "docs/training.md", "docs/recipes.md", "docs/evaluation.md"),
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs" / "migration").glob("*.md")),
)


def filled(text: str) -> str:
    """A page with its tables filled in again."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin not in text:
            continue
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        text = f"{before}{begin}{table()}\n{end}{after}"
    return text


def main() -> int:
    """Rewrite the pages, or with --check say whether they are up to date."""
    old = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
    stale = {page: new for page in PAGES if (new := filled(old[page])) != old[page]}
    if "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}" if stale else "the pages agree with bench/results")
        return int(bool(stale))
    for page, text in stale.items():
        (ROOT / page).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
