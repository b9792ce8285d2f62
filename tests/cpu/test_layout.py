"""kernels/layout.py describes once what the engine and Python both know: nothing else lists it."""

from __future__ import annotations

import ctypes

import pytest
from depthloss.kernels import cpu, layout
from depthloss.kernels.cpu import binding
from depthloss.kernels.plan import make_plan

import depthloss as dl


def test_the_header_is_the_one_that_the_description_gives():
    assert layout.HEADER.read_text(encoding="utf-8") == layout.header()


def swapped(name: str, a: str, b: str) -> tuple[layout.Struct, ...]:
    """The structures with two fields of one in each other's place."""

    def swap(names: str) -> str:
        words = names.split()
        return " ".join({a: b, b: a}.get(word, word) for word in words)

    return tuple(
        s._replace(rows=tuple((kind, swap(names)) for kind, names in s.rows)) if s.name == name else s
        for s in layout.STRUCTS
    )


@pytest.mark.parametrize(
    "name, a, b",
    [("Plan", "pixels", "moments"), ("Entry", "slot", "weight_slot"), ("Call", "terms", "total")],
)
def test_two_fields_in_each_others_place_are_seen(monkeypatch, name, a, b):
    """Neither sizes nor types tell them apart."""
    before = layout.fingerprint()
    monkeypatch.setattr(layout, "STRUCTS", swapped(name, a, b))
    assert layout.fingerprint() != before
    assert layout.HEADER.read_text(encoding="utf-8") != layout.header()
    if cpu.unavailable() is None:
        with pytest.raises(OSError, match="was built from another version"):
            binding.library.__wrapped__()


@pytest.mark.parametrize(
    "name, value",
    [("LIMITS", {**layout.LIMITS, "BAND": 32}), ("CODE", {**layout.CODE, "VALID_BIT": 32}), ("WORDS", {})],
)
def test_limits_bits_and_words_count_too(monkeypatch, name, value):
    before = layout.fingerprint()
    monkeypatch.setattr(layout, name, value)
    assert layout.fingerprint() != before


def test_a_comment_does_not_count(monkeypatch):
    before, text = layout.fingerprint(), layout.header()
    monkeypatch.setattr(
        layout, "STRUCTS", (layout.STRUCTS[0]._replace(about="Another."), *layout.STRUCTS[1:])
    )
    assert layout.header() != text and layout.fingerprint() == before


@pytest.mark.parametrize("struct", layout.STRUCTS, ids=lambda s: s.name)
def test_no_compiler_has_a_gap_to_fill(struct):
    """Every field lies where the one before it ends, and the last one ends where the structure does."""
    kind, end = binding.STRUCTURES[struct.name], 0
    for field in layout.fields(struct):
        place = getattr(kind, field.name)
        assert place.offset == end
        end += place.size
    assert ctypes.sizeof(kind) == end


def test_no_field_of_a_structure_is_forgotten_or_made_up():
    for wrong in ({"kind": 1}, {"value": 0}):
        with pytest.raises(TypeError, match="fields of Entry that are missing or unknown: .*'weight'"):
            binding.filled("Entry", **wrong)


def test_a_plan_in_the_engines_structure():
    spec = dl.G2Loss("document").spec
    plan, c = make_plan(spec), binding.c_plan(make_plan(spec))
    assert (c.has_gradient, c.levels, c.groups) == (1, plan.levels, len(plan.groups))
    words = layout.WORDS["GradientMask"][1]
    assert words[c.gradient_mask] == plan.sobel_mask == "centre"
    for group, theirs in zip(plan.groups, c.group, strict=False):
        assert [(e.place, e.slot) for e in group.entries] == [
            (e.place, e.slot) for e in theirs.entry[: theirs.entries]
        ]
