"""Every block of docs/numerics.md prints what stands below it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = (Path(__file__).parents[1] / "docs" / "numerics.md").read_text(encoding="utf-8")
(SETUP,) = re.findall(r"```python\n([^`]*)```\n\n(?!```text)", PAGE)
BLOCKS = {
    title: (code, printed)
    for title, code, printed in re.findall(
        r"^## ([^\n]*)\n(?:(?!^## ).)*?```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.M | re.S
    )
}


def test_every_section_has_a_block():
    assert list(BLOCKS) == re.findall(r"^## (.*)$", PAGE, re.M)


@pytest.mark.parametrize("title", BLOCKS)
def test_it_prints_what_the_page_says(title, capsys):
    if "quantile" in title and torch.__version__ >= (2, 14):
        pytest.skip("this torch takes the quantile of any number of pixels")
    code, printed = BLOCKS[title]
    exec(SETUP + code, {})
    assert capsys.readouterr().out == printed
