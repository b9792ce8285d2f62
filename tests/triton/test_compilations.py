"""How often the kernels are compiled: by what a launch specialises on, without compiling."""

from __future__ import annotations

import pytest
import torch
from depthloss.kernels.plan import make_plan
from depthloss.kernels.triton.table import Parameters

import depthloss as dl

from .. import cases
from ..fused import families
from .engine import engine
from .test_integration import SINGLE

triton = pytest.importorskip("triton", reason="these tests need Triton")
import triton.language as tl  # noqa: E402
from depthloss.kernels.triton.constant import Constant  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import make_backend  # noqa: E402
from triton.runtime.jit import JITFunction, create_function_from_signature  # noqa: E402

BACKEND = make_backend(GPUTarget("cuda", 90, 32))


def binder(kernel):
    """What Triton's JIT asks for the key of a launch, of an interpreted kernel too."""
    if not isinstance(kernel, JITFunction):
        kernel = JITFunction(kernel.fn, **kernel.kwargs)
    return create_function_from_signature(kernel.signature, kernel.params, BACKEND)


def keys(name, shape, mask_dtype=torch.bool, dtype=torch.float32, weight=None, upstream=None) -> set:
    """Of each launch of a loss: the kernel and what it is compiled for; nothing is allocated."""
    empty = lambda kind, *size: torch.empty(size, dtype=kind, device="meta")  # noqa: E731
    loss = cases.LOSSES[name]() if name in cases.LOSSES else families.module(name)
    plan, parameters = engine.make_plan(loss.spec), Parameters()
    acc = torch.float64 if dtype == torch.float64 else torch.float32
    pred, gt = empty(dtype, *shape), empty(dtype, *shape)
    mask = None if mask_dtype is None else empty(mask_dtype, *shape)
    log_vars = [empty(acc) for _ in loss.log_vars()]
    weights = [weight] * loss.spec.num_weights if weight is not None else loss.weights(0.3, 2)
    run = engine.launch.Forward(plan, parameters, pred, gt, mask, None, weights, log_vars, acc, True)
    steps = [run.first, *run.middle, run.last(collect=True, combine=True)]
    saved = run.codes, run.coefficients
    steps += engine.launch.backward_launches(
        plan, parameters, empty(acc) if upstream is None else upstream, *saved, pred, gt, mask, None, acc
    )[0]
    found = set()
    for step in steps:
        _, specialization, options = binder(step.kernel)(*step.args, **step.named)
        found.add((step.kernel.fn.__name__, str(specialization), str(options)))
    return found


def compilations(name: str, changes: list[dict]) -> dict[str, int]:
    """How often each kernel is compiled in all."""
    found = set().union(*(keys(name, **change) for change in changes))
    return {kernel: sum(key[0] == kernel for key in found) for kernel in sorted({key[0] for key in found})}


def once(name: str, changes: list[dict]) -> None:
    counts = compilations(name, changes)
    assert set(counts.values()) == {1}, counts


SOME = ["g2 document", "adaptive-multi-domain", "berhu", "several pixel terms", "R+G and several"]


# 1242: the codes of an odd batch are not a multiple of 16 bytes.
@pytest.mark.parametrize(
    ("name", "size"), [(name, (375, 1242)) for name in SINGLE] + [(name, (33, 65)) for name in SOME], ids=str
)
def test_a_varying_batch_compiles_once(name, size):
    """The last batch of an epoch too, whatever its size."""
    once(name, [{"shape": (b, *size)} for b in (1, 2, 3, 7, 8, 16)])


@pytest.mark.parametrize("name", SOME)
def test_sizes_with_as_many_tiles_and_levels_share_kernels(name):
    once(name, [{"shape": (4, h, 1216)} for h in (352, 360, 376)])
    once(name, [{"shape": (2, 376, w)} for w in (1224, 1240, 1256)])


@pytest.mark.parametrize("name", SOME)
def test_weights_and_upstream_gradients_compile_once(name):
    """Schedules change the weights with every step; an upstream gradient may be an element of a vector."""
    flat = torch.empty(8, device="meta", dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        changes = [{"weight": w} for w in (0, 1, 1.0, 16.0, 0.3, 5e-324)]
        changes += [{"upstream": flat.to(dtype)[i]} for i in (0, 1, 4)]
        once(name, [{"shape": (2, 33, 65), "dtype": dtype} | change for change in changes])


def test_masks_compile_by_their_dtype():
    """A byte is a bool. A mask's dtype matters to the kernels that read it: all but those over codes."""
    dtypes = (torch.bool, torch.uint8, torch.float32, torch.int64)
    counts = compilations("g2 document", [{"shape": (2, 33, 65), "mask_dtype": dtype} for dtype in dtypes])
    assert counts == {"moments": 3, "pyramid": 3, "sobel": 3, "finish": 1, "coarse": 1, "gradient": 3}


def test_a_plan_is_handed_over_with_its_parts_as_constants():
    """What a kernel passes on of it is a constant argument; it is equal, and printed, as the plan itself."""
    plan = make_plan(dl.build_loss("scale-adaptive").spec)
    wrapped = Constant(plan)
    assert isinstance(wrapped.structure, tl.constexpr) and wrapped.structure.value.of is plan.structure
    assert [x.value.of for x in Constant(make_plan(dl.build_loss("l1").spec)).pixels] == [
        *make_plan(dl.build_loss("l1").spec).pixels
    ]
    assert wrapped.levels == plan.levels and wrapped.alignment is plan.alignment
    assert wrapped == Constant(plan) and hash(wrapped) == hash(plan) and repr(wrapped) == repr(plan)
