"""The command `depthloss`, and its doctor."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from depthloss import __version__, cli, doctor, ops


def run(capsys, *arguments):
    status = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def test_help_and_version(capsys):
    for arguments in ((), ("--help",), ("-h",)):
        status, out, _ = run(capsys, *arguments)
        assert status == 0 and all(f"\n  {name} " in out for name in cli.COMMANDS)
    assert run(capsys, "--version") == (0, f"{__version__}\n", "")
    status, out, err = run(capsys, "trian")
    assert (
        status == 2 and not out and err.startswith("depthloss: error: no command 'trian'\n\nusage: depthloss")
    )


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "depthloss", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")


@pytest.mark.parametrize("name", ["train", "evaluate", "predict"])
def test_a_command_without_its_packages_says_what_to_install(name, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, cli.COMMANDS[name][0], None)

    def import_module(module):
        raise ModuleNotFoundError("No module named 'lightning'", name="lightning")

    monkeypatch.setattr(cli.importlib, "import_module", import_module)
    assert run(capsys, name) == (
        2,
        "",
        f"depthloss {name}: error: it needs the package 'lightning', which is not installed: "
        "pip install 'depthloss[train]'\n",
    )


@pytest.mark.parametrize("name", ["train", "evaluate", "predict"])
def test_the_commands_of_the_training(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert not end.value.code and f"usage: depthloss {name} " in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        cli.main([name, "nowhere.yaml"])
    assert end.value.code == 2 and f"\ndepthloss {name}: error: " in f"\n{capsys.readouterr().err}"


def test_the_doctor_runs_every_backend_that_there_is(capsys):
    status, out, _ = run(capsys, "doctor")
    assert status == 0
    lines = dict(line.split("  ", 1) for line in out.splitlines())
    assert lines["torch"].strip() == torch.__version__
    for name in ops.BACKENDS:
        reason = ops.backend_status(name)
        text = lines[f"backend {name}"].strip()
        what = (
            "its float32 agrees with float64 to "
            if name == "reference"
            else "it agrees with the reference to "
        )
        assert text.startswith(f"not available: {reason}" if reason else f"available, {what}")


def test_the_doctor_says_what_is_wrong(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_difference", lambda loss, *_: 0.5 if loss == "silog" else 1e-7)
    assert doctor.check_backend("reference")[1].startswith(
        "WRONG: silog differs from the reference by 5.0e-01 (g2"
    )
    status, out, _ = run(capsys, "doctor")
    assert status == 1 and "\nPlease report this with the text above." in out

    def fails(*_):
        raise OSError("no such symbol")

    monkeypatch.setattr(doctor, "_difference", fails)
    assert doctor.check_backend("reference") == (False, "FAILED: g2: OSError: no such symbol")


def test_a_difference_counts_nan_as_wrong(monkeypatch):
    pred, gt, mask = doctor._maps("cpu")
    monkeypatch.setattr(doctor, "_maps", lambda device: (pred, gt, mask | True))  # What is not valid is NaN.
    assert doctor._difference("l1", "reference", "cpu") == float("inf")


def test_the_doctor_takes_no_arguments(capsys):
    assert run(capsys, "doctor", "--quick")[:2] == (2, "doctor takes no arguments; got ['--quick']\n")
    assert run(capsys, "doctor", "--help")[0] == 0
