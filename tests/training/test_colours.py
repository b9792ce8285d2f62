import numpy as np
import pytest
from matplotlib.colors import LogNorm, to_rgb

from depthloss.training.drawing import colours

# Machado et al. 2009: what full colour blindness of a kind makes of linear RGB.
VISION = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lab(rgb: np.ndarray, vision: str) -> np.ndarray:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ VISION[vision].T, 0, 1)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / [0.9505, 1, 1.089]
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@pytest.mark.parametrize("vision", VISION)
def test_colours_for_every_eye(vision):
    grey = lab(np.array(to_rgb(colours.INVALID_GREY)), vision)
    for maps in (colours.DEPTH_COLOURS, colours.ERROR_COLOURS):
        seen = lab(maps(np.linspace(0, 1, 256))[:, :3], vision)
        assert np.linalg.norm(seen - grey, axis=1).min() > 15, "no value looks like an invalid pixel"
    lightness = lab(colours.DEPTH_COLOURS(np.linspace(0, 1, 64))[:, :3], vision)[:, 0]
    assert (np.diff(lightness) < 0).all(), "farther is darker"
    error = lab(colours.ERROR_COLOURS(np.array([0.15, 0.85]))[:, :3], vision)
    assert np.linalg.norm(error[0] - error[1]) > 40, "too near and too far"


def test_the_scale_is_of_the_ground_truth():
    depth = np.zeros((10, 10))
    depth[0] = 2.0
    depth[1] = 4.0
    norm = colours.depth_norm(depth, np.full((10, 10), 50.0))
    assert (norm.vmin, norm.vmax) == (2, 4) and not isinstance(norm, LogNorm)
    np.testing.assert_allclose(colours.ticks(norm), [2, 2.5, 3, 3.5, 4])
    norm = colours.depth_norm(np.where(depth == 4, 32, depth), depth)
    assert (norm.vmin, norm.vmax) == (2, 32) and isinstance(norm, LogNorm)
    np.testing.assert_allclose(colours.ticks(norm), [2, 4, 8, 16, 32])


def test_a_scale_without_ground_truth():
    nothing, broken = np.zeros((4, 4)), np.full((4, 4), np.nan)
    assert colours.depth_norm(nothing, np.full((4, 4), 3.0)).vmin == 3
    norm = colours.depth_norm(nothing, broken)
    assert (norm.vmin, norm.vmax) == (1, 10)


def test_relative_error_is_signed():
    error = colours.relative_error(np.array([[1.0, 3.0, 5.0]]), np.array([[2.0, 2.0, 0.0]]))
    np.testing.assert_allclose(error, [[-0.5, 0.5, np.nan]])


@pytest.mark.parametrize("size, limit", [(0.0, 0.1), (0.09, 0.1), (0.15, 0.2), (0.3, 0.5), (7.0, 1.0)])
def test_the_error_scale_covers_nearly_all(size, limit):
    errors = [np.full(96, -size), np.full(4, 9.0), np.array([np.nan, np.inf])]
    assert colours.error_limit(errors) == limit
    assert colours.error_limit([]) == colours.error_limit([np.array([np.nan])]) == 0.1


def test_words_of_the_error_scale():
    assert [colours.percent(x) for x in (-0.1, 0.0, 0.025)] == ["−10 %", "0 %", "+2.5 %"]


def test_sparse_points_are_enlarged():
    values = np.zeros((5, 9))
    values[1, 1], values[3, 7] = 4.0, 6.0
    drawn = colours.depth_map(values)
    assert np.isfinite(drawn).sum() == 18
    assert (drawn[0:3, 0:3] == 4).all() and (drawn[2:5, 6:9] == 6).all()
    np.testing.assert_array_equal(colours.depth_map(np.ones((3, 3))), np.ones((3, 3)))


def test_no_point_is_lost_when_a_map_shrinks():
    values = np.zeros((5, 14))
    values[0, 0], values[4, 13], values[2, 7] = 1.0, 2.0, 3.0
    assert np.isnan(colours._shrink(np.where(values > 0, values, np.nan), 7)[0, 1])
    small = colours._shrink(np.where(values > 0, values, np.nan), 7)
    assert small.shape == (3, 7), "the last row is half a pixel"
    assert (small[0, 0], small[2, 6], small[1, 3]) == (1, 2, 3) and np.isfinite(small).sum() == 3


def test_a_dense_map_keeps_its_values_when_it_shrinks():
    values = np.arange(1.0, 37.0).reshape(6, 6)
    np.testing.assert_array_equal(colours._shrink(values, 2), [[8, 11], [26, 29]])
    assert colours._shrink(values, 6) is values


def test_what_is_no_depth_is_not_drawn():
    drawn = colours.depth_map(np.array([[1.0, np.nan, np.inf, 0.0, -1.0, 2.0, 3.0, 4.0, 5.0]]))
    np.testing.assert_array_equal(drawn, [[1, *[np.nan] * 4, 2, 3, 4, 5]])
