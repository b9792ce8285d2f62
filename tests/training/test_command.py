"""How the commands speak: errors about values, and their form in a terminal and in a log file."""

import logging
import os
import runpy
import sys
from pathlib import Path

import pytest

from depthloss.training import command
from depthloss.training.ablate import main as ablate_main
from depthloss.training.ablate import run as ablate
from depthloss.training.cli import main as train_main
from depthloss.training.cli import run as train
from depthloss.training.configuration.parser import parse
from depthloss.training.data.convert import main as convert
from depthloss.training.errors import ConfigError
from depthloss.training.evaluation.cli import main as evaluate_main
from depthloss.training.evaluation.cli import run as evaluate
from depthloss.training.prediction.cli import main as predict_main


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


@pytest.mark.parametrize("script", ["train", "evaluate", "predict"])
def test_without_the_extra(monkeypatch, capsys, script):
    """One line that says what to install."""
    text = "depthloss.training needs packages that are not installed (lightning, tqdm): pip install "
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    for name in [name for name in sys.modules if name.startswith("depthloss.training")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(Path(__file__).parents[2] / f"{script}.py"), run_name="__main__")
    assert (stop.value.code, capsys.readouterr().err) == (
        2,
        f"{script}.py: error: {text}'depthloss[train]'\n",
    )


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("module", ["cli", "evaluation.cli", "prediction.cli", "ablate", "data.convert"])
def test_a_module_is_a_command(monkeypatch, capsys, module):
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module(f"depthloss.training.{module}", run_name="__main__")
    assert stop.value.code == 0 and capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize("main", [train_main, evaluate_main, predict_main, ablate_main, convert])
def test_the_traceback_of_an_error(caplog, main):
    arguments = (
        ["tum", "gone", "out"]
        if main is convert
        else ["gone.yaml", *["in", "--out=o"] * (main is predict_main)]
    )
    texts = []
    for flags in ([], ["--debug"]):
        with caplog.at_level(logging.DEBUG, "depthloss"):  # which is put back
            try:
                status = main([*arguments, *flags])
            except SystemExit as stop:
                status = stop.code
            texts.append((status, "Traceback (most recent call last)" in caplog.text))
    assert texts == [(2, False), (2, True)]


LONG_NAME = "x" * 300


def test_names_that_no_file_can_have(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in (LONG_NAME, "x\0y"):
        for text, call in {
            "cannot be read as a YAML file": lambda name=name: train([name]),
            "--resume .*: no checkpoint": lambda name=name: train(["--resume", name]),
            "--resume last: no checkpoint": lambda name=name: train(["--name", name, "--resume"]),
            "no such checkpoint": lambda name=name: evaluate([name]),
            "no such file": lambda name=name: train(["--model.depth_net.weights", name]),
            "checkpoint.dirpath .* cannot be the path of a folder": lambda name=name: train(
                ["--checkpoint.dirpath", name]
            ),
            "tensorboard.log_dir .* cannot be the path": lambda name=name: train(
                ["--tensorboard.log_dir", name]
            ),
            "name must be the name of a directory": lambda name=name: train(["--name", name]),
            "model.init_from .*no such checkpoint": lambda name=name: train(["--model.init_from", name]),
        }.items():
            with pytest.raises(ConfigError, match=text):
                call()
    assert not list(tmp_path.iterdir())
