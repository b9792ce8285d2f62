"""Maps from files of every format: exact values, and faults that name the file."""

from __future__ import annotations

import importlib.util
import logging

import h5py
import numpy as np
import OpenEXR
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from depthloss.training.data import maps
from depthloss.training.data.io import DataError, write_depth_png
from depthloss.training.data.maps import FORMATS, distance_to_depth, read_map

MAP = np.array([[0.0, 1.5, np.nan], [-2.0, 80.25, 3e-3]], np.float32)


def _h5(path, array):
    with h5py.File(path, "w") as file:
        file["depth"] = array


def _pfm(path, array, order="<"):
    head = f"Pf\n{array.shape[1]} {array.shape[0]}\n{'-' if order == '<' else ''}1.0\n"
    path.write_bytes(head.encode() + array[::-1].astype(f"{order}f4").tobytes())


def _exr(path, channels, **header):
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage, **header}
    with OpenEXR.File(header, channels) as file:
        file.write(str(path))


def _mat(path, **arrays):
    """A MATLAB 7.3 file: HDF5 with reversed axes, behind 512 bytes of text."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, array in arrays.items():
            file[name] = array.T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512))


WRITE = {
    ".npy": np.save,
    ".npz": lambda path, array: np.savez(path, depth=array),
    ".tif": lambda path, array: Image.fromarray(array).save(path, format="TIFF"),
    ".tiff": lambda path, array: Image.fromarray(array).save(path, format="TIFF"),
    ".pfm": _pfm,
    ".h5": _h5,
    ".hdf5": _h5,
    ".exr": lambda path, array: _exr(path, {"Z": array}),
    ".mat": lambda path, array: _mat(path, depth=array),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("suffix", WRITE)
def test_floats_come_back_as_stored(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    WRITE[suffix](path, MAP)
    np.testing.assert_array_equal(read_map(path), MAP)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"a{suffix}: got "):
        read_map(path)


def test_every_format_is_tried():
    assert set(FORMATS) == {*WRITE, ".png"}


def test_a_zero_of_a_png_is_no_value(tmp_path):
    write_depth_png(tmp_path / "a.PNG", np.array([[0.0, 1.5]]), 1000)
    np.testing.assert_array_equal(read_map(tmp_path / "a.PNG", scale=1000), np.float32([[np.nan, 1.5]]))
    with pytest.raises(ValueError, match="scale must be a positive finite number of units per metre, got 0"):
        read_map(tmp_path / "a.PNG", scale=0)


def test_big_endian_pfm(tmp_path):
    _pfm(tmp_path / "a.pfm", MAP, ">")
    np.testing.assert_array_equal(read_map(tmp_path / "a.pfm"), MAP)


def test_keys(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, depth=MAP[None], conf=MAP * 0)
    np.testing.assert_array_equal(read_map(path, "depth"), MAP)
    with pytest.raises(DataError, match=r"got 2 maps \(depth, conf\); .* choose one by its key"):
        read_map(path)
    with pytest.raises(DataError, match="no key 'dept'; did you mean 'depth'"):
        read_map(path, "dept")


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".tif", ".h5", ".mat", ".exr"])
def test_integers_are_divided_by_the_scale(tmp_path, suffix):
    stored = np.array([[0, 1500, 65535]], np.uint32 if suffix == ".exr" else np.uint16)
    path = tmp_path / f"a{suffix}"
    WRITE[suffix](path, stored)
    np.testing.assert_array_equal(read_map(path, scale=1000), np.float32([[0, 1.5, 65.535]]))
    marked = np.float32([[0, 1.5, np.nan]])
    np.testing.assert_array_equal(read_map(path, scale=1000, invalid=[65535]), marked)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_that_mean_no_value(tmp_path, dtype):
    """They are compared in the precision of the file: neither 0.1 nor 1e10 is a half."""
    np.save(
        tmp_path / "a.npy",
        np.array([[0.1, 2.0, 1e10, -9999.9]]).clip(None, np.finfo(dtype).max).astype(dtype),
    )
    found = read_map(tmp_path / "a.npy", invalid=[0.1, -9999.9])
    assert np.isnan(found).tolist() == [[True, False, False, True]] and found[0, 1] == 2
    with pytest.raises(ValueError, match=r"invalid must be a list of numbers, such as \[65535\], got 65535"):
        read_map(tmp_path / "a.npy", invalid=65535)


def test_numbers_of_a_png_that_mean_no_value(tmp_path):
    Image.fromarray(np.array([[0, 10, 2560, 65535]], np.uint16)).save(tmp_path / "a.png")
    found = read_map(tmp_path / "a.png", invalid=[65535, 10])  # 2560 units are 10 m, and stay
    np.testing.assert_array_equal(found, np.float32([[np.nan, np.nan, 10, np.nan]]))


def test_exr_of_other_kinds(tmp_path):
    path, half, rng = tmp_path / "a.exr", np.float16, np.random.default_rng(0)
    _exr(path, {"depth.V": MAP.astype(half)})
    np.testing.assert_array_equal(read_map(path), MAP.astype(half).astype(np.float32))
    large = rng.random((70, 90), np.float32)
    _exr(path, {"Z": large}, type=OpenEXR.tiledimage, tiles=OpenEXR.TileDescription())
    np.testing.assert_array_equal(read_map(path), large)
    _exr(path, {"R": MAP, "depth.Z": MAP + 1})
    np.testing.assert_array_equal(read_map(path, "depth.Z"), MAP + 1)
    with pytest.raises(DataError, match=r"a\.exr: got 2 maps \(R, depth\.Z\); .*; choose one by its key"):
        read_map(path)
    with pytest.raises(DataError, match=r"no key 'depth'; did you mean 'depth\.Z'"):
        read_map(path, "depth")
    parts = [OpenEXR.Part({"type": OpenEXR.scanlineimage}, {"Z": large + i}, n) for i, n in enumerate("lr")]
    with OpenEXR.File(parts) as file:
        file.write(str(path))
    np.testing.assert_array_equal(read_map(path, "r/Z"), large + 1)
    path.write_bytes(path.read_bytes()[:-99])  # the first part is whole
    for key in ("l/Z", "r/Z"):
        with pytest.raises(DataError, match=r"a\.exr: got a damaged or truncated file"):
            read_map(path, key)
    _exr(path, {"Z": MAP}, dataWindow=((1, 0), (3, 1)), displayWindow=((0, 0), (3, 1)))
    with pytest.raises(DataError, match="got 3x2 pixels of a picture of 4x2; .* export it without crop"):
        read_map(path)


def test_without_openexr_the_error_names_the_extra(tmp_path, monkeypatch):
    WRITE[".exr"](tmp_path / "a.exr", MAP)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"the package OpenEXR is not installed; .*'depthloss\[exr\]'"):
        read_map(tmp_path / "a.exr")


def test_maps_of_a_matlab_file_by_number(tmp_path):
    path, rng = tmp_path / "nyu.mat", np.random.default_rng(0)
    depths, raw = rng.random((2, 4, 6, 3), np.float32)
    _mat(path, depths=depths, rawDepths=raw, labels=np.zeros((4, 6, 3), np.uint16), accelData=np.ones((3, 4)))
    np.testing.assert_array_equal(read_map(path / "0003", "rawDepths"), raw[..., 2])
    np.testing.assert_array_equal(read_map(path / "1", "depths"), depths[..., 0])
    for part, key, message in (
        ("0001", None, r"got 2 maps \(depths, rawDepths\); .* choose one by its key"),
        ("0001", "labels", "no key 'labels'"),
        ("0004", "depths", "nyu.mat: got no map 4; expected a number from 1 to 3"),
        ("0000", "depths", "nyu.mat: got no map 0; expected a number from 1 to 3"),
        ("first", "depths", "got the map 'first'; expected a number"),
    ):
        with pytest.raises(DataError, match=message):
            read_map(path / part, key)
    _mat(path, depths=depths)
    with pytest.raises(DataError, match=r"got stacks of maps \(depths\); .* such as nyu\.mat/0001"):
        read_map(path)
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(300))
    for name in (path, path / "0001"):
        with pytest.raises(DataError, match="nyu.mat: got a file of the older format MATLAB 5; .* -v7.3"):
            read_map(name)
    path.unlink()
    with pytest.raises(DataError, match=r"nyu\.mat: got no such file"):
        read_map(path / "0001")


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3, 3)), np.zeros(4), np.zeros((2, 2), complex), np.zeros((0, 3))]
)
def test_not_a_map(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=r"a\.npy: got .*expected one map"):
        read_map(tmp_path / "a.npy")


def test_unknown_suffix_and_missing_file(tmp_path):
    with pytest.raises(DataError, match="got the suffix '.tifff'; did you mean '.tiff'"):
        read_map(tmp_path / "a.tifff")
    with pytest.raises(DataError, match="got no such file"):
        read_map(tmp_path / "a.npy")


def test_distance_to_depth_of_a_plane():
    y, x = np.mgrid[:4, :6] - np.array([1.5, 2.5])[:, None, None]
    distance = 3.0 * np.sqrt(1 + (x**2 + y**2) / 5.0**2)
    np.testing.assert_allclose(distance_to_depth(distance, 5.0), 3.0, rtol=1e-12)


def test_distances_of_hypersim(tmp_path, caplog):
    """A plane 3 units away; at another size the focal length is another one, at another ratio unknown."""
    caplog.set_level(logging.INFO, "depthloss.data")
    maps._say_focal.cache_clear()  # Other tests may have said it.
    path = tmp_path / "frame.0000.depth_meters.hdf5"
    for w, h in ((64, 48), (32, 24)):
        y, x = np.mgrid[:h, :w] - np.array([(h - 1) / 2, (w - 1) / 2])[:, None, None]
        distance = 3.0 * np.sqrt(1 + (x**2 + y**2) / (886.81 * w / 1024) ** 2)
        _h5(path, distance)
        np.testing.assert_allclose(read_map(path, hypersim_distance=True), 3.0, rtol=1e-6)
        np.testing.assert_array_equal(read_map(path, hypersim_distance=False), distance.astype(np.float32))
        text = f"become depth with the focal length {886.81 * w / 1024:.6g} px at {w}x{h}"
        assert text in caplog.text
    with pytest.raises(DataError, match="name of a map of Hypersim, .*; set hypersim_distance to true"):
        read_map(path)
    _h5(path, distance[4:])
    with pytest.raises(DataError, match="got 32x20 pixels; expected Hypersim's ratio of the sides, 1024:768"):
        read_map(path, hypersim_distance=True)


def test_the_logarithmic_png_of_moge(tmp_path):
    """Its text has near and far; 0 is no value, 65535 infinity."""
    info = PngInfo()
    for name, value in (("near", 0.5), ("far", 50.0)):
        info.add_text(name, str(value))
    stored = np.array([[0, 1, 65534, 65535, 32768]], np.uint16)
    Image.fromarray(stored).save(tmp_path / "a.png", pnginfo=info)
    found = read_map(tmp_path / "a.png")
    middle = 0.5 ** (1 - 32767 / 65533) * 50.0 ** (32767 / 65533)
    np.testing.assert_allclose(found, [[np.nan, 0.5, 50.0, np.inf, middle]], rtol=1e-6)
