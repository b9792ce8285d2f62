import csv
import logging

import lightning as L
import pytest
import torch

from depthloss.training import cli


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


def rows(run) -> list[dict]:
    with (run.directory / "metrics.csv").open(newline="") as file:
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
    for key in STATE:
        assert_same(a[key], b[key], key)
    assert tiny_net.calls == 8 + 6
    # and the log is that of one run: no row twice, none missing
    wanted = ("step", "epoch", "train/loss_step", "train/loss_epoch", "val/abs_rel", "lr/Depth")
    assert [[r.get(k) for k in wanted] for r in rows(part)] == [
        [r.get(k) for k in wanted] for r in rows(whole)
    ]


def test_from_within_an_epoch(train, monkeypatch):
    class SaveWithin(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == (1, 0):
                trainer.save_checkpoint("within.ckpt")

    original = cli.checkpoint_callbacks
    monkeypatch.setattr(cli, "checkpoint_callbacks", lambda *a, **k: [SaveWithin(), *original(*a, **k)])
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
    again = train(
        "--name=moved",
        "--resume",
        "--max-epochs=3",
        "--checkpoint.save_top_k=2",
        "--model.optimizer.depth.lr=0",
    )
    kept = {p.name for p in again.directory.glob("checkpoints/epoch*.ckpt")}
    assert len(kept) == 2 and kept & scores
    state = next(s for s in load(again)["callbacks"].values() if s.get("monitor"))
    assert {path.rpartition("/")[0] for path in state["best_k_models"]} == {
        str(again.directory.resolve() / "checkpoints")
    }


def test_other_settings_are_named(train, caplog):
    train("--max-epochs=1")
    with caplog.at_level(logging.WARNING, "depthloss"):
        train("--max-epochs=2", "--resume", "--model.loss.lambda_sg=0.1")
    assert [m for m in caplog.messages if m.startswith("resuming with another")] == [
        "resuming with another model.loss.lambda_sg: 0.1, was None",
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
