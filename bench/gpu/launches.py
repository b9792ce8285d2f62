"""The launches that bench.gpu.aot compiles: every loss of LOSSES on every target, as made for a batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from depthloss.kernels.plan import make_plan
from depthloss.kernels.triton import launch, table
from triton.backends.compiler import GPUTarget

import depthloss
from bench.gpu.model import SHAPES, text_of

TARGETS = {f"sm_{capability}": GPUTarget("cuda", capability, 32) for capability in (75, 80, 90, 100)}
TARGETS |= {name: GPUTarget("hip", name, warp) for name, warp in (("gfx942", 64), ("gfx1100", 32))}
DTYPES = ("float32", "bfloat16", "float16")
QUICK = ("sm_90", "float32")
IN_FLOAT64 = "g2 document"
LOSSES = {
    "g2 published": ("g2", {"variant": "published"}),
    "g2 document": ("g2", {"variant": "document"}),
    "scale-adaptive": ("scale-adaptive", {}),
    "ssi-silog": ("ssi-silog", {}),
    "ssi-silog with gradient": ("ssi-silog", {"gradient_weight": 0.2}),
    "adaptive-multi-domain": ("adaptive-multi-domain", {}),
    "fixed-multi-domain": ("fixed-multi-domain", {}),
    "gradient": ("gradient", {}),
    "ssi": ("ssi", {}),
    "silog": ("silog", {}),
    "enhanced-ssi": ("enhanced-ssi", {}),
    "berhu": ("berhu", {}),
    "l1": ("l1", {}),
    "affine-invariant": ("affine-invariant", {"trim": 0.2, "alpha": 0.5}),
    "scale-shift-invariant": ("scale-shift-invariant", {"alpha": 0.5}),
    "ssi-trim": ("ssi-trim", {}),
}
# Compiled in float32, on some targets: their kernels are many.
ALIGNED = ("affine-invariant", "scale-shift-invariant", "ssi-trim")
ALIGNED_TARGETS = ("sm_80", "sm_90", "sm_100")
SHAPE = SHAPES[0]
# Small tiles compile faster; the losses have every kernel between them.
SMALL = table.Parameters(tile=(16, 16), strip_rows=2, strips=1, rows=2, columns=32)
SMALL_LOSSES = ("g2 document", "ssi-silog", "berhu")
# Kernels that go down their tile so many rows a round: STEP of them, or ROUND and the rows beside the tile.
STEPPED = ("moments", "by_largest", "select", "pyramid", "select_kept")
ROLLED = ("sobel", "coarse", "gradient")


@dataclass(frozen=True)
class Job:
    """One launch to compile."""

    target: str
    loss: str
    dtype: str
    shape: tuple[int, int, int]
    step: launch.Launch


class Batch:
    """The launches of one loss on one batch, and their memory."""

    def __init__(
        self,
        target: str,
        loss: str,
        dtype: str,
        shape: tuple[int, int, int],
        parameters: table.Parameters | None = None,
    ) -> None:
        name, options = LOSSES[loss]
        module = depthloss.build_loss(name, **options)
        plan = make_plan(module.spec)
        parameters = parameters or table.choose(TARGETS[target].arch, *shape[1:])
        empty = lambda kind, *size: torch.empty(size, dtype=kind, device="meta")  # noqa: E731
        kind = getattr(torch, dtype)
        acc = torch.float64 if kind == torch.float64 else torch.float32
        maps = empty(kind, *shape), empty(kind, *shape), empty(torch.bool, *shape)
        log_vars = [empty(torch.float32) for _ in module.log_vars()]
        weights = module.weights(0.0, 0)
        run = launch.Forward(plan, parameters, *maps, None, weights, log_vars, acc, saves=True)
        self.forward = [run.first, *run.middle, run.last(collect=True, combine=True)]
        grad_output, kept = empty(acc), (run.codes, run.coefficients)
        self.backward, grad, grad_log_vars, _ = launch.backward_launches(
            plan, parameters, grad_output, *kept, *maps, None, acc
        )
        given, pixels = _storages([*maps, *log_vars, grad_output]), math.prod(shape)
        forward = _storages(_tensors([x.args for x in self.forward])) | _storages([run.total, run.terms])
        backward = _storages([*_tensors([x.args for x in self.backward]), *kept, grad, grad_log_vars])
        size = lambda found: sum(n for key, n in found.items() if key not in given) / pixels  # noqa: E731
        self.saved, self.peak = size(_storages(kept)), {"forward": size(forward), "backward": size(backward)}


def _tensors(args: object) -> list[torch.Tensor]:
    if isinstance(args, (tuple, list)):
        return [x for arg in args for x in _tensors(arg)]
    return [args] if isinstance(args, torch.Tensor) else []


def _storages(tensors: list[torch.Tensor]) -> dict[int, int]:
    """Bytes of the memory behind the tensors, each piece once."""
    return {x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}


def tile_of(step: launch.Launch) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Rows and columns of a program, and its pyramid levels; None for the finishing kernel."""
    c, name = step.constants, step.kernel.__name__
    if name == "sobel":
        return (c["TH"], c["S"] * launch.k_sobel.LANES), (0, c["LEVELS"])
    if name == "coarse":
        return (c["TH"], c["TW"]), (1, c["LEVELS"])
    return None if name == "finish" else ((c["TH"], c["TW"]), (0, 1))


def rounds_of(step: launch.Launch) -> int | None:
    """Rounds of a loop over the rows of a full tile, with the rows beside it where a kernel reads them."""
    name, constants = step.kernel.__name__, step.constants
    if name in STEPPED:
        return -(-constants["TH"] // constants["STEP"])
    if name not in ROLLED:
        return None
    return -(-(constants["TH"] + 2) // constants.get("ROUND", 2))


def classes(target: str) -> dict[str, str]:
    """For each bar shape, the first one with the same launch parameters."""
    arch, chosen = TARGETS[target].arch, {}
    return {text_of(s): chosen.setdefault(table.choose(arch, *s[1:]), text_of(s)) for s in SHAPES}


def dtypes_of(target: str, loss: str, quick: bool = False) -> tuple[str, ...]:
    """Dtypes to compile; float64, which no training uses, for one loss on one target."""
    if loss in ALIGNED:
        return (QUICK[1],) if target in ALIGNED_TARGETS else ()
    if quick:
        return (QUICK[1],)
    return DTYPES + ("float64",) * (loss == IN_FLOAT64 and target == QUICK[0])


def jobs(targets: list[str], quick: bool, small: bool = False) -> list[Job]:
    """The launches to compile, the slowest first."""
    cases = []
    for target in targets:
        for loss in SMALL_LOSSES if small else LOSSES:
            cases += [(target, loss, dtype, SHAPE) for dtype in dtypes_of(target, loss, quick)]
            if (
                target == QUICK[0] and not quick and loss not in ALIGNED
            ):  # Other launch parameters, for the model.
                others = set(classes(target).values()) - {text_of(SHAPE)}
                cases += [(target, loss, QUICK[1], s) for s in SHAPES if text_of(s) in others]
    found = [
        Job(*case, step)
        for case in cases
        for batch in [Batch(*case, SMALL if small else None)]
        for step in batch.forward + batch.backward
    ]
    return sorted(found, key=lambda x: (x.step.kernel.__name__ != "sobel", x.target != "gfx942"))


# Fields of a plan that only the finishing kernel reads.
FINISH_ONLY = {"groups", "num_weights", "log_var_bounds", "num_metrics", "count_slot", "total_slot"}


def _dtypes(args: tuple) -> Iterator[str]:
    for x in args:
        if isinstance(x, tuple):
            yield from _dtypes(x)
        else:
            yield str(x.dtype) if isinstance(x, torch.Tensor) else type(x).__name__


def work_of(job: Job) -> tuple:
    """Key of a launch's machine code: several losses and dtypes share kernels."""
    step, name = job.step, job.step.kernel.__name__
    constants = dict(step.constants)
    plan = constants.pop("PLAN", None)
    facts = dataclasses.asdict(plan) if plan else {}
    if name != "finish":
        facts = {key: value for key, value in facts.items() if key not in FINISH_ONLY}
    shapes = (job.target, name, job.shape, step.programs)
    return (*shapes, repr(facts), repr(constants), repr(step.options), *_dtypes(step.args))


def losses() -> dict[str, dict]:
    """Launches, and bytes/pixel saved and at the peak beyond the inputs, gradient included."""
    result: dict[str, dict] = {}
    for loss in LOSSES:
        result[loss] = {"launches": {}, "saved": {}, "peak": {}}
        for dtype in DTYPES:
            batch = Batch(QUICK[0], loss, dtype, SHAPE)
            result[loss]["launches"] = {"forward": len(batch.forward), "backward": len(batch.backward)}
            result[loss]["saved"][dtype] = round(batch.saved, 3)
            result[loss]["peak"][dtype] = {phase: round(x, 3) for phase, x in batch.peak.items()}
    return result
