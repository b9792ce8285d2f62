"""The command `depthloss`, and its doctor."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from depthloss import __version__, cli, dispatch, doctor


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


@pytest.mark.parametrize("script, program", [("npz_folder.py", "python npz_folder.py"), ("-m", "depthloss")])
def test_a_script_of_the_users_own_is_named(script, program, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", script, raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "nowhere"])
    assert capsys.readouterr().err == f"{program} evaluate: error: nowhere: no such checkpoint\n"


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
    assert status == 0 and re.search(rf"^torch +{re.escape(torch.__version__)}$", out, re.M)
    for name in dispatch.BACKENDS:
        reason = dispatch.backend_status(name)
        what = "its float32 agrees with float64" if name == "reference" else "agrees with the reference"
        found = out.split(f"\nbackend {name}: ")[1]
        assert found.startswith(f"not available: {reason}\n" if reason else f"available\n  {what} to ")
    assert all(len(line) <= 80 or line.startswith("backend triton: not") for line in out.splitlines())


def test_the_environment_is_printed_before_a_backend_runs(capfd, monkeypatch):
    monkeypatch.setattr(doctor, "check_backend", lambda name: os.kill(os.getpid(), signal.SIGKILL))
    child = os.fork()
    if not child:
        cli.main(["doctor"])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    out = capfd.readouterr().out
    first = next(name for name in dispatch.BACKENDS if dispatch.backend_status(name) is None)
    assert torch.__version__ in out and out.splitlines()[-1] == f"backend {first}: available"


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
    error = "depthloss doctor: error: it takes no arguments; got --quick\n"
    assert run(capsys, "doctor", "--quick") == (2, "", error)
    assert run(capsys, "doctor", "--help")[0] == 0


def test_a_reader_that_leaves():
    done = subprocess.run(
        f"{sys.executable} -m depthloss doctor | head -1", shell=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("depthloss ") and not done.stderr
