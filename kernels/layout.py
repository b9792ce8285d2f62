"""What the host and the kernels both know of a loss, described once.

The structures that the native engine is handed, the enumerations in them, its limits and the bits of its
codes; for both engines, where a number lies among the values of the terms, the totals that ranks exchange,
and the coefficients of the backward. kernels/cpu/layout.h is generated from it:

    python -m depthloss.kernels.layout

and `binding.py` builds its structures from it, and refuses a library with another `fingerprint`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from depthloss.spec.roles import MOST

HEADER = Path(__file__).with_name("cpu") / "layout.h"
_OPEN_TERMS = 3 + 2 * MOST  # absolute, relative and gradient, then MOST moments and MOST pixel terms
# Triton stores the levels as a block, whose size is a power of two.
_LEVEL_PLACES = 8

LIMITS = {
    "LEVELS": 6,
    "MOST": MOST,  # moments terms, and pixel terms, beside the structure
    "GROUPS": _OPEN_TERMS,
    "ENTRIES": _OPEN_TERMS,
    "BAND": 64,  # rows that are summed on their own: the same for any number of threads
}

# The words of the specs that are numbers in the structures, with the prefix of their names in C++.
WORDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "Dtype": ("", ("float32", "float64", "float16", "bfloat16", "bool", "byte", "none")),
    "Conversion": ("", ("identity", "inverse", "shifted-inverse")),
    "Alignment": ("ALIGN_", ("none", "mean", "median", "least-squares", "packnet-trim")),
    "GradientMask": ("", ("residual", "centre", "support", "pair")),
    "Downsample": ("", ("nearest", "average", "bilinear", "strided")),
    "Border": ("", ("valid", "zero", "replicate")),
    "Normalizer": ("", ("full", "level", "kept")),
    "Norm": ("BY_", ("pixels", "images", "images-sum", "floored")),
}


def _places(**lengths: int) -> dict[str, int]:
    """Where each item begins if each takes so many numbers; ``"SIZE"``: of all together."""
    places, size = {}, 0
    for name, length in lengths.items():
        places[name] = size
        size += length
    return places | {"SIZE": size}


# The values of the terms of a loss.
VALUE = _places(ABSOLUTE=1, RELATIVE=1, GRADIENT=1, MOMENTS=MOST, PIXELS=MOST)
# The totals of a rank's batch. MEAN of a moments term by images: the sum of the images' values. ALIGNED: the
# pixels that the relative term counts; FITTED: those of images that are large enough. RESPONSE of a gradient
# term by images: the sum of the images' ratios. All numbers of pixels but COUNT, FITTED, KEPT and CELLS are
# sums of weights where pixels have weights. PLAIN: of pixel terms with a confidence, and of the relative one,
# the sum without it, which is their metric; CONFIDENCE: the sum of all.
TOTAL = _places(
    IMAGES=1, COUNT=1, ABS_COUNT=1, ABS_FLOORED=1, STATISTICS=1, ABSOLUTE=1, RELATIVE=1, VISIBLE=1,
    ALIGNED=1, FITTED=1,
    MEAN=MOST, SPREAD=MOST, PIXEL=MOST, AGAIN=MOST,
    RESPONSE=_LEVEL_PLACES, KEPT=_LEVEL_PLACES, CELLS=_LEVEL_PLACES,
    PLAIN=MOST, PLAIN_RELATIVE=1, CONFIDENCE=1,
)  # fmt: skip
# The coefficients of the backward: numbers of the batch, then of each image. What the residual of an image is
# made with, (p - MU_P) INV_P - (g - MU_G) INV_G, and of a trim its threshold and the share of a pixel there.
HEAD = _places(KAPPA=_LEVEL_PLACES, LOG_VAR=_OPEN_TERMS, LARGEST=MOST)
COEFFICIENT = _places(
    ABS_WEIGHT=1, REL_WEIGHT=1, SCALE=1, MEAN_WEIGHT=1, SIGN_WEIGHT=1,
    MOMENTS_SLOPE=MOST, MOMENTS_CENTRE=MOST, MOMENTS_SHIFT=MOST, PIXEL_WEIGHT=MOST,
    TIE_WEIGHT=1, BY_P=1, BY_G=1, MU_P=1, MU_G=1, INV_P=1, INV_G=1, TAU=1, SHARE=1,
    LEVEL_WEIGHT=_LEVEL_PLACES,
)  # fmt: skip
_PLACES = {
    "Value": ("", VALUE, "VALUES"),
    "Total": ("T_", TOTAL, "TOTALS"),
    "HeadCoefficient": ("", HEAD, "HEAD"),
    "Coefficient": ("", COEFFICIENT, "COEFFICIENTS"),
}

# The codes of the native engine. Of a pixel: a sign + 1 from each of the first three bits on, then flags; of
# a coarse cell: the adjoint + ADJOINT_ZERO, and above its bits the count - 1.
CODE = {
    "SIGN_R": 0,
    "SIGN_D": 2,
    "SIGN_P": 4,
    "VALID_BIT": 64,
    "READ_BIT": 128,
    "ADJOINT_BITS": 6,
    "ADJOINT_ZERO": 16,
}


class Struct(NamedTuple):
    """A structure of plain data: a comment, and rows of a C type with the names of its fields."""

    name: str
    about: str
    rows: tuple[tuple[str, str], ...]


class Field(NamedTuple):
    """A field: its name, its C type, and how many an array has; 0: no array."""

    name: str
    type: str
    length: int


STRUCTS = (
    Struct(
        "Map",
        "A map [B, H, W]; strides in elements. BOOL bytes are 0 or 1, BYTE anything; NONE is no mask.",
        (("void*", "data"), ("int64_t", "stride[3]"), ("int32_t", "dtype unused")),
    ),
    Struct(
        "Domain",
        "What a term compares.",
        (
            ("int32_t", "conversion has_minimum has_maximum has_log has_floor unused"),
            ("double", "minimum maximum log floor"),
        ),
    ),
    Struct(
        "Pixel",
        "A pixel term. A penalty is numbered by its place in penalty.hpp. alpha: of -ln c, if confident.",
        (
            ("int32_t", "penalty norm absolute largest counts trim_batch confident unused"),
            ("double", "a b eps trim alpha"),
            ("Domain", "domain"),
        ),
    ),
    Struct(
        "Moments",
        "A moments term.",
        (
            ("int32_t", "root unbiased images images_sum"),
            ("double", "mean_weight scale eps"),
            ("Domain", "domain"),
        ),
    ),
    Struct(
        "Entry",
        "A term in its group: where its value lies, its own weight, where its metrics go (-1: nowhere).",
        (("int32_t", "place weight slot weight_slot always unused"),),
    ),
    Struct(
        "Group",
        "Terms that are added up, their gate, and where their metrics go (-1: nowhere).",
        (
            ("int32_t", "entries min_valid weight slot sigma_slot weight_slot"),
            ("Entry", "entry[ENTRIES]"),
        ),
    ),
    Struct(
        "Plan",
        "A loss as depthloss.kernels.plan lays it out. low, high: bounds of the log-variances. of_signs:\n"
        "the backward makes the gradient of the residual of codes alone, if no pixel has a weight.",
        (
            ("int32_t", "codes has_absolute has_relative has_gradient pixels moments largest"),
            ("int32_t", "alignment scale_floor_max detached min_pixels of_signs all_pixels positive_gt"),
            ("int32_t", "absolute_norm forward gradient_images by_image confident confidence_slot"),
            ("int32_t", "gradient_mask downsample border normalizer mean levels parts"),
            ("int32_t", "groups num_log_vars num_metrics count_slot total_slot"),
            ("double", "eps absolute_eps gradient_eps low high"),
            ("Domain", "structure"),
            ("Pixel", "relative"),
            ("Pixel", "pixel[MOST]"),
            ("Moments", "moment[MOST]"),
            ("Group", "group[GROUPS]"),
        ),
    ),
    Struct(
        "Call",
        "One call. in_double: the arithmetic. saves: a backward will follow, for which codes and\n"
        "coefficients are kept. largest [MOST]: residuals of the batch, where a penalty needs them.\n"
        "totals [world, TOTALS]. terms [num_metrics] and total, one number or by_image [B]: in the type of\n"
        "the arithmetic; grad_output is as many. reduce(numbers, n), if not NULL, adds up what the ranks\n"
        "count. weight and confidence: NONE if not given; grad and grad_confidence: if not wanted.",
        (
            ("Map", "pred gt mask abs_mask weight confidence grad grad_confidence"),
            ("int64_t", "B H W"),
            ("int32_t", "in_double saves threads world"),
            ("const double*", "weights log_vars largest grad_output"),
            ("double*", "totals"),
            ("void*", "terms total"),
            ("Reduce*", "reduce"),
            ("uint8_t*", "codes"),
            ("double*", "coefficients"),
        ),
    ),
)


def fields(struct: Struct) -> list[Field]:
    """The fields of a structure, in their order."""
    found = []
    for kind, names in struct.rows:
        for name, length in re.findall(r"(\w+)(?:\[(\w+)\])?", names):
            found.append(Field(name, kind, int(LIMITS.get(length, length or 0))))
    return found


def _names(prefix: str, words: tuple[str, ...]) -> str:
    return ", ".join(prefix + word.upper().replace("-", "_") for word in words)


def _declarations() -> str:
    """The header's declarations, with comments."""
    lines = [f"constexpr int {name} = {value};" for name, value in LIMITS.items()]
    lines += ["", "// Numbers of words in the structures."]
    lines += [f"enum {name} {{ {_names(*words)} }};" for name, words in WORDS.items()]
    lines += ["", "// Where values of terms, totals of a rank, coefficients of a batch and an image lie."]
    for name, (prefix, places, size) in _PLACES.items():
        items = [f"    {size if key == 'SIZE' else prefix + key} = {at}," for key, at in places.items()]
        lines += [f"enum {name} {{", *items, "};"]
    lines += ["", "// The codes: bits of a pixel's, and the fields of a coarse cell's."]
    lines += [f"constexpr int {name} = {value};" for name, value in CODE.items()]
    lines += ["", 'extern "C" {', "", "typedef void Reduce(int64_t* numbers, int64_t n);"]
    for struct in STRUCTS:
        lines += ["", *(f"// {line}" for line in struct.about.splitlines()), f"struct {struct.name} {{"]
        for kind, names in struct.rows:
            declared = names.split()
            if kind.endswith("*") and len(declared) > 1:
                kind, declared = kind[:-1], [f"*{name}" for name in declared]
            lines.append(f"    {kind} {', '.join(declared)};")
        lines.append("};")
    return "\n".join([*lines, "}"])


def fingerprint() -> int:
    """A number of 64 bits that another description would not have; comments do not count."""
    text = re.sub(r"//.*|\s+", " ", _declarations())
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def header() -> str:
    """The text of `HEADER`."""
    return f"""\
// Generated by `python -m depthloss.kernels.layout`: change kernels/layout.py, and run that.
#pragma once
#include <cstdint>

{_declarations()}

// Of all the above: binding.py takes no library that was built with another.
constexpr uint64_t FINGERPRINT = {fingerprint():#018x};
"""


if __name__ == "__main__":
    HEADER.write_text(header(), encoding="utf-8")
    print(f"wrote {HEADER}")
