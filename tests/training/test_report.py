import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from depthloss.training.drawing import figures as report
from depthloss.training.drawing.colours import ERROR_COLOURS
from depthloss.training.drawing.figures import (
    Sample,
    read_metrics,
    write_curves,
    write_predictions,
)


def sample(shape=(32, 64), density=1.0, **kwargs) -> Sample:
    rng = np.random.default_rng(0)
    depth = rng.uniform(2, 60, shape) * (rng.random(shape) < density)
    return Sample(rng.random((*shape, 3)), depth, depth + 1.5, **kwargs)


def write_csv(path, *rows: dict) -> None:
    names = sorted({name for row in rows for name in row})
    lines = [",".join(names), *(",".join(str(row.get(name, "")) for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def colour_share(path) -> dict[tuple[int, ...], float]:
    with Image.open(path) as image:
        counts = image.convert("RGB").getcolors(maxcolors=1 << 24)
        return {colour: n / image.width / image.height for n, colour in counts}


def colours(path) -> set[tuple[int, ...]]:
    return set(colour_share(path))


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


def test_colours_of_the_errors(tmp_path):
    right, far = sample(), sample()
    right.prediction[:] = right.depth
    far.prediction[:] = 5 * far.depth
    write_predictions([right, far], tmp_path / "p.png")
    white, red, blue = (tuple(c[:3]) for c in ERROR_COLOURS(np.array([0.5, 1.0, 0.0]), bytes=True))
    share = colour_share(tmp_path / "p.png")
    assert share[white] > 0.06 and share[red] > 0.06 and share.get(blue, 0) < 0.01


def test_words_of_the_predictions(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(report, "save_figure", lambda fig, out: figures.append(fig))
    broken = sample(name="x" * 60 + ".png", input_depth=np.zeros((32, 64)))
    broken.prediction[0, :3] = np.nan
    right = sample(name="right")
    right.prediction = 1.1 * right.depth
    write_predictions([broken, right], tmp_path / "p.png", title="run, epoch 2")
    [fig] = figures
    maps = [ax for ax in fig.axes if ax.images]
    titles = ["RGB", "sparse input", "prediction", "ground truth", "error (pred − gt) / gt"]
    assert [ax.get_title() for ax in maps[:5]] == titles and not maps[5].get_title()
    assert maps[4].get_xlabel() == "abs_rel nan (3 px not finite)" and maps[9].get_xlabel() == "abs_rel 0.100"
    assert maps[0].get_xlabel() == "…" + "x" * 31 + ".png" and maps[5].get_xlabel() == "right"
    bars = [ax for ax in fig.axes if ax not in maps]
    assert len(bars) == 3, "one per row for the depth, and one for all errors"
    fig.canvas = FigureCanvasAgg(fig)
    fig.canvas.draw()
    for ax, unit in zip(bars, ("m", "m", "%"), strict=True):
        assert len(ax.get_yticklabels()) == 5
        assert all(label.get_text().endswith(f" {unit}") for label in ax.get_yticklabels())
    scales = [(ax.images[0].norm.vmin, ax.images[0].norm.vmax) for ax in maps]
    assert scales[1] == scales[2] == scales[3] and scales[4] == scales[9]


def test_curves_of_many_terms_keep_their_legend_outside():
    lines = {f"term_{i}": (np.arange(30.0), np.linspace(1, i + 1, 30)) for i in range(9)}
    fig = Figure()
    ax = fig.subplots()
    report._draw_panel(ax, "terms", "auto", lines)
    FigureCanvasAgg(fig).draw()
    assert ax.get_legend().get_window_extent().y1 < ax.get_window_extent().y0
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 9, "each is its own"
