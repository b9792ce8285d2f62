"""The ray caster against closed forms, and the `synthetic` data set."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from depthloss.training.data import EpochSampler, build_dataset, synthetic
from depthloss.training.data.synthetic import scan
from depthloss.training.rendering import scenes
from depthloss.training.rendering.canvas import KINDS, Camera, Scene
from depthloss.training.rendering.raycast import render, render_kinds
from depthloss.training.rendering.textures import TEXTURE_INDEX
from depthloss.training.seeds import sample_rng

COMMON = {"image_shape": (48, 80), "min_depth": 0.1, "max_depth": 100.0, "train": False}
X, Y, Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


def empty_scene(**options):
    scene = Scene(np.array([0.0, -1.0, 0.0]), 0.6, 0.3, (0.0, 1000.0), **options)
    scene.material(TEXTURE_INDEX["picture"], (0.1, 0.1, 0.1), (0.9, 0.6, 0.3))
    return scene


def camera(shape=(41, 61), position=(0.0, 0.0, 0.0), **angles):
    return Camera.aimed(shape, 60, position, **angles)


def rays(cam):
    """World direction of every pixel, with unit length along the optical axis; [H, W, 3]."""
    h, w = cam.shape
    y, x = np.mgrid[0:h, 0:w]
    d = np.stack([(x + 0.5 - w / 2) / cam.focal, (y + 0.5 - h / 2) / cam.focal, np.ones((h, w))], -1)
    return d @ cam.rotation.T


def build(**options):
    return build_dataset("synthetic", **{**COMMON, **options})


def test_wall_has_its_distance_along_the_optical_axis_everywhere():
    scene = empty_scene()
    scene.rect((0, 0, 5), X, Y, (50, 50), 0)
    _, depth = render(scene, camera())
    np.testing.assert_allclose(depth, 5.0, rtol=1e-6)
    turned = camera(yaw=20, pitch=-7, roll=3, position=(0.3, -0.2, 1.0))
    _, depth = render(scene, turned)
    np.testing.assert_allclose(depth, 4.0 / rays(turned)[..., 2], rtol=2e-6)


def test_ground_plane_and_open_sky():
    scene = empty_scene()
    scene.rect((0, 0, 0), X, Z, (1e4, 1e4), 0, ground=True)
    cam = camera(position=(0, -1.5, 0))
    rgb, depth = render(scene, cam)
    down = rays(cam)[..., 1]
    expected = np.where(down > 0, 1.5 / np.where(down > 0, down, 1), 0)
    expected[expected > 1000] = 0
    np.testing.assert_allclose(depth, expected, rtol=1e-5)
    assert (depth[:20] == 0).all() and (rgb[:20].max(-1) > 100).all()  # sky: a colour, no depth


def test_sphere_pole_and_box_against_closed_forms():
    cam = camera()
    d = rays(cam)
    scene = empty_scene()
    scene.sphere((0.5, -0.2, 4.0), 1.0, 0)
    _, depth = render(scene, cam)
    c = np.array([0.5, -0.2, 4.0])
    root = (d @ c) ** 2 - (d * d).sum(-1) * (c @ c - 1)
    expected = np.where(root > 0, (d @ c - np.sqrt(np.maximum(root, 0))) / (d * d).sum(-1), 0)
    np.testing.assert_allclose(depth, expected, rtol=1e-5)
    on_axis = empty_scene()
    on_axis.sphere((0, 0, 4), 1.0, 0)
    assert render(on_axis, cam)[1][20, 30] == pytest.approx(3.0, abs=1e-6)

    scene = empty_scene()
    scene.pole(0.4, 3.0, 0.25, -0.5, 0.75, 0)
    _, depth = render(scene, cam)
    flat, c = d[..., [0, 2]], np.array([0.4, 3.0])
    root = (flat @ c) ** 2 - (flat**2).sum(-1) * (c @ c - 0.25**2)
    t = (flat @ c - np.sqrt(np.maximum(root, 0))) / (flat**2).sum(-1)
    inside = (root > 0) & (t * d[..., 1] > -0.5) & (t * d[..., 1] < 0.75)
    np.testing.assert_allclose(depth, np.where(inside, t, 0), rtol=1e-5)

    scene = empty_scene()
    scene.box((0, 0, 6), (1.0, 0.5, 2.0), 0, 0)
    _, depth = render(scene, cam)
    assert depth[20, 30] == pytest.approx(4.0, rel=1e-6)
    front = (np.abs(4 * d[..., 0]) < 1) & (np.abs(4 * d[..., 1]) < 0.5)
    np.testing.assert_array_equal(depth > 0, front)  # from the front no other side shows
    turned = empty_scene()
    turned.box((0, 0, 6), (1.0, 0.5, 1.0), 45, 0)
    assert render(turned, cam)[1][20, 30] == pytest.approx(6 - np.sqrt(2), rel=1e-3)  # its edge


def test_nearer_surfaces_hide_further_ones_in_any_order():
    for order in (1, -1):
        scene = empty_scene()
        jobs = [
            lambda s: s.rect((0, 0, 5), X, Y, (50, 50), 0),
            lambda s: s.sphere((0, 0, 4), 0.5, 0),
            lambda s: s.box((1.5, 0, 8), (1, 1, 1), 0, 0),
        ]
        for add in jobs[::order]:
            add(scene)
        _, depth = render(scene, camera())
        assert depth[20, 30] == pytest.approx(3.5, abs=1e-5)
        assert depth.max() == pytest.approx(5.0, rel=1e-6)


def test_texture_stays_on_its_surface_when_the_camera_moves():
    scene = empty_scene()
    scene.rect((0, 0, 4), X, Y, (50, 50), 0)
    first = camera((64, 96))
    step = 4 / first.focal * 7  # the wall moves by seven pixels
    a, _ = render(scene, first)
    b, _ = render(scene, camera((64, 96), (step, 0, 0)))
    assert a.std() > 20
    equal = (a[:, 7:] == b[:, :-7]).all(-1)
    assert equal.mean() > 0.99  # a texel boundary may fall either way


def test_a_box_and_a_sphere_cast_their_shadow_on_the_ground():
    for add, expected in (
        (lambda s: s.box((0, -0.5, 6), (0.5, 0.5, 0.5), 0, 0), True),
        (lambda s: s.sphere((0, -0.5, 6), 0.5, 0), True),
        (lambda s: None, False),
    ):
        scene = empty_scene()
        scene.sun = np.array([-0.6, -0.8, 0.0])  # from the left: the shadow falls to the right
        scene.materials[0] = (TEXTURE_INDEX["plaster"], *(0.5,) * 6, 2.0, 2.0, 0.0, 0.0)
        scene.rect((0, 0, 50), X, Z, (50, 50), 0, ground=True)
        add(scene)
        cam = camera((121, 181), (0, -1.5, 0))
        rgb, depth = render(scene, cam)
        points = np.array(cam.position) + depth[..., None] * rays(cam)
        at = [np.argmin(np.linalg.norm(points - (x, 0, 6.0), axis=-1)) for x in (0.8, -0.8)]
        shade, sunlit = (rgb.reshape(-1, 3)[i].mean() for i in at)
        assert (shade < 0.75 * sunlit) == expected


def test_frames_depend_on_seed_and_index_only():
    data = build(gt="scanline", input_depth="scanline", seed=3)
    again = build(gt="scanline", input_depth="scanline", seed=3, length=7)
    for index in (5, 0):
        for key in ("rgb", "depth", "input_depth"):
            assert torch.equal(data[index][key], again[index][key])
    assert not torch.equal(build(seed=4)[0]["depth"], build(seed=3)[0]["depth"])
    assert torch.equal(build(seed=4, scene_seed=3)[0]["depth"], build(seed=3)[0]["depth"])
    assert not torch.equal(data[0]["depth"], data[2]["depth"])
    # The ground truth option changes neither the scene nor its depths.
    dense = build(seed=3)[5]
    assert torch.equal(dense["rgb"], data[5]["rgb"])
    hit = data[5]["depth"] > 0
    assert torch.equal(dense["depth"][hit], data[5]["depth"][hit])


def test_views_of_the_same_scenes(monkeypatch):
    seen = []
    monkeypatch.setattr(synthetic, "render_kinds", lambda *args: seen.append(args) or render_kinds(*args))
    views = {"scenes": 2, "scene_seed": 5, "length": 6}
    train, other = build(seed=1, **views), build(seed=2, **views)
    for kind, index in (("room", 0), ("street", 1)):
        frames = [train[index], train[index + 2], other[index]]
        assert [frame["name"] for frame in frames[:2]] == [f"{kind}-{i:06d}" for i in (index, index + 2)]
        (first, *others), cameras = zip(*seen, strict=True)
        assert all(
            (s.materials, s.rects, s.boxes) == (first.materials, first.rects, first.boxes) for s in others
        )
        assert len({tuple(camera.position) for camera in cameras}) == 3
        assert torch.equal(build(seed=1, **views)[index]["rgb"], frames[0]["rgb"])
        seen.clear()
    assert build(scenes=1, length=2).name(1) == "room-000001"
    with pytest.raises(ValueError, match="scenes must be >= 1, or None for a scene per frame, got 0"):
        build(scenes=0)


def test_the_camera_of_a_view_stays_within_reach():
    first = camera((8, 12), (1.0, -1.5, 2.0), yaw=90, pitch=10, roll=2)  # looks along x
    ahead, aside, turn, tilt = 0.5, 0.2, 20, 5
    for seed in range(20):
        view = first.moved((ahead, aside, turn, tilt), np.random.default_rng(seed))
        shift = view.position - first.position
        assert shift[1] == 0 and abs(shift[0]) <= ahead and abs(shift[2]) <= aside
        np.testing.assert_allclose(view.rotation @ view.rotation.T, np.eye(3), atol=1e-12)
        axis = view.rotation[:, 2]
        assert abs(np.degrees(np.arctan2(axis[0], axis[2])) - 90) <= turn
        assert abs(np.degrees(np.arcsin(axis[1])) - 10) <= tilt + 0.1  # the roll tilts it a little aside
    still = first.moved((0, 0, 0, 0), np.random.default_rng(0))
    np.testing.assert_allclose(still.rotation, first.rotation, atol=1e-15)


def test_a_cache_changes_no_frame(monkeypatch):
    plain = build(train=True, length=2, gt=0.5)
    cached = build(train=True, length=2, gt=0.5, cache=True)
    expected = [plain[epoch, index] for epoch in (0, 1) for index in (1, 0)]
    found = [cached[epoch, index] for epoch in (0, 1) for index in (1, 0)]
    for a, b in zip(expected, found, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("rgb", "depth"))
    monkeypatch.setattr(type(cached), "_render", None)  # no frame is rendered twice
    assert cached.check(progress=False) == []


def digest():
    data = build(train=True, input_depth="scanline", seed=9)
    out = hashlib.sha256()
    for sample in (data[2, 0], data[2, 1]):
        for key in ("rgb", "depth", "input_depth"):
            out.update(sample[key].numpy().tobytes())
    return out.hexdigest()


def test_frames_are_the_same_in_another_process():
    here = Path(__file__).resolve().parent
    code = (
        f"import sys; sys.path.append({str(here)!r}); import test_synthetic; print(test_synthetic.digest())"
    )
    command = [sys.executable, "-c", code]
    other = subprocess.run(command, capture_output=True, text=True, check=True, cwd=here.parents[1])
    assert other.stdout.strip() == digest()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_workers_give_the_same_batches():
    data = build(train=True, length=6, augmentation={"flip_prob": 0.5})

    def batches(workers):
        sampler = EpochSampler(data, True, 2)
        sampler.set_epoch(3)
        return list(DataLoader(data, batch_size=3, sampler=sampler, num_workers=workers))

    for a, b in zip(batches(0), batches(2), strict=True):
        assert a["name"] == b["name"]
        for key in ("rgb", "depth", "index"):
            assert torch.equal(a[key], b[key])


def test_rooms_and_streets_keep_to_their_ranges():
    for index in range(16):
        build_scene = scenes.street if index % 2 else scenes.room
        scene, cam = build_scene(sample_rng("scene", 0, index), (48, 80))
        low, high = scene.depth_range
        assert (low, high) == ((2.0, 80.0) if index % 2 else (0.5, 10.0))
        rgb, depth = render(scene, cam)
        assert rgb.std() > 10
        valid = depth[depth > 0]
        assert valid.min() >= low and valid.max() <= high
        if index % 2:
            assert valid.max() > 40 and 0.5 < valid.size / depth.size < 0.98
        else:
            assert valid.size == depth.size  # a closed room: every pixel has a surface in range
    data = build(length=4)
    assert [data.name(i) for i in range(4)] == [
        "room-000000",
        "street-000001",
        "room-000002",
        "street-000003",
    ]
    assert len(data) == 4 and len(build()) == 1000


def test_scan_keeps_exact_depths_on_level_lines():
    cam = camera((96, 160))
    dense = np.random.default_rng(0).uniform(1, 50, (96, 160)).astype(np.float32)
    sparse = scan(dense, cam, 16, np.random.default_rng(1), dropout=0.0)
    hit = sparse > 0
    np.testing.assert_array_equal(sparse[hit], dense[hit])
    # Level lines cross a middle column once each.
    assert 14 <= hit[:, 80].sum() <= 16
    assert hit[:48].sum() < hit[48:].sum()  # no higher than ten degrees above the centre
    lossy = scan(dense, cam, 16, np.random.default_rng(1), dropout=0.5)
    assert 0.4 < (lossy > 0).sum() / hit.sum() < 0.7
    assert (scan(np.zeros_like(dense), cam, 16, np.random.default_rng(1)) == 0).all()


def test_density_of_the_ground_truth():
    dense, sparse = build(), build(gt=0.25)
    for index in (0, 1):
        full, few = dense[index]["depth"], sparse[index]["depth"]
        assert torch.equal(few[few > 0], full[few > 0])
        assert (few > 0).sum() / (full > 0).sum() == pytest.approx(0.25, abs=0.03)
    assert "input_depth" not in dense[0]
    beams = [(build(input_depth="scanline", input_beams=n)[1]["input_depth"] > 0).sum() for n in (4, 16)]
    assert 0 < beams[0] < beams[1] < (dense[1]["depth"] > 0).sum()


def test_classes_are_the_kinds_of_primitives():
    scene = empty_scene()
    scene.rect((0, 0, 9), X, Y, (2, 50), 0)
    scene.box((-1, 0, 6), (0.5, 0.5, 0.5), 0, 0)
    scene.sphere((1.0, 0.0, 5.0), 0.5, 0)
    scene.pole(0.0, 4.0, 0.2, -9, 9, 0)
    cam = camera()
    rgb, depth, kinds = render_kinds(scene, cam)
    for image, other in zip((rgb, depth), render(scene, cam), strict=True):
        np.testing.assert_array_equal(image, other)
    np.testing.assert_array_equal(kinds >= 0, depth > 0)  # the sky is of no kind
    for kind, at in {"box": (20, 21), "sphere": (20, 40), "pole": (20, 30), "surface": (2, 25)}.items():
        assert KINDS[kinds[at]] == kind
    assert kinds[20, 0] == -1

    data = build()
    assert data.class_names == KINDS == ("surface", "box", "sphere", "pole")
    for index in (0, 1):
        sample, frame = data[index], data.frame(index)
        assert sample["classes"].shape == (4, 48, 80) and sample["classes"].dtype == torch.bool
        np.testing.assert_array_equal(sample["classes"].numpy(), frame.classes.transpose(2, 0, 1))
        # Every pixel is of one class, but the sky.
        assert (frame.classes.sum(-1) <= 1).all() and frame.classes[frame.depth > 0].any(-1).all()
        assert (frame.classes.mean((0, 1))[:2] > 0.1).all() and frame.classes.any((0, 1)).sum() >= 3
    training = build(train=True)
    assert training.class_names == () and "classes" not in training[0]
    assert torch.equal(build(train=True, augmentation={"jittering": ()})[1]["rgb"], data[1]["rgb"])
