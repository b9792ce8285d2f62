"""The native engine where programs are unkind to it: forks, threads, few resources, views, extreme shapes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from depthloss.kernels import cpu
from depthloss.kernels.cpu import binding

import depthloss as dl
from depthloss import dispatch
from depthloss.spec import (
    Absolute,
    DifferenceMoments,
    Gradient,
    GradientSpec,
    Group,
    LogMoments,
    LossSpec,
    Relative,
)

from .. import cases
from ..fused import precision
from ..fused.compare import Inputs, assert_agrees, evaluate

if dispatch.backend_status("cpu"):
    pytest.skip(f"the native engine: {dispatch.backend_status('cpu')}", allow_module_level=True)

ROOT = Path(__file__).parents[2]
SHAPE = (2, 1, 150, 61)
PAIR = (Relative(name="relative"), Gradient(name="gradient", gradient=GradientSpec(num_scales=3)))
EVERY_KIND = (Absolute(name="absolute"), *PAIR, DifferenceMoments(name="ssi"), LogMoments(name="silog"))


def run(pred=None, gt=None, mask=None, loss=None):
    p, g = cases.maps(torch.float32, SHAPE)
    pred, gt = p if pred is None else pred, g if gt is None else gt
    return cases.run(loss or dl.ScaleAdaptiveLoss(), pred, gt, mask, "cpu")


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def in_python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_computes_the_same():
    """The parent's threads are not in the child: by hand, and as workers of a DataLoader."""
    in_python("""if True:
        import os, signal, torch, depthloss as dl
        from torch.utils.data import DataLoader

        # Under 32768 pixels: torch's own threads do not survive a fork once they were used.
        gt = 0.1 + torch.rand(2, 1, 150, 61, generator=torch.Generator().manual_seed(0))

        def run():
            pred = (gt * 1.3 + 0.1 * gt.square()).requires_grad_()
            value = dl.ScaleAdaptiveLoss(backend="cpu")(pred, gt)
            value.backward()
            return torch.cat((value.detach().view(1), pred.grad.flatten()))

        class Data(torch.utils.data.Dataset):
            def __len__(self):
                return 4

            def __getitem__(self, index):
                torch.set_num_threads(2)
                return run()

        torch.set_num_threads(2)
        expected = run()
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if torch.equal(run(), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0
        options = {"batch_size": None, "multiprocessing_context": "fork", "timeout": 60}
        found = list(DataLoader(Data(), num_workers=2, **options))
        assert len(found) == 4 and all(torch.equal(x, expected) for x in found)
        assert torch.equal(run(), expected)
    """)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_forked_before_the_first_call_does_not_wait_for_threads():
    """Its parent used PyTorch's, which are not in the child; the engine was only loaded."""
    in_python("""if True:
        import os, signal, torch, depthloss as dl
        from depthloss import dispatch

        torch.set_num_threads(2)
        assert dispatch.backend_status("cpu") is None
        (torch.ones(4_000_000) + 1).sum()
        gt = 0.1 + torch.rand(2, 1, 150, 61)
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if dl.ScaleAdaptiveLoss(backend="cpu")(gt * 1.3, gt).isfinite() else 1)
        assert os.waitpid(child, 0)[1] == 0
    """)


def test_callers_at_once_do_not_disturb_each_other(threads):
    threads(2)
    losses = [dl.ScaleAdaptiveLoss(), dl.G2Loss("document"), dl.SILogLoss()] * 2
    expected = [run(loss=loss) for loss in losses]
    wrong, start = [], threading.Barrier(len(losses))

    def call(i: int) -> None:
        start.wait()
        for _ in range(10):
            pred, gt = cases.maps(torch.float32, SHAPE)
            pred.requires_grad_()
            value = losses[i](pred, gt)
            value.backward()
            if not equal((value.detach(), pred.grad), expected[i]):
                wrong.append(i)
            pred.grad = None

    with dl.use_backend("cpu"):
        callers = [threading.Thread(target=call, args=(i,)) for i in range(len(losses))]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert not wrong


def test_the_number_of_threads_changes_at_any_time(threads):
    pred, gt = cases.maps(torch.float32, SHAPE)
    expected = run()
    for before, behind in ((1, 3), (3, 1), (2, 5), (7, 2)):
        threads(before)
        p = pred.clone().requires_grad_()
        value = dl.ScaleAdaptiveLoss(backend="cpu")(p, gt)
        threads(behind)
        value.backward()
        assert equal((value.detach(), p.grad), expected)


@pytest.fixture
def own_threads():
    """The engine's own threads instead of PyTorch's."""
    binding.library().dl_team(None, None)
    yield
    binding.library().dl_team(*binding.openmp())


def test_it_runs_on_the_threads_of_pytorch(threads):
    """GNU's, LLVM's and Intel's OpenMP libraries all have what it takes."""
    parallel = torch.backends.openmp.is_available() and sys.platform == "linux"
    assert (binding.openmp() != (None, None)) == parallel


def test_its_own_threads_give_the_same_bits(threads, own_threads):
    threads(1)
    expected = run()
    for n in (2, 3, 5):
        threads(n)
        assert equal(run(), expected)


@pytest.mark.parametrize("own", (False, True), ids=("PyTorch's", "its own"))
def test_more_threads_than_it_takes(own, threads, request):
    """64, of 70 that have an image each."""
    if own:
        request.getfixturevalue("own_threads")
    shape = (70, 1, 9, 11)
    pred, gt = cases.maps(torch.float32, shape)
    results = []
    for n in (1, 70):
        threads(n)
        results.append(cases.run(dl.ScaleAdaptiveLoss(), pred, gt, cases.mask("70%", shape), "cpu"))
    assert equal(*results)


def test_workers_compute_in_the_mode_of_the_caller(threads):
    """With or without subnormal numbers, which is a mode of a thread."""
    pred, gt = (x * 1e-38 for x in cases.maps(torch.float32, (1, 1, 640, 64)))
    spec = LossSpec((Group((Absolute(name="absolute", eps=0.0),)),))

    def value(n: int) -> float:
        threads(n)
        return dispatch.evaluate(pred, gt, None, None, spec, (2.0**100, 1.0), backend="cpu")[0].item()

    assert value(3) == value(1)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such mode")
    try:
        flushed = value(1)
        assert all(value(3) == flushed for _ in range(5))
    finally:
        torch.set_flush_denormal(False)
    assert value(3) == value(1) != flushed


def test_subnormal_halves_are_read_in_any_mode():
    """As torch reads them: they are normal numbers in float32."""
    halves = torch.arange(1024, dtype=torch.int32).to(torch.int16).view(torch.float16).view(1, 1, 32, 32)
    loss, zero = dl.SSILoss(alpha=1.0), torch.zeros(1, 1, 32, 32)
    expected = run(halves, zero, loss=loss)
    assert expected[0] > 0
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such mode")
    try:
        assert equal(run(halves, zero, loss=loss), expected)
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.skipif(
    "ASAN_OPTIONS" in os.environ, reason="the sanitizer ends a process that asks for too much"
)
@pytest.mark.parametrize("images", (2**46, 2**61))
def test_a_batch_beyond_all_memory_is_an_error(images):
    pred = torch.ones(1).expand(images, 1, 1)
    with torch.no_grad(), pytest.raises(MemoryError, match="working memory"):
        dispatch.evaluate(pred, pred, None, None, LossSpec((Group(PAIR),)), (1.0,) * 3, backend="cpu")


@pytest.mark.parametrize("domain", ("identity", "inverse"))
def test_views_of_any_kind_get_a_gradient_of_their_own(domain):
    rows, columns = 37, 29
    flat = 0.2 + torch.rand(4000, generator=torch.Generator().manual_seed(0))
    views = {
        "one image": flat[: rows * columns].view(1, rows, columns).expand(2, -1, -1),
        "one row": flat[:columns].view(1, 1, columns).expand(2, rows, -1),
        "one number": flat[:1].view(1, 1, 1).expand(2, rows, columns),
        "overlapping rows": flat.as_strided((2, rows, columns), (500, 13, 1)),
        "not dense": flat.as_strided((2, rows, columns), (1, 100, 3), 2),
        "every other": flat.as_strided((2, rows, columns), (1900, 50, 1), 1)[:, :, ::1],
    }
    loss = dl.ScaleAdaptiveLoss(use_inv_depth=domain == "identity")
    gt = 0.3 + torch.rand(2, rows, columns, generator=torch.Generator().manual_seed(1))
    mask = torch.rand(gt.shape, generator=torch.Generator().manual_seed(2)) < 0.8
    for name, view in views.items():
        expected = run(view.clone(), gt, mask, loss)
        value, grad = run(view, gt, mask, loss)
        assert equal((value, grad), expected), name
        assert grad.untyped_storage().nbytes() >= grad.numel() * grad.itemsize, name
        assert equal(run(gt, view, mask, loss), run(gt, view.clone(), mask, loss)), name


def test_a_view_that_negates_is_read_as_its_values():
    pred, gt = cases.maps(torch.float32, SHAPE)
    negated = torch.complex(gt, -pred).conj().imag
    assert negated.is_neg()
    assert equal(run(negated, gt), run(pred, gt))


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32), ids=str)
@pytest.mark.parametrize("border", ("valid", "zero", "replicate"))
def test_narrow_images(dtype, border):
    """Widths about the engine's blocks of 16 pixels; an image of no size is a loss of 0."""
    gradient = GradientSpec(mask="residual", downsample="average", border=border, num_scales=3)
    terms = (Absolute(name="absolute"), Gradient(name="gradient", gradient=gradient, align="none"))
    spec = LossSpec((Group(terms),))
    for h in (0, 1, 2, 3, 5, 65):
        for w in (*range(18), 31, 32, 33):
            given = Inputs(*cases.maps(dtype, (2, 1, h, w)), cases.mask("70%", (2, 1, h, w)))
            arguments = spec, (1.0, 0.7, 1.0)
            oracle = evaluate("reference", given.double(), *arguments)
            assert_agrees(
                spec, evaluate("cpu", given, *arguments), evaluate("reference", given, *arguments), oracle
            )


@pytest.mark.parametrize(
    "shape", ((1, 1, 1, 300_001), (1, 1, 3, 100_000), (1, 1, 200_000, 1), (1, 1, 70_001, 3))
)
@pytest.mark.parametrize("values", ("constant", "noise"))
def test_rows_of_any_length_keep_the_digits_of_float32(shape, values):
    p, g = cases.maps(torch.float32, shape)
    if values == "constant":
        p, g = torch.full_like(p, 0.4), torch.full_like(g, 0.3)
    aligned = (dl.ScaleShiftInvariantLoss(), dl.AffineInvariantLoss(trim=0.2, alpha=0.5))
    for spec in (LossSpec((Group(EVERY_KIND),)), dl.G2Loss("document").spec, *(x.spec for x in aligned)):
        arguments = None, None, spec, (1.0,) * spec.num_weights
        found = dispatch.evaluate(p, g, *arguments, backend="cpu")[1]
        expected = dispatch.evaluate(p.double(), g.double(), *arguments, backend="reference")[1]
        # 0 is a sum of rounding errors of numbers about 1.
        torch.testing.assert_close(found.double(), expected, rtol=3e-6, atol=1e-6)


def test_a_constant_image_has_its_constant_as_mean():
    """Also in float64, where a rounding error of the mean would be divided by a deviation of 0 plus 1e-6."""
    shape = (1, 1, 200, 37)
    for value in (0.1, 0.3, 1.7, 123.456):
        pred = torch.full(shape, value, dtype=torch.float64).requires_grad_()
        gt = torch.full(shape, value / 3, dtype=torch.float64)
        total, _ = dispatch.evaluate(
            pred, gt, None, None, LossSpec((Group(PAIR),)), (1.0,) * 3, backend="cpu"
        )
        total.backward()
        assert total.item() == 0 and not pred.grad.any()


@pytest.mark.parametrize(
    "dtype", [getattr(torch, f"int{n}") for n in (8, 16, 32, 64)] + [torch.uint8, *cases.DTYPES], ids=str
)
def test_masks_of_any_dtype(dtype):
    """Whatever is not 0 is valid; -0 is 0, and NaN is not."""
    gt = cases.maps(torch.float32, SHAPE)[1]
    mask = cases.mask("70%", SHAPE)
    floats = dtype.is_floating_point
    for one in (
        (1, 2, 127) if not floats else (1.0, 0.25, -3.0, 6e-8 if dtype == torch.float16 else 1e-38, torch.nan)
    ):
        numbers = torch.where(
            mask, torch.tensor(one, dtype=dtype), torch.tensor(-0.0 if floats else 0, dtype=dtype)
        )
        for laid_out in (numbers, numbers.mT.contiguous().mT):
            assert equal(run(gt * 1.1, gt, laid_out), run(gt * 1.1, gt, mask)), one


@pytest.mark.parametrize("log_var_bounds", (None, (-1.0, 1.0)))
def test_every_kind_of_term_in_a_group_of_its_own(log_var_bounds):
    groups = tuple(Group((term,), f"{term.name} group", term.name) for term in EVERY_KIND)
    spec = LossSpec(groups, log_var_bounds=log_var_bounds)
    given = Inputs(*cases.maps(torch.float64))
    arguments = spec, tuple(0.3 + 0.2 * i for i in range(spec.num_weights)), (0.1, 0.2, 0.3, 0.4, 0.5)
    arguments = arguments if log_var_bounds else (*arguments[:2], ())
    oracle = evaluate("reference", given, *arguments)
    assert_agrees(spec, evaluate("cpu", given, *arguments), oracle, oracle)


@pytest.mark.parametrize("bad", (torch.nan, torch.inf))
@pytest.mark.parametrize("conversion", ("inverse", "shifted-inverse"))
def test_what_the_absolute_term_does_not_read_leaves_no_trace(bad, conversion):
    """A pixel that is valid but not in abs_mask, where there is no other term."""
    pred, gt = cases.maps(torch.float64)
    read = cases.mask("70%")
    spec = LossSpec((Group((Absolute(name="absolute", domain=dl.spec.Domain(conversion)),)),))
    results = []
    for value in (1.0, bad):
        p = pred.masked_fill(~read, value).requires_grad_()
        total, _ = dispatch.evaluate(p, gt, None, read, spec, (1.0, 1.0), backend="cpu")
        total.backward()
        results.append((total.detach(), p.grad))
    assert equal(*results) and not results[1][1][~read].any()


def test_a_group_that_is_left_out_leaves_out_its_gradient():
    pred, gt = cases.maps(torch.float64)
    pred = pred.masked_fill(torch.arange(pred.shape[-1]) == 3, torch.inf).requires_grad_()
    terms = tuple(replace(t, domain=replace(t.domain, conversion="inverse")) for t in EVERY_KIND)
    spec = LossSpec((Group(terms, min_valid=pred.numel() + 1),))
    total, _ = dispatch.evaluate(pred, gt, None, None, spec, (1.0,) * spec.num_weights, backend="cpu")
    total.backward()
    assert total.item() == 0 and not pred.grad.any()


def test_another_library_can_be_named(tmp_path):
    """By DEPTHLOSS_CPU_LIBRARY; what is no engine is none, and the reason names it."""
    here = Path(cpu.library()._name).resolve()
    whole, nowhere = here.read_bytes(), here.with_name("nowhere.so")
    old = whole.replace(f"{dl.__version__}\0".encode(), b"0.0.9\0")
    assert whole.count(f"{dl.__version__}\0".encode()) == 1 and len(old) == len(whole)
    again = "install this package again"
    cases = {
        here: "None",
        nowhere: f"{nowhere}: cannot open shared object file",
        tmp_path: f"{tmp_path}: cannot read file data",
        Path(torch.__file__).parent / "lib" / "libshm.so": f"is not this engine, or an older one: {again}",
    }
    for name, content, reason in (
        ("empty.so", b"", "file too short"),
        ("text.so", b"#!/bin/sh" * 20, "invalid ELF header"),
        ("cut.so", whole[: len(whole) // 2], f"cut.so is damaged: {again}"),
        ("cut_late.so", whole[:-1], f"cut_late.so is damaged: {again}"),
        ("zeros.so", whole[: len(whole) // 2].ljust(len(whole), b"\0"), f"zeros.so is damaged: {again}"),
        ("old.so", old, f"old.so was built from another version, 0.0.9: {again}"),
    ):
        (tmp_path / name).write_bytes(content)
        cases[tmp_path / name] = reason
    code = "import os, sys; from depthloss import dispatch; from depthloss.kernels.cpu import binding\n"
    code += "for path in sys.argv[1:]:\n    os.environ['DEPTHLOSS_CPU_LIBRARY'] = path\n"
    code += (
        "    binding.library.cache_clear(), dispatch._load.cache_clear(), dispatch._loaded.pop('cpu', None)\n"
    )
    code += "    print(dispatch.backend_status('cpu'))"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, cases)], capture_output=True, text=True, cwd=ROOT
    )
    for found, reason in zip(done.stdout.splitlines(), cases.values(), strict=True):
        assert reason in found, (found, done.stderr)


@precision.case
def test_what_float32_easily_loses(name):
    precision.check("cpu", name)
