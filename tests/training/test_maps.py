"""Maps from files of every format: exact values, and faults that name the file."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from depthloss.training.data.io import DataError, write_depth_png
from depthloss.training.data.maps import FORMATS, distance_to_depth, read_map

MAP = np.array([[0.0, 1.5, np.nan], [-2.0, 80.25, 3e-3]], np.float32)


def _h5(path, array):
    with h5py.File(path, "w") as file:
        file["depth"] = array


def _pfm(path, array, order="<"):
    head = f"Pf\n{array.shape[1]} {array.shape[0]}\n{'-' if order == '<' else ''}1.0\n"
    path.write_bytes(head.encode() + array[::-1].astype(f"{order}f4").tobytes())


WRITE = {
    ".npy": np.save,
    ".npz": lambda path, array: np.savez(path, depth=array),
    ".tif": lambda path, array: Image.fromarray(array).save(path, format="TIFF"),
    ".tiff": lambda path, array: Image.fromarray(array).save(path, format="TIFF"),
    ".pfm": _pfm,
    ".h5": _h5,
    ".hdf5": _h5,
}


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
    with pytest.raises(ValueError, match="depth_scale must be a positive"):
        read_map(tmp_path / "a.PNG", scale=0)


def test_big_endian_pfm(tmp_path):
    _pfm(tmp_path / "a.pfm", MAP, ">")
    np.testing.assert_array_equal(read_map(tmp_path / "a.pfm"), MAP)


def test_keys(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, depth=MAP[None], conf=MAP * 0)
    np.testing.assert_array_equal(read_map(path, "depth"), MAP)
    with pytest.raises(DataError, match=r"got 2 arrays \(depth, conf\)"):
        read_map(path)
    with pytest.raises(DataError, match="no key 'dept'; did you mean 'depth'"):
        read_map(path, "dept")


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
