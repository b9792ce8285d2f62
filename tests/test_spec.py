"""Specs as text: what graphs, files and pickles hold of a loss."""

from __future__ import annotations

import pickle
import re
from dataclasses import replace

import pytest

from depthloss.spec import DifferenceMoments, Group, LossSpec, parse

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
        ('{"is":"LossSpec","groups":[],"blur":1}', "unexpected keyword argument 'blur'"),
        ('{"is":"Path"}', "KeyError: 'Path'"),
    ],
)
def test_text_that_is_no_spec(text, problem):
    with pytest.raises(ValueError, match=re.escape(problem)) as error:
        parse(text)
    assert str(error.value).startswith("not the text of a LossSpec of this version of depthloss (")
    assert str(error.value).endswith(f"): make it again with this version; got {text!r}")
