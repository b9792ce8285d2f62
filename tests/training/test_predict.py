"""The command predict.py, on a network whose depth is known: 1 m where there is no red, 5 m in full red."""

import errno
import logging
import os
import runpy
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from depthloss.training.configuration import sections as config
from depthloss.training.configuration.build import build_model
from depthloss.training.configuration.parser import parse
from depthloss.training.data import (
    DataError,
    read_depth_png,
    read_mask,
    read_picture,
    read_rgb,
    write_depth_png,
)
from depthloss.training.drawing.colours import DEPTH_COLOURS
from depthloss.training.errors import ConfigError
from depthloss.training.prediction import cli, pictures
from depthloss.training.prediction.pictures import find_pictures

from .conftest import TINY

pytestmark = pytest.mark.usefixtures("one_thread")


class Known(nn.Module):
    """Depth from the red channel; with `ramp`, the column from 1 m on; sparse depth where there is some."""

    depth_output, size_multiple = "depth", 8
    seen: list[tuple[int, ...]] = []

    def __init__(self, ramp: bool = False, far: float = 4.0) -> None:
        super().__init__()
        self.one, self.ramp, self.far = nn.Parameter(torch.ones(())), ramp, far

    def forward(self, rgb, input_depth=None):
        Known.seen.append(tuple(rgb.shape))
        if rgb.shape[2] > 100:
            raise ValueError("more than 100 rows")
        depth = self.one + self.far * rgb[:, :1]
        if self.ramp:
            depth = (1 + torch.arange(rgb.shape[3])).float().expand_as(depth)
        return depth if input_depth is None else torch.where(input_depth > 0, input_depth, depth)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory, with an untrained checkpoint at known.ckpt."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(config.NETWORKS, "Known", Known)
    monkeypatch.setattr(Known, "seen", [])
    save()
    return tmp_path


def save(method="l1", **keywords) -> None:
    model = {"depth_net": {"name": "Known", **keywords}, "loss": {"supervised_method": method}}
    cfg, text = parse(TINY | {"model": model}, [])
    weights = {f"model.{name}": value for name, value in build_model(cfg).state_dict().items()}
    torch.save({"config": yaml.safe_load(text), "state_dict": weights}, "known.ckpt")


def picture(shape=(13, 21), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def write(file, array=None, **options) -> np.ndarray:
    array = picture() if array is None else array
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, **options)
    return array


def depth_of(array: np.ndarray) -> np.ndarray:
    return (1 + 4 * (array[..., 0].astype(np.float32) / np.float32(255))).astype(np.float32)


def predicted(*arguments):
    return cli.run(["known.ckpt", *map(str, arguments), "--device=cpu"])


def files(folder="out") -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


# ---- the results


def test_three_results_of_each_image(here, caplog):
    images = {name: write(f"in/{name}.png", picture(seed=i)) for i, name in enumerate(("a", "sub/b"))}
    with caplog.at_level(logging.INFO, "depthloss"):
        report = predicted("in", "--out=out", "--batch-size=2")
    assert (report.done, report.faults) == (2, [])
    results = (("depth", "png"), ("npy", "npy"), ("preview", "png"))
    assert files() == sorted(f"{kind}/{name}.{suffix}" for name in images for kind, suffix in results)
    for name, rgb in images.items():
        depth = np.load(f"out/npy/{name}.npy")
        assert depth.dtype == np.float32 and depth.shape == (13, 21)
        np.testing.assert_allclose(depth, depth_of(rgb), rtol=1e-6)
        png = Image.open(f"out/depth/{name}.png")
        assert png.text == {"Comment": "depth in metres = value / 256; 0 = none"}
        assert np.array_equal(np.asarray(png), np.rint(depth.astype(np.float64) * 256))
        preview = np.asarray(Image.open(f"out/preview/{name}.png"))
        assert preview.shape == (13, 21, 3) and preview.dtype == np.uint8
        assert preview[np.unravel_index(depth.argmin(), depth.shape)].sum() > 600  # near is bright
        assert preview[np.unravel_index(depth.argmax(), depth.shape)].sum() < 60
    assert Known.seen == [(2, 3, 16, 24)]
    assert caplog.messages[:-1] == [
        "run: known.ckpt, 0 epochs",
        "images: 2, each at its own size, padded to multiples of 8; the network was trained at 32x64 "
        "(--resize training)",
        "out/depth: 2 files .png, metres = value / 256, 0 = none",
        "out/npy: 2 files .npy, metres, float32",
        "out/preview: 2 files .png, near is bright",
    ]


def test_formats_scale_and_colours_of_choice(here):
    rgb = write("a.png", np.zeros((8, 8, 3), np.uint8))
    predicted("a.png", "--out=out", "--formats=png,preview", "--png-scale=1000", "--preview-range", 1, 80)
    assert files() == ["depth/a.png", "preview/a.png"]
    assert (np.asarray(Image.open("out/depth/a.png")) == 1000).all() and (depth_of(rgb) == 1).all()
    nearest = (255 * np.array(DEPTH_COLOURS(0.0)[:3])).astype(np.uint8)
    assert (np.asarray(Image.open("out/preview/a.png")) == nearest).all()


def test_images_of_one_size_share_a_batch(here):
    for i, shape in enumerate([(13, 21), (8, 8), (16, 24), (8, 8), (13, 20), (30, 30)]):
        write(f"in/{i}.png", picture(shape, seed=i))
    report = predicted("in", "--out=out", "--formats=npy", "--batch-size=2", "--num-workers=1")
    assert report.done == 6
    assert Known.seen == [(2, 3, 16, 24), (2, 3, 8, 8), (1, 3, 16, 24), (1, 3, 32, 32)]
    for i in range(6):
        rgb = np.asarray(Image.open(f"in/{i}.png"))
        np.testing.assert_allclose(np.load(f"out/npy/{i}.npy"), depth_of(rgb), rtol=1e-6)


def test_images_of_many_sizes_do_not_pile_up(here, monkeypatch):
    for i in range(10):
        write(f"in/{i}.png", picture((8, 8 * (i + 1))))

    def read(path):
        Known.seen.append("read")
        return read_picture(path)

    monkeypatch.setattr(pictures, "read_picture", read)
    assert predicted("in", "--out=out", "--formats=npy", "--batch-size=2").done == 10
    assert Known.seen[:10] == [*["read"] * 8, (1, 3, 8, 8), "read"]


@pytest.mark.parametrize("resize", ["training", "32x64"])
def test_resized_and_back(here, resize):
    write("a.png", np.full((50, 40, 3), 255, np.uint8))
    predicted("a.png", "--out=out", "--formats=npy", "--resize", resize)
    assert Known.seen == [(1, 3, 32, 64)]
    depth = np.load("out/npy/a.npy")
    assert depth.shape == (50, 40) and np.allclose(depth, 5, rtol=1e-6)


def test_the_mean_with_the_mirrored_image_is_of_inverse_depth(here):
    save(ramp=True)
    write("a.png", picture((8, 8)))
    predicted("a.png", "--out=out", "--formats=npy", "--flip-tta")
    column = np.arange(1.0, 9)
    np.testing.assert_allclose(
        np.load("out/npy/a.npy"), np.tile(2 / (1 / column + 1 / column[::-1]), (8, 1)), rtol=1e-6
    )


def test_what_16_bits_cannot_hold_is_counted(here, caplog):
    save(far=400.0)
    write("a.png", np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8))
    assert predicted("a.png", "--out=out").clipped == {"a": 1}
    assert np.asarray(Image.open("out/depth/a.png")).tolist() == [[65535, 256]]
    assert np.load("out/npy/a.npy")[0, 0] == pytest.approx(401)
    assert (
        "--png-scale 256: 16 bits hold 0.00391 to 255.996 m; 1 pixel of 1 image, such as a, beyond are "
        "written as the nearest of the two"
    ) in caplog.text
    assert predicted("a.png", "--out=coarse", "--png-scale=0.2").clipped == {"a": 1}
    assert np.asarray(Image.open("coarse/depth/a.png")).tolist() == [[80, 1]]


def test_what_is_not_finite_is_counted(here, caplog):
    save(far=float("inf"))
    write("a.png", np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8))
    assert predicted("a.png", "--out=out").nonfinite == {"a": 2}  # 0 * inf is NaN
    assert np.asarray(Image.open("out/depth/a.png")).tolist() == [[0, 0]]
    assert (np.asarray(Image.open("out/preview/a.png")) == 153).all()
    assert "not finite: 2 pixels of 1 image, such as a; 0 in the PNG, grey in the preview" in caplog.text


def test_a_loss_that_leaves_the_scale_open_is_told(here, caplog):
    save(method="sparse-affine-invariant")
    write("a.png")
    predicted("a.png", "--out=out")
    assert (
        "trained with affine-invariant, which leaves scale and shift open: the values are no" in caplog.text
    )


# ---- sparse depth


def test_sparse_depth_is_paired_by_name(here):
    sparse = np.zeros((13, 21))
    sparse[2, 3] = 7.0
    sparse[4, 5] = 200.0  # beyond the network's range
    rgb = write("in/sub/a.png")
    write("in/lacks.png")
    write("in/small.jpg", exif=orientation(6))
    for name, depth in (("sub/a", sparse), ("small", sparse)):
        write_depth_png(f"sparse/{name}.png", depth, 100.0)
    report = predicted("in", "--out=out", "--sparse=sparse", "--sparse-scale=100", "--formats=npy")
    expected = depth_of(rgb)
    expected[2, 3] = 7.0
    np.testing.assert_allclose(np.load("out/npy/sub/a.npy"), expected, rtol=1e-6)
    assert [fault.partition("; ")[0] for fault in report.faults] == [
        "sparse/lacks.png: got no such file",
        "sparse/small.png: got 21x13 pixels",
    ]
    assert (
        f"expected 13x21 as {here}/in/small.jpg has (turned as its EXIF orientation says)" in report.faults[1]
    )


# ---- what is an image


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = value
    return exif


def test_every_kind_of_image_is_read(tmp_path):
    rgb = picture((6, 4))
    grey = rgb[..., 0]
    three = np.repeat(grey[..., None], 3, 2)
    alpha = np.dstack([rgb, grey])
    bits = grey > 127
    write(tmp_path / "rgb.png", rgb)
    write(tmp_path / "rgba.png", alpha)
    write(tmp_path / "grey.bmp", grey)
    write(tmp_path / "grey_alpha.png", np.dstack([grey, grey]))
    write(tmp_path / "sixteen.png", grey.astype(np.uint16) * 257)
    write(tmp_path / "sixteen.tiff", grey.astype(np.uint16) * 257 + 100)
    write(tmp_path / "integers.tiff", grey.astype(np.int32) * 257)
    write(tmp_path / "bits.png", bits)
    palette = Image.fromarray(three).quantize(256)
    palette.save(tmp_path / "palette.png", transparency=0)
    for name in ("rgb.png", "rgba.png"):
        assert np.array_equal(read_picture(tmp_path / name)[0], rgb), name
    for name in ("grey.bmp", "grey_alpha.png", "sixteen.png", "sixteen.tiff", "integers.tiff", "palette.png"):
        assert np.array_equal(read_picture(tmp_path / name)[0], three), name
    assert np.array_equal(
        read_picture(tmp_path / "bits.png")[0], np.repeat(bits[..., None], 3, 2) * np.uint8(255)
    )
    write(tmp_path / "cmyk.jpg", rgb)
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert read_picture(tmp_path / "cmyk.jpg")[0].shape == (6, 4, 3)


def test_16_bits_per_colour(here, caplog):
    """Pillow keeps 8 of them in silence: a data set refuses such a file, as it does in greyscale."""
    values = np.full((4, 4, 3), 30000, ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    png = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    Path("a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    Path("a.ppm").write_bytes(b"P6\n4 4\n65535\n" + values.tobytes())
    for name in ("a.png", "a.ppm"):
        rgb, _, reduced = read_picture(name)
        assert reduced and (rgb == 117).all()  # 30000 / 257
        with pytest.raises(
            DataError, match=f"{name}: got an image of 16 bits per channel; expected an 8-bit RGB"
        ):
            read_rgb(name)
        with pytest.raises(DataError, match=f"{name}: got a colour image of 16 bits per channel"):
            read_mask(name)
    write("grey.png", np.full((4, 4), 30000, np.uint16))
    write("b.png", picture((4, 4)))
    with caplog.at_level(logging.INFO, "depthloss"):
        assert predicted("a.png", "grey.png", "b.png", "--out=out", "--formats=npy").reduced == 2
    assert "16 bits per channel reduced to 8: 2 images" in caplog.messages


def test_an_image_with_too_many_pixels(tmp_path, monkeypatch):
    write(tmp_path / "a.png", np.zeros((8, 8), np.uint16))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    for read in (read_picture, read_rgb, read_mask, read_depth_png):
        with pytest.raises(
            DataError, match=r"a.png: got an image of more; expected .* of at most 4e-05 megapixels; mak"
        ):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("value", range(1, 10))
def test_an_image_is_turned_as_a_viewer_shows_it(tmp_path, value):
    rgb = picture((6, 4))
    write(tmp_path / "a.png", rgb, exif=orientation(value))
    shown, turned, reduced = read_picture(tmp_path / "a.png")
    ways = {2: rgb[:, ::-1], 3: rgb[::-1, ::-1], 4: rgb[::-1], 5: rgb.swapaxes(0, 1)}
    ways |= {6: np.rot90(rgb, -1), 7: rgb[::-1, ::-1].swapaxes(0, 1), 8: np.rot90(rgb)}
    assert (turned, reduced) == (value in ways, False)
    assert np.array_equal(shown, ways.get(value, rgb))


def test_results_have_the_orientation_of_the_viewer(here, caplog):
    rgb = write("a.png", picture((6, 9)), exif=orientation(6))
    with caplog.at_level(logging.INFO, "depthloss"):
        assert predicted("a.png", "--out=out", "--formats=npy").turned == 1
    np.testing.assert_allclose(np.load("out/npy/a.npy"), depth_of(np.rot90(rgb, -1)), rtol=1e-6)
    assert "EXIF orientation applied: 1 image, whose results are turned as well" in caplog.text


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (
            np.ones((2, 2), np.float32),
            "got an image of floats; expected an image of 8 or 16 bits per channel",
        ),
        (
            np.full((2, 2), 70000, np.int32),
            "got values from 70000 to 70000; expected an image of 8 or 16 bits per channel",
        ),
        (
            np.full((2, 2), -1, np.int32),
            "got values from -1 to -1; expected an image of 8 or 16 bits per channel",
        ),
    ],
)
def test_values_without_a_range_of_colours(tmp_path, array, text):
    write(tmp_path / "a.tiff", array)
    with pytest.raises(DataError) as error:
        read_picture(tmp_path / "a.tiff")
    assert text in str(error.value)


# ---- what is found, and how its results are called


def names(*paths, out="out") -> dict[str, str]:
    found, _ = find_pictures([Path(path) for path in paths], Path(out))
    return {str(picture.path.relative_to(Path.cwd())): picture.name for picture in found}


def test_names_mirror_what_the_inputs_have_in_common(here):
    for file in ("x/left/0.png", "x/right/0.png", "x/right/deep/A.JPG", "y/0.png"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    assert names("x") == {
        "x/left/0.png": "left/0",
        "x/right/0.png": "right/0",
        "x/right/deep/A.JPG": "right/deep/A",
    }
    assert names("x/left", "y") == {"x/left/0.png": "x/left/0", "y/0.png": "y/0"}
    assert names("x/left/0.png", "x/right/0.png") == {"x/left/0.png": "left/0", "x/right/0.png": "right/0"}
    assert names("y/0.png", here / "y", "y/../y") == {"y/0.png": "0"}
    assert names("y/0.png", "gone.png") == {"y/0.png": "y/0", "gone.png": "gone"}


def test_images_that_differ_in_their_suffix_keep_it(here):
    for file in ("a.png", "a.jpg", "a.jpg.webp", "b.png"):
        Path(file).touch()
    assert names(".") == {"a.jpg": "a.jpg", "a.jpg.webp": "a.jpg.webp", "a.png": "a.png", "b.png": "b"}


def test_what_in_a_folder_is_an_image(here, caplog):
    for file in (
        "in/a.PNG",
        "in/notes.txt",
        "in/x.heic",
        "in/.hidden.png",
        "in/@eaDir/a.png",
        "in/d.png/b.png",
    ):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    Path("elsewhere").mkdir()
    Path("elsewhere/c.png").touch()
    os.symlink("../elsewhere", "in/link")
    os.symlink("..", "in/loop")
    os.symlink("../in", "elsewhere/loop")
    os.symlink("gone.png", "in/dangling.png")
    Path("in/out").mkdir()
    Path("in/out/result.png").touch()
    found, others = find_pictures([Path("in")], Path("in/out"))
    assert [picture.name for picture in found] == ["a", "d.png/b", "dangling", "link/c"]
    assert "in/loop: left out, a link to a folder that it lies in" in caplog.text
    assert others == {".txt": 1, ".heic": 1}


# ---- what goes wrong


def test_what_cannot_be_read_is_named_and_the_rest_is_done(here, capsys):
    write("in/good.png")
    good = Path("in/good.png").read_bytes()
    Path("in/torn.png").write_bytes(good[: len(good) // 2])
    Path("in/empty.png").touch()
    Path("in/text.jpg").write_text("hello")
    os.mkfifo("in/pipe.png")
    write("in/high.png", picture((120, 8)))
    with pytest.raises(SystemExit) as stop:
        cli.main(["known.ckpt", "in", "gone.png", "--out=out", "--formats=png", "--device=cpu"])
    assert stop.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    lines = lines[lines.index("predict.py: error: 6 of 7 images were not predicted:") + 1 :]
    assert [line.partition(";")[0] for line in lines] == [
        f"  {here}/in/empty.png: got an empty file",
        f"  {here}/in/high.png: more than 100 rows",
        f"  {here}/in/pipe.png: got a named pipe",
        f"  {here}/in/text.jpg: got a file that is no image or lost its header",
        f"  {here}/in/torn.png: got a damaged or truncated file (image file is truncated)",
        f"  {here}/gone.png: got no such file",
    ]
    assert files() == ["depth/in/good.png"]


def test_results_that_are_there_are_left_alone(here, caplog):
    write("in/a.png")
    write("in/b.png")
    Path("out/npy").mkdir(parents=True)
    Path("out/npy/a.npy").write_text("precious")
    with pytest.raises(ConfigError) as error:
        predicted("in", "--out=out", "--formats=npy")
    assert str(error.value) == (
        "--out out: 1 of the files are there already, such as out/npy/a.npy; --overwrite replaces them, "
        "--skip-existing leaves them, or choose another folder"
    )
    assert not Known.seen and files() == ["npy/a.npy"]
    with caplog.at_level(logging.INFO, "depthloss"):
        assert predicted("in", "--out=out", "--formats=npy", "--skip-existing").done == 1
    assert "1 of 2 images have their results already" in caplog.messages
    assert predicted("in", "--out=out", "--formats=npy,png", "--skip-existing").done == 2
    assert Path("out/npy/a.npy").read_text() == "precious"
    assert files() == ["depth/a.png", "depth/b.png", "npy/a.npy", "npy/b.npy"]
    assert predicted("in", "--out=out", "--formats=npy", "--overwrite").done == 2
    assert np.load("out/npy/a.npy").shape == (13, 21)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_file_that_cannot_be_written(here, monkeypatch, capsys, number):
    def fail(file, array):
        Path(file).write_bytes(b"half")
        raise OSError(number, os.strerror(number), str(file))

    write("in/a.png")
    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main(["known.ckpt", "in", "--out=out", "--formats=npy", "--device=cpu"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 1 and files() == []
    if number == errno.ENOSPC:
        assert "could not be written: no space left on device: make room" in line
        assert line.endswith("; --skip-existing resumes")
    else:
        assert line.startswith(f"  {here}/in/a.png: out/npy/.a-") and line.endswith("Input/output error")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["in"], "--out DIR is needed: the folder of the results"),
        (["in", "--out=o", "--formats=png,previw"], "--formats: no format 'previw'; did you mean 'preview'?"),
        (["in", "--out=o", "--png-scale=0"], "--png-scale must be positive, in units per metre"),
        (["in", "--out=o", "--sparse-scale=-1"], "--sparse-scale must be positive, in units per metre"),
        (["in", "--out=o", "--batch-size=0"], "--batch-size must be >= 1, got 0"),
        (["in", "--out=o", "--batch-size=x"], "--batch-size: a whole number is needed, got x"),
        (["in", "--out=o", "--overwrite", "--skip-existing"], "--overwrite and --skip-existing: choose one"),
        (["in", "--out=o", "--preview-range", "3", "1"], "--preview-range: 0 < NEAR < FAR is needed, in met"),
        (["in", "--out=o", "--resize=big"], "--resize big: HxW is needed, such as 192x640, or training"),
        (["in", "--out=o", "--sparse=gone"], "--sparse gone: got no such folder, a folder is needed"),
        (["in", "--out=o", "--sparse=in/a.png"], "--sparse in/a.png: got a file, a folder is needed"),
        (["in", "--out=in/a.png"], "--out in/a.png: in/a.png is a file; choose another folder"),
        (["in", "--out=o", "--overwite"], "unknown flag '--overwite'; did you mean '--overwrite'? Known: "),
        (["void", "--out=o"], "void: no image in it"),
        ([], "the following arguments are required: paths"),
    ],
)  # fmt: skip
def test_errors(here, arguments, text):
    write("in/a.png")
    Path("void").mkdir()
    with pytest.raises(ConfigError) as error:
        predicted(*arguments)
    assert str(error.value).startswith(text) and "\n" not in str(error.value)
    assert not Path("o").exists()


def test_sparse_depth_for_a_network_that_takes_none(here, monkeypatch):
    monkeypatch.setattr(Known, "forward", lambda self, rgb: rgb[:, :1] + self.one)
    write("in/a.png")
    with pytest.raises(ConfigError, match="^--sparse in: the network of known.ckpt takes no sparse depth$"):
        predicted("in", "--out=out", "--sparse=in")


def test_the_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    main = runpy.run_path(str(Path(__file__).parents[2] / "predict.py"))["main"]
    with pytest.raises(SystemExit) as stop:
        main(["nowhere.ckpt", "a.png", "--out=out"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "predict.py: error: nowhere.ckpt: no such checkpoint\n"
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and max(map(len, text.splitlines())) <= 80
    assert "usage: predict.py CHECKPOINT PATH [PATH ...] --out DIR" in text
