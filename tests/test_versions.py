"""Versions of torch and Triton: what was tried, and what the doctor says of it."""

from __future__ import annotations

import json

import pytest

from depthloss import env

from .proof import versions

ROWS = [
    {"torch": "2.6.0", "triton": "3.2.0", "python": "3.11.7", "check": "tests", "passed": 7, "failed": 0,
     "skipped": 2},
    {"torch": "2.13.0", "triton": "3.4.0", "python": "3.11.7", "check": "kernels compiled", "passed": 61,
     "failed": 1, "skipped": 0},
    {"torch": "2.13.0", "triton": "3.4.0", "python": "3.11.7", "check": "losses emulated", "passed": 16,
     "failed": 0, "skipped": 0},
]  # fmt: skip


@pytest.mark.parametrize(
    "torch, triton, expected",
    [
        ("2.6.0+cu124", "3.4.0", ["7 tests passed", "61 kernels compiled, 1 failed; 16 losses emulated"]),
        ("2.7.1", "not installed", ["not tried; tried were 2.6.0", "not tried; tried were 3.4.0"]),
    ],
)
def test_what_was_tried_with_these_versions(torch, triton, expected, monkeypatch):
    monkeypatch.setattr(env, "tested", lambda: ROWS)
    monkeypatch.setattr(env, "_version", {"torch": torch, "triton": triton}.get)
    found = env.tested_here()
    assert list(found) == [f"torch {torch.split('+')[0]}", f"triton {triton}"]
    assert list(found.values()) == expected


def test_a_row_replaces_that_of_the_same_versions_and_check(tmp_path, monkeypatch):
    for module in (env, versions):
        monkeypatch.setattr(module, "TESTED", tmp_path / "tested.json")
    (tmp_path / "tested.json").write_text(json.dumps({"rows": ROWS[:2]}))
    again = ROWS[0] | {"passed": 9}
    later = ROWS[0] | {"torch": "2.13.0"}
    versions.enter([later, again])
    assert env.tested() == [ROWS[1], again, later]  # by check, then 2.6 before 2.13
    assert len((tmp_path / "tested.json").read_text().splitlines()) == 3 + 4


def test_the_committed_versions_are_whole():
    """What is promised was tried, without a failure."""
    rows = env.tested()
    assert not any(row["failed"] for row in rows)
    assert all(set(row["commit"]) <= set("0123456789abcdef") for row in rows)
    minors = {name: {row[name].rpartition(".")[0] for row in rows} for name in ("torch", "triton")}
    assert "2.6" in minors["torch"] and "3.4" in minors["triton"]
