"""`depthloss bench`: what it measures, says, writes and compares."""

from __future__ import annotations

import json
import re

import pytest

from depthloss import cli, dispatch
from depthloss.benchmark import cli as bench_cli
from depthloss.benchmark import compare, measure, rivals

TINY = ("--sizes", "1x24x32", "2x24x40", "--seconds", "0", "--losses", "ssi", "l1", "--no-memory")
OURS = "reference" if dispatch.backend_status("cpu") else "cpu"


def bench(capsys, *arguments):
    status = cli.main(["bench", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_table_json_and_plot(capsys, tmp_path):
    status, out, _ = bench(capsys, *TINY, "--out", tmp_path / "new")
    assert status == 0
    lines = out.splitlines()
    assert " ".join(lines[0].split()) == "loss size valid ours ms on by hand reference B/px"
    assert max(map(len, lines[:9])) <= 80
    assert [line.split()[:3] for line in lines[1:9:3]] == [
        ["ssi", "1x24x32", "100%"], ["ssi", "2x24x40", "5%"], ["l1", "2x24x40", "100%"]
    ]  # fmt: skip
    result = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert len(result["rows"]) == 2 * 2 * 2 * 3 and not result["left_out"]
    for row in result["rows"]:
        assert 0 < row["ms"]["p20"] <= row["ms"]["median"] <= row["ms"]["p80"] and row["ms"]["samples"] >= 5
    assert (
        result["machine"]["environment"]["torch"] and (tmp_path / "new" / "bench.png").stat().st_size > 10_000
    )
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"bench.json", "bench.png"}
    assert {row["backend"] for row in result["rows"] if row["loss"] == "l1"} == {OURS, ""}
    status, out, _ = bench(capsys, "--compare", *[tmp_path / "new" / "bench.json"] * 2)
    assert (
        status == 0
        and len(out.splitlines()) == 25
        and all(x.endswith("  same") for x in out.splitlines()[1:])
    )


def test_a_form_with_wrong_numbers_is_not_timed(capsys, tmp_path, monkeypatch):
    right = rivals.RIVALS["ssi"]()
    monkeypatch.setitem(rivals.RIVALS, "ssi", lambda: lambda p, g, m: 1.01 * right(p, g, m))
    status, out, _ = bench(capsys, *TINY, "--sizes", "1x24x32", "--losses", "ssi", "--out", tmp_path)
    assert status == 0 and "left out: ssi, by hand: not timed, as its numbers are wrong: {'loss': 0.0" in out

    def broken(*_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(measure, "build", broken)
    monkeypatch.setattr(measure, "oracle", lambda *_: (right, []))
    monkeypatch.setattr(measure, "domain_of", lambda name: "either")
    said = []
    assert measure.measure(measure.Case("ssi", (1, 8, 8), 1.0), ["ours"], "cpu", 0.0, said.append) == []
    assert said == ["ssi, ours: RuntimeError: no compiler"]


def test_what_counts_as_a_change():
    def spread(low, median, high):
        return {"p20": low, "median": median, "p80": high}

    old = spread(0.9, 1.0, 1.1)
    assert compare.verdict(old, spread(1.0, 1.2, 1.4)) == "same"  # Within the noise.
    assert compare.verdict(old, spread(1.2, 1.25, 1.3)) == "25% slower"
    assert compare.verdict(old, spread(0.4, 0.5, 0.6)) == "50% faster"
    assert compare.verdict(spread(1.0, 1.0, 1.0), spread(1.09, 1.09, 1.09)) == "same"


def test_results_of_other_machines_and_cases():
    row = {
        "loss": "ssi",
        "shape": [1, 2, 3],
        "valid": 1.0,
        "form": "ours",
        "ms": {"p20": 1, "median": 1, "p80": 1},
    }
    larger = row | {"shape": [16, 2, 3]}
    a = {"rows": [larger, row], "machine": {"cpu": "x", "threads": 2, "environment": {"torch": "2.6"}}}
    b = {"rows": [row, larger, row | {"form": "reference"}], "machine": {"cpu": "y", "threads": 2}}
    lines = compare.compare(a, b).splitlines()
    assert lines[1].split() == ["ssi", "1x2x3", "100%", "ours", "1", "1", "same"]
    assert lines[2].split()[1] == "16x2x3"
    assert lines[3:] == [
        "1 measurements are in one of the two only.",
        "cpu: x and y: the times are not comparable.",
        "torch: 2.6 and None.",
    ]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read: [Errno 2]"),
        ("{", "cannot be read"),
        ("{}", "is no result of"),
        ('{"made_by": "depthloss bench"}', "is no result of"),
    ],
)
def test_files_that_are_no_results(content, text, capsys, tmp_path):
    path = tmp_path / "bench.json"
    if content is not None:
        path.write_text(content)
    status, _, err = bench(capsys, "--compare", path, path)
    assert status == 2 and err.startswith(f"depthloss bench: error: {path} ") and text in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--sizes", "4x192"), "a size is BxHxW, as 4x192x640; got '4x192'"),
        (("--sizes", "0x8x8"), "a size is BxHxW, as 4x192x640; got '0x8x8'"),
        (("--valid", "5"), "a share of valid pixels lies in (0, 1]; got '5'"),
        (("--threads", "0"), "--threads must lie from 1 to "),
        (("--threads", "100000"), "the cores of this machine; got 100000"),
        (("--seconds", "nan"), "--seconds must be 0 or more, and finite; got nan"),
        (("--seconds", "-1"), "--seconds must be 0 or more, and finite; got -1.0"),
        (("--losses", "sig"), "invalid choice: 'sig'"),
    ],
)
def test_arguments(arguments, text, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", *arguments])
    assert end.value.code == 2 and re.search(re.escape(text), capsys.readouterr().err)


def test_a_result_that_is_there_is_kept(capsys, tmp_path):
    (tmp_path / "bench.json").write_text("old")
    (tmp_path / "bench.1.json").write_text("older")
    few = (*TINY, "--sizes", "1x24x32", "--losses", "l1", "--valid", "1")
    status, out, _ = bench(capsys, *few, "--out", tmp_path)
    assert status == 0 and f"the result that was there is {tmp_path / 'bench.2.json'} now" in out
    assert (tmp_path / "bench.2.json").read_text() == "old" and json.loads(
        (tmp_path / "bench.json").read_text()
    )


def test_a_place_that_cannot_be_written_is_told_before_measuring(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(bench_cli, "run", lambda options: pytest.fail("measured"))
    for place in (tmp_path / "file", "/proc/nowhere"):
        status, _, err = bench(capsys, "--out", place)
        assert status == 2 and err.startswith(f"depthloss bench: error: --out {place} cannot be written: ")


def test_what_fails_leaves_the_rest(capsys, tmp_path, monkeypatch):
    def fails(self):
        raise RuntimeError("killed")

    monkeypatch.setattr(bench_cli.Process, "resident_peak_bytes", fails)
    few = ("--seconds", "0", "--losses", "l1", "--valid", "1", "--out", tmp_path)
    status, out, _ = bench(capsys, *few, "--sizes", "1x24x32", "1x1000000x1000000")
    assert status == 0 and "left out: l1, memory of ours: killed" in out
    assert "left out: l1 at 1x1000000x1000000: " in out and (tmp_path / "bench.json").exists()
    calls = iter([None, KeyboardInterrupt()])

    def measured(*arguments):
        if error := next(calls):
            raise error
        return measure.measure(*arguments)

    monkeypatch.setattr(bench_cli, "measure", measured)
    status, out, _ = bench(capsys, *few, "--no-memory", "--sizes", "1x24x32", "2x24x32")
    assert status == 0 and "left out: all that was not measured yet: stopped by Ctrl-C" in out
    assert len(json.loads((tmp_path / "bench.json").read_text())["rows"]) == 3
