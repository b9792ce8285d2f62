"""Predictions and ground truth, paired by name."""

from __future__ import annotations

import logging

import pytest

from depthloss.training.data.io import DataError
from depthloss.training.data.pairs import pair


@pytest.fixture
def folders(tmp_path):
    def make(pred, gt):
        for folder, names in (("pred", pred), ("gt", gt)):
            for name in names:
                path = tmp_path / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        return tmp_path / "pred", tmp_path / "gt"

    return make


def test_by_path_and_nothing_is_dropped_silently(folders, caplog):
    pred, gt = folders(
        ["a/1.npy", "b/1.npy", "c.npy"], ["a/1.png", "b/1.PNG", "d.png", "e.png", "f.png", "g.png"]
    )
    with caplog.at_level(logging.INFO, "depthloss.data"):
        found = pair(pred, gt)
    assert found.files == [
        ("a/1", pred / "a/1.npy", gt / "a/1.png"),
        ("b/1", pred / "b/1.npy", gt / "b/1.PNG"),
    ]
    assert (found.without_gt, found.without_pred) == (["c"], ["d", "e", "f", "g"])
    assert [record.getMessage() for record in caplog.records] == [
        f"{pred} and {gt}: 2 pairs, by the rule: same path without suffix",
        f"{pred}: 1 map has no ground truth: c",
        f"{gt}: 4 maps have no prediction: d, e, f and 1 more",
    ]


def test_by_file_name(folders):
    pred, gt = folders(["1.npy", "2.npy"], ["x/1.png", "y/2.png"])
    found = pair(pred, gt)
    assert found.rule == "same file name without suffix"
    assert [gt for _, _, gt in found.files] == [gt / "x/1.png", gt / "y/2.png"]


@pytest.mark.parametrize(
    ("pred", "gt", "message"),
    [
        (["a.npy"], ["b.png"], "names such as 'a', and 'b'"),
        (["1.npy"], ["x/1.png", "y/1.png"], "x/1.png and y/1.png; expected one map per file name"),
        (["a.txt"], ["a.png"], "got no map; expected files with suffix .png"),
        ([], ["a.png"], "got no such folder"),
    ],
)
def test_no_pairs(folders, pred, gt, message):
    with pytest.raises(DataError, match=message):
        pair(*folders(pred, gt))
