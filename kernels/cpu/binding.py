"""The engine's library, loaded with ctypes, and its structures as engine.h has them."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from depthloss import spec as s
from depthloss.version import __version__

from ..plan import MOST, Plan

LEVELS, GROUPS, ENTRIES = 6, 3 + 2 * MOST, 3 + 2 * MOST
TOTALS = 8 + 4 * MOST + 3 * LEVELS
HEAD, COEFFICIENTS = LEVELS + GROUPS + MOST, 5 + 4 * MOST
CONVERSIONS = ("identity", "inverse", "shifted-inverse")
SOBEL_MASKS = ("residual", "centre", "support")
DOWNSAMPLES = ("nearest", "average", "bilinear")
BORDERS = ("valid", "zero", "replicate")
NORMALIZERS = ("full", "level", "kept")
NORMS = ("pixels", "images", "floored")
FLOATS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}
BOOL, BYTE, NONE = 4, 5, 6


class _Domain(ctypes.Structure):
    _fields_ = [
        *(
            (name, c_int32)
            for name in ("conversion", "has_minimum", "has_maximum", "has_log", "has_floor", "unused")
        ),
        *((name, c_double) for name in ("minimum", "maximum", "log", "floor")),
    ]


class _Pixel(ctypes.Structure):
    _fields_ = [
        *((name, c_int32) for name in ("penalty", "norm", "absolute", "largest", "counts", "unused")),
        *((name, c_double) for name in ("a", "b", "eps")),
        ("domain", _Domain),
    ]


class _Moments(ctypes.Structure):
    _fields_ = [
        *((name, c_int32) for name in ("root", "unbiased", "images", "unused")),
        *((name, c_double) for name in ("mean_weight", "scale", "eps")),
        ("domain", _Domain),
    ]


class _Entry(ctypes.Structure):
    _fields_ = [(name, c_int32) for name in ("value", "weight", "slot", "weight_slot", "always", "unused")]


class _Group(ctypes.Structure):
    _fields_ = [
        *(
            (name, c_int32)
            for name in ("entries", "min_valid", "weight", "slot", "sigma_slot", "weight_slot")
        ),
        ("entry", _Entry * ENTRIES),
    ]


_FLAGS = (
    "codes", "has_absolute", "has_relative", "has_gradient", "pixels", "moments", "largest", "standardised",
    "all_pixels", "positive_gt", "absolute_norm", "relative_norm", "mask", "downsample", "border",
    "normalizer", "mean", "levels", "parts", "groups", "num_log_vars", "num_metrics", "count_slot",
    "total_slot",
)  # fmt: skip
_NUMBERS = ("eps", "absolute_eps", "relative_eps", "gradient_eps", "low", "high")


class CPlan(ctypes.Structure):
    """`Plan` of engine.h."""

    _fields_ = [
        *((name, c_int32) for name in _FLAGS),
        *((name, c_double) for name in _NUMBERS),
        ("structure", _Domain),
        ("pixel", _Pixel * MOST),
        ("moment", _Moments * MOST),
        ("group", _Group * GROUPS),
    ]


class _Map(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("stride", c_int64 * 3), ("dtype", c_int32), ("unused", c_int32)]


class Call(ctypes.Structure):
    """`Call` of engine.h."""

    _fields_ = [
        *((name, _Map) for name in ("pred", "gt", "mask", "abs_mask", "grad")),
        *((name, c_int64) for name in ("B", "H", "W")),
        *((name, c_int32) for name in ("wide", "saves", "threads", "world")),
        *(
            (name, c_void_p)
            for name in (
                "weights",
                "log_vars",
                "largest",
                "totals",
                "terms",
                "total",
                "codes",
                "coefficients",
            )  # fmt: skip
        ),
        ("grad_output", c_double),
    ]


def set_map(place: _Map, x: Tensor | None) -> Tensor | None:
    """Describe [B, H, W] or [B, 1, H, W] to the engine; returns what must be kept alive for the call."""
    if x is None:
        place.dtype = NONE
        return None
    x = x.resolve_neg()  # A view that negates, such as the imaginary part of a conjugate.
    if x.dtype in FLOATS:
        place.dtype = FLOATS[x.dtype]
    elif x.dtype == torch.bool:
        place.dtype = BOOL
    else:
        x = x if x.dtype in (torch.uint8, torch.int8) else x != 0
        place.dtype = BYTE
    place.data = x.data_ptr()
    strides = x.stride()
    place.stride[:] = strides[0], *strides[-2:]
    return x


def _domain(d: s.Domain | None) -> _Domain:
    if d is None:
        return _Domain()
    return _Domain(
        CONVERSIONS.index(d.conversion),
        d.minimum is not None,
        d.maximum is not None,
        d.log is not None,
        d.floor is not None,
        0,
        d.minimum or 0.0,
        d.maximum or 0.0,
        d.log or 0.0,
        d.floor or 0.0,
    )


def c_plan(plan: Plan) -> CPlan:
    """The plan as the engine reads it."""
    c = CPlan()
    low, high = plan.log_var_bounds or (0.0, 0.0)
    values = {
        "codes": plan.codes,
        "has_absolute": plan.absolute is not None,
        "has_relative": plan.relative is not None,
        "has_gradient": plan.has_gradient,
        "pixels": len(plan.pixels),
        "moments": len(plan.moments),
        "largest": plan.largest,
        "standardised": plan.standardised,
        "all_pixels": plan.plain,
        "positive_gt": plan.positive_gt,
        "mask": SOBEL_MASKS.index(plan.sobel_mask),
        "downsample": DOWNSAMPLES.index(plan.downsample),
        "border": BORDERS.index(plan.border),
        "normalizer": NORMALIZERS.index(plan.normalizer),
        "mean": plan.combine == "mean",
        "levels": plan.levels if plan.has_gradient else 0,
        "parts": plan.parts,
        "groups": len(plan.groups),
        "num_log_vars": plan.num_log_vars,
        "num_metrics": plan.num_metrics,
        "count_slot": plan.count_slot,
        "total_slot": plan.total_slot,
        "structure": _domain(plan.structure),
        "eps": plan.eps,
        "gradient_eps": plan.gradient_eps,
        "low": low,
        "high": high,
    }
    for name, term in (("absolute", plan.absolute), ("relative", plan.relative)):
        if term:
            values |= {f"{name}_norm": NORMS.index(term.norm), f"{name}_eps": term.eps}
    for name, value in values.items():
        setattr(c, name, value)
    for i, t in enumerate(plan.pixels):
        c.pixel[i] = _Pixel(
            tuple(s.PENALTIES).index(t.kind), NORMS.index(t.norm), t.absolute, t.largest, t.counts, 0, t.a,
            t.b, t.eps, _domain(t.domain)
        )  # fmt: skip
    for i, t in enumerate(plan.moments):
        c.moment[i] = _Moments(
            t.root, t.unbiased, t.images, 0, t.mean_weight, t.scale, t.eps, _domain(t.domain)
        )
    for i, group in enumerate(plan.groups):
        to = c.group[i]
        to.entries = len(group.entries)
        for name in ("min_valid", "weight", "slot", "sigma_slot", "weight_slot"):
            setattr(to, name, getattr(group, name))
        for j, e in enumerate(group.entries):
            to.entry[j] = _Entry(e.value, e.weight, e.slot, e.weight_slot, e.always, 0)
    return c


def _is_whole(file: Path) -> bool:
    """Whether an ELF library ends as it should, in its table of sections: the loader does not look, and
    reading what is not there ends the process.
    """
    if not file.is_file():
        return True  # The loader says what it is.
    with file.open("rb") as opened:
        head = opened.read(64)
        if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian.
            return True
        (start,) = struct.unpack_from("<Q", head, 40)
        size, count = struct.unpack_from("<HH", head, 58)
        opened.seek(start)
        table = opened.read(size * count)
    return len(table) == size * count and any(table[-size:])


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled engine: that of this installation, or the file that DEPTHLOSS_CPU_LIBRARY names.

    Raises:
        OSError: it was not built, does not load, or is of another version of this package.
    """
    named = os.environ.get("DEPTHLOSS_CPU_LIBRARY")
    found = [Path(named)] if named else sorted(Path(__file__).parent.glob("_engine*.so"))
    if not found:
        raise OSError("it was not built: install a C++17 compiler (g++ or clang++) and this package again")
    file = found[0]
    if not _is_whole(file):
        raise OSError(f"{file} is damaged: install this package again")
    lib = ctypes.CDLL(str(file))
    try:
        lib.dl_version.restype = lib.dl_penalties.restype = c_char_p
        lib.dl_size.restype = lib.dl_code_bytes.restype = c_int64
        built = lib.dl_version().decode()
    except AttributeError as error:
        raise OSError(f"{file} is not this engine, or an older one: install this package again") from error
    sizes = [lib.dl_size(i) for i in range(5)]
    if (
        built != __version__
        or sizes != [*map(ctypes.sizeof, (CPlan, Call)), TOTALS, HEAD, COEFFICIENTS]
        or lib.dl_penalties().decode().split() != list(s.PENALTIES)
    ):
        raise OSError(f"{file} was built from another version, {built}: install this package again")
    lib.dl_largest.argtypes = [POINTER(CPlan), POINTER(Call), c_void_p]
    lib.dl_measure.restype = c_void_p
    lib.dl_measure.argtypes = [POINTER(CPlan), POINTER(Call), c_void_p]
    lib.dl_combine.restype = None
    lib.dl_combine.argtypes = [POINTER(Call), c_void_p]
    lib.dl_backward.argtypes = [POINTER(CPlan), POINTER(Call)]
    lib.dl_code_bytes.argtypes = [POINTER(CPlan), c_int64, c_int64]
    lib.dl_instruction_set.restype = c_char_p
    lib.dl_choose.argtypes = [c_char_p]
    lib.dl_log.argtypes = [c_void_p, c_void_p, c_int64, c_int32]
    lib.dl_team.restype, lib.dl_team.argtypes = None, [c_void_p, c_void_p]
    lib.dl_team(*openmp())
    return lib


def openmp() -> tuple[int, int] | tuple[None, None]:
    """The addresses of GOMP_parallel and omp_get_thread_num in the OpenMP library PyTorch runs on, or None.

    GNU's library has both, LLVM's and Intel's have them too. Looked up from PyTorch's own library: a process
    may hold several OpenMP libraries.
    """
    file = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        lib = ctypes.CDLL(str(file))
        functions = lib.GOMP_parallel, lib.omp_get_thread_num
    except (OSError, AttributeError):  # Another system, or a PyTorch built without OpenMP.
        return None, None
    return tuple(ctypes.cast(function, c_void_p).value for function in functions)
