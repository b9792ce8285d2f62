"""The loss's share of a training step of ResNetSAN01: writes bench/results/loss_share[_<gpu>].json.

    python -m bench.training.loss_share [--device cuda] [--sizes 192,640 ...] [--losses g2 ...] [--threads N]

Batch 4, float32, Adam; the image alone, and with a sparse input (two passes, so the loss runs twice);
`depthloss.SupervisedLoss` at four scales. A step is forward, loss, backward and optimiser, without loading
data. On a CPU a step times all losses in turn on the same predictions, in rotating order, and continues with
the gradient of the last: the network takes the same time with each. On a GPU each loss has its own steps,
timed by events. A loss is timed only if its value and gradient are those of the reference.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import depthloss
from bench import clocks, harness
from depthloss import dispatch
from depthloss.training.models import ResNetSAN01

SIZES = ((192, 640), (384, 640))
INPUTS = {"image": False, "image + sparse depth": True}
BATCH = 4
# Share of pixels with ground truth, as of accumulated LiDAR sweeps, and of those in the sparse input.
GT_DENSITY, INPUT_DENSITY = 0.2, 0.25
BOUNDS = {"min_depth": 0.05, "max_depth": 100.0}
# Row: name and keywords of the loss.
LOSSES = {
    "g2": ("g2", {}),
    "silog": ("silog", {}),
    "scale-adaptive": ("scale-adaptive", BOUNDS),
    "scale-adaptive, inverse depth": ("scale-adaptive", BOUNDS | {"use_inv_depth": True}),
    "adaptive-multi-domain": ("adaptive-multi-domain", BOUNDS),
    "adaptive-multi-domain, inverse depth": ("adaptive-multi-domain", BOUNDS | {"use_inv_depth": True}),
}
EAGER, COMPILED = "reference", "reference, compiled"
WARM_UP = 2


@dataclass(frozen=True)
class Case:
    """One network step to measure."""

    size: tuple[int, int]
    input: str


@dataclass
class Subject:
    """One implementation of a loss in a case."""

    loss: str
    backend: str
    module: torch.nn.Module

    def __call__(self, passes: Sequence[Sequence[Tensor]], gt: Tensor) -> tuple[Tensor, list[list[Tensor]]]:
        """The loss summed over the passes, and its gradients with respect to the predictions."""
        leaves = [[p.detach().requires_grad_() for p in maps] for maps in passes]
        total = sum(self.module(maps, gt, masks=gt > 0)["loss"] for maps in leaves)
        total.backward()
        return total.detach(), [[p.grad for p in maps] for maps in leaves]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    size = lambda text: tuple(int(n) for n in text.split(","))  # noqa: E731
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    parser.add_argument("--sizes", nargs="+", type=size, metavar="H,W", default=list(SIZES))
    parser.add_argument("--inputs", nargs="+", choices=list(INPUTS), default=list(INPUTS))
    parser.add_argument("--losses", nargs="+", choices=list(LOSSES), metavar="NAME", default=list(LOSSES))
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--steps", type=int, help="timed steps (default: 5 on a CPU, 50 on a GPU)")
    parser.add_argument("--threads", type=int, help="on a CPU (default: what torch uses)")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", type=Path, help="path of the JSON")
    parser.add_argument("--dry-run", action="store_true", help="one tiny step; writes to --out only")
    options = parser.parse_args()
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU")
    if options.dry_run:
        options.sizes, options.batch, options.steps = [(32, 64)], 1, 1
        if not options.out:
            parser.error("--dry-run needs --out, as its times are not results")
    options.steps = options.steps or (50 if options.device == "cuda" else 5)
    if not options.out:
        gpu = f"_{harness.slug(torch.cuda.get_device_name())}" if options.device == "cuda" else ""
        options.out = harness.RESULTS / f"loss_share{gpu}.json"
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def fused_backends(device: str) -> dict[str, str]:
    """Every fused backend, and why it cannot run on this device; "" if it can."""
    found = {}
    for name in dispatch.BACKENDS:
        if name != "reference":
            at_home = {"triton": "cuda", "cpu": "cpu"}.get(name, device) == device
            found[name] = (dispatch.backend_status(name) or "") if at_home else f"not for {device} tensors"
    return found


class Bench:
    """One run: its rows, and what it left out and why."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.begin = options, time.monotonic()
        self.rows: list[dict] = []
        self.red: list[dict] = []
        self.left_out: list[dict] = []
        self.backends = fused_backends(options.device)

    def run(self) -> dict:
        """Measure every case; the content of the JSON."""
        options = self.options
        for backend, why in self.backends.items():
            if why:
                self.left_out.append({"backend": backend, "reason": why})
        for size in options.sizes:
            for name in options.inputs:
                self.measure(Case(size, name))
                gc.collect()
        return {
            **harness.origin(),
            "command": harness.command("bench.training.loss_share", sys.argv[1:]),
            "dry_run": options.dry_run,
            "device": options.device,
            "machine": harness.machine(options.device) | {"threads": torch.get_num_threads()},
            "batch": options.batch,
            "steps": options.steps,
            "seconds": round(time.monotonic() - self.begin, 1),
            "red": self.red,
            "left_out": self.left_out,
            "rows": self.rows,
        }

    def measure(self, case: Case) -> None:
        """Measure one case: all losses in turn on a CPU, one after the other on a GPU."""
        torch.manual_seed(0)
        device, shape = self.options.device, (self.options.batch, 1, *case.size)
        gt, _, mask = harness.inputs(shape, torch.float32, device, GT_DENSITY, "inverse depth")
        gt = torch.where(mask, gt, 0)
        sparse = torch.rand(shape, device=device) < INPUT_DENSITY
        batch = {"rgb": torch.rand(shape[0], 3, *case.size, device=device), "input_depth": None}
        if INPUTS[case.input]:
            batch["input_depth"] = torch.where(sparse & mask, 1 / gt.clamp(min=1e-3), 0)
        net = ResNetSAN01(sparse_branch=INPUTS[case.input]).to(device).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
        subjects = self.subjects(case, net, batch, gt)
        groups = [[s] for s in subjects] if device == "cuda" else [subjects]
        for group in groups:
            self._steps(case, group, net, optimizer, batch, gt)

    def subjects(self, case: Case, net: torch.nn.Module, batch: dict, gt: Tensor) -> list[Subject]:
        """The losses to time: each with every backend whose numbers are right."""
        with torch.no_grad():
            passes = _passes(net(**batch))
        torch._dynamo.reset()
        found = []
        for name in self.options.losses:
            expected = _flat(
                Subject(name, EAGER, self._build(name, EAGER).double())(_double(passes), gt.double())
            )
            eager = None
            for backend in (EAGER, *([] if self.options.no_compile else [COMPILED]), *self.backends):
                if self.backends.get(backend):
                    continue
                about = asdict(case) | {"loss": name, "backend": backend}
                try:
                    subject = Subject(name, backend, self._build(name, backend))
                    got = _flat(subject(passes, gt))
                except Exception as error:
                    self.left_out.append(about | {"reason": harness.reason(error)})
                    continue
                errors = harness.errors(got, expected)
                eager = eager or errors
                if harness.green(errors, eager, torch.float32):
                    found.append(subject)
                else:
                    self.red.append(about | {"errors": errors, "eager": eager})
        return found

    def _build(self, name: str, backend: str) -> torch.nn.Module:
        method, keywords = LOSSES[name]
        taken = backend if backend in self.backends else EAGER
        module = depthloss.SupervisedLoss(f"sparse-{method}", 4, **keywords, backend=taken)
        module = module.to(self.options.device)
        if backend == COMPILED:
            options = {"backend": "aot_eager"} if self.options.dry_run else {}
            module = torch.compile(module, fullgraph=True, dynamic=False, **options)
        return module

    def _steps(
        self,
        case: Case,
        group: list[Subject],
        net: torch.nn.Module,
        optimizer: torch.optim.Adam,
        batch: dict,
        gt: Tensor,
    ) -> None:
        samples: dict[int, list[float]] = {id(subject): [] for subject in group}
        networks = []
        clock = _EventClock() if self.options.device == "cuda" else _WallClock()
        for step in range(WARM_UP * (not self.options.dry_run) + self.options.steps):
            clock.start()
            output = net(**batch)
            passes = _passes(output)
            network = [clock.lap()]
            turn = step % len(group)
            for subject in group[turn:] + group[:turn]:
                _, gradients = subject(passes, gt)
                samples[id(subject)].append(clock.lap())
            heads = [p for maps in passes for p in maps]
            seeds = [g for maps in gradients for g in maps]
            if "depth_loss" in output:
                heads, seeds = [*heads, output["depth_loss"]], [*seeds, torch.ones_like(output["depth_loss"])]
            torch.autograd.backward(heads, seeds)
            optimizer.step()
            optimizer.zero_grad()
            network.append(clock.lap())
            networks.append(network)
        kept = -self.options.steps
        network = [sum(part() for part in parts) for parts in networks[kept:]]
        for subject in group:
            loss = [lap() for lap in samples[id(subject)][kept:]]
            step = [a + b for a, b in zip(loss, network, strict=True)]
            row = asdict(case) | {
                "loss": subject.loss,
                "backend": subject.backend,
                "loss_ms": clocks.spread(loss),
                "step_ms": clocks.spread(step),
                "percent": clocks.spread([100 * a / b for a, b in zip(loss, step, strict=True)]),
            }
            self.rows.append(row)
            print(
                f"{'x'.join(map(str, case.size)):>8}  {case.input:<20}  {subject.loss:<36} "
                f"{subject.backend:<20} {row['loss_ms']['median']:8.2f} of {row['step_ms']['median']:9.2f} "
                f"ms, {row['percent']['median']:5.2f} %",
                flush=True,
            )


class _WallClock:
    """Wall time between laps."""

    def start(self) -> None:
        self.last = time.perf_counter()

    def lap(self) -> Callable[[], float]:
        """A function that returns the milliseconds since the last lap."""
        before, self.last = self.last, time.perf_counter()
        elapsed = 1e3 * (self.last - before)
        return lambda: elapsed


class _EventClock:
    """GPU time between laps; the host waits only when the times are read."""

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def start(self) -> None:
        torch.cuda.synchronize()
        self.last = self._mark()

    def lap(self) -> Callable[[], float]:
        """A function that returns the milliseconds since the last lap."""
        before, after = self.last, self._mark()
        self.last = after

        def elapsed() -> float:
            after.synchronize()
            return before.elapsed_time(after)

        return elapsed


def _passes(output: dict) -> list[list[Tensor]]:
    return [output[key] for key in ("inv_depths", "inv_depths_rgbd") if key in output]


def _double(passes: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    return [[p.double() for p in maps] for maps in passes]


def _flat(result: tuple[Tensor, list[list[Tensor]]]) -> tuple[Tensor, list[Tensor]]:
    """The form of `harness.errors`: one vector of gradients per pass."""
    loss, gradients = result
    return loss.double(), [torch.cat([g.flatten().double() for g in maps]) for maps in gradients]


def main() -> int:
    """Run, and write the JSON; 1 if a loss was wrong."""
    options = parse()
    result = Bench(options).run()
    harness.write_json(options.out, result)
    for item in result["left_out"]:
        print(f"left out: {', '.join(str(v) for v in item.values())}")
    for item in result["red"]:
        print(f"RED: {', '.join(str(v) for v in item.values())}")
    print(f"{options.out}: {len(result['rows'])} rows, {result['seconds']:.0f} s")
    return 1 if result["red"] else 0


if __name__ == "__main__":
    sys.exit(main())
