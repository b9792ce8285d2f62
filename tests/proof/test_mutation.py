"""The mutations match this tree, and the committed run of them noticed all."""

from __future__ import annotations

import json

import pytest

from . import bug, mutation


@pytest.mark.parametrize("planted", mutation.MUTATIONS, ids=lambda planted: planted.name)
def test_every_mutation_changes_its_file(planted):
    assert bug.mutated(planted) != (bug.ROOT / planted.path).read_text(encoding="utf-8")
    assert planted.suites and set(planted.suites) <= bug.SUITES.keys()


def test_a_mutation_that_matches_no_more_is_named():
    planted = mutation.MUTATIONS[0]._replace(old="no such line")
    with pytest.raises(
        ValueError, match="has 0 matches of 'no such line', which must be 1: bring the mutation"
    ):
        bug.mutated(planted)


def test_the_committed_run_noticed_every_bug():
    found = json.loads(mutation.OUT.read_text(encoding="utf-8"))
    assert all(row["noticed"] and row["by"] for row in found["rows"])
    assert {(row["file"], row["bug"]) for row in found["rows"]} == {
        (m.path, m.kind) for m in mutation.MUTATIONS
    }
