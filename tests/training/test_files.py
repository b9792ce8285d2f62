"""Files that are written whole or not at all, and folders that cannot be written to."""

import os
from pathlib import Path

import pytest

from depthloss.training.errors import ConfigError
from depthloss.training.files import check_folder, whole_file


def test_a_file_is_whole_or_not_there(tmp_path):
    out = tmp_path / "sub" / "file.txt"
    with pytest.raises(RuntimeError), whole_file(out) as path:
        path.write_text("half")
        raise RuntimeError
    assert list(out.parent.iterdir()) == []
    with whole_file(out) as path:
        path.write_text("whole")
        assert not out.exists()
    assert out.read_text() == "whole" and list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("key", "folder"),
    [
        ("trainer.default_root_dir", "taken/run"),
        ("checkpoint.dirpath", "taken/of/runs"),
        ("tensorboard.log_dir", "taken/run"),
    ],
)
def test_a_folder_that_cannot_be_made_is_told_before_the_training(train, key, folder):
    Path("taken").write_text("")
    with pytest.raises(ConfigError) as error:
        train(f"--{key}={folder.removesuffix('/run')}")
    assert str(error.value) == f"{key} {folder}: {Path('taken').resolve()} is a file; choose another folder"
    assert not Path("runs").exists()


def test_a_folder_without_the_right_to_write(tmp_path, monkeypatch):
    check_folder("--out", tmp_path / "a/b")
    monkeypatch.setattr(os, "access", lambda path, mode: (Path(path), mode) != (tmp_path, os.W_OK))
    with pytest.raises(ConfigError, match=f"--out {tmp_path}/a/b: {tmp_path} is not writable; choose"):
        check_folder("--out", tmp_path / "a/b")
