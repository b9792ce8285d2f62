"""The native engine against the reference: matrix, random losses, threads, instruction sets, exactness."""

from __future__ import annotations

import random

import pytest
import torch
from depthloss.kernels import cpu
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st

import depthloss as dl
from depthloss import dispatch
from depthloss.spec import Gradient, GradientSpec, Group, LossSpec

from .. import cases
from ..fused import aligned, families, weighted
from ..fused.cases import Case, covering, inputs, product
from ..fused.compare import Inputs, assert_agrees, evaluate, near_kinks
from ..fused.draw import draw_call, draw_inputs, draw_spec

if dispatch.backend_status("cpu"):
    pytest.skip(f"the native engine: {dispatch.backend_status('cpu')}", allow_module_level=True)

FUSED = [name for name, build in cases.LOSSES.items() if "cpu" in build().spec.fused]


def once(rows):
    """Cases without their tiles, which the engine does not have."""
    return list({str(c).rpartition("-")[0]: c for c in rows if "cpu" in c.spec.fused}.values())


@pytest.fixture(params=("base", "avx2", "avx512"))
def instruction_set(request):
    if not cpu.choose(request.param):
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    cpu.choose(None)


def hold(case: Case | aligned.Case | weighted.Case):
    spec = case.spec
    given, near = (weighted.inputs if isinstance(case, weighted.Case) else inputs)(case, spec)
    numbers = spec, families.weights(spec), families.log_vars(spec)
    result = evaluate("cpu", given, *numbers)
    oracle, eager = (evaluate("reference", x, *numbers) for x in (given.double(), given))
    assert_agrees(spec, result, eager, oracle, near.view(given.pred.shape))


@pytest.mark.parametrize("case", once(covering()), ids=str)
def test_agrees_with_the_reference(case):
    hold(case)


@pytest.mark.full
@pytest.mark.parametrize("case", once(product()), ids=str)
def test_agrees_with_the_reference_on_the_whole_product(case):
    hold(case)


@pytest.mark.parametrize("case", aligned.covering(), ids=str)
def test_aligned_losses_agree_with_the_reference(case):
    hold(case)


@pytest.mark.full
@pytest.mark.parametrize("case", aligned.product(), ids=str)
def test_aligned_losses_agree_with_the_reference_on_many(case):
    hold(case)


@pytest.mark.parametrize("case", weighted.covering(), ids=str)
def test_weights_confidence_and_losses_of_images_agree_with_the_reference(case):
    hold(case)


def hold_random(seed: int) -> None:
    rng = random.Random(seed)
    spec, weighted = draw_call(rng, draw_spec(rng))
    given = draw_inputs(rng, spec, weighted)
    weights = tuple(rng.choice((0.0, 1.0, rng.uniform(0.1, 2.0))) for _ in range(spec.num_weights))
    log_vars = tuple(rng.uniform(-1.5, 2.0) for _ in spec.groups) if spec.log_var_bounds else ()
    assume(not near_kinks(spec, given).any())
    arguments = given, spec, weights, log_vars
    note(f"{[x if x is None else (x.shape, x.dtype) for x in given]}\n{weights}\n{log_vars}\n{spec}")
    result = evaluate("cpu", *arguments)
    oracle = evaluate("reference", given.double(), *arguments[1:])
    assert_agrees(spec, result, evaluate("reference", *arguments), oracle)


@settings(deadline=None, derandomize=True, database=None, max_examples=300)
@given(st.integers(0, 2**32 - 1))
def test_random_losses_agree_with_the_reference(seed):
    hold_random(seed)


def _run(name: str, dtype: torch.dtype, shape=(2, 1, 150, 61)):
    pred, gt = cases.maps(dtype, shape)
    loss = cases.LOSSES[name]().to(torch.float64 if dtype == torch.float64 else torch.float32)
    value, grad = cases.run(loss, pred, gt, cases.mask("70%", shape), "cpu")
    return value, grad, torch.stack(list(loss.metrics.values()))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("name", FUSED)
def test_any_number_of_threads_gives_the_same_bits(name, dtype, threads):
    """Of five images one or two are left over, which threads share."""
    results = []
    for n in (1, 2, 3):
        threads(n)
        results.append(_run(name, dtype, (5, 1, 150, 61)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


LARGE = {  # levels of every way of downsampling, six of them the deepest there are
    "nearest": GradientSpec.preset("g2-published"),
    "average": GradientSpec.preset("g2-document", num_scales=6),
    "bilinear": GradientSpec.preset("scale-adaptive", num_scales=6),
    "strided": GradientSpec.preset("midas", num_scales=6),
}


@pytest.mark.parametrize("shape", ((3, 1, 700, 950), (1, 1, 1025, 672)), ids=str)
@pytest.mark.parametrize("gradient", LARGE)
def test_large_images_whose_levels_follow_band_by_band(gradient, shape, threads):
    """At sizes that no level divides and at 672 columns, for any number of threads the same bits."""
    pred, gt = (x.detach() for x in cases.maps(torch.float64, shape))
    spec = dl.G2Loss(gradient=LARGE[gradient]).spec
    arguments = Inputs(pred, gt, cases.mask("70%", shape)), spec, (1.0, 1.0, 0.5, 1.0)
    results = []
    for n in (1, 2, 3):
        threads(n)
        results.append(evaluate("cpu", *arguments))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    expected = evaluate("reference", *arguments)
    near = near_kinks(spec, arguments[0]).view(shape)
    assert near.float().mean() < 0.01
    assert_agrees(spec, results[0], expected, expected, near)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@pytest.mark.parametrize("name", FUSED)
def test_every_instruction_set_gives_the_same_bits(name, dtype, instruction_set):
    here = _run(name, dtype)
    cpu.choose(None)
    assert all(torch.equal(a, b) for a, b in zip(here, _run(name, dtype), strict=True))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_what_overflows_does_so_on_every_instruction_set(dtype, instruction_set):
    """Of a response whose sum is a number while its doubled middle is not."""
    gradient = GradientSpec(num_scales=1)
    spec = LossSpec((Group((Gradient(gradient=gradient, align="none", name="g"),)),))
    pred, gt = (torch.zeros(1, 1, 16, 32, dtype=dtype) for _ in range(2))
    big = 0.45 * torch.finfo(dtype).max
    pred[..., 8, 11], pred[..., 8, 9] = big, -big
    pred[..., [7, 9], 11], pred[..., [7, 9], 9] = -big / 2, big / 2
    assert evaluate("cpu", Inputs(pred, gt), spec, (1.0,) * spec.num_weights).total.isinf()


@pytest.mark.parametrize("variant", ("published", "document"))
def test_equal_maps_give_exactly_zero(variant):
    _, gt = cases.maps(torch.float32, (2, 1, 70, 45))
    loss = dl.G2Loss(variant, backend="cpu")
    pred = gt.clone().requires_grad_()
    value = loss(pred, gt, cases.mask("70%", gt.shape))
    value.backward()
    assert value.item() == 0 and not pred.grad.any()


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
def test_the_logarithm(dtype, instruction_set):
    """Within 2 ulp everywhere; exact where it must be; what is no number shows."""
    bits = torch.int32 if dtype == torch.float32 else torch.int64
    rng = torch.Generator().manual_seed(0)
    largest = torch.tensor(torch.finfo(dtype).max, dtype=dtype).view(bits).item()
    x = torch.randint(1, largest, (1 << 16,), generator=rng, dtype=torch.int64).to(bits).view(dtype)
    near = 1 + (torch.rand(1 << 14, generator=rng, dtype=dtype) - 0.5) * 0.1
    x = torch.cat((x, near))
    y = cpu.log(x)
    exact = x.double().log() if dtype == torch.float32 else x.log()
    ulp = torch.ldexp(torch.ones_like(exact), torch.frexp(exact)[1]).double() * torch.finfo(dtype).eps / 2
    assert ((y.double() - exact).abs() <= 2 * ulp).all()
    given = torch.tensor([1.0, 0.0, -0.0, -1.0, torch.inf, -torch.inf, torch.nan] + [1.0] * 9, dtype=dtype)
    expected = torch.tensor(
        [0.0, -torch.inf, -torch.inf, torch.nan, torch.inf, torch.nan, torch.nan] + [0.0] * 9
    )
    assert torch.equal(cpu.log(given).nan_to_num(nan=7), expected.to(dtype).nan_to_num(nan=7))


def test_every_half_is_read_and_written_as_torch_does():
    for dtype in (torch.float16, torch.bfloat16):
        every = (
            torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).view(1, 1, 256, 256)
        )
        every = torch.where(every.abs() < 1e15, every, 0)
        loss = dl.SSILoss(backend="cpu", alpha=1.0)
        pred, gt = every.clone().requires_grad_(), torch.zeros_like(every, dtype=torch.float32)
        value = loss(pred, gt)
        value.backward()
        wide = every.float().requires_grad_()
        expected = loss(wide, gt)
        expected.backward()
        assert torch.equal(value, expected)
        assert torch.equal(pred.grad, wide.grad.to(dtype))
