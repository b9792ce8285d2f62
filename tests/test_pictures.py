"""No picture enters the repository without its source and licence."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".bmp", ".tif", ".tiff", ".pdf"}
ROW = re.compile(r"^\| `(\S+)` \| (.+) \| `(\S+)[^`]*` \| (\S+) \|$", re.MULTILINE)


def rows() -> list[tuple[str, str, str, str]]:
    """Picture, what it shows, program, licence."""
    return ROW.findall((ROOT / "docs" / "pictures" / "README.md").read_text(encoding="utf-8"))


def test_every_picture_is_listed_with_its_source_and_licence():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not in a clone: git says which files belong to the repository")
    names = [name for name in listed.stdout.split("\0") if Path(name).suffix.lower() in SUFFIXES]
    assert sorted(name for name, *_ in rows()) == sorted(name for name in names if (ROOT / name).exists())


@pytest.mark.parametrize(("name", "program", "licence"), [(n, p, x) for n, _, p, x in rows()])
def test_the_program_exists_and_the_licence_lets_us(name, program, licence):
    as_module = (ROOT / program.replace(".", "/")).with_suffix(".py")
    assert (ROOT / program).exists() or as_module.exists()
    assert licence in ("MIT", "CC-BY-3.0", "CC-BY-4.0")


@pytest.mark.parametrize("rendered", [True, False])
def test_the_overfit_check_keeps_pictures_of_rendered_frames_only(monkeypatch, tmp_path, rendered):
    bench = importlib.import_module("bench.training.overfit")
    commands = []

    def train(command, **_):
        commands.append(command)
        run = tmp_path / "runs" / "rgbd_scale_adaptive"
        run.mkdir(parents=True)
        for picture in ("curves", "predictions"):
            (run / f"{picture}.png").touch()

    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(bench, "machine", dict)
    monkeypatch.setattr(bench.subprocess, "run", train)
    passed = {"abs_rel": {"last": 0.05}, "steps": 300, "passed": True}
    monkeypatch.setattr(bench, "summarise", lambda *_: passed)
    source = ["--rendered"] if rendered else ["--data", str(tmp_path)]
    only = ["--only", "rgbd_scale_adaptive", "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["overfit", *source, *only])
    assert bench.main() == 0
    results = tmp_path / "results" / ("rendered_overfit" if rendered else "kitti_overfit")
    kept = ["curves.png", "predictions.png"] if rendered else ["curves.png"]
    assert sorted(p.name for p in results.glob("*.png")) == [f"rgbd_scale_adaptive_{name}" for name in kept]
    assert json.loads((results / "rgbd_scale_adaptive.json").read_text())["passed"]
    (command,) = commands
    given = dict(zip(command[3::2], command[4::2], strict=True))
    assert given["--datasets.train.input_depth"] == ("scanline" if rendered else "depth_raw")
    assert given.get("--datasets.train.dataset") == ("synthetic" if rendered else None)
