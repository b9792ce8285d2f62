"""Small trees in the layouts of KITTI depth completion and TUM RGB-D, converted and read back."""

import os
import shlex
import shutil

import numpy as np
import pytest

from depthloss.training.configuration.loaders import DepthData
from depthloss.training.configuration.parser import parse
from depthloss.training.data import build_dataset, convert, read_rgb, write_depth_png, write_rgb
from depthloss.training.data.io import DataError
from depthloss.training.data.sources import associate, find_kitti, find_tum

SHAPE = (24, 80)
DRIVES = {"train": "2011_09_26_drive_0001_sync", "val": "2011_09_26_drive_0002_sync"}


def picture(path, seed, shape=SHAPE):
    write_rgb(path, np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8))


def depth_map(path, seed, scale=256, shape=SHAPE):
    """Whole units of the PNG, from 1 to 8 m; some are invalid."""
    rng = np.random.default_rng(seed)
    units = rng.integers(scale, 8 * scale, shape) * (rng.random(shape) < 0.4)
    write_depth_png(path, units / scale, scale)
    return units


@pytest.fixture
def kitti(tmp_path):
    """Train and val of one drive each, two frames of both cameras, with KITTI raw beside them."""
    root = tmp_path / "kitti"
    units = {}
    for split, drive in DRIVES.items():
        for camera in ("image_02", "image_03"):
            for number in (5, 6):
                seed, file = len(units), f"{number:010d}.png"
                below = f"{split}/{drive}/proj_depth"
                name = f"{drive}/{camera}/{number:010d}"
                units[split, name] = (
                    depth_map(root / "data_depth_annotated" / below / "groundtruth" / camera / file, seed),
                    depth_map(
                        root / "data_depth_velodyne" / below / "velodyne_raw" / camera / file, seed + 100
                    ),
                )
                picture(root / "raw" / drive[:10] / drive / camera / "data" / file, seed)
    return root, units


@pytest.fixture
def selection(tmp_path):
    root = tmp_path / "kitti" / "depth_selection" / "val_selection_cropped"
    units = {}
    for number, camera in ((5, "image_02"), (17, "image_03")):
        form = f"{DRIVES['val']}_{{}}_{number:010d}_{camera}.png".format
        picture(root / "image" / form("image"), number)
        units[f"{DRIVES['val']}/{camera}/{number:010d}"] = (
            depth_map(root / "groundtruth_depth" / form("groundtruth_depth"), number),
            depth_map(root / "velodyne_raw" / form("velodyne_raw"), number + 1),
        )
    return root, units


def run(*arguments):
    convert.main([str(a) for a in arguments])


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as error:
        run(*arguments)
    assert error.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def folder(path, scale=256, **options):
    common = {"image_shape": SHAPE, "min_depth": 0.01, "max_depth": 80.0, "train": False}
    return build_dataset("rgbd-folder", path=path, depth_scale=scale, **{**common, **options})


def in_millimetres(metres):
    return np.rint(np.asarray(metres, np.float64) * 1000)


def test_kitti_is_read_back(kitti, tmp_path, capsys):
    root, units = kitti
    run("kitti-dc", root, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.part"))
    for split in DRIVES:
        data = folder(tmp_path / "out" / split)
        assert len(data) == 4
        for index in range(4):
            frame, name = data.load(index), data.name(index)
            depth, sweep = units[split, name]
            np.testing.assert_array_equal(frame.depth * 256, depth)
            np.testing.assert_array_equal(in_millimetres(frame.input_depth), in_millimetres(sweep / 256))
            drive, camera, number = name.split("/")
            raw = root / "raw" / drive[:10] / drive / camera / "data" / f"{number}.png"
            np.testing.assert_array_equal(frame.rgb, read_rgb(raw))
    out = capsys.readouterr().out
    assert "train: 4 frames with input_depth, depth, rgb; files: 12 written" in out
    assert "depth_scale: 256" in out


def test_the_printed_command_trains_on_it(kitti, selection, tmp_path, capsys):
    run("kitti-dc", kitti[0], tmp_path / "out")
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:2] == ["depthloss", "train"]
    cfg, _ = parse(None, command[2:])
    sections = {split: getattr(cfg.datasets, split) for split in ("train", "validation", "test")}
    data = DepthData(sections, cfg.datasets.image_shape, 0.1, 80.0, cfg.datasets.augmentation)
    assert {split: len(found) for split, found in data.datasets.items()} == {"train": 4, "validation": 2}
    assert data.datasets["train"][0]["input_depth"].any() and cfg.model.depth_net.sparse_branch
    assert cfg.datasets.image_shape == (192, 640) and cfg.model.params.max_depth == 80


def test_the_selection_of_kitti_is_read_back(selection, tmp_path):
    root, units = selection
    for source in (root, root.parent, tmp_path / "kitti"):
        out = tmp_path / f"out-{source.name}"
        run("kitti-dc", source, out)
        data = folder(out / "val_selection_cropped")
        assert [data.name(i) for i in range(2)] == sorted(units)
        for index in range(2):
            depth, sweep = units[data.name(index)]
            np.testing.assert_array_equal(data.load(index).depth * 256, depth)
            np.testing.assert_array_equal(data.load(index).input_depth * 256, sweep)


def test_other_places_of_kitti_are_found(kitti, tmp_path):
    """Both archives unpacked into one tree, pictures given by --raw or beside the drive, as jpg."""
    root, units = kitti
    for split in DRIVES:
        shutil.copytree(root / "data_depth_annotated" / split, tmp_path / "one" / split)
        shutil.copytree(root / "data_depth_velodyne" / split, tmp_path / "one" / split, dirs_exist_ok=True)
    run("kitti-dc", tmp_path / "one", tmp_path / "out", "--raw", root / "raw")
    assert len(folder(tmp_path / "out" / "val")) == 4
    drive = DRIVES["val"]
    shutil.rmtree(tmp_path / "one" / "train")
    for camera in ("image_02", "image_03"):
        for number in (5, 6):
            picture(tmp_path / "one" / "val" / drive / camera / "data" / f"{number:010d}.jpg", 1)
    run("kitti-dc", tmp_path / "one", tmp_path / "jpg")
    assert len(list((tmp_path / "jpg" / "val" / "rgb").rglob("*.jpg"))) == 4
    assert len(folder(tmp_path / "jpg" / "val")) == 4


def test_again_skips_what_is_equal_and_replaces_what_is_not(kitti, tmp_path, capsys):
    root, units = kitti
    out = tmp_path / "out"
    run("kitti-dc", root, out)
    files = sorted(p for p in out.rglob("*") if p.is_file())
    before = {p: (p.read_bytes(), p.stat().st_ino) for p in files}
    cut, gone = files[0], files[-1]
    cut.write_bytes(before[cut][0][:40])
    gone.unlink()
    (gone.parent / f".{gone.name}.part").write_bytes(b"left by a run that was killed")
    capsys.readouterr()
    run("kitti-dc", root, out)
    printed = capsys.readouterr().out
    assert "11 there already" in printed and "1 replaced" in printed and "1 written" in printed
    assert sorted(p for p in out.rglob("*") if p.is_file()) == files
    assert all(p.read_bytes() == data for p, (data, _) in before.items())
    assert all(p.stat().st_ino == inode for p, (_, inode) in before.items() if p not in (cut, gone))
    assert len(folder(out / "train")) == len(folder(out / "val")) == 4


def test_hard_links_and_copies_where_there_are_none(kitti, tmp_path, monkeypatch, caplog, capsys):
    root, _ = kitti
    run("kitti-dc", root, tmp_path / "linked", "--link")
    files = [p for p in (tmp_path / "linked").rglob("*.png")]
    assert len(files) == 24 and all(p.stat().st_nlink == 2 for p in files)
    capsys.readouterr()
    run("kitti-dc", root, tmp_path / "linked", "--link")
    assert capsys.readouterr().out.count("files: 12 there already") == 2

    def refuse(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    run("kitti-dc", root, tmp_path / "copied", "--link")
    assert all(p.stat().st_nlink == 1 for p in (tmp_path / "copied").rglob("*.png"))
    assert caplog.text.count("no hard link is possible (Invalid cross-device link), files are copied") == 2
    assert len(folder(tmp_path / "copied" / "train")) == 4


def test_a_full_disk_leaves_whole_files_only(kitti, tmp_path, monkeypatch, capsys):
    root, _ = kitti
    copy = shutil.copyfile

    def half(source, target):
        if "image_03" in str(source):
            target.write_bytes(source.read_bytes()[:20])
            raise OSError(28, "No space left on device", str(target))
        return copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", half)
    message = refusal(capsys, "kitti-dc", root, tmp_path / "out")
    assert "No space left on device" in message and message.endswith("run the same command again, it resumes")
    assert not list((tmp_path / "out").rglob("*.part"))
    assert len([p for p in (tmp_path / "out").rglob("*.png")]) == 6
    monkeypatch.setattr(shutil, "copyfile", copy)
    run("kitti-dc", root, tmp_path / "out")
    assert len(folder(tmp_path / "out" / "train")) == 4


def test_missing_files_of_kitti_are_named(kitti, tmp_path, capsys):
    root, _ = kitti
    drive = DRIVES["train"]
    missing = root / "raw" / drive[:10] / drive / "image_02" / "data" / "0000000005.png"
    missing.unlink()
    sweeps = root / "data_depth_velodyne" / "train" / drive / "proj_depth" / "velodyne_raw"
    (sweeps / "image_03" / "0000000006.png").unlink()
    message = refusal(capsys, "kitti-dc", root, tmp_path / "out")
    assert message.startswith(
        f"convert: error: {missing}: got no such file, and of 1 more frame one is missing"
    )
    assert f"a file of frame {drive}/image_02/0000000005" in message and "--skip-missing" in message
    assert not (tmp_path / "out").exists()
    run("kitti-dc", root, tmp_path / "out", "--skip-missing")
    assert len(folder(tmp_path / "out" / "train")) == 2 and len(folder(tmp_path / "out" / "val")) == 4

    (tmp_path / "empty").mkdir()
    assert "unpack data_depth_annotated.zip" in refusal(
        capsys, "kitti-dc", tmp_path / "empty", tmp_path / "x"
    )
    assert "got no such folder" in refusal(capsys, "kitti-dc", tmp_path / "nowhere", tmp_path / "x")
    assert "the same folder as SRC" in refusal(capsys, "kitti-dc", root, root)
    shutil.rmtree(root / "raw" / drive[:10] / drive)
    message = refusal(capsys, "kitti-dc", root, tmp_path / "y", "--skip-missing")
    assert "of 3 more frames one is missing" in message  # None of this split would be left.


# ---- TUM


@pytest.fixture
def tum(tmp_path):
    """Pictures every 0.1 s, depth maps 15 ms later; the third one's is missing, the last one's is late."""
    root = tmp_path / "rgbd_dataset_freiburg1_xyz"
    rgb, depth, units = ["# color images"], ["# depth maps", "# timestamp filename"], {}
    for i in range(5):
        time = 1305031102.175304 + i / 10
        picture(root / "rgb" / f"{time:.6f}.png", i, (48, 64))
        rgb.append(f"{time:.6f} rgb/{time:.6f}.png")
        if i == 2:
            continue
        later = time + (0.045 if i == 4 else 0.015)
        units[f"{time:.6f}"] = depth_map(root / "depth" / f"{later:.6f}.png", i, 5000, (48, 64))
        depth.append(f"{later:.6f} depth/{later:.6f}.png")
    (root / "rgb.txt").write_text("\n".join(rgb) + "\n")
    (root / "depth.txt").write_text("\n".join(depth) + "\n\n")
    return root, units


def test_tum_is_associated_by_time_and_read_back(tum, tmp_path, capsys):
    root, units = tum
    run("tum", root, tmp_path / "out")
    data = folder(tmp_path / "out", 5000)
    assert [data.name(i) for i in range(len(data))] == sorted(units)[:3]
    for index in range(3):
        frame, name = data.load(index), data.name(index)
        np.testing.assert_array_equal(in_millimetres(frame.depth), in_millimetres(units[name] / 5000))
        np.testing.assert_array_equal(frame.rgb, read_rgb(root / "rgb" / f"{name}.png"))
        assert frame.input_depth is None
    out = capsys.readouterr().out
    assert "3 frames of 5 pictures and 4 depth maps" in out and "depth_scale: 5000" in out
    cfg, _ = parse(None, shlex.split(out.splitlines()[-1])[2:])
    assert cfg.datasets.train.depth_scale == 5000 and cfg.datasets.image_shape == (192, 256)
    assert cfg.datasets.validation.dataset is None and not cfg.model.depth_net.sparse_branch
    run("tum", root, tmp_path / "more", "--max-difference", "0.05")
    assert len(folder(tmp_path / "more", 5000)) == 4


@pytest.mark.parametrize("depth_first", [False, True])
def test_tum_by_a_file_of_associations(tum, tmp_path, depth_first, caplog):
    root, units = tum
    rows = []
    for rgb, depth in ((1, 2), (3, 3)):  # Other pairs than the time stamps give.
        words = [
            (root / f"{kind}.txt").read_text().split("\n")[i + skip]
            for kind, i, skip in (("rgb", rgb, 1), ("depth", depth, 2))
        ]
        rows.append(" ".join(reversed(words) if depth_first else words))
    file = root / "associations.txt"
    file.write_text("\n".join(rows))
    with caplog.at_level("INFO"):
        run("tum", root, tmp_path / "out")
    assert f"{file} is used" in caplog.text
    file.rename(tmp_path / "pairs.txt")
    run("tum", root, tmp_path / "given", "--associations", tmp_path / "pairs.txt")
    for data in (folder(tmp_path / "out", 5000), folder(tmp_path / "given", 5000)):
        names = [f"{1305031102.175304 + i / 10:.6f}" for i in (1, 3)]
        assert [data.name(i) for i in range(2)] == names
        # The depth maps are those of the lines, one of which lies 0.2 s from its picture.
        lists = sorted(units)
        np.testing.assert_array_equal(
            in_millimetres(data.load(0).depth), in_millimetres(units[lists[2]] / 5000)
        )


def test_faults_of_tum_name_file_and_fix(tum, tmp_path, capsys):
    root, _ = tum
    out = tmp_path / "out"
    assert "raise --max-difference" in refusal(capsys, "tum", root, out, "--max-difference", "0.001")
    message = refusal(capsys, "tum", root, out, "--associations", root / "rgb.txt")
    assert "rgb.txt, line 2: got '1305031102.175304 rgb/" in message and "TIME depth/FILE" in message
    (root / "bad.txt").write_text("1 rgb/a.png 1 rgb/b.png")
    assert 'exactly one of the paths must hold "depth"' in refusal(
        capsys, "tum", root, out, "--associations", root / "bad.txt"
    )
    (root / "twice.txt").write_text("1 rgb/a.png 1 depth/b.png\n1 rgb/a.png 2 depth/c.png")
    assert "got two frames a" in refusal(capsys, "tum", root, out, "--associations", root / "twice.txt")
    (root / "empty.txt").write_text("# nothing\n")
    assert "got no frame" in refusal(capsys, "tum", root, out, "--associations", root / "empty.txt")
    victim = next((root / "depth").iterdir())
    victim.unlink()
    message = refusal(capsys, "tum", root, out)
    assert f"{victim}: got no such file" in message and "unpack the whole sequence" in message
    (root / "depth.txt").write_text("soon depth/x.png")
    message = refusal(capsys, "tum", root, out)
    assert message.endswith("depth.txt, line 1: got 'soon depth/x.png'; expected TIME FILE; correct the line")
    (root / "depth.txt").unlink()
    assert f"{root / 'depth.txt'}: got no such file; expected lines" in refusal(capsys, "tum", root, out)


def test_a_depth_map_of_8_bits_is_refused(tum, tmp_path, capsys):
    root, _ = tum
    for file in (root / "depth").iterdir():
        picture(file, 0, (48, 64))
    message = refusal(capsys, "tum", root, tmp_path / "out")
    assert "got an 8-bit RGB PNG; expected a 16-bit greyscale PNG" in message


def test_association_takes_the_closest_and_each_stamp_once():
    assert associate([0.0, 1.0, 2.0], [0.01, 1.5, 2.02], 0.02) == [(0, 0), (2, 2)]
    # 0.1 is closest to 0.11, although 0.0 asks for it first.
    assert associate([0.0, 0.1], [0.11], 0.2) == [(1, 0)]
    assert associate([0.0, 0.1], [0.11, -0.05], 0.2) == [(0, 1), (1, 0)]
    assert associate([], [1.0], 1.0) == associate([1.0], [5.0], 1.0) == []
    rng = np.random.default_rng(0)
    first, second = np.sort(rng.random(300) * 10), rng.permutation(np.arange(300) / 30)
    pairs = associate(first, second, 0.02)
    assert len(pairs) > 50 and all(abs(first[i] - second[j]) <= 0.02 for i, j in pairs)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)


def test_finders_say_where_files_should_be(tmp_path):
    with pytest.raises(DataError, match="no ground truth of KITTI depth completion"):
        find_kitti(tmp_path)
    with pytest.raises(DataError, match="rgb.txt: got no such file"):
        find_tum(tmp_path)
