"""The files around the code agree with it: workflows, commit hooks, issue forms, citation."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path

import pytest
import yaml

import depthloss as dl
from depthloss import cli

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PINS = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


def load(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands() -> list[str]:
    jobs = [job for path in WORKFLOWS for job in load(path)["jobs"].values()]
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def test_workflows_install_what_was_tested():
    installs = [line for line in commands() if "pip install" in line]
    assert len(installs) == 2
    for line in installs:
        package = re.fullmatch(r"pip install --constraint constraints\.txt ([\w-]+)", line)[1]
        assert package in PINS


def test_actions_are_pinned_to_one_commit_each():
    text = "\n".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    pins = re.findall(r"uses: (\S+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)$", text, re.MULTILINE)
    assert len(pins) == text.count("uses:")
    assert len(set(pins)) == len({action for action, _, _ in pins})


def test_the_tests_run_on_every_python_from_the_oldest():
    oldest = int(re.fullmatch(r">=3\.(\d+)", metadata("depthloss")["Requires-Python"])[1])
    pythons = load(ROOT / ".github" / "workflows" / "tests.yml")["jobs"]["test"]["strategy"]["matrix"][
        "python"
    ]
    assert pythons == [f"3.{minor}" for minor in range(oldest, oldest + len(pythons))]
    (build,) = re.findall(r'^build = \["(.*)"\]$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert build == f'cp3{oldest}-manylinux_x86_64", "cp3{oldest}-manylinux_aarch64'


def test_commit_hooks_run_the_ruff_of_make_lint():
    (repo,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [hook["additional_dependencies"] for hook in repo["hooks"]] == [[f"ruff=={PINS['ruff']}"]] * 2


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms(path):
    form = load(path)
    assert form["name"] and form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    assert "doctor" in cli.COMMANDS
    asked = [f for f in form["body"] if "`depthloss doctor`" in f["attributes"]["label"]]
    assert [f["validations"]["required"] for f in asked] == ([] if path.stem == "proposal" else [True])


def test_the_citation_is_of_this_version():
    citation = load(ROOT / "CITATION.cff")
    assert citation["version"] == dl.__version__
    assert citation["license"] == metadata("depthloss")["License-Expression"]
