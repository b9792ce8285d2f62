"""The training wrapper: the sum of its terms, and flips that keep images, depths and outputs together."""

import pytest
import torch
from torch import nn

import depthloss
from depthloss.training.models import ResNetSAN01, SemiSupCompletionModel

from .inputs import H, W, image, sweep

pytestmark = pytest.mark.usefixtures("one_thread")


class LocalNet(nn.Module):
    """Inverse depth from each pixel alone, so that it commutes with flips; counts what it was shown."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.seen = []

    def forward(self, rgb, input_depth=None):
        self.seen.append((rgb, input_depth))
        inv = self.scale * (0.1 + rgb.mean(1, keepdim=True))
        if not self.training:
            return {"inv_depths": [inv]}
        out = {"inv_depths": [inv, inv[..., ::2, ::2]]}
        if input_depth is not None:
            rgbd = inv + 0.01 * input_depth
            out |= {"inv_depths_rgbd": [rgbd, rgbd[..., ::2, ::2]], "depth_loss": 0.25 * self.scale}
        return out


class L1(nn.Module):
    """Masked L1 on the finest map; keeps the ground truth it was given."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, inv_depths, gt_inv_depth, return_logs=False, progress=0.0, masks=None, epoch=0):
        self.calls.append((gt_inv_depth, progress, epoch))
        valid = gt_inv_depth > 0
        loss = (inv_depths[0] - gt_inv_depth)[valid].abs().mean()
        return {"loss": loss, "metrics": {"supervised_loss": loss.detach()}}


def batch(input_depth=True):
    data = {
        "rgb": image(4),
        "depth": sweep(4, density=0.5, seed=1),
        "name": list("abcd"),
        "index": torch.arange(4),
    }
    data["mask"] = torch.arange(W).expand(4, 1, H, W) > W // 3
    return data | ({"input_depth": sweep(4)} if input_depth else {})


def test_completion_loss_is_the_sum_of_its_terms():
    data = batch()
    gt = torch.where((data["depth"] > 0) & data["mask"], 1 / data["depth"], torch.zeros(()))
    loss = L1()
    model = SemiSupCompletionModel(LocalNet(), loss, weight_rgbd=0.5, flip_lr_prob=0.0)
    out = model(data, progress=0.3, epoch=7)
    valid = gt > 0
    rgb_term = (out["inv_depths"][0] - gt)[valid].abs().mean()
    rgbd_term = (out["inv_depths_rgbd"][0] - gt)[valid].abs().mean()
    torch.testing.assert_close(out["loss"], rgb_term + 0.5 * rgbd_term + 0.25)
    assert out["loss"].shape == ()
    assert set(out["metrics"]) == {"supervised_loss", "rgbd/supervised_loss", "depth_loss"}
    torch.testing.assert_close(out["metrics"]["rgbd/supervised_loss"], rgbd_term.detach())
    assert all(m.shape == () and not m.requires_grad for m in out["metrics"].values())
    assert all(torch.equal(g, gt) and (p, e) == (0.3, 7) for g, p, e in loss.calls) and len(loss.calls) == 2

    rgb_only = model(batch(input_depth=False))
    torch.testing.assert_close(rgb_only["loss"], rgb_term)
    assert set(rgb_only) == {"loss", "metrics", "inv_depths"} and set(rgb_only["metrics"]) == {
        "supervised_loss"
    }


@pytest.mark.parametrize("prob", [0.5, 1.0])
def test_flips_keep_images_depths_and_outputs_together(prob):
    data = batch()
    torch.manual_seed(0)
    net, loss = LocalNet(), L1()
    plain = SemiSupCompletionModel(net, loss, flip_lr_prob=0.0)(data)
    flipped = SemiSupCompletionModel(net, loss, flip_lr_prob=prob)(data)
    for key in ("inv_depths", "inv_depths_rgbd"):
        assert len(flipped[key]) == 2
        assert torch.equal(flipped[key][0], plain[key][0])
    torch.testing.assert_close(flipped["loss"], plain["loss"])
    (rgb0, depth0), (rgb1, depth1) = net.seen
    gt0, gt1 = loss.calls[0][0], loss.calls[-1][0]
    mirrored = 0
    for b in range(4):
        turned = torch.equal(rgb1[b], rgb0[b].flip(-1))
        mirrored += turned
        for before, after in ((rgb0, rgb1), (depth0, depth1), (gt0, gt1)):
            assert torch.equal(after[b], before[b].flip(-1) if turned else before[b])
    assert mirrored == 4 if prob == 1 else 0 < mirrored < 4


def test_outputs_of_every_scale_are_unflipped():
    class Ramp(LocalNet):
        def forward(self, rgb, input_depth=None):
            ramps = [
                torch.arange(float(W >> i)).expand(len(rgb), 1, H >> i, W >> i) * self.scale for i in range(2)
            ]
            return {"inv_depths": ramps, "inv_depths_rgbd": ramps, "depth_loss": torch.zeros(())}

    out = SemiSupCompletionModel(Ramp(), L1(), flip_lr_prob=1.0)(batch())
    for key in ("inv_depths", "inv_depths_rgbd"):
        for i, x in enumerate(out[key]):
            assert torch.equal(x[0, 0, 0], torch.arange(float(W >> i)).flip(0))


def test_completion_evaluates_without_ground_truth_or_flips():
    model = SemiSupCompletionModel(LocalNet(), L1(), flip_lr_prob=1.0).eval()
    out = model({"rgb": image(4)})
    assert set(out) == {"inv_depths"}
    torch.testing.assert_close(out["inv_depths"][0], 0.1 + image(4).mean(1, keepdim=True))


def test_completion_trains_the_network():
    model = SemiSupCompletionModel(ResNetSAN01(), L1(), weight_rgbd=0.0)
    data = {key: value[:2] for key, value in batch().items()}
    model(data)["loss"].backward()
    idle = [name for name, p in model.depth_net.named_parameters() if p.grad is None]
    assert idle == model.depth_net.parameters_without_gradient(
        1
    )  # L1 reads one scale; weight 0 is no skipped pass


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (
            {"supervised_loss_weight": 0.9},
            "leaves 0.1 to a photometric loss.*needs a pose network, and there is none here: set superv",
        ),
        ({"supervised_loss_weight": 0.0}, r"supervised_loss_weight=0.0: expected a weight in \(0, 1\]"),
        ({"supervised_loss_weight": 1.5}, "supervised_loss_weight=1.5"),
        ({"weight_rgbd": -1.0}, "weight_rgbd=-1.0"),
        ({"flip_lr_prob": 1.1}, "flip_lr_prob=1.1"),
    ],
)
def test_completion_constructor_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SemiSupCompletionModel(LocalNet(), L1(), **kwargs)


def test_batch_without_ground_truth_is_an_error():
    with pytest.raises(KeyError, match="the batch lacks depth: it has rgb, name"):
        SemiSupCompletionModel(LocalNet(), L1())({"rgb": image(4), "name": []})


@pytest.mark.parametrize("method", ["l1", "silog", "sparse-l1"])
def test_a_hole_or_a_mask_is_never_supervised(method):
    """A perfect prediction costs nothing, also for a method that takes every pixel it is given."""
    data = batch(input_depth=False)
    truth = torch.where(data["depth"] > 0, 1 / data["depth"], 0.5)

    class Perfect(nn.Module):
        def forward(self, rgb, input_depth=None):
            return {"inv_depths": [truth.clone().requires_grad_()]}

    model = SemiSupCompletionModel(Perfect(), depthloss.SupervisedLoss(method, 1), flip_lr_prob=0.0)
    # 10 sqrt(1e-8) is what SILog leaves of a perfect prediction.
    assert model(data)["loss"].item() == pytest.approx(1e-3 if method == "silog" else 0.0, abs=1e-7)
