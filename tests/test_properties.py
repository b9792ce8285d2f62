"""What the losses promise beyond their numbers: invariances, exact zeros, schedules, the learnt weights."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor

import depthloss as dl

from .golden_cases import DEVICES, backends, skip_unless_it_runs


def scene(
    shape: tuple[int, ...] = (2, 1, 24, 40), density: float = 0.7, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Positive prediction and ground truth, and a bool mask."""
    rng = torch.Generator().manual_seed(3)
    gt = 2.0 * torch.exp(0.5 * torch.randn(shape, generator=rng, dtype=torch.float64))
    pred = gt * torch.exp(0.1 + 0.2 * torch.randn(shape, generator=rng, dtype=torch.float64))
    return pred.to(dtype), gt.to(dtype), torch.rand(shape, generator=rng) < density


def call(
    loss: dl.DepthLoss, backend: str, pred: Tensor, gt: Tensor, mask: Tensor | None = None, **options: object
) -> tuple[float, Tensor]:
    """Value and gradient, on the backend's device."""
    skip_unless_it_runs(backend, loss)
    device = DEVICES.get(backend, "cpu")
    pred, gt, mask = (x if x is None else x.detach().to(device) for x in (pred, gt, mask))
    pred.requires_grad_()
    with dl.use_backend(backend):
        value = loss.to(device)(pred, gt, mask, **options)
    (grad,) = torch.autograd.grad(value, pred)
    return value.item(), grad.cpu()


# Scale and shift.

SCALE_SHIFT = [(3.0, 0.0), (1.0, 5.0), (0.02, 0.7)]


@backends
@pytest.mark.parametrize("scale, shift", SCALE_SHIFT)
@pytest.mark.parametrize("variant", ["published", "document"])
def test_what_eps_leaves_of_the_invariance_of_g2(variant, scale, shift, backend):
    """Beside the mean absolute deviation: of the order of eps/MAD. Without it, tests/relations.py."""
    pred, gt, mask = scene()
    loss = dl.G2Loss(variant)
    call(loss, backend, pred, gt, mask)
    before = loss.metrics["relative"].item()
    call(loss, backend, scale * pred + shift, gt, mask)
    assert loss.metrics["relative"].item() == pytest.approx(before, rel=1e-4) and before > 0.1


@backends
@pytest.mark.parametrize("scale, shift", SCALE_SHIFT)
def test_ssi_is_not_invariant(scale, shift, backend):
    """Despite its name: a perfect prediction up to scale and shift is not free."""
    pred, gt, mask = scene()
    loss = dl.SSILoss()
    value, moved = (call(loss, backend, p, gt, mask)[0] for p in (pred, scale * pred + shift))
    assert abs(moved / value - 1.0) > 0.5, f"{value} and {moved}"
    perfect, moved = (call(loss, backend, p, gt, mask)[0] for p in (gt, scale * gt + shift))
    e = ((scale - 1.0) * gt + shift)[mask]
    expected = e.var(correction=0) + 0.85 * e.mean() ** 2
    assert perfect == 0.0 and moved == pytest.approx(expected.item(), rel=1e-12) and moved > 1.0


@pytest.mark.parametrize("scale, shift", SCALE_SHIFT)
@pytest.mark.parametrize(
    "loss",
    [
        dl.ScaleShiftInvariantLoss(),
        dl.AffineInvariantLoss(),
        dl.AffineInvariantLoss(trim=0.2),
        dl.ScaleAdaptiveLoss(use_absolute=False, use_inv_depth=True, epsilon=1e-13),
    ],
    ids=["least squares", "median", "median trimmed", "scale-adaptive without A"],
)
def test_a_perfect_prediction_up_to_scale_and_shift_is_free(loss, scale, shift):
    _, gt, mask = scene()
    # Each image by its own scale and shift.
    scales = torch.tensor([scale, 2.0 * scale + 0.3])[:, None, None, None].double()
    shifts = torch.tensor([shift, -0.4])[:, None, None, None].double()
    perfect, _ = call(loss, "reference", scales * gt + shifts, gt, mask)
    # What eps = 1e-13 leaves is of the order of eps/MAD.
    assert perfect < (1e-10 if isinstance(loss, dl.ScaleAdaptiveLoss) else 1e-13)


def test_ssi_trim_is_invariant_within_its_bounds():
    pred, gt, mask = scene()
    loss = dl.SSITrimLoss(epsilon=1e-15)
    values = [call(loss, "reference", s * pred + 0.5, gt, mask)[0] for s in (1.0, 0.2, 3.0)]
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-10)
    beyond = call(loss, "reference", 0.01 * pred, gt, mask)[0]  # a would be 100, and is clamped to 10.
    assert abs(beyond / values[0] - 1.0) > 0.1


# A perfect prediction.

EXACT = {
    "g2 published": lambda: dl.G2Loss(),
    "g2 document": lambda: dl.G2Loss("document"),
    "g2 support": lambda: dl.G2Loss(
        gradient=dl.GradientSpec(mask="support", downsample="average", border="zero")
    ),
    "scale-adaptive": lambda: dl.ScaleAdaptiveLoss(),
    "scale-adaptive inverse": lambda: dl.ScaleAdaptiveLoss(use_inv_depth=True),
    "scale-adaptive all": lambda: dl.ScaleAdaptiveLoss(statistics="all"),
    "gradient": lambda: dl.MultiScaleGradientLoss(),
    "ssi": lambda: dl.SSILoss(),
    "enhanced-ssi": lambda: dl.EnhancedSSILoss(),
    "progressive-ssi": lambda: dl.ProgressiveEnhancedSSILoss(),
    "l1": lambda: dl.L1Loss(),
    "mse": lambda: dl.MSELoss(),
    "berhu": lambda: dl.BerHuLoss(),
    "berhu packnet": lambda: dl.BerHuLoss(variant="packnet"),
    "abs-rel": lambda: dl.AbsRelLoss(),
    "abs-rel packnet": lambda: dl.AbsRelLoss(variant="packnet"),
    "scale-shift-invariant": lambda: dl.ScaleShiftInvariantLoss(),
    "affine-invariant": lambda: dl.AffineInvariantLoss(),
    "affine-invariant trimmed": lambda: dl.AffineInvariantLoss(trim=0.2),
    "silog without eps": lambda: dl.SILogLoss(eps=0.0),
    "silog packnet": lambda: dl.SILogLoss.preset("packnet"),
    "silog zoedepth": lambda: dl.SILogLoss.preset("zoedepth"),
    "silog mmseg": lambda: dl.SILogLoss.preset("mmseg"),
    "silog depth-anything-v2": lambda: dl.SILogLoss.preset("depth-anything-v2"),
}
# Here sqrt(eps) is left: value at a perfect prediction.
LEFT_OVER = {
    "silog": (lambda: dl.SILogLoss(), 10.0 * 1e-4),
    "silog images": (lambda: dl.SILogLoss(reduction="images", scale=2.0), 2.0 * 1e-4),
    "ssi-silog": (lambda: dl.SSISilogLoss(gradient_weight=0.2), 0.3 * 1e-4),
    "fixed-multi-domain": (lambda: dl.FixedMultiDomainLoss(), 0.6 * 0.3 * 1e-4),
    "adaptive-multi-domain": (lambda: dl.AdaptiveMultiDomainLoss(), 0.5 * 0.3 * 1e-4),
}
halves = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=lambda d: str(d)[6:]
)


@backends
@halves
@pytest.mark.parametrize("density", [1.0, 0.6, 0.05])
@pytest.mark.parametrize("name", [*EXACT, *LEFT_OVER])
def test_a_perfect_prediction_has_no_gradient(name, density, dtype, backend):
    build, expected = LEFT_OVER.get(name, (EXACT.get(name), 0.0))
    _, gt, mask = scene((3, 1, 24, 41), density, dtype)
    mask[1] = False
    value, grad = call(build(), backend, gt.clone(), gt, mask)
    if expected == 0.0:
        assert value == 0.0
    elif mask.sum() >= 100:
        empty_images = 2.0 / 3.0 if name == "silog images" else 1.0
        assert value == pytest.approx(expected * empty_images, rel=1e-6)
    assert torch.count_nonzero(grad) == 0


@pytest.mark.parametrize("density", [1.0, 0.6])
def test_the_ridge_of_ssi_trim_is_left_at_a_perfect_prediction(density):
    _, gt, mask = scene(density=density)
    value, _ = call(dl.SSITrimLoss(epsilon=1e-3), "reference", gt.clone(), gt, mask)
    expected = 0.0
    for g, m in zip(gt, mask, strict=True):
        x = g[m]
        var = x.var(correction=0)
        residual = ((x - x.mean()).abs() * 1e-3 / (var + 1e-3)).sort().values
        expected += residual[: int(0.8 * len(x))].mean().item() / 2
    assert value == pytest.approx(expected, rel=1e-9) and value > 0.0


@pytest.mark.parametrize("constant", [0.1, 0.5, 123.4])
@pytest.mark.parametrize("dtype, rel", [(torch.float64, 1e-13), (torch.float32, 1e-6)], ids=["f64", "f32"])
def test_least_squares_of_a_constant_prediction(constant, dtype, rel):
    """Scale 0, shift mean g: half the variance of g within the images, and no gradient."""
    _, gt, mask = scene(dtype=dtype)
    deviations = torch.cat([g[m] - g[m].mean() for g, m in zip(gt.double(), mask, strict=True)])
    pred = torch.full_like(gt, constant)
    value, grad = call(dl.ScaleShiftInvariantLoss(alpha=0.0), "reference", pred, gt, mask)
    assert value == pytest.approx(0.5 * deviations.square().mean().item(), rel=rel)
    assert torch.count_nonzero(grad) == 0


@backends
@pytest.mark.parametrize("p, g", [(-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_logarithm_without_a_value_shows(p, g, backend):
    pred, gt, mask = scene()
    pred[0, 0, 3, 4], gt[0, 0, 3, 4], mask[0, 0, 3, 4] = p, g, False
    finite, _ = call(dl.SILogLoss(), backend, pred, gt, mask)
    floored, _ = call(dl.SILogLoss(clamp=1e-3), backend, pred, gt, mask | (pred == p))
    assert math.isfinite(finite) and math.isfinite(floored)
    mask[0, 0, 3, 4] = True
    assert math.isnan(call(dl.SILogLoss(), backend, pred, gt, mask)[0])


# Masks.


@backends
@pytest.mark.parametrize("downsample", ["nearest", "average", "bilinear"])
@pytest.mark.parametrize("border", ["valid", "replicate"])
@pytest.mark.parametrize("density", [1.0, 0.7, 0.3, 0.1])
def test_a_constant_error_has_no_support_gradient(density, border, downsample, backend):
    _, gt, mask = scene((2, 1, 40, 56), density)
    # Exact in binary, so that the residual is constant to the last bit.
    gt = (gt * 1024).round() / 1024
    values = {}
    for kind in ("support", "residual"):
        loss = dl.MultiScaleGradientLoss(
            gradient=dl.GradientSpec(mask=kind, downsample=downsample, border=border)
        )
        values[kind], grad = call(loss, backend, gt + 0.5, gt, mask)
        if kind == "support":
            # The mean over the valid pixels of a cell rounds where it is a third, a fifth, ...
            assert values[kind] < 1e-14
            kept = sum(loss.metrics[f"gradient/support_{k}"].item() for k in range(1, 5))
            # Single samples have hardly any support below that; cells have.
            assert kept > 0 or (density < 0.7 and downsample != "average")
    # The residual form sees the edges of the mask: 0 only without a mask.
    assert values["residual"] == 0.0 if density == 1.0 else values["residual"] > 0.2


SPARSE_CELLS = ("scale-adaptive", "adaptive-multi-domain", "fixed-multi-domain")


@backends
@pytest.mark.parametrize("name", dl.available_losses())
def test_sparse_prefix(name, backend):
    pred, gt, mask = scene()
    sparse = dl.build_loss(f"sparse-{name}")
    # Cells of the gradient term that find sparse points; else the prefix is the mask alone.
    cells = (
        {"gradient": dl.GradientSpec(mask="support", downsample="average")} if name in SPARSE_CELLS else {}
    )
    half = torch.rand(mask.shape, generator=torch.Generator().manual_seed(9)) < 0.8
    values = []
    # gt > 0 and finite is the mask: 0, NaN, Inf and negative values are holes.
    poison = torch.where(pred > 2.0, torch.nan, -1.0).masked_fill(pred < 1.5, torch.inf)
    for g in (torch.where(mask, gt, 0.0), torch.where(mask, gt, poison)):
        for given, valid in ((None, mask), (torch.ones_like(mask), mask), (half, mask & half)):
            expected, expected_grad = call(dl.build_loss(name, **cells), backend, pred, g, valid)
            value, grad = call(sparse, backend, pred, g, given)
            assert value == expected and torch.equal(grad, expected_grad) and math.isfinite(value)
            assert sparse.metrics["num_valid_pixels"].item() == valid.sum().item()
            values.append(value)
    assert values[0] == values[1] != values[2]
    if name != "gradient":  # Its centre mask reads the finite values of invalid neighbours.
        assert values[3:] == values[:3]
        assert call(dl.build_loss(name, **cells), backend, pred, gt, mask)[0] == values[0]


def in_range(gt: Tensor, low: float | None, high: float | None) -> Tensor:
    return gt.isfinite() & (gt >= (-math.inf if low is None else low)) & (gt <= (high or math.inf))


@backends
@pytest.mark.parametrize("name", dl.available_losses())
def test_gt_range(name, backend):
    """Pixels whose gt lies outside the closed interval, or is not finite, are invalid."""
    pred, gt, mask = scene()
    gt[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    at_the_ends = [gt[0, 0, 3, k].item() for k in (7, 8)]
    for low, high in ((min(at_the_ends), max(at_the_ends)), (None, 3.0), (1.5, math.inf)):
        valid = in_range(gt, low, high)
        for prefix, given in (("", None), ("", mask), ("sparse-", mask)):
            expected, expected_grad = call(
                dl.build_loss(prefix + name), backend, pred, gt, valid if given is None else valid & given
            )
            loss = dl.build_loss(prefix + name, gt_range=(low, high))
            value, grad = call(loss, backend, pred, gt, given)
            assert value == expected and torch.equal(grad, expected_grad) and math.isfinite(value)
    assert loss.spec.gt_range == (1.5, math.inf) and copy.deepcopy(loss).spec == loss.spec
    assert pickle.loads(pickle.dumps(loss)).spec.gt_range == (1.5, math.inf)


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gt_range_beside_abs_mask_other_shapes_and_dtypes(dtype, backend):
    pred, gt, mask = scene(dtype=dtype)
    raw = torch.rand(mask.shape, generator=torch.Generator().manual_seed(4)) < 0.3
    gt[0, 0, 0, 0] = torch.inf  # Also where the bound itself does not fit into float16.
    # 16-bit gt is compared in float32: the nearest of 2.1 is outside where it is larger.
    for low, high in ((1.5, 2.1), (1.5, 1e30)):
        inside = in_range(gt.float(), low, high)
        plain, ranged = dl.G2Loss(), dl.G2Loss(gt_range=(low, high))
        expected = call(plain, backend, pred, gt, mask & inside, abs_mask=raw & inside)
        value = call(ranged, backend, pred, gt, mask, abs_mask=raw)
        assert value[0] == expected[0] and torch.equal(value[1], expected[1])
        # Maps with a channel, a mask without.
        value = call(ranged, backend, pred, gt, mask[:, 0], abs_mask=raw)
        assert value[0] == expected[0] and torch.equal(value[1], expected[1])
    twin = dl.functional.l1_loss(pred, gt, mask, gt_range=(1.5, 2.1))
    assert torch.equal(twin, dl.L1Loss(gt_range=(1.5, 2.1))(pred, gt, mask)) and twin > 0


def test_gt_range_has_the_units_of_the_gt_that_is_passed():
    pred, gt, mask = scene()
    depth = dl.SupervisedLoss("g2", gt_range=(0.25, 0.5))(1 / pred, 1 / gt, masks=mask)["loss"]
    expected = dl.G2Loss(gt_range=(2.0, 4.0))(pred, gt, mask)
    torch.testing.assert_close(depth, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("build", [dl.G2Loss, dl.ProgressiveScaleAdaptiveLoss, dl.L1Loss])
def test_gt_range_compiles(build):
    pred, gt, mask = scene(dtype=torch.float32)
    torch._dynamo.reset()
    loss = build(gt_range=(1.0, None))
    loss.require_positive_gt()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(pred, gt, mask), loss(pred, gt, mask), rtol=1e-6, atol=0)


# Schedules.


@pytest.mark.parametrize(
    "progress, ssi, l1",
    [(0.0, 0.9, 0.2), (0.5, 0.85, 0.25), (1.0, 0.8, 0.3), (-1.0, 0.9, 0.2), (2.0, 0.8, 0.3)],
)
@backends
def test_schedule_of_enhanced_ssi(progress, ssi, l1, backend):
    loss = dl.EnhancedSSILoss()
    value, _ = call(loss, backend, *scene(), progress=progress)
    found = [loss.metrics[f"{x}_weight_used"].item() for x in ("ssi", "l1")]
    assert found == pytest.approx([ssi / 1.1, l1 / 1.1], rel=1e-15)
    parts = [loss.metrics[f"{x}_component"].item() for x in ("ssi", "l1")]
    assert value == pytest.approx((ssi * parts[0] + l1 * parts[1]) / 1.1, rel=1e-13)


@backends
def test_fixed_weights_of_enhanced_ssi(backend):
    for loss, progress in ((dl.EnhancedSSILoss(), None), (dl.EnhancedSSILoss(adaptive_weighting=False), 0.5)):
        call(loss, backend, *scene(), progress=progress)
        assert [loss.metrics[f"{x}_weight_used"].item() for x in ("ssi", "l1")] == [0.8, 0.2]


@backends
@pytest.mark.parametrize("epoch, l1", [(0, 0.0), (5, 0.1), (15, 0.3), (40, 0.3)])
def test_schedule_of_progressive_ssi(epoch, l1, backend):
    loss = dl.ProgressiveEnhancedSSILoss()
    call(loss, backend, *scene(), epoch=epoch)
    found = [loss.metrics[f"{x}_weight_used"].item() for x in ("ssi", "l1")]
    assert found == pytest.approx([1.0 - l1, l1], rel=1e-15)


def test_the_averaging_progressive_form_reads_valid_pixels_only():
    """Equal maps give 0, and scattered points keep responses, which the other form has none of."""
    g = torch.rand(1, 1, 64, 96, generator=torch.Generator().manual_seed(4)).double() + 0.5
    m = torch.rand(g.shape, generator=torch.Generator().manual_seed(5)) < 0.05
    loss = dl.ProgressiveScaleAdaptiveLoss(downsample="average")
    p = torch.where(m, g, torch.nan).requires_grad_()
    total = loss(p, g, m)
    total.backward()
    assert total.item() == 0 and not p.grad[~m].any()
    kept = [loss.metrics[f"gradient/support_{k}"].item() for k in (1, 2, 3, 4)]
    holes = torch.nn.functional.avg_pool2d(m.double(), 8).eq(0).double()  # Cells without a valid pixel.
    beside = torch.nn.functional.max_pool2d(holes, 3, stride=1, padding=1)
    assert kept[0] == 0 and kept[3] == 96 - beside.sum() > 48
    scattered = dl.ProgressiveScaleAdaptiveLoss()
    scattered(g, g, m)
    assert not any(scattered.metrics[f"gradient/support_{k}"].item() for k in (1, 2, 3, 4))


def test_schedules_of_progressive_scale_adaptive():
    linear = dl.ProgressiveScaleAdaptiveLoss()
    assert linear.schedules(0.0) == (0.5, (0.1, 0.2, 0.3, 0.4))
    assert linear.schedules(0.5) == (0.75, (1 / 7, 1.5 / 7, 2 / 7, 2.5 / 7))
    assert linear.schedules(1.0) == (1.0, (0.25,) * 4)
    assert linear.schedules(-1.0) == linear.schedules(0.0) and linear.schedules(9.0) == linear.schedules(1.0)
    constant = dl.ProgressiveScaleAdaptiveLoss(alpha_schedule="constant", scale_schedule="constant")
    assert all(constant.schedules(t) == (1.0, (0.25,) * 4) for t in (0.0, 0.5, 1.0))
    assert dl.ProgressiveScaleAdaptiveLoss(alpha_schedule="none").schedules(0.7)[0] == 0.0


# Learnt weights.


@backends
def test_kendall_equilibrium(backend):
    """sigma^2 = L after 300 steps on the log-variances, and the larger loss gets the smaller weight."""
    pred, gt, mask = (x.to(DEVICES.get(backend, "cpu")) for x in scene())
    loss = dl.AdaptiveMultiDomainLoss().double().to(pred.device)
    skip_unless_it_runs(backend, loss)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    totals = []
    for _ in range(300):
        optimizer.zero_grad()
        with dl.use_backend(backend):
            total = loss(pred, gt, mask)
        total.backward()
        optimizer.step()
        loss.clamp_parameters_()
        totals.append(total.item())
    metrics = {name: value.item() for name, value in loss.metrics.items()}
    structure, scale = metrics["structure_loss"], metrics["scale_loss"]
    assert loss.log_var_structure.exp().item() == pytest.approx(structure, rel=1e-10)
    assert loss.log_var_scale.exp().item() == pytest.approx(scale, rel=1e-10)
    assert metrics["sigma_structure"] ** 2 == pytest.approx(structure, rel=1e-10)
    assert structure > scale and metrics["weight_structure"] < metrics["weight_scale"]
    # Normalised precisions 1/L, and the minimum of the total: 1/2 + ln(L)/2 each.
    expected = (1 / structure) / (1 / structure + 1 / scale)
    assert metrics["weight_structure"] == pytest.approx(expected, rel=1e-10)
    assert metrics["weight_structure"] + metrics["weight_scale"] == pytest.approx(1.0, rel=1e-14)
    assert totals[-1] == pytest.approx(1.0 + 0.5 * math.log(structure * scale), rel=1e-10)
    assert totals[-1] == pytest.approx(min(totals), rel=1e-12)


@backends
def test_the_total_may_be_negative(backend):
    _, gt, mask = scene()
    loss = dl.AdaptiveMultiDomainLoss().double()
    with torch.no_grad():
        loss.log_var_structure.fill_(-4.0)
        loss.log_var_scale.fill_(-6.0)
    value, _ = call(loss, backend, gt.clone(), gt, mask)
    assert value == pytest.approx(0.5 * (math.exp(6.0) * 0.3 * 1e-4 - 10.0), rel=1e-10)
    assert value < 0.0


@backends
@pytest.mark.parametrize("overshot", [-25.0, -10.5, 10.5, 25.0])
def test_forward_never_changes_parameters(overshot, backend):
    loss = dl.AdaptiveMultiDomainLoss().double()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.fill_(overshot)
    before = copy.deepcopy(loss.state_dict())
    pred, gt, mask = scene()
    bound = math.copysign(10.0, overshot)
    for m in (mask, None, torch.zeros_like(mask)):
        call(loss, backend, pred, gt, m)
        assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
        assert loss.metrics["sigma_structure"].item() == pytest.approx(math.exp(bound / 2), rel=1e-12)
    # Beyond the bounds it uses the bound, with a gradient that leads back.
    with dl.use_backend(backend):
        total = loss(*(x.to(next(loss.parameters()).device) for x in (pred, gt, mask)))
    structure, scale = loss.metrics["structure_loss"].item(), loss.metrics["scale_loss"].item()
    assert total.item() == pytest.approx(0.5 * math.exp(-bound) * (structure + scale) + bound, rel=1e-12)
    for found, part in zip(torch.autograd.grad(total, loss.log_vars()), (structure, scale), strict=True):
        assert found.item() == pytest.approx(0.5 - 0.5 * math.exp(-bound) * part, rel=1e-12)
        assert found.item() * overshot > 0.0


def test_clamp_parameters():
    wrapped = dl.SupervisedLoss("adaptive-multi-domain", log_var_bounds=(-2.0, 3.0))
    loss = wrapped.loss_func
    assert [name for name, _ in wrapped.named_parameters()] == [
        "loss_func.log_var_structure",
        "loss_func.log_var_scale",
    ]
    for given, expected in ((5.0, 3.0), (-5.0, -2.0), (0.7, 0.7)):
        for clamp in (loss.clamp_parameters_, wrapped.clamp_parameters_):
            with torch.no_grad():
                loss.log_var_structure.fill_(given)
                loss.log_var_scale.fill_(-given)
            assert clamp() is None
            assert loss.log_var_structure.item() == pytest.approx(expected, rel=1e-7)
            assert loss.log_var_scale.item() == pytest.approx(min(max(-given, -2.0), 3.0), rel=1e-7)
    assert all(p.requires_grad and p.is_leaf for p in wrapped.parameters())


@pytest.mark.parametrize("name", dl.available_losses())
def test_only_the_adaptive_loss_learns(name):
    loss = dl.build_loss(name)
    names = {n for n, _ in loss.named_parameters()}
    assert names == ({"log_var_structure", "log_var_scale"} if name == "adaptive-multi-domain" else set())
    assert loss.clamp_parameters_() is None


@backends
def test_an_empty_batch_leaves_the_log_variances_alone(backend):
    pred, gt, mask = scene()
    loss = dl.AdaptiveMultiDomainLoss()
    skip_unless_it_runs(backend, loss)
    device = DEVICES.get(backend, "cpu")
    pred, gt, empty = pred.to(device).requires_grad_(), gt.to(device), torch.zeros_like(mask, device=device)
    with dl.use_backend(backend):
        total = loss.to(device)(pred, gt, empty)
    assert total.item() == 0.0
    for grad in torch.autograd.grad(total, (pred, *loss.log_vars())):
        assert torch.count_nonzero(grad) == 0
