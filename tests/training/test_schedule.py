"""The learning rate of every step: warm-up, decay, both, and both again after a resume."""

import logging
import math

import pytest

from depthloss.training.configuration.sections import SchedulerConfig

from .steps import build, fit, frames, same
from .test_resume import assert_same, load, rows

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*no `val_dataloader`.*", "ignore:.*isinstance\\(treespec, LeafSpec\\).*"
)

BASE = 1e-4


def cosine(epoch: int, epochs: int) -> float:
    return (1 + math.cos(math.pi * epoch / epochs)) / 2


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        (SchedulerConfig("none", warmup_steps=4), [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1]),
        (SchedulerConfig("none", warmup_steps=1), [1] * 8),
        (
            SchedulerConfig("StepLR", step_size=1, gamma=0.1, warmup_steps=3),
            [1 / 3, 2 / 3, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001],
        ),
        (
            SchedulerConfig("CosineAnnealingLR", warmup_steps=5),
            [
                share * cosine(epoch, 4)
                for share, epoch in zip(
                    (0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1), (0, 0, 1, 1, 2, 2, 3, 3), strict=True
                )
            ],
        ),
    ],
    ids=["none", "one step", "StepLR", "cosine"],
)
def test_the_rate_of_each_step(tiny_net, scheduler, rates):
    recorder = fit(build(tiny_net, scheduler=scheduler), frames(2), max_epochs=4)
    assert recorder.rates() == pytest.approx([BASE * share for share in rates], rel=1e-9)


def test_a_step_is_one_of_the_optimiser(tiny_net):
    recorder = fit(
        build(tiny_net, scheduler=SchedulerConfig("none", warmup_steps=3)),
        frames(5),
        accumulate_grad_batches=2,
        max_epochs=2,
    )
    # three steps per epoch, the last of one batch
    third = BASE / 3
    assert recorder.rates() == pytest.approx([third, third, 2 * third, 2 * third, BASE, *[BASE] * 5])


def test_without_warm_up_nothing_is_multiplied(tiny_net):
    runs = [
        fit(build(tiny_net, scheduler=SchedulerConfig("none", warmup_steps=n)), frames(3)) for n in (0, 1)
    ]
    assert same(runs[0].states, runs[1].states)


def test_the_groups_warm_up_together(tiny_net):
    module = build(
        tiny_net, "sparse-adaptive-multi-domain", scheduler=SchedulerConfig("none", warmup_steps=2)
    )
    recorder = fit(module, frames(2))
    groups = [state[1]["param_groups"] for state in recorder.states[:-1]]
    assert [[g["lr"] for g in step] for step in groups] == [[BASE / 2, BASE / 2], [BASE, BASE]]


@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingLR"])
def test_the_log_and_a_resumed_run_have_the_same_rates(train, tiny_net, monkeypatch, name):
    arguments = [f"--model.scheduler.name={name}", "--model.scheduler.warmup_steps=8", "--max-epochs=4"]
    whole = train("--name=whole", *arguments)
    monkeypatch.setattr(tiny_net, "calls", 0)
    monkeypatch.setattr(tiny_net, "fail_at", 7)  # in the third of four epochs of three steps
    with pytest.raises(RuntimeError, match="killed"):
        train("--name=part", *arguments)
    monkeypatch.setattr(tiny_net, "fail_at", None)
    part = train("--name=part", "--resume", *arguments)
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert_same(load(whole)[key], load(part)[key], key)
    decay = [0.5 ** (e // 2) if name == "StepLR" else cosine(e, 4) for e in range(4)]
    steps = [min(1, (step + 1) / 8) * decay[step // 3] * 0.01 for step in range(12)]
    # every step of the warm-up, and the last of each epoch
    wanted = [(step, steps[step]) for step in range(12) if step < 8 or step % 3 == 2]
    for run in (whole, part):
        logged = dict((int(r["step"]), float(r["lr/Depth"])) for r in rows(run) if r["lr/Depth"])
        assert sorted(logged.items()) == [(step, pytest.approx(rate, rel=1e-6)) for step, rate in wanted]


def test_a_longer_cosine_goes_on_within_the_warm_up(train):
    arguments = ["--model.scheduler.name=CosineAnnealingLR", "--model.scheduler.warmup_steps=10"]
    train(*arguments, "--max-epochs=2")
    part = train(*arguments, "--max-epochs=4", "--resume")
    logged = {int(r["step"]): float(r["lr/Depth"]) for r in rows(part) if r["lr/Depth"]}
    wanted = [min(1, (step + 1) / 10) * cosine(step // 3, 4) * 0.01 for step in range(6, 12)]
    assert [logged[step] for step in (6, 7, 8, 9, 11)] == pytest.approx([wanted[i] for i in (0, 1, 2, 3, 5)])


def test_a_warm_up_that_is_longer_than_the_run(tiny_net, caplog):
    with caplog.at_level(logging.WARNING, "depthloss"):
        fit(build(tiny_net, scheduler=SchedulerConfig(warmup_steps=5)), frames(2), max_epochs=2)
    assert "the run ends within the warm-up, after 4 of 5 steps" in caplog.messages[0]
