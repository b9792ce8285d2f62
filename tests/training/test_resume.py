import csv
import logging
import os
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from depthloss.training import cli
from depthloss.training.checkpoints.stored import read_checkpoint
from depthloss.training.errors import ConfigError
from depthloss.training.loop.history import MetricsCSV, rows_before


def load(run_or_directory) -> dict:
    directory = getattr(run_or_directory, "directory", run_or_directory)
    return torch.load(directory / "checkpoints/last.ckpt", weights_only=True)


def assert_same(a, b, path="checkpoint"):
    """Equal bit for bit, at any depth."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


def rows(run_or_directory) -> list[dict]:
    directory = getattr(run_or_directory, "directory", run_or_directory)
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


STATE = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "skipped_steps", "loops")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--supervised-method=sparse-scale-adaptive"],
        ["--supervised-method=sparse-adaptive-multi-domain", "--model.scheduler.name=CosineAnnealingLR"],
        [
            "--supervised-method=sparse-progressive-ssi",
            "--datasets.train.num_workers=1",
            "--trainer.accumulate_grad_batches=2",
        ],
        [
            "--supervised-method=sparse-ssi-silog",
            "--trainer.precision=bf16-mixed",
            "--ema.decay=0.9",
            "--model.scheduler.warmup_steps=8",
        ],
    ],
    ids=lambda arguments: arguments[0].rpartition("sparse-")[2],
)
def test_a_killed_run_goes_on_bit_for_bit(train, tiny_net, monkeypatch, arguments):
    arguments = [*arguments, "--max-epochs=4"]
    whole = train("--name=whole", *arguments)

    monkeypatch.setattr(tiny_net, "calls", 0)
    monkeypatch.setattr(tiny_net, "fail_at", 7)  # three steps per epoch: in the middle of the third
    with pytest.raises(RuntimeError, match="killed"):
        train("--name=part", *arguments)
    monkeypatch.setattr(tiny_net, "fail_at", None)
    part = train("--name=part", "--resume", *arguments)

    a, b = load(whole), load(part)
    assert a.keys() == b.keys() and ("current_model_state" in a) == ("--ema.decay=0.9" in arguments)
    for key in a.keys() - {"config", "callbacks"}:
        assert_same(a[key], b[key], key)
    assert tiny_net.calls == 8 + 6
    # and the log is that of one run: no row twice, none missing
    wanted = ("step", "epoch", "train/loss_step", "train/loss_epoch", "val/abs_rel", "lr/Depth")
    assert [[r.get(k) for k in wanted] for r in rows(part)] == [
        [r.get(k) for k in wanted] for r in rows(whole)
    ]


@pytest.mark.parametrize(("which", "epoch"), [("best", 0), ("best", 1), ("last", 0)])
def test_a_kill_right_after_a_checkpoint(train, monkeypatch, caplog, which, epoch):
    """Of the first epoch there is best.ckpt alone, of later ones it is newer than last.ckpt."""
    arguments = ["--max-epochs=3", "--ema.decay=0.9", "--profile-loss"]
    whole = train("--name=whole", *arguments, "--checkpoint.save_top_k=-1")
    save = L.Trainer.save_checkpoint

    def save_and_die(self, path, *args, **kwargs):
        save(self, path, *args, **kwargs)
        if self.current_epoch == epoch and (Path(path).stem == "last") == (which == "last"):
            raise RuntimeError("killed")

    monkeypatch.setattr(L.Trainer, "save_checkpoint", save_and_die)
    with pytest.raises(RuntimeError, match="killed"):
        train("--name=part", *arguments, "--checkpoint.save_top_k=-1")
    monkeypatch.setattr(L.Trainer, "save_checkpoint", save)
    with pytest.raises(ConfigError, match="runs/part already holds a run.*resume it by --resume"):
        train("--name=part", *arguments)
    part = train("--name=part", *arguments, "--checkpoint.save_top_k=-1", "--resume")
    assert ("resuming from the newest whole checkpoint" in caplog.text) == (which == "best")
    a, b = load(whole), load(part)
    for key in a.keys() - {"config", "callbacks"}:
        assert_same(a[key], b[key], key)
    best = [sorted(p.name for p in run.directory.glob("checkpoints/epoch*")) for run in (whole, part)]
    assert best[0] == best[1] and len(best[0]) == 3
    assert [r.keys() for r in rows(part)] == [r.keys() for r in rows(whole)]
    for name in rows(whole)[0]:
        x, y = ([r[name] for r in rows(run)] for run in (whole, part))
        assert x == y or (name.startswith("time/") and [*map(bool, x)] == [*map(bool, y)]), name


def test_a_kill_while_metrics_csv_is_rewritten(tmp_path, monkeypatch):
    file = tmp_path / "metrics.csv"
    MetricsCSV(file).log_metrics({"a": 1.5}, 0)
    for act in (
        lambda: MetricsCSV(file, rows_before(file, 9)),  # a resumed run
        lambda: MetricsCSV(file, rows_before(file, 9)).log_metrics({"b": 2.5}, 1),  # a new column
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                act()
        assert file.read_text() == "a,step\n1.5,0\n"
    act()
    assert file.read_text() == "a,b,step\n1.5,,0\n,2.5,1\n"
    MetricsCSV(file)
    assert not file.exists()


def test_from_within_an_epoch(train, with_callback):
    class SaveWithin(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (1, 0):
                trainer.save_checkpoint("within.ckpt")

    with_callback(SaveWithin())
    whole = train("--name=whole", "--max-epochs=3")
    part = train("--name=part", "--max-epochs=3", "--resume=within.ckpt")
    assert_same(load(whole)["state_dict"], load(part)["state_dict"])
    assert_same(load(whole)["optimizer_states"], load(part)["optimizer_states"])


def test_resume_from_the_best(train):
    run = train("--max-epochs=2")
    best = torch.load(run.directory / "checkpoints/best.ckpt", weights_only=True)
    again = train("--max-epochs=4", "--resume", "best")
    assert load(again)["epoch"] == 3
    assert load(again)["global_step"] == 12
    assert best["epoch"] in (0, 1)


def test_a_moved_run_remembers_its_best(train):
    run = train("--max-epochs=2", "--checkpoint.save_top_k=2")
    scores = {p.name for p in run.directory.glob("checkpoints/epoch*.ckpt")}
    run.directory.rename("runs/moved")
    again = train("--name=moved", "--resume", "--max-epochs=3", "--checkpoint.save_top_k=2")
    kept = {p.name for p in again.directory.glob("checkpoints/epoch*.ckpt")}
    assert len(kept) == 2 and kept & scores
    state = next(s for s in load(again)["callbacks"].values() if s.get("monitor"))
    assert {path.rpartition("/")[0] for path in state["best_k_models"]} == {
        str(again.directory.resolve() / "checkpoints")
    }


def test_other_settings_are_named(train, caplog):
    train("--max-epochs=1", "--lambda-sg=0.2")
    with caplog.at_level(logging.WARNING, "depthloss"):
        train("--max-epochs=2", "--resume", "--lambda-sg=0.1")
    assert [m for m in caplog.messages if m.startswith("resuming with another")] == [
        "resuming with another model.loss.lambda_sg: 0.1, was 0.2",
        "resuming with another trainer.max_epochs: 2, was 1",
    ]


def test_equal_seeds_give_equal_runs(train):
    a, b, c = (train(f"--name={n}", f"--seed={s}") for n, s in (("a", 3), ("b", 3), ("c", 4)))
    assert rows(a) == rows(b)
    assert_same(load(a)["state_dict"], load(b)["state_dict"])
    assert rows(a) != rows(c)


def test_the_real_network(train):
    arguments = [
        "--model.depth_net.name=ResNetSAN01",
        "--model.depth_net.sparse_branch=false",
        "--max-epochs=2",
        "--supervised-method=sparse-adaptive-multi-domain",
        "--datasets.image_shape=[64,96]",
        "--datasets.train.length=4",
        "--datasets.validation.length=1",
        "--model.optimizer.depth.lr=1e-4",
    ]
    whole = train("--name=whole", *arguments)
    train("--name=part", *arguments, "--max-epochs=1")
    part = train("--name=part", *arguments, "--resume")
    assert load(part)["epoch"] == 1
    a, b = load(whole), load(part)
    for key in STATE:
        assert_same(a[key], b[key], key)
    for name in ("log_var_structure", "log_var_scale"):
        assert b["state_dict"][f"model.supervised_loss.loss_func.{name}"] != 0


# ---- the configuration of a resumed run


def test_without_a_file_the_configuration_is_the_checkpoints(train, caplog):
    first = train("--max-epochs=1", "--supervised-method=sparse-adaptive-multi-domain", "--seed=7")
    with caplog.at_level(logging.INFO, "depthloss"):
        again = cli.run(["--name=run", "--resume", "--max-epochs=2"])
    assert "configuration taken from runs/run/checkpoints/last.ckpt" in caplog.messages
    assert [m for m in caplog.messages if m.startswith("resuming with another")] == [
        "resuming with another trainer.max_epochs: 2, was 1"
    ]
    assert again.directory == first.directory
    tree = yaml.safe_load((again.directory / "config.yaml").read_text())
    assert tree["model"]["loss"]["supervised_method"] == "sparse-adaptive-multi-domain"
    assert (tree["model"]["depth_net"]["name"], tree["seed"], load(again)["epoch"]) == ("Tiny", 7, 1)
    # a file says which run it is, and dirpath where its checkpoints are
    third = cli.run(["--resume=runs/run/checkpoints/last.ckpt", "--max-epochs=3"])
    assert third.directory == first.directory and load(third)["epoch"] == 2


def test_without_a_file_the_folder_of_the_checkpoints_is_that_of_the_run(train):
    train("--max-epochs=1", "--checkpoint.dirpath=kept")
    cli.run(["--name", "run", "--resume", "--max-epochs", "2"])
    assert torch.load("kept/last.ckpt", weights_only=True)["epoch"] == 1
    assert not Path("runs/run/checkpoints").exists()


@pytest.mark.parametrize("with_file", [True, False])
@pytest.mark.parametrize(
    ("argument", "text"),
    [
        (
            "--supervised-method=sparse-l1",
            "loss.supervised_method (now 'sparse-l1', was 'sparse-scale-adaptive')",
        ),
        ("--model.depth_net.width=5", "model.depth_net.width (now 5, was 4)"),
        ("--model.optimizer.depth.lr=0.5", "model.optimizer.depth.lr (now 0.5, was 0.01)"),
        ("--model.scheduler.gamma=0.1", "model.scheduler.gamma (now 0.1, was 0.5)"),
        ("--model.scheduler.name=none", "model.scheduler.name (now 'none', was 'StepLR')"),
    ],
)
def test_what_cannot_change_within_a_run_is_refused(train, argument, text, with_file):
    run = train("--max-epochs=1")
    before = (run.directory / "config.yaml").read_bytes(), (run.directory / "metrics.csv").read_bytes()
    with pytest.raises(ConfigError) as error:
        arguments = ["--resume", "--max-epochs=2", argument]
        train(*arguments) if with_file else cli.run(["--name=run", *arguments])
    assert f"these cannot change within a run: {'model.' * text.startswith('loss')}{text}. " in str(
        error.value
    )
    assert before == (
        (run.directory / "config.yaml").read_bytes(),
        (run.directory / "metrics.csv").read_bytes(),
    )


def test_weights_that_do_not_fit_are_refused(train):
    run = train("--max-epochs=1")
    path = run.directory / "checkpoints/last.ckpt"
    state = load(run)
    before = (run.directory / "config.yaml").read_bytes()
    head = "model.depth_net.head.1.weight"
    torch.save({**state, "state_dict": {k: v for k, v in state["state_dict"].items() if k != head}}, path)
    with pytest.raises(ConfigError, match=rf"weights are not those .*: {head} absent, now \(1, 4, 3, 3\)"):
        train("--resume", "--max-epochs=2")
    state["optimizer_states"][0]["param_groups"][0]["params"].pop()
    torch.save(state, path)
    with pytest.raises(ConfigError, match=r"\('Depth', 5\)\] \(group, tensors\), now \[\('Depth', 6\)\]"):
        train("--resume", "--max-epochs=2")
    assert (run.directory / "config.yaml").read_bytes() == before


def test_a_longer_cosine_is_that_of_the_longer_run(train, capsys):
    cosine = "--model.scheduler.name=CosineAnnealingLR"
    whole = train("--name=whole", cosine, "--max-epochs=6")
    train(cosine, "--max-epochs=3")
    capsys.readouterr()
    part = train(cosine, "--max-epochs=6", "--resume")
    table = capsys.readouterr().out.splitlines()
    rates = [[float(r["lr/Depth"]) for r in rows(run) if r["lr/Depth"]] for run in (whole, part)]
    assert rates[0] == pytest.approx([0.01, 0.00933013, 0.0075, 0.005, 0.0025, 0.000669873])
    assert rates[1] == pytest.approx([0.01, 0.0075, 0.0025, 0.005, 0.0025, 0.000669873])
    assert table[1].split() == ["Depth", "6", "349", "0.005"], "the rate that the run resumes with"


# ---- files that a kill has left


@pytest.mark.parametrize("content", [lambda b: b[: len(b) // 2], lambda b: b"garbage", lambda b: b""])
def test_damaged_checkpoints_are_named(train, caplog, content):
    directory = train("--max-epochs=1").directory / "checkpoints"
    for path in directory.iterdir():
        path.write_bytes(content(path.read_bytes()))
    best, last = directory / "best.ckpt", directory / "last.ckpt"
    for which in ("last", "auto", str(last)):
        with pytest.raises(ConfigError) as error:
            train("--resume", which, "--max-epochs=2")
        text = f"--resume {which}: none of the checkpoints in {directory} is whole: best.ckpt, last.ckpt"
        assert str(error.value) == text
    assert f"--resume {last}: the file is damaged, or no checkpoint (" in caplog.text
    with pytest.raises(ConfigError) as error:
        train("--resume=best", "--max-epochs=2")
    assert f"--resume {best}: the file is damaged, or no checkpoint (" in str(error.value)
    assert str(error.value).endswith(f"others beside it: {last}")


def test_a_file_that_is_no_checkpoint(tmp_path):
    torch.save([1, 2], tmp_path / "x.ckpt")
    with pytest.raises(ConfigError, match="not a checkpoint of this script, it holds a list"):
        read_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("end", "kept"),
    [
        ("0,4,0.25\n", [1, 4]),
        ("0,4,0.2", [1]),  # the number may be cut
        ("0,4", [1]),
        ("0,", [1]),
        ("0,,\n", [1]),
        ("0,9,0.5\n", [1]),
    ],
)
def test_a_torn_row_is_left_out(tmp_path, caplog, end, kept):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,loss\n0,1,0.5\n" + end)
    with caplog.at_level(logging.WARNING, "depthloss"):
        assert [int(row["step"]) for row in rows_before(path, 6)] == kept
    torn = end not in ("0,4,0.25\n", "0,9,0.5\n")
    assert caplog.messages == [f"{path}: 1 incomplete row left out"] * torn
