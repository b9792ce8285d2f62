"""The engine's library, loaded with ctypes, and its structures, built from kernels/layout.py."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
from ctypes import POINTER, c_char_p, c_double, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from depthloss import spec as s
from depthloss.version import __version__

from .. import layout
from ..plan import GroupPlan, MomentsPlan, PixelPlan, Plan

Reduce = ctypes.CFUNCTYPE(None, POINTER(c_int64), c_int64)
_SCALARS = {"int32_t": c_int32, "int64_t": c_int64, "double": c_double, "Reduce*": Reduce}


def _structures() -> dict[str, type[ctypes.Structure]]:
    built: dict[str, type[ctypes.Structure]] = {}
    for described in layout.STRUCTS:
        fields = []
        for name, kind, length in layout.fields(described):
            of = _SCALARS.get(kind) or (c_void_p if kind.endswith("*") else built[kind])
            fields.append((name, of * length if length else of))
        built[described.name] = type(described.name, (ctypes.Structure,), {"_fields_": fields})
    return built


STRUCTURES = _structures()
CPlan, Call = STRUCTURES["Plan"], STRUCTURES["Call"]
TOTALS, HEAD, COEFFICIENTS = (places["SIZE"] for places in (layout.TOTAL, layout.HEAD, layout.COEFFICIENT))
LOG_VAR = layout.HEAD["LOG_VAR"]


def filled(name: str, **values: object) -> ctypes.Structure:
    """A structure with all of its fields; a list fills the beginning of an array.

    Raises:
        TypeError: a field is missing, or there is no such field, which ctypes would pass over.
    """
    made = STRUCTURES[name]()
    known = {field for field, *_ in made._fields_} - {"unused"}
    if wrong := known ^ values.keys():
        raise TypeError(f"fields of {name} that are missing or unknown: {sorted(wrong)}")
    for field, value in values.items():
        if isinstance(value, list):
            for i, item in enumerate(value):
                getattr(made, field)[i] = item
        else:
            setattr(made, field, value)
    return made


def _number(kind: str, word: str) -> int:
    return layout.WORDS[kind][1].index(word)


def _call_without_maps() -> bytes:
    call = Call()
    for field in layout.fields(next(x for x in layout.STRUCTS if x.name == "Call")):
        if field.type == "Map":
            getattr(call, field.name).dtype = _number("Dtype", "none")
    return bytes(call)


_WITHOUT_MAPS = _call_without_maps()


def new_call() -> ctypes.Structure:
    """A call with no map and no number yet. Copied: naming each map that is missing costs microseconds."""
    return Call.from_buffer_copy(_WITHOUT_MAPS)


def set_map(place: ctypes.Structure, x: Tensor | None) -> Tensor | None:
    """Describe [B, H, W] or [B, 1, H, W] to the engine, of a new call None changes nothing; returns what must
    be kept alive for the call.
    """
    if x is None:
        return None
    x = x.resolve_neg()  # A view that negates, such as the imaginary part of a conjugate.
    if x.dtype not in _NUMBERS:
        x = x != 0
    place.dtype = _NUMBERS[x.dtype]
    place.data = x.data_ptr()
    strides = x.stride()
    place.stride[:] = strides[0], *strides[-2:]
    return x


# Integers of other sizes and the like are compared with 0 first.
_NUMBERS = {
    getattr(torch, word): i for i, word in enumerate(layout.WORDS["Dtype"][1]) if word not in ("byte", "none")
} | dict.fromkeys((torch.uint8, torch.int8), _number("Dtype", "byte"))


def _domain(d: s.Domain | None) -> ctypes.Structure:
    d = d or s.IDENTITY
    return filled(
        "Domain",
        conversion=_number("Conversion", d.conversion),
        has_minimum=d.minimum is not None,
        has_maximum=d.maximum is not None,
        has_log=d.log is not None,
        has_floor=d.floor is not None,
        minimum=d.minimum or 0.0,
        maximum=d.maximum or 0.0,
        log=d.log or 0.0,
        floor=d.floor or 0.0,
    )


_PIXEL = ("absolute", "largest", "counts", "a", "b", "eps", "trim", "trim_batch")


def _pixel(t: PixelPlan) -> ctypes.Structure:
    return filled(
        "Pixel",
        confident=t.confidence is not None,
        alpha=t.confidence or 0.0,
        penalty=tuple(s.PENALTIES).index(t.kind),
        norm=_number("Norm", t.norm),
        domain=_domain(t.domain),
        **{name: getattr(t, name) for name in _PIXEL},
    )


def _moments(t: MomentsPlan) -> ctypes.Structure:
    return filled("Moments", **{**vars(t), "domain": _domain(t.domain)})


def _group(group: GroupPlan) -> ctypes.Structure:
    entries = [filled("Entry", **vars(entry)) for entry in group.entries]
    return filled("Group", **{**vars(group), "entries": len(entries)}, entry=entries)


def c_plan(plan: Plan) -> ctypes.Structure:
    """The plan as the engine reads it."""
    low, high = plan.log_var_bounds or (0.0, 0.0)
    given = (
        "codes", "has_gradient", "largest", "positive_gt", "parts", "num_log_vars", "of_signs",
        "num_metrics", "count_slot", "total_slot", "eps", "gradient_eps", "gradient_images", "by_image",
        "confident", "confidence_slot",
    )  # fmt: skip
    values: dict[str, object] = {name: getattr(plan, name) for name in given}
    absolute, relative, align = plan.absolute, plan.relative, plan.alignment
    return filled(
        "Plan",
        **values,
        pixels=len(plan.pixels),
        moments=len(plan.moments),
        has_absolute=absolute is not None,
        absolute_norm=_number("Norm", absolute.norm) if absolute else 0,
        absolute_eps=absolute.eps if absolute else 0.0,
        has_relative=relative is not None,
        relative=_pixel(relative) if relative else STRUCTURES["Pixel"](),
        alignment=_number("Alignment", align.kind),
        scale_floor_max=align.scale_floor == "max",
        detached=align.grad == "detached",
        min_pixels=align.min_pixels,
        all_pixels=plan.all_pixels,
        forward=plan.stencil == "forward",
        gradient_mask=_number("GradientMask", plan.sobel_mask),
        downsample=_number("Downsample", plan.downsample),
        border=_number("Border", plan.border),
        normalizer=_number("Normalizer", plan.normalizer),
        mean=plan.combine == "mean",
        levels=plan.levels if plan.has_gradient else 0,
        groups=len(plan.groups),
        low=low,
        high=high,
        structure=_domain(plan.structure),
        pixel=[_pixel(t) for t in plan.pixels],
        moment=[_moments(t) for t in plan.moments],
        group=[_group(group) for group in plan.groups],
    )


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
        lib.dl_layout.restype, lib.dl_code_bytes.restype = c_uint64, c_int64
        built = lib.dl_version().decode()
    except AttributeError as error:
        raise OSError(f"{file} is not this engine, or an older one: install this package again") from error
    if (
        built != __version__
        or lib.dl_layout() != layout.fingerprint()
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
