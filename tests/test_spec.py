"""Specs as text: what graphs, files and pickles hold of a loss."""

from __future__ import annotations

import pickle
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

import depthloss
from depthloss.spec import DifferenceMoments, Gradient, GradientSpec, Group, LossSpec, parse

from . import cases


@pytest.mark.parametrize("name", cases.LOSSES)
def test_a_spec_comes_back_from_its_text(name):
    spec = cases.LOSSES[name]().spec
    for changed in (
        spec,
        replace(spec, gt_range=(None, 80.0)),
        replace(spec, positive_gt=True, gt_range=(0.1, None)),
    ):
        parse.cache_clear()
        found = parse(changed.text)
        assert found == changed and found.text == changed.text and found.terms == changed.terms
        assert pickle.loads(pickle.dumps(changed)) == changed
    assert len({replace(spec, gt_range=(0, high)).text for high in (None, 1, 1.0, 2)}) == 3


PRESETS = {
    "g2-published": ("sobel", "residual", "nearest", "valid", "full", "sum"),
    "g2-document": ("sobel", "centre", "average", "zero", "level", "mean"),
    "scale-adaptive": ("sobel", "support", "bilinear", "replicate", "level", "mean"),
    "sparse": ("sobel", "support", "average", "replicate", "level", "mean"),
    "midas": ("forward", "pair", "strided", "valid", "level", "sum"),
}
TAKEN = {
    "g2": "g2-published",
    "gradient": "g2-document",
    "scale-adaptive": "scale-adaptive",
    "sparse-scale-adaptive": "sparse",
    "ssi-silog": "sparse",
    "sparse-ssi-silog": "sparse",
    "adaptive-multi-domain": "scale-adaptive",
    "sparse-adaptive-multi-domain": "sparse",
    "fixed-multi-domain": "scale-adaptive",
    "sparse-fixed-multi-domain": "sparse",
}


def test_the_presets_of_the_gradient_term():
    """Their axes, here, in the code and in docs/losses.md."""
    axes = [field.name for field in fields(GradientSpec)]
    for name, values in PRESETS.items():
        for levels in (1, 4):
            found = GradientSpec.preset(name, num_scales=levels)
            assert found == GradientSpec(**dict(zip(axes, (*values, levels), strict=True)))
    assert GradientSpec() == GradientSpec.preset("sparse")
    text = (Path(__file__).parents[1] / "docs/losses.md").read_text()
    for name, values in PRESETS.items():
        assert f"| `{name}` | {' | '.join(values)} |" in text
    for loss, name in TAKEN.items():
        spec = depthloss.build_loss(loss, **({"gradient_weight": 1.0} if "ssi-silog" in loss else {})).spec
        (gradient,) = (term.gradient for term in spec.terms if isinstance(term, Gradient))
        assert gradient == GradientSpec.preset(name)
    document = depthloss.G2Loss("document", num_scales=2).spec
    assert document.terms[2].gradient == GradientSpec.preset("g2-document", num_scales=2)
    names = ", ".join(map(repr, PRESETS))
    with pytest.raises(ValueError, match=re.escape(f"name must be one of {names}; got 'g2'")):
        GradientSpec.preset("g2")
    with pytest.raises(TypeError, match="positional argument"):
        GradientSpec("support")


def test_equal_specs_have_equal_texts():
    a, b = (DifferenceMoments(name="a", alpha=alpha) for alpha in (1, 1.0))
    groups = [
        LossSpec((Group((term,)),), log_var_bounds=bounds)
        for term, bounds in ((a, (-1, 1)), (b, (-1.0, 1.0)))
    ]
    assert groups[0] == groups[1] and groups[0].text == groups[1].text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("g2", "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        ("3", "TypeError: it holds int"),
        ('{"is":"Domain"}', "TypeError: it holds Domain"),
        ('{"is":"LossSpec","groups":[],"blur":1}', "LossSpec has no keyword 'blur'"),
        ('{"is":"Path"}', "KeyError: 'Path'"),
    ],
)
def test_text_that_is_no_spec(text, problem):
    with pytest.raises(ValueError, match=re.escape(problem)) as error:
        parse(text)
    assert str(error.value).startswith("not the text of a LossSpec of this version of depthloss (")
    assert str(error.value).endswith(f"): make it again with this version; got {text!r}")
