"""What only a GPU shows: full sizes, 64-bit addresses, graphs, no synchronisation, the same bits run after
run.
"""

from __future__ import annotations

import gc

import pytest
import torch

import depthloss as dl
from depthloss.spec import Group, LossSpec, Pixel

from .. import cases
from ..fused.compare import ROUNDING, Inputs, assert_agrees, evaluate, near_kinks
from .test_integration import BARS, SINGLE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU"),
]
# Every kernel, both kinds of statistics, selections and fits; the losses with bars first.
SOME = ["g2 published", "g2 document", "scale-adaptive", "adaptive-multi-domain", "ssi-silog", "berhu",
        "affine-invariant trimmed", "affine-invariant of the batch", "scale-shift-invariant"]  # fmt: skip
NAMES = [*SOME, *(name for name in SINGLE if name not in SOME)]
HALVES = (torch.bfloat16, torch.float16)
# A loss's kernels are compiled for each dtype: the half precisions for some losses.
OF_DTYPES = pytest.mark.parametrize(
    "name, dtype", [*((n, torch.float32) for n in NAMES), *((n, d) for n in SOME for d in HALVES)], ids=str
)
GIB = 2**30


def maps(shape: tuple[int, int, int], dtype: torch.dtype, density: float, seed: int = 0) -> Inputs:
    pred, gt = cases.maps(torch.float64, (shape[0], 1, *shape[1:]), seed)
    mask = torch.rand(pred.shape, generator=torch.Generator().manual_seed(seed)) < density
    return Inputs(pred.to("cuda", dtype), gt.to("cuda", dtype), mask.cuda())


def numbers(loss: dl.DepthLoss) -> tuple:
    return loss.spec, loss.weights(0.0, 0), (0.3, -0.2)[: len(loss.log_vars())]


@pytest.mark.parametrize("density", (1.0, 0.05))
@pytest.mark.parametrize("shape", BARS, ids=str)
@OF_DTYPES
def test_full_sizes(name, dtype, shape, density):
    """As in the interpreter. Under 0.1 % of the pixels may deviate, those near a kink only. An image with a
    deviation near the threshold of a trim is near one as a whole: the 0.1 % is all that holds its gradient.
    """
    arguments = numbers(cases.LOSSES[name]())
    given = maps(shape, dtype, density)
    oracle = evaluate("reference", given.double(), *arguments)
    eager = evaluate("reference", given, *arguments)
    result = evaluate("triton", given, *arguments)
    near = near_kinks(arguments[0], given).view(given.pred.shape)
    assert_agrees(arguments[0], result, eager, oracle, near)
    far = (eager.grad.double() - oracle.grad).abs().masked_fill(near, 0.0).max()
    limit = 2.0 * far + ROUNDING[dtype] * oracle.grad.abs().max()
    assert ((result.grad.double() - oracle.grad).abs() > limit).double().mean() < 1e-3


@pytest.mark.parametrize("name", SOME)
def test_float64_at_full_size(name):
    arguments = numbers(cases.LOSSES[name]())
    given = maps((4, 384, 640), torch.float64, 0.5)
    oracle = evaluate("reference", given, *arguments)
    assert_agrees(
        arguments[0],
        evaluate("triton", given, *arguments),
        oracle,
        oracle,
        near_kinks(arguments[0], given)[:, None],
    )


def needs(gib: int) -> None:
    gc.collect()
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < gib * GIB:
        pytest.skip(f"needs {gib} GiB of free GPU memory")


def test_a_batch_of_more_than_two_to_the_31_elements():
    """1024 times the same image: its loss, and its gradient / 1024, in the first and in the last."""
    needs(40)
    one = maps((1, 1100, 1920), torch.bfloat16, 0.5)
    arguments = numbers(dl.ScaleAdaptiveLoss())
    expected = evaluate("triton", one, *arguments)
    many = Inputs(*(x.repeat(1024, 1, 1, 1) for x in one[:3]))
    assert many.pred.numel() > 2**31
    result = evaluate("triton", many, *arguments)
    torch.testing.assert_close(result.total, expected.total, rtol=1e-5, atol=0)
    for image in (0, 511, 1023):
        torch.testing.assert_close(1024 * result.grad[image], expected.grad[0], rtol=2**-6, atol=1e-12)


def test_an_image_of_more_than_two_to_the_31_elements():
    """Valid in its last corner only: the loss and the gradient of that corner cut out."""
    needs(60)
    size, corner = 46352, 512
    pred = torch.full((1, 1, size, size), torch.nan, dtype=torch.bfloat16, device="cuda")
    gt, mask = pred.clone(), torch.zeros(pred.shape, dtype=torch.bool, device="cuda")
    small = maps((1, corner, corner), torch.bfloat16, 0.9)
    for big, part in zip((pred, gt, mask), small[:3], strict=True):
        big[..., -corner:, -corner:] = part
    # Outside the mask nothing is covered, so the corner's inner edges add no response.
    loss = dl.G2Loss(gradient=dl.GradientSpec(mask="support", downsample="average", border="zero"))
    arguments = numbers(loss)
    expected = evaluate("triton", small, *arguments)
    result = evaluate("triton", Inputs(pred, gt, mask), *arguments)
    assert pred.numel() > 2**31
    torch.testing.assert_close(result.total, expected.total, rtol=1e-5, atol=0)
    torch.testing.assert_close(result.grad[..., -corner:, -corner:], expected.grad, rtol=2**-6, atol=1e-9)
    assert not result.grad[..., :-corner, :].any()


def test_a_median_and_a_threshold_of_more_than_two_to_the_31_pixels():
    """An odd number of pixels, 1024 times: the same median, scale and threshold; 1/1024 of each gradient,
    that of pixels which share the median's included.
    """
    needs(60)
    one = maps((1, 1101, 1921), torch.bfloat16, 1.0)
    arguments = LossSpec((Group((Pixel(name="data", align="median", trim=0.2),)),)), (1.0, 1.0)
    expected = evaluate("triton", one, *arguments)
    result = evaluate("triton", Inputs(*(x.repeat(1, 1, 1024, 1) for x in one[:3])), *arguments)
    torch.testing.assert_close(result.total, expected.total, rtol=2e-5, atol=0)
    copies, each = result.grad.view(1024, *one.pred.shape[-2:]), expected.grad[0, 0].float()
    limit = 2**-5 * each.abs() + 2**-7 * each.abs().median()
    for copy in (0, 511, 1023):
        assert ((1024 * copies[copy].float() - each).abs() > limit).double().mean() < 1e-5


@pytest.mark.parametrize("name", SOME)
def test_a_cuda_graph_replays_with_new_data(name):
    loss = cases.LOSSES[name]().cuda()
    loss.backend = "triton"
    static = maps((2, 96, 160), torch.float32, 0.5)
    pred = static.pred.clone().requires_grad_()

    def step() -> torch.Tensor:
        pred.grad = None
        loss.zero_grad(set_to_none=True)
        value = loss(pred, static.gt, static.mask)
        value.backward()
        return value.detach()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    captured_grads = [pred.grad, *(p.grad for p in loss.parameters())]
    for seed in (1, 2):
        fresh = maps((2, 96, 160), torch.float32, 0.3, seed)
        with torch.no_grad():
            for old, new in zip((pred, static.gt, static.mask), fresh[:3], strict=True):
                old.copy_(new)
        graph.replay()
        found = [captured.clone(), *(g.clone() for g in captured_grads)]
        value = step()
        expected = [value, pred.grad, *(p.grad for p in loss.parameters())]
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_no_synchronisation(name):
    arguments = numbers(cases.LOSSES[name]())
    given = maps((2, 96, 160), torch.float32, 0.5)
    log_vars = [torch.tensor(v, device="cuda", requires_grad=True) for v in arguments[2]]
    pred = given.pred.requires_grad_()

    def step() -> None:
        with dl.use_backend("triton"):
            total, _ = dl.dispatch.evaluate(pred, *given[1:4], *arguments[:2], log_vars)
        total.backward()

    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@OF_DTYPES
def test_the_same_bits_run_after_run(name, dtype):
    arguments = numbers(cases.LOSSES[name]())
    given = maps((4, 192, 640), dtype, 0.3)
    first = evaluate("triton", given, *arguments)
    for _ in range(20):
        assert all(
            torch.equal(x, y) for x, y in zip(evaluate("triton", given, *arguments), first, strict=True)
        )


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", SOME)
def test_compiled_with_inductor(name, dynamic):
    torch._dynamo.reset()
    loss = cases.LOSSES[name]().cuda()
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic)
    for shape in ((2, 96, 160), (2, 64, 200)) if dynamic else ((2, 96, 160),):
        given = maps(shape, torch.float32, 0.5)
        results = [cases.run(call, *given[:3], "triton") for call in (loss, compiled)]
        assert torch.equal(*(value for value, _ in results)) and torch.equal(*(grad for _, grad in results))
