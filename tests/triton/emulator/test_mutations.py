"""Mutations of compiled kernels that the emulator must see."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("triton", reason="these tests need Triton")
from ... import cases as losses  # noqa: E402
from ...fused import compare  # noqa: E402
from . import cases, machine  # noqa: E402
from .driver import install  # noqa: E402
from .memory import Fault  # noqa: E402

# A loop over tiles and one over images go round more than once: then every barrier protects something.
CASE = cases.Case("g2 published", shape=(17, 18, 35), tiles="loops")
# In the process that compiles: a kernel's PTX, and what it was launched with.
RECORDED: dict[str, tuple[str, tuple]] = {}


def record() -> None:
    """One evaluation."""
    cases.emulate(tiles=CASE.tiles)
    if RECORDED:
        return

    def load(name: str, ptx: str):
        launch = machine.load(name, ptx)

        def recorded(*arguments) -> None:
            RECORDED[name] = ptx, arguments
            launch(*arguments)

        return recorded

    install(90, load)
    loss = losses.LOSSES[CASE.loss]()
    compare.evaluate("triton", cases.maps(CASE, loss.spec)[0], loss.spec, loss.weights(0.4, 3))


def barriers(name: str) -> tuple[int, list[int]]:
    """How many barriers a kernel has, and the lines of those that nobody misses."""
    record()
    ptx, arguments = RECORDED[name]
    places, missed = [match.start() for match in re.finditer(r"bar\.sync", ptx)], []
    for at in places:
        try:
            machine.load(name, ptx[:at] + "//" + ptx[at:])(*arguments)
            missed.append(ptx.count("\n", 0, at) + 1)
        except Fault as fault:
            assert "a race: no barrier between" in str(fault), fault
    return len(places), missed


def mutate(name: str, pattern: str, replacement: str) -> None:
    """Run a kernel whose last match of a pattern is replaced."""
    record()
    ptx, arguments = RECORDED[name]
    match = list(re.finditer(pattern, ptx))[-1]
    machine.load(name, ptx[: match.start()] + match.expand(replacement) + ptx[match.end() :])(*arguments)


@pytest.mark.parametrize(
    "name", ["moments", "pyramid", "sobel", pytest.param("finish", marks=pytest.mark.full)]
)
def test_a_barrier_that_is_removed_is_missed(name, emulated):
    number, missed = emulated(barriers, name)
    assert number > 0 and not missed


STORE = r"(st\.global\.b32 \[ %rd\d+ \+) 0"
HALF = STORE.replace("b32", "b16")
SKIP = r"\1\n\tsetp.lt.u32 \t%p1, \2, 32;\n\t@%p1 bra \t$HERE;\n\tbar.sync 0;\n$HERE:"


@pytest.mark.parametrize(
    ("name", "pattern", "replacement", "fault"),
    [
        (
            "gradient",
            STORE,
            r"\1 1048576",
            r"4 bytes at .*: out of bounds; the nearest tensor is .*, \d+ b",
        ),
        ("gradient", STORE, r"\1 2", r"4 bytes at .*: misaligned; the nearest tensor is out\[0\]"),
        (
            "sobel",
            HALF,
            r"\1 2",
            "lanes of one instruction|no barrier between this write|out of bounds",
        ),
        ("moments", r"(mov\.u32 \t(%r\d+), %tid\.x;)", SKIP, "some threads do not arrive"),
        (
            "moments",
            r"(ld\.shared\.b32 \t%r\d+, \[%?\w+)\]",
            r"\1+1048576]",
            "of shared memory: out of bounds",
        ),
    ],
    ids=["a store far away", "a store misaligned", "a store moved", "a barrier of some", "shared memory"],
)
def test_a_mutation_is_seen(name, pattern, replacement, fault, emulated):
    with pytest.raises(Fault, match=f"{name}, PTX line \\d+: .*({fault})"):
        emulated(mutate, name, pattern, replacement)


def differs(name: str, old: str, new: str) -> None:
    """The comparison with the reference, of a kernel with another arithmetic."""

    def load(kernel: str, ptx: str):
        assert kernel != name or old in ptx
        return machine.load(kernel, ptx.replace(old, new) if kernel == name else ptx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases.driver, "install", lambda arch: install(arch, load))
        cases.agrees(CASE)


def test_a_wrong_number_is_seen(emulated):
    with pytest.raises(AssertionError, match="error .*, allowed"):
        emulated(differs, "gradient", "mul.f32", "add.f32")
