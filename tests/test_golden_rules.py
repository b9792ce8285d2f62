"""Golden cases where the contract differs from the original on purpose, and Kendall's weighting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import depthloss as dl
from depthloss import dispatch, spec

from .golden_cases import (
    Case,
    assert_golden,
    backends,
    both_dtypes,
    load,
    maps,
    params,
    skip_unless_it_runs,
    tensor,
)
from .golden_table import DEVIATIONS, ROWS, depth_range


@backends
@both_dtypes
@pytest.mark.parametrize("case", params("berhu_laina", lambda c: not c.flag("param_detach_c")))
def test_berhu_detaches_c(case, dtype, backend):
    twin = load("berhu_laina")[case.name.removesuffix("_through_c")]
    assert twin.flag("param_detach_c")
    assert all(np.array_equal(case[x], twin[x]) for x in ("pred", "gt", "mask"))
    loss = dl.BerHuLoss()
    skip_unless_it_runs(backend, loss)
    pred, gt, mask = maps(case, dtype, backend)
    with dl.use_backend(backend):
        values = [loss(pred, gt, mask) for _ in range(2)]
    assert_golden(twin, values[0], pred)
    assert_golden(case, values[1], pred, grad=twin["grad"])
    # Differentiating c would add dL/dc * 0.2 sign(p - g) at the pixel of the largest error, and only there.
    valid, e = case["mask"] != 0, case["pred"] - case["gt"]
    d = np.where(valid, np.abs(e), 0.0)
    c, worst = 0.2 * d.max(), np.unravel_index(d.argmax(), d.shape)
    extra = np.zeros_like(d)
    through = np.where(d > c, 0.5 - d**2 / (2.0 * c**2), 0.0).sum() / valid.sum()
    extra[worst] = 0.2 * np.sign(e[worst]) * through
    np.testing.assert_allclose(case["grad"] - twin["grad"], extra, rtol=0, atol=1e-12)
    assert abs(extra[worst]) > 0.5 * np.abs(twin["grad"]).max()


@backends
@pytest.mark.parametrize("case", params("berhu_laina"))
def test_berhu_threshold_shows_in_the_gradient(case, backend):
    loss = dl.BerHuLoss()
    skip_unless_it_runs(backend, loss)
    pred, gt, mask = maps(case, torch.float64, backend)
    with dl.use_backend(backend):
        (grad,) = torch.autograd.grad(loss(pred, gt, mask), pred)
    # N |gradient| is 1 where d <= c, and d/c above.
    d, slope = (pred - gt).abs()[mask != 0], grad.abs()[mask != 0] * mask.sum()
    quadratic = slope > 1.0 + 1e-9
    torch.testing.assert_close(slope[~quadratic], torch.ones_like(slope[~quadratic]), rtol=1e-12, atol=0)
    assert quadratic.double().mean().item() == pytest.approx(float(case["comp_frac_quadratic"]), rel=1e-12)
    c = d[quadratic] / slope[quadratic]
    torch.testing.assert_close(c, torch.full_like(c, float(case["comp_c"])), rtol=1e-12, atol=0)


def _ssi_silog_by_hand(case: Case, silog_pixels: np.ndarray) -> float:
    """0.7 SSI over the mask + 0.3 SILog over `silog_pixels`, depth clamped to [0.05, 100]."""
    valid = case["mask"] != 0
    e = (case["pred"] - case["gt"])[valid]
    p, g = (np.clip(1.0 / np.maximum(case[x], 1e-6), 0.05, 100.0)[silog_pixels] for x in ("pred", "gt"))
    log = np.log(p) - np.log(g)
    silog = np.sqrt(log.var() + 0.15 * log.mean() ** 2 + 1e-8)
    return float(0.7 * (e.var() + 0.85 * e.mean() ** 2) + 0.3 * silog)


@backends
def test_ssi_silog_without_a_mask_masks_every_term(backend):
    # The original compares depth of *invalid* pixels (gt 1e6 m, clamped to 100 m) in its SILog part.
    case = load("fork_ssi_silog_c2ffa49")["masknone_a"]
    valid = case["mask"] != 0
    everywhere = np.ones_like(valid)
    assert _ssi_silog_by_hand(case, everywhere) == pytest.approx(float(case["loss"]), rel=1e-12)
    expected = _ssi_silog_by_hand(case, valid)
    assert expected == pytest.approx(0.7019136775, rel=1e-9)
    assert float(case["loss"]) > 1.2
    loss = dl.build_loss("sparse-ssi-silog", min_depth=0.05, max_depth=100.0)
    skip_unless_it_runs(backend, loss)
    pred, gt, mask = maps(case, torch.float64, backend)
    with dl.use_backend(backend):
        values = [loss(pred, gt), loss(pred, gt, mask)]
    for value in values:
        assert value.item() == pytest.approx(expected, rel=1e-9)
        (grad,) = torch.autograd.grad(value, pred)
        assert (grad[mask == 0] == 0).all() and (grad[mask != 0] != 0).any()
    # At the other commit the original masks every term, too: same inputs, SILog times 10.
    other = load("fork_ssi_silog_ff2c677")["masknone_a"]
    assert np.array_equal(case["pred"], other["pred"]) and np.array_equal(case["gt"], other["gt"])
    ssi, silog = float(other["comp_ssi_component"]), float(other["comp_silog_component"])
    assert expected == pytest.approx(0.7 * ssi + 0.03 * silog, rel=1e-12)


@pytest.mark.parametrize("file", ["fork_ssi_silog_ff2c677", "fork_ssi_silog_c2ffa49"])
def test_inverted_range_is_an_error(file):
    case = load(file)["wide_d_range_inverted"]
    with pytest.raises(ValueError, match="min_depth=5.0, max_depth=2.0"):
        dl.SSISilogLoss(**depth_range(case))
    with pytest.raises(ValueError, match="min_depth=0.001, max_depth=0.0005"):
        dl.SSISilogLoss(max_depth=5e-4)  # After the defaults are put in.


@backends
@both_dtypes
@pytest.mark.parametrize("row", [r for r in ROWS if r.file.startswith(("fork_ssi_silog", "fork_ssi_trim"))])
def test_too_few_pixels_give_exactly_zero_connected(row, dtype, backend):
    # The originals return a constant without a graph.
    (case,) = (c for c in load(row.file).values() if c.flag("param_disconnected"))
    loss = row.build(case)
    skip_unless_it_runs(backend, loss)
    pred, gt, mask = maps(case, dtype, backend)
    with dl.use_backend(backend):
        value = loss(pred, gt, mask)
    assert value.item() == 0.0 and value.requires_grad
    (grad,) = torch.autograd.grad(value, pred)
    assert torch.count_nonzero(grad) == 0 and grad.isfinite().all()


def _expected_kendall(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """The log-variances in use, and the gradient with respect to the parameters.

    The formula's clamp has no gradient outside its bounds; here it is the gradient at the bound.
    """
    s = case["s"].copy()
    if case.flag("param_clamp"):
        s = s.clip(case.number("param_clamp_min"), case.number("param_clamp_max"))
    outside = s != case["s"]
    grad = np.where(outside, 0.5 - 0.5 * np.exp(-s) * case["L"], case["grad_s"])
    assert (case["grad_s"][outside] == 0).all() and (grad[outside] != 0).all()
    return s, grad


@backends
@pytest.mark.parametrize("case", params("kendall"))
def test_kendall(case, backend):
    # One valid pixel with |p - g| = 1: group i has exactly the loss L_i as its weight.
    n = len(case["L"])
    groups = tuple(
        spec.Group((spec.Absolute(name=f"l1_{i}", eps=0.0),), name=f"loss_{i}", short_name=str(i))
        for i in range(n)
    )
    description = spec.LossSpec(groups, log_var_bounds=(-10.0, 10.0))
    if backend != "reference" and backend not in description.fused:
        pytest.skip("several terms of a kind have no fused form")
    pred = tensor(np.ones((1, 1, 1, 1)), None, backend).requires_grad_()
    log_vars = [tensor(x, None, backend).requires_grad_() for x in case["s"]]

    def run(losses: np.ndarray) -> tuple[torch.Tensor, dict]:
        with dl.use_backend(backend):
            total, values = dispatch.evaluate(
                pred,
                torch.zeros_like(pred),
                None,
                None,
                description,
                tuple(map(float, losses)),
                log_vars,
            )
        return total, dict(zip(description.metric_names, values.tolist(), strict=True))

    s, grad_s = _expected_kendall(case)
    total, metrics = run(case["L"])
    assert total.item() == pytest.approx(float(case["loss"]), rel=1e-9)
    grad_pred, *grads = torch.autograd.grad(total, [pred, *log_vars])
    assert grad_pred.item() == pytest.approx((case["comp_weights"] * case["L"]).sum(), rel=1e-9)
    # 0.5 and 0.5 exp(-s) L cancel near the equilibrium: the larger of the two is the scale.
    scale = 0.5 * np.maximum(1.0, np.exp(-s) * case["L"])
    assert (np.abs(np.array([g.item() for g in grads]) - grad_s) <= 1e-9 * scale).all()
    weights = case["comp_weights"]
    for i in range(n):
        assert metrics[f"loss_{i}"] == case["L"][i]
        assert metrics[f"sigma_{i}"] == pytest.approx(np.exp(s[i] / 2), rel=1e-12)
        assert metrics[f"weight_{i}"] == pytest.approx(weights[i] / weights.sum(), rel=1e-12)
        # The total is linear in L_i: its slope is the gradient.
        one = np.zeros(n)
        one[i] = 1e3
        slope = (run(one)[0] - run(np.zeros(n))[0]).item() / 1e3
        assert slope == pytest.approx(case["grad_L"][i], rel=1e-9, abs=0)


@backends
@pytest.mark.parametrize("case", params("kendall", lambda c: len(c["L"]) == 2))
def test_kendall_through_the_module(case, backend):
    # A constant error e on a constant scene: structure = A = e, scale = ssi_weight * e^2.
    structure, scale = case["L"]
    loss = dl.AdaptiveMultiDomainLoss(
        lambda_sg=0.0,
        use_inv_depth=True,
        ssi_weight=float(scale / structure**2),
        silog_weight=0.0,
        alpha_ssi=1.0,
        min_valid=0,
    ).double()
    skip_unless_it_runs(backend, loss)
    gt = tensor(np.full((1, 1, 20, 20), 0.5), None, backend)
    pred = (gt + structure).requires_grad_()
    with torch.no_grad():
        for parameter, value in zip(loss.log_vars(), case["s"], strict=True):
            parameter.fill_(value)
    loss.to(gt.device)
    with dl.use_backend(backend):
        total = loss(pred, gt)
    assert loss.metrics["structure_loss"].item() == pytest.approx(structure, rel=1e-9)
    assert loss.metrics["scale_loss"].item() == pytest.approx(scale, rel=1e-9)
    assert total.item() == pytest.approx(float(case["loss"]), rel=1e-9)
    s, grad_s = _expected_kendall(case)
    grad_pred, *grads = torch.autograd.grad(total, [pred, *loss.log_vars()])
    magnitude = 0.5 * np.maximum(1.0, np.exp(-s) * case["L"])
    assert (np.abs(np.array([g.item() for g in grads]) - grad_s) <= 1e-9 * magnitude).all()
    # dA/de = 1 and d(scale)/de = 2 scale/e.
    w = case["comp_weights"]
    assert grad_pred.sum().item() == pytest.approx(w[0] + w[1] * 2.0 * scale / structure, rel=1e-9)
    assert loss.metrics["sigma_structure"].item() == pytest.approx(np.exp(s[0] / 2), rel=1e-12)
    assert loss.metrics["sigma_scale"].item() == pytest.approx(np.exp(s[1] / 2), rel=1e-12)
    assert loss.metrics["weight_structure"].item() == pytest.approx(w[0] / w.sum(), rel=1e-12)
    assert loss.metrics["weight_scale"].item() == pytest.approx(w[1] / w.sum(), rel=1e-12)


@backends
@pytest.mark.parametrize("case", params("unidepth_silog"))
def test_unidepth_takes_each_image_by_itself(case, backend):
    """Its published configurations pair the mean of every image with the variance of every image."""
    pred, gt, mask = maps(case, torch.float64, backend)
    with dl.use_backend(backend):
        value = dl.SILogLoss(preset="unidepth")(pred, gt, mask).item()
    valid = case["mask"].any((1, 2, 3))
    own = np.sqrt(case["comp_var"] + 0.15 * case["comp_mean"] ** 2 + 1e-4)
    assert value == pytest.approx(np.where(valid, own, 0.0).mean(), rel=1e-9)
    matrix = case["comp_matrix"]
    if matrix.ndim == 2 and not case["si"].any():
        np.testing.assert_allclose(np.diag(matrix), own, rtol=1e-9)
    deviates = ("unidepth_silog", case.name) in DEVIATIONS
    assert (abs(value / float(case["loss"]) - 1.0) > 1e-3) == deviates


@backends
@both_dtypes
@pytest.mark.parametrize("preset, offset, scale", [("adabins", 0.0, 1.0), ("toolbox-sig", 1e-3, 10.0)])
@pytest.mark.parametrize("case", params("zoe_silog"))
def test_presets_that_differ_from_zoedepth_by_offset_and_scale(case, preset, offset, scale, dtype, backend):
    """10 sqrt(unbiased variance + 0.15 mean^2) of ln(x + 1e-7): other offsets are other inputs."""
    pred, gt, mask = maps(case, dtype, backend)
    shifted = (x.double() + (1e-7 - offset) for x in (pred, gt))
    with dl.use_backend(backend):
        value = scale * dl.SILogLoss(preset=preset)(*shifted, mask)
    assert_golden(case, value.to(dtype), pred)
