"""Accumulated gradients: their values, and what the profiler makes of such steps."""

import logging

import lightning as L
import pytest
import torch
from torch import nn

from depthloss.training.loop.callbacks import LossProfiler
from depthloss.training.loop.module import DepthModule
from depthloss.training.models import SemiSupCompletionModel

from .steps import Plain, build, fit, frames

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*no `val_dataloader`.*", "ignore:.*isinstance\\(treespec, LeafSpec\\).*"
)


class PerImage(nn.Module):
    """The mean of a loss over the images, for one whose terms are not linear in them."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss
        self.clamp_parameters_ = loss.clamp_parameters_

    def forward(self, inv_depths, gt, masks=None, **kwargs):
        losses = [
            self.loss([x[i : i + 1] for x in inv_depths], gt[i : i + 1], masks=masks[i : i + 1], **kwargs)[
                "loss"
            ]
            for i in range(len(gt))
        ]
        return {"loss": torch.stack(losses).mean(), "metrics": {}}


class Gradients(DepthModule):
    """Keeps the gradients of each step before they are clipped."""

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        kept = self.__dict__.setdefault("kept", [])
        kept.append({name: p.grad.clone() for name, p in self.named_parameters()})
        super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)


@pytest.mark.parametrize("method", ["sparse-l1", "sparse-adaptive-multi-domain"])
def test_two_batches_of_two_are_one_of_four(method):
    runs = []
    for size, count in ((4, 1), (2, 2), (1, 4)):
        module = build(Plain, method, Gradients, flip=0.0)
        if method != "sparse-l1":  # a mean over pixels, as many in every frame
            module.model.supervised_loss = PerImage(module.model.supervised_loss)
        fit(module, frames(8), batch_size=size, accumulate_grad_batches=count, precision="64-true")
        runs.append(module)
    whole = runs[0]
    assert len(whole.kept) == 2
    for parts in runs[1:]:
        for a, b in zip(whole.kept, parts.kept, strict=True):
            for name, gradient in a.items():
                assert gradient.abs().max() > 0
                assert torch.allclose(b[name], gradient, rtol=1e-12, atol=1e-15), name
        for name, value in whole.state_dict().items():
            assert torch.allclose(parts.state_dict()[name], value, rtol=1e-9, atol=1e-12), name


# ---- the profiler


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Timed(torch.autograd.Function):
    """The identity, which takes some time forward and some backward."""

    @staticmethod
    def forward(ctx, x, clock, forward, backward):
        ctx.clock, ctx.backward_time = clock, backward
        clock.now += forward
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.clock.now += ctx.backward_time
        return grad, None, None, None


class TimedNet(nn.Module):
    """Takes 100 and 200; with an RGB-D pass, whose features are compared in 7 and 9."""

    def __init__(self, clock, rgbd):
        super().__init__()
        self.clock, self.rgbd, self.net = clock, rgbd, Plain()

    def forward(self, rgb, input_depth=None):
        output = self.net(rgb)
        if not self.training:
            return output
        found = {"inv_depths": [Timed.apply(x, self.clock, 50, 100) for x in output["inv_depths"]]}
        if self.rgbd:
            found["inv_depths_rgbd"] = [
                Timed.apply(x + 0.01, self.clock, 50, 100) for x in output["inv_depths"]
            ]
            found["depth_loss"] = Timed.apply(output["inv_depths"][0].mean(), self.clock, 7, 9)
        return found


class TimedLoss(nn.Module):
    """Takes 3 and 5."""

    def __init__(self, clock):
        super().__init__()
        self.clock = clock

    def forward(self, inv_depths, gt, **kwargs):
        loss = Timed.apply(sum(x.mean() for x in inv_depths), self.clock, 3, 5)
        return {"loss": loss, "metrics": {"mean": loss.detach()}}

    def clamp_parameters_(self):
        pass


@pytest.mark.parametrize("rgbd", [False, True], ids=["RGB", "RGB-D"])
@pytest.mark.parametrize("count", [1, 2])
def test_the_profile_is_that_of_a_step(monkeypatch, caplog, rgbd, count):
    clock, profiler = Clock(), LossProfiler()
    monkeypatch.setattr(profiler, "_now", clock)
    model = SemiSupCompletionModel(TimedNet(clock, rgbd), TimedLoss(clock), flip_lr_prob=0.0)
    logged = []

    class Wait(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            clock.now += 1000  # between two batches, for the data

    module = DepthModule(model)
    log_dict = module.log_dict
    module.log_dict = lambda values, **kwargs: (logged.append(values), log_dict(values, **kwargs))
    with caplog.at_level(logging.INFO, "depthloss"):
        fit(module, frames(4), accumulate_grad_batches=count, callbacks=[Wait(), profiler])
    calls = 1 + rgbd
    loss, batch = calls * (3 + 5), calls * (2 * 50 + 2 * 100) + rgbd * (7 + 9) + calls * (3 + 5)
    times = [values for values in logged if "time/step_ms_step" in values]
    assert len(times) == 4 // count
    for values in times:
        assert values["time/step_ms_step"] == pytest.approx(1000 * count * batch)
        assert values["time/loss_ms_step"] == pytest.approx(1000 * count * loss)
        assert values["time/loss_percent_step"] == pytest.approx(100 * loss / batch)
    (line,) = [m for m in caplog.messages if m.startswith("loss: ")]
    assert f"{1000 * count * loss:.2f} of {1000 * count * batch:.1f} ms per step" in line
    assert f"forward {1000 * count * calls * 3:.2f}, backward {1000 * count * calls * 5:.2f}" in line
