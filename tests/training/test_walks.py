"""Folders as other people have them, the same for every data set: links, suffixes, junk, pipes, EXIF."""

import os
import socket

import numpy as np
import pytest
from PIL import Image

from depthloss.training.data import DataError, build_dataset, read_rgb, write_depth_png, write_rgb
from depthloss.training.data.convert import main as convert
from depthloss.training.data.folder import RGBDFolder
from depthloss.training.data.listing import Lookup, by_name, walk

from .strangers import COMMON, LAYOUTS, frames, make, rgbd, warnings

every_data_set = pytest.mark.parametrize("name", LAYOUTS)


def files_below(root):
    return [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]


# ---- links


@every_data_set
def test_linked_folders_are_followed_under_their_own_names(name, tmp_path):
    options, scene, *_ = make(name, tmp_path / "data")
    before = frames(name, tmp_path / "data", **options)
    assert len(before) == 3
    scene.rename(tmp_path / "elsewhere")
    scene.symlink_to(tmp_path / "elsewhere")
    assert frames(name, tmp_path / "data", **options) == before
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert frames(name, tmp_path / "link", **options) == before


@pytest.mark.parametrize("name", ["rgbd-folder", "nyu-h5"])
def test_two_links_are_two_scenes_and_a_loop_is_none(name, tmp_path, caplog):
    options, scene, *_ = make(name, tmp_path)
    folders = ("rgb", "depth", "input_depth", "mask") if name == "rgbd-folder" else ("",)
    for folder in folders:
        for again in ("again", "once_more"):
            (tmp_path / folder / again).symlink_to(tmp_path / folder / scene.name)
        (tmp_path / folder / "kitchen_0001").mkdir(exist_ok=True)
        (tmp_path / folder / "kitchen_0001/up").symlink_to("..")
    found = frames(name, tmp_path, **options)
    assert len(found) == 7  # two of bath, in bath, again and once_more, and one of kitchen
    for scene_again in ("again", "once_more"):
        a, b = ([v for k, v in found.items() if k.startswith(f"{s}/")] for s in (scene_again, scene.name))
        assert [v[:3] for v in a] == [v[:3] for v in b] and len(a) == 2
    loops = [tmp_path / folder / "kitchen_0001/up" for folder in folders]
    assert warnings(caplog) == [f"{p}: left out, a link to a folder that it lies in" for p in loops]


def test_walk_ends_where_links_lead_upwards_or_to_each_other(tmp_path):
    for folder in ("root/a", "root/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.png").touch()
    (tmp_path / "root/a/to_b").symlink_to("../b")
    (tmp_path / "root/b/to_a").symlink_to("../a")
    (tmp_path / "root/top").symlink_to("/")
    (tmp_path / "root/self.png").symlink_to("self.png")  # a link to itself is a file that cannot be read
    assert walk(tmp_path / "root", (".png",)) == [
        *("a/to_b/x.png", "a/x.png", "b/to_a/x.png", "b/x.png", "self.png")
    ]


def test_converters_follow_links(tmp_path):
    drive = "2011_09_26_drive_0001_sync"
    real = tmp_path / "real"
    for kind in ("groundtruth", "velodyne_raw"):
        write_depth_png(real / f"{kind}/image_02/0000000005.PNG", np.full((8, 12), 4.0))
        (real / f"{kind}/image_02/._0000000005.png").touch()
    write_rgb(real / "image/0000000005.JPG", np.zeros((8, 12, 3), np.uint8))
    source = tmp_path / "source"
    depth = source / "train" / drive / "proj_depth"
    depth.parent.mkdir(parents=True)
    depth.symlink_to(real)
    (source / drive[:10] / drive / "image_02").mkdir(parents=True)
    (source / drive[:10] / drive / "image_02/data").symlink_to(real / "image")
    (depth / "groundtruth/image_02/0000000009.png").mkdir()
    convert(["kitti-dc", str(source), str(tmp_path / "out")])
    found = [path.relative_to(tmp_path / "out").as_posix() for path in files_below(tmp_path / "out")]
    name = f"{drive}/image_02/0000000005"
    suffixes = {"depth": ".png", "input_depth": ".png", "rgb": ".jpg"}
    assert found == [f"train/{folder}/{name}{suffix}" for folder, suffix in suffixes.items()]


# ---- names of files


@every_data_set
@pytest.mark.parametrize("change", [str.upper, str.title])
def test_suffixes_count_in_any_case(name, tmp_path, change):
    options, *_ = make(name, tmp_path)
    before = frames(name, tmp_path, **options)
    for path in files_below(tmp_path):
        if path.suffix in (".png", ".h5"):
            path.rename(path.with_suffix(change(path.suffix)))
    assert frames(name, tmp_path, **options) == before


@every_data_set
def test_what_systems_put_beside_pictures_is_no_picture(name, tmp_path):
    options, _, picture, depth = make(name, tmp_path)
    before = frames(name, tmp_path, **options)
    for folder in {picture.parent, depth.parent, tmp_path}:
        for junk in ("@eaDir", "__MACOSX", "#recycle", "lost+found", ".thumbs"):
            (folder / junk / picture.name).mkdir(parents=True)
            (folder / junk / f"1{picture.suffix}").write_bytes(b"no picture")
        (folder / f"1{picture.suffix}").mkdir()
        for junk in (".DS_Store", f"._{picture.name}", "Thumbs.db"):
            (folder / junk).write_bytes(b"no picture")
    (tmp_path / "classes/@eaDir").mkdir(parents=True)
    assert frames(name, tmp_path, **options) == before


def test_two_files_of_one_name(tmp_path):
    for file in ("a.png", "a.PNG", "b.JPG"):
        (tmp_path / file).touch()
    message = r"got a\.PNG and a\.png; expected one image per name; remove one of the two"
    with pytest.raises(DataError, match=message):
        by_name(tmp_path, (".png",))
    lookup = Lookup(tmp_path)
    assert lookup.file("a.png", (".png",)) == "a.png"  # the one that is meant
    assert lookup.file("b.png", (".png", ".jpg")) == "b.JPG"
    assert lookup.file("b.png", (".png",)) is None
    with pytest.raises(DataError, match=message):
        lookup.file("a", (".png",))


# ---- what is no file


def special(path, kind):
    path.unlink()
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        here = os.getcwd()
        os.chdir(path.parent)  # The path of a socket must be short.
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
        os.chdir(here)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to("gone")


@every_data_set
@pytest.mark.parametrize("which", ["picture", "depth"])
@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a broken link, to gone"])
def test_pipes_and_devices_are_refused_by_name(name, tmp_path, which, kind):
    options, _, picture, depth = make(name, tmp_path)
    path = picture if which == "picture" else depth
    special(path, kind)
    data = build_dataset(name, path=tmp_path, **{**COMMON, **options, "skip_bad_frames": True})
    faults = [fault for index in range(3) for fault in data.faults(index)]
    assert f"{path}: got {kind}; expected " in faults[0]
    assert sum(data[i]["skipped"] for i in range(3)) == 1
    with pytest.raises(DataError, match=f"{path.name}: got {kind}; expected"):
        data = build_dataset(name, path=tmp_path, **{**COMMON, **options})
        for index in range(3):
            data.load(index)


def test_lists_and_sources_that_are_no_files(tmp_path, capsys):
    options, *_ = make("kitti", tmp_path / "kitti")
    special(tmp_path / "kitti/split.txt", "a named pipe")
    with pytest.raises(DataError, match=r"split\.txt: got a named pipe; expected a text file with one image"):
        build_dataset("kitti", path=tmp_path / "kitti", **COMMON, **options)
    options, *_ = make("ncdb", tmp_path / "ncdb")
    special(tmp_path / "ncdb/all.json", "a socket")
    with pytest.raises(DataError, match=r"all\.json: got a socket; expected a JSON list"):
        build_dataset("ncdb", path=tmp_path / "ncdb", **COMMON, **options)
    (tmp_path / "tum").mkdir()
    os.mkfifo(tmp_path / "tum/a.png")
    write_depth_png(tmp_path / "tum/depth.png", np.ones((8, 12)))
    (tmp_path / "tum/associations.txt").write_text("1 a.png 1 depth.png")
    with pytest.raises(SystemExit):
        convert(["tum", str(tmp_path / "tum"), str(tmp_path / "out")])
    assert "tum/a.png: got a named pipe; expected a file of frame a; " in capsys.readouterr().err


# ---- EXIF


def stored(upright, orientation):
    """The pixels that a file with this orientation has for a picture [H, W, 3]."""
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(turns[orientation](upright))


def write_exif(path, pixels, orientation):
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_orientation_is_applied_where_it_makes_the_picture_fit(tmp_path, orientation):
    upright = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    pixels = stored(upright, orientation if orientation < 9 else 1)
    write_exif(tmp_path / "a.png", pixels, orientation)
    h, w = pixels.shape[:2]
    if orientation in (1, 9):  # upright, and a value that means nothing
        for shape in (None, (4, 6), (5, 5)):
            np.testing.assert_array_equal(read_rgb(tmp_path / "a.png", shape), upright)
    elif orientation >= 5:
        np.testing.assert_array_equal(read_rgb(tmp_path / "a.png", (4, 6)), upright)
        np.testing.assert_array_equal(read_rgb(tmp_path / "a.png", (6, 4)), pixels)
    else:
        message = rf"a\.png: got an EXIF orientation \({orientation}\), with and without which the image fits"
        with pytest.raises(DataError, match=message):
            read_rgb(tmp_path / "a.png", (4, 6))
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), pixels)
    if orientation in range(2, 9):
        message = (
            rf"a\.png: got {w}x{h} pixels, or 6x4 by its EXIF orientation; expected 5x5 as the depth map"
        )
        with pytest.raises(DataError, match=message):
            read_rgb(tmp_path / "a.png", (5, 5))


@pytest.mark.parametrize("name", ["rgbd-folder", "kitti", "ncdb"])
def test_a_picture_of_a_telephone_fits_its_depth_map(name, tmp_path):
    options, _, picture, _ = make(name, tmp_path)
    upright = read_rgb(picture)
    write_exif(picture, stored(upright, 6), 6)
    data = build_dataset(name, path=tmp_path, **{**COMMON, **options})
    index = next(i for i in range(3) if data.files(i)["rgb"][0] == picture)
    np.testing.assert_array_equal(data.load(index).rgb, upright)
    write_exif(picture, stored(upright, 3), 3)
    (fault,) = data.faults(index)
    assert fault.startswith(f"{picture}: got an EXIF orientation (3), with and without which the image fits")


def test_damaged_exif_is_none(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=b"Exif\0\0no tiff at all")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg", (4, 6)), pixels)


def test_exif_that_cannot_be_written_again_still_turns_the_picture(tmp_path):
    upright = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    # A TIFF header, and two entries: a width that is a text, and orientation 6.
    entries = b"\0\x01\x02\0\x04\0\0\0abc\0", b"\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    exif = b"II*\0\x08\0\0\0\x02\0" + b"".join(entries) + b"\0\0\0\0"
    Image.fromarray(stored(upright, 6)).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png", (4, 6)), upright)


def test_pictures_of_another_format_are_read_by_their_own_reader(tmp_path):
    class Halved(RGBDFolder):
        def files(self, index):
            files = super().files(index)
            return {"depth": files["depth"], "rgb": (files["rgb"][0], lambda file: read_rgb(file) // 2)}

    rgbd(tmp_path, folders=("depth",))
    plain, own = (kind(path=tmp_path, **COMMON) for kind in (RGBDFolder, Halved))
    np.testing.assert_array_equal(own.load(0).rgb, plain.load(0).rgb // 2)
