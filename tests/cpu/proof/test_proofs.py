"""Short runs of the proofs of the native engine: sanitizers, random cases, instruction counts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from depthloss import dispatch

if dispatch.backend_status("cpu"):
    pytest.skip(f"the native engine: {dispatch.backend_status('cpu')}", allow_module_level=True)

from . import fuzz, instructions, same_bits, sanitize, tools  # noqa: E402


@pytest.fixture
def driver(tmp_path):
    try:
        return tools.build_driver(tmp_path)
    except tools.Unavailable as error:
        pytest.skip(str(error))


def test_random_cases_hold(threads):
    threads(1)
    for number in range(25):
        fuzz.hold(fuzz.draw_case(number), number)


@pytest.mark.full
def test_random_cases_hold_for_half_a_minute():
    found = fuzz.fuzz(30.0, 0)
    assert not found["wrong"] and found["cases"] > 50


def test_a_crash_is_told_with_its_case(monkeypatch, capsys):
    def crash(words, check):
        progress = Path(words[words.index("--progress") + 1])
        progress.write_text(f"{123:<20}\n", encoding="utf-8")
        return subprocess.CompletedProcess(words, -11)

    monkeypatch.setattr(fuzz.subprocess, "run", crash)
    found = fuzz.fuzz(1.0, 100)
    assert found["wrong"] == [123] and found["cases"] == 24
    assert "status -11" in (said := capsys.readouterr().out) and "--replay 123" in said


@pytest.mark.full
def test_the_sanitizers_report_nothing(tmp_path, capsys):
    """A part of sanitize.py: baseline instructions, unoptimised."""
    try:
        report = sanitize.run(tmp_path, quick=True, seconds=8.0)
    except tools.Unavailable as error:
        pytest.skip(str(error))
    assert report.passed and report.rows[0]["cases"] > 0, capsys.readouterr().out


def test_the_committed_run_of_the_sanitizers_has_all_of_them():
    found = json.loads(sanitize.OUT.read_text(encoding="utf-8"))
    rows = {(row["tool"], row["what"]): row for row in found["rows"]}
    assert found["passed"] and all(row["passed"] for row in found["rows"])
    assert {tool for tool, _ in rows} == {"address, undefined", "address, leaks", "thread", "memcheck"}
    tests = rows["address, undefined", "tests/cpu"]
    assert tests["tests"] > 380 and not tests["failures"] + tests["errors"]
    assert rows["address, undefined", "random cases for 600 seconds"]["cases"] > 1000


def test_the_sanitizers_would_report(tmp_path, monkeypatch):
    """A leak: forwards that are never finished. (The stack may still hold the address of a single one.)"""
    source = tools.DRIVER.read_text(encoding="utf-8")
    finish = "    combine_(&call, state);\n"
    assert finish in source
    broken = tmp_path / "source" / "driver.cpp"
    broken.parent.mkdir()
    header = tools.DRIVER.parents[3] / "kernels" / "cpu" / "engine.h"
    source = source.replace(finish, "").replace("../../../kernels/cpu/engine.h", str(header))
    broken.write_text(source, encoding="utf-8")
    monkeypatch.setattr(tools, "DRIVER", broken)
    try:
        tools.runtime(tools.compiler(), "liblsan.so")
        driver = tools.build_driver(tmp_path, "-fsanitize=leak")
    except tools.Unavailable as error:
        pytest.skip(str(error))
    plan = tools.write_plan(tmp_path / "plan", "g2 document")
    done = tools.run(driver, tools.installed(), plan, 1, 20, 20, 1.0, "best", "dtypes")
    assert done.returncode and "detected memory leaks" in done.stdout


# Takes the rows of a thread's memory until they are more than it has.
TOO_MANY_ROWS = """
#include "{rows}"
int main(int words, char**) {{
    const int64_t w = 100, size = DL_ISA::arena_bytes<float>(w), row = 4 * DL_ISA::row_size(w);
    char* memory = static_cast<char*>(aligned_alloc(64, static_cast<size_t>(size)));
    DL_ISA::Arena arena = DL_ISA::arena_of<float>(memory, w);
    for (int64_t i = 0; i < size / row + (words > 1); i++) arena.row<float>();
    free(memory);
}}
"""


def test_a_phase_that_takes_too_many_rows_is_seen(tmp_path):
    source, program = tmp_path / "rows.cpp", tmp_path / "rows"
    rows = tools.DRIVER.parents[3] / "kernels" / "cpu" / "rows.hpp"
    source.write_text(TOO_MANY_ROWS.format(rows=rows), encoding="utf-8")
    flags = ["-std=c++17", "-O0", "-Wno-psabi", *sanitize.BUILD.split(), "-DDL_ISA=base"]
    try:
        built = tools.run(*tools.compiler().split(), *flags, source, "-o", program)
    except tools.Unavailable as error:
        pytest.skip(str(error))
    assert built.returncode == 0, built.stdout
    assert tools.run(program).returncode == 0
    done = tools.run(program, "one more")
    assert done.returncode and "more rows than `arena_bytes` has" in done.stdout


def test_a_bit_that_differs_is_told(threads):
    threads(1)
    cases = same_bits.draw_cases(every=60)
    before, after = ({case: same_bits.evaluate(case) for case in cases} for _ in range(2))
    assert len(cases) > 40 and not same_bits.differences(before, after)
    case = next(c for c in cases if c.mask == "dense" and c.dtype == torch.float32)
    loss = after[case]["loss"]
    after[case]["loss"] = torch.nextafter(loss, loss + 1)
    ((found, name, size),) = same_bits.differences(before, after)
    assert (found, name) == (case, "loss") and 0 < size < 1e-6
    after[case]["gradient"] = after[case]["gradient"].masked_fill(torch.tensor(True), torch.nan)
    assert sorted(name for _, name, _ in same_bits.differences(before, after)) == ["gradient", "loss"]


def test_threads_that_the_system_does_not_give(driver, tmp_path):
    plan = tools.write_plan(tmp_path / "plan", "g2 document")
    done = tools.run(driver, tools.installed(), plan, 2, 150, 97, 0.7, "best", "starved")
    assert done.returncode == 0, done.stdout


def test_threads_and_forks_without_python(driver, tmp_path):
    for loss in ("scale-adaptive", "adaptive-multi-domain"):
        plan = tools.write_plan(tmp_path / "plan", loss)
        done = tools.run(driver, tools.installed(), plan, 2, 150, 97, 0.7, "best", "threads", 3)
        assert done.returncode == 0, done.stdout


def test_the_number_of_instructions_has_not_grown():
    committed = json.loads(instructions.OUT.read_text(encoding="utf-8"))
    try:
        found = instructions.measure()
    except tools.Unavailable as error:
        pytest.skip(str(error))
    if problem := instructions.comparable(found, committed):
        pytest.skip(problem)
    assert not instructions.grown(found, committed)


def test_growth_is_seen():
    committed = json.loads(instructions.OUT.read_text(encoding="utf-8"))
    assert {row["loss"] for row in committed["rows"]} == set(instructions.LOSSES)
    assert not instructions.grown(committed, committed) and not instructions.comparable(committed, committed)
    found = json.loads(json.dumps(committed))
    found["rows"][1]["backward"] *= 1.06
    assert len(instructions.grown(found, committed)) == 1
    found["compiler"] = "another"
    assert "another" in instructions.comparable(found, committed)
