"""What instructions compute, on arrays over lanes: one rule per opcode.

A rule gets an instruction's modifiers and says which function it is, of operands of which PTX types, into
which type. What no rule knows raises `Unsupported`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .parse import Unsupported

KINDS = {
    "pred": np.bool_, "b8": np.uint8, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64, "u8": np.uint8,
    "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "s8": np.int8, "s16": np.int16, "s32": np.int32,
    "s64": np.int64, "f16": np.float16, "f32": np.float32, "f64": np.float64
}  # fmt: skip
RAW = {0: np.bool_, 1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True)
class Perturbation:
    """What a GPU may do otherwise.

    Attributes:
        approximations: off by up to what the PTX manual allows; the operands' bits decide how far.
        contraction: products and sums are fused that ptxas may fuse.
    """

    approximations: bool = False
    contraction: bool = False


class Rule(NamedTuple):
    """An instruction as a function of its operands."""

    function: Callable
    sources: tuple[str, ...]
    target: str


# ---- the numbers -------------------------------------------------------------------------------------------
def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """To nearest even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(x), np.uint32(0x7FFF), rounded).astype(np.uint16)


def _odd(total: np.ndarray, error: np.ndarray) -> np.ndarray:
    """`total` + `error`, error under an ulp of total, rounded to odd: rounding it once more is then exact."""
    total = np.ascontiguousarray(total)
    bits = total.view(np.int64)
    inexact = (error != 0) & np.isfinite(total) & np.isfinite(error) & ((bits & 1) == 0) & (total != 0)
    toward = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(inexact, bits + toward, bits).view(np.float64)


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def _halves(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shifted = a * 134217729.0  # 2^27 + 1
    high = shifted - (shifted - a)
    return high, a - high


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c, rounded once: in float64 exact but for overflow and subnormal numbers on the way.

    Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to
    odd", IEEE Transactions on Computers 57 (2008).
    """
    if a.dtype == np.float32:
        total, error = _two_sum(a.astype(np.float64) * b, c.astype(np.float64))  # This product is exact.
        return _odd(total, error).astype(np.float32)
    (ah, al), (bh, bl), product = _halves(a), _halves(b), a * b
    rest = ((ah * bh - product) + ah * bl + al * bh) + al * bl
    total, error = _two_sum(c, rest)
    total, high_error = _two_sum(product, total)
    exact = total + _odd(*_two_sum(high_error, error))
    return np.where(np.isfinite(exact), exact, product + c)


def flush(x: np.ndarray) -> np.ndarray:
    """Subnormal numbers of float32 to 0."""
    if x.dtype != np.float32:
        return x
    return np.where(np.abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def moved(x: np.ndarray, operands: tuple, ulps: int) -> np.ndarray:
    """x, or a number up to `ulps` from it; the operands' bits decide which."""
    mix = np.uint32(2166136261)
    for operand in operands:
        mix = (mix ^ np.ascontiguousarray(operand).view(np.uint32)) * np.uint32(16777619)
    step = ((mix >> np.uint32(13)) % np.uint32(2 * ulps + 1)).astype(np.int32) - np.int32(ulps)
    there = (np.ascontiguousarray(x).view(np.int32) + step).view(np.float32)
    return np.where(np.isfinite(x) & np.isfinite(there) & (np.abs(x) > 1e-30), there, x)


def reciprocal_of_the_upper_half(x: np.ndarray) -> np.ndarray:
    """rcp.approx.ftz.f64 reads the upper 32 bits and writes the upper 32 bits."""
    upper = np.uint64(0xFFFFFFFF00000000)

    def cut(y: np.ndarray) -> np.ndarray:
        y = (np.ascontiguousarray(y).view(np.uint64) & upper).view(np.float64)
        return np.where(np.abs(y) < 2.0**-1022, np.copysign(0.0, y), y)

    return cut(1.0 / cut(x))


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of integers, rounded towards 0."""
    return (a - np.fmod(a, b)) // b


def high_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    bits = 8 * a.dtype.itemsize
    wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}").type
    return ((a.astype(wide) * b.astype(wide)) >> wide(bits)).astype(a.dtype)


def shift_left(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    bits = 8 * x.dtype.itemsize
    return np.where(n >= bits, x.dtype.type(0), x << np.minimum(n, np.uint32(bits - 1)).astype(x.dtype))


def shift_right(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    """By the width or more: all bits are the sign, or 0."""
    bits = 8 * x.dtype.itemsize
    beyond = x >> x.dtype.type(bits - 1) if x.dtype.kind == "i" else x.dtype.type(0)
    return np.where(n >= bits, beyond, x >> np.minimum(n, np.uint32(bits - 1)).astype(x.dtype))


def bit_field(x: np.ndarray, start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """`length` bits from `start` on; of a signed x the topmost one is the sign."""
    bits = np.uint32(8 * x.dtype.itemsize)
    rest = bits - np.minimum(length & np.uint32(255), bits)
    return shift_right(shift_left(shift_right(x, start & np.uint32(255)), rest), rest)


def to_integer(x: np.ndarray, kind: type, rounding: Callable) -> np.ndarray:
    """Clamped; NaN becomes 0."""
    x, info = rounding(x.astype(np.float64)), np.iinfo(kind)
    low, high = x <= float(info.min), x >= float(info.max)
    inner = np.where(low | high | np.isnan(x), 0.0, x).astype(kind)
    return np.where(low, kind(info.min), np.where(high, kind(info.max), inner)).astype(kind)


def permute(a: np.ndarray, b: np.ndarray, selector: np.ndarray) -> np.ndarray:
    """Four bytes of eight, or their signs."""
    both, found = a.astype(np.uint64) | (b.astype(np.uint64) << np.uint64(32)), np.uint32(0)
    for i in range(4):
        which = (selector >> np.uint32(4 * i)) & np.uint32(15)
        byte = ((both >> (np.uint64(8) * (which & np.uint32(7)))) & np.uint64(255)).astype(np.uint32)
        sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
        found = found | (np.where(which & np.uint32(8), sign, byte) << np.uint32(8 * i))
    return found


# ---- the rules ---------------------------------------------------------------------------------------------
RULES: dict[str, Callable[[tuple[str, ...], str, Perturbation], Rule]] = {}
ULPS = {"div": 2, "ex2": 2, "rcp": 1, "sqrt": 1}  # of the approximations, in float32
ROUNDINGS = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}
COMPARISONS = {
    "eq": np.equal, "ne": lambda a, b: (a < b) | (a > b), "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal, "neu": np.not_equal, "geu": lambda a, b: ~(a < b),
    "ltu": lambda a, b: ~(a >= b), "leu": lambda a, b: ~(a > b), "gtu": lambda a, b: ~(a <= b),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b), "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
}  # fmt: skip


def rule(*names: str) -> Callable:
    """Register a rule: it gets an opcode, its modifiers but the last, and the last, which is a type."""

    def register(make: Callable) -> Callable:
        for name in names:
            RULES[name] = functools.partial(make, name)
        return make

    return register


def known(modifiers: tuple[str, ...], *names: str) -> None:
    """Raise for a modifier that is not among the names."""
    for modifier in modifiers:
        if modifier not in names:
            raise Unsupported(f"the modifier .{modifier}")


def flushing(function: Callable, modifiers: tuple[str, ...]) -> Callable:
    if "ftz" not in modifiers:
        return function
    return lambda *x: flush(function(*map(flush, x)))


@rule("add", "sub", "mul", "fma", "mad", "fms")
def _sums_and_products(name: str, how: tuple[str, ...], t: str, perturbation: Perturbation) -> Rule:
    function = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "fma": fma,
        "fms": lambda a, b, c: fma(a, b, -c), "mad": lambda a, b, c: a * b + c,
    }[name]  # fmt: skip
    count = 3 if name in ("fma", "mad", "fms") else 2
    if t in ("bf16", "f16") and how == ("rn", "f32") and count == 2:  # The first operand is a half.
        return Rule(lambda a, b: function(a.astype(np.float32), b), (t, "f32"), "f32")
    if t in ("f32", "f64", "f32x2") and name != "mad":
        known(how, "rn", *(("ftz",) if t == "f32" else ()))
        return Rule(flushing(function, how), (t,) * count, t)
    if t[0] not in "su" or name in ("fma", "fms"):
        raise Unsupported(f"the type {t}")
    if how == ("wide",) and name in ("mul", "mad"):
        wide = f"{t[0]}{2 * int(t[1:])}"
        kind = KINDS[wide]
        return Rule(lambda a, b, *c: function(a.astype(kind), b.astype(kind), *c), (t, t, wide)[:count], wide)
    if how == ("hi",) and name == "mul":
        return Rule(high_product, (t, t), t)
    known(how, *(("lo",) if name in ("mul", "mad") else ()))
    return Rule(function, (t,) * count, t)


@rule("div", "rem")
def _quotients(name: str, how: tuple[str, ...], t: str, perturbation: Perturbation) -> Rule:
    if t[0] in "su":
        known(how)
        return Rule(quotient if name == "div" else np.fmod, (t, t), t)
    known(how, *(("rn", "full", "ftz") if name == "div" else ()))
    off = perturbation.approximations and "full" in how
    function = (lambda a, b: moved(a / b, (a, b), ULPS[name])) if off else np.divide
    return Rule(flushing(function, how), (t, t), t)


@rule("rcp", "sqrt", "ex2")
def _functions(name: str, how: tuple[str, ...], t: str, perturbation: Perturbation) -> Rule:
    if (name, *how, t) == ("rcp", "approx", "ftz", "f64"):
        return Rule(reciprocal_of_the_upper_half, (t,), t)
    known(how, "rn", *(("approx", "ftz") if t == "f32" else ()))
    exact = {"rcp": np.reciprocal, "sqrt": np.sqrt, "ex2": np.exp2}[name]
    off = perturbation.approximations and "approx" in how

    def function(x: np.ndarray) -> np.ndarray:
        found = exact(x.astype(np.float64)).astype(x.dtype)
        return moved(found, (x,), ULPS[name]) if off else found

    return Rule(flushing(function, how), (t,), t)


@rule("abs", "neg", "not", "popc")
def _of_one(name: str, how: tuple[str, ...], t: str, perturbation: Perturbation) -> Rule:
    known(how, *(("ftz",) if t == "f32" else ()))
    if name == "popc":
        return Rule(lambda x: np.bitwise_count(x).astype(np.uint32), (t,), "u32")
    return Rule(flushing({"abs": np.abs, "neg": np.negative, "not": np.invert}[name], how), (t,), t)


@rule("min", "max")
def _extremes(name: str, how: tuple[str, ...], t: str, perturbation: Perturbation) -> Rule:
    known(how, *(("NaN",) if t[0] == "f" else ()))
    number = {"min": np.fmin, "max": np.fmax}[name]  # of a NaN and a number
    return Rule({"min": np.minimum, "max": np.maximum}[name] if "NaN" in how else number, (t, t), t)


@rule("and", "or", "xor", "copysign")
def _bitwise(name: str, how: tuple[str, ...], t: str, perturbation: Perturbation) -> Rule:
    known(how)
    function = {
        "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
        "copysign": lambda sign, x: np.copysign(x, sign),
    }[name]  # fmt: skip
    return Rule(function, (t, t), t)


@rule("shl", "shr", "bfe", "prmt", "selp")
def _bits(name: str, how: tuple[str, ...], t: str, perturbation: Perturbation) -> Rule:
    known(how)
    return {
        "shl": Rule(shift_left, (t, "u32"), t), "shr": Rule(shift_right, (t, "u32"), t),
        "bfe": Rule(bit_field, (t, "u32", "u32"), t), "prmt": Rule(permute, (t,) * 3, t),
        "selp": Rule(lambda a, b, p: np.where(p, a, b), (t, t, "pred"), t),
    }[name]  # fmt: skip


@rule("setp")
def _comparison(name: str, how: tuple[str, ...], t: str, perturbation: Perturbation) -> Rule:
    compare, *how = how
    known(tuple(how), *(("ftz",) if t == "f32" else ()))
    integers = t[0] in "su" or t in ("b8", "b16", "b32", "b64")
    comparisons = COMPARISONS | {"ne": np.not_equal} if integers else COMPARISONS
    if compare not in comparisons:
        raise Unsupported(f"the comparison {compare}")
    function = comparisons[compare]
    return Rule((lambda a, b: function(flush(a), flush(b))) if how else function, (t, t), "pred")


@rule("cvt")
def _conversion(name: str, how: tuple[str, ...], source: str, perturbation: Perturbation) -> Rule:
    *how, target = how
    floats = ("f16", "bf16", "f32", "f64")
    if source in floats and target not in floats:
        if how not in (["rzi"], ["rni"], ["rmi"], ["rpi"]):
            raise Unsupported("this rounding")
        return Rule(lambda x: to_integer(x, KINDS[target], ROUNDINGS[how[0]]), (source,), target)
    known(tuple(how), *(("rn",) if target in floats else ()))
    if target == "bf16":  # rounded when it is stored
        if source != "f32":
            raise Unsupported("a rounding to bf16 at once")
        return Rule(lambda x: x, (source,), target)
    return Rule(lambda x: x.astype(KINDS[target]), (source,), target)
