"""What has no golden numbers, against slow NumPy written from the definitions: loops over pixels, nothing
shared with the library.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import depthloss as dl

from .golden_cases import backends, skip_unless_it_runs, tensor

SOBEL_X = np.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
SHAPE = (2, 13, 17)


def scene(shape: tuple[int, ...] = SHAPE, density: float = 0.6, seed: int = 0, hole: bool = True) -> tuple:
    """Positive maps (finite at invalid pixels, too) and a bool mask with a hole."""
    rng = np.random.default_rng(seed)
    gt = np.exp(rng.normal(0.0, 0.5, shape)) + 0.1
    pred = gt * np.exp(rng.normal(0.1, 0.3, shape)) + 0.05
    mask = rng.random(shape) < density
    if hole:
        mask[0, 2:8, 3:11] = False
    return pred, gt, mask


def level_of(x: np.ndarray, k: int, method: str) -> np.ndarray:
    """D_k of one image, cell by cell."""
    f, (h, w) = 2**k, x.shape
    hk, wk = h // f, w // f
    out = np.zeros((hk, wk))
    for i, j in itertools.product(range(hk), range(wk)):
        cell = x[i * f : (i + 1) * f, j * f : (j + 1) * f]
        if k == 0:
            out[i, j] = x[i, j]
        elif method == "nearest":
            out[i, j] = x[i * h // hk, j * w // wk]
        elif method == "average":
            out[i, j] = cell.mean()
        else:
            out[i, j] = cell[f // 2 - 1 : f // 2 + 1, f // 2 - 1 : f // 2 + 1].mean()
    return out


def level_by_hand(r: np.ndarray, m: np.ndarray, k: int, spec: dl.GradientSpec) -> tuple[float, float, int]:
    """Sum of the responses, the level's own normaliser and the kept responses of one image."""
    hk, wk = r.shape[0] // 2**k, r.shape[1] // 2**k
    margin = 1 if spec.border == "valid" else 0
    if hk <= 2 * margin or wk <= 2 * margin:
        return 0.0, 0.0, 0
    weight = level_of(m.astype(float), k, spec.downsample)
    if spec.mask == "residual":
        cells, own = level_of(np.where(m, r, 0.0), k, spec.downsample), weight.sum()
    elif spec.mask == "centre":
        cells = level_of(np.where(np.isfinite(r), r, 0.0), k, spec.downsample)
        own = (weight > 0.5).sum()
    else:
        cells = level_of(np.where(m, r, 0.0), k, spec.downsample)
        cells = np.divide(cells, weight, out=np.zeros_like(cells), where=weight > 0)
    total, kept = 0.0, 0
    for i, j in itertools.product(range(margin, hk - margin), range(margin, wk - margin)):
        window, covered = np.zeros((3, 3)), True
        for a, b in itertools.product((-1, 0, 1), (-1, 0, 1)):
            y, x = i + a, j + b
            inside = 0 <= y < hk and 0 <= x < wk
            if spec.border == "replicate":
                y, x = min(max(y, 0), hk - 1), min(max(x, 0), wk - 1)
                inside = True
            window[a + 1, b + 1] = cells[y, x] if inside else 0.0
            covered &= bool(inside and weight[y, x] > 0)
        keep = {"residual": True, "centre": weight[i, j] > 0.5, "support": covered}[spec.mask]
        if keep:
            kept += 1
            total += abs((SOBEL_X * window).sum()) + abs((SOBEL_X.T * window).sum())
    return total, kept if spec.mask == "support" else own, kept


def gradient_by_hand(r: np.ndarray, m: np.ndarray, spec: dl.GradientSpec, eps: float) -> tuple:
    """G, its levels and their kept responses."""
    levels, kepts = [], []
    for k in range(spec.num_scales):
        images = [level_by_hand(r[b], m[b], k, spec) for b in range(len(r))]
        total, own, kept = (sum(column) for column in zip(*images, strict=True))
        normaliser = m.sum() if spec.normalizer == "full" else own
        levels.append(total / (normaliser + eps) if normaliser > 0 and kept > 0 else 0.0)
        kepts.append(kept)
    if spec.combine == "sum":
        return sum(levels), levels, kepts
    counted = sum(kept > 0 for kept in kepts) if spec.mask == "support" else spec.num_scales
    return sum(levels) / max(counted, 1), levels, kepts


def standardise_by_hand(x: np.ndarray, m: np.ndarray, eps: float) -> np.ndarray:
    """z at every pixel of images that have valid ones."""
    z = np.zeros_like(x)
    for b in range(len(x)):
        if m[b].any():
            mu = x[b][m[b]].mean()
            z[b] = (x[b] - mu) / (np.abs(x[b][m[b]] - mu).mean() + eps)
    return z


def structure_by_hand(p: np.ndarray, g: np.ndarray, m: np.ndarray, spec: dl.GradientSpec) -> tuple:
    """R, A and G of the scale-adaptive loss on the maps compared (eps 1e-8)."""
    r = standardise_by_hand(p, m, 1e-8) - standardise_by_hand(g, m, 1e-8)
    relative, absolute = (np.abs(x[m]).sum() / (m.sum() + 1e-8) for x in (r, p - g))
    return relative, absolute, gradient_by_hand(r, m, spec, 1e-8)[0]


def scale_by_hand(p: np.ndarray, g: np.ndarray, m: np.ndarray, low: float, high: float) -> tuple:
    """SSI on inverse depth and SILog on the clamped depth (alpha = lam = 0.85)."""
    e = (p - g)[m]
    log = np.log(np.clip(1.0 / p[m], low, high)) - np.log(np.clip(1.0 / g[m], low, high))
    return (
        (e**2).mean() - 0.15 * e.mean() ** 2,
        np.sqrt((log**2).mean() - 0.85 * log.mean() ** 2 + 1e-8),
    )


def evaluate(loss: dl.DepthLoss, backend: str, *maps: np.ndarray, **call: object) -> float:
    skip_unless_it_runs(backend, loss)
    with dl.use_backend(backend):
        return loss(*(tensor(x, None, backend) for x in maps), **call).item()


NAMES = ("mask", "downsample", "border", "normalizer", "combine")
AXES = list(
    itertools.product(
        ("residual", "centre", "support"),
        ("nearest", "average", "bilinear"),
        ("valid", "zero", "replicate"),
        ("full", "level"),
        ("sum", "mean"),
    )
)


@backends
@pytest.mark.parametrize("axes", AXES, ids="-".join)
def test_gradient_term(axes, backend):
    """13 x 17 has no valid-border response at k = 3; 7 x 9 has no cell at all there."""
    for shape, num_scales, density in (((2, 13, 17), 4, 0.6), ((2, 7, 9), 4, 0.85), ((2, 13, 17), 2, 0.2)):
        spec = dl.GradientSpec(**dict(zip(NAMES, axes, strict=True)), num_scales=num_scales)
        pred, gt, mask = scene(shape, density, seed=num_scales)
        # Non-finite values at invalid pixels count as 0 (centre) or not at all.
        invalid = np.argwhere(~mask)
        pred[tuple(invalid[3])], gt[tuple(invalid[-3])] = np.nan, np.inf
        expected, levels, kepts = gradient_by_hand(pred - gt, mask, spec, 1e-6)
        loss = dl.MultiScaleGradientLoss(gradient=spec)
        assert evaluate(loss, backend, pred, gt, mask) == pytest.approx(expected, rel=1e-12, abs=1e-14)
        for k, (level, kept) in enumerate(zip(levels, kepts, strict=True), 1):
            found = loss.metrics[f"gradient/scale_{k}"].item()
            assert found == pytest.approx(level, rel=1e-12, abs=1e-14)
            assert loss.metrics[f"gradient/support_{k}"].item() == kept
        if spec.border == "valid" and num_scales == 4:
            assert kepts[-1] == 0 and kepts[0] > 0


@backends
@pytest.mark.parametrize("axes", AXES[::5], ids="-".join)
def test_gradient_term_of_standardised_maps(axes, backend):
    spec = dl.GradientSpec(**dict(zip(NAMES, axes, strict=True)), num_scales=3)
    pred, gt, mask = scene(density=0.7)
    mask[1] &= np.arange(17) > 8
    pred[1, 4, 3], gt[1, 9, 5] = np.nan, -np.inf  # Invalid: 0 in r, or not read at all.
    loss = dl.G2Loss(weights=(0.0, 0.0, 1.0), gradient=spec)
    r = standardise_by_hand(pred, mask, 1e-6) - standardise_by_hand(gt, mask, 1e-6)
    expected, _, _ = gradient_by_hand(r, mask, spec, 1e-6)
    assert evaluate(loss, backend, pred, gt, mask) == pytest.approx(expected, rel=1e-12)


@backends
@pytest.mark.parametrize("use_inv_depth", [False, True])
def test_scale_adaptive_on_sparse_data(use_inv_depth, backend):
    pred, gt, mask = scene(density=0.3)
    p, g = pred, gt
    if not use_inv_depth:
        p, g = (np.clip(1.0 / np.maximum(x, 1e-6), 0.3, 2.0) for x in (pred, gt))
        assert (p == 0.3).any() and (g == 2.0).any()
    spec = dl.GradientSpec.preset("scale-adaptive")
    relative, absolute, gradient = structure_by_hand(p, g, mask, spec)
    bounds = {"min_depth": 0.3, "max_depth": 2.0}
    loss = dl.ScaleAdaptiveLoss(use_inv_depth=use_inv_depth, **bounds)
    found = evaluate(loss, backend, pred, gt, mask)
    assert found == pytest.approx(relative + absolute + 0.5 * gradient, rel=1e-12)
    assert loss.metrics["loss_sa"].item() == pytest.approx(relative + absolute, rel=1e-12)
    assert loss.metrics["loss_sg"].item() == pytest.approx(gradient, rel=1e-12)
    loss = dl.ScaleAdaptiveLoss(lambda_sg=0.2, use_absolute=False, use_inv_depth=use_inv_depth, **bounds)
    found = evaluate(loss, backend, pred, gt, mask)
    assert found == pytest.approx(relative + 0.2 * gradient, rel=1e-12)


@backends
def test_a_clamp_has_gradient_1_on_the_closed_interval(backend):
    """With every torch: torch's own has 0 at the bounds from 2.14 on."""
    p, g = np.array([-0.5, 0.0, 1.0, 3.0, 3.5]), np.full(5, 2.0)
    pred = tensor(p.reshape(1, 1, 5), None, backend).requires_grad_()
    loss = dl.recipe("nlspn", max_depth=3.0)
    skip_unless_it_runs(backend, loss)
    with dl.use_backend(backend):
        loss(pred, tensor(g.reshape(1, 1, 5), None, backend)).backward()
    inside = (p >= 0) & (p <= 3)
    expected = inside * (np.sign(p - g) + 2 * (p - g)) / 5
    assert pred.grad.flatten().tolist() == pytest.approx(expected.tolist(), rel=1e-12)


@backends
@pytest.mark.parametrize("progress, t", [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (-3.0, 0.0), (7.0, 1.0)])
@pytest.mark.parametrize("alpha_schedule", ["linear", "constant", "none"])
@pytest.mark.parametrize(
    ("scale_schedule", "downsample"),
    [("linear", "bilinear"), ("linear", "average"), ("constant", "bilinear")],
)
def test_progressive_scale_adaptive(scale_schedule, downsample, alpha_schedule, progress, t, backend):
    # Here 13 rows make 6 and 3 of them; the nearest rows are floor(j 13/6) and floor(j 13/3).
    pred, gt, mask = scene()
    p, g = (np.clip(1.0 / np.maximum(x, 1e-6), 0.1, 100.0) for x in (pred, gt))
    spec = dl.GradientSpec.preset("scale-adaptive", num_scales=1)
    levels = []
    for s in range(3):
        if downsample == "bilinear":
            ps = np.stack([level_of(x, s, "bilinear") for x in p])
            gs = np.stack([level_of(x, s, "nearest") for x in g])
            ms = np.stack([level_of(x.astype(float), s, "nearest") for x in mask]) > 0
        else:
            share = np.stack([level_of(x.astype(float), s, "average") for x in mask])
            ms = share > 0
            ps, gs = (
                np.stack([level_of(x, s, "average") for x in maps * mask]) / np.where(ms, share, 1.0)
                for maps in (p, g)
            )
        r = standardise_by_hand(ps, ms, 1e-6) - standardise_by_hand(gs, ms, 1e-6)
        relative = np.abs(r[ms]).sum() / (ms.sum() + 1e-6)
        levels.append((relative, gradient_by_hand(r, ms, spec, 1e-6)[0]))
    shares = {"constant": [1.0, 1.0, 1.0], "linear": [1.0, 2.0 - t, 3.0 - 2.0 * t]}[scale_schedule]
    alpha = {"linear": 0.5 + 0.5 * t, "constant": 1.0, "none": 0.0}[alpha_schedule]
    absolute = np.abs((p - g)[mask]).sum() / (mask.sum() + 1e-6)
    expected = alpha * absolute
    for share, (relative, gradient) in zip(shares, levels, strict=True):
        expected += share / sum(shares) * (0.7 * relative + 0.3 * gradient)
    loss = dl.ProgressiveScaleAdaptiveLoss(
        lambda_sg=0.3,
        num_scales=3,
        alpha_schedule=alpha_schedule,
        scale_schedule=scale_schedule,
        downsample=downsample,
    )
    assert evaluate(loss, backend, pred, gt, mask, progress=progress) == pytest.approx(expected, rel=1e-12)
    assert loss.metrics["alpha_t"].item() == pytest.approx(alpha, rel=1e-15)
    for s, (relative, gradient) in enumerate(levels):
        assert loss.metrics[f"scale{s}_l1"].item() == pytest.approx(relative, rel=1e-12)
        assert loss.metrics[f"scale{s}_grad"].item() == pytest.approx(gradient, rel=1e-12)
        together = 0.7 * relative + 0.3 * gradient
        assert loss.metrics[f"scale{s}_loss"].item() == pytest.approx(together, rel=1e-12)


@backends
def test_ssi_silog_with_gradient(backend):
    pred, gt, mask = scene(density=0.7)
    ssi, silog = scale_by_hand(pred, gt, mask, 0.4, 3.0)
    p, g = (np.clip(1.0 / np.maximum(x, 1e-6), 0.4, 3.0) for x in (pred, gt))
    spec = dl.GradientSpec.preset("sparse")
    gradient = gradient_by_hand(p - g, mask, spec, 1e-8)[0]
    loss = dl.SSISilogLoss(
        ssi_weight=0.4, silog_weight=0.4, gradient_weight=0.2, silog_scale=10.0, min_depth=0.4, max_depth=3.0
    )
    found = evaluate(loss, backend, pred, gt, mask)
    assert found == pytest.approx(0.4 * ssi + 4.0 * silog + 0.2 * gradient, rel=1e-12)
    assert loss.metrics["gradient_component"].item() == pytest.approx(gradient, rel=1e-12)
    assert loss.metrics["silog_component"].item() == pytest.approx(10.0 * silog, rel=1e-12)
    names = ("ssi_weight_used", "silog_weight_used", "gradient_weight_used")
    assert [loss.metrics[name].item() for name in names] == [0.4, 0.4, 0.2]


@backends
@pytest.mark.parametrize("use_inv_depth", [False, True])
def test_multi_domain(use_inv_depth, backend):
    pred, gt, mask = scene(density=0.7)
    options = {"use_inv_depth": use_inv_depth, "min_depth": 0.4, "max_depth": 3.0}
    p, g = pred, gt
    if not use_inv_depth:
        p, g = (np.clip(1.0 / np.maximum(x, 1e-6), 0.4, 3.0) for x in (pred, gt))
    spec = dl.GradientSpec.preset("scale-adaptive")
    relative, absolute, gradient = structure_by_hand(p, g, mask, spec)
    ssi, silog = scale_by_hand(pred, gt, mask, 0.4, 3.0)
    structure, scale = relative + absolute + 0.1 * gradient, 0.7 * ssi + 0.3 * silog
    fixed = dl.FixedMultiDomainLoss(**options)
    found = evaluate(fixed, backend, pred, gt, mask)
    assert found == pytest.approx(0.4 * structure + 0.6 * scale, rel=1e-12)
    adaptive = dl.AdaptiveMultiDomainLoss(**options).double()
    with torch.no_grad():
        adaptive.log_var_structure.fill_(0.5)
        adaptive.log_var_scale.fill_(-1.25)
    adaptive.to(tensor(pred, None, backend).device)
    expected = 0.5 * (np.exp(-0.5) * structure + 0.5 + np.exp(1.25) * scale - 1.25)
    assert evaluate(adaptive, backend, pred, gt, mask) == pytest.approx(expected, rel=1e-12)
    for loss in (fixed, adaptive):
        assert loss.metrics["structure_loss"].item() == pytest.approx(structure, rel=1e-12)
        assert loss.metrics["scale_loss"].item() == pytest.approx(scale, rel=1e-12)
        assert loss.metrics["num_valid_pixels"].item() == mask.sum()


@backends
@pytest.mark.parametrize("kind", ["adaptive", "fixed"])
def test_multi_domain_without_enough_pixels_for_the_scale_part(kind, backend):
    pred, gt, mask = scene(density=0.2)
    assert 0 < mask.sum() < 100
    p, g = (np.clip(1.0 / np.maximum(x, 1e-6), 0.05, 100.0) for x in (pred, gt))
    spec = dl.GradientSpec.preset("scale-adaptive")
    relative, absolute, gradient = structure_by_hand(p, g, mask, spec)
    structure = relative + absolute + 0.1 * gradient
    if kind == "fixed":
        loss, expected = dl.FixedMultiDomainLoss(), 0.4 * structure
    else:
        loss, expected = dl.AdaptiveMultiDomainLoss().double(), 0.5 * (np.exp(0.3) * structure - 0.3)
        with torch.no_grad():
            loss.log_var_structure.fill_(-0.3)
            loss.log_var_scale.fill_(2.0)
        loss.to(tensor(pred, None, backend).device)
    assert evaluate(loss, backend, pred, gt, mask) == pytest.approx(expected, rel=1e-12)
    assert loss.metrics["scale_loss"].item() == 0.0


def affine_by_hand(p: np.ndarray, g: np.ndarray, m: np.ndarray, trim: float) -> float:
    """Mean over the images of the L1 of (x - median)/MAD, the largest residuals left out."""
    total = 0.0
    for b in range(len(p)):
        if not m[b].any():
            continue
        z = []
        for x in (p[b][m[b]], g[b][m[b]]):
            median = np.sort(x)[(len(x) - 1) // 2]
            z.append((x - median) / np.abs(x - median).mean())
        residual = np.sort(np.abs(z[0] - z[1]))
        total += residual[: int((1.0 - trim) * len(residual))].mean()
    return total / len(p)


@pytest.mark.parametrize("trim", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("parity", ["odd", "even", "empty"])
def test_affine_invariant(parity, trim):
    pred, gt, mask = scene(density=0.5)
    for b in range(2):
        # Of an even number of values the lower of the two middle ones is the median, as in torch.
        if mask[b].sum() % 2 != (parity == "odd"):
            mask[tuple(np.argwhere(mask & (np.arange(2) == b)[:, None, None])[0])] = False
    if parity == "empty":
        mask[1] = False
    else:
        assert (mask.sum((1, 2)) % 2 == (parity == "odd")).all()
    expected = affine_by_hand(pred, gt, mask, trim)
    loss = dl.AffineInvariantLoss(trim=trim)
    assert evaluate(loss, "reference", pred, gt, mask) == pytest.approx(expected, rel=1e-12)
    if trim:
        assert expected < affine_by_hand(pred, gt, mask, 0.0)


@backends
@pytest.mark.parametrize(
    "loss, pixel",
    [
        (dl.L1Loss(), lambda p, g: np.abs(p - g)),
        (dl.MSELoss(), lambda p, g: (p - g) ** 2),
        (dl.AbsRelLoss(), lambda p, g: np.abs(p - g) / g),
        (dl.AbsRelLoss(variant="packnet"), lambda p, g: np.abs(p - g) / p),
    ],
    ids=["l1", "mse", "abs-rel", "abs-rel packnet"],
)
def test_pooled_means(loss, pixel, backend):
    for density in (1.0, 0.4):
        pred, gt, mask = scene(density=density)
        mask[1] &= np.arange(17) < 5  # Pooled over the batch, not the mean of the images.
        expected = pixel(pred[mask], gt[mask]).mean()
        assert evaluate(loss, backend, pred, gt, mask) == pytest.approx(expected, rel=1e-14)
        expected = pixel(pred, gt).mean()
        assert evaluate(loss, backend, pred, gt) == pytest.approx(expected, rel=1e-14)
