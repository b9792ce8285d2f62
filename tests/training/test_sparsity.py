"""The sparsity simulator: what it draws and leaves alone, its way through data sets and configuration."""

import copy

import numpy as np
import pytest
import torch
import yaml

from depthloss.training.configuration.build import check_input
from depthloss.training.configuration.loaders import DepthData
from depthloss.training.configuration.parser import parse
from depthloss.training.data import (
    DATASETS,
    Augmentation,
    DepthDataset,
    build_dataset,
    write_depth_png,
    write_rgb,
)
from depthloss.training.data import sparsity as S
from depthloss.training.data.sparsity import Sparsity, sample_at, simulate
from depthloss.training.data.transforms import Frame
from depthloss.training.errors import ConfigError
from depthloss.training.seeds import sample_rng

from . import layouts

COMMON = {"image_shape": (24, 40), "min_depth": 0.1, "max_depth": 80.0}
QUIET = {"noise_prob": 0.0, "blur_prob": 0.0, "hole_prob": 0.0, "scanline_prob": 0.0, "blur_levels": (0, 0)}
DENSE, MANY, FEW, NONE = ({"shares": tuple(float(i == k) for i in range(4))} for k in range(4))


def truth(shape=(40, 50), valid=1.0, seed=0):
    """Ground truth of distinct values, read-only: writing to it is an error."""
    rng = np.random.default_rng(seed)
    depth = np.linspace(1, 60, shape[0] * shape[1], dtype=np.float32)
    depth = rng.permutation(depth).reshape(shape) * (rng.random(shape) < valid)
    depth = depth.astype(np.float32)
    depth.setflags(write=False)
    return depth


def draw(depth, index=0, mask=None, **fields):
    return simulate(depth, mask, Sparsity(**fields), sample_rng("test", index))


@pytest.mark.parametrize(("shape", "valid"), [((40, 50), 1.0), ((37, 61), 0.1), ((1, 1), 1.0), ((8, 8), 0.0)])
def test_without_noise_every_value_is_one_of_the_ground_truth_which_stays_as_it_is(shape, valid):
    depth = truth(shape, valid)
    for index in range(60):
        x = draw(depth, index, noise_prob=0.0)
        assert x.dtype == np.float32 and x.shape == shape and not np.shares_memory(x, depth)
        assert np.isin(x[x > 0], depth).all()
    if valid == 0:
        assert not x.any()


def test_densities_are_drawn_as_in_g2():
    depth = truth()
    found = np.array([np.count_nonzero(draw(depth, i, **QUIET)) for i in range(3000)]) / depth.size
    none, dense = found == 0, found == 1
    few, many = (found > 0) & (found < S.FEW), (found >= S.FEW) & (found < 1)
    shares = [np.mean(x) for x in (dense, many, few, none)]
    np.testing.assert_allclose(shares, (0.2, 0.2, 0.2, 0.4), atol=0.025)  # Three standard deviations.
    # Means and quartiles of U(0.1, 1) and U(0, 0.1).
    np.testing.assert_allclose(np.quantile(found[many], (0.25, 0.5, 0.75)), (0.325, 0.55, 0.775), atol=0.05)
    np.testing.assert_allclose(np.quantile(found[few], (0.25, 0.5, 0.75)), (0.025, 0.05, 0.075), atol=0.006)


def test_density_is_a_share_of_the_valid_pixels():
    for valid in (1.0, 0.3):
        depth = truth(valid=valid)
        found = [np.count_nonzero(draw(depth, i, **QUIET | MANY)) for i in range(300)]
        assert np.mean(found) / np.count_nonzero(depth) == pytest.approx(0.55, abs=0.05)


def test_dense_input_is_blurred_in_blocks():
    depth = truth((32, 48))
    x = draw(depth, **QUIET | DENSE | {"blur_levels": (3, 3)})
    blocks = x.reshape(4, 8, 6, 8)
    assert (blocks == blocks[:, :1, :, :1]).all() and len(np.unique(x)) == 24
    np.testing.assert_array_equal(
        blocks[:, 0, :, 0], depth[4::8, 4::8]
    )  # The pixel under the block's centre.
    sizes = {len(np.unique(draw(depth, i, **QUIET | DENSE | {"blur_levels": (1, 4)}))) for i in range(40)}
    assert sizes == {16 * 24, 8 * 12, 4 * 6, 2 * 3}
    # Sizes that are no multiple of the factor, and smaller than it.
    assert draw(truth((5, 37)), **QUIET | DENSE | {"blur_levels": (4, 4)}).shape == (5, 37)


def test_blur_probability_is_that_of_samples_that_are_not_dense():
    depth = truth((32, 48))
    blurred = [
        len(np.unique(x[x > 0])) < np.count_nonzero(x)
        for x in (
            draw(depth, i, **QUIET | MANY | {"blur_prob": 0.5, "blur_levels": (2, 2)}) for i in range(300)
        )
    ]
    assert np.mean(blurred) == pytest.approx(0.5, abs=0.09)


@pytest.mark.parametrize("beams", [1, 7, 16, 40])
def test_scan_lines_cross_every_column_as_often_as_there_are_beams(beams):
    for index in range(10):
        lines = S._scan_lines((40, 90), beams, sample_rng(index))
        assert set(lines.sum(0)) <= {beams - 1, beams, beams + 1}
        # Lines are connected: a pixel has a neighbour to its right, at most one row away.
        y, x = np.nonzero(lines[1:-1, :-1])
        assert (lines[y, x + 1] | lines[y + 1, x + 1] | lines[y + 2, x + 1]).all()


def test_points_on_scan_lines_keep_the_density():
    depth = truth((40, 50))
    line = QUIET | {"scanline_prob": 1.0, "beams": (4, 4)}
    for index in range(40):
        # The same draws but for the pattern; more lines than 4 where the density needs them.
        there, random = (
            draw(depth, index, **options | MANY) for options in (line, line | {"scanline_prob": 0.0})
        )
        assert np.count_nonzero(there) == pytest.approx(np.count_nonzero(random), abs=0.03 * depth.size)
        sparse = draw(depth, index, **line | FEW) > 0
        assert 0 <= sparse.sum() <= 5 * 50
        assert (sparse.sum(0) <= 5).all()


def test_noise_is_a_share_of_the_depth_within_the_range_of_the_frame():
    depth = np.full((200, 200), 10, np.float32)
    depth[0, 0], depth[0, 1] = 1, 50
    noisy = {"noise_prob": 1.0, "noise": (0.1, 0.1)}
    hit = []
    for index in range(20):
        x = draw(depth, index, **QUIET | DENSE | noisy)
        assert x.min() >= 1 and x.max() <= 50
        changed = x.ravel()[2:][x.ravel()[2:] != 10]
        hit.append(changed.size / x.size)
        if changed.size > 4000:
            assert np.std(changed / 10 - 1) == pytest.approx(0.1, rel=0.06)
            assert np.mean(changed / 10 - 1) == pytest.approx(0, abs=0.006)
    assert min(hit) < 0.25 and max(hit) > 0.75  # U(0, 1) of the points.
    sparse = truth(valid=0.2)
    x = draw(sparse, **QUIET | DENSE | noisy)
    np.testing.assert_array_equal(x > 0, sparse > 0)
    assert (x[x > 0] != sparse[x > 0]).any()


def test_holes_leave_the_rest_alone():
    depth = truth((60, 80))
    hollow = QUIET | DENSE | {"hole_prob": 1.0, "holes": (2, 2), "hole_size": (0.1, 0.2)}
    areas = []
    for index in range(60):
        x = draw(depth, index, **hollow)
        np.testing.assert_array_equal(x[x > 0], depth[x > 0])
        areas.append(np.mean(x == 0))
    # Two stars of mean radii 0.15 h and 0.15 w and mean squared dent 0.52, some of them cut by the border.
    assert 0.02 < np.mean(areas) < 2 * np.pi * 0.15**2 * 0.52
    assert np.mean(
        [draw(depth, i, **hollow | {"hole_prob": 0.8}).all() for i in range(200)]
    ) == pytest.approx(0.2, abs=0.09)
    assert draw(depth, **hollow | {"holes": (0, 0)}).all()


def test_what_is_masked_out_is_in_no_input():
    depth, mask = truth(), np.zeros((40, 50), bool)
    mask[:, :25] = True
    for index in range(40):
        x = draw(depth, index, mask, noise_prob=0.0)
        assert np.isin(x[x > 0], depth[mask]).all()
    assert not sample_at(depth, mask, 1.0, sample_rng(0))[~mask].any()


@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 1.0])
def test_evaluation_input_has_exactly_the_density(density):
    depth = truth(valid=0.7)
    x = sample_at(depth, None, density, sample_rng(0))
    assert np.count_nonzero(x) == round(density * np.count_nonzero(depth))
    np.testing.assert_array_equal(x[x > 0], depth[x > 0])
    assert not np.shares_memory(x, depth)


# ---- data sets


class Stub(DepthDataset):
    """Frames with an input of their own, and a mask."""

    def __len__(self):
        return 3

    def load(self, index):
        depth = truth((24, 40), seed=index)
        mask = np.ones(depth.shape, bool)
        mask[:4] = False
        return Frame(np.zeros((24, 40, 3), np.uint8), depth, np.full_like(depth, 79), mask)

    def name(self, index):
        return str(index)


def stub(train=True, seed=0, **sparsity):
    return Stub(**COMMON, train=train, seed=seed, augmentation={"jittering": (), "sparsity": sparsity})


def test_training_samples_depend_on_seed_epoch_and_index_only():
    data, again = stub(simulate=True), stub(simulate=True)
    first = [data[(0, i)]["input_depth"] for i in range(3)]
    keys = [(e, i) for e in range(20) for i in range(3)]
    for key in reversed(keys):
        assert torch.equal(again[key]["input_depth"], data[key]["input_depth"])
        assert torch.equal(data[key]["depth"], stub()[key]["depth"])
    assert len({data[key]["input_depth"].numpy().tobytes() for key in keys}) > 24
    other = stub(simulate=True, seed=1)
    assert any(not torch.equal(other[(0, i)]["input_depth"], first[i]) for i in range(3))


def test_the_simulator_replaces_the_stored_input_in_training_only(caplog):
    assert (stub()[0]["input_depth"] == 79).all()
    assert (stub(train=False, simulate=True)[0]["input_depth"] == 79).all()
    with caplog.at_level("INFO", "depthloss.data"):
        for _ in range(3):
            assert not (stub(simulate=True)[0]["input_depth"] == 79).any()
    assert caplog.text.count("the stored one is not used") <= 1
    assert stub(simulate=True, **NONE)[0]["input_depth"].shape == (1, 24, 40)
    assert not stub(simulate=True, **NONE)[0]["input_depth"].any()


def test_evaluation_input_is_the_same_in_every_epoch_and_for_every_seed():
    data = stub(train=False, eval_density=0.25)
    for index in range(3):
        x = data[(0, index)]["input_depth"]
        assert torch.count_nonzero(x) == 200  # a quarter of the 20 rows that are kept
        assert not x[:, :4].any()
        for other in (data[(7, index)], stub(train=False, seed=5, eval_density=0.25)[index]):
            assert torch.equal(other["input_depth"], x)
    assert not torch.equal(data[0]["input_depth"] > 0, data[1]["input_depth"] > 0)


def test_without_effect_is_said(caplog):
    with caplog.at_level("INFO", "depthloss.data"):
        stub(noise_prob=0.125, beams=(3, 4))
    assert "simulate is false, so beams, noise_prob has no effect" in caplog.text


def options_of(kind, root):
    if kind == "synthetic":
        return {"length": 4}
    if kind == "rgbd-folder":
        for i in range(3):
            write_rgb(root / "rgb" / f"{i}.png", np.zeros((48, 80, 3), np.uint8))
            write_depth_png(root / "depth" / f"{i}.png", truth((48, 80), seed=i))
        return {"path": root}
    if kind == "nyu-h5":
        pytest.importorskip("h5py")
    getattr(layouts, kind.removesuffix("-h5").replace("-", "_"))(root)
    return {"path": root} | {"kitti": {"split": "split.txt"}, "ncdb": {"split": "train"}}.get(kind, {})


@pytest.mark.parametrize("kind", list(DATASETS))
def test_every_data_set_takes_it(kind, tmp_path):
    given = {**COMMON, **options_of(kind, tmp_path)}
    made = {"simulate": True, "noise_prob": 0, "shares": (0.2, 0.4, 0.4, 0)}
    data = build_dataset(kind, train=True, augmentation={"sparsity": made}, **given)
    plain = build_dataset(kind, train=True, **given)
    points = 0
    for epoch in range(4):
        for index in range(len(data)):
            sample = data[(epoch, index)]
            x = sample["input_depth"]
            points += torch.count_nonzero(x)
            assert (
                x.shape == sample["depth"].shape and np.isin(x[x > 0].numpy(), sample["depth"].numpy()).all()
            )
            assert torch.equal(sample["depth"], plain[(epoch, index)]["depth"])
    assert points > 0
    data = build_dataset(kind, train=False, augmentation={"sparsity": {"eval_density": 0.5}}, **given)
    sample = data[1]
    kept = sample["depth"] * sample.get("mask", torch.ones(1))
    assert torch.count_nonzero(sample["input_depth"]) == round(0.5 * int(torch.count_nonzero(kept)))


# ---- configuration

TREE = {
    "datasets": {
        "image_shape": [32, 64],
        "train": {"dataset": "synthetic", "length": 2},
        "augmentation": {"sparsity": {"simulate": True, "beams": [8, 32]}},
    }
}
KEY = "datasets.augmentation.sparsity"


def tree(sparsity):
    return {"datasets": {"train": {"dataset": "synthetic"}, "augmentation": {"sparsity": sparsity}}}


def test_fields_are_set_in_the_file_and_on_the_command_line(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(TREE))
    cfg, text = parse(file, [f"--{KEY}.noise_prob", "0.25", f"--{KEY}.shares=[0,0,1,0]"])
    wanted = Sparsity(True, shares=(0, 0, 1, 0), beams=(8, 32), noise_prob=0.25)
    assert cfg.datasets.augmentation == Augmentation(sparsity=wanted)
    printed = yaml.safe_load(text)
    assert printed["datasets"]["augmentation"]["sparsity"]["beams"] == [8, 32]
    assert parse(printed, [])[0].datasets.augmentation.sparsity == wanted
    assert parse(tree(None), [])[0].datasets.augmentation.sparsity == Sparsity()
    assert parse(file, [f"--{KEY}.simulate=false"])[0].datasets.augmentation.sparsity.beams == (8, 32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"nois_prob": 1}, f"unknown key '{KEY}.nois_prob'; the nearest known one is '{KEY}.noise_prob'"),
        ({"noise_prob": 2}, "datasets.augmentation: sparsity.noise_prob must be in [0, 1], got 2.0"),
        ({"noise_prob": "x"}, f"{KEY}.noise_prob: a number is needed, got x"),
        (
            {"shares": [1, 1, 0, 0]},
            "sparsity.shares must be four numbers >= 0 (dense, many, few, none) whose sum",
        ),
        ({"beams": [0, 4]}, "sparsity.beams must be two integers, 1 <= low <= high, got (0, 4)"),
        ({"noise": [0.2, 0.1]}, "sparsity.noise must be two numbers, 0 <= low <= high, got (0.2, 0.1)"),
        (True, f"{KEY}: a mapping with the keys of the section is needed, got True"),
    ],
)
def test_wrong_fields_are_refused_by_name(wrong, message):
    with pytest.raises(ConfigError) as error:
        parse(tree(wrong), [])
    assert message in str(error.value)


def test_wrong_fields_are_refused_in_python_too():
    for wrong in ({"beams": (1.5, 2)}, {"noise": "ab"}, {"noise": (0, float("inf"))}, {"blur_prob": None}):
        with pytest.raises(ValueError, match=f"sparsity.{next(iter(wrong))} must be"):
            Sparsity(**wrong)
    with pytest.raises(TypeError, match=r"augmentation.sparsity has no option 'nois'; did you mean 'noise'"):
        Augmentation.from_dict({"sparsity": {"nois": 1}})
    with pytest.raises(TypeError, match=r"augmentation.sparsity must be a mapping, got 3"):
        Augmentation(sparsity=3)


def test_a_network_without_sparse_branch_refuses_simulated_input():
    for more, split, fix in (
        ({"simulate": True}, "train", "simulate: false"),
        ({"eval_density": 0.1}, "validation", "eval_density: null"),
    ):
        options = copy.deepcopy(TREE)
        options["datasets"]["augmentation"]["sparsity"] = more
        options["datasets"]["validation"] = {"dataset": "synthetic", "length": 2}
        cfg, _ = parse(options, ["--model.depth_net.sparse_branch=false"])
        sections = {name: getattr(cfg.datasets, name) for name in ("train", "validation", "test")}
        data = DepthData(sections, (32, 64), 0.1, 80.0, cfg.datasets.augmentation)
        with pytest.raises(
            ConfigError, match=f"datasets.{split}: {KEY} makes an input_depth .* set {KEY}.{fix}"
        ):
            check_input(cfg, data)
        cfg.model.depth_net.sparse_branch = True
        check_input(cfg, data)


def test_the_network_takes_a_batch_in_which_some_have_no_input(full_net):
    net = copy.deepcopy(full_net).train()
    depth = torch.zeros(2, 1, 32, 64)
    depth[1] = torch.from_numpy(truth((32, 64)).copy())
    output = net(torch.rand(2, 3, 32, 64), depth)
    sum(x.sum() for x in output["inv_depths_rgbd"]).backward()
    assert all(torch.isfinite(x).all() for x in output["inv_depths_rgbd"])
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in net.parameters())
