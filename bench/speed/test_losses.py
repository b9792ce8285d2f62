"""Time a loss on your machine, with pytest-benchmark.

    pytest bench/speed/test_losses.py --benchmark-only -k "g2-document and cpu"
    SHAPE=16,1,352,1216 pytest bench/speed/test_losses.py --benchmark-only -k "silog and forward+backward"

By loss (as `bench.speed.run` names it, with dashes), backend and phase; "eager" is what people write, in
depthloss/benchmark/rivals.py. float32, every pixel valid; SHAPE is 4,1,384,640 unless the environment has
it. On the GPU where there is one; Python and synchronisation count. `bench.speed.run` compares more
carefully: in rounds, with cold caches, after a check of the results.
"""

from __future__ import annotations

import functools
import os

import pytest
import torch

from bench import bars, harness
from depthloss import dispatch
from depthloss.benchmark import rivals

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = tuple(int(n) for n in os.environ.get("SHAPE", ",".join(map(str, bars.FIRST))).split(","))


@functools.lru_cache(maxsize=2)
def maps(domain: str) -> list[tuple[torch.Tensor, ...]]:
    return [harness.inputs(SHAPE, torch.float32, DEVICE, 1.0, domain, seed) for seed in range(2)]


FUSED = "cpu" if DEVICE == "cpu" else "triton"
CASES = [
    pytest.param(loss, backend, id=f"{loss.replace(' ', '-')}-{backend}")
    for loss in rivals.RIVALS
    for backend in ("eager", "reference", FUSED)
    if backend != FUSED or FUSED in harness.build(loss, "reference", "cpu").spec.fused
]


@pytest.mark.parametrize("phase", harness.PHASES)
@pytest.mark.parametrize(("loss", "backend"), CASES)
def test_loss(benchmark, loss, backend, phase):
    missing = dispatch.backend_status(FUSED)
    if missing and backend == FUSED:
        pytest.skip(f"backend {backend!r} cannot run: {missing}")
    module = rivals.build(loss).to(DEVICE) if backend == "eager" else harness.build(loss, backend, DEVICE)
    domain = harness.build(loss, "reference", DEVICE).input_domain
    subject = harness.LossSubject(module, maps(domain), ours=backend != "eager")
    wait = torch.cuda.synchronize if DEVICE == "cuda" else lambda: None
    subject.evaluate()

    def call(state: object) -> None:
        subject.call(phase, state)
        wait()

    def start() -> tuple[tuple, dict]:
        state = subject.start(phase)
        wait()
        return (state,), {}

    benchmark.group = f"{loss}, {phase}"
    if phase == "backward":  # The forward runs before every round, outside the clock.
        benchmark.pedantic(call, setup=start, rounds=50, warmup_rounds=2)
    else:
        benchmark(call, None)
