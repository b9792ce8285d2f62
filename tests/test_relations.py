"""The relations of tests/relations.py, on the reference and on the native engine."""

from __future__ import annotations

import pytest

from . import cases, relations


def test_every_loss_has_a_row():
    assert relations.ROWS.keys() == cases.LOSSES.keys()


@pytest.mark.parametrize(
    ("name", "backend", "relation"),
    [
        pytest.param(name, backend, relation, id=f"{name}-{backend}-{relation.__name__}")
        for name, backend in cases.RUNS
        for relation in relations.RELATIONS
        if relations.holds(name, relation)
    ],
)
def test_relation(name, backend, relation):
    relations.hold(name, relation, backend)
