"""Text lists as other people write them, the same for every data set that reads one."""

import codecs
import json

import numpy as np
import pytest

from depthloss.training.data import DataError, build_dataset, write_depth_png, write_rgb
from depthloss.training.data.lists import read_lines, read_text, resolve
from depthloss.training.data.sources import find_tum

from .strangers import COMMON, make, warnings

ENCODINGS = {
    "UTF-8": lambda text: text.encode(),
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16 LE": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "UTF-16 BE": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "Windows": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
    "old Mac": lambda text: text.replace("\n", "\r").encode(),
}

# How a line spells the path {stem}{suffix} below {root}.
SPELLINGS = [
    "{stem}{suffix}",
    "{stem}",
    "{stem}{upper}",
    "./{stem}{suffix}",
    ".//{stem}{suffix}",
    '"{stem}{suffix}"',
    "'{stem}'",
    '"./{stem}{suffix}" depth/other.png 721.5377',
    "{stem}{suffix} depth/other.png 721.5377",
    "{stem}{suffix}\tdepth/other.png\t721.5377",
    "{stem}{suffix},depth/other.png",
    "{stem}{suffix} " + "0.25 " * 60 + "depth/other.png",  # longer than a name can be
    "  {stem}{suffix}  # held out",
    "{root}/{stem}{suffix}",
    "{windows}{suffix}",
    ".\\{windows}{suffix} 721.5",
]


def listed(name, root):
    """Make a data set with the scene "my scene #1 ä", and return its options and two paths for a list."""
    options, scene, picture, _ = make(name, root)
    moved = scene.with_name("my scene #1 ä")
    for folder in ("rgb", "depth", "input_depth", "mask") if name == "rgbd-folder" else ("",):
        other = root / folder / scene.relative_to(root / "rgb") if folder else scene
        other.rename(other.with_name(moved.name))
    first = moved / picture.relative_to(scene)
    second = first.with_name(first.name.replace("2", "0"))
    return {**options, "split": "list.txt"}, [path.relative_to(root) for path in (first, second)]


def names(name, root, text, options, **more):
    (root / "list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    data = build_dataset(name, path=root, **{**COMMON, **options, **more})
    return [data.name(i) for i in range(len(data))]


@pytest.mark.parametrize("name", ["rgbd-folder", "kitti", "nyu-h5"])
def test_a_line_names_a_frame_however_it_is_spelt(name, tmp_path):
    options, paths = listed(name, tmp_path)
    below = {"rgbd-folder": "rgb/"}.get(name, "")
    expected = [path.with_suffix("").as_posix().removeprefix(below) for path in paths]
    for spelling in SPELLINGS:
        for prefix in {"", below}:
            lines = [
                spelling.format(
                    stem=f"{prefix}{stem}", suffix=path.suffix, upper=path.suffix.upper(),
                    root=tmp_path, windows=f"{prefix}{stem}".replace("/", "\\"),
                )
                for stem, path in zip(expected, paths, strict=True)
            ]  # fmt: skip
            text = "\n".join(["# frames", "", f"  #{lines[0]}", *lines]) + "\n"
            if below and not prefix and spelling.startswith("{root}"):
                continue  # That is another file.
            assert names(name, tmp_path, text, options) == expected, (spelling, prefix)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["rgbd-folder", "kitti", "nyu-h5"])
def test_a_list_is_read_in_every_encoding(name, tmp_path, encoding):
    options, paths = listed(name, tmp_path)
    below = {"rgbd-folder": "rgb/"}.get(name, "")
    text = "".join(f"{path.as_posix()}\n" for path in paths)
    expected = [path.with_suffix("").as_posix().removeprefix(below) for path in paths]
    assert names(name, tmp_path, ENCODINGS[encoding](text), options) == expected


@pytest.mark.parametrize("name", ["rgbd-folder", "kitti", "nyu-h5"])
def test_a_line_that_names_nothing_is_named(name, tmp_path, caplog):
    options, paths = listed(name, tmp_path)
    gone = paths[0].with_name("0000000009" + paths[0].suffix)
    if name == "kitti":  # its depth is there
        depth = "my scene #1 ä/proj_depth/groundtruth/image_02/0000000009.png"
        write_depth_png(tmp_path / paths[0].parts[0] / depth, np.ones((8, 12)))
    text = f"# one\n\n'{paths[0]}'\n'{gone}' 1 2\n"
    with pytest.raises(DataError) as error:
        names(name, tmp_path, text, options)
    assert f"got no file for 1 of 2 frames (line 4 of list.txt: {gone}); expected " in str(error.value)
    assert len(names(name, tmp_path, text, options, skip_bad_frames=True)) == 2
    assert f"got no file for 1 of 2 frames (line 4 of list.txt: {gone})" in warnings(caplog)[0]


def test_a_name_that_ends_in_two_places_needs_quotation_marks(tmp_path):
    for frame in ("a", "a 1", "b"):
        write_rgb(tmp_path / f"rgb/{frame}.png", np.zeros((8, 12, 3), np.uint8))
        write_depth_png(tmp_path / f"depth/{frame}.png", np.ones((8, 12)))
    options = {"split": "list.txt"}
    assert names("rgbd-folder", tmp_path, "a 1\nb 1\na.png 1\n'a' 1 2", options) == ["a 1", "b", "a", "a"]
    with pytest.raises(DataError) as error:
        names("rgbd-folder", tmp_path, "b\na 1 721.5\n", options)
    assert str(error.value) == (
        f"{tmp_path}/list.txt, line 2: got 'a 1 721.5', which may be 'a' or 'a 1'; expected one frame name; "
        "put quotation marks around the name"
    )
    assert names("rgbd-folder", tmp_path, "", {"names": ["./rgb/a 1.PNG", "b"]}) == ["a 1", "b"]
    for folder in ("rgb", "depth"):
        (tmp_path / folder / "b.png").rename(tmp_path / folder / r"b\c.png")
    assert names("rgbd-folder", tmp_path, "b\\c.png 1", options) == [r"b\c"]


@pytest.mark.parametrize(
    ("data", "got"),
    [
        (b"\xff\xfea", "a file that cannot be read ('utf-16-le' codec can't decode"),
        (b"\xe4.png", "a file that cannot be read ('utf-8' codec can't decode"),
        (
            "a.png\n".encode("utf-16-le"),
            "zero bytes, as in UTF-16 without a mark; expected a list; save it as",
        ),
    ],
)
def test_files_that_are_no_text(tmp_path, data, got):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError) as error:
        read_text(tmp_path / "a.txt", "a list", "write it again")
    assert str(error.value).startswith(f"{tmp_path}/a.txt: got {got}")


def test_lines_have_their_numbers(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf# a\r\n\r\n  b # c\r\n#d\r\n\x0be\x0b\n")
    assert read_lines(tmp_path / "a.txt", "a list", "") == [(3, "b # c"), (5, "e")]
    known = {"a b": 1, "c": 2}
    assert [resolve("", text, "", known.get) for text in ("a b", "c d", "a c", '"a b" c', '"c', "'c' d")] == [
        *(1, 2, None, 1, None, 2)
    ]


def test_a_line_longer_than_any_path_is_not_tried_at_every_gap():
    tried = []
    assert resolve("", "a " * 100_000, "", tried.append) is None
    assert len(tried) == 2048 and max(map(len, tried)) < 4096


# ---- other lists


@pytest.mark.parametrize("encoding", ["UTF-8 with a mark", "UTF-16 LE", "UTF-16 BE"])
def test_an_index_in_json(tmp_path, encoding):
    make("ncdb", tmp_path)
    entries = [
        {"dataset_root": ".\\seq0_A\\synced_data\\", "new_filename": "170002.5.PNG"},
        {"image_path": "./seq1_A//synced_data/image_a6/170001.5.JPG"},
    ]
    text = json.dumps(entries)
    assert names("ncdb", tmp_path, ENCODINGS[encoding](text), {"split": "list.txt"}) == [
        *("seq0_A/synced_data/170002.5", "seq1_A/synced_data/170001.5")
    ]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("form", ["lists", "associations", "depth first"])
def test_the_lists_of_tum(tmp_path, encoding, form, caplog):
    write_rgb(tmp_path / "rgb/my #1 2.5 a.JPG", np.zeros((8, 12, 3), np.uint8))
    write_rgb(tmp_path / "rgb/b.png", np.zeros((8, 12, 3), np.uint8))
    for name in ("my #1 a", "b"):
        write_depth_png(tmp_path / f"depth/{name}.png", np.ones((8, 12)))
    rgb = ["# pictures", "1.25 'rgb/my #1 2.5 a.jpg'", "2 .\\rgb\\b.png", "3 rgb/c d.png"]
    depth = ["1.25 ./depth/my #1 a.png", '2.01 "depth/b"  ', "", "3.01 depth/c.png 5"]
    if form == "lists":
        files = {"rgb": rgb, "depth": depth}
    else:
        pairs = [(rgb[1], depth[0]), (rgb[2], depth[1]), (rgb[3], depth[3].removesuffix(" 5"))]
        pairs = [pair[::-1] if form == "depth first" else pair for pair in pairs]
        files = {"associations": ["# pairs", *(f"{one.strip()}  {other}" for one, other in pairs)]}
    for name, lines in files.items():
        (tmp_path / f"{name}.txt").write_bytes(ENCODINGS[encoding]("\n".join(lines)))
    found = find_tum(tmp_path)[""]
    assert {k: [p.relative_to(tmp_path).as_posix() for p in v.values()] for k, v in found.items()} == {
        "my #1 2.5 a": ["depth/my #1 a.png", "rgb/my #1 2.5 a.JPG"],
        "b": ["depth/b.png", "rgb/b.png"],
        "c": ["depth/c.png", "rgb/c"],
    }
    one, other = ("rgb.txt", "depth.txt") if form == "lists" else ["associations.txt"] * 2
    lost = f"line 4 of {one}: rgb/c, line 4 of {other}: depth/c.png"
    assert warnings(caplog) == [f"{tmp_path}: no file for 2 of 6 names: {lost}"]
