"""The sparse branch sees active sites only; the fusion starts from, and can return to, the image features."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from depthloss.training.models import ResNetSAN01
from depthloss.training.models.resnet_san import Fusion
from depthloss.training.models.sparse import MaskedBatchNormReLU, SparseStage, masked_max_pool

from .inputs import H, W, image, sweep

pytestmark = pytest.mark.usefixtures("one_thread")

# ---------------------------------------------------------------- sparse branch


def test_masked_max_pool_against_loops():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 8, 12, generator=generator)
    active = torch.rand(2, 1, 8, 12, generator=generator) < 0.2
    x = torch.where(active, x, math.nan)
    pooled, found = masked_max_pool(x, active)
    for b in range(2):
        for i in range(4):
            for j in range(6):
                block = active[b, 0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
                assert found[b, 0, i, j] == block.any()
                rows, cols = slice(max(2 * i - 1, 0), 2 * i + 2), slice(max(2 * j - 1, 0), 2 * j + 2)
                inside = x[b, :, rows, cols][:, active[b, 0, rows, cols]]
                want = inside.amax(1) if block.any() else torch.zeros(3)
                torch.testing.assert_close(pooled[b, :, i, j], want, rtol=0, atol=0)


def norm_case(density=0.3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 4, 6, generator=generator, dtype=dtype) * 3 + 5
    active = torch.rand(2, 1, 4, 6, generator=generator) < density
    norm = MaskedBatchNormReLU(3).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.3, 0.1, -0.2]))
    return x, active, norm


@pytest.mark.parametrize("training", [True, False])
def test_masked_norm_is_batch_norm_of_the_gathered_sites(training):
    x, active, norm = norm_case()
    peer = nn.BatchNorm1d(3).double()
    peer.load_state_dict(norm.state_dict(), strict=False)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    norm.train(training)
    peer.train(training)

    x1 = torch.where(active, x, math.nan).requires_grad_()
    y1 = norm(x1, active)
    y1.backward(grad)
    assert (y1[~active.expand_as(y1)] == 0).all() and (x1.grad[~active.expand_as(x1)] == 0).all()

    sites = active[:, 0]
    x2 = x.permute(0, 2, 3, 1)[sites].requires_grad_()
    y2 = peer(x2).relu()
    y2.backward(grad.permute(0, 2, 3, 1)[sites])
    torch.testing.assert_close(y1.permute(0, 2, 3, 1)[sites], y2)
    torch.testing.assert_close(x1.grad.permute(0, 2, 3, 1)[sites], x2.grad)
    torch.testing.assert_close(norm.weight.grad, peer.weight.grad)
    torch.testing.assert_close(norm.bias.grad, peer.bias.grad)
    torch.testing.assert_close(norm.running_mean, peer.running_mean)
    torch.testing.assert_close(norm.running_var, peer.running_var)


def test_masked_norm_gradcheck():
    x, active, norm = norm_case()
    inputs = [t.detach().requires_grad_() for t in (x, norm.weight, norm.bias)]

    def forward(x, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x, active))

    assert torch.autograd.gradcheck(forward, inputs)
    (grad,) = torch.autograd.grad(forward(*inputs).square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("sites", [0, 1])
def test_masked_norm_with_too_few_sites_keeps_its_statistics(sites):
    x, active, norm = norm_case()
    active.zero_()
    active.flatten()[:sites] = True
    x.requires_grad_()
    y = norm(x, active)
    y.sum().backward()
    assert y.isfinite().all() and x.grad.isfinite().all() and norm.weight.grad.isfinite().all()
    assert torch.equal(norm.running_var, torch.ones(3, dtype=x.dtype))
    torch.testing.assert_close(norm.running_mean, 0.1 * sites * x.detach()[0, :, 0, 0])


def test_stage_is_the_submanifold_formula():
    torch.manual_seed(0)
    stage = SparseStage(2, 4, 3).double().eval()
    x, active = torch.randn(1, 2, 8, 8).double(), torch.rand(1, 1, 8, 8) < 0.2
    got, found = stage(x, active)

    x, a = masked_max_pool(x, active)
    a = a.double()

    def conv(layer, x):
        return a * F.conv2d(a * x, layer.weight, padding=1)

    def norm(x):  # fresh running statistics: 0 and 1
        return torch.relu(x / math.sqrt(1 + 1e-5))

    l1 = conv(stage.conv1, x)
    l2 = conv(stage.conv2b, norm(conv(stage.conv2a, x)))
    l3 = conv(stage.conv3c, norm(conv(stage.conv3b, norm(conv(stage.conv3a, x)))))
    torch.testing.assert_close(got, a * norm(l1 + l2 + l3))
    assert torch.equal(found, a > 0)


def test_sparse_branch_is_blind_to_inactive_sites(full_net):
    clean = sweep(1, 64, 64)
    poison = torch.tensor([math.nan, -math.inf, math.inf, -7.0]).repeat(1, 1, 64, 16)
    outcomes = []
    for depth in (clean, torch.where(clean > 0, clean, poison)):
        branch = copy.deepcopy(full_net.sparse)
        features, has_sweep = branch(depth)
        assert has_sweep.all()
        sum((f * f).mean() for f in features).backward()
        gradients = [p.grad for p in branch.parameters()]
        outcomes.append([*features, *branch.buffers(), *gradients])
    for a, b in zip(*outcomes, strict=True):
        assert a.isfinite().all() and torch.equal(a, b)


@pytest.mark.parametrize("training", [True, False])
def test_empty_sweep_equals_rgb_only(full_net, training):
    net = copy.deepcopy(full_net).train(training)
    before = {name: value.clone() for name, value in net.sparse.named_buffers()}
    rgb, empty = image(), torch.zeros(2, 1, H, W)
    features = net.encoder(rgb)
    sparse, has_sweep = net.sparse(empty)
    assert not has_sweep.any() and all((s == 0).all() for s in sparse)
    fused = net.fusion(features, sparse, has_sweep)
    assert all(torch.equal(f, x) for f, x in zip(features, fused, strict=True))
    for name, value in net.sparse.named_buffers():
        assert torch.equal(value, before[name])
    if training:
        out = net(rgb, empty)
        assert out["depth_loss"] == 0
        assert all(map(torch.equal, out["inv_depths"], out["inv_depths_rgbd"]))
        sum(x.mean() for x in out["inv_depths_rgbd"]).backward()
        assert all((p.grad == 0).all() for p in net.sparse.parameters())
    else:
        with torch.no_grad():
            assert torch.equal(net(rgb, empty)["inv_depths"][0], net(rgb)["inv_depths"][0])


def test_a_sample_without_sweep_is_untouched_by_its_neighbours(full_net):
    net = copy.deepcopy(full_net).eval()
    rgb, depth = image(), sweep()
    depth[1] = 0
    with torch.no_grad():
        mixed, plain = net(rgb, depth)["inv_depths"][0], net(rgb)["inv_depths"][0]
    torch.testing.assert_close(mixed[1], plain[1])
    assert (mixed[0] - plain[0]).abs().max() > 1e-3


# ---------------------------------------------------------------- fusion


def fusion_case(residual="standard", film_scales=(0,)):
    torch.manual_seed(4)
    channels = (4, 6)
    fusion = Fusion(channels, film_scales, residual)
    f, s = ([torch.randn(2, c, 4, 4) for c in channels] for _ in range(2))
    return fusion, f, s, torch.tensor([True, True])


def test_fusion_formula_with_film():
    fusion, f, s, has_sweep = fusion_case()
    with torch.no_grad():
        fusion.weight.copy_(torch.tensor([0.2, -1.0]))
        fusion.bias.copy_(torch.tensor([0.5, -0.25]))
        nn.init.normal_(fusion.film["0"].weight)
        nn.init.normal_(fusion.film["0"].bias)
    alpha = torch.sigmoid(fusion.weight)
    film = (
        torch.einsum("oc,bc->bo", fusion.film["0"].weight[:, :, 0, 0], s[0].mean((2, 3)))
        + fusion.film["0"].bias
    )
    gamma, beta = 1 + film[:, :4, None, None], film[:, 4:, None, None]
    want = [
        alpha[0] * (gamma * f[0] + beta) + (1 - alpha[0]) * s[0] + 0.5,
        alpha[1] * f[1] + (1 - alpha[1]) * s[1] - 0.25,
    ]
    for got, expected in zip(fusion(f, s, has_sweep), want, strict=True):
        torch.testing.assert_close(got, expected)


def test_film_starts_as_the_identity():
    (with_film, f, s, has_sweep), (without, *_) = fusion_case(), fusion_case(film_scales=())
    assert all(map(torch.equal, with_film(f, s, has_sweep), without(f, s, has_sweep)))
    assert torch.sigmoid(with_film.weight[0]).item() == pytest.approx(0.6224593)


def test_rezero_starts_as_the_identity():
    fusion, f, s, has_sweep = fusion_case("rezero")
    assert all(map(torch.equal, fusion(f, s, has_sweep), f))
    standard, *_ = fusion_case("standard")
    nn.init.ones_(fusion.rho)
    for got, want in zip(fusion(f, s, has_sweep), standard(f, s, has_sweep), strict=True):
        torch.testing.assert_close(got, want)
    net = ResNetSAN01(residual="rezero").train()
    out = net(image(), sweep())
    assert out["depth_loss"] == 0 and all(map(torch.equal, out["inv_depths"], out["inv_depths_rgbd"]))


def test_consistency_formula_moves_the_image_features_only():
    fusion, f, s, _ = fusion_case()
    nn.init.constant_(fusion.weight[:1], -2.0)
    f = [x.requires_grad_() for x in f]
    s = [x.requires_grad_() for x in s]
    loss = fusion.consistency(f, s)
    share = torch.softmax(torch.tensor([2.0, 0.5]), 0)
    want = sum(share[i] * ((s[i] - f[i]) ** 2).mean() for i in range(2)) / 2
    torch.testing.assert_close(loss, want)
    loss.backward()
    assert all(x.grad is None for x in s) and all((x.grad != 0).any() for x in f)
