"""What the README says is what was measured and what there is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import depthloss as dl

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_tables_agree_with_the_results():
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "readme.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_committed_overfit_run_passed():
    files = sorted((ROOT / "bench" / "results" / "kitti_overfit").glob("*.json"))
    assert len(files) == 4
    for file in files:
        result = json.loads(file.read_text(encoding="utf-8"))
        assert result["passed"] and result["abs_rel"]["last"] < 0.10, file.name
        for picture in ("curves", "predictions"):
            assert file.with_name(f"{file.stem}_{picture}.png").exists()


def test_every_loss_is_in_the_table():
    table = set(
        re.findall(r"`([a-z0-9-]+)`", "\n".join(r for r in README.splitlines() if r.startswith("| `")))
    )
    assert set(dl.available_losses()) <= table


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (ROOT / target).exists(), target


def test_the_example_trains(tmp_path):
    command = [sys.executable, ROOT / "examples" / "own_training.py", "--steps", "60"]
    out = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    totals = [float(line.split()[3]) for line in out]
    assert totals[-1] < 0.7 * totals[0]
