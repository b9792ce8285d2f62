"""The kernels against the reference, over the covering matrix: loss, metrics, gradient, log-variances."""

from __future__ import annotations

import math

import pytest
import torch

from depthloss.spec import PENALTIES, Domain, Group, LossSpec, Moments, Penalty, Pixel
from depthloss.spec.penalty import OF_LARGEST

from .. import cases
from ..fused import aligned, families, weighted
from ..fused.cases import Case, covering, inputs, product
from ..fused.compare import Inputs, Result, assert_agrees, evaluate
from .engine import DEVICE, TILES, Parameters, engine, geometry


def hold(case: Case | weighted.Case, monkeypatch, spec: LossSpec | None = None) -> Result:
    """Hold one case, or another spec on its inputs: kernels, reference in the same dtypes, and in float64."""
    spec = spec or case.spec
    given, near = (weighted.inputs if isinstance(case, weighted.Case) else inputs)(case, spec, DEVICE)
    tiles = "loops" if isinstance(case, weighted.Case) else case.tiles
    if TILES[tiles] is not None:
        parameters, programs = TILES[tiles]
        monkeypatch.setattr(engine, "parameters", lambda device, height, width: parameters)
        monkeypatch.setattr(geometry, "MAX_PROGRAMS", programs)
    numbers = spec, families.weights(spec), families.log_vars(spec)
    result = evaluate("triton", given, *numbers)
    oracle = evaluate("reference", given.double(), *numbers)
    eager = evaluate("reference", given, *numbers)
    assert_agrees(spec, result, eager, oracle, near.view(given.pred.shape))
    return result


@pytest.mark.parametrize("case", covering(), ids=str)
def test_agrees_with_the_reference(case, monkeypatch):
    hold(case, monkeypatch)


@pytest.mark.full
@pytest.mark.parametrize("case", list(product()), ids=str)
def test_agrees_with_the_reference_on_the_whole_product(case, monkeypatch):
    hold(case, monkeypatch)


@pytest.mark.parametrize("dtype", ("f32", "f64"))
@pytest.mark.parametrize("reduction", ("images", "images-sum"))
def test_images_are_summed_and_inputs_bounded(reduction, dtype, monkeypatch):
    """Bounds without a conversion, before a logarithm or not; the sums of the images' means."""
    bounds = {"minimum": 0.4, "maximum": 0.8}
    terms = (
        Pixel(name="absolute", domain=Domain(**bounds), reduction=reduction, mask="abs_mask"),
        Pixel(name="square", penalty=Penalty("l2"), domain=Domain(**bounds), reduction=reduction),
        Pixel(name="relative", align="mean", domain=Domain(**bounds), reduction=reduction),
        Moments(name="root", lam=0.3, domain=Domain(**bounds, log=0.1), reduction=reduction),
        Moments(name="plain", form="plain", alpha=0.5, reduction=reduction),
    )
    rest = {"mask_dtype": torch.bool, "layout": "contiguous", "poison": "Inf", "tiles": "small"}
    case = aligned.Case("mean", "l1", "none", "none", "clamped", (3, 17, 22), dtype, "one empty image",
                        reduction=reduction, abs_mask=True, **rest)  # fmt: skip
    hold(case, monkeypatch, LossSpec((Group(terms),)))


KINDS = [kind for kind in PENALTIES if kind not in OF_LARGEST]
# Barron's has a form of its own for each of these shapes.
SHAPES = [Penalty("barron", alpha, 0.3) for alpha in (2.0, 0.0, -math.inf, 1.0)]


@pytest.mark.parametrize(
    "penalties",
    [
        *(
            [Penalty(k, *(0.2 for _ in PENALTIES[k])) for k in KINDS[i : i + 4]]
            for i in range(0, len(KINDS), 4)
        ),
        SHAPES,
    ],
    ids=lambda penalties: ", ".join(f"{p.kind} {p.a:g}" for p in penalties),
)
def test_every_penalty_agrees_with_the_reference(penalties):
    pred, gt = cases.maps(torch.float64, (2, 1, 9, 14))
    given = Inputs(pred, gt, cases.mask("70%", pred.shape))
    spec = LossSpec((Group(tuple(Pixel(name=f"p{i}", penalty=p) for i, p in enumerate(penalties))),))
    numbers = spec, families.weights(spec)
    result = evaluate("triton", given.to(DEVICE), *numbers)
    expected = evaluate("reference", given, *numbers)
    torch.testing.assert_close(result.terms.cpu(), expected.terms, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        result.grad.cpu(), expected.grad, rtol=0, atol=1e-11 * expected.grad.abs().max().item()
    )


def of_the_engine(rows: list[aligned.Case]) -> list[aligned.Case]:
    """Those that it runs."""
    return [case for case in rows if "triton" in case.spec.fused]


@pytest.mark.parametrize("case", of_the_engine(aligned.covering()), ids=str)
def test_aligned_losses_agree_with_the_reference(case, monkeypatch):
    hold(case, monkeypatch)


def in_turn(rows: list[weighted.Case]) -> list:
    """A quarter of them in every run."""
    return [pytest.param(c, marks=pytest.mark.full if i % 4 else (), id=str(c)) for i, c in enumerate(rows)]


@pytest.mark.parametrize("case", in_turn(weighted.covering()))
def test_weights_confidences_and_losses_of_images_agree_with_the_reference(case, monkeypatch):
    hold(case, monkeypatch)


@pytest.mark.full
@pytest.mark.parametrize("case", of_the_engine(aligned.product()), ids=str)
def test_aligned_losses_agree_with_the_reference_on_many(case, monkeypatch):
    hold(case, monkeypatch)


@pytest.mark.parametrize(
    "mask", ("support", *(pytest.param(m, marks=pytest.mark.full) for m in ("residual", "centre")))
)
def test_six_levels_with_a_window_at_the_last(mask, monkeypatch):
    """An image so large that responses of the coarsest level have whole windows; counts that need two
    bytes.
    """
    gradient = {"downsample": "average", "border": "valid", "normalizer": "level", "combine": "sum"}
    shared = {
        "reduction": "pixels",
        "dtype": "f64",
        "pixels": "70%",
        "mask_dtype": torch.bool,
        "abs_mask": False,
    }
    case = Case("R+G", (1, 98, 97), **shared, layout="contiguous", poison="NaN", tiles="one", mask=mask,
                **gradient, num_scales=6)  # fmt: skip
    monkeypatch.setattr(engine, "parameters", lambda *_: Parameters(tile=(128, 128), strip_rows=24, rows=24))
    assert hold(case, monkeypatch).terms[case.spec.metric_names.index("gradient/support_6")] == 1


@pytest.mark.parametrize("name", [n for n, build in cases.LOSSES.items() if "triton" in build().spec.fused])
def test_modules(name):
    """Every loss as users call it, the composed one too: loss, gradient, metrics, in float64."""
    pred, gt = cases.maps(torch.float64, (1, 1, 17, 14))
    mask = cases.mask("70%", pred.shape)
    results = []
    for backend, device in (("triton", DEVICE), ("reference", "cpu")):
        loss = cases.LOSSES[name]().double().to(device)
        maps = (x.to(device) for x in (pred, gt, mask))
        value, grad = cases.run(lambda *m, loss=loss: loss(*m, progress=0.4, epoch=3), *maps, backend)
        log_vars = [parameter.grad.item() for parameter in loss.parameters()]
        results.append((value.cpu(), grad.cpu(), log_vars, {k: v.item() for k, v in loss.metrics.items()}))
    (value, grad, log_vars, metrics), (expected, expected_grad, expected_log_vars, expected_metrics) = results
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    assert (grad - expected_grad).abs().max() <= 1e-10 * expected_grad.abs().max()
    assert metrics == pytest.approx(expected_metrics, rel=1e-12, abs=1e-15)
    assert log_vars == pytest.approx(expected_log_vars, rel=1e-12)


def test_the_cases_cover():
    """At most 280 cases; all 27 forms of the gradient term with three levels or more in float64 and
    float32.
    """
    chosen = covering()
    assert chosen == covering() and len(set(map(str, chosen))) == len(chosen) <= 280
    forms = {(c.mask, c.downsample, c.border, c.dtype) for c in chosen if c.num_scales >= 3}
    assert sum(form[-1] == "f64" for form in forms) == sum(form[-1] == "f32" for form in forms) == 27


def test_next_to_no_pixel_is_left_out():
    """Pixels that hang on a sign within 64 ulp of 0 are not compared: under 0.1 % of them all."""
    near = [inputs(case, case.spec)[1] for case in covering()]
    assert sum(x.sum() for x in near) < 1e-3 * sum(x.numel() for x in near)


def test_the_comparison_sees_an_error():
    case = next(c for c in covering() if c.family == "A+R+G" and c.dtype == "f32" and c.shape[1] > 9)
    given, _ = inputs(case, case.spec)
    numbers = case.spec, families.weights(case.spec)
    right, eager = (evaluate("reference", x, *numbers) for x in (given.double(), given))
    assert_agrees(case.spec, eager, eager, right)
    for name in ("total", "terms", "grad"):
        wrong = getattr(eager, name).clone(memory_format=torch.contiguous_format)
        wrong.view(-1)[-1] += 1e-4 * wrong.abs().max()
        with pytest.raises(AssertionError, match="error .* allowed"):
            assert_agrees(case.spec, eager._replace(**{name: wrong}), eager, right)
    assert torch.equal(eager.total, eager.terms[-1])
