"""What the report is made of: pictures of a frame, charts, words and numbers."""

import math
import re

import numpy as np
import pytest

from depthloss.training.drawing.figures import Sample
from depthloss.training.evaluation.report import charts, panels
from depthloss.training.evaluation.wording import judge, number, signed


def test_panels_of_a_frame():
    depth = np.zeros((4, 6))
    depth[1:] = [2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    prediction = np.full((4, 6), 8.0)
    prediction[1, 0] = np.nan
    sample = Sample(np.ones((4, 6, 3)), depth, prediction, np.where(np.arange(6) == 2, depth, 0), "x")
    shown = {p.title: p for p in panels.draw_panels(sample, 0.5)}
    assert list(shown) == ["RGB", "sparse input", "prediction", "ground truth", "error (pred − gt) / gt"]
    grey = [153, 153, 153]
    gt, error = shown["ground truth"].image, shown["error (pred − gt) / gt"]
    assert gt.shape == (4, 6, 3) and gt.dtype == np.uint8
    assert (gt[0] == grey).all() and not (gt[1:] == grey).all(-1).any()
    np.testing.assert_array_equal(gt[1, 2], shown["prediction"].image[1, 2])
    np.testing.assert_array_equal(gt[1, 2], shown["sparse input"].image[0, 1])  # a point is drawn as 3 x 3
    assert (shown["prediction"].image[1, 0] == grey).all() and (shown["RGB"].image == 255).all()
    assert (error.image[1, 0] == grey).all() and (error.image[0] == grey).all()
    red, white, blue = (
        error.image[2, 0].astype(int),
        error.image[1, 2].astype(int),
        error.image[1, 5].astype(int),
    )
    assert red[0] > red[2] + 50 and white.min() > 240 and blue[2] > blue[0] + 50, "too far, right, too near"
    assert error.note == "1 px not finite" and not shown["prediction"].note


def test_frames_of_many_methods_and_without_rgb():
    depth = np.full((4, 6), 3.0)
    sample, other = Sample(None, depth, 1.1 * depth, name="x"), (0.9 * depth, {"a1": 0.5})
    assert [p.title for p in panels.draw_panels(sample, 0.1, {"B": other[0]}, "A")] == [
        *("ground truth", "A", "error of A", "B", "error of B"),
    ]
    text = panels.frame_html(sample, {"a1": 0.25}, 0.1, {"B": other}, name="A", lead="a1")
    assert "A a1 0.2500 · B a1 0.5000" in text
    # The place that the picture would have holds the scales, so that errors stand below predictions.
    assert [css for css in re.findall('class="(panel|key)"', text)] == ["panel", "key", *4 * ["panel"]]
    sample.rgb = np.ones((4, 6, 3))
    many = {name: other for name in "BCD"}
    assert '<div class="panels many">' in panels.frame_html(sample, {}, 0.1, many, name="A")
    assert '<div class="panels">' in panels.frame_html(sample, {}, 0.1, {"B": other}, name="A")
    sample.rgb = None
    assert '<div class="panels row">' in panels.frame_html(sample, {}, 0.1)


def test_large_frames_are_shrunk():
    wide = Sample(np.ones((50, 1200, 3)), np.full((50, 1200), 3.0), np.full((50, 1200), 3.0))
    assert {p.image.shape for p in panels.draw_panels(wide, 0.1)} == {(17, 400, 3)}


def test_the_histogram_counts_every_image():
    values = np.array([*np.linspace(0, 0.4, 99), 50.0])
    width, count = charts.bins(values)
    assert width == 0.02 and 20 <= count <= 21
    titles = re.findall(
        r"<title>\[([\d.]+), ([\d.∞]+)\): (\d+)</title>", charts.histogram([values, values[:2]])
    )
    assert sum(int(n) for *_, n in titles) == 100 and titles[-1][1] == "∞"
    np.testing.assert_allclose([float(low) for low, *_ in titles], width * np.arange(count))
    assert "Fair" in charts.histogram([values])
    assert "Excellent" not in charts.histogram([np.full(9, 50.0)]), "no room for it"


@pytest.mark.parametrize("values", [[0.0], [0.05, 0.1, 0.2, 0.3], [1e-9, 1e9], [0.3]])
def test_grades_hold_every_image(values):
    held = charts.grades(np.array(values))
    assert [g[1] for g in held] == ["[0, 0.05)", "[0.05, 0.1)", "[0.1, 0.2)", "[0.2, 0.3)", "≥ 0.3"]
    assert sum(g[2] for g in held) == len(values) and held[-1][2] == sum(v >= 0.3 for v in values)
    charts.histogram([np.array(values)])


@pytest.mark.parametrize(
    "value, text",
    [(0.0612, "0.06120"), (0.99996, "1.000"), (12.345, "12.35"), (1234.5, "1234"), (0.0, "0.000"),
     (-0.5, "−0.5000"), (1e-7, "1.000e−07"), (math.nan, "–"), (None, "–")],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def test_signs():
    assert [signed(x) for x in (0.0123, -0.0123, 0.0, math.nan)] == ["+0.0123", "−0.0123", "±0", "–"]
    assert judge("rmse", 1.0, 2.0) == judge("a1", 0.9, 0.8) == judge("rmse", 1.0, math.nan) == "better"
    assert judge("rmse", 2.0, 1.0) == judge("a1", math.nan, 0.8) == "worse"
    assert judge("rmse", 1.00001, 1.0) == "same" and judge("unheard_of", 1.0, 2.0) == ""
