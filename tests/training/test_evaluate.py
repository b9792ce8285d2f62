import json
import logging
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from depthloss.metrics.edges import EDGE_METRICS
from depthloss.metrics.table import METRICS
from depthloss.training.data import DataError, DepthDataset, build_dataset
from depthloss.training.data.transforms import Frame
from depthloss.training.evaluation.evaluate import choose_frames, evaluate
from depthloss.training.evaluation.protocol import Protocol
from depthloss.training.evaluation.tables import text_tables

from . import layouts, strangers, textbook
from .test_metrics import pairs


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    pass


class Frames(DepthDataset):
    """A data set in memory."""

    def __init__(self, frames, class_names=(), train=False, shape=None, **options):
        shape = shape or frames[0].depth.shape
        super().__init__(image_shape=shape, min_depth=0.5, max_depth=80.0, train=train, **options)
        self.frames, self.class_names = frames, class_names
        self.maps = ("input_depth",) if frames[0].input_depth is not None else ()

    def __len__(self):
        return len(self.frames)

    def load(self, index):
        if self.frames[index] is None:
            raise DataError(f"frame-{index}: no such file")
        return self.frames[index]

    def name(self, index):
        return f"frame-{index}"


def random_frames(count=5, shape=(16, 24), density=1.0, classes=0, seed=0, mask=False):
    rng = np.random.default_rng(seed)
    return [
        Frame(
            rgb=rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
            depth=(rng.uniform(0.3, 90, shape) * (rng.random(shape) < density)).astype(np.float32),
            mask=rng.random(shape) < 0.8 if mask else None,
            classes=rng.random((*shape, classes)) < 0.3 if classes else None,
        )
        for _ in range(count)
    ]


@dataclass
class Network:
    """Inverse depth from the colours: in [0.01, 1.01]; counts its calls."""

    slope: float = 0.0  # along the columns: then it is not flip-equivariant
    calls: int = 0
    shapes: tuple = ()

    def __call__(self, batch):
        self.calls += 1
        self.shapes = (*self.shapes, tuple(batch["rgb"].shape))
        red = batch["rgb"][:, :1] + (batch["input_depth"] if "input_depth" in batch else 0)
        return {"inv_depths": [0.01 + red + self.slope * torch.arange(float(red.shape[-1]))]}


QUIET = {"progress": False}
PROTOCOL = Protocol(min_depth=0.5, max_depth=80.0)


def predicted(frame: Frame, slope=0.0) -> np.ndarray:
    red = frame.rgb[..., 0].astype(np.float32) / np.float32(255)
    return 1 / (np.float32(0.01) + red + np.float32(slope) * np.arange(red.shape[1], dtype=np.float32))


def expected(frames, masks, predictions):
    rows = []
    for frame, mask, p in zip(frames, masks, predictions, strict=True):
        keep = (frame.depth > 0.5) & (frame.depth < 80) & mask
        p, g = np.clip(p.astype(np.float64)[keep], 0.5, 80), frame.depth[keep]
        rows.append(textbook.image(p, g, pairs(len(g))))
    return {name: np.mean([row[name] for row in rows]) for name in METRICS}


def close(found, values, rel=1e-6):
    for name, value in values.items():
        assert found[name] == pytest.approx(value, rel=rel), name


# ---- the whole


@pytest.mark.parametrize("batch_size", [1, 2])
def test_against_numpy(batch_size):
    frames = random_frames(mask=True, density=0.3)
    found = evaluate(Network(), Frames(frames), PROTOCOL, batch_size=batch_size, name="n", **QUIET)
    close(found.summary, expected(frames, [f.mask for f in frames], map(predicted, frames)))
    assert (found.summary["images"], found.summary["empty"], found.summary["nonfinite"]) == (5, 0, 0)
    assert [row["name"] for row in found.frames] == [f"frame-{i}" for i in range(5)]
    valid = [int(((f.depth > 0.5) & (f.depth < 80) & f.mask).sum()) for f in frames]
    assert [row["valid"] for row in found.frames] == valid
    assert np.mean([row["rmse"] for row in found.frames]) == pytest.approx(found.summary["rmse"])
    assert sum(row["pixels"] for row in found.ranges) == sum(valid)
    assert [row["range"] for row in found.ranges][-1] == "[10, 80) m"
    assert not found.classes and not found.class_ranges
    assert found.protocol["crop"] == "none" and found.protocol["text"].startswith("0.5 m < gt < 80 m")
    assert {"torch", "device", "date", "edge_images"} <= found.origin.keys()


def test_ranges_and_classes():
    frames = random_frames(classes=2, density=0.5)
    found = evaluate(Network(), Frames(frames, ("car", "tree")), PROTOCOL, **QUIET)
    g, p, c = (
        np.concatenate([part(f) for f in frames])
        for part in (
            lambda f: f.depth[(f.depth > 0.5) & (f.depth < 80)],
            lambda f: np.clip(predicted(f), 0.5, 80)[(f.depth > 0.5) & (f.depth < 80)],
            lambda f: f.classes[(f.depth > 0.5) & (f.depth < 80)],
        )
    )
    for row in found.ranges:
        inside = (g >= row["low"]) & (g < row["high"])
        close(row, textbook.pooled(p[inside], g[inside]))
    for i, row in enumerate(found.classes):
        assert (row["class"], row["images"], row["pixels"]) == (("car", "tree")[i], 5, c[:, i].sum())
        close(row, textbook.pooled(p[c[:, i]], g[c[:, i]]))
    assert sum(row["pixels"] for row in found.class_ranges) == c.sum()


def test_a_frame_without_valid_pixels_and_one_that_cannot_be_read(caplog):
    frames = random_frames(3)
    frames[1].depth[:] = 0
    data = Frames([*frames, None], skip_bad_frames=True)
    with caplog.at_level(logging.WARNING, "depthloss"):
        found = evaluate(Network(), data, PROTOCOL, **QUIET)
    assert (found.summary["images"], found.summary["empty"]) == (2, 2)
    assert "frame-3" in caplog.text
    some = [frames[0], frames[2]]
    close(found.summary, expected(some, [True, True], map(predicted, some)))
    assert math.isnan(found.frames[1]["abs_rel"]) and found.frames[1]["valid"] == 0
    assert {s.index for s in found.samples} == {0, 2}
    tree = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert tree["frames"][1]["abs_rel"] is None and "samples" not in tree
    with pytest.raises(DataError, match="frame-3"):
        evaluate(Network(), Frames([*frames, None]), PROTOCOL, **QUIET)


def test_predictions_that_are_not_finite_are_counted():
    frames = random_frames(2)
    frames[0].depth[0] = 2.0

    def network(batch):
        inverse = Network()(batch)["inv_depths"][0]
        if batch["rgb"][0, 0, 0, 0] == frames[0].rgb[0, 0, 0] / np.float32(255):
            inverse[0, 0, 0, :2] = torch.tensor([0.0, torch.nan])
        return {"inv_depths": [inverse]}

    found = evaluate(network, Frames(frames), PROTOCOL, name="bad", **QUIET)
    assert found.summary["nonfinite"] == 2 and [row["nonfinite"] for row in found.frames] == [2, 0]
    assert math.isnan(found.summary["abs_rel"]) and not math.isnan(found.frames[1]["abs_rel"])
    assert [math.isnan(row["rmse"]) for row in found.ranges] == [False, False, True, False, False]
    assert "bad: 2 predictions at valid pixels are not finite, in 1 images" in text_tables([found])
    assert found.samples[0].index == 0  # the worst


def test_two_workers_find_the_same():
    frames = random_frames(3)
    one, two = (evaluate(Network(), Frames(frames), PROTOCOL, num_workers=n, **QUIET) for n in (0, 1))
    assert one.summary == two.summary and one.frames == two.frames


def test_the_mode_of_the_network_is_kept():
    class Net(torch.nn.Module):
        def forward(self, batch):
            assert not self.training
            return Network()(batch)

    net = Net()
    evaluate(net, Frames(random_frames(1)), PROTOCOL, **QUIET)
    assert net.training
    evaluate(net.eval(), Frames(random_frames(1)), PROTOCOL, **QUIET)
    assert not net.training


def test_errors():
    frames = random_frames(1)
    with pytest.raises(ValueError, match="train=False"):
        evaluate(Network(), Frames(frames, train=True), PROTOCOL)
    with pytest.raises(ValueError, match="from 0.1 to 80 m; the data set has it from 0.5 to 80 m only"):
        evaluate(Network(), Frames(frames), Protocol(0.1, 80.0))
    for wrong in ({"crop": "carg"}, {"min_depth": 0.0}, {"ranges": (2.0, 1.0)}, {"edge_ratio": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Protocol(**wrong)


# ---- resolution and input


def test_a_prediction_is_resized_to_each_ground_truth():
    shapes = [(16, 24), (8, 12), (32, 40)]
    frames = [random_frames(1, shape)[0] for shape in shapes]
    network = Network()
    found = evaluate(network, Frames(frames, shape=(16, 24)), PROTOCOL, batch_size=3, **QUIET)
    assert network.shapes[0] == (3, 3, 16, 24)
    assert [row["valid"] for row in found.frames] == [
        ((f.depth > 0.5) & (f.depth < 80)).sum() for f in frames
    ]
    assert [s.prediction.shape for s in sorted(found.samples, key=lambda s: s.index)] == shapes


def test_a_plane_stays_a_plane_when_its_prediction_is_resized():
    rows = np.arange(64, dtype=np.float32)[:, None] + np.zeros((1, 8), np.float32)
    depth = 1 / (0.05 + rows / 200)
    frame = Frame(np.zeros((64, 8, 3), np.uint8), depth.astype(np.float32))
    coarse = 0.05 + (np.arange(16) * 4 + 1.5)[:, None] / 200 + np.zeros((1, 8))

    def network(batch):
        return {"inv_depths": [torch.from_numpy(coarse).float()[None, None]]}

    found = evaluate(network, Frames([frame], shape=(16, 8)), PROTOCOL, **QUIET)
    error = np.abs(found.samples[0].prediction / depth - 1)
    assert error[2:-2].max() < 1e-5 and error[0].max() > 0.01  # but for the border, where there is no more


def test_the_resolution_of_the_network():
    frames = random_frames(2, (32, 48))
    data = Frames(frames, shape=(16, 24))
    found = evaluate(Network(), data, Protocol(0.5, 80.0, resolution="network"), **QUIET)
    assert found.samples[0].depth.shape == (16, 24)
    assert found.frames[0]["valid"] < (frames[0].depth > 0).sum() / 3
    # another network, of another input size, is compared at the same one
    other = evaluate(Network(), data, Protocol(0.5, 80.0, resolution="network"), image_shape=(8, 12), **QUIET)
    assert [row["valid"] for row in other.frames] == [row["valid"] for row in found.frames]


def test_input_depth_is_used_unless_it_is_not_to_be():
    frames = random_frames(2)
    sparse = [Frame(f.rgb, f.depth, np.full_like(f.depth, 3.0)) for f in frames]
    plain = evaluate(Network(), Frames(frames), PROTOCOL, **QUIET)
    with_input = evaluate(Network(), Frames(sparse), PROTOCOL, **QUIET)
    without = evaluate(Network(), Frames(sparse), PROTOCOL, use_input=False, **QUIET)
    assert with_input.summary["abs_rel"] != plain.summary["abs_rel"] == without.summary["abs_rel"]
    assert (with_input.samples[0].input_depth == 3).all() and without.samples[0].input_depth is None


# ---- crops, alignment, mirrored images


def test_only_the_crop_counts():
    frames = random_frames()
    found = evaluate(Network(), Frames(frames), Protocol(0.5, 80.0, crop="garg"), **QUIET)
    inside = np.zeros((16, 24), bool)
    inside[6:15, 0:23] = True  # 16 x 0.408 = 6.5, 16 x 0.992 = 15.9; 24 x 0.036 = 0.9, 24 x 0.964 = 23.1
    close(found.summary, expected(frames, [inside] * 5, map(predicted, frames)))
    assert "; crop garg of the stored frame; " in found.protocol["text"]
    assert (found.samples[0].depth[:6] == 0).all()


@pytest.mark.parametrize("resolution", ["ground truth", "network"])
def test_the_crop_of_a_cropped_data_set(tmp_path, caplog, resolution):
    """Garg's rows of 20 are 8 to 18, columns of 30 are 1 to 27; the data set keeps 4 to 20 and 3 to 27."""
    layouts.kitti(tmp_path, frames=1, shape=(20, 30))
    common = {"image_shape": (16, 24), "min_depth": 0.5, "max_depth": 80.0, "train": False}
    data = build_dataset("kitti", path=tmp_path, split="split.txt", crop=[4, 16, 3, 24], **common)
    depth = data.frame(0).depth
    places = {"frame": np.s_[4:15, 0:24], "data": np.s_[6:15, 0:23]}
    for crop_of, place in places.items():
        protocol = Protocol(0.5, 80.0, crop="garg", crop_of=crop_of, resolution=resolution)
        found = evaluate(Network(), data, protocol, **QUIET)
        assert found.frames[0]["valid"] == np.count_nonzero(depth[place]) > 20, crop_of
    text = "evaluation: crop garg reaches beyond what the data set's own crop leaves, in 1 of 1 images"
    assert strangers.warnings(caplog) == [text]


@pytest.mark.parametrize("alignment", ["median", "lstsq"])
def test_aligned_evaluation(alignment):
    frames = random_frames(3)
    protocol = Protocol(0.5, 80.0, alignment=alignment)
    found = evaluate(Network(), Frames(frames), protocol, **QUIET)

    def aligned(frame):
        p, g = predicted(frame).astype(np.float64), frame.depth.astype(np.float64)
        keep = (g > 0.5) & (g < 80)
        if alignment == "median":
            return p * np.median(g[keep]) / np.median(p[keep])
        s, t = np.polyfit(1 / p[keep], 1 / g[keep], 1)
        return 1 / np.maximum(s / p + t, 1 / 80)

    close(found.summary, expected(frames, [True] * 3, map(aligned, frames)))
    assert {"median": "aligned by its median", "lstsq": "scale and shift"}[alignment] in protocol.text()


def test_mirrored_images_change_nothing_for_an_equivariant_network():
    frames = random_frames(3)
    network = Network()
    plain = evaluate(network, Frames(frames), PROTOCOL, **QUIET)
    calls = network.calls
    flipped = evaluate(network, Frames(frames), Protocol(0.5, 80.0, flip_tta=True), **QUIET)
    assert plain.summary == flipped.summary and plain.ranges == flipped.ranges
    assert network.calls == 3 * calls
    assert plain.protocol["text"] != flipped.protocol["text"]


def test_mirrored_images_by_hand_for_another_network():
    frames = random_frames(3)
    found = evaluate(Network(slope=0.01), Frames(frames), Protocol(0.5, 80.0, flip_tta=True), **QUIET)

    def mean(frame):
        turned = Frame(frame.rgb[:, ::-1], frame.depth)
        return 2 / (1 / predicted(frame, 0.01) + 1 / predicted(turned, 0.01)[:, ::-1])

    close(found.summary, expected(frames, [True] * 3, map(mean, frames)), rel=1e-5)


# ---- depth edges


def test_edges_where_the_ground_truth_is_dense(caplog):
    dense, sparse = random_frames(2), random_frames(1, density=0.1, seed=3)
    for frame in dense:
        frame.depth[:, 12:] = 5.0  # no edge on this side
    with caplog.at_level(logging.INFO, "depthloss"):
        found = evaluate(Network(), Frames(dense), PROTOCOL, **QUIET)
        assert not caplog.messages
        some = evaluate(Network(), Frames([*dense, *sparse]), PROTOCOL, name="some", **QUIET)
        none = evaluate(Network(), Frames(sparse), PROTOCOL, name="none", **QUIET)
    text = "the ground truth of 1 of {} images is too sparse for the metrics at depth edges"
    assert caplog.messages == [
        f"some: {text.format(3)}",
        f"none: {text.format(1)}; they are left out",
    ]
    for name in ("edge_abs_rel", "boundary_f1", "boundary_precision", "boundary_recall"):
        values = [row[name] for row in found.frames]
        assert found.summary[name] == some.summary[name] == pytest.approx(np.mean(values))
        assert name not in some.frames[2]
    assert (found.origin["edge_images"], some.origin["edge_images"]) == (2, 2)
    assert not set(EDGE_METRICS) & (none.summary.keys() | none.frames[0].keys())
    caplog.clear()
    for frame in dense:
        frame.depth[:] = 3.0
    with caplog.at_level(logging.INFO, "depthloss"):
        flat = evaluate(Network(), Frames(dense), PROTOCOL, name="flat", **QUIET)
    missing = "edge_abs_rel, boundary_f1, boundary_precision, boundary_recall"
    assert caplog.messages == [f"flat: no image has pixels or boundaries for {missing}"]
    assert flat.summary["flat_abs_rel"] == pytest.approx(flat.summary["abs_rel"])
    off = evaluate(Network(), Frames(dense), Protocol(0.5, 80.0, edges=False), **QUIET)
    assert not set(EDGE_METRICS) & off.summary.keys()


# ---- frames to show


def test_the_frames_worth_showing():
    rows = [{"index": 100 + i, "abs_rel": i / 100, "valid": 5} for i in range(50)]
    rows[20]["valid"] = 0
    rows[7]["abs_rel"] = math.nan
    chosen = choose_frames(rows)
    # 49 with valid pixels: worst, median, best
    assert chosen[:4] == [107, 149, 148, 147]
    assert chosen[4:8] == [128, 127, 126, 125]
    assert chosen[8:] == [103, 102, 101, 100]
    assert choose_frames(rows[:3]) == [102, 101, 100]


def test_samples_show_what_was_compared():
    frames = random_frames(4, mask=True)
    found = evaluate(Network(), Frames(frames), PROTOCOL, **QUIET)
    again = evaluate(Network(), Frames(frames), PROTOCOL, show=[2, 0], **QUIET)
    assert [s.index for s in again.samples] == [2, 0]
    worst = max(found.frames, key=lambda row: row["abs_rel"])
    sample = found.samples[0]
    assert (sample.index, sample.name) == (worst["index"], worst["name"])
    valid = sample.depth > 0
    assert valid.sum() == worst["valid"]
    error = np.abs(sample.prediction[valid] - sample.depth[valid]) / sample.depth[valid]
    assert error.mean() == pytest.approx(worst["abs_rel"], rel=1e-5)
    assert sample.rgb.max() <= 1 and sample.rgb.shape == (16, 24, 3)
