"""`SupervisedLoss` in the place of packnet-sfm's: its calling convention, its numbers."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import depthloss as dl

# The keywords of its model.loss, with its defaults, and of its model.params.
CONFIG = {
    "num_scales": 4,
    "progressive_scaling": 0.0,
    "flip_lr_prob": 0.5,
    "rotation_mode": "euler",
    "upsample_depth_maps": True,
    "ssim_loss_weight": 0.85,
    "occ_reg_weight": 0.1,
    "smooth_loss_weight": 0.001,
    "C1": 1e-4,
    "C2": 9e-4,
    "photometric_reduce_op": "min",
    "disp_norm": True,
    "clip_loss": 0.0,
    "padding_mode": "zeros",
    "automask_loss": True,
    "velocity_loss_weight": 0.1,
    "supervised_num_scales": 4,
    "min_depth": 0.0,
    "max_depth": 80.0,
}
Packnet = functools.partial(dl.SupervisedLoss, convention="packnet")


class Model(nn.Module):
    """What its models do with their supervised loss: all keywords go to it, logs are asked for, and the loss
    is added in place to one of shape [1].
    """

    def __init__(self, supervised_loss_weight: float, **kwargs: object) -> None:
        super().__init__()
        self.weight = supervised_loss_weight
        self._supervised_loss = Packnet(**kwargs)

    @property
    def logs(self) -> dict:
        return {"mine": 1, **self._supervised_loss.logs}

    def forward(self, inv_depths: list[Tensor], gt: Tensor, progress: float) -> dict:
        loss = torch.zeros(1).type_as(gt)
        out = self._supervised_loss(inv_depths, gt, return_logs=False, progress=progress)
        loss += self.weight * out["loss"]
        return {"loss": loss, **{key: value for key, value in out.items() if key != "loss"}}


def berhu(p: Tensor, g: Tensor) -> Tensor:
    c, d = 0.2 * (p - g).max().detach(), (p - g).abs()
    return (d.sum() + d[d > c].square().sum()) / (d.numel() + (d > c).sum())


def silog(p: Tensor, g: Tensor) -> Tensor:
    d = p.log() - g.log()
    return 10.0 * (d.square().mean() - 0.85 * d.mean().square()).sqrt()


METHODS = {
    "l1": lambda p, g: (p - g).abs().mean(),
    "mse": lambda p, g: (p - g).square().mean(),
    "berhu": berhu,
    "silog": silog,
    "abs_rel": lambda p, g: ((p - g).abs() / p).mean(),
}


def scene() -> tuple[list[Tensor], Tensor]:
    """Predictions at four scales, and ground truth with holes; inverse depth."""
    rng = torch.Generator().manual_seed(0)
    gt = 0.05 + torch.rand(2, 1, 32, 48, generator=rng, dtype=torch.float64)
    pred = [
        (F.interpolate(gt, scale_factor=0.5**i) * (0.7 + 0.6 * torch.rand(1, generator=rng))).requires_grad_()
        for i in range(4)
    ]
    return pred, gt.masked_fill(torch.rand(gt.shape, generator=rng) < 0.6, 0.0)


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("method", METHODS)
def test_its_numbers(method, sparse):
    pred, gt = scene()
    gt = gt if sparse else gt + 0.1
    expected = gt.new_zeros(1)
    for p in pred:
        g = F.interpolate(gt, size=p.shape[-2:], mode="nearest")
        valid = g > 0
        expected = expected + 0.9 * METHODS[method](p[valid], g[valid]) / 4
    grads = torch.autograd.grad(expected, pred)
    name = f"sparse-{method}" if sparse else method
    model = Model(supervised_loss_weight=0.9, supervised_method=name, **CONFIG)
    given, before = list(pred), gt.clone()
    out = model(given, gt, progress=0.3)
    assert out["loss"].shape == (1,) and given == pred and torch.equal(gt, before)
    torch.testing.assert_close(out["loss"], expected, rtol=1e-12, atol=0)
    for found, grad in zip(torch.autograd.grad(out["loss"], pred), grads, strict=True):
        torch.testing.assert_close(found, grad, rtol=1e-11, atol=1e-18)
    assert out["metrics"]["supervised_loss"] == pytest.approx(expected.item() / 0.9, rel=1e-12)
    assert out["metrics"]["supervised_loss"].shape == () and "inv_depths" not in out
    assert model.logs == {"mine": 1, "supervised_num_scales": 4}


def test_by_its_own_name_abs_rel_is_another_loss():
    pred, gt = scene()
    ours, theirs = (build("sparse-abs_rel")(pred, gt)["loss"] for build in (dl.SupervisedLoss, Packnet))
    assert ours.shape == () and theirs.shape == (1,) and abs(theirs / ours - 1.0) > 0.05
    ours, theirs = (build("sparse-berhu")(pred, gt)["loss"] for build in (dl.SupervisedLoss, Packnet))
    assert abs(theirs / ours - 1.0) > 0.05


def test_its_defaults():
    loss = Packnet()
    assert (loss.supervised_method, loss.supervised_num_scales) == ("sparse-l1", 4)
    assert loss.logs == {"supervised_num_scales": 4}
    with pytest.raises(TypeError, match="supervised_method is missing"):
        dl.SupervisedLoss()


@pytest.mark.parametrize("convention", [None, "packnet"])
def test_progressive_scaling(convention):
    """One scale fewer after each quarter, the coarsest first."""
    pred, gt = scene()
    loss = dl.SupervisedLoss("sparse-l1", 4, 0.25, convention=convention)
    for progress, n in ((0.0, 4), (0.25, 4), (0.26, 3), (0.5, 3), (0.6, 2), (0.8, 1), (1.0, 1), (None, 1)):
        value = loss(pred, gt, False, progress)["loss"]
        assert loss.logs == {"supervised_num_scales": n}
        assert value.item() == dl.SupervisedLoss("sparse-l1", n)(pred, gt)["loss"].item()
    assert dl.SupervisedLoss("l1", 3).num_scales(1.0) == 3
    few = dl.SupervisedLoss("sparse-l1", 4)
    few(pred[:2], gt)
    assert few.logs == {"supervised_num_scales": 2}


def test_it_compiles():
    pred, gt = scene()
    loss = dl.SupervisedLoss("sparse-l1", 4)
    compiled = torch.compile(lambda *given: loss(*given)["loss"], fullgraph=True, backend="aot_eager")
    for given in ((pred, gt), (pred[0], gt)):
        assert torch.equal(compiled(*given), loss(*given)["loss"])


def test_other_losses_and_keywords():
    pred, gt = scene()
    loss = Packnet("sparse-scale-adaptive", **CONFIG | {"lambda_sg": 0.3, "num_scales": 2})
    expected = dl.SupervisedLoss("sparse-scale-adaptive", min_depth=0.0, max_depth=80.0, lambda_sg=0.3)
    assert loss.loss_func.spec == expected.loss_func.spec  # With four levels: its num_scales is another's.
    assert torch.equal(loss(pred, gt)["loss"][0], expected(pred, gt)["loss"])
    assert Packnet("berhu", variant="laina", threshold=0.1).loss_func.spec == dl.BerHuLoss(0.1).spec
    for keyword in CONFIG:
        if keyword not in ("supervised_num_scales", "progressive_scaling"):
            assert f"``{keyword}``" in dl.SupervisedLoss.__doc__


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: Packnet("sparse-silog", lamda_sg=1), TypeError, "silog has no keyword 'lamda_sg'"),
        (lambda: dl.SupervisedLoss("l1", C1=1e-4), TypeError, "l1 has no keyword 'C1'"),
        (
            lambda: dl.SupervisedLoss("l1", convention="tri"),
            ValueError,
            "convention must be None or 'packnet'",
        ),
        (lambda: Packnet("sparse-abs-rell"), ValueError, "did you mean 'sparse-abs-rel'"),
        (lambda: Packnet("l1", progressive_scaling=-1.0), ValueError, "progressive_scaling must lie in"),
    ],
)
def test_what_is_refused(build, error, text):
    with pytest.raises(error, match=text):
        build()
