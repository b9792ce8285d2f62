"""The errors of iBims-1: edges against scikit-image's, distances and planes against NumPy."""

import math

import numpy as np
import pytest
import torch

from depthloss.metrics import Maps, depth_boundary_errors, measure, planarity_errors
from depthloss.metrics.ibims import canny, distances, normalised

# Of `scene`, by scikit-image 0.26: feature.canny(sigma=sqrt(2), low_threshold=0.15, high_threshold=0.3).
EDGES = (
    "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000e00000000"
    "0039ff000000002001800000002000800000004000800000004000800000004000800000004000800000004000800000"
    "00400080000000400083e0000040008e1ff0002000880010002001100010003007100010000ff8100010000000080010"
    "000000080010000000080010000000080010000000080010000000080010000000080010000000080010000000080010"
    "0000000800100000000ffff0000000000000000000000000000000000000000000000000000000000000000000000000"
)


def scene(h=40, w=48):
    y, x = np.mgrid[:h, :w]
    depth = 2 + y / h + 0.5 * np.sin(x / 5.0) * np.cos(y / 7.0)
    depth[8:22, 10:24], depth[18:34, 28:44] = 1.2, 5.0
    return depth.astype(np.float32)


def expected_edges():
    return np.unpackbits(np.frombuffer(bytes.fromhex(EDGES), np.uint8)).reshape(40, 48).astype(bool)


def test_edges_are_those_of_scikit_image():
    found = canny(normalised(torch.from_numpy(scene()))).numpy()
    assert np.array_equal(found, expected_edges())


def brute_distances(edges):
    y, x = np.mgrid[: edges.shape[0], : edges.shape[1]]
    places = np.argwhere(edges)
    return np.sqrt(((np.stack([y, x], -1)[..., None, :] - places) ** 2).sum(-1)).min(-1)


def test_distances():
    edges = np.random.default_rng(0).random((30, 33)) < 0.004
    assert distances(torch.from_numpy(edges)).numpy() == pytest.approx(np.minimum(brute_distances(edges), 10))


def test_boundary_errors_against_numpy():
    true = np.zeros((40, 48), bool)
    true[10:20, 12] = true[12, 5:20] = True
    found = expected_edges()
    to_true, to_found = brute_distances(true), brute_distances(found)
    near = found & (to_true < 10)
    both = np.minimum(to_true, 10)[found].sum() + np.minimum(to_found, 10)[true].sum()
    errors = depth_boundary_errors(torch.from_numpy(scene()), torch.from_numpy(true))
    assert errors == pytest.approx((to_true[near].mean(), both / (found.sum() + true.sum())))
    assert 0 < errors.accuracy < 10 and 0 < errors.completeness < 10


def test_boundary_errors_at_the_ends():
    depth, true = torch.from_numpy(scene()), torch.from_numpy(expected_edges())
    assert depth_boundary_errors(depth, true) == (0, 0)
    assert depth_boundary_errors(3 * depth + 1, true) == (0, 0)  # blind to scale and shift
    assert depth_boundary_errors(torch.full_like(depth, 2.0), true) == (10, 10)  # no edge at all
    assert depth_boundary_errors(torch.full_like(depth, torch.nan), true) == (10, 10)
    assert depth_boundary_errors(depth, torch.zeros_like(true)) is None


K = torch.tensor([[40.0, 0, 23.5], [0, 42, 19.5], [0, 0, 1]])


def plane(normal, offset):
    """Depth of a plane normal . (x right, y forward, z up) = offset."""
    y, x = np.mgrid[:40, :48]
    rays = np.stack([(x - 23.5) / 40, np.ones_like(x), -(y - 19.5) / 42], -1)
    return offset / (rays @ normal)


def test_planes():
    wall, floor = np.array([0.6, 0.8, 0.0]), np.array([0.0, 0.6, -0.8])
    planes = np.zeros((40, 48), int)
    planes[:18, 4:40], planes[24:, 8:44], planes[20, :3] = 1, 2, 3
    gt = np.where(planes == 1, plane(wall, 2.0), np.where(planes == 2, plane(floor, 1.5), 2.0))
    normals = torch.tensor(np.stack([wall, floor, wall]))
    maps = [torch.from_numpy(x) for x in (gt, planes)]
    assert planarity_errors(7 * maps[0], *maps, normals, K) == pytest.approx((0, 0), abs=1e-5)
    rng = np.random.default_rng(0)
    pred = torch.from_numpy(2 * gt * np.exp(0.02 * rng.standard_normal(gt.shape)))
    pred[30, 20] = torch.nan
    flat, turned = [], []
    for number, normal in ((1, wall), (2, floor)):  # the third is too small
        inside = planes == number
        p = pred.numpy() / (np.nanmedian(pred.numpy()[inside]) / np.median(gt[inside]))
        points = np.stack([plane_points(p)[..., i][inside & np.isfinite(p)] for i in range(3)], 1)
        centred = points - points.mean(0)
        best = np.linalg.svd(centred, full_matrices=False)[2][2]
        flat.append(100 * np.std(points @ best))
        turned.append(math.degrees(math.acos(abs(best @ normal))))
    found = planarity_errors(pred, *maps, normals, K)
    assert found == pytest.approx((np.mean(flat), np.mean(turned)), rel=1e-6)
    assert planarity_errors(pred, maps[0], maps[1] == 9, normals, K) is None


def plane_points(depth):
    y, x = np.mgrid[:40, :48]
    return np.stack([(x - 23.5) * depth / 40, depth, -(y - 19.5) * depth / 42], -1)


def test_only_with_the_data_that_they_take():
    names = ("dbe_acc", "dbe_com", "pe_flat", "pe_ori")
    depth = torch.from_numpy(scene()).double()
    maps = {"pred": depth, "gt": depth, "valid": depth > 0}
    assert measure(names, Maps(**maps)) == {}
    edges = torch.from_numpy(expected_edges())
    assert measure(names, Maps(**maps, edges=edges)) == {"dbe_acc": 0, "dbe_com": 0}
    planes, normals = torch.ones(40, 48, dtype=torch.long), torch.tensor([[0.0, 1, 0]])
    assert list(measure(names, Maps(**maps, planes=planes, normals=normals, intrinsics=K))) == [
        "pe_flat",
        "pe_ori",
    ]
