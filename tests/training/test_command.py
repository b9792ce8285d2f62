"""How the commands speak: errors about values, and their form in a terminal and in a log file."""

import os
import sys

import pytest

from depthloss.training import command
from depthloss.training.ablate import run as ablate
from depthloss.training.cli import run as train
from depthloss.training.config import ConfigError
from depthloss.training.data.convert import main as convert
from depthloss.training.evaluation.cli import run as evaluate
from depthloss.training.parser import parse


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("trainer.max_epochs=x", "a whole number or null is needed, got x"),
        ("datasets.augmentation.crop_scale=1", "a list such as [1, 2] is needed, got 1"),
        ("datasets.augmentation.crop_scale=[1,a]", "a number is needed, got a"),
        ("model.optimizer.name=SGD", "one of 'Adam', 'AdamW' is needed, got SGD"),
        ("checkpoint.mode=best", "one of 'min', 'max' or null is needed, got best"),
        ("model.loss.gradient=x", "a mapping such as {key: value} or null is needed, got x"),
        ("check_data=maybe", "true or false is needed, got maybe"),
        ("datasets.train.length=1e3", "a whole number is needed, got 1000.0"),
        ("trainer.limit_train_batches=x", "a number or a whole number or null is needed, got x"),
        ("datasets.train=3", "a section of keys, or the YAML file that holds them, is needed, got '3'"),
    ],
)
def test_an_error_about_a_flag_says_what_is_needed(flag, text):
    with pytest.raises(ConfigError) as error:
        parse(None, [f"--{flag}"])
    assert str(error.value) == f"{flag.partition('=')[0]}: {text}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "got 3; in a YAML file, a text that looks like a number needs quotes"),
        (["a", "b"], "got ['a', 'b']"),
    ],
)
def test_an_error_about_a_value_in_a_file(value, text):
    with pytest.raises(ConfigError) as error:
        parse({"model": {"init_from": value}}, [])
    assert str(error.value) == f"model.init_from: a text or null is needed, {text}"


LONG = (
    "--datasets.train.path /a/very-long-path/that-must-not/be-broken: no such folder; check the option path"
)


@pytest.mark.parametrize(
    ("terminal", "lines"),
    [
        (False, [f"train.py: error: {LONG}", "  second line"]),
        (
            True,
            [
                "train.py: error: --datasets.train.path",
                "  /a/very-long-path/that-must-not/be-broken:",
                "  no such folder; check the option path",
                "  second line",
            ],
        ),
    ],
)
def test_an_error_is_wrapped_in_a_terminal_alone(capsys, monkeypatch, terminal, lines):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(command.shutil, "get_terminal_size", lambda: os.terminal_size((44, 24)))
    assert command.complain("train.py", f"{LONG}\n  second line", 2) == 2
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.parametrize("run", [train, evaluate, ablate, convert])
def test_help_fits_in_80_columns(capsys, monkeypatch, run):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        run(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
