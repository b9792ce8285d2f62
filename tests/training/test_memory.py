"""A worker's memory does not grow with the data set that it goes through.

An index of Python objects would make it: reading one changes its reference count, so the page that a forked
worker shares with its parent is copied. Measured is the private memory of the worker (Private_Dirty of
/proc/self/smaps_rollup) after every 2,000 of 20,000 entries, after a warm-up on the first 2,000. Asserted is
the median of the nine steps, below 64 KiB or 33 bytes per entry (0 to 20 KiB were seen, 220 for a list): the
interpreter copies pages of its own too, in single jumps of megabytes or fewer and fewer at a time, for few
entries as for many.
"""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from depthloss.training.data import build_dataset, write_depth_png, write_rgb

from . import layouts

ENTRIES, READS, TENTH = 20_000, 500, 2_000
SMAPS = Path("/proc/self/smaps_rollup")
SHAPE = (8, 16)
needs_smaps = pytest.mark.skipif(not SMAPS.exists(), reason="needs /proc/self/smaps_rollup of Linux")


def private_kib():
    line = next(line for line in SMAPS.read_text().splitlines() if line.startswith("Private_Dirty:"))
    return int(line.split()[1])


class Walk(Dataset):
    """Looks at 40 entries of a data set per item and reads one; the first tenth ten times, then all."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return 2 * READS

    def __getitem__(self, i):
        step = ENTRIES // READS
        start = i % READS * step if i >= READS else i * step % TENTH
        for k in range(start, start + step):
            self.data.name(k)
            if hasattr(self.data, "files"):
                self.data.files(k)
        assert self.data[(0, start)]["index"] == start
        return private_kib() if i >= READS and (start + step) % TENTH == 0 else -1


class Listed:
    """What the data sets must not be: an index of Python strings."""

    def __init__(self):
        self.names = [f"2011_09_26/2011_09_26_drive_0001_sync/image_02/data/{i:010d}" for i in range(ENTRIES)]

    def name(self, index):
        return self.names[index]

    def __getitem__(self, key):
        return {"index": key[1]}


def growth_kib(data):
    """By how much a worker's private memory grows with a tenth of the entries: the median of nine steps."""
    loader = DataLoader(Walk(data), batch_size=25, num_workers=1, multiprocessing_context="fork")
    found = torch.cat(list(loader))
    found = found[found >= 0]
    assert len(found) == 10
    return float(torch.diff(found).median())


@pytest.fixture(scope="module")
def measure():
    """Measures in a process of its own: a worker that is forked from this one would copy, page by page, what
    earlier tests have left.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield lambda data: pool.submit(growth_kib, data).result()


def rgbd_folder(root):
    for i in range(4):
        write_rgb(
            root / "rgb" / "a_sequence_with_a_name" / f"{i:010d}.png",
            layouts.picture(np.random.default_rng(i), SHAPE),
        )
        write_depth_png(
            root / "depth" / "a_sequence_with_a_name" / f"{i:010d}.png",
            layouts.depth_map(np.random.default_rng(i), SHAPE),
        )
    return [f"a_sequence_with_a_name/{i:010d}" for i in range(4)]


def repeated(root, kind):
    """A data set whose split names each of a few frames so often that it has 20,000 entries."""
    options = {"path": root, "split": "many.txt"}
    if kind == "ncdb":
        layouts.ncdb(root, shape=SHAPE)
        entries = json.loads((root / "splits" / "combined_train.json").read_text())
        many = [entries[i % len(entries)] for i in range(ENTRIES)]
        (root / "many.json").write_text(json.dumps(many))
        options["split"] = "many.json"
    else:
        if kind == "rgbd-folder":
            lines = rgbd_folder(root)
        elif kind == "kitti":
            layouts.kitti(root, shape=SHAPE)
            lines = (root / "split.txt").read_text().split()
        else:
            pytest.importorskip("h5py")
            lines = [f"{name}.h5" for name in layouts.nyu(root, shape=SHAPE)]
        (root / "many.txt").write_text("\n".join(lines[i % len(lines)] for i in range(ENTRIES)))
    return build_dataset(kind, image_shape=SHAPE, min_depth=0.1, max_depth=80.0, train=True, **options)


@needs_smaps
@pytest.mark.parametrize("kind", ["rgbd-folder", "kitti", "ncdb", "nyu-h5"])
def test_a_worker_does_not_grow_over_20_000_entries(tmp_path, kind, measure):
    data = repeated(tmp_path, kind)
    assert len(data) == ENTRIES
    assert measure(data) < 64


@needs_smaps
def test_the_measure_finds_the_growth_of_a_list(measure):
    assert measure(Listed()) > 150
