"""NCDB: what is read is what was written, its splits, masks and classes, and every fault."""

import json
import logging

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from depthloss.training.data import DataError, build_dataset, write_depth_png

from .layouts import ncdb, spoil, write_mask

COMMON = {"image_shape": (24, 40), "min_depth": 0.1, "max_depth": 100.0, "train": False, "split": "train"}
SHAPE = (24, 40)
CLASSES = "segmentation_results/class_masks"


def build(path, **options):
    return build_dataset("ncdb", path=path, **{**COMMON, **options})


def names(data):
    return [data.name(i) for i in range(len(data))]


def write_split(path, entries):
    (path / "mine.json").write_text(json.dumps(entries))
    return "mine.json"


def test_frames_are_read_to_the_millimetre(tmp_path):
    written = ncdb(tmp_path)
    for split, expected in (
        ("train", list(written)[:3]),
        ("val", list(written)[3:]),
        ("test", list(written)[:2]),
    ):
        data = build(tmp_path, split=split)
        assert names(data) == expected
        for index, name in enumerate(expected):
            frame, sample = data.frame(index), data[index]
            np.testing.assert_array_equal(frame.rgb, written[name]["rgb"])
            np.testing.assert_array_equal(frame.depth, written[name]["depth"])
            np.testing.assert_allclose(sample["depth"][0].numpy(), written[name]["depth"], atol=5e-4, rtol=0)
            assert sample["name"] == name
    assert build(tmp_path, train=True)[0].keys() == {"rgb", "depth", "name", "index"}


def test_a_map_below_one_metre_is_divided_by_256_as_well(tmp_path):
    written = ncdb(tmp_path, low=0.3, high=0.9)
    frame = build(tmp_path).frame(0)
    assert 0.3 <= frame.depth[frame.depth > 0].min() and frame.depth.max() <= 0.9
    np.testing.assert_array_equal(frame.depth, list(written.values())[0]["depth"])


def test_entries_may_be_absolute_or_image_paths(tmp_path):
    written = ncdb(tmp_path)
    first, second, third, _ = written
    entries = [
        {"dataset_root": str(tmp_path / first.rsplit("/", 1)[0]), "new_filename": "170000.5.png"},
        {"image_path": f"{second.rsplit('/', 1)[0]}/image_a6/170001.5.png"},
        {"image_path": str(tmp_path / third.rsplit("/", 1)[0] / "image_a6/170002.5.png"), "camera": "a6"},
    ]
    for split in (write_split(tmp_path, entries), str(tmp_path / "mine.json")):
        data = build(tmp_path, split=split)
        assert names(data) == [first, second, third]
        for i, name in enumerate((first, second, third)):
            np.testing.assert_array_equal(data.frame(i).depth, written[name]["depth"])
            np.testing.assert_array_equal(data.frame(i).classes[..., 1], written[name]["road"])
    assert names(build(tmp_path, split="mine.json", offset=1, stride=2)) == [second]


def test_a_png_is_preferred_where_an_entry_names_no_suffix(tmp_path):
    first = next(iter(ncdb(tmp_path)))
    for picture in list(tmp_path.rglob("image_*/*.png")):
        picture.with_name(picture.name.replace(".png", ".jpg")).write_bytes(b"")
    root = str(tmp_path / first.rsplit("/", 1)[0])
    split = write_split(tmp_path, [{"dataset_root": root, "new_filename": "170000.5"}])
    assert build(tmp_path, split=split).frame(0).rgb.shape == (*SHAPE, 3)


def test_the_first_folder_of_depth_maps_wins_in_each_sequence(tmp_path):
    written = ncdb(tmp_path, depth_folder="new_depth_maps")
    sequences = [name.rsplit("/", 1)[0] for name in list(written)[:2]]
    other = np.full(SHAPE, 3.5, np.float32)
    for folder in ("newest_synthetic_depth_maps", "depth_maps"):
        for stem in ("170000.5", "170002.5"):
            write_depth_png(tmp_path / sequences[0] / folder / f"{stem}.png", other)
    data = build(tmp_path, split="test")
    np.testing.assert_array_equal(data.frame(0).depth, other)
    np.testing.assert_array_equal(data.frame(1).depth, list(written.values())[1]["depth"])
    chosen = build(tmp_path, split="test", depth_folder="new_depth_maps")
    np.testing.assert_array_equal(chosen.frame(0).depth, list(written.values())[0]["depth"])
    with pytest.raises(DataError, match="seq1_A/synced_data: got no folder of depth maps; .*with depth_maps"):
        build(tmp_path, split="test", depth_folder="depth_maps")
    sparse = build(tmp_path, limit=1, input_depth="new_depth_maps").frame(0)
    np.testing.assert_array_equal(sparse.input_depth, list(written.values())[0]["depth"])


def test_binary_mask_of_the_data_set(tmp_path, caplog):
    ncdb(tmp_path)
    assert "mask" not in build(tmp_path)[0]
    keep = np.arange(24 * 40).reshape(SHAPE) % 5 > 0
    write_mask(tmp_path / "binary_mask.png", keep)
    with caplog.at_level(logging.INFO, "depthloss.data"):
        data = build(tmp_path)
    assert "using binary_mask.png (switch off with mask=null)" in caplog.text
    for i in range(len(data)):
        np.testing.assert_array_equal(data[i]["mask"][0].numpy(), keep)
    assert "mask" not in build(tmp_path, mask=None)[0]
    write_mask(tmp_path / "binary_mask.png", keep[:20])
    with pytest.raises(DataError, match="binary_mask.png: got 40x20 pixels; expected 40x24 as in"):
        build(tmp_path)
    spoil(tmp_path / "binary_mask.png", "truncated")
    with pytest.raises(DataError, match="binary_mask.png: got a damaged or truncated file"):
        build(tmp_path)


def test_classes_of_evaluation(tmp_path):
    written = ncdb(tmp_path)
    data = build(tmp_path)
    assert data.class_names == ("car", "road")
    for i, maps in enumerate(list(written.values())[:3]):
        classes = data[i]["classes"]
        assert classes.dtype == torch.bool and classes.shape == (2, *SHAPE)
        for k, name in enumerate(data.class_names):
            np.testing.assert_array_equal(classes[k].numpy(), maps[name])
    assert not data[0]["classes"][0].any() and data[2]["classes"][0].any()
    batch = next(iter(DataLoader(data, batch_size=3)))
    assert batch["classes"].shape == (3, 2, *SHAPE)
    one = build(tmp_path, classes=["road"])
    assert one.class_names == ("road",) and torch.equal(one[2]["classes"], data[2]["classes"][1:])
    assert build(tmp_path, classes="car").class_names == ("car",)
    for options in ({"classes": None}, {"train": True}):
        other = build(tmp_path, **options)
        assert other.class_names == () and "classes" not in other[0]
    with pytest.raises(DataError, match="got no class 'cars'; did you mean 'car'.*check the option classes"):
        build(tmp_path, classes=["road", "cars"])


def test_a_mask_belongs_to_the_frame_with_the_longest_stem(tmp_path):
    written = ncdb(tmp_path, frames=2)
    sequence = tmp_path / list(written)[0].rsplit("/", 1)[0]
    for folder in ("image_a6", "newest_depth_maps"):
        (sequence / folder / "170000.57.png").write_bytes((sequence / folder / "170000.5.png").read_bytes())
    masks = {}
    for name in ("170000.57", "170000.57_0", "170000.5_7", "170000.5_10", "170000.5b"):
        masks[name] = np.random.default_rng(len(masks)).random(SHAPE) < 0.3
        write_mask(sequence / CLASSES / "car" / f"{name}.png", masks[name])
    relative = sequence.relative_to(tmp_path).as_posix()
    split = write_split(
        tmp_path, [{"dataset_root": relative, "new_filename": s} for s in ("170000.5", "170000.57")]
    )
    data = build(tmp_path, split=split, classes=["car"])
    assert [file.name for file in data.class_files(0)[0]] == [f"170000.5{s}.png" for s in ("_10", "_7", "b")]
    expected = masks["170000.5_7"] | masks["170000.5_10"] | masks["170000.5b"]
    np.testing.assert_array_equal(data.frame(0).classes[..., 0], expected)
    np.testing.assert_array_equal(data.frame(1).classes[..., 0], masks["170000.57"] | masks["170000.57_0"])


def test_check_names_every_faulty_file_of_a_frame(tmp_path):
    written = ncdb(tmp_path)
    data = build(tmp_path)
    assert data.check(progress=False) == []
    sequence = tmp_path / list(written)[2].rsplit("/", 1)[0]
    spoil(sequence / "newest_depth_maps/170002.5.png", "8-bit")
    spoil(sequence / CLASSES / "car/170002.5_1.png", "truncated")
    write_mask(sequence / CLASSES / "road/170002.5.png", np.ones((23, 40), bool))
    faults = data.check(progress=False)
    assert len(faults) == 3
    for text, part in zip(
        faults,
        [
            "newest_depth_maps/170002.5.png: got an 8-bit",
            "car/170002.5_1.png: got a damaged",
            "road/170002.5.png: got 40x23",
        ],
        strict=True,
    ):
        assert part in text


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[", "mine.json: got a file that is no JSON"),
        ("[" * 100_000, "mine.json: got JSON that is nested too deeply"),
        ("{}", "mine.json: got no list of frames; expected a JSON list of"),
        ("[]", "mine.json: got no list of frames"),
        ('[{"dataset_root": "a"}]', r'got entry 0: \{"dataset_root": "a"\}; expected a JSON list of'),
        ('["a"]', 'got entry 0: "a"'),
        ('[{"image_path": "a/b/c"}]', "got entry 0"),
        (
            '[{"dataset_root": "a", "new_filename": "x"}]',
            "a: got no such folder; expected a sequence with newest",
        ),
        (
            '[{"dataset_root": "seq0_A/synced_data", "new_filename": "170000.5"},'
            ' {"dataset_root": "seq0_A/synced_data", "new_filename": "x"}]',
            r"no file for 1 of 2 frames \(entry 1 of mine\.json: seq0_A.*_a6/x\.png\).*correct the split",
        ),
    ],
)
def test_faulty_splits(tmp_path, entries, message):
    ncdb(tmp_path)
    (tmp_path / "mine.json").write_text(entries)
    with pytest.raises(DataError, match=message):
        build(tmp_path, split="mine.json")


def test_missing_split_and_depth_map(tmp_path):
    written = ncdb(tmp_path)
    with pytest.raises(DataError, match="splits/dev.json: got no such file"):
        build(tmp_path, split="splits/dev.json")
    sequence, stem = list(written)[1].rsplit("/", 1)
    (tmp_path / sequence / f"newest_depth_maps/{stem}.png").unlink()
    lost = rf"\(entry 1 of combined_train\.json: {sequence}/newest_depth_maps/{stem}\.png\)"
    with pytest.raises(DataError, match=f"no file for 1 of 3 frames {lost}"):
        build(tmp_path)
