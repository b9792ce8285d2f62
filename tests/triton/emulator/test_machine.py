"""The machine: lanes, memory, races, atomics."""

from __future__ import annotations

import contextlib

import pytest
import torch

triton = pytest.importorskip("triton", reason="these tests need Triton")
tl = triton.language
from . import machine  # noqa: E402
from .driver import install  # noqa: E402
from .memory import Fault  # noqa: E402
from .ptx import run  # noqa: E402

STORE = "mad.lo.s64 %rd50, %rd90, 4, %rd0; st.global.b32 [%rd50], %w1;"


def words(n: int = 32) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.int32)


# ---- lanes -------------------------------------------------------------------------------------------------
def test_lanes_part_in_a_loop_and_meet_again():
    """Lane i goes i % 7 times round and adds; then a shuffle wants the whole warp."""
    out = words(96)
    run(
        """
        rem.u32 %w2, %r0, 7;
        mov.b32 %w1, 100;
        mov.b32 %w3, 0;
        $LOOP:
        setp.ge.u32 %p1, %w3, %w2;
        @%p1 bra $OUT;
        add.s32 %w1, %w1, %w3;
        add.s32 %w3, %w3, 1;
        bra.uni $LOOP;
        $OUT:
        shfl.sync.bfly.b32 %w1, %w1, 1, 31, -1;
        """
        + STORE,
        out,
        threads=96,
    )
    sums = [100 + sum(range(i % 7)) for i in range(96)]
    assert out.tolist() == [sums[i ^ 1] for i in range(96)]


def test_a_lane_keeps_what_it_has_on_the_path_it_does_not_take():
    out = words()
    run(
        """
        mov.b32 %w1, 5;
        setp.lt.u32 %p1, %r0, 10;
        @%p1 bra $SMALL;
        mov.b32 %w1, 6;
        setp.gt.u32 %p2, %r0, 20;
        @%p2 ret;
        $SMALL:
        """
        + STORE,
        out,
    )
    assert out.tolist() == [5] * 10 + [6] * 11 + [0] * 11


@pytest.mark.parametrize(
    ("mode", "b", "c", "source"),
    [
        ("bfly", 3, 31, lambda i: i ^ 3),
        ("idx", 5, 31, lambda i: 5),
        ("idx", 1, 0x1C1F, lambda i: i // 4 * 4 + 1),
        ("up", 3, 0, lambda i: i - 3 if i > 2 else i),
        ("up", 1, 0x1C00, lambda i: i - 1 if i % 4 else i),
    ],
)
def test_shuffles(mode, b, c, source):
    out = words(64)
    run(f"shfl.sync.{mode}.b32 %w1, %r0, {b}, {c}, -1;" + STORE, out, threads=64)
    assert out.tolist() == [w + source(i) for w in (0, 32) for i in range(32)]


def test_reductions_and_votes():
    out = words(64)
    run("redux.sync.add.s32 %w1, %r0, -1;" + STORE, out, threads=64)
    assert out.tolist() == [496] * 32 + [496 + 1024] * 32
    run("setp.eq.u32 %p1, %r0, 33; vote.sync.ballot.b32 %w1, %p1, -1;" + STORE, out, threads=64)
    assert out.tolist() == [0] * 32 + [2] * 32


def test_matrices_go_through_shared_memory():
    """Lane 4 r + c stores word c of row r, rows 16 bytes apart, of two matrices."""
    out = words()
    run(
        """
        mov.b32 %w2, memory;
        shl.b32 %w3, %r0, 4;
        add.s32 %w2, %w2, %w3;
        add.s32 %w4, %r0, 1000;
        stmatrix.sync.aligned.m8n8.x2.shared.b16 [%w2], {%r0, %w4};
        bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%w5, %w1}, [%w2];
        """
        + STORE,
        out,
        shared=512,
    )
    assert out.tolist() == [1000 + i for i in range(32)]


# ---- memory ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("access", "fault"),
    [
        ("st.global.b32 [%rd50+128], %w1;", "out of bounds; the nearest tensor is t0, 128 bytes from"),
        ("ld.global.b32 %w1, [%rd50+-4];", "out of bounds; the nearest tensor is t0, .*: at its byte -4"),
        ("st.global.b16 [%rd50+1], %h1;", "2 bytes at 0x[0-9a-f]*1: misaligned; the nearest tensor is t0"),
        ("ld.global.v2.b32 {%w1, %w2}, [%rd50];", "8 bytes at .*: misaligned"),
        ("ld.shared.b32 %w1, [memory+64];", "4 bytes at 64 of 64 bytes of shared memory: out of bounds"),
        ("ld.shared.b32 %w1, [memory+2];", "4 bytes at 2 of 64 bytes of shared memory: misaligned"),
        ("ld.shared.b32 %w1, [memory];", "shared memory is read before it was written"),
        ("shfl.sync.bfly.b32 %w1, %r0, 1, 31, 7;", "some lanes of a warp are meant, not all"),
    ],
)
def test_faults_name_the_line_and_the_tensor(access, fault):
    out = words()
    with pytest.raises(Fault, match=f"test, PTX line 11: .*{fault}"):
        run(f"mad.lo.s64 %rd50, %rd90, 4, %rd0;\n{access}", out, shared=64)


def test_a_view_ends_where_its_elements_end():
    """Its storage goes on."""
    storage = words(64)
    run(STORE, storage[:32])
    with pytest.raises(Fault, match="out of bounds; the nearest tensor is t0, 120 bytes"):
        run(STORE, storage[:30])


SHARED = """
shl.b32 %w3, %r0, 2;
xor.b32 %w2, %w3, 128;
mov.b32 %w4, %r0;
"""
# %w3 is the thread's own word of shared memory, %w2 that of a thread of the other warp.
WRITE, READ, SYNC = "st.shared.b32 [%w2], %r0;", "ld.shared.b32 %w1, [%w3];", "bar.sync 0;"
ADD = "atom.shared.add.u32 %w1, [memory], 1;"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ((WRITE, READ), "this read and the write at PTX line"),
        ((WRITE, SYNC, READ), None),
        ((WRITE, "bar.warp.sync -1;", READ), "this read and the write at PTX line"),
        ((WRITE, SYNC, READ, WRITE), "this write and the read at PTX line"),
        (("st.shared.b32 [memory], 7;", "ld.shared.b32 %w1, [memory];"), "this read and the write"),
        (("st.shared.b32 [memory], 7;", "st.shared::cta.b32 [memory], 7;"), None),
        (("st.shared.b32 [memory], 7;", "st.shared.b32 [memory], 8;"), "this write and the write"),
        (("st.shared.b32 [memory], %r0;",), "lanes of one instruction write different numbers"),
        (("st.shared.b8 [%w4], 1;", SYNC, READ), "read before it was written"),
        (("st.shared.b32 [memory], 7;", SYNC, ADD, ADD), None),
        (("st.shared.b32 [memory], 7;", ADD), "this atomic and the write"),
        (
            ("setp.lt.u32 %p1, %r0, 32;", "@%p1 bra $OUT;", SYNC, "$OUT:"),
            "some threads do not arrive",
        ),
        (
            ("setp.lt.u32 %p1, %r0, 9;", "@%p1 bra $OUT;", "redux.sync.add.s32 %w1, %r0, -1;", "$OUT:"),
            "lanes of the warp are missing",
        ),
        (
            ("setp.lt.u32 %p1, %r0, 9;", "@%p1 bra $OUT;", "bar.warp.sync -1;", "$OUT:"),
            "lanes of the warp are missing",
        ),
    ],
)
def test_races_and_barriers(body, fault):
    with pytest.raises(Fault, match=fault) if fault else contextlib.nullcontext():
        run(SHARED + "\n".join(body), threads=64, shared=256)


ADD_GLOBAL = "atom.global.gpu.relaxed.add.u32 %w1, [%rd0], 1;"
READ_GLOBAL, WRITE_GLOBAL = "ld.global.b32 %w1, [%rd0];", "st.global.b32 [%rd0], 3;"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (("mov.u32 %w5, %ctaid.x;", "st.global.b32 [%rd0], %w5;"), "different numbers|write and the write"),
        ((WRITE_GLOBAL, READ_GLOBAL), "this read and the write"),
        ((READ_GLOBAL, SYNC, WRITE_GLOBAL), "write and the read|read and the write"),
        ((ADD_GLOBAL, SYNC, READ_GLOBAL), "read and the atomic|atomic and the read"),
        ((ADD_GLOBAL, ADD_GLOBAL), None),
    ],
)
@pytest.mark.parametrize("lanes", [64, 16384], ids=["one CTA after the other", "together"])
def test_races_between_ctas(body, fault, lanes, monkeypatch):
    """Also of CTAs that the machine runs one after the other."""
    monkeypatch.setattr(machine, "LANES", lanes)
    out = words()
    with pytest.raises(Fault, match=fault) if fault else contextlib.nullcontext():
        run("\n".join(body), out, threads=64, ctas=3)
    assert fault or out[0] == 2 * 3 * 64


def test_a_kernel_that_does_not_end(monkeypatch):
    monkeypatch.setattr(machine, "LIMIT", 100)
    with pytest.raises(Fault, match="test does not end: 100 basic blocks have run"):
        run("$HERE:\nbra.uni $HERE;")


# ---- atomics -----------------------------------------------------------------------------------------------
@triton.jit
def histograms(x, counts, extremes, last, n, SIZE: tl.constexpr, BINS: tl.constexpr):
    offsets = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    valid = offsets < n
    values = tl.load(x + offsets, valid, other=0)
    bins = tl.arange(0, BINS)
    # Once by way of shared memory, once a lane at a time.
    tl.atomic_add(counts + bins, tl.histogram(values, BINS, mask=valid))
    before = tl.atomic_add(counts + BINS + values, 1, valid, sem="relaxed")
    tl.atomic_max(extremes + values, before, valid)
    tl.atomic_min(extremes + BINS + values, offsets, valid)
    tl.atomic_or(extremes + 2 * BINS + values, 1 << (offsets % 31), valid)
    tl.atomic_cas(last, 0, 7)


def count(arch: int) -> None:
    install(arch)
    rng = torch.Generator().manual_seed(0)
    n, bins = 1000, 16
    x = torch.randint(0, bins, (n,), generator=rng, dtype=torch.int32)
    counts, extremes, last = words(2 * bins), words(3 * bins), words(1)
    extremes[bins : 2 * bins] = n
    histograms[(4,)](x, counts, extremes, last, n, SIZE=256, BINS=bins)
    expected = torch.bincount(x, minlength=bins)
    assert torch.equal(counts.view(2, bins), expected.int().expand(2, bins))
    assert torch.equal(extremes[:bins], expected.int() - 1) and last == 7
    places = [torch.nonzero(x == i).flatten() for i in range(bins)]
    assert extremes[bins : 2 * bins].tolist() == [p.min().item() for p in places]
    assert extremes[2 * bins :].tolist() == [sum({1 << (p % 31) for p in where.tolist()}) for where in places]


@pytest.mark.parametrize("arch", [90, pytest.param(75, marks=pytest.mark.full)])
def test_atomics_of_a_compiled_kernel(arch, emulated):
    emulated(count, arch)
