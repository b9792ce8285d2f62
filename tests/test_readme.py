"""What the README says is what was measured and what there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import depthloss as dl

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    x
    for folder in (".", "docs", "docs/migration", "tests", "bench/results")
    for x in (ROOT / folder).glob("*.md")
)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_agree_with_the_results():
    done = subprocess.run(
        [sys.executable, "-m", "bench.readme", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_committed_overfit_run_passed():
    files = sorted((ROOT / "bench" / "results").glob("*_overfit/*.json"))
    assert len(files) == 5
    for file in files:
        result = json.loads(file.read_text(encoding="utf-8"))
        assert result["passed"] and result["abs_rel"]["last"] < 0.10, file.name
        assert file.with_name(f"{file.stem}_curves.png").exists()


def test_every_loss_is_in_the_table():
    names = (ROOT / "docs" / "use.md").read_text(encoding="utf-8").splitlines()
    table = set(re.findall(r"`([a-z0-9-]+)`", "\n".join(row for row in names if row.startswith("| `"))))
    assert set(dl.available_losses()) <= table


def anchors(page: Path) -> set[str]:
    """The headings of a page as links write them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        found = page.parent / target if target else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


def test_the_readme_example_runs(capsys):
    code = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(code[0], {})
    assert "G2Loss = " in capsys.readouterr().out


@pytest.mark.parametrize("name", ("own_training", "finetune_relative"))
def test_the_example_trains(name, tmp_path):
    command = [sys.executable, ROOT / "examples" / f"{name}.py", "--steps", "60"]
    out = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    totals = [float(line.split()[3]) for line in out]
    assert totals[-1] < 0.7 * totals[0]
