"""Mixed precision: bfloat16 from end to end on the CPU, and the guard beside a gradient scaler."""

import logging

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

import depthloss
from depthloss.training.configuration.sections import GroupConfig, OptimizerConfig
from depthloss.training.errors import ConfigError
from depthloss.training.loop.guard import TrainingDiverged
from depthloss.training.loop.module import DepthModule

from .steps import build, fit, frames, same
from .test_resume import load, rows

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*no `val_dataloader`.*",
    "ignore:.*isinstance\\(treespec, LeafSpec\\).*",
    "ignore:.*lr_scheduler.step.*",
)

METHODS = ("sparse-scale-adaptive", "sparse-adaptive-multi-domain", "sparse-silog")


class Dtypes(L.Callback):
    """Keeps the types of what the network and the loss return."""

    def on_train_start(self, trainer, pl_module):
        self.seen = {}
        model = pl_module.model
        model.depth_net.register_forward_hook(
            lambda m, a, out: self.seen.update(net=out["inv_depths"][0].dtype)
        )
        model.supervised_loss.register_forward_hook(
            lambda m, a, out: self.seen.update(loss=out["loss"].dtype)
        )


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_follows_float32(train, with_callback, method):
    dtypes = Dtypes()
    with_callback(dtypes)
    runs = {
        precision: train(
            f"--name={precision}",
            f"--supervised-method={method}",
            f"--trainer.precision={precision}",
            "--max-epochs=1",
        )
        for precision in ("32-true", "bf16-mixed")
    }
    assert dtypes.seen == {"net": torch.bfloat16, "loss": torch.float32}
    state = load(runs["bf16-mixed"])
    assert all(v.dtype == torch.float32 for v in state["state_dict"].values() if v.is_floating_point())
    assert all(v.isfinite().all() for v in state["state_dict"].values())
    full, mixed = (
        [float(r["train/loss_step"]) for r in rows(run) if r["train/loss_step"]] for run in runs.values()
    )
    # bfloat16 has 8 bits: 2^-8 per operation
    assert mixed == pytest.approx(full, rel=0.02) and mixed != full


# ---- the guard beside a gradient scaler


class Scaled(nn.Module):
    """A model of which a frame says by its name what goes wrong; in float32, so that numbers are exact."""

    def __init__(self, net):
        super().__init__()
        self.depth_net = net
        self.supervised_loss = depthloss.SupervisedLoss("sparse-l1")

    def forward(self, batch, progress=0.0, epoch=0):
        with torch.autocast("cpu", enabled=False):
            depth = self.depth_net(batch["rgb"])["inv_depths"][0]
            loss = (depth * batch["depth"] - 1).abs().mean()
            fault = batch["name"][0]
            if fault == "overflow":  # as float16 does: above 65504 once it is scaled, whatever the loss
                loss = _Overflow.apply(loss)
            elif fault == "nan":
                loss = loss * torch.nan
            elif fault == "gradient":  # no scale is low enough
                loss = loss + (0 * loss).sqrt()
        return {"loss": loss, "metrics": {"mean": depth.mean().detach()}}


class _Overflow(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return torch.where((10 * grad).abs() > 65504, torch.inf, grad)


def scaled_run(tiny_net, faults, scale=2.0**16, save=None, **kwargs):
    """The state before each batch and the scale after it, for frames of which some have a fault."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=4)
    scales = []

    class Scales(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            scales.append(scaler.get_scale())

        def on_train_epoch_end(self, trainer, pl_module):
            if save:
                trainer.save_checkpoint(f"{save}-{trainer.current_epoch}.ckpt")

    samples = [{**frame, "name": fault} for frame, fault in zip(frames(len(faults)), faults, strict=True)]
    torch.manual_seed(0)
    module = DepthModule(Scaled(tiny_net()), OptimizerConfig("AdamW", GroupConfig(1e-3, 0.1)))
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    recorder = fit(module, samples, callbacks=[Scales()], plugins=[precision], **kwargs)
    return module, recorder, scales


def test_an_overflow_lowers_the_scale_and_is_counted_apart(tiny_net, caplog):
    faults = ["", "overflow", "overflow", "overflow", "overflow", "", "nan", ""]
    with caplog.at_level(logging.INFO, "depthloss"):
        module, recorder, scales = scaled_run(tiny_net, faults)
    states = recorder.states
    # 10 * 2^13 is too much, 10 * 2^12 is not; the scaler takes a NaN for an overflow as well
    assert scales == [2.0**n for n in (16, 15, 14, 13, 12, 12, 11, 11)]
    unchanged = [same(a, b) for a, b in zip(states[:-1], states[1:], strict=True)]
    assert unchanged == [fault != "" for fault in faults]
    assert (module.guard.overflows, module.guard.skipped) == (4, 1)
    assert (recorder.logged["train/overflow_steps"], recorder.logged["train/skipped_steps"]) == (4, 1)
    lines = [m for m in caplog.messages if "skipped" in m]
    assert (
        lines[0] == "epoch 1, step 2 skipped: a scaled gradient overflowed (1 in all), the scale is now 32768"
    )
    assert "loss or gradient not finite (1 in all, 1 in a row), samples: nan" in lines[4]


def test_the_scale_changes_no_step(tiny_net):
    scaled = scaled_run(tiny_net, [""] * 4)[1]
    torch.manual_seed(0)
    plain = DepthModule(Scaled(tiny_net()), OptimizerConfig("AdamW", GroupConfig(1e-3, 0.1)))
    samples = [{**frame, "name": ""} for frame in frames(4)]
    assert same(scaled.states, fit(plain, samples).states), "powers of two are exact"


def test_overflows_are_none_of_the_ten_in_a_row(tiny_net):
    module, _, scales = scaled_run(tiny_net, ["overflow"] * 14, scale=2.0**30)
    assert (module.guard.overflows, module.guard.skipped, module.guard.in_a_row) == (14, 0, 0)
    assert scales[-1] == 2.0**16
    # nor do they begin the count anew
    faults = [*["nan"] * 5, "overflow", *["nan"] * 5]
    with pytest.raises(TrainingDiverged, match="10 steps in a row"):
        scaled_run(tiny_net, faults, scale=2.0**30)


def test_a_gradient_that_no_scale_helps_stops_the_training(tiny_net):
    with pytest.raises(TrainingDiverged, match="10 steps in a row"):
        scaled_run(tiny_net, ["gradient"] * 30, scale=2.0**4)


def test_an_overflow_drops_what_was_accumulated(tiny_net):
    module, recorder, scales = scaled_run(tiny_net, ["", "overflow", "", ""], accumulate_grad_batches=2)
    assert same(
        recorder.states[1][0]["model.depth_net.head.1.weight"],
        recorder.states[2][0]["model.depth_net.head.1.weight"],
    )
    assert same(recorder.states[0], recorder.states[2]) and not same(recorder.states[2], recorder.states[4])
    assert scales == [2.0**16, 2.0**15, 2.0**15, 2.0**15]


def test_a_resumed_run_has_the_scale(tiny_net, tmp_path):
    faults, path = ["", "overflow", "overflow", ""], str(tmp_path / "epoch")
    _, whole, scales = scaled_run(tiny_net, faults, save=path, max_epochs=3)
    # four good steps in a row double it
    assert scales == [2.0**n for n in (16, 15, 14, 14, 14, 13, 12, 12, 12, 12, 13, 13)]
    module, part, again = scaled_run(
        tiny_net, faults, scale=2.0**3, checkpoint=f"{path}-0.ckpt", max_epochs=3
    )
    assert again == scales[4:] and same(part.states, whole.states[4:])
    assert module.guard.overflows == 4


def test_the_counts_are_in_the_checkpoint(tiny_net):
    module = build(tiny_net)
    module.guard.skipped, module.guard.in_a_row, module.guard.overflows = 3, 2, 7
    checkpoint = {}
    module.on_save_checkpoint(checkpoint)
    other = build(tiny_net)
    other.on_load_checkpoint(checkpoint)
    assert (other.guard.skipped, other.guard.in_a_row, other.guard.overflows) == (3, 2, 7)
    other.on_load_checkpoint({"skipped_steps": [5, 1]})  # from before there were overflows
    assert (other.guard.skipped, other.guard.in_a_row, other.guard.overflows) == (5, 1, 0)


@pytest.mark.parametrize("precision", ["16-mixed", "16"])
def test_float16_needs_a_gpu(train, precision):
    with pytest.raises(ConfigError) as error:
        train(f"--trainer.precision={precision}")
    assert str(error.value) == (
        f"trainer.precision: {precision} needs a GPU, and this run is on the CPU: use bf16-mixed there, "
        "or 32-true"
    )
