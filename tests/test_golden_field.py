"""The recipes and the axes behind them against the numbers of their originals.

Where an original errs, ours is the right one: the test says which rule makes the difference and holds both
values.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

import depthloss as dl
from depthloss.losses import DepthLoss
from depthloss.losses.base import single_group
from depthloss.spec import Domain, Gradient, GradientSpec, Penalty, Pixel

from .golden_cases import Case, assert_golden, backends, both_dtypes, load, maps, params, skip_unless_it_runs

SPACES = (Domain(), Domain(log=1.0), Domain(log=0.0))


def _of_penalty(kind: str, *numbers: str) -> Callable[[Case], DepthLoss]:
    def build(case: Case) -> DepthLoss:
        values = [float(case[name]) for name in numbers]
        domain = SPACES[int(case.number("param_space"))]
        return DepthLoss(single_group(Pixel(name="x", penalty=Penalty(kind, *values), domain=domain)))

    return build


def _nlspn(case: Case) -> DepthLoss:
    return dl.recipe(
        "nlspn",
        l1_weight=case.number("param_w_l1"),
        l2_weight=case.number("param_w_l2"),
        max_depth=case.number("param_max_depth"),
    )


def _log_gradient(case: Case) -> DepthLoss:
    gradient = GradientSpec.preset("midas")
    return DepthLoss(
        single_group(Gradient(name="g", domain=SPACES[2], align="none", gradient=gradient, eps=0.0))
    )


EQUAL: dict[str, Callable[[Case], DepthLoss]] = {
    "e2eft_ssi_l1": lambda case: dl.recipe("e2e-ft"),
    "nlspn_l1l2": _nlspn,
    "huber": _of_penalty("huber", "param_delta"),
    "barron_general": _of_penalty("barron", "param_alpha", "param_c"),
    "log_gradient_midas": _log_gradient,
}


@backends
@both_dtypes
@pytest.mark.parametrize("case", [p for file in EQUAL for p in params(file)])
def test_equal_to_the_original(case, dtype, backend):
    loss = EQUAL[case.file](case)
    skip_unless_it_runs(backend, loss)
    pred, gt, mask = maps(case, dtype, backend)
    with dl.use_backend(backend):
        # Rounding of a residual of 100 m, or of a logarithm, is large beside the constants of a penalty.
        assert_golden(case, loss(pred, gt, mask), pred, floors=(1e-6, 5e-6))


@backends
@pytest.mark.parametrize("case", params("charbonnier"))
def test_charbonnier_is_0_at_0(case, backend):
    """Ours subtracts the constant, as half of the files do; the gradient is the same."""
    loss = _of_penalty("charbonnier", "param_eps")(case)
    skip_unless_it_runs(backend, loss)
    pred, gt, mask = maps(case, torch.float64, backend)
    with dl.use_backend(backend):
        value = loss(pred, gt, mask)
    constant = 0.0 if case.flag("param_subtract_eps") else float(case["param_eps"])
    assert_golden(case, value + constant, pred)


def _by_zeros(x: np.ndarray, m: np.ndarray) -> np.ndarray:
    """The original's standardisation: a median in which invalid pixels count as 0."""
    out = np.zeros_like(x)
    for b in range(len(x)):
        if not m[b].any():
            continue
        values = np.sort((x[b] * m[b]).ravel())
        t = values[(values.size - 1) // 2]
        out[b] = (x[b] - t) / max(np.abs(x[b] - t)[m[b]].sum() / m[b].sum(), 1e-6)
    return out


@backends
@pytest.mark.parametrize("case", params("vda_robust_ssi"))
def test_depth_anything_relative(case, backend):
    """Theirs takes the median over zeros, and divides a trimmed sum by all valid pixels; by images it divides
    a residual by the number of pixels of another image.
    """
    trim, by_image = case.number("param_trim"), case.flag("param_image_reduction")
    loss = dl.recipe("depth-anything-relative", trim=trim)
    skip_unless_it_runs(backend, loss)
    pred, gt, mask = maps(case, torch.float64, backend)
    with dl.use_backend(backend):
        value = loss(pred, gt, mask)
    ours = loss.metrics["affine_invariant"].item()
    m = case["mask"][:, 0] != 0
    r = np.abs(_by_zeros(case["pred"][:, 0], m) - _by_zeros(case["gt"][:, 0], m))[m]
    kept = int((1.0 - trim) * r.size)
    theirs = np.sort(r)[:kept].sum() / r.size
    if by_image:
        assert abs(value.item() - float(case["loss"])) > 0.02 * float(case["loss"])
        return
    assert theirs == pytest.approx(float(case["comp_data_trim02" if trim else "comp_data_notrim"]), rel=1e-9)
    if m.all():
        # The median is the same, and the divisor is the only difference: as another weight, exactly.
        scaled = DepthLoss(loss.spec, (kept / r.size, 0.5, 1.0))
        with dl.use_backend(backend):
            assert_golden(case, scaled(pred, gt, mask), pred)
    else:
        assert abs(ours - theirs) > 0.02 * theirs


@both_dtypes
@pytest.mark.parametrize("case", params("vggt_depth"))
def test_vggt_depth(case, dtype):
    """Equal where their quantile filter, clamp at 100 and confidence in the gradient do nothing."""
    loss = dl.recipe("vggt-depth")
    pred, gt, mask = maps(case, dtype)
    conf = torch.tensor(case["conf"], dtype=dtype, requires_grad=True)
    value = loss(pred, gt, mask, confidence=conf)
    (grad_conf,) = torch.autograd.grad(value, conf, retain_graph=True)
    mean = case["conf"][case["mask"] != 0].mean() if case["mask"].any() else 0.0
    assert loss.metrics["confidence"].item() == pytest.approx(mean, rel=1e-6)
    if case.name in ("d005_c", "empty_d", "few_d", "few_total_d"):
        assert_golden(case, value, pred)
        tolerance = (
            1e-8 if dtype == torch.float64 else max(2 * float(case["ref_fp32_grad_conf_relmax"]), 2e-6)
        )
        error = np.abs(grad_conf.double().numpy() - case["grad_conf"]).max()
        assert error <= tolerance * max(np.abs(case["grad_conf"]).max(), 1e-30)
        return
    assert abs(value.item() - float(case["loss"])) > 1e-3
    if case.name.endswith("_conf"):  # The other two terms are the same.
        parts = loss.metrics["regression"].item(), loss.metrics["gradient_matching"].item()
        assert parts[0] == pytest.approx(float(case["comp_reg"]), rel=1e-6)
        assert abs(parts[1] - float(case["comp_gradient"])) > 1e-3
    elif not case.name.startswith("wide"):  # The filter acts on the data terms alone.
        value = loss.metrics["gradient_matching"].item()
        assert value == pytest.approx(float(case["comp_gradient"]), rel=1e-6)


@backends
@pytest.mark.parametrize("case", params("metric3d_ssil"))
def test_metric3d_ssi(case, backend):
    """Theirs adds 1e-6 to numbers of pixels: 1e-8 of the loss where there are a hundred."""
    loss = dl.recipe("metric3d-ssi")
    skip_unless_it_runs(backend, loss)
    pred, gt, mask = maps(case, torch.float64, backend)
    with dl.use_backend(backend):
        value = loss(pred, gt, mask)
    (grad,) = torch.autograd.grad(value, pred)
    assert value.item() == pytest.approx(float(case["loss"]), rel=2e-8)
    error = np.abs(grad.cpu().numpy() - case["grad"]).max()
    assert error <= 5e-8 * np.abs(case["grad"]).max()


@backends
@pytest.mark.parametrize("case", params("metric3d_hdn", lambda c: not c.number("param_grid")))
def test_the_block_of_metric3d_hdn(case, backend):
    """One mask per image; `_detached`: no gradient through the median of the prediction."""
    detached = case.flag("param_median_detached")
    term = Pixel(
        name="block",
        align="median",
        scale_floor="add",
        align_eps=1e-6 if detached else 1e-8,
        align_grad="detached" if detached else "full",
    )
    loss = DepthLoss(single_group(term))
    skip_unless_it_runs(backend, loss)
    pred, gt, mask = maps(case, torch.float64, backend)
    with dl.use_backend(backend):
        value = loss(pred, gt, mask)
    (grad,) = torch.autograd.grad(value, pred)
    assert value.item() == pytest.approx(float(case["loss"]), rel=3e-8)
    # Our gradient of their block: the pixel of the median, without ties, is one.
    assert np.abs(grad.cpu().numpy() - case["grad"]).max() <= 1e-7 * np.abs(case["grad"]).max()


@backends
@pytest.mark.parametrize("case", params("ultralytics_depth26"))
def test_yolo26_depth(case, backend):
    """The SILog is theirs; of the gradient matching ours counts only pairs of valid pixels."""
    loss = dl.recipe("yolo26-depth", lam=case.number("param_dlam"))
    skip_unless_it_runs(backend, loss)
    pred, gt, mask = maps(case, torch.float64, backend)
    with dl.use_backend(backend):
        loss(pred, gt, mask)
    assert loss.metrics["silog"].item() == pytest.approx(float(case["comp_silog"]), rel=1e-9)
    theirs = 0.5 * loss.metrics["log_gradient"].item()
    if case["mask"].sum() < 10:
        assert loss.metrics["total_loss"].item() == 0 == float(case["loss"])
    else:
        assert not math.isclose(theirs, float(case["comp_gradient"]), rel_tol=1e-2)


HELD = (*EQUAL, "charbonnier", "vda_robust_ssi", "vggt_depth", "metric3d_ssil", "metric3d_hdn")
HELD += ("ultralytics_depth26",)


def test_the_hierarchy_of_metric3d_hdn_is_no_single_mask():
    """Its other cases have a mask per range of depth, which no loss of ours has."""
    others = {name for name, case in load("metric3d_hdn").items() if case.number("param_grid")}
    assert others == {"dense_d_hdn3", "empty_d_hdn3", "few_a_hdn3", "few_d_hdn2"}
