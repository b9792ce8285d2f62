"""The warning about levels of the gradient term that find nothing in the ground truth."""

import logging

import lightning as L
import pytest
import torch
from torch._subclasses import FakeTensorMode

import depthloss
from depthloss.training.loop.module import DepthModule
from depthloss.training.loop.support import GradientSupport
from depthloss.training.models import SemiSupCompletionModel

from .steps import Plain, fit, frames

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*no `val_dataloader`.*", "ignore:.*isinstance\\(treespec.*"),
]
TEXT = (
    "the gradient term kept no response in the first {} steps at {}. These levels add nothing to the loss{}: "
    "the ground truth is too sparse for their cells (model.loss.gradient)"
)
FOUR, NONE = "scale_0: levels 1, 2; scale_1: levels 1, 2", ", so it has no gradient term"


def run(support, every=5, count=4, method="sparse-scale-adaptive", callbacks=(), loss=None, **kwargs):
    """Train on frames with ground truth at every n-th row and column."""
    samples = frames(count)
    for sample in samples:
        rows, columns = torch.meshgrid(torch.arange(16), torch.arange(32), indexing="ij")
        sample["depth"] *= (rows % every == 0) & (columns % every == 0)
    model = SemiSupCompletionModel(Plain(), depthloss.SupervisedLoss(method, **loss or {}), flip_lr_prob=0.0)
    fit(DepthModule(model), samples, callbacks=[support, *callbacks], **kwargs)


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, "depthloss.training")
    return lambda: [message for message in caplog.messages if message.startswith("the gradient term")]


@pytest.mark.parametrize(
    ("every", "loss", "levels", "none"),
    [
        (1, {}, None, ""),
        (2, {}, "scale_0: level 1", ""),
        (5, {}, FOUR, ""),
        (2, {"num_scales": 1, "supervised_num_scales": 1}, "scale_0: level 1", NONE),
        (5, {"lambda_sg": 0.0}, None, ""),  # It weighs nothing.
        (5, {"gradient": depthloss.GradientSpec(mask="residual")}, None, ""),
        (2, {"method": "sparse-scale-adaptive-progressive", "num_scales": 2}, "scale_0: level 1", ""),
        (5, {"method": "sparse-scale-adaptive-progressive", "lambda_sg": 0.0}, None, ""),
        (5, {"method": "sparse-adaptive-multi-domain", "num_scales": 2}, FOUR, NONE),
        (5, {"method": "sparse-l1"}, None, ""),
    ],
)  # fmt: skip
def test_every_level_without_a_response_is_named_once(said, every, loss, levels, none):
    method = loss.pop("method", "sparse-scale-adaptive")
    run(GradientSupport(2), every, 4, method, loss=loss)
    assert said() == ([TEXT.format(2, levels, none)] if levels else [])


def test_one_response_is_enough_and_a_short_run_is_judged_at_its_end(said):
    run(GradientSupport(50), every=2, count=3)
    assert said() == [TEXT.format(3, "scale_0: level 1", "")]


class Save(L.Callback):
    """Keeps a checkpoint of the first epoch."""

    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


def test_a_resumed_run_goes_on_counting(said, caplog, tmp_path):
    path = tmp_path / "first.ckpt"
    for checkpoint in (None, path):
        caplog.clear()
        run(GradientSupport(6), callbacks=[Save(path)], max_epochs=2, checkpoint=checkpoint)
        assert said() == [TEXT.format(6, FOUR, "")]
    caplog.clear()
    run(GradientSupport(3), callbacks=[Save(path)], max_epochs=2)
    assert len(said()) == 1
    run(GradientSupport(3), max_epochs=2, checkpoint=path)  # It was said before the checkpoint.
    assert len(said()) == 1


def test_no_step_waits_for_the_device():
    support = GradientSupport()
    with FakeTensorMode():  # Whose tensors have no number that could be read.
        for _ in range(2):
            support._add(None, (), {"metrics": {"scale_0/gradient/support_1": torch.ones(())}})
    assert support._sums.shape == (1,)


def test_every_training_is_watched(train, said):
    train("--max-epochs=1", "--datasets.train.gt=scanline", "--datasets.train.gt_beams=3")
    assert said() == [TEXT.format(3, "scale_0: levels 1, 2, 3; scale_1: levels 1, 2", "")]
