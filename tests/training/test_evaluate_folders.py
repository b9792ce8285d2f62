"""Folders of predictions, evaluated by the command."""

from __future__ import annotations

import csv
import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from depthloss.protocols import load_protocol, protocol_names
from depthloss.training.data import DataError, write_depth_png, write_rgb
from depthloss.training.errors import ConfigError
from depthloss.training.evaluation import cli
from depthloss.training.evaluation.compare import differences
from depthloss.training.evaluation.folders_cli import USAGE
from depthloss.training.evaluation.maps import evaluate_maps
from depthloss.training.evaluation.paper import latex_table, markdown_table
from depthloss.training.evaluation.report import files
from depthloss.training.evaluation.result import Evaluation
from depthloss.training.evaluation.tables import text_tables

ROOT = Path(__file__).parents[2]
SHAPE = (12, 16)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch, one_thread):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "write_page", lambda path, *_, **__: path.write_text("pictures take long"))


def depth(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1, 9, SHAPE).astype(np.float32)


def save(folder: str, **maps: np.ndarray) -> None:
    for name, values in maps.items():
        path = Path(folder, *name.split("__")).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values)


@pytest.fixture
def folders() -> dict[str, np.ndarray]:
    """Three images: gt, and the methods near and far."""
    truth = {f"f{i}": depth(i) for i in range(3)}
    save("gt", **truth)
    save("near", **{name: g * (1.05 + 0.01 * i) for i, (name, g) in enumerate(truth.items())})
    save("far", **{name: g + 0.1 * depth(10 + i) for i, (name, g) in enumerate(truth.items())})
    return truth


def run(*words: object):
    return cli.run([*map(str, words), "--no-progress"])


def one(pred: np.ndarray, gt: np.ndarray, *words: str) -> Evaluation:
    save("gt", x=gt)
    save("pred", x=pred)
    return run("--pred", "pred", "--gt", "gt", *words).candidate


# ---- numbers and files


def test_the_numbers_are_those_of_the_protocol(folders):
    found = run("--pred", "near", "--baseline", "B=far", "--gt", "gt", "--protocol=marigold", "max_depth=8")
    protocol = load_protocol("marigold", max_depth=8)
    assert [one.name for one in found.methods] == ["near", "B"]
    for method, folder in zip(found.methods, ("near", "far"), strict=True):
        for row, (name, gt) in zip(method.frames, folders.items(), strict=True):
            frame = protocol.prepare(np.load(f"{folder}/{name}.npy"), gt)
            assert row == {"name": name, "index": int(name[1]), **frame.counts, **frame.alignment,
                           **protocol.score(frame)}  # fmt: skip
        for name in protocol.metrics:
            mean = math.fsum(row[name] for row in method.frames) / 3
            assert method.summary[name] == mean
    assert found.directory == Path("evaluation/near-B-marigold-max_depth-8")
    assert sorted(path.name for path in found.directory.iterdir()) == sorted(files.FILES)


def test_the_files_say_all(folders):
    methods = run("--pred", "near", "far", "C=near", "--gt=gt", "--protocol=median", "crop=none").methods
    [out] = Path("evaluation").iterdir()
    tree = json.loads((out / "metrics.json").read_text())
    assert (tree["name"], tree["baseline"]["name"], [x["name"] for x in tree["further"]]) == (
        *("near", "far"), ["C"],
    )  # fmt: skip
    assert tree["protocol"]["text"] == methods[0].protocol["text"] and tree["protocol"]["kind"] == "depth"
    assert [of["to"] for of in tree["differences"]] == ["far", "C"]
    change = tree["differences"][0]["rmse"]
    assert change["value"] == pytest.approx(methods[0].summary["rmse"] - methods[1].summary["rmse"])
    assert change["low"] < change["value"] < change["high"] and change["frames"] == 3
    assert tree["differences"][1]["rmse"] == {"value": 0.0, "low": 0.0, "high": 0.0, "frames": 3}
    lines = list(csv.DictReader((out / "metrics.csv").open()))
    assert {line["evaluation"] for line in lines} == {"near", "far", "C"}
    [low] = [x["value"] for x in lines if (x["row"], x["metric"]) == ("far low", "rmse")]
    assert float(low) == change["low"]


def test_the_tables_of_a_paper():
    counts = {"images": 2, "empty": 1}
    rows = [{"valid": 9}, {"valid": 9}, {"valid": 0, "reason": "no valid pixel"}]
    protocol = {"text": "p_1; 0 m < gt"}
    methods = [
        Evaluation("A_1", protocol, {"abs_rel": 0.1, "a1": 0.9, "rmse": 2.0, **counts}, frames=rows),
        Evaluation("B", protocol, {"abs_rel": 0.2, "a1": 0.9, "rmse": math.nan, **counts}, frames=rows),
    ]
    assert markdown_table(methods).splitlines() == [
        "| method | abs_rel ↓ | a1 ↑ | rmse (m) ↓ | images |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| A_1 | **0.1000** | **0.9000** | **2.000** | 2 |",
        "| B | 0.2000 | **0.9000** | nan | 2 |",
        *("", "Protocol: p_1; 0 m < gt"),
        *("", "A_1: 2 of 3 images scored; left out: 1 no valid pixel"),
        *("", "B: 2 of 3 images scored; left out: 1 no valid pixel"),
    ]
    tex = latex_table(methods)
    assert r"A\_1 & \textbf{0.1000} & \textbf{0.9000} & \textbf{2.000} & 2 \\" in tex
    assert r"method & abs\_rel $\downarrow$ & a1 $\uparrow$ & rmse (m) $\downarrow$ & images \\" in tex
    assert r"Protocol: p\_1; 0 m $<$ gt\par" in tex
    rules = ["toprule", "midrule", "bottomrule"]
    assert [line[1:] for line in tex.splitlines() if line.endswith("rule")] == rules


def test_intervals_resample_the_frames_in_pairs():
    rng = np.random.default_rng(1)
    a, b = rng.normal(1, 0.1, (2, 40))
    rows = [[{"name": "", "index": i, "valid": 1, "rmse": float(v)} for i, v in enumerate(x)] for x in (a, b)]
    rows[1][7]["reason"] = "no prediction"  # in neither
    one, two = (Evaluation("", {}, {"rmse": 1.0}, frames=x) for x in rows)
    found = differences(one, two)["rmse"]
    change = np.delete(a - b, 7)
    assert found.value == pytest.approx(change.mean()) and found.frames == 39
    means = change[np.random.default_rng(5).integers(0, 39, (4000, 39))].mean(1)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=7e-3)
    assert differences(one, two)["rmse"] == found, "drawn alike"
    alone = differences(*(Evaluation("", {}, {"rmse": 1.0}, frames=x[:1]) for x in rows))["rmse"]
    assert math.isnan(alone.low) and not alone.clear


# ---- edge cases


def test_no_valid_pixel(folders, capsys):
    save("gt", f1=np.zeros(SHAPE), f2=np.where(np.arange(16) < 1, depth(2), np.nan))
    words = ("--pred=near", "--gt=gt", "--protocol=depth-anything-v2", "min_pixels=20")
    found = run(*words).candidate
    assert [row.get("reason") for row in found.frames] == [
        *(None, "no valid pixel", "fewer than 20 valid pixels: 12"),
    ]
    assert (found.summary["images"], found.summary["empty"]) == (1, 2)
    assert found.summary["abs_rel"] == found.frames[0]["abs_rel"]
    why = "near: 1 of 3 images scored; left out: 1 no valid pixel, 1 fewer than 20 valid pixels"
    assert why in capsys.readouterr().out


def test_nothing_is_valid():
    found = one(depth(0), np.zeros(SHAPE), "--protocol=midas", "--kind=disparity")
    assert math.isnan(found.summary["abs_rel"]) and found.summary["images"] == 0
    assert json.loads(Path("evaluation/pred-midas/metrics.json").read_text())["summary"]["abs_rel"] is None


@pytest.mark.parametrize("protocol", ["marigold", "midas", "median", "scale-only"])
def test_a_constant_prediction(protocol):
    crop = ["crop=none"] if protocol == "median" else []
    found = one(np.full(SHAPE, 2.0), depth(0), f"--protocol={protocol}", *crop)
    assert math.isfinite(found.summary["abs_rel"]) and found.summary["abs_rel"] > 0.1
    assert len(np.unique([found.samples[0].prediction])) == 1, "a constant stays one"


def test_a_negative_scale():
    gt = depth(0)
    found = one(10 - gt, gt, "--protocol=marigold", "clip=none")
    assert found.frames[0]["scale"] == pytest.approx(-1) and found.frames[0]["shift"] == pytest.approx(10)
    assert found.summary["abs_rel"] == pytest.approx(0, abs=1e-6)


def test_depth_that_is_not_positive_is_counted(capsys):
    gt = depth(0)
    found = one(np.where(gt > 5, -gt, gt), gt, "--protocol=completion")
    wrong = int((gt > 5).sum())
    assert found.summary["nonpositive"] == wrong
    assert (
        f"pred: {wrong} predictions at valid pixels have a depth <= 0, in 1 images" in capsys.readouterr().out
    )


def test_zeros_in_a_disparity():
    gt = depth(0)
    disparity = 3 / gt - 0.3
    disparity[0, :3] = 0.0
    found = one(disparity, gt, "--protocol=midas", "--kind=disparity")
    frame = load_protocol("midas").prepare(disparity, gt, kind="disparity")
    assert found.summary["nonfinite"] == 0 and found.frames[0]["valid"] == gt.size
    assert found.summary["abs_rel"] == load_protocol("midas").score(frame)["abs_rel"] > 0


def test_predictions_that_are_not_finite_are_counted(capsys):
    pred = depth(0)
    pred[0, :2], pred[1, 0] = np.nan, np.inf
    found = one(pred, depth(0), "--protocol=kitti-eigen", "crop=none")
    assert found.summary["nonfinite"] == 3 and math.isnan(found.summary["abs_rel"])
    assert found.summary["a1"] == pytest.approx(1 - 3 / pred.size)
    assert "pred: 3 predictions at valid pixels are not finite, in 1 images" in capsys.readouterr().out


# ---- which files


def test_a_missing_prediction_is_listed(folders, caplog, capsys):
    Path("far/f1.npy").unlink()
    save("far", other=depth(0))
    found = run("--pred=near", "--pred=far", "--gt=gt", "--protocol=g2")
    near, far = found.methods
    assert far.frames[1] == {"name": "f1", "index": 1, "valid": 0, "nonfinite": 0, "reason": "no prediction"}
    assert (far.summary["images"], far.summary["missing"], near.summary["images"]) == (2, 1, 3)
    assert differences(near, far)["rmse"].frames == 2
    assert "far: 2 of 3 images scored; left out: 1 no prediction" in capsys.readouterr().out
    assert "far: 1 map has no ground truth: other" in caplog.text
    assert far.origin["without_ground_truth"] == 1


@pytest.mark.parametrize("folder", ["near", "gt"])
def test_a_damaged_file(folders, folder, caplog):
    Path(folder, "f1.npy").write_bytes(b"no array")
    words = ("--pred=near", "--gt=gt", "--protocol=g2")
    with pytest.raises(DataError, match=f"{folder}/f1.npy: got a damaged or truncated file"):
        run(*words)
    found = run(*words, "--keep-going").candidate
    assert not found.frames[1].keys() & {"abs_rel", "rmse"}
    assert found.frames[1]["reason"].startswith(f"unreadable: {folder}/f1.npy: got a damaged")
    assert (found.summary["images"], found.summary["unreadable"], found.summary["empty"]) == (2, 1, 0)
    assert f"near: f1 is left out: {folder}/f1.npy" in caplog.text


def test_another_size_is_named(folders):
    save("near", f2=np.ones((6, 8)))
    with pytest.raises(DataError, match="near/f2.npy: the prediction is 6 x 8, its ground truth 12 x 16"):
        run("--pred=near", "--gt=gt", "--protocol=depth-pro")
    assert run("--pred=near", "--gt=gt", "--protocol=depth-pro", "resize=nearest").candidate


def test_masks_and_formats():
    for i in range(2):
        write_depth_png(f"gt/seq/{i}.png", depth(i), 5000)
        write_depth_png(f"pred/{i}.png", np.where(np.arange(16) < 2, 0, 1.1 * depth(i)), 1000)
        mask = np.zeros((*SHAPE, 3), np.uint8)
        mask[2:] = 255
        write_rgb(f"mask/{i}.png", mask)
        write_rgb(f"rgb/{i}.png", mask)
    words = ("--pred=pred", "--gt=gt", "--protocol=scale-only", "--gt-scale=5000", "--pred-scale=1000")
    found = run(*words, "--mask=mask", "--rgb=rgb").candidate
    assert [row["valid"] for row in found.frames] == [160, 160]
    assert [row["nonfinite"] for row in found.frames] == [20, 20], "a 0 in a PNG is no value"
    assert [row["name"] for row in found.frames] == ["seq/0", "seq/1"]
    assert found.samples[0].rgb.shape == (*SHAPE, 3)
    assert found.origin["paired_by"] == "same file name without suffix"
    Path("mask/1.png").unlink()
    with pytest.raises(DataError, match="mask: got no mask for 1 predicted files such as gt/seq/1.png"):
        run(*words, "--mask=mask")


def test_ground_truth_of_hypersim_and_numbers_that_mean_nothing():
    h5py = pytest.importorskip("h5py")
    distance = depth(0)
    distance[0, 0] = 99.0
    save("pred", x_depth_meters=depth(1))
    Path("gt").mkdir()
    with h5py.File("gt/x_depth_meters.hdf5", "w") as file:
        file["dataset"] = distance
    words = ("--pred=pred", "--gt=gt", "--protocol=scale-only", "--gt-invalid", "99", "max_depth=1000")
    with pytest.raises(DataError, match="hypersim_distance"):
        run(*words)
    found = {flag: run(*words, f"--gt-hypersim-distance={flag}").candidate for flag in ("true", "false")}
    assert all(one.frames[0]["valid"] == distance.size - 1 for one in found.values())
    # Off its middle the camera is further away than the image is deep.
    scales = {flag: one.frames[0]["scale"] for flag, one in found.items()}
    assert scales["true"] < scales["false"]


def test_each_method_has_its_kind_and_key(folders):
    for name, gt in folders.items():
        Path("disparity").mkdir(exist_ok=True)
        np.savez(f"disparity/{name}.npz", disparity=0.5 / gt + 0.2, other=gt)
    words = ("--gt=gt", "--protocol=marigold", "--kind=depth", "--kind", "disparity=disparity")
    found = run("--pred=near", "disparity", *words, "--pred-key", "disparity=disparity")
    assert [one.protocol["kind"] for one in found.methods] == ["depth", "disparity"]
    assert [one.summary["abs_rel"] for one in found.methods] == pytest.approx([0, 0], abs=1e-6)
    [out] = Path("evaluation").iterdir()
    notes = (out / "table.md").read_text().splitlines()
    assert [line.partition(";")[0] for line in notes if line.startswith("Protocol")] == [
        *("Protocol of near: marigold", "Protocol of disparity: marigold"),
    ]
    assert "in depth" in notes[-7] and "in inverse depth" in notes[-5]


def test_clips():
    protocol = load_protocol("video-clip")
    clips = {clip: np.stack([depth(seed + i) for i in range(11)]) for clip, seed in (("a", 0), ("b", 20))}
    for clip, gt in clips.items():
        for i, g in enumerate(gt):
            save("gt", **{f"{clip}__{i}": g})
            save("pred", **{f"{clip}__{i}": 1 / g + np.float32(0.01) * i})
    found = run("--pred=pred", "--gt=gt", "--protocol=video-clip").candidate
    assert [(row["name"], row["frames"]) for row in found.frames] == [("a", 11), ("b", 11)]
    pred = np.stack([1 / g + np.float32(0.01) * i for i, g in enumerate(clips["a"])])
    expected = protocol.score(protocol.prepare(pred, clips["a"]))
    assert {name: found.frames[0][name] for name in expected} == expected, "10 comes after 9"
    assert "tae" not in found.summary
    Path("cameras").mkdir()
    camera = {"intrinsics": np.diag([10.0, 10.0, 1.0]), "poses": np.tile(np.eye(4), (11, 1, 1))}
    for clip in clips:
        np.savez(f"cameras/{clip}.npz", **camera)
    words = ("--pred=pred", "--gt=gt", "--protocol=video-clip", "--cameras=cameras")
    found = run(*words).candidate
    extras = {key: torch.from_numpy(value) for key, value in camera.items()}
    frame = protocol.prepare(pred, clips["a"])
    assert found.frames[0]["tae"] == protocol.score(frame, **extras)["tae"] > 0
    np.savez("cameras/b.npz", **{**camera, "poses": camera["poses"][1:]})
    with pytest.raises(DataError, match=r"b.npz: got intrinsics \[3, 3\] and poses \[10, 4, 4\]; expected"):
        run(*words)
    Path("cameras/b.npz").unlink()
    with pytest.raises(DataError, match="cameras/b.npz: got no such file; expected an npz file with"):
        run(*words)
    with pytest.raises(ConfigError, match="--cameras is for protocols of clips; g2 takes single images"):
        run("--pred=pred", "--gt=gt", "--protocol=g2", "--cameras=cameras")
    Path("pred/b/3.npy").unlink()
    lost = run("--pred=pred", "--gt=gt", "--protocol=video-clip").candidate
    assert lost.frames[1]["reason"] == "no prediction: 1 of 11 frames have none"
    assert "1 of 2 clips scored; left out: 1 no prediction" in text_tables([lost])
    save("gt", a__3=np.ones((6, 8)))
    with pytest.raises(DataError, match="3.npy: got a map of 8x6 pixels; expected 16x12, as 0.npy"):
        run("--pred=pred", "--gt=gt", "--protocol=video-clip")


def test_processes_find_the_same(folders):
    ranges = (0.0, 2.0, 5.0)
    given = {"near": "near", "far": "far"}, "gt", load_protocol("marigold")
    one, two = (evaluate_maps(*given, ranges=ranges, num_workers=n, progress=False) for n in (0, 1))
    for a, b in zip(one, two, strict=True):
        assert (a.summary, a.frames, a.ranges) == (b.summary, b.frames, b.ranges)
    assert [row["range"] for row in one[0].ranges] == ["[0, 2) m", "[2, 5) m", "[5, 10) m"]
    assert sum(row["pixels"] for row in one[0].ranges) == sum(row["valid"] for row in one[0].frames)


# ---- the command line


def test_the_protocols_are_listed_and_printed(capsys):
    assert run("--protocols") is None
    assert [line.partition(";")[0] for line in capsys.readouterr().out.splitlines()] == protocol_names()
    assert run("--protocol=midas", "--print-protocol", "clip=[null, 80]") is None
    text = capsys.readouterr().out
    Path("own.yaml").write_text(text)
    assert load_protocol("own.yaml").clip == (None, 80)


def test_the_help_fits_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        run("--protocols", "--help")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"usage: evaluate.py {USAGE}"
    assert [line for line in lines if len(line) > 80] == []


def test_methods_of_one_folder_name_are_told_apart(folders):
    Path("one").mkdir()
    Path("two").mkdir()
    Path("near").rename("one/depth")
    Path("far").rename("two/depth")
    found = run("--pred", "one/depth", "two/depth", "--gt=gt", "--protocol=g2")
    assert [x.name for x in found.methods] == ["one/depth", "two/depth"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pred=near", "--gt=gt"], "--protocol is needed: one of completion, depth-anything-v2, "),
        (["--protocol=g2", "--gt=gt"], "--pred and --gt are needed"),
        (["--protocol=kitty", "--pred=near", "--gt=gt"], "--protocol kitty: there is no protocol 'kitty'"),
        (["--pred=near", "--gt=gt", "--protocol=g2", "crops=garg"], "'crops=garg' is no flag, and no key"),
        (["--pred=near", "--gt=gt", "--protocol=g2", "max_depth=no"], "--protocol g2: max_depth"),
        (["--pred=near", "--gt=gt", "--protocol=g2", "--kind=depths"], "did you mean 'depth'?"),
        (
            ["--pred=near", "--gt=gt", "--protocol=g2", "--kind=disparity"],
            "--kind disparity: g2 has alignment",
        ),
        (["--pred=near", "--gt=gt", "--protocol=g2", "--kind", "x=depth"], "there is no method 'x'"),
        (["--pred=near", "near", "--gt=gt", "--protocol=g2"], "two methods are called"),
        (["--pred=near", "--gt=gt", "--protocol=g2", "--pred-scale=0"], "--pred-scale must be > 0"),
        (["--pred=near", "--gt=gt", "--protocol=g2", "--ranges=3,1"], "--ranges must be ascending"),
        (["--pred=near", "--gt=gt", "--protocol=g2", "--masks=x"], "unknown flag '--masks'; did you mean"),
        (["--pred=near", "--gt=gt", "--protocol=g2", "--num-workers=-1"], "--num-workers must be >= 0"),
        (["--pred=near", "--gt=nowhere", "--protocol=g2"], "nowhere: got no such folder"),
    ],
)
def test_errors(folders, words, message):
    with pytest.raises((ConfigError, DataError)) as error:
        run(*words)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not Path("evaluation").exists()


# ---- from Python


def test_the_example_evaluates_a_pipeline():
    example = runpy.run_path(str(ROOT / "examples/evaluate_pipeline.py"))
    for i in range(2):
        gt = depth(i)
        save("gt", **{f"f{i}": gt})
        # The toy finds the disparity in the picture, to 8 bits.
        write_rgb(f"pictures/f{i}.png", np.repeat(np.rint(255 / gt)[..., None], 3, 2).astype(np.uint8))

    def pipe(image: Image.Image) -> dict[str, object]:
        return {"predicted_depth": torch.from_numpy(np.asarray(image)[..., 0] / np.float32(100))[None]}

    [found] = example["run"](pipe, Path("pictures"), Path("gt"), Path("out"))
    assert found.summary["images"] == 2 and found.summary["abs_rel"] < 0.01
    assert found.protocol["kind"] == "disparity" and found.samples[0].rgb is not None
    assert sorted(path.name for path in Path("out/evaluation").iterdir()) == sorted(files.FILES)
