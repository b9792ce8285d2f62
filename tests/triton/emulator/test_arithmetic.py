"""Every instruction's arithmetic against exact values."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="these tests need Triton")
from . import machine  # noqa: E402
from .arithmetic import Perturbation  # noqa: E402
from .parse import Unsupported  # noqa: E402
from .ptx import compute, run  # noqa: E402

N = 256


def draw(kind: str, seed: int) -> np.ndarray:
    """Integers of all sizes, floats of moderate ones, among them what is special."""
    rng = np.random.default_rng(seed)
    if kind[0] == "f":
        return (rng.standard_normal(N) * 2.0 ** rng.integers(-9, 9, N)).astype(kind)
    info = np.iinfo(kind)
    bits = rng.integers(0, 1 << 63, N, np.uint64) * np.uint64(2) >> rng.integers(0, 64, N, np.uint64)
    return np.concatenate([bits[4:].astype(kind), np.array([0, 1, info.min, info.max], kind)])


def rounded(x: Fraction, kind: str) -> float:
    """To nearest even."""
    if x == 0:
        return 0.0
    digits = {"f2": 11, "f4": 24, "f8": 53}[kind]
    exponent = math.frexp(abs(x.numerator / x.denominator))[1] - digits
    return float(round(x / Fraction(2) ** exponent) * Fraction(2) ** exponent)


def toward_zero(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def field(a: int, start: int, length: int, bits: int, signed: bool) -> int:
    """As the PTX manual writes it down."""
    top = (a >> min(start + length - 1, bits - 1)) & 1 if signed and length else 0
    return sum(
        (((a >> (start + i)) & 1) if i < length and start + i < bits else top) << i for i in range(bits)
    )


def permuted(a: int, b: int, c: int) -> int:
    both, found = (a | b << 32).to_bytes(8, "little"), 0
    for i in range(4):
        select = c >> 4 * i & 15
        byte = both[select & 7]
        found |= (byte if select < 8 else 255 * (byte >> 7)) << 8 * i
    return found


INTEGERS = {
    "add.s32 {d}, {a}, {b}": ("i4", "i4", lambda a, b: a + b),
    "sub.s64 {d}, {a}, {b}": ("i8", "i8", lambda a, b: a - b),
    "add.s16 {d}, {a}, {b}": ("i2", "i2", lambda a, b: a + b),
    "mul.lo.s64 {d}, {a}, {b}": ("i8", "i8", lambda a, b: a * b),
    "mul.hi.s32 {d}, {a}, {b}": ("i4", "i4", lambda a, b: a * b >> 32),
    "mul.hi.u32 {d}, {a}, {b}": ("u4", "u4", lambda a, b: a * b >> 32),
    "mul.wide.s32 {d}, {a}, {b}": ("i4", "i8", lambda a, b: a * b),
    "mul.wide.u16 {d}, {a}, {b}": ("u2", "u4", lambda a, b: a * b),
    "mad.lo.s32 {d}, {a}, {b}, {b}": ("i4", "i4", lambda a, b: a * b + b),
    "div.s32 {d}, {a}, {b}": ("i4", "i4", lambda a, b: toward_zero(a, b) if b else None),
    "div.u32 {d}, {a}, {b}": ("u4", "u4", lambda a, b: a // b if b else None),
    "div.s64 {d}, {a}, {b}": ("i8", "i8", lambda a, b: toward_zero(a, b) if b else None),
    "rem.s32 {d}, {a}, {b}": ("i4", "i4", lambda a, b: a - b * toward_zero(a, b) if b else None),
    "min.s32 {d}, {a}, {b}": ("i4", "i4", min),
    "max.u32 {d}, {a}, {b}": ("u4", "u4", max),
    "and.b64 {d}, {a}, {b}": ("u8", "u8", lambda a, b: a & b),
    "xor.b32 {d}, {a}, {b}": ("u4", "u4", lambda a, b: a ^ b),
    "or.b16 {d}, {a}, {b}": ("u2", "u2", lambda a, b: a | b),
    "not.b32 {d}, {a}": ("u4", "u4", lambda a, b: ~a),
    "neg.s32 {d}, {a}": ("i4", "i4", lambda a, b: -a),
    "popc.b32 {d}, {a}": ("u4", "u4", lambda a, b: a.bit_count()),
    "shl.b32 {d}, {a}, {b}": ("u4", "u4", lambda a, b: a << min(b, 32)),
    "shr.s32 {d}, {a}, {b}": ("i4", "i4", lambda a, b: a >> min(b % 2**32, 32)),
    "shr.u32 {d}, {a}, {b}": ("u4", "u4", lambda a, b: a >> min(b, 32)),
    "bfe.u32 {d}, {a}, {b}, 5": ("u4", "u4", lambda a, b: field(a, b & 255, 5, 32, False)),
    "bfe.s32 {d}, {a}, {b}, 7": ("i4", "i4", lambda a, b: field(a, b & 255, 7, 32, True)),
    "bfe.s32 {d}, {a}, 3, {b}": ("i4", "i4", lambda a, b: field(a, 3, b & 255, 32, True)),
    "prmt.b32 {d}, {a}, {a}, {b}": ("u4", "u4", lambda a, b: permuted(a, a, b)),
    "cvt.s64.s32 {d}, {a}": ("i4", "i8", lambda a, b: a),
    "cvt.u64.u32 {d}, {a}": ("u4", "u8", lambda a, b: a),
    "cvt.u16.u32 {d}, {a}": ("u4", "u2", lambda a, b: a),
    "cvt.u32.u64 {d}, {a}": ("u8", "u4", lambda a, b: a),
    "mov.b64 {d}, {{ {a}, {b} }}": ("u4", "u8", lambda a, b: a | b << 32),
    "{{ .reg .b32 tmp; mov.b64 {{ tmp, {d} }}, {a}; }}": ("u8", "u4", lambda a, b: a >> 32),
    "setp.lt.u32 %p1, {a}, {b}; selp.b32 {d}, {a}, {b}, %p1": ("u4", "u4", min),
    "mov.b32 {d}, {a}; setp.gt.s32 %p1, {a}, 9; @!%p1 mov.b32 {d}, 9": ("i4", "i4", lambda a, b: max(a, 9)),
}


@pytest.mark.parametrize("instruction", INTEGERS)
def test_integers(instruction):
    source, result, exact = INTEGERS[instruction]
    a, b = draw(source, 0), draw(source, 1)
    b[: N // 2] %= 40  # shifts
    found = compute(instruction, a, b, result=result)
    bits = 8 * found.itemsize
    for x, y, got in zip(a.tolist(), b.tolist(), found.tolist(), strict=True):
        expected = exact(x, y)
        assert expected is None or (got - expected) % (1 << bits) == 0, (x, y, got, expected)


FLOATS = {
    "add.rn.f32 {d}, {a}, {b}": ("f4", lambda a, b, c: a + b),
    "sub.f32 {d}, {a}, {b}": ("f4", lambda a, b, c: a - b),
    "mul.rn.f32 {d}, {a}, {b}": ("f4", lambda a, b, c: a * b),
    "div.rn.f32 {d}, {a}, {b}": ("f4", lambda a, b, c: a / b),
    "div.full.f32 {d}, {a}, {b}": ("f4", lambda a, b, c: a / b),
    "fma.rn.f32 {d}, {a}, {b}, {c}": ("f4", lambda a, b, c: a * b + c),
    "add.rn.f64 {d}, {a}, {b}": ("f8", lambda a, b, c: a + b),
    "div.rn.f64 {d}, {a}, {b}": ("f8", lambda a, b, c: a / b),
    "fma.rn.f64 {d}, {a}, {b}, {c}": ("f8", lambda a, b, c: a * b + c),
    "abs.f32 {d}, {a}": ("f4", lambda a, b, c: abs(a)),
    "neg.f64 {d}, {a}": ("f8", lambda a, b, c: -a),
    "max.f32 {d}, {a}, {b}": ("f4", lambda a, b, c: max(a, b)),
    "copysign.f32 {d}, {a}, {b}": ("f4", lambda a, b, c: abs(b) if a > 0 else -abs(b)),
}


@pytest.mark.parametrize("instruction", FLOATS)
def test_floats_are_rounded_once(instruction):
    kind, exact = FLOATS[instruction]
    a, b, c = (draw(kind, seed) for seed in range(3))
    # Where c all but cancels the product, the product's own rounding shows.
    c[::2] = -(a * b)[::2] * (1 + 2 * np.finfo(kind).eps * draw("f8", 3)[::2]).astype(kind)
    found = compute(instruction, a, b, c, result=kind)
    for x, y, z, got in zip(*(v.tolist() for v in (a, b, c, found)), strict=True):
        assert got == rounded(exact(Fraction(x), Fraction(y), Fraction(z)), kind), (x, y, z)


def test_pairs_are_two_floats():
    pairs = [draw("f8", seed).astype("f4").repeat(2).reshape(N, 2) for seed in range(3)]
    for i, x in enumerate(pairs):
        x[:, 1] = draw("f4", 5 + i)
    found = compute("fma.rn.f32x2 {d}, {a}, {b}, {c}", *(x.view("u8")[:, 0] for x in pairs), result="u8")
    for half in range(2):
        own = compute("fma.rn.f32 {d}, {a}, {b}, {c}", *(x[:, half].copy() for x in pairs), result="f4")
        assert np.array_equal(found.view("f4").reshape(N, 2)[:, half], own)


def test_conversions():
    x = np.concatenate([draw("f4", 0)[:-6] * 1e7, np.array([np.nan, np.inf, -np.inf, 2.5, -0.5, 3e38], "f4")])
    whole = compute("cvt.rzi.s32.f32 {d}, {a}", x, result="i4")
    for value, got in zip(x.tolist(), whole.tolist(), strict=True):
        limits = -(2.0**31), 2.0**31 - 1
        assert got == (0 if math.isnan(value) else math.trunc(min(max(value, limits[0]), limits[1])))
    tensor = torch.from_numpy(x)
    for name, kind, bits in (("f16", torch.float16, "i2"), ("bf16", torch.bfloat16, "i2")):
        half = compute(f"cvt.rn.{name}.f32 {{d}}, {{a}}", x, result=bits)
        expected = tensor.to(kind)
        same = torch.from_numpy(half).view(kind)
        assert torch.equal(same.nan_to_num(1.5), expected.nan_to_num(1.5))
        back = compute(f"cvt.f32.{name} {{d}}, {{a}}", half, result="f4")
        assert torch.equal(torch.from_numpy(back).nan_to_num(1.5), same.float().nan_to_num(1.5))
        if name == "bf16":  # One operand in half precision, as on sm_100.
            mixed = compute("sub.rn.f32.bf16 {d}, {a}, {b}", half, x, result="f4")
            assert np.array_equal(mixed, (torch.from_numpy(back) - tensor).numpy(), equal_nan=True)
    long = draw("i8", 0)
    assert compute("cvt.rn.f32.s64 {d}, {a}", long, result="f4").tolist() == [
        rounded(Fraction(v), "f4") for v in long.tolist()
    ]


@pytest.mark.parametrize("compare", ["eq", "ne", "lt", "ge", "neu", "ltu", "geu", "nan", "num"])
def test_comparisons_with_nan(compare):
    a, b = draw("f4", 0), draw("f4", 1)
    a[::3], b[::4], b[1::5] = np.nan, np.nan, a[1::5]
    found = compute(f"setp.{compare}.f32 %p1, {{a}}, {{b}}; selp.b32 {{d}}, 1, 0, %p1", a, b, result="i4")
    unordered = np.isnan(a) | np.isnan(b)
    if compare in ("nan", "num"):
        expected = unordered == (compare == "nan")
    else:
        ordered = {"eq": a == b, "ne": a != b, "lt": a < b, "ge": a >= b}[compare[:2]]
        expected = np.where(unordered, compare.endswith("u"), ordered)
    assert np.array_equal(found != 0, expected)


@pytest.mark.parametrize(
    ("instruction", "kind", "exact"),
    [
        ("ex2.approx.f32", "f4", np.exp2),
        ("sqrt.approx.ftz.f32", "f4", lambda x: np.sqrt(np.abs(x))),
        ("sqrt.rn.f64", "f8", lambda x: np.sqrt(np.abs(x))),
        ("rcp.approx.ftz.f64", "f8", lambda x: 1 / x),
    ],
)
def test_functions(instruction, kind, exact):
    x = np.clip(draw(kind, 0), -60, 60)
    given = np.abs(x) if instruction.startswith("sqrt") else x
    found = compute(f"{instruction} {{d}}, {{a}}", given, result=kind)
    error = 2.0**-19 if instruction.startswith("rcp") else 2 * np.finfo(kind).eps
    np.testing.assert_allclose(found, exact(x.astype("f8")), rtol=error, atol=0)


def test_perturbed_arithmetic(monkeypatch):
    a, b, c = (np.clip(draw("f4", seed), -60, 60) for seed in range(3))
    approximate = {"div.full.f32 {d}, {a}, {b}": a / b, "ex2.approx.f32 {d}, {c}": np.exp2(c.astype("f8"))}
    sums = "mul.f32 %w8, {a}, {b}; add.f32 {d}, %w8, {c}"
    fused = compute("fma.rn.f32 {d}, {a}, {b}, {c}", a, b, c, result="f4")
    assert np.array_equal(compute(sums, a, b, c, result="f4"), a * b + c) and (fused != a * b + c).any()
    monkeypatch.setattr(machine, "perturbation", Perturbation(approximations=True, contraction=True))
    assert np.array_equal(compute(sums, a, b, c, result="f4"), fused)
    # Not where a rounding is asked for.
    assert np.array_equal(compute(sums.replace("f32", "rn.f32"), a, b, c, result="f4"), a * b + c)
    for instruction, expected in approximate.items():
        expected = expected.astype("f4")
        found = compute(instruction, a, b, c, result="f4")
        ulps = found.view("i4").astype(np.int64) - expected.view("i4")
        assert set(ulps.tolist()) == {-2, -1, 0, 1, 2}
        assert np.array_equal(found, compute(instruction, a, b, c, result="f4"))


@pytest.mark.parametrize(
    ("instruction", "why"),
    [
        ("tanh.approx.f32 %w1, %w2;", "the opcode tanh"),
        ("add.sat.f32 %w1, %w2, %w3;", r"the modifier \.sat"),
        ("add.rn.bf16x2 %w1, %w2, %w3;", "the type bf16x2"),
        ("ld.local.b32 %w1, [%rd0];", r"the modifier \.local"),
        ("atom.global.add.f32 %w1, [%rd0], %w2;", r"the atomic operation add\.f32"),
        ("bar.sync 1;", r"a barrier other than bar\.sync 0"),
        ("@%p1 shfl.sync.bfly.b32 %w1, %w2, 1, 31, -1;", "a guard on an instruction of the whole warp"),
        ("cvt.rn.f32 %w1, %w2;", ""),
    ],
)
def test_what_is_unknown_raises_with_its_line(instruction, why):
    with pytest.raises(Unsupported, match=f"test, PTX line 11: not supported: .*{why}"):
        run("\n" + instruction, torch.zeros(4))
