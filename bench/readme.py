"""Fill the README's tables from the results under bench/results/: python bench/readme.py [--check]."""

from __future__ import annotations

import json
import sys
from pathlib import Path

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


TABLES = {"overfit": overfit, "loss-share": loss_share}


def filled(text: str) -> str:
    """The README with every table that it has a place for made anew."""
    for name, table in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin not in text:
            continue
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        text = f"{before}{begin}{table()}\n{end}{after}"
    return text


def main() -> int:
    """Rewrite README.md, or with --check say whether it is up to date."""
    readme = ROOT / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = filled(old)
    if "--check" in sys.argv:
        print(
            "README.md agrees with bench/results"
            if new == old
            else "README.md is out of date: run bench/readme.py"
        )
        return int(new != old)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
