import logging

import pytest
import torch
from torch import nn

import depthloss
from depthloss.training.configuration.sections import GroupConfig, OptimizerConfig, SchedulerConfig
from depthloss.training.loop.guard import TrainingDiverged
from depthloss.training.loop.module import DepthModule
from depthloss.training.loop.schedule import group_table

from .steps import build, fit, frames, same

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*no `val_dataloader`.*", "ignore:.*isinstance\\(treespec, LeafSpec\\).*"
)


# ---- parameter groups


def test_the_groups_are_exactly_network_and_loss(tiny_net, capsys):
    optimizer = OptimizerConfig("AdamW", GroupConfig(1e-3, 0.05), loss_lr_mult=10.0)
    module = build(tiny_net, "sparse-adaptive-multi-domain", optimizer=optimizer)
    for p in module.model.depth_net.features.parameters():
        p.requires_grad_(False)
    fit(module, frames(1))
    table = capsys.readouterr().out
    depth, loss = module.trainer.optimizers[0].param_groups
    assert (depth["name"], depth["lr"], depth["weight_decay"]) == ("Depth", 1e-3, 0.05)
    assert (loss["name"], loss["lr"], loss["weight_decay"]) == ("Loss", 1e-2, 0.0)
    assert {id(p) for p in depth["params"]} == {id(p) for p in module.model.depth_net.head.parameters()}
    inner = module.model.supervised_loss.loss_func
    assert {id(p) for p in loss["params"]} == {id(inner.log_var_structure), id(inner.log_var_scale)}
    assert table.splitlines() == [
        "group  tensors  parameters     lr",
        "Depth        2          37  0.001",
        "Loss         2           2   0.01",
    ]
    assert group_table(module.trainer.optimizers[0]) == table.strip("\n")


@pytest.mark.parametrize("freeze", [False, True])
def test_no_group_for_a_loss_without_parameters_to_learn(tiny_net, freeze):
    module = build(tiny_net, "sparse-adaptive-multi-domain" if freeze else "sparse-l1")
    for p in module.model.supervised_loss.parameters():
        p.requires_grad_(False)
    fit(module, frames(1))
    (group,) = module.trainer.optimizers[0].param_groups
    assert (group["name"], len(group["params"])) == ("Depth", len(list(module.model.depth_net.parameters())))
    assert isinstance(module.trainer.optimizers[0], torch.optim.Adam)


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        (SchedulerConfig("StepLR", step_size=2, gamma=0.1), [1e-4, 1e-4, 1e-5, 1e-5]),
        (SchedulerConfig("CosineAnnealingLR"), [1e-4, 0.85355e-4, 0.5e-4, 0.14645e-4]),
        (SchedulerConfig("CosineAnnealingLR", T_max=2), [1e-4, 0.5e-4, 0.0, 0.5e-4]),
        (SchedulerConfig("none"), [1e-4] * 4),
    ],
)
def test_the_learning_rate_over_the_epochs(tiny_net, scheduler, rates):
    recorder = fit(build(tiny_net, scheduler=scheduler), frames(1), max_epochs=4)
    found = [state[1]["param_groups"][0]["lr"] for state in recorder.states[:-1]]
    assert found == pytest.approx(rates, rel=1e-4, abs=1e-12)
    assert recorder.logged["lr/Depth"] == pytest.approx(rates[-1], rel=1e-4, abs=1e-12)


# ---- progress, clamp, log


@pytest.mark.parametrize(
    ("epochs", "progress"), [(1, [0.0]), (2, [0.0, 1.0]), (5, [0.0, 0.25, 0.5, 0.75, 1.0])]
)
def test_progress_reaches_one(tiny_net, epochs, progress):
    seen = []
    module = build(tiny_net)
    forward = module.model.forward
    module.model.forward = lambda batch, progress, epoch: (
        seen.append((progress, epoch)),
        forward(batch, progress, epoch),
    )[1]
    recorder = fit(module, frames(1), max_epochs=epochs)
    assert recorder.progress == progress
    assert seen == [(p, e) for e, p in enumerate(progress)]


def test_the_loss_is_brought_back_into_its_bounds(tiny_net):
    module = build(tiny_net, "sparse-adaptive-multi-domain")
    inner = module.model.supervised_loss.loss_func
    with torch.no_grad():
        inner.log_var_structure.fill_(50.0)
    fit(module, frames(1))
    assert inner.log_var_structure.item() == 10.0


def test_every_metric_is_logged_per_step_and_per_epoch(tiny_net):
    module = build(tiny_net, "sparse-adaptive-multi-domain")
    per_step = []
    log_dict = module.log_dict
    module.log_dict = lambda values, **kwargs: (per_step.append(values), log_dict(values, **kwargs))
    logged = fit(module, frames(3), batch_size=2).logged
    inner = module.model.supervised_loss.loss_func.metrics
    names = ["loss", "supervised_loss", *(f"scale_{i}/{name}" for i in (0, 1) for name in inner)]
    for name in names:
        assert f"train/{name}_step" in logged and f"train/{name}_epoch" in logged
    assert logged["train/scale_0/sigma_structure_epoch"] == pytest.approx(1, abs=1e-3)
    first, last = (float(values["train/loss_step"]) for values in per_step[:2])
    assert first != last == logged["train/loss_step"]
    assert logged["train/loss_epoch"] == pytest.approx((2 * first + last) / 3), "the mean is over samples"
    assert logged["train/grad_norm"] > 0
    assert logged["train/skipped_steps"] == 0
    assert logged["lr/Depth"] == pytest.approx(1e-4)
    assert logged["lr/Loss"] == pytest.approx(1e-4)


def test_steps_do_not_depend_on_what_ran_before(tiny_net):
    class Disturb(DepthModule):
        def on_train_batch_start(self, batch, batch_idx):
            torch.rand(batch_idx + 1)
            super().on_train_batch_start(batch, batch_idx)

    a = fit(build(tiny_net), frames(4))
    b = fit(build(tiny_net, module_type=Disturb), frames(4))
    c = fit(build(tiny_net, seed=1), frames(4))
    assert same(a.states, b.states)
    assert not same(a.states, c.states)


# ---- steps that are not finite


class Faulty(nn.Module):
    """A model whose loss or gradient fails at will: the batches named in `fault` do."""

    def __init__(self, net, fault):
        super().__init__()
        self.depth_net, self.fault = net, fault
        self.supervised_loss = depthloss.SupervisedLoss("sparse-l1")

    def forward(self, batch, progress=0.0, epoch=0):
        depth = self.depth_net(batch["rgb"])["inv_depths"][0]
        loss = (depth * batch["depth"] - 1).abs().mean()
        if batch["name"][0] in self.fault["names"]:
            if self.fault["kind"] == "loss":
                loss = loss + torch.inf
            else:  # the gradient of sqrt at 0 is infinite, times 0 is NaN; the loss is finite
                loss = loss + (0 * loss).sqrt()
        return {"loss": loss, "metrics": {"mean": depth.mean().detach()}}


@pytest.mark.parametrize("clip", [None, 0.5, ("value", 0.5)], ids=str)
@pytest.mark.parametrize("kind", ["input", "loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(tiny_net, caplog, kind, clip):
    torch.manual_seed(0)
    if kind == "input":
        module, samples = (
            build(tiny_net, optimizer=OptimizerConfig("AdamW", GroupConfig(1e-3, 0.1))),
            frames(4, bad=(2,)),
        )
    else:
        fault = {"kind": kind, "names": {"frame-2"}}
        module, samples = (
            DepthModule(Faulty(tiny_net(), fault), OptimizerConfig("AdamW", GroupConfig(1e-3, 0.1))),
            frames(4),
        )
    algorithm, value = clip if isinstance(clip, tuple) else ("norm", clip)
    with caplog.at_level(logging.WARNING, "depthloss"):
        recorder = fit(module, samples, gradient_clip_val=value, gradient_clip_algorithm=algorithm)
    before = recorder.states
    assert [same(before[i], before[i + 1]) for i in range(4)] == [False, False, True, False]
    assert all(t.isfinite().all() for t in before[-1][0].values())
    assert module.guard.skipped == 1 and recorder.logged["train/skipped_steps"] == 1
    assert all(v == v for v in recorder.logged.values()), "a skipped step is not in the means"
    (message,) = [m for m in caplog.messages if "not finite" in m]
    assert "1 in all, 1 in a row" in message and message.endswith("samples: frame-2")


def test_a_first_step_that_is_not_finite_leaves_no_state(tiny_net):
    recorder = fit(build(tiny_net), frames(2, bad=(0,)))
    assert same(recorder.states[0], recorder.states[1])
    assert recorder.states[1][1]["state"] == {}


def test_ten_in_a_row_stop_the_training(tiny_net):
    module = build(tiny_net)
    with pytest.raises(TrainingDiverged) as error:
        fit(module, frames(14, bad=tuple(range(2, 14))))
    text = str(error.value)
    for word in ("10 steps in a row", "epoch 1", "frame-11", "model.optimizer.depth.lr"):
        assert word in text
    assert module.guard.skipped == 10


def test_nine_in_a_row_do_not(tiny_net):
    module = build(tiny_net)
    fit(module, frames(22, bad=(*range(9), *range(10, 19))))
    assert module.guard.skipped == 18


def test_accumulated_batches_are_dropped_together(tiny_net, caplog):
    module = build(tiny_net)
    with caplog.at_level(logging.WARNING, "depthloss"):
        recorder = fit(module, frames(6, bad=(2,)), accumulate_grad_batches=2)
    assert same(recorder.states[2][0], recorder.states[4][0]), (
        "the running statistics of both batches as well"
    )
    assert not same(recorder.states[0][0], recorder.states[2][0])
    assert not same(recorder.states[4][0], recorder.states[6][0])
    (message,) = [m for m in caplog.messages if "not finite" in m]
    assert message.endswith("samples: frame-2, frame-3")


@pytest.mark.parametrize("clip", [1e-3, ("value", 1e-4)], ids=str)
def test_gradients_are_clipped_as_torch_does(tiny_net, clip):
    algorithm, value = clip if isinstance(clip, tuple) else ("norm", clip)
    clipped = []

    class Keep(DepthModule):
        def configure_gradient_clipping(
            self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
        ):
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            wanted = [p.detach().clone().requires_grad_() for p in parameters]
            for w, p in zip(wanted, parameters, strict=True):
                w.grad = p.grad.clone()
            if algorithm == "norm":
                norm = torch.nn.utils.clip_grad_norm_(wanted, value)
            else:
                norm = torch.nn.utils.get_total_norm([w.grad for w in wanted])
                torch.nn.utils.clip_grad_value_(wanted, value)
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            assert norm > value
            assert torch.equal(norm, self._grad_norm)
            clipped.extend(torch.equal(w.grad, p.grad) for w, p in zip(wanted, parameters, strict=True))

    fit(
        build(tiny_net, module_type=Keep),
        frames(2),
        gradient_clip_val=value,
        gradient_clip_algorithm=algorithm,
    )
    assert len(clipped) == 12 and all(clipped)
