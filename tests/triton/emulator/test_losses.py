"""Whole losses, compiled for GPUs and executed by the emulator, against the reference."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.multiprocessing as mp

pytest.importorskip("triton", reason="these tests need Triton")
from depthloss.spec import IDENTITY, PENALTIES, Group, LossSpec, Penalty, Pixel  # noqa: E402

from ... import cases as losses  # noqa: E402
from ...fused import aligned, weighted  # noqa: E402
from ...fused.cases import GRADIENT, covering  # noqa: E402
from ...fused.cases import Case as Row  # noqa: E402
from ...fused.families import CLAMPED, SEVERAL  # noqa: E402
from ...test_distributed import evaluate  # noqa: E402
from . import cases, count  # noqa: E402
from .cases import FUSED, Case  # noqa: E402

full = pytest.mark.full
# Every kernel, both arithmetics, loops over tiles and images, an architecture without pairs and one with.
EVERY_RUN = (
    Case("g2 published", shape=(17, 18, 35), tiles="loops"),
    Case("adaptive-multi-domain", "bf16", (1, 21, 35), arch=100),
    Case("berhu", "f64"),
)
FORMS = tuple(itertools.product(*(GRADIENT[axis] for axis in ("mask", "downsample", "border"))))


@pytest.mark.parametrize("case", EVERY_RUN, ids=str)
def test_agrees_with_the_reference(case, emulated):
    emulated(cases.agrees, case, True)


def several(family: str, dtype: str, abs_mask: bool, reduction: str = "pixels", **axes: object) -> Row:
    """A family of several terms, on maps of odd sizes, NaN outside the masks."""
    gradient = {"mask": "support", "downsample": "average", "border": "zero", "normalizer": "level",
                "combine": "sum", "num_scales": 3}  # fmt: skip
    rest = {"shape": (2, 17, 22), "pixels": "70%", "mask_dtype": torch.bool, "layout": "contiguous",
            "poison": "NaN", "tiles": "small"}  # fmt: skip
    of_family = gradient if family == "R+G and several" else {}
    return Row(family, reduction=reduction, dtype=dtype, abs_mask=abs_mask, **rest | of_family | axes)


def test_several_terms_agree_with_the_reference(emulated):
    """Four pixel terms, two of them reverse Huber; with loops over tiles and images."""
    case = several("several pixel terms", "f32", True, shape=(3, 17, 22), tiles="loops")
    emulated(cases.agrees_in_the_matrix, case, None, False, True)


@full
@pytest.mark.parametrize("perturbed", (False, True), ids=("exact", "perturbed"))
@pytest.mark.parametrize("abs_mask", (False, True), ids=("mask", "abs_mask"))
@pytest.mark.parametrize("dtype", ("f32", "f64", "bf16", "f16", "f16 and f32"))
@pytest.mark.parametrize("family", SEVERAL)
def test_more_of_several_terms_agree_with_the_reference(family, dtype, abs_mask, perturbed, emulated):
    reduction = "images" if abs_mask else "pixels"
    tiles = "loops" if perturbed else "small"
    case = several(family, dtype, abs_mask, reduction, tiles=tiles)
    emulated(cases.agrees_in_the_matrix, case, None, perturbed)


# By the names of tests/fused/aligned.py: align, penalty, trim, gradient, domain, reduction. The first two run
# every kernel of a selection and of a fit.
ALIGNED = (
    ("median", "l1", "image", "forward", "identity", "images"),
    ("least squares", "half-l2", "none", "forward", "identity", "pixels"),
    ("median", "l1", "none", "published", "identity", "pixels"),
    ("median, added floor", "l1", "batch", "sparse", "inverse", "pixels"),
    ("median detached", "l2", "none", "none", "inverse", "images"),
    ("least squares", "huber", "batch", "sparse", "log", "pixels"),
    ("packnet", "l1", "image", "bilinear", "identity", "images-sum"),
    ("mean", "barron", "none", "centre", "identity", "images"),
    ("mean", "charbonnier", "most", "published", "clamped", "images"),
    ("none", "smooth-l1", "batch", "forward, deep", "log", "pixels"),
)


@pytest.mark.parametrize(
    "dtype, perturbed",
    (("f32", False), *(pytest.param(d, p, marks=full) for d, p in (("f64", False), ("bf16", True)))),
)
@pytest.mark.parametrize(
    "axes", (*ALIGNED[:2], *(pytest.param(axes, marks=full) for axes in ALIGNED[2:])), ids="-".join
)
def test_aligned_losses_agree_with_the_reference(axes, dtype, perturbed, emulated):
    """Exact selections and fits, twice the same bits; with loops over tiles and images."""
    rest = {"shape": (3, 17, 22), "pixels": "70%", "mask_dtype": torch.bool, "layout": "contiguous",
            "poison": "NaN", "tiles": "loops"}  # fmt: skip
    names = dict(
        zip(("align", "penalty", "trim", "gradient", "domain", "reduction"), axes, strict=True), dtype=dtype
    )
    emulated(cases.agrees_in_the_matrix, aligned.Case(**names, **rest), None, perturbed, True)


def extras(align: str, penalty: str, gradient: str, beside: str, reduction: str, **axes) -> weighted.Case:
    rest = {"shape": (3, 17, 22), "pixels": "70%", "mask_dtype": torch.bool, "layout": "contiguous",
            "poison": "NaN", "domain": "identity", "dtype": "f32", "weighted": True, "confident": False,
            "abs_mask": False}  # fmt: skip
    return weighted.Case(
        align=align, penalty=penalty, gradient=gradient, beside=beside, reduction=reduction, **rest | axes
    )


EXTRAS = (
    extras("mean", "l1", "published", "absolute", "pixels"),
    extras("mean", "huber", "forward", "moments", "none", abs_mask=True),
    extras("least squares", "l2", "sparse", "confidence", "none", confident=True),
    extras("packnet", "l1", "none", "pixels", "images", dtype="f64"),
    extras("median", "l1", "forward", "confidence", "images-sum", weighted=False, confident=True),
)


@full
@pytest.mark.parametrize("case", EXTRAS, ids=str)
def test_weights_confidences_and_losses_of_images_agree_with_the_reference(case, emulated):
    emulated(cases.agrees_with_extras, case)


@full
@pytest.mark.parametrize("perturbed", (False, True), ids=("exact", "perturbed"))
@pytest.mark.parametrize("dtype", ("f32", "f64", "bf16"))
@pytest.mark.parametrize("kind", PENALTIES)
def test_every_penalty_agrees_with_the_reference(kind, dtype, perturbed, emulated):
    """Alone, over both masks, beside another domain of itself."""
    numbers = (0.2,) * len(PENALTIES[kind])
    terms = [
        Pixel(name=f"{mask}{i}", penalty=Penalty(kind, *numbers), mask=mask, domain=domain, eps=1e-3 * i)
        for i, (mask, domain) in enumerate(itertools.product(("mask", "abs_mask"), (IDENTITY, CLAMPED)))
    ]
    spec = LossSpec((Group(tuple(terms)),))
    case = several("several pixel terms", dtype, True)
    emulated(cases.agrees_in_the_matrix, case, spec, perturbed)


def more() -> list[Case]:
    """What the covering matrix lacks."""
    found = [Case(name, shape=(2, 31, 47)) for name in FUSED]
    for name, dtype in itertools.product(
        ("g2 published", "scale-adaptive", "adaptive-multi-domain"), ("f64", "bf16", "f16", "f16 and f32")
    ):
        found.append(Case(name, dtype))
    # Divisible by 16 in every size and stride, as vector loads want it; then bases and strides that are not.
    for name, dtype in (("g2 published", "f32"), ("g2 published", "bf16"), ("adaptive-multi-domain", "f16")):
        for layout in ("contiguous", "unaligned", "row shift", "cropped", "sliced", "expanded mask"):
            found.append(Case(name, dtype, (2, 32, 64), layout=layout))
    for name in ("g2 document", "scale-adaptive", "adaptive-multi-domain"):
        found += [Case(name, pixels=pixels) for pixels in losses.MASKS if pixels != "70%"]
        found += [Case(name, shape=shape) for shape in ((1, 1, 1), (1, 3, 5), (3, 97, 131))]
    for name in ("g2 document", "adaptive-multi-domain"):
        found += [Case(name, poison=poison) for poison in ("Inf", "-1", "0")]
    for arch, name in itertools.product((75, 80, 89, 100, 120), ("g2 published", "adaptive-multi-domain")):
        found += [Case(name, dtype, arch=arch) for dtype in ("f32", "bf16")]
    # As launched; one per architecture too.
    found += [Case(name, shape=(1, 192, 640), tiles="table") for name in ("g2 published", "scale-adaptive")]
    found += [Case("g2 published", tiles="table", arch=arch) for arch in (75, 80, 89, 100, 120)]
    found += [Case(name, tiles="table") for name in ("g2 document", "adaptive-multi-domain")]
    return found


@full
@pytest.mark.parametrize("case", more(), ids=str)
def test_more_agree_with_the_reference(case, emulated):
    emulated(cases.agrees, case)


@full
@pytest.mark.parametrize("case", covering(), ids=str)
def test_the_matrix_agrees_with_the_reference(case, emulated):
    emulated(cases.agrees_in_the_matrix, case)


@full
@pytest.mark.parametrize("name", FUSED)
def test_perturbed_arithmetic_agrees_with_the_reference(name, emulated):
    """Approximations as far off as the PTX manual allows, products and sums fused where ptxas may."""
    emulated(cases.agrees, Case(name, perturbed=True))


@full
@pytest.mark.parametrize("dtype", ("f32", "bf16", "f64"))
@pytest.mark.parametrize("form", FORMS[::4], ids="-".join)
def test_equal_maps_are_exactly_zero(form, dtype, emulated):
    emulated(cases.equal_maps_are_exactly_zero, form, dtype)


# Statistics "all" read every pixel.
@full
@pytest.mark.parametrize(
    "name",
    [
        "g2 document",
        "adaptive-multi-domain",
        "ssi-silog",
        "berhu",
        *(name for name in SEVERAL if not name.startswith("all ")),
    ],
)
def test_nothing_valid_is_exactly_zero(name, emulated):
    emulated(cases.nothing_valid_is_exactly_zero, name)


@full
@pytest.mark.parametrize("dtype", ("f32", "f64"))
@pytest.mark.parametrize("name", ["g2 published", "adaptive-multi-domain", "berhu", *SEVERAL])
def test_same_bits_without_a_gradient_and_with_weights_by_pointer(name, dtype, emulated):
    emulated(cases.same_bits, name, dtype)


@full
def test_two_ranks_equal_one(compiling, tmp_path):
    from ..test_ranks import joined_batch

    names = (
        "g2 published",
        "berhu packnet",
        "adaptive-multi-domain",
        "ssi-silog with gradient",
        "g2 support",
        *SEVERAL,
    )
    enter, leave = compiling
    enter()
    try:
        mp.spawn(cases.rank, (str(tmp_path), names), nprocs=2)
    finally:
        leave()
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name in names:
        value, grad, log_vars, metrics = evaluate(cases.build(name).double(), *joined_batch())
        for rank in ranks:
            got, _, got_log_vars, got_metrics = rank[name]
            assert got.item() == pytest.approx(value.item(), rel=1e-10), name
            for mine, theirs in zip(got_log_vars, log_vars, strict=True):
                assert mine.item() == pytest.approx(theirs.item(), rel=1e-10), name
            assert {k: v.item() for k, v in got_metrics.items()} == pytest.approx(
                {k: v.item() for k, v in metrics.items()}, rel=1e-10, abs=1e-12
            ), name
        joined = torch.cat([rank[name][1] for rank in ranks]) / 2
        assert (joined - grad).abs().max() <= 1e-10 * grad.abs().max(), name


def executed(name: str, shape: tuple[int, int, int]) -> dict:
    """In the process that compiles."""
    return count.executed(losses.LOSSES[name](), shape, tiles="small")


def test_executed_instructions_are_those_of_the_pixels(emulated):
    """A batch of two takes what two batches of one take, but for the kernel that finishes."""
    one, two = (emulated(executed, "berhu", (b, 33, 65)) for b in (1, 2))
    assert one.keys() == two.keys() == {"moments", "by_largest", "finish", "gradient"}
    for kernel in ("moments", "by_largest", "gradient"):
        assert two[kernel]["ctas"] == 2 * one[kernel]["ctas"]
        assert two[kernel]["per_pixel"] == pytest.approx(one[kernel]["per_pixel"], rel=0.01)
    assert 1 < one["gradient"]["per_pixel"] < 1000
