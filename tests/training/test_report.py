import numpy as np
import pytest
from PIL import Image

from depthloss.training import report
from depthloss.training.report import Sample, read_metrics, whole_file, write_curves, write_predictions


def sample(shape=(32, 64), density=1.0, **kwargs) -> Sample:
    rng = np.random.default_rng(0)
    depth = rng.uniform(2, 60, shape) * (rng.random(shape) < density)
    return Sample(rng.random((*shape, 3)), depth, depth + 1.5, **kwargs)


def write_csv(path, *rows: dict) -> None:
    names = sorted({name for row in rows for name in row})
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def colours(path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(maxcolors=1 << 24)}


def test_read_metrics(tmp_path):
    path = tmp_path / "metrics.csv"
    write_csv(path, {"step": 0, "a": 1.5}, {"step": 1, "b": "nan", "epoch": 0}, {"step": 2, "a": 2.5})
    metrics = read_metrics(path)
    assert metrics.keys() == {"a", "b"}
    np.testing.assert_array_equal(metrics["a"], [[0, 2], [1.5, 2.5]])
    np.testing.assert_array_equal(metrics["b"], [[1], [np.nan]])


def test_curves_have_a_panel_for_what_there_is():
    one = (np.array([0.0]), np.array([1.0]))
    two = (np.array([0.0]), np.array([2.0]))
    series = {
        "train/loss_step": one,
        "train/loss_epoch": one,
        "train/scale_0/scale_adaptive/relative_epoch": one,
        "train/scale_0/scale_loss_epoch": two,
        "train/scale_0/gradient_epoch": one,
        "train/scale_0/gradient/scale_1_epoch": one,
        "train/scale_1/scale_loss_epoch": one,
        "train/rgbd/scale_0/scale_loss_epoch": one,
        "train/scale_0/sigma_scale_epoch": one,
        "train/scale_0/weight_scale_epoch": one,
        "lr/Depth": one,
        "lr/Loss": one,
        "val/abs_rel": one,
        "val/a1": one,
    }
    panels = {name: set(lines) for name, _, lines in report._curve_panels(series)}
    assert list(panels.values()) == [
        {"step", "epoch"},
        {"scale_adaptive/relative", "scale_loss"},  # equal to "gradient": shown once
        {"sigma_scale", "weight_scale"},
        {"Depth", "Loss"},
        {"abs_rel"},
    ]


@pytest.mark.parametrize("value", [0.5, -3.0, "nan", 0])
def test_curves_are_drawn_for_any_value(tmp_path, value):
    rows = [
        {"step": i, "train/loss_step": value, "train/loss_epoch": value, "lr/Depth": value} for i in range(3)
    ]
    write_csv(tmp_path / "metrics.csv", *rows)
    write_curves(tmp_path / "metrics.csv", tmp_path / "curves.png", title="run")
    with Image.open(tmp_path / "curves.png") as image:
        image.verify()
        assert image.size[0] > image.size[1] > 300


def test_nothing_to_draw(tmp_path):
    write_csv(tmp_path / "metrics.csv", {"step": 0, "other": 1})
    write_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_predictions(tmp_path):
    sizes = []
    for name, samples in {
        "rgb": [sample(name="a"), sample(density=0.05)],
        "rgbd": [sample(input_depth=sample(density=0.02).depth), sample()],
    }.items():
        write_predictions(samples, tmp_path / f"{name}.png", title=name)
        with Image.open(tmp_path / f"{name}.png") as image:
            sizes.append(image.size)
    assert sizes[1][0] > sizes[0][0] and sizes[1][1] == sizes[0][1], "a column more for the sparse input"


@pytest.mark.parametrize("prediction", [np.nan, np.inf, 0.0, -1.0])
def test_predictions_that_are_not_depths(tmp_path, prediction):
    broken = sample()
    broken.prediction[:] = prediction
    empty = sample()
    empty.depth[:] = 0
    write_predictions([broken, empty], tmp_path / "p.png")
    assert (153, 153, 153) in colours(tmp_path / "p.png"), "invalid pixels are grey"


def test_sparse_points_are_enlarged():
    values = np.full((5, 9), np.nan)
    values[1, 1], values[3, 7] = 4.0, 6.0
    drawn = report._enlarge(values)
    assert np.isfinite(drawn).sum() == 18
    assert (drawn[0:3, 0:3] == 4).all() and (drawn[2:5, 6:9] == 6).all()
    np.testing.assert_array_equal(report._enlarge(np.ones((3, 3))), np.ones((3, 3)))


def test_a_file_is_whole_or_not_there(tmp_path):
    out = tmp_path / "sub" / "file.txt"
    with pytest.raises(RuntimeError), whole_file(out) as path:
        path.write_text("half")
        raise RuntimeError
    assert list(out.parent.iterdir()) == []
    with whole_file(out) as path:
        path.write_text("whole")
        assert not out.exists()
    assert out.read_text() == "whole" and list(out.parent.iterdir()) == [out]
