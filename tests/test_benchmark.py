"""`depthloss bench`: what it measures, says, writes and compares."""

from __future__ import annotations

import json
import re

import pytest

from depthloss import cli
from depthloss.benchmark import compare, measure, rivals

TINY = ("--sizes", "1x24x32", "2x24x40", "--seconds", "0", "--losses", "ssi", "l1", "--no-memory")


def bench(capsys, *arguments):
    status = cli.main(["bench", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_table_json_and_plot(capsys, tmp_path):
    status, out, _ = bench(capsys, *TINY, "--out", tmp_path / "new")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == [
        "loss",
        "size",
        "valid",
        "ours,",
        "ms",
        "by",
        "hand",
        "reference",
        "bytes/pixel",
    ]
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
    assert compare.verdict(spread(1.0, 1.0, 1.0), spread(1.02, 1.02, 1.02)) == "same"


def test_results_of_other_machines_and_cases():
    row = {
        "loss": "ssi",
        "shape": [1, 2, 3],
        "valid": 1.0,
        "form": "ours",
        "ms": {"p20": 1, "median": 1, "p80": 1},
    }
    a = {"rows": [row], "machine": {"cpu": "x", "threads": 2}}
    b = {"rows": [row, row | {"form": "reference"}], "machine": {"cpu": "y", "threads": 2}}
    lines = compare.compare(a, b).splitlines()
    assert len(lines) == 4 and lines[1].split() == ["ssi", "1x2x3", "100%", "ours", "1", "1", "same"]
    assert lines[2:] == [
        "1 cases are in one of the two only.", "cpu: x and y: the times are not comparable."
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "cannot be read: [Errno 2]"), ("{", "cannot be read"), ("{}", "is no result of")],
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
        (("--threads", "0"), "--threads must be 1 or more; got 0"),
        (("--losses", "ssi-trim"), "invalid choice: 'ssi-trim'"),
    ],
)
def test_arguments(arguments, text, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", *arguments])
    assert end.value.code == 2 and re.search(re.escape(text), capsys.readouterr().err)
