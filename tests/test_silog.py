"""SILog's presets: every way to choose one, and the tables of docs/losses.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import depthloss as dl
from depthloss.losses.ssi import SILOG_PRESETS
from depthloss.spec import LogMoments

from .cases import maps
from .golden_cases import DEVICES, backends

DOCS = (Path(__file__).parents[1] / "docs" / "losses.md").read_text(encoding="utf-8")
EVERY = pytest.mark.parametrize("name", SILOG_PRESETS)


def table(heading: str) -> list[dict[str, str]]:
    """The rows of the table whose heading begins like this, by column."""
    lines = DOCS[DOCS.index(f"\n| {heading}") + 1 :].split("\n\n")[0].splitlines()
    columns, _, *rows = (
        [cell.strip(" `") for cell in re.split(r"\s\|\s|^\|\s|\s\|$", x)[1:-1]] for x in lines
    )
    return [dict(zip(columns, row, strict=True)) for row in rows]


def build(preset: str) -> dl.SILogLoss:
    """The loss that a row is about: ``none``, ``none, `clamp=1e-3` `` or a preset."""
    if preset.startswith("none"):
        return dl.SILogLoss(clamp=1e-3) if "clamp" in preset else dl.SILogLoss()
    return dl.SILogLoss(preset=preset)


@EVERY
def test_every_way_to_choose_a_preset(name):
    loss = dl.build_loss("silog", preset=name)
    assert loss.spec == dl.SILogLoss(preset=name).spec == dl.SILogLoss.preset(name).spec
    pred, gt = maps()
    assert torch.equal(dl.functional.silog_loss(pred, gt, gt > 0.5, preset=name), loss(pred, gt, gt > 0.5))
    assert dl.SupervisedLoss("silog", preset=name).loss_func.spec == dl.SILogLoss(preset=name).spec


@EVERY
def test_a_keyword_goes_over_the_preset(name):
    given = {"lam": 0.85, "scale": 10.0, "eps": 1e-8, "offset": 0.0, "unbiased": False}
    given |= {"reduction": "pixels", "clamp": None}
    # Also where it is what the class has without a preset.
    (term,) = dl.SILogLoss.preset(name, **given).spec.terms
    assert term == LogMoments(name="silog_component", **given)
    assert term == dl.SILogLoss().spec.terms[0]
    (term,) = dl.SILogLoss(0.3, preset=name, clamp=0.5).spec.terms
    assert (term.lam, term.domain.floor, term.eps) == (0.3, 0.5, SILOG_PRESETS[name].get("eps", 1e-8))


def test_the_table_of_presets():
    rows = {row["preset"]: row for row in table("preset | lam")}
    assert set(rows) == {"none", *SILOG_PRESETS}
    for name, row in rows.items():
        spec = build(name).spec
        (term,) = spec.terms
        for key in ("lam", "scale", "eps"):
            assert float(row[key]) == getattr(term, key), (name, key)
        assert float(row["offset"]) == term.domain.log
        assert row["V"] == ("unbiased" if term.unbiased else "biased") and row["reduction"] == term.reduction
        assert row["clamp"] == ("–" if term.domain.floor is None else "1e-6") and term.domain.floor in (
            None,
            1e-6,
        )
        assert row["gt > 0"] == ("yes" if spec.positive_gt else "–")


def test_the_presets_are_listed_everywhere():
    names = (Path(__file__).parents[1] / "docs" / "use.md").read_text(encoding="utf-8")
    row = next(line for line in names.splitlines() if line.startswith("| `silog` | `SILogLoss`"))
    for name in SILOG_PRESETS:
        assert f"`{name}`" in row and f'``"{name}"``' in dl.SILogLoss.__doc__


def test_the_default_is_larger_than_that_of_depth_anything():
    assert "\n## SILog\n\n**The presets differ: " in DOCS and "5.5 to 10 times" in DOCS
    pred, gt = maps()
    for p in (pred, 1.5 * gt):  # The extremes are an error of the mean alone, and none of it.
        assert 5.47 < dl.SILogLoss()(p, gt) / dl.SILogLoss(preset="depth-anything-v2")(p, gt) < 10.0


@backends
@pytest.mark.parametrize("row", table("preset | pred 0"), ids=lambda row: row["preset"])
def test_what_one_valid_pixel_does(row, backend):
    loss = build(row["preset"])
    for what, expected in row.items():
        if what == "preset":
            continue
        which, value = what.split()
        pred, gt = (x.to(DEVICES.get(backend, "cpu")) for x in maps(torch.float32, (1, 1, 9, 11)))
        left_out = torch.ones_like(gt)
        left_out[0, 0, 4, 5] = 0
        with dl.use_backend(backend):
            without = loss(pred, gt, left_out)
            (pred if which == "pred" else gt)[0, 0, 4, 5] = float(value.replace("−", "-"))
            pred.requires_grad_()
            total = loss(pred, gt)
            (grad,) = torch.autograd.grad(total, pred)
        others = grad[left_out != 0]
        if expected == "NaN":
            assert total.isnan() and others.isnan().all(), what
        elif expected == "invalid":
            assert torch.equal(total, without) and total.isfinite() and grad[0, 0, 4, 5] == 0, what
        else:
            assert expected.removesuffix("¹") == "finite" and total.isfinite() and grad.isfinite().all(), what
            assert total > without
            largest = grad[0, 0, 4, 5].abs() / others.abs().max()
            assert (largest > 100.0) == expected.endswith("¹"), what


@backends
@pytest.mark.parametrize("name", ["mmseg", "toolbox-sig"])
def test_these_presets_take_positive_gt_only(name, backend):
    pred, gt = (x.to(DEVICES.get(backend, "cpu")) for x in maps())
    hole = torch.rand(gt.shape, generator=torch.Generator().manual_seed(2)).to(gt.device) < 0.4
    with dl.use_backend(backend):
        expected = dl.SILogLoss(preset=name)(pred, gt, ~hole)
        for value in (0.0, -1.0, torch.nan, torch.inf):
            assert torch.equal(dl.SILogLoss(preset=name)(pred, gt.masked_fill(hole, value)), expected)
