import csv
import json
import logging
import math
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from depthloss.metrics.table import METRICS
from depthloss.training import cli as training
from depthloss.training.command import started_as
from depthloss.training.configuration import sections as config
from depthloss.training.data import DataError, build_dataset, write_depth_png, write_rgb
from depthloss.training.errors import ConfigError
from depthloss.training.evaluation import cli
from depthloss.training.evaluation.load import build_data, load_run
from depthloss.training.evaluation.report import files
from depthloss.training.evaluation.report.page import write_page
from depthloss.training.loop.callbacks import Pictures

from .conftest import TINY, TinyNet

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, one_thread) -> Path:
    """The folder of a run of three validation frames."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(config.NETWORKS, "Tiny", TinyNet)
        patch.setattr(Pictures, "_draw", lambda self, trainer: None)
        patch.chdir(folder)
        training.run(["tiny.yaml", "--max-epochs=2"])
    return folder / "runs" / "run"


@pytest.fixture
def run_dir(trained, tmp_path, monkeypatch, tiny_net) -> Path:
    """A copy of it, and the working directory beside it."""
    shutil.copytree(trained, tmp_path / "runs" / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "write_page", lambda path, *_, **__: path.write_text("pictures take long"))
    return tmp_path / "runs" / "run"


def rewrite(path: Path, change) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def evaluated(*arguments):
    return cli.run([*map(str, arguments), "--no-progress", "--device=cpu"])


@pytest.fixture
def folder_of_frames(tmp_path) -> Path:
    """An rgbd-folder of two frames of the synthetic data, at another size than the network's."""
    data = build_dataset(
        "synthetic", image_shape=(40, 72), min_depth=0.05, max_depth=100.0, train=False, length=2
    )
    for i in range(2):
        frame = data.frame(i)
        write_rgb(tmp_path / f"frames/rgb/{i}.png", frame.rgb)
        write_depth_png(tmp_path / f"frames/depth/{i}.png", frame.depth)
    return tmp_path / "frames"


# ---- end to end


def test_end_to_end(run_dir, capsys, monkeypatch):
    monkeypatch.setattr(files, "write_page", write_page)
    found = evaluated("runs/run/checkpoints/last.ckpt")
    out = run_dir / "checkpoints/evaluation/last-validation"
    assert found.directory.resolve() == out
    assert sorted(p.name for p in out.iterdir()) == sorted(files.FILES)
    assert not [p for p in out.parent.iterdir() if p.name.startswith(".")]

    # what training measured at this checkpoint
    *_, last = (r for r in csv.DictReader((run_dir / "metrics.csv").open()) if r["val/abs_rel"])
    for name in METRICS:
        assert found.candidate.summary[name] == pytest.approx(float(last[f"val/{name}"]), rel=1e-4), name

    tree = json.loads((out / "metrics.json").read_text())
    assert tree["summary"]["images"] == 3 and tree["name"] == "run" and "baseline" not in tree
    assert tree["origin"]["weights"] == "as trained"
    assert tree["origin"]["trained"] == "2 epochs, 6 steps"
    assert tree["origin"]["command"].startswith("python evaluate.py runs/run/checkpoints/last.ckpt")
    assert {row["class"] for row in tree["classes"]} == {"surface", "box", "sphere", "pole"}

    lines = list(csv.DictReader((out / "metrics.csv").open()))
    assert {line["table"] for line in lines} == {
        *("protocol", "summary", "ranges", "classes", "class_ranges", "frames"),
    }
    cells = {(x["table"], x["row"], x["metric"]): x for x in lines}
    assert float(cells["summary", "", "rmse"]["value"]) == found.candidate.summary["rmse"]
    assert cells["summary", "", "rmse"]["unit"] == "m"
    assert float(cells["frames", "street-000001", "a1"]["value"]) == found.candidate.frames[1]["a1"]
    ranges = {row["range"]: row for row in found.candidate.ranges}
    for name, row in ranges.items():
        text = cells["ranges", name, "mae"]["value"]
        assert text == "" if math.isnan(row["mae"]) else float(text) == row["mae"]

    printed = capsys.readouterr().out
    for title in ("mean over 3 images", "pixel-pooled by distance", "pixel-pooled by class"):
        assert title in printed
    assert printed.count("\nprotocol: 0.05 m < gt < 100 m") == 4
    assert "<html" in (out / "report.html").read_text()[:500].lower()


def test_the_report_has_the_command_that_was_typed(run_dir):
    with started_as("evaluate.py", "depthloss evaluate"):
        found = evaluated("runs/run")
    assert found.candidate.origin["command"].startswith("depthloss evaluate runs/run ")


def test_a_run_directory_means_its_best(run_dir):
    found = evaluated("runs/run", "--out=found")
    assert found.directory == Path("found")
    assert found.candidate.origin["checkpoint"] == "runs/run/checkpoints/best.ckpt"


def test_the_best_of_several_is_the_one_that_the_last_checkpoint_knows(run_dir):
    checkpoints = run_dir / "checkpoints"
    (checkpoints / "best.ckpt").rename(checkpoints / "epoch000-abs_rel0.1.ckpt")

    def renamed(state):
        [best] = [s for s in state["callbacks"].values() if isinstance(s, dict) and s.get("monitor")]
        best["best_model_path"] = "elsewhere/epoch000-abs_rel0.1.ckpt"

    rewrite(checkpoints / "last.ckpt", renamed)
    assert load_run(run_dir).path == checkpoints / "epoch000-abs_rel0.1.ckpt"
    assert load_run(checkpoints).path == checkpoints / "epoch000-abs_rel0.1.ckpt"
    (checkpoints / "epoch000-abs_rel0.1.ckpt").unlink()
    assert load_run(run_dir).path == checkpoints / "last.ckpt"


def test_a_baseline_is_compared_on_the_same_frames(run_dir, capsys):
    other = run_dir / "checkpoints/other.ckpt"
    shutil.copy(run_dir / "checkpoints/last.ckpt", other)

    def nearer(state):
        state["state_dict"]["model.depth_net.head.1.bias"] += 0.5
        state["config"]["name"] = "nearer"
        state["config"]["datasets"]["image_shape"] = [64, 64]

    rewrite(other, nearer)
    found = evaluated("runs/run/checkpoints/last.ckpt", "--baseline", other, "--out=found")
    a, b = found.candidate, found.baseline
    assert (a.name, b.name) == ("run", "nearer")
    assert [row["name"] for row in a.frames] == [row["name"] for row in b.frames]
    assert [row["valid"] for row in a.frames] == [row["valid"] for row in b.frames]
    assert [s.index for s in a.samples] == [s.index for s in b.samples]
    assert a.summary["abs_rel"] != b.summary["abs_rel"]
    tree = json.loads(Path("found/metrics.json").read_text())
    assert tree["baseline"]["summary"]["abs_rel"] == b.summary["abs_rel"]
    lines = list(csv.DictReader(Path("found/metrics.csv").open()))
    assert {line["evaluation"] for line in lines} == {"run", "nearer"}
    printed = capsys.readouterr().out
    row = next(line.split() for line in printed.splitlines() if line.startswith("abs_rel"))
    difference = a.summary["abs_rel"] - b.summary["abs_rel"]
    assert float(row[3].replace("−", "-")) == pytest.approx(difference, rel=1e-2)
    assert row[4].startswith("[") and tree["differences"][0]["abs_rel"]["value"] == pytest.approx(difference)
    assert printed.count("difference") > 5


def test_the_protocol_is_as_the_flags_say(run_dir):
    plain = evaluated("runs/run", "--out=plain").candidate
    flags = ("--crop=garg", "--alignment", "median", "--flip-tta", "--max-depth=10", "--min-depth", "0.5")
    found = evaluated("runs/run", *flags, "--crop-of=data")
    name = "best-validation-garg-of-data-median-flip-to-10m-from-0.5m"
    assert found.directory.name == name
    protocol = found.candidate.protocol
    assert (protocol["crop"], protocol["alignment"], protocol["flip_tta"]) == ("garg", "median", True)
    assert (protocol["min_depth"], protocol["max_depth"]) == (0.5, 10)
    assert (protocol["crop_of"], plain.protocol["crop_of"]) == ("data", "frame")
    assert found.candidate.ranges[-1]["range"] == "[3, 10) m"
    assert sum(r["valid"] for r in found.candidate.frames) < sum(r["valid"] for r in plain.frames)


def test_other_data(run_dir, folder_of_frames, caplog):
    with caplog.at_level(logging.INFO, "depthloss"):
        found = evaluated("runs/run", "--data", folder_of_frames, "--datasets.validation.limit", "1")
    assert f"--data {folder_of_frames}: read as an rgbd-folder" in caplog.text
    assert [m for m in caplog.messages if m.startswith("validation: rgbd-folder, 1 frame, 72x40; depth ")]
    assert [row["name"] for row in found.candidate.frames] == ["0"]
    assert found.candidate.samples[0].prediction.shape == (40, 72)
    assert found.directory.name == "best-validation-frames-limit-1"
    network = evaluated("runs/run", "--data", folder_of_frames, "--resolution=network").candidate
    assert network.samples[0].prediction.shape == (32, 64)
    again = evaluated("runs/run", "--data=synthetic", "--datasets.validation.length=1", "--out=x").candidate
    assert [row["name"] for row in again.frames] == ["room-000000"]
    caplog.clear()
    with caplog.at_level(logging.INFO, "depthloss"):
        evaluated("runs/run", "--data", folder_of_frames, "--datasets.validation.dataset=rgbd-folder")
    assert "read as" not in caplog.text  # the kind was given


def test_other_data_gets_none_of_the_former_s_options(run_dir, folder_of_frames):
    def on_folders(state):
        section = {"dataset": "rgbd-folder", "path": str(folder_of_frames), "depth_scale": 256.0}
        state["config"]["datasets"]["validation"] = {**section, "split": None, "batch_size": 2}

    rewrite(run_dir / "checkpoints/best.ckpt", on_folders)
    assert [row["name"] for row in evaluated("runs/run", "--out=a").candidate.frames] == ["0", "1"]
    found = evaluated("runs/run", "--data=synthetic", "--datasets.validation.length=1").candidate
    assert [row["name"] for row in found.frames] == ["room-000000"]


def test_a_sparse_branch_without_sparse_depth_is_told(run_dir, monkeypatch, caplog, capsys):
    class Sparse(TinyNet):
        def __init__(self, min_depth=0.05, max_depth=100.0, width=4, sparse_branch=True):
            super().__init__(min_depth, max_depth, width)

        def forward(self, rgb, input_depth=None):
            found = super().forward(rgb)
            return found if input_depth is None else {"inv_depths": [0.5 * x for x in found["inv_depths"]]}

    monkeypatch.setitem(config.NETWORKS, "Sparse", Sparse)
    monkeypatch.setattr(files, "write_page", write_page)
    shutil.copy(run_dir / "checkpoints/best.ckpt", "other.ckpt")
    rewrite(Path("other.ckpt"), lambda state: state["config"]["model"]["depth_net"].update(name="Sparse"))
    rewrite(Path("other.ckpt"), lambda state: state["config"].update(name="rgbd"))
    found = evaluated("runs/run", "--baseline=other.ckpt", "--out=a")
    assert found.baseline.summary == found.candidate.summary
    assert "rgbd: the network has a sparse branch and the data no sparse depth: it gets RGB alone; set " in (
        caplog.text
    )
    without = "RGB alone, without the sparse depth that it can take"
    assert f"rgbd gets {without}" in capsys.readouterr().out
    different = f"The two get different inputs: run RGB alone; rgbd {without}."
    assert different in Path("a/report.html").read_text()

    flag = "--datasets.augmentation.sparsity.eval_density=0.5"
    rewrite(
        run_dir / "checkpoints/best.ckpt",
        lambda state: state["config"]["model"]["depth_net"].update(name="Sparse", sparse_branch=False),
    )
    found = evaluated("runs/run", "--baseline=other.ckpt", flag)
    assert found.directory.name == "best-validation-eval_density-0.5-against-rgbd-other"
    assert found.baseline.summary["abs_rel"] != found.candidate.summary["abs_rel"]
    inputs = [one.origin["input"] for one in (found.candidate, found.baseline)]
    assert inputs == ["RGB alone", "RGB and sparse depth"]


def test_the_test_split(run_dir, folder_of_frames):
    flags = ("--split=test", "--datasets.test.dataset=synthetic", "--datasets.test.length=1")
    found = evaluated("runs/run", *flags).candidate
    assert found.origin["split"] == "test" and len(found.frames) == 1
    # of another seed than the validation: another picture
    validation = load_run(Path("runs/run"))
    test = load_run(Path("runs/run"), "test", overrides=flags[1:])
    pictures = [build_data(run, 0.05, 100.0).frame(0).rgb for run in (validation, test)]
    assert not np.array_equal(*pictures)


def test_averaged_weights_are_named(run_dir):
    rewrite(run_dir / "checkpoints/best.ckpt", lambda state: state.update(weights="averaged"))
    found = evaluated("runs/run").candidate
    assert found.origin["weights"] == "running average"


def test_the_start_of_the_training_need_not_be_here(run_dir):
    run = load_run(run_dir)
    assert not run.model.training and run.metrics_csv == run_dir / "metrics.csv"
    state = torch.load(run_dir / "checkpoints/best.ckpt", weights_only=True)
    assert torch.equal(run.model.depth_net.head[1].bias, state["state_dict"]["model.depth_net.head.1.bias"])


# ---- the user's errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.ckpt"], "nowhere.ckpt: no such checkpoint"),
        (["."], ".: no best and no last checkpoint in ."),
        (["runs/run", "--crops=garg"], "unknown flag '--crops'; did you mean '--crop'? Known: "),
        (["runs/run", "--datasets.train.length=1"], "unknown flag '--datasets.train.length'"),
        (["runs/run", "--crop=kitti"], "crop"),
        (["runs/run", "--batch-size=0"], "--batch-size must be >= 1, got 0"),
        (["runs/run", "--min-depth=200"], "0 < min_depth < max_depth needed"),
        (["runs/run", "--split=test"], "datasets.test: the run has no such data; give it by --data"),
        (["runs/run", "--data=nowhere"], "--data nowhere: no such path, and no data set; known: synthetic"),
        (["runs/run", "--datasets.validation.lenght=3"], "unknown key 'datasets.validation.lenght'"),
        (["runs/run", "--out=file"], "--out file: file is a file; choose another folder"),
        (["runs/run", "--device=cuda:77"], "--device cuda:77: not usable here"),
        (["runs/run", "--baseline=torn.ckpt"], "torn.ckpt: the file is damaged, or no checkpoint"),
        (["weights.ckpt"], "weights.ckpt: not a checkpoint of depthloss train"),
        (["other.ckpt"], "other.ckpt: its weights do not fit the network that it names"),
    ],
)
def test_errors(run_dir, arguments, message):
    Path("file").write_text("")
    best = run_dir / "checkpoints/best.ckpt"
    Path("torn.ckpt").write_bytes(best.read_bytes()[:2000])
    torch.save({"state_dict": {"x": torch.zeros(1)}}, "weights.ckpt")
    shutil.copy(best, "other.ckpt")
    rewrite(Path("other.ckpt"), lambda state: state["state_dict"].popitem())
    device = [] if any("--device" in a for a in arguments) else ["--device=cpu"]
    with pytest.raises(ConfigError) as error:
        cli.run([*arguments, *device, "--no-progress"])
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(Path().rglob("metrics.json"))


def test_a_faulty_file_of_the_data(run_dir, folder_of_frames, capsys, monkeypatch):
    (folder_of_frames / "depth/1.png").write_bytes(b"no png")

    def complaint():
        with pytest.raises(SystemExit) as stop:
            cli.main(["runs/run", f"--data={folder_of_frames}", "--device=cpu", "--no-progress"])
        assert stop.value.code == 2
        return [line for line in capsys.readouterr().err.splitlines() if "error:" in line]

    message = f"evaluate.py: error: {folder_of_frames / 'depth/1.png'}: got "
    [line] = complaint()
    assert line.startswith(message)

    def in_a_worker(*args, **kwargs):
        raise DataError(f"Caught DataError in DataLoader worker process 0.\n ...\n{error}")

    error = f"depthloss.training.data.io.DataError: {folder_of_frames / 'depth/1.png'}: got nothing\n"
    monkeypatch.setattr(cli, "evaluate", in_a_worker)
    assert complaint() == [f"{message}nothing"]


def test_the_files_are_written_together_or_not_at_all(run_dir, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    Path("old").mkdir()
    Path("old/metrics.json").write_text("before")
    monkeypatch.setattr(files, "write_page", full)
    for out in ("old", "new"):
        with pytest.raises(ConfigError, match=f"--out {out}: the files could not be written: .*No space"):
            evaluated("runs/run", f"--out={out}", "--datasets.validation.length=1")
    assert [p.name for p in Path("old").iterdir()] == ["metrics.json"]
    assert Path("old/metrics.json").read_text() == "before"
    assert not Path("new").exists() and not [p for p in Path().iterdir() if p.name.startswith(".")]


def test_the_command(capsys):
    main = runpy.run_path(str(ROOT / "evaluate.py"))["main"]
    with pytest.raises(SystemExit) as stop:
        main(["nowhere.ckpt"])
    captured = capsys.readouterr()
    assert (stop.value.code, captured.out) == (2, "")
    assert captured.err == "evaluate.py: error: nowhere.ckpt: no such checkpoint\n"
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for word in ("CHECKPOINT", "--baseline", "--crop {none,garg,eigen}", "--datasets.KEY"):
        assert word in text
