"""Averaged weights: their values, and that validation, checkpoints, the test and a resumed run have them."""

import copy

import lightning as L
import pytest
import torch

from depthloss.training import cli
from depthloss.training.configuration.sections import EmaConfig
from depthloss.training.errors import ConfigError
from depthloss.training.loop.callbacks import Averaging

from .steps import build, fit, frames, same
from .test_resume import load

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*no `val_dataloader`.*", "ignore:.*isinstance\\(treespec, LeafSpec\\).*"
)


class Watch(L.Callback):
    """Keeps the average after each batch."""

    def __init__(self, averaging):
        self.averaging, self.averages = averaging, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.averages.append(copy.deepcopy(self.averaging._average_model.module.state_dict()))


def averages(tiny_net, config, samples, **kwargs):
    """The weights after each batch, and their averages."""
    averaging = Averaging(config)
    watch = Watch(averaging)
    module = build(tiny_net, kwargs.pop("method", "sparse-l1"))
    states = fit(module, samples, callbacks=[averaging, watch], **kwargs).states
    assert same(dict(module.state_dict()), dict(watch.averages[-1])), "what is left at the end is the average"
    return [state[0] for state in states[1:]], watch.averages


def floats(state):
    return {k: v for k, v in state.items() if v.is_floating_point()}


@pytest.mark.parametrize(("ramp", "keeps"), [(False, [0.7] * 4), (True, [2 / 11, 3 / 12, 4 / 13, 5 / 14])])
def test_the_average(tiny_net, ramp, keeps):
    states, found = averages(
        tiny_net, EmaConfig(0.7, ramp=ramp), frames(6), method="sparse-adaptive-multi-domain"
    )
    wanted = floats(states[0])  # the first update copies
    assert same(floats(found[0]), wanted)
    for state, average, keep in zip(states[1:], found[1:], keeps, strict=False):
        wanted = {k: keep * v + (1 - keep) * state[k] for k, v in wanted.items()}
        for key, value in wanted.items():
            assert torch.allclose(average[key], value, rtol=1e-6, atol=1e-9), key
        assert (
            average["model.depth_net.features.1.num_batches_tracked"]
            == state["model.depth_net.features.1.num_batches_tracked"]
        )
    name = "model.supervised_loss.loss_func.log_var_structure"
    assert found[-1][name] != states[-1][name] != 0, "the loss's parameters have an average as well"


def test_a_skipped_step_is_not_averaged(tiny_net):
    _, found = averages(tiny_net, EmaConfig(0.7), frames(4, bad=(2,)))
    assert [same(a, b) for a, b in zip(found[:-1], found[1:], strict=True)] == [False, True, False]
    assert all(v.isfinite().all() for v in found[-1].values())


def test_only_after_a_step(tiny_net):
    _, found = averages(tiny_net, EmaConfig(0.7, every_n_steps=2), frames(10), accumulate_grad_batches=2)
    # five steps, of which those numbered 0, 2 and 4 are averaged
    changed = [i for i in range(1, 10) if not same(found[i - 1], found[i])]
    assert changed == [1, 5, 9]


def test_what_is_validated_is_what_is_saved_and_tested(train, tiny_net):
    run = train(
        "--ema.decay=0.9",
        "--checkpoint.save_top_k=-1",
        "--datasets.test.dataset=synthetic",
        "--datasets.test.length=2",
        "--supervised-method=sparse-adaptive-multi-domain",
        # The last epoch is the best one: testing takes the callbacks back to that of the best.
        "--model.loss.gradient={mask: support, downsample: bilinear}",
    )
    (best,) = [c for c in run.trainer.checkpoint_callbacks if c.monitor]
    scores = {path: float(score) for path, score in best.best_k_models.items()}
    assert len(set(scores.values())) == 2
    data, trainer = (
        run.trainer.datamodule,
        L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False),
    )
    for path, score in scores.items():
        state = torch.load(path, weights_only=True)
        assert state["weights"] == "averaged"
        assert not same(state["state_dict"], state["current_model_state"])
        run.module.load_state_dict(state["state_dict"])
        (metrics,) = trainer.validate(run.module, data, verbose=False)
        assert metrics["val/abs_rel"] == pytest.approx(score, rel=1e-6)
    run.module.load_state_dict(torch.load(best.best_model_path, weights_only=True)["state_dict"])
    (metrics,) = trainer.test(run.module, data, verbose=False)
    assert metrics["test/abs_rel"] == pytest.approx(
        float(run.trainer.callback_metrics["test/abs_rel"]), rel=1e-6
    )


def test_without_an_average_a_checkpoint_says_so(train):
    assert load(train("--max-epochs=1"))["weights"] == "current"


def test_it_cannot_be_switched_within_a_run(train):
    train("--max-epochs=1", "--ema.decay=0.9")
    with pytest.raises(ConfigError, match=r"cannot change within a run: ema.decay \(now None, was 0.9\)"):
        train("--max-epochs=2", "--resume", "--ema.decay=null")
    # a checkpoint from before there was an average
    state = load(train("--name=old", "--max-epochs=1"))
    del state["config"]["ema"]
    torch.save(state, "old.ckpt")
    with pytest.raises(ConfigError, match=r"ema.decay \(now 0.9, was None\)"):
        cli.run(["--resume=old.ckpt", "--name=new", "--max-epochs=2", "--ema.decay=0.9"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ema.decay=1"], "ema.decay must be between 0 and 1"),
        (["--ema.decay=0.9", "--ema.every_n_steps=0"], "ema.every_n_steps must be >= 1"),
        (["--ema.decay=0.9", "--trainer.precision=bf16-true"], "ema.decay: with trainer.precision bf16-true"),
    ],
)
def test_what_is_refused(train, arguments, text):
    with pytest.raises(ConfigError, match=text):
        train(*arguments)
