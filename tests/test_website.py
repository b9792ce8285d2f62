"""The documentation site has a page for everything; `make docs` builds it and fails at any warning."""

from __future__ import annotations

import re
from pathlib import Path

import depthloss as dl
from website import catalogue

ROOT = Path(__file__).parents[1]
NAVIGATION = set(re.findall(r"^ +- (?:[^:\n]+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M))
# Reached by links, not by the navigation.
ASIDE = {"pictures/README.md"}


def test_every_page_is_in_the_navigation():
    docs = ROOT / "docs"
    assert {page.relative_to(docs).as_posix() for page in docs.rglob("*.md")} - ASIDE <= NAVIGATION


def test_the_navigation_names_pages_that_exist():
    for page in NAVIGATION - {"index.md"}:
        assert (ROOT / "docs" / page).exists() or (ROOT / page).exists(), page


def test_every_loss_and_recipe_has_a_formula():
    assert tuple(catalogue.LOSSES) == dl.available_losses()
    assert tuple(catalogue.RECIPES) == dl.available_recipes()


def test_formulas_are_balanced():
    formulas = [x for lines, _ in catalogue.LOSSES.values() for x in lines]
    formulas += [x for lines in catalogue.RECIPES.values() for x in lines]
    for formula in formulas:
        assert formula.count("{") == formula.count("}"), formula
        assert len(re.findall(r"\\left(?!a)", formula)) == len(re.findall(r"\\right(?!a)", formula)), formula
