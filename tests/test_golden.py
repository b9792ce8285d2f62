"""Every loss with a published original or formula against its golden numbers, in float64 and float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import depthloss as dl
from depthloss import dispatch, spec
from depthloss.losses.base import single_group
from depthloss.maps import convert, select
from depthloss.reference import pyramid, statistics
from depthloss.reference.alignment import aligned_residual

from .golden_cases import (
    Case,
    assert_golden,
    backends,
    both_dtypes,
    files,
    load,
    maps,
    params,
    skip_unless_it_runs,
    tensor,
)
from .golden_table import COUNTS, DEVIATIONS, ROWS, structure_options
from .test_golden_field import HELD

LEAST_SQUARES = spec.Alignment("least-squares")


def _pairs() -> list:
    return [
        pytest.param(row, case, id=f"{case.file}-{row.loss if isinstance(row.loss, str) else i}-{case.name}")
        for i, row in enumerate(ROWS)
        for case in load(row.file).values()
        if row.only(case) and (case.file, case.name) not in DEVIATIONS
    ]


def test_no_case_is_forgotten():
    assert {file: len(load(file)) for file in files()} == COUNTS
    assert sum(COUNTS.values()) == 298
    held = {(pair.values[1].file, pair.values[1].name) for pair in _pairs()} | set(DEVIATIONS)
    everything = {(file, name) for file in COUNTS for name in load(file)}
    # These two have tests of their own below, over all their cases.
    assert {file for file, _ in everything - held} == {"kendall", "midas_gradient", *HELD}


@backends
@both_dtypes
@pytest.mark.parametrize("row, case", _pairs())
def test_golden(row, case, dtype, backend):
    loss = row.build(case)
    skip_unless_it_runs(backend, loss)
    pred, gt, mask = maps(case, dtype, backend)
    call = {
        k: tensor(v, None, backend) if isinstance(v, np.ndarray) else v for k, v in row.call(case).items()
    }
    with dl.use_backend(backend):
        value = loss(pred, gt, None if case.flag("param_mask_none") else mask, **call)
    assert_golden(case, value, pred)
    assert loss.metrics["total_loss"].item() == value.item()
    assert loss.metrics["num_valid_pixels"].item() == case["mask"].sum() or not row.sparse
    if dtype == torch.float64:
        for component, metric in row.metrics.items():
            if component not in case:
                continue
            expected = float(case[component])
            if metric == "scale_adaptive/absolute" and metric not in loss.metrics:
                assert expected == 0.0  # A is switched off.
                continue
            if row.level_eps and metric.startswith("gradient/scale_"):
                kept = loss.metrics[metric.replace("scale", "support")].item()
                expected *= kept / (kept + row.level_eps)
            assert loss.metrics[metric].item() == pytest.approx(expected, rel=1e-9, abs=1e-12), metric


@backends
@both_dtypes
@pytest.mark.parametrize("case", params("scale_adaptive_quickstart", lambda c: c["mask"].all()))
def test_adaptive_multi_domain_holds_the_structure_loss(case, dtype, backend):
    options = structure_options(case)
    del options["w_structure"], options["w_scale"]
    pred, gt, mask = maps(case, dtype, backend)
    loss = dl.AdaptiveMultiDomainLoss(**options).to(pred.device)
    skip_unless_it_runs(backend, loss)
    with dl.use_backend(backend):
        value = loss(pred, gt, mask)
    # With both log-variances at 0 the total is half of the sum.
    structure, scale = loss.metrics["structure_loss"], loss.metrics["scale_loss"]
    tolerance = 1e-9 if dtype == torch.float64 else max(2.0 * float(case["ref_fp32_loss_rel"]), 5e-7)
    assert structure.item() == pytest.approx(float(case["loss"]), rel=tolerance)
    assert value.item() == pytest.approx(0.5 * (structure + scale).item(), rel=tolerance)


def _matching(residual: torch.Tensor, mask: torch.Tensor, scales: int) -> torch.Tensor:
    gradient = spec.GradientSpec.preset("midas", num_scales=scales)
    return pyramid.gradient_term(residual, mask, gradient, eps=0.0)[0]


@both_dtypes
@pytest.mark.parametrize("case", params("midas_gradient", lambda c: not c.flag("param_align")))
def test_gradient_matching(case, dtype):
    pred, gt, mask = maps(case, dtype)
    mask = mask[:, 0] != 0
    residual = select(mask, (pred - gt)[:, 0])
    assert_golden(case, _matching(residual, mask, int(case.number("param_scales"))), pred)


@both_dtypes
@pytest.mark.parametrize("case", params("midas_gradient", lambda c: c.flag("param_align")))
def test_gradient_matching_after_alignment(case, dtype):
    pred, gt, mask = maps(case, dtype)
    scales = int(case.number("param_scales"))
    term = spec.GradientMatching(name="gradient_matching", num_scales=scales)
    value, _ = dispatch.evaluate(pred, gt, mask, None, single_group(term), (1.0, 1.0))
    assert_golden(case, value, pred)
    loss = dl.ScaleShiftInvariantLoss(alpha=0.7, num_scales=scales)
    total = loss(pred, gt, mask)
    assert loss.metrics["gradient_matching"].item() == value.item()
    expected = loss.metrics["ssi_mse"] + 0.7 * loss.metrics["gradient_matching"]
    torch.testing.assert_close(
        total.detach(), expected, rtol=1e-6 if dtype == torch.float32 else 1e-14, atol=0
    )


@pytest.mark.parametrize("case", params("midas_gradient"))
def test_gradient_matching_levels(case):
    pred, gt, mask = (x[:, 0] for x in maps(case, torch.float64))
    mask = mask != 0
    r = aligned_residual(pred, gt, mask, LEAST_SQUARES) if case.flag("param_align") else pred - gt
    sums = [0.0] + [_matching(r, mask, k).item() for k in (1, 2, 3, 4)]
    for k in range(4):
        expected = float(case[f"comp_scale_{k}"])
        assert sums[k + 1] - sums[k] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def _pooled(case: Case, e: torch.Tensor, m: torch.Tensor) -> dict:
    n, mean, var = statistics.pooled_moments(e, m)
    return {"mean": mean, "var": var, "mean_sq": var + mean**2, "var_unbiased": var * n / (n - 1)}


def _log_difference(case: Case, p: torch.Tensor, g: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
    offset = 1e-7 if case.file == "zoe_silog" else 0.0
    sign = -1.0 if case.file == "dav2_silog" else 1.0
    return sign * ((p + offset) / select(m, g + offset, 1.0)).log()


def _ssi_silog(case: Case, p: torch.Tensor, g: torch.Tensor, m: torch.Tensor) -> dict:
    ssi = _pooled(case, p - g, m)
    bounds = spec.Domain(
        "inverse", case.number("param_min_depth") or 1e-3, case.number("param_max_depth") or 100
    )
    p, g = (select(m, convert(x, m, bounds), 1.0) for x in (p, g))
    log = _pooled(case, p.log() - g.log(), m)
    return {
        "ssi_mean": ssi["mean"],
        "ssi_var": ssi["var"],
        "silog1": log["mean_sq"],
        "silog2": 0.85 * log["mean"] ** 2,
        "silog_var": log["mean_sq"] - 0.85 * log["mean"] ** 2,
    }


def _alignment(case: Case, p: torch.Tensor, g: torch.Tensor, m: torch.Tensor) -> dict:
    trim = case.file == "fork_ssi_trim"
    scale, shift = statistics.least_squares(p, g, m, ridge=1e-6 if trim else 0.0)
    if trim:
        scale = scale.clamp(0.1, 10.0)
    return {"scale_per_image": scale, "shift_per_image": shift}


STATISTICS = {
    "fork_ssi": lambda c, p, g, m: _pooled(c, p - g, m),
    "dav2_silog": lambda c, p, g, m: _pooled(c, _log_difference(c, p, g, m), m),
    "zoe_silog": lambda c, p, g, m: _pooled(c, _log_difference(c, p, g, m), m),
    "fork_ssi_silog_ff2c677": _ssi_silog,
    "fork_ssi_silog_c2ffa49": _ssi_silog,
    "fork_ssi_trim": _alignment,
    "midas_ssi_mse": _alignment,
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{file}-{name}")
        for file in STATISTICS
        for name, case in load(file).items()
        if not (file.startswith("fork_ssi_silog") and (file, name) in DEVIATIONS)
    ],
)
def test_statistics(case):
    pred, gt, mask = (x.detach()[:, 0] for x in maps(case, torch.float64))
    found = STATISTICS[case.file](case, pred, gt, mask != 0)
    in_metrics = {name for row in ROWS if row.file == case.file for name in row.metrics}
    for name in {name for name in case.fields if name.startswith("comp_")} - in_metrics:
        value, expected = found[name.removeprefix("comp_")], torch.from_numpy(np.asarray(case[name]))
        known = ~expected.isnan()  # NaN: images that the original skips.
        torch.testing.assert_close(value[known], expected[known], rtol=1e-9, atol=1e-12)
