"""Each protocol against the NumPy form of its source, the golden numbers of one of them, and the edges."""

import copy
import dataclasses
import importlib
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from depthloss import arrays, metrics
from depthloss.metrics import DepthMetrics, Maps, image_metrics, measure
from depthloss.protocols import KINDS, Protocol, ProtocolMetrics, load_protocol, protocol_names
from depthloss.protocols.crops import crop_slices
from depthloss.protocols.sizes import resized, sampled

from . import protocol_forms as forms
from .golden_cases import load

ALL = {
    "completion", "depth-anything-v2", "depth-pro", "g2", "kitti-benchmark", "kitti-eigen", "marigold",
    "median", "midas", "moge", "nyu-eigen", "scale-only", "video-clip",
}  # fmt: skip


def scene(h=40, w=52, density=1.0, seed=0, holes=0.0):
    """Depth with slopes and steps, an imperfect prediction of it, and a mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:h, :w]
    gt = 3 + 2 * y / h + x / w
    for low, depth in ((0.2, 1.7), (0.5, 6.5), (0.35, 2.6)):
        gt[int(low * h) : int((low + 0.25) * h), int(low * w) : int((low + 0.3) * w)] = depth
    pred = gt * np.exp(0.12 * rng.standard_normal((h, w))) + 0.1
    gt = gt * (rng.random((h, w)) < density)
    return pred, gt, rng.random((h, w)) >= holes


SPARSE, DENSE, HOLES = {"density": 0.2, "seed": 1}, {}, {"density": 0.7, "holes": 0.2, "seed": 2}


def affine(disparity):
    """Disparity in a scale and shift of its own."""
    return 0.3 * disparity + 0.05


# Name, overrides, kind, the prediction made of depth, and its form.
CASES = [
    ("kitti-eigen", {}, "depth", None, lambda *m: forms.eigen_type(*m, shares=forms.GARG)),
    ("kitti-eigen", {"crop": "eigen"}, "depth", None, lambda *m: forms.eigen_type(*m, shares=forms.EIGEN)),
    (
        "kitti-eigen",
        {},
        "log-depth",
        np.log,
        lambda p, *m: forms.eigen_type(np.exp(p), *m, shares=forms.GARG),
    ),
    ("median", {}, "depth", lambda p: 0.1 * p, forms.median),
    ("median", {}, "inverse-depth", lambda p: 9 / p, lambda p, *m: forms.median(1 / p, *m)),
    ("kitti-benchmark", {}, "depth", None, forms.kitti_benchmark),
    ("marigold", {}, "depth", lambda p: 0.2 * p - 1, forms.marigold),
    ("marigold", {"max_depth": 5.0}, "depth", None, lambda *m: forms.marigold(*m, high=5.0)),
    ("marigold", {}, "disparity", lambda p: affine(1 / p), forms.marigold_disparity),
    ("midas", {}, "disparity", lambda p: affine(1 / p) - 0.08, forms.midas),
    ("midas", {"clip": [None, 4.0]}, "disparity", lambda p: 1 / p, lambda *m: forms.midas(*m, cap=4.0)),
    ("depth-anything-v2", {}, "depth", None, forms.depth_anything_v2),
    ("scale-only", {}, "depth", lambda p: 40 * p, forms.scale_only),
    ("moge", {"fit_size": [9, 12]}, "depth", affine, lambda *m: forms.moge(*m, (9, 12), "l1")),
    ("moge", {"alignment": "l1-scale"}, "depth", affine, lambda *m: forms.moge(*m, (64, 64), "l1-scale")),
    ("moge", {"metrics": ["abs_rel", "a1"]}, "disparity", lambda p: affine(1 / p), forms.moge_disparity),
    ("completion", {}, "depth", lambda p: np.where(p < 2, 0, p), forms.completion),
]


@pytest.mark.parametrize("data", [SPARSE, DENSE, HOLES], ids=["sparse", "dense", "holes"])
@pytest.mark.parametrize(
    ("name", "changes", "kind", "of", "form"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES]
)
def test_against_the_form_of_its_source(name, changes, kind, of, form, data):
    pred, gt, mask = scene(**data)
    pred = pred if of is None else of(pred)
    protocol = load_protocol(name, **changes)
    frame = protocol.prepare(pred, gt, mask, kind)
    found, expected = protocol.score(frame), form(pred, gt, mask)
    # A boundary needs neighbours: only dense ground truth has them.
    boundary = {n for n in protocol.metrics if "f1" in n} if not metrics.is_dense(frame.valid) else set()
    assert set(found) == set(protocol.metrics) - boundary
    for metric, value in found.items():
        assert value == pytest.approx(expected[metric], rel=1e-6, abs=1e-9), metric


def test_nyu():
    pred, gt, mask = scene(480, 640, density=0.9)
    found = load_protocol("nyu-eigen").score(load_protocol("nyu-eigen").prepare(pred, gt, mask))
    expected = forms.eigen_type(pred, gt, mask, high=10.0, box=(45, 471, 41, 601))
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-6)
    with pytest.raises(
        ValueError, match="crop nyu is rows 45 to 471 and columns 41 to 601 of 480 x 640; got 40 x 52"
    ):
        load_protocol("nyu-eigen").prepare(*scene())


def test_depth_pro():
    pred, gt, mask = scene()
    protocol = load_protocol("depth-pro")
    found = protocol.score(protocol.prepare(pred, gt))
    assert found["depth_pro_f1"] == pytest.approx(forms.depth_pro_f1(pred, gt), rel=1e-9)
    assert 0.01 < found["depth_pro_f1"] < 0.9
    perfect = protocol.score(protocol.prepare(2 * gt, gt))["depth_pro_f1"]
    assert perfect == pytest.approx(forms.depth_pro_f1(gt, gt)) == pytest.approx(1)
    flat = np.full_like(gt, 2.0)
    assert protocol.score(protocol.prepare(pred, flat))["depth_pro_f1"] == 0


def test_g2():
    pred, gt, mask = scene(density=0.5)
    step = 20 / 65535
    pred, gt = np.maximum(np.round(pred / step), 1) * step, np.round(gt / step) * step
    protocol = load_protocol("g2")
    found, expected = protocol.score(protocol.prepare(pred, gt, mask)), forms.g2(pred, gt, mask)
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_clip():
    maps = [scene(14, 18, seed=seed, density=0.8) for seed in range(3)]
    pred, gt, mask = (np.stack(x) for x in zip(*maps, strict=True))
    gt[1] = 0  # a frame without ground truth is no part of the means
    k = np.array([[15.0, 0, 8.5], [0, 15, 6.5], [0, 0, 1]])
    poses = np.stack([np.eye(4)] * 3)
    poses[1, :3, 3], poses[2, :3, 3] = (0.1, 0, 0.05), (0.25, -0.1, 0)
    disparity = affine(1 / pred)
    protocol = load_protocol("video-clip")
    frame = protocol.prepare(disparity, gt, mask)
    extras = {"intrinsics": torch.from_numpy(k), "poses": torch.from_numpy(poses)}
    expected = forms.video_clip(disparity, gt, mask, k, poses)
    assert protocol.score(frame, **extras) == pytest.approx(expected, rel=1e-6)
    assert [one.reason for one in frame.frames()] == ["", "no valid pixel", ""]
    assert set(protocol.score(frame)) == {"abs_rel", "rmse", "a1"}  # no poses, no tae


def test_marigold_golden():
    for case in load("evaluation/marigold_lsq_eval").values():
        protocol = load_protocol(
            "marigold", min_depth=None, max_depth=None,
            clip=[case.number("param_min_depth"), case.number("param_max_depth")],
        )  # fmt: skip
        kind = "disparity" if case.flag("param_disparity") else "depth"
        for i, maps in enumerate(zip(case["pred"], case["gt"], case["mask"], strict=True)):
            frame = protocol.prepare(*(x[0] for x in maps), kind)
            found = protocol.score(frame) | frame.alignment
            for name, field in {
                "abs_rel": "abs_rel",
                "a1": "delta1",
                "rmse": "rmse",
                "scale": "scale",
                "shift": "shift",
            }.items():
                assert found[name] == pytest.approx(case[f"comp_{field}"][i], rel=1e-9), (case.name, name)


# ---- what a protocol says of itself


def test_every_protocol_is_named_and_printed():
    assert set(protocol_names()) == ALL
    for name in protocol_names():
        protocol = load_protocol(name)
        assert protocol.name == name and protocol.source and protocol.metrics
        assert protocol.text().startswith(f"{name}; ")
        assert protocol.to_dict() == {**dataclasses.asdict(protocol), "text": protocol.text()}


def test_a_protocol_printed_is_the_same_protocol(tmp_path):
    for name in protocol_names():
        (tmp_path / "own.yaml").write_text(load_protocol(name).to_yaml(), encoding="utf-8")
        assert load_protocol(tmp_path / "own.yaml") == load_protocol(name)


def test_a_changed_key_shows():
    assert load_protocol("midas", clip=[None, 80.0], min_pixels=3).text() == (
        "midas with min_pixels, clip changed; 0 m < gt; crop none; each image: scale and shift by "
        "least squares in inverse depth, at least 1/80 m; clipped to none, 80 m; resize bilinear"
    )
    assert load_protocol("midas", alignment="disparity-lstsq", clip=(None, 10)).changed == ()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"maxdepth": 3}, r"midas.yaml: a protocol has no key 'maxdepth': did you mean 'max_depth'\?"),
        ({"alignment": "mean"}, "alignment must be one of 'none', 'median', .*; got 'mean'"),
        ({"crop": [1, 2]}, r"crop must be one of none, .* or \[top, bottom, left, right\]; got \[1, 2\]"),
        ({"metrics": ["abs_rel", "a4"]}, "there is no metric 'a4'; there are abs_rel, .*"),
        ({"min_depth": 5, "max_depth": 2}, re.escape("max_depth must lie in [5, inf]; got 2")),
        ({"clip": "none"}, "disparity_floor clip needs the upper bound of clip"),
    ],
)  # fmt: skip
def test_errors_of_keys(changes, error):
    with pytest.raises(ValueError, match=f"^{error}$"):
        load_protocol("midas", **changes)


def test_no_such_protocol():
    with pytest.raises(ValueError, match="there is no protocol 'midass'; there are completion, .*YAML file"):
        load_protocol("midass")


def test_a_disparity_needs_an_alignment_that_it_allows():
    for name in ("kitti-eigen", "depth-pro", "completion"):
        with pytest.raises(
            ValueError, match=f"{name} has alignment none, which a disparity .*take kind inverse-depth"
        ):
            load_protocol(name).prepare(*scene(), kind="disparity")
    with pytest.raises(ValueError, match="kind must be one of 'depth', .*; got 'metric'"):
        load_protocol("marigold").prepare(*scene(), kind="metric")
    with pytest.raises(
        ValueError, match=re.escape("marigold compares maps [H, W] of one size; got {'pred': (1, 2, 2)")
    ):
        load_protocol("marigold").prepare(np.ones((1, 2, 2)), np.ones((2, 2)))


# ---- edges


@pytest.mark.parametrize("name", sorted(ALL - {"nyu-eigen"}))
def test_edges_of_every_protocol(name):
    protocol = load_protocol(name)
    pred, gt, _ = scene()
    # The kind that every protocol takes.
    clip = (lambda x: x[None].repeat(2, 0)) if protocol.per_clip else (lambda x: x)

    def run(pred, gt, mask=None):
        frame = protocol.prepare(clip(pred), clip(gt), None if mask is None else clip(mask), "inverse-depth")
        return frame, protocol.score(frame)

    frame, values = run(1 / pred, gt, np.zeros_like(gt, bool))
    assert frame.reason == "no valid pixel" and frame.counts["valid"] == 0
    assert all(math.isnan(value) for value in values.values()) and set(values) == set(protocol.metrics)
    hurt = 1 / pred
    hurt[20:25, 30:36] = np.nan
    hurt[22, 33] = np.inf
    frame, values = run(hurt, gt)
    assert frame.counts["nonfinite"] == 30 * (2 if protocol.per_clip else 1)
    assert math.isnan(values["abs_rel"]) if "abs_rel" in values else values["a1"] < 1
    whole, _ = run(1 / pred, gt)
    assert torch.equal(frame.valid, whole.valid)
    # A constant prediction: finite numbers, whatever the alignment.
    frame, values = run(np.full_like(pred, 0.2), gt)
    assert frame.depth.isfinite().all() and all(map(math.isfinite, values.values()))
    # Zeros in inverse depth are far away, not lost.
    zeros = 1 / pred
    zeros[20] = 0
    frame, _ = run(zeros, gt)
    assert frame.depth.isfinite().all() and (frame.depth[..., 20, :] > 0).all()


@pytest.mark.parametrize("shape", [(1, 4), (7, 1), (5, 4)])
@pytest.mark.parametrize("name", sorted(ALL - {"nyu-eigen"}))
def test_maps_of_a_few_pixels(name, shape):
    protocol = load_protocol(name, crop="none", min_pixels=1)
    gt = torch.linspace(1, 3, math.prod(shape)).view(shape)
    gt = gt.repeat(2, 1, 1) if protocol.per_clip else gt
    values = protocol.score(protocol.prepare(1 / gt, gt, kind="inverse-depth"))
    assert values and all(map(math.isfinite, values.values()))


def test_a_prediction_in_the_wrong_direction():
    pred, gt, _ = scene()
    protocol = load_protocol("marigold")
    frame = protocol.prepare(-pred, gt)
    assert frame.alignment["scale"] < 0
    assert protocol.score(frame) == pytest.approx(protocol.score(protocol.prepare(pred, gt)))


def test_counts():
    gt = np.full((4, 5), 5.0)
    pred = np.linspace(-4, 15, 20).reshape(4, 5)
    frame = load_protocol("marigold", alignment="none").prepare(pred, gt)
    assert frame.counts == {"valid": 20, "nonfinite": 0, "nonpositive": 0, "clipped": 10}
    frame = load_protocol("moge", alignment="none").prepare(pred, gt)
    assert frame.counts == {"valid": 20, "nonfinite": 0, "nonpositive": 5, "clipped": 0}
    few = gt * (np.arange(20).reshape(4, 5) < 9)
    frame = load_protocol("depth-anything-v2").prepare(gt, few)
    assert frame.reason == "fewer than 10 valid pixels: 9"
    assert math.isnan(load_protocol("depth-anything-v2").score(frame)["a1"])


def test_bounds_that_count_themselves():
    gt = np.array([[1e-3, 20.0, 3.0]])
    for inclusive, valid in ((True, [[True, True, True]]), (False, [[False, False, True]])):
        frame = load_protocol("depth-anything-v2", inclusive=inclusive).prepare(gt, gt)
        assert frame.valid.tolist() == valid


# ---- sizes


@pytest.mark.parametrize("shape", [(17, 23), (9, 31), (5, 4)])
@pytest.mark.parametrize("rule", ["bilinear", "bilinear-corners"])
def test_bilinear(rule, shape):
    pred = np.random.default_rng(0).random((8, 11))
    found = resized(torch.from_numpy(pred)[None], shape, rule)[0].numpy()
    assert found == pytest.approx(forms.bilinear(pred, *shape, rule == "bilinear-corners"), abs=1e-12)
    pred[3, 4] = np.nan
    pred[6, 2] = np.inf
    found = resized(torch.from_numpy(pred)[None], shape, rule)[0].numpy()
    marked = forms.bilinear(~np.isfinite(pred), *shape, rule == "bilinear-corners")
    assert np.array_equal(np.isnan(found), marked > 0)


def test_nearest_and_none():
    pred = torch.arange(6.0).view(1, 2, 3)
    assert resized(pred, (4, 3), "nearest")[0].tolist() == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
    with pytest.raises(
        ValueError, match="the prediction is 2 x 3, its ground truth 4 x 3: the protocol resizes nothing"
    ):
        resized(pred, (4, 3), "none")


def test_a_resize_in_disparity():
    pred, gt, mask = scene()
    small = pred[::2, ::2]
    protocol = load_protocol("median", crop="none")
    expected = 1 / forms.bilinear(1 / small, *gt.shape, False)
    frame = protocol.prepare(small, gt, mask)
    assert frame.depth.numpy() / frame.alignment["scale"] == pytest.approx(expected)


@pytest.mark.parametrize("size", [(4, 5), (9, 12), (64, 64)])
def test_the_sample(size):
    valid = np.random.default_rng(1).random((37, 45)) < 0.3
    assert np.array_equal(sampled(torch.from_numpy(valid), size).numpy(), forms.cells(valid, *size))


def test_kinds_are_one_prediction():
    pred, gt, mask = scene()
    protocol = Protocol("own", "none", ["abs_rel", "a1"], alignment="median")
    made = {"depth": pred, "disparity": 1 / pred, "inverse-depth": 1 / pred, "log-depth": np.log(pred)}
    found = [protocol.score(protocol.prepare(made[kind], gt, mask, kind)) for kind in KINDS]
    assert all(one == pytest.approx(found[0]) for one in found)


def test_every_metric_has_a_row():
    for name in metrics.names():
        row = metrics.metric(name)
        assert row.text and row.arrow in ("↑", "↓"), name
    _, gt, mask = (torch.from_numpy(x) for x in scene())
    values = measure(metrics.names(), Maps(gt, gt, mask, max_depth=20.0))
    best = {name: metrics.metric(name).more for name in values}
    assert {name for name, value in values.items() if value != pytest.approx(float(best[name]))} == {"d_auc"}


def test_the_documentation_has_every_row():
    text = (Path(__file__).parents[1] / "docs/evaluation.md").read_text(encoding="utf-8")
    protocols = text.partition("## Protocols")[2]
    assert set(re.findall(r"^\| `([\w-]+)` \|", protocols, re.M)) == ALL
    for name in metrics.names():
        row = metrics.metric(name)
        unit = f" ({row.unit})" if row.unit not in ("", "share") else ""
        meaning = row.text.replace("|", "\\|")
        assert f"| `{name}` {row.arrow} | {meaning}{unit} |" in text


# ---- classes of torchmetrics


def test_the_means_of_a_batch():
    maps = [scene(seed=seed, density=0.7) for seed in range(3)]
    pred, gt, mask = (torch.from_numpy(np.stack(x)) for x in zip(*maps, strict=True))
    gt[1] = 0
    protocol = load_protocol("marigold")
    expected = [protocol.score(protocol.prepare(pred[i], gt[i], mask[i])) for i in (0, 2)]
    measured = ProtocolMetrics("marigold")
    measured.update(pred[:1, None], gt[:1, None], mask[:1, None])
    measured.update(pred[1:], gt[1:], mask[1:])
    found = measured.compute()
    assert (int(found["empty"]), int(found["nonfinite"])) == (1, 0)
    for name in protocol.metrics:
        assert float(found[name]) == pytest.approx(np.mean([row[name] for row in expected]), rel=1e-14)
    pred[0, 3, 3] = torch.nan
    measured.update(pred[:1], gt[:1].clamp(min=1))
    assert int(measured.compute()["nonfinite"]) == 1 and torch.isnan(measured.compute()["rmse"])


def test_arrays_as_numpy_has_them():
    pred, gt, mask = scene(**HOLES)
    protocol = load_protocol("marigold")

    def scored(*maps):
        return protocol.score(protocol.prepare(*maps))

    expected = scored(pred, gt, mask)
    assert scored(np.ma.masked_array(pred), np.ma.masked_array(gt, ~mask)) == expected
    assert scored(pred, gt, np.ma.masked_array(np.ones(gt.shape, np.uint8), ~mask)) == expected
    assert scored(pred.astype(">f8"), gt, mask.astype(np.uint8) * 255) == expected
    fixed = np.broadcast_to(pred, pred.shape)  # Torch warns of arrays that it must not write.
    assert not fixed.flags.writeable and arrays.as_map(fixed).flags.writeable
    assert scored(fixed, gt, mask) == expected
    flipped = scored(pred[:, ::-1], gt[:, ::-1], mask[:, ::-1])
    assert flipped == pytest.approx(expected, rel=1e-12)
    assert scored(pred[::2, ::-2], gt, mask) == scored(pred[::2, ::-2].copy(), gt, mask)
    hole = np.zeros(pred.shape, bool)
    hole[3, 3] = mask[3, 3] = True
    gt[3, 3] = 2.0
    assert protocol.prepare(np.ma.masked_array(pred, hole), gt, mask).counts["nonfinite"] == 1
    for metric in (ProtocolMetrics("marigold"), DepthMetrics(1e-3, 10.0)):
        of_tensors = copy.deepcopy(metric)
        metric.update(pred[None], gt[None], mask[None].astype(np.float32))
        of_tensors.update(*(torch.from_numpy(x)[None, None] for x in (pred, gt, mask)))
        assert all(torch.equal(x, of_tensors.compute()[name]) for name, x in metric.compute().items())
        with pytest.raises(ValueError, match=r"must (all )?be \[B, (1, )?H, W\] or \[B, .*; got"):
            metric.update(pred, gt)


def test_what_is_measured():
    pred, gt, valid = scene(density=0.7)
    names = ("abs_rel", "rmse")
    expected = measure(names, Maps(*map(torch.from_numpy, (pred, gt, valid))))
    assert measure(names, Maps(pred, gt, valid)) == expected
    assert measure(names, Maps(pred, gt, valid.astype(np.float32))) == expected
    assert measure(names, Maps(pred, np.ma.masked_array(gt), valid.astype(np.uint8) * 255)) == expected
    edges = Maps(pred, gt, valid, edges=np.ma.masked_array(np.ones(gt.shape, bool), ~valid)).edges
    assert torch.equal(edges.bool(), torch.from_numpy(valid))
    with pytest.raises(ValueError, match=r"pred, gt and valid must be \[H, W\] of one size; got .*\(1, "):
        Maps(pred[None], gt[None], valid[None])
    with pytest.raises(TypeError, match=r"which must be names of metrics, as \['abs_rel'\]; got one name"):
        measure("abs_rel", Maps(pred, gt, valid))
    p, g = torch.from_numpy(pred), torch.from_numpy(gt) + 1
    with pytest.raises(ValueError, match=r"p and g must both be \[N\], the valid pixels; got \[1\] and \["):
        image_metrics(p[0, :1], g[0])
    assert torch.equal(image_metrics(p[0].float(), g[0]), image_metrics(p[0].float().numpy(), g[0].double()))


def test_the_means_of_clips():
    maps = [scene(14, 18, seed=seed) for seed in range(4)]
    pred, gt, _ = (torch.from_numpy(np.stack(x)).view(2, 2, 14, 18) for x in zip(*maps, strict=True))
    protocol = load_protocol("video-clip")
    measured = ProtocolMetrics(protocol, kind="depth")
    extras = {"intrinsics": torch.eye(3).repeat(2, 1, 1), "poses": torch.eye(4).repeat(2, 2, 1, 1)}
    measured.update(pred, gt, **extras)
    expected = [
        protocol.score(protocol.prepare(pred[i], gt[i], kind="depth"), **{k: v[i] for k, v in extras.items()})
        for i in range(2)
    ]
    assert float(measured.compute()["tae"]) == pytest.approx(np.mean([row["tae"] for row in expected]))
    with pytest.raises(ValueError, match="all of a batch must be equally many; got .*'gt': .1, 2, 14, 18"):
        measured.update(pred, gt[:1])


@pytest.mark.parametrize("module, name", [("metrics", "DepthMetrics"), ("protocols", "ProtocolMetrics")])
def test_without_torchmetrics(monkeypatch, module, name):
    package = importlib.import_module(f"depthloss.{module}")
    monkeypatch.delitem(sys.modules, f"depthloss.{module}.means", raising=False)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    error = f"depthloss.{module}.{name} needs torchmetrics: pip install 'depthloss[train]'"
    with pytest.raises(ImportError, match=f"^{re.escape(error)}$"):
        getattr(package, name)
    with pytest.raises(AttributeError, match="has no attribute 'Depth'"):
        package.Depth  # noqa: B018


@pytest.mark.parametrize("dtype", [torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_asked_of_every_pixel_is_as_torch_has_it(dtype):
    x = torch.tensor([[0.0, 1.0, -2.0], [torch.nan, torch.inf, 3.0]]).to(dtype)
    mask = torch.tensor([[True, False, True], [True, True, False]])
    for given in (x, x.t(), x.clone().requires_grad_(dtype.is_floating_point)):
        m = mask if given.shape == mask.shape else mask.t()
        assert torch.equal(arrays.finite(given), given.isfinite())
        assert torch.equal(arrays.chosen(given, m).nan_to_num(), given[m].nan_to_num())
        assert torch.equal(arrays.between(given, 0.0, 3.0), (given > 0) & (given < 3))
        assert torch.equal(arrays.between(given, 0.0, 3.0, True), (given >= 0) & (given <= 3))
    assert arrays.count(mask) == 4


@pytest.mark.parametrize("of", [lambda x: x, lambda x: x.numpy()])
def test_sums_over_segments(of):
    x = torch.arange(1.0, 7.0, dtype=torch.float64)
    parts = arrays.Segments([2, 0, 3, 1])
    assert parts.sum(of(x)).tolist() == [3, 0, 12, 6]
    assert parts.sum(of(x > 1.5)).tolist() == [1, 0, 3, 1]
    assert parts.max(x).tolist() == [2, 0, 5, 6]
    assert parts.spread(torch.tensor([1.0, 2, 3, 4])).tolist() == [1, 1, 3, 3, 3, 4]
    assert arrays.Segments([0, 0]).sum(of(x[:0])).tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["depth", "inverse-depth"])
@pytest.mark.parametrize("name", sorted(ALL - {"video-clip", "kitti-benchmark"}))
def test_many_images_at_once_have_the_same_bits(name, kind):
    rng = np.random.default_rng(3)
    protocol = load_protocol(name, **({"crop": "none"} if name == "nyu-eigen" else {}))
    maps = []
    for shape in ((24, 40), (5, 7), (170, 131), (8, 8), (1, 3)):
        gt = rng.uniform(0.5, 9, shape).astype(np.float32)
        gt[rng.random(shape) < 0.3] = 0
        pred = (gt * rng.normal(1, 0.1, shape) + 0.2 * (gt == 0)).astype(np.float32)
        maps.append((pred if kind == "depth" else 1 / pred, gt, rng.random(shape) < 0.9))
    maps[1][0][2, 3:5] = np.nan
    maps[3][1][:] = 0  # no valid pixel
    frames = protocol.convert([protocol.match(*one, kind) for one in maps], kind)
    alone = [protocol.prepare(*one, kind) for one in maps]
    for one, other in zip(frames, alone, strict=True):
        assert (one.counts, one.reason, one.alignment) == (other.counts, other.reason, other.alignment)
        np.testing.assert_array_equal(one.p, other.p)
        np.testing.assert_array_equal(one.depth[one.valid], one.p)
    scored = [frame for frame in frames if not frame.reason]
    assert len(scored) >= 2
    for found, frame in zip(protocol.score_all(scored), scored, strict=True):
        expected = protocol.score(frame)
        assert found.keys() == expected.keys()
        np.testing.assert_array_equal(list(found.values()), list(expected.values()))


@pytest.mark.parametrize(
    ("crop", "size", "rows", "columns"),
    [
        ("none", (7, 9), (0, 7), (0, 9)),
        ("nyu", (480, 640), (45, 471), (41, 601)),
        ("kitti-benchmark", (375, 1242), (23, 375), (13, 1229)),  # the bottom, and the middle
        ("garg", (375, 1242), (153, 371), (44, 1197)),
        ([5, -2, 1, 8], (7, 9), (5, 5), (1, 8)),
    ],
)
def test_a_crop_by_its_rows_and_columns(crop, size, rows, columns):
    found = crop_slices(crop, *size)
    assert tuple(x.indices(n)[:2] for x, n in zip(found, size, strict=True)) == (rows, columns)
