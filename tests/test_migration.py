"""What docs/migration promises: each line computes the formula that it replaces, the original's."""

from __future__ import annotations

import pytest
import torch

from bench.migration import forms, run

from .golden_cases import Case, assert_golden, params, tensor

LINES = {form: code for page in run.lines().values() for form, code in page.items()}
SMALL = (3, 24, 41, 0.5)


def test_every_form_has_a_line():
    assert sum(len(page) for page in run.lines().values()) == len(LINES)  # none twice
    assert set(LINES) == set(forms.FORMS)


@pytest.mark.parametrize("form", forms.FORMS)
def test_the_line_computes_the_formula(form):
    value, gradient = run.agreement(form, LINES[form], SMALL)
    assert value < 1e-12 and gradient < 1e-12


def test_packnet_names_mean_other_losses_without_the_variant():
    """Said on the page: by name alone these are the forms of the literature."""
    for form in ("packnet-berhu", "packnet-abs-rel"):
        code = LINES[form].replace(', variant="packnet"', "")
        assert code != LINES[form] and run.agreement(form, code, SMALL)[0] > 1e-2


def test_sparse_g2_is_another_loss():
    code = LINES["g2"].replace('"g2"', '"sparse-g2"')
    assert code != LINES["g2"] and run.agreement("g2", code, SMALL)[0] > 1e-2


def of_case(case: Case, dtype: torch.dtype = torch.float64) -> forms.Batch:
    """A golden case; its ground truth may hold anything where it is invalid."""
    mask = tensor(case["mask"]) != 0
    gt = tensor(case["gt"], dtype)
    raw = tensor(case["abs_mask"]) != 0 if "abs_mask" in case else mask
    confidence = tensor(case["conf"], dtype) if "conf" in case else torch.ones_like(gt)
    return forms.Batch(tensor(case["pred"], dtype).requires_grad_(), gt, mask, raw, confidence)


def _numbers(case: Case, **names: str) -> dict:
    return {keyword: case.number(f"param_{name}") for keyword, name in names.items()}


# File of the original's numbers -> the formula with the settings of a case, and the cases that it covers. A
# mean over single images has no value where one is empty, which the pages say. Not here: metric3d-ssi, whose
# original adds 1e-6 to numbers of pixels (test_golden_field.py), and those without numbers of an original.
GOLDEN = {
    "dav2_silog": (lambda c, x: forms.FORMS["depth-anything-v2"](x), lambda c: True),
    "zoe_silog": (lambda c, x: forms.FORMS["zoedepth"](x), lambda c: True),
    "tri_silog": (lambda c, x: forms.FORMS["packnet-silog"](x), lambda c: True),
    "tri_berhu": (lambda c, x: forms.packnet_berhu(x, **_numbers(c, threshold="threshold")), lambda c: True),
    "tri_abs_rel": (lambda c, x: forms.packnet_abs_rel(x), lambda c: True),
    "g2_published": (lambda c, x: forms.g2(x, int(c.number("param_k"))), lambda c: True),
    "mmseg_silog": (lambda c, x: forms.mmseg(x), lambda c: _no_empty_image(c)),
    "midas_ssi_mse": (
        lambda c, x: forms.midas(x, alpha=0.0),
        lambda c: _no_empty_image(c) and not c.flag("param_image_reduction"),
    ),
    "e2eft_ssi_l1": (lambda c, x: forms.e2e_ft(x), lambda c: _no_empty_image(c)),
    "nlspn_l1l2": (
        lambda c, x: forms.nlspn(x, **_numbers(c, max_depth="max_depth", l1="w_l1", l2="w_l2")),
        lambda c: _no_empty_image(c),
    ),
    "unidepth_silog": (
        lambda c, x: forms.unidepth(x, paired=c.flag("param_dims3")),
        lambda c: _no_empty_image(c) and not c["si"].any(),
    ),
    # Where its filter of the largest errors does nothing.
    "vggt_depth": (lambda c, x: forms.vggt(x), lambda c: c.name in ("d005_c", "empty_d", "few_d")),
}


def _no_empty_image(case: Case) -> bool:
    return bool((case["mask"].sum((1, 2, 3)) > 1).all())


@pytest.mark.parametrize(
    "file, case",
    [
        pytest.param(file, p.values[0], id=f"{file}-{p.id}")
        for file, (_, keep) in GOLDEN.items()
        for p in params(file, keep)
    ],
)
def test_the_formula_is_the_original(file, case):
    x = of_case(case)
    assert_golden(case, GOLDEN[file][0](case, x), x.pred)
