"""Versions of torch and Triton: what was tried, and what the doctor says of it."""

from __future__ import annotations

import json
import re
import sys

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
    {"torch": "2.14.0", "triton": "3.9.0", "python": "3.11.7", "check": "tests of the kernels", "passed": 6,
     "failed": 0, "skipped": 0},
]  # fmt: skip


@pytest.mark.parametrize(
    "torch, triton, expected",
    [
        ("2.6.0+cu124", "3.4.0", ["7 tests passed", "61 kernels compiled, 1 failed; 16 losses emulated"]),
        (
            "2.14.0",
            "3.4.0",
            ["6 tests of the kernels passed", "61 kernels compiled, 1 failed; 16 losses emulated"],
        ),
        (
            "2.7.1",
            "not installed",
            ["not tried; tried were 2.6.0, 2.14.0", "not installed; tried were 3.4.0"],
        ),
    ],
)
def test_what_was_tried_with_these_versions(torch, triton, expected, monkeypatch):
    monkeypatch.setattr(env, "tested", lambda: ROWS)
    monkeypatch.setattr(env, "_version", {"torch": torch, "triton": triton}.get)
    found = env.tested_here()
    assert list(found) == [f"torch {torch.split('+')[0]}", f"triton {triton}".removesuffix(" not installed")]
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


@pytest.mark.parametrize(
    "code, hangs", [("import time; time.sleep(60)", True), ("raise SystemExit(3)", False)]
)
def test_what_hangs_or_fails_says_where(code, hangs, monkeypatch):
    monkeypatch.setattr(versions, "LIMIT", 0.5 if hangs else 60)
    happened = "took more than 0.5 s:.*Aborted.*line 1 in <module>" if hangs else "failed with 3:"
    with pytest.raises(RuntimeError, match=f"(?s)-c {re.escape(code)} {happened}"):
        versions._run([sys.executable, "-c", code], {}, check=True)


def test_the_committed_versions_are_whole():
    """What is promised was tried, without a failure."""
    rows = env.tested()
    assert not any(row["failed"] for row in rows)
    assert all(set(row["commit"]) <= set("0123456789abcdef") for row in rows)
    for check, words in versions.TESTS.items():  # The rows can be compared.
        assert {row["tests"] for row in rows if row["check"] == check} == {" ".join(words)}
    for package, names in env.CHECKS.items():
        found = {row[package] for row in rows if row["check"] in names}
        oldest, pinned = (
            re.search(rf"\b{package}{sign}([\d.]+)", (versions.ROOT / file).read_text())[1]
            for file, sign in (("pyproject.toml", ">="), ("constraints.txt", "=="))
        )
        assert {f"{oldest}.0", pinned} <= found
