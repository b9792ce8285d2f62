"""A few of the relations of tests/relations.py: of each phase those that it could break."""

from __future__ import annotations

import pytest

from .. import relations
from .engine import DEVICE

CASES = {
    "g2 published": ("transposed",),
    "g2 support": ("more_invalid",),
    "scale-adaptive inverse": ("prediction_scaled",),
    "silog mmseg": ("another_order", "split"),
    "affine-invariant": ("swapped",),
    "berhu": ("twice",),
}


@pytest.mark.parametrize(
    ("name", "relation"), [(name, relation) for name, of_it in CASES.items() for relation in of_it]
)
def test_relation(name, relation):
    relations.hold(name, getattr(relations, relation), "triton", DEVICE, (8, 12))
