"""The contract of the network: ranges, counts, weights, errors, compilation, training."""

import copy
import math
import pickle

import pytest
import torch

from depthloss.training.models import ResNetSAN01, pad_to_multiple
from depthloss.training.models.decoder import BoundedHead, Decoder
from depthloss.training.models.resnet import ResNetEncoder, load_encoder_weights
from depthloss.training.models.sparse import SparseBranch

from .inputs import H, W, image, sweep

pytestmark = pytest.mark.usefixtures("one_thread")


def count(module):
    return sum(p.numel() for p in module.parameters())


# ---------------------------------------------------------------- parameters and outputs


def test_parameter_counts(full_net):
    assert count(ResNetEncoder(18)) == 11_176_512
    assert count(SparseBranch()) == 34_686_784
    assert count(ResNetSAN01(sparse_branch=False)) == 14_329_236
    assert count(full_net) == 49_024_350
    assert count(ResNetSAN01(sparse_branch=False, width=0.25)) == 899_736


def test_a_thin_network():
    net = ResNetSAN01(width=0.125).eval()
    assert net.encoder.channels == (8, 8, 16, 32, 64)
    depth = torch.zeros(1, 1, 32, 64)
    depth[..., ::4, ::4] = 3.0
    with torch.no_grad():
        for sweep in (None, depth):
            (inv,) = net(torch.rand(1, 3, 32, 64), sweep)["inv_depths"]
            assert inv.shape == (1, 1, 32, 64)


def test_weights_of_another_width(tmp_path):
    torch.save(ResNetEncoder(18, 0.125).state_dict(), tmp_path / "thin.pth")
    load_encoder_weights(ResNetEncoder(18, 0.125), tmp_path / "thin.pth")
    with pytest.raises(ValueError, match="are of width 1, the network is of width 0.25$"):
        load_encoder_weights(ResNetEncoder(18, 0.25), tmp_path / "thin.pth")


@pytest.mark.parametrize("depth, params", [(34, 21_284_672), (50, 23_508_032)])
def test_deeper_encoders_have_the_counts_of_torchvision_without_classifier(depth, params):
    assert count(ResNetEncoder(depth)) == params


@pytest.mark.parametrize("head", ["log", "linear"])
@pytest.mark.parametrize("margin", [0.0, 0.01])
@pytest.mark.parametrize("bounds", [(0.05, 80.0), (0.05, 100.0), (0.3, 0.7)])
def test_head_stays_inside_the_bounds(head, margin, bounds):
    low, high = 1 / bounds[1], 1 / bounds[0]
    logits = torch.tensor([-1e4, -30.0, -1.0, 0.0, 1.0, 30.0, 1e4])
    for dtype in (torch.float32, torch.bfloat16):
        inv = BoundedHead(*bounds, head, margin)(logits.to(dtype))
        assert inv.dtype == torch.float32
        assert inv.min() >= torch.tensor(low) and inv.max() <= torch.tensor(high)
        assert (inv.diff() >= 0).all() and inv[2] < inv[3] < inv[4]
        if margin:
            span = math.log(high / low) if head == "log" else high - low
            ends = (
                (low * math.exp(margin * span), high * math.exp(-margin * span))
                if head == "log"
                else (low + margin * span, high - margin * span)
            )
            torch.testing.assert_close(inv[[0, -1]], torch.tensor(ends), rtol=1e-5, atol=0)


@pytest.mark.parametrize("head, metres", [("log", 2.0), ("linear", 0.0999)])
def test_zero_logit_in_metres(head, metres):
    depth = 1 / BoundedHead(0.05, 80.0, head)(torch.zeros(()))
    assert depth.item() == pytest.approx(metres, abs=5e-4)


@pytest.mark.parametrize("activation", ["relu", "elu", "gelu"])
def test_network_outputs(activation):
    torch.manual_seed(0)
    net = ResNetSAN01(sparse_branch=False, activation=activation, min_depth=0.5, max_depth=80.0, dropout=0.1)
    out = net(image())
    assert set(out) == {"inv_depths"}
    assert [tuple(x.shape) for x in out["inv_depths"]] == [(2, 1, H >> i, W >> i) for i in range(4)]
    for x in out["inv_depths"]:
        assert x.min() >= 1 / 80 and x.max() <= 2
    with torch.no_grad():
        single = net.eval()(image())["inv_depths"]
    assert [tuple(x.shape) for x in single] == [(2, 1, H, W)]


def test_rgbd_outputs_and_gradients(full_net):
    net = copy.deepcopy(full_net)
    out = net(image(), sweep())
    assert set(out) == {"inv_depths", "inv_depths_rgbd", "depth_loss"}
    assert [x.shape for x in out["inv_depths_rgbd"]] == [x.shape for x in out["inv_depths"]]
    assert out["depth_loss"].shape == () and out["depth_loss"] > 0
    for x in out["inv_depths"] + out["inv_depths_rgbd"]:
        assert x.min() >= 1 / 100 and x.max() <= 20
    assert not torch.equal(out["inv_depths"][0], out["inv_depths_rgbd"][0])
    net.eval()
    with torch.no_grad():
        rgb_only, both = net(image())["inv_depths"], net(image(), sweep())["inv_depths"]
    assert len(rgb_only) == len(both) == 1 and not torch.equal(rgb_only[0], both[0])


def test_resnet50_lifts_the_sparse_features():
    net = ResNetSAN01("50", film_scales=(0, 4)).eval()
    lifts = 64 * 256 + 128 * 512 + 256 * 1024 + 512 * 2048
    assert count(net.sparse) == 34_686_784 + lifts
    with torch.no_grad():
        assert net(image(1, 32, 64), sweep(1, 32, 64))["inv_depths"][0].shape == (1, 1, 32, 64)


@pytest.mark.parametrize("input_depth, num_scales", [(True, 4), (False, 2)])
def test_parameters_without_gradient_are_named(full_net, input_depth, num_scales):
    net = copy.deepcopy(full_net)
    out = net(image(), sweep() if input_depth else None)
    maps = out["inv_depths"][:num_scales] + out.get("inv_depths_rgbd", [])[:num_scales]
    (sum(x.mean() for x in maps) + out.get("depth_loss", 0.0)).backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None]
    assert idle == net.parameters_without_gradient(num_scales, input_depth)
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    decoder = Decoder((8, 8, 8, 8, 8), BoundedHead(0.1, 10.0), dropout=0.5)
    features = [torch.randn(1, 8, 32 >> i, 32 >> i) for i in range(5)]
    assert not torch.equal(decoder(features)[0], decoder(features)[0])
    decoder.eval()
    assert torch.equal(decoder(features)[0], decoder(features, 1)[0])


# ---------------------------------------------------------------- pretrained weights


def torchvision_state(counts=(2, 2, 2, 2)):
    """Names and shapes of torchvision's ResNet-18/34, written out independently of our encoder."""
    state = {}

    def conv(name, *shape):
        state[name + ".weight"] = torch.randn(*shape)

    def norm(name, width):
        for key in ("weight", "bias", "running_mean"):
            state[f"{name}.{key}"] = torch.randn(width)
        state[name + ".running_var"] = torch.rand(width)
        state[name + ".num_batches_tracked"] = torch.tensor(3)

    conv("conv1", 64, 3, 7, 7)
    norm("bn1", 64)
    cin = 64
    for layer, (width, blocks) in enumerate(zip((64, 128, 256, 512), counts, strict=True), start=1):
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            conv(name + ".conv1", width, cin, 3, 3)
            norm(name + ".bn1", width)
            conv(name + ".conv2", width, width, 3, 3)
            norm(name + ".bn2", width)
            if cin != width:
                conv(name + ".downsample.0", width, cin, 1, 1)
                norm(name + ".downsample.1", width)
            cin = width
    state["fc.weight"], state["fc.bias"] = torch.randn(1000, 512), torch.randn(1000)
    return state


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_file_loads(tmp_path, suffix):
    state, path = torchvision_state(), tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        torch.save(state, path)
    else:
        pytest.importorskip("safetensors.torch").save_file(state, path)
    encoder = ResNetSAN01("18pt", sparse_branch=False, weights=path).encoder
    loaded = encoder.state_dict()
    assert set(loaded) == {key for key in state if not key.startswith("fc.")}
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_files_without_batch_counters_load(tmp_path):
    state = {k: v for k, v in torchvision_state().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth")
    encoder = ResNetEncoder(18)
    load_encoder_weights(encoder, tmp_path / "old.pth")
    assert torch.equal(encoder.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("layer2.0.downsample.0.weight"), "missing: layer2.0.downsample.0.weight"),
        (
            lambda s: s.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}),
            r"conv1.weight \(file \[64, 1, 7, 7\], network",
        ),
        (
            lambda s: s.update(torchvision_state((3, 4, 6, 3))),
            "unexpected: layer1.2.conv1.weight.*and .* more",
        ),
    ],
)
def test_misfit_weights_are_named(tmp_path, change, message):
    state = torchvision_state()
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    encoder = ResNetEncoder(18)
    before = encoder.conv1.weight.clone()
    with pytest.raises(ValueError, match=message):
        load_encoder_weights(encoder, tmp_path / "weights.pth")
    assert torch.equal(encoder.conv1.weight, before)


def test_unreadable_weights(tmp_path):
    encoder = ResNetEncoder(18)
    with pytest.raises(FileNotFoundError, match="no such file. Fetch .*resnet18-f37072fd.pth"):
        load_encoder_weights(encoder, tmp_path / "absent.pth")
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(ValueError, match="expected a .pth, .pt, .safetensors or .ckpt file, got '.onnx'"):
        load_encoder_weights(encoder, tmp_path / "weights.onnx")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(print, protocol=2))
    with pytest.raises(ValueError, match="cannot be read as a plain state dict"):
        load_encoder_weights(encoder, tmp_path / "code.pth")
    torch.save({"state_dict": {}, "epoch": 3}, tmp_path / "nested.pth")
    with pytest.raises(ValueError, match="holds the keys state_dict, epoch"):
        load_encoder_weights(encoder, tmp_path / "nested.pth")


# ---------------------------------------------------------------- errors and helpers


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"version": "18pt"}, r"resnet18-f37072fd.pth and give its path as weights=, or use version=\"18\""),
        ({"version": "101"}, "version='101': expected a ResNet depth of 18, 34, 50"),
        ({"version": "18x"}, "version='18x'"),
        ({"min_depth": 0.0}, "0 < min_depth < max_depth"),
        ({"min_depth": 5.0, "max_depth": 5.0}, "min_depth=5.0, max_depth=5.0"),
        ({"depth_head": "exp"}, "depth_head='exp'"),
        ({"margin": 0.5}, "margin=0.5"),
        ({"film_scales": (0, 5)}, r"film_scales=\(0, 5\)"),
        ({"film_scales": (1, 1)}, "distinct"),
        ({"residual": "none"}, "residual='none'"),
        ({"activation": "tanh"}, "activation='tanh': expected one of relu, elu, gelu"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"width": 0.01}, "width=0.01: expected a factor of 0.015625 or more"),
        ({"width": 0.05}, "width=0.05: expected a factor of 0.0625 or more"),
        ({"width": float("nan")}, "width=nan"),
    ],
)
def test_constructor_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ResNetSAN01(**{"sparse_branch": False, **kwargs})


def test_forward_errors(full_net):
    plain = ResNetSAN01("18A", sparse_branch=False)
    with pytest.raises(
        ValueError, match=r"60×96: H and W must be multiples of 32.*pad_to_multiple.*\[..., :60, :96\]"
    ):
        plain(image(1, 60, 96))
    with pytest.raises(ValueError, match=r"expected \[B, 3, H, W\]"):
        plain(torch.rand(1, 1, 64, 64))
    with pytest.raises(ValueError, match="sparse_branch=False"):
        plain(image(), sweep())
    with pytest.raises(
        ValueError, match=r"input_depth has shape \[2, 1, 32, 96\]: expected \[2, 1, 64, 96\]"
    ):
        full_net(image(), sweep(height=32))
    with pytest.raises(ValueError, match="pads by reflection"):
        ResNetSAN01(sparse_branch=False, activation="elu")(image(1, 32, 64))


def test_pad_to_multiple():
    rgb = image(1, 33, 64)
    padded = pad_to_multiple(rgb)
    assert padded.shape == (1, 3, 64, 64) and torch.equal(padded[..., :33, :], rgb)
    assert torch.equal(padded[..., 33:, :], rgb[..., 32:, :].expand(1, 3, 31, 64))
    depth = pad_to_multiple(torch.ones(1, 1, 4, 5), 4, mode="zeros")
    assert depth.shape == (1, 1, 4, 8) and depth.sum() == 20
    assert pad_to_multiple(padded) is padded
    with pytest.raises(ValueError, match="mode='reflect'"):
        pad_to_multiple(rgb, mode="reflect")
    with pytest.raises(ValueError, match="multiple=0"):
        pad_to_multiple(rgb, 0)


# ---------------------------------------------------------------- compile, autocast, training


def total(out):
    return sum(x.mean() for x in out["inv_depths"] + out["inv_depths_rgbd"]) + out["depth_loss"]


def test_compiles_without_graph_breaks(full_net):
    eager, compiled = copy.deepcopy(full_net), copy.deepcopy(full_net)
    rgb, depth = image(2, 32, 64), sweep(2, 32, 64, density=0.3)
    want = total(eager(rgb, depth))
    got = total(torch.compile(compiled, backend="eager", fullgraph=True)(rgb, depth))
    torch.testing.assert_close(got, want)
    got.backward()
    want.backward()
    for p, q in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    for p, q in zip(compiled.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(p, q)


def test_bf16_autocast(full_net):
    net = copy.deepcopy(full_net)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(image(), sweep())
    total(out).backward()
    assert all(x.dtype == torch.float32 for x in out["inv_depths"] + out["inv_depths_rgbd"])
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in net.parameters())
    reference = copy.deepcopy(full_net)(image(), sweep())
    for x, y in zip(out["inv_depths"], reference["inv_depths"], strict=True):
        assert (x.log() - y.log()).abs().mean() < 0.05


def frames():
    """Ground plane with a box: RGB [2, 3, 64, 96] and depth [2, 1, 64, 96] in metres, 0 in the sky."""
    rows = torch.linspace(-0.5, 0.5, H).view(1, 1, H, 1).expand(2, 1, H, W)
    cols = torch.linspace(-0.75, 0.75, W).view(1, 1, 1, W).expand(2, 1, H, W)
    depth = torch.where(rows > 0.05, 1.5 / rows.clamp(min=0.05), torch.zeros(()))
    centre = torch.tensor([-0.3, 0.25]).view(2, 1, 1, 1)
    box = ((cols - centre).abs() < 0.15) & (rows.abs() < 0.25)
    depth = torch.where(box, torch.tensor([4.0, 9.0]).view(2, 1, 1, 1), depth)
    shade = 1 / (1 + 0.1 * depth)
    texture = 0.5 + 0.5 * torch.sin(40 * cols / (rows.abs() + 0.2))
    rgb = torch.cat((shade, 0.3 + 0.5 * texture * shade, box * 0.6 + 0.2), 1)
    return torch.where((depth == 0), torch.tensor([0.4, 0.6, 1.0]).view(1, 3, 1, 1), rgb).clamp(0, 1), depth


@pytest.mark.full
def test_overfits_two_frames():
    torch.manual_seed(0)
    rgb, depth = frames()
    valid = depth > 0
    net = ResNetSAN01(sparse_branch=False, min_depth=0.5, max_depth=80.0)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-4)

    def abs_rel(inv):
        return ((1 / inv - depth).abs() / depth.clamp(min=1e-3))[valid].mean().item()

    errors = []
    for _ in range(60):
        inv = net(rgb)["inv_depths"][0]
        loss = (inv.log() + depth.clamp(min=1e-3).log())[valid].abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(abs_rel(inv.detach()))
    with torch.no_grad():
        errors.append(abs_rel(net.eval()(rgb)["inv_depths"][0]))
    assert errors[0] > 1 and errors[-2] < 0.08 and errors[-1] < 0.08, errors[::10] + errors[-2:]
