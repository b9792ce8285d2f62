"""`process_group`: two gloo processes that run the kernels equal the reference on the joined batch."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from .. import cases
from ..test_distributed import WORLD, evaluate
from .conftest import quick_interpreter
from .engine import engine

SHAPE = (4, 1, 12, 15)
SPLIT = (0, 3, 4)  # three images on one rank, one on the other
# With the launches of a forward and a backward, one more than without ranks, and the collectives. berHu,
# whose threshold is the largest error of all ranks, takes one more of each; a trim over the batch adds up the
# histograms of its six digits, in float64.
LOSSES = {
    "g2 published": (7, 1),
    "g2 document": (7, 1),
    "g2 support": (7, 1),
    "ssi-silog with gradient": (7, 1),
    "silog mmseg": (4, 1),
    "enhanced-ssi": (4, 1),
    "berhu": (6, 2),
    "berhu packnet": (6, 2),
    "adaptive-multi-domain": (7, 1),
    "affine-invariant trimmed": (16, 1),
    "affine-invariant of the batch": (17, 7),
    "scale-shift-invariant": (7, 1),
    "ssi-trim": (12, 1),
}


def joined_batch() -> tuple[torch.Tensor, ...]:
    """Four images, one of them empty, one nearly; the largest error, which sets berHu's c, on the second
    rank.
    """
    pred, gt = cases.maps(torch.float64, SHAPE)
    mask = cases.mask("70%", SHAPE).clone()
    mask[1] = False
    mask[2, :, 2:] = False
    pred[3, 0, 3, 5] = 6.0
    mask[3, 0, 3, 5] = True
    return pred, gt, mask


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    parts = [x[SPLIT[rank] : SPLIT[rank + 1]] for x in joined_batch()]
    counts = {"launches": 0, "collectives": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    engine.launch.Launch.run = counted("launches", engine.launch.Launch.run)
    for name in ("all_reduce", "all_gather"):
        setattr(dist, name, counted("collectives", getattr(dist, name)))
    results = {}
    with quick_interpreter(checks_overflow=False):
        for name in LOSSES:
            counts.update(launches=0, collectives=0)
            loss = cases.LOSSES[name]().double()
            loss.backend, loss.process_group = "triton", dist.group.WORLD
            results[name] = *evaluate(loss, *parts), dict(counts)
    torch.save(results, os.path.join(folder, f"{rank}.pt"))
    # The group ends with the process: destroyed just after a collective, torch 2.6 often hangs.


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    if not engine.INTERPRETED:
        pytest.skip("gloo has the kernels run on CPU tensors, in the interpreter")
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_equal_one(ranks, name):
    value, grad, log_vars, metrics = evaluate(cases.LOSSES[name]().double(), *joined_batch())
    assert value != 0
    for rank in ranks:
        got, _, got_log_vars, got_metrics, _ = rank[name]
        assert got.item() == pytest.approx(value.item(), rel=1e-10)
        for mine, theirs in zip(got_log_vars, log_vars, strict=True):
            assert mine.item() == pytest.approx(theirs.item(), rel=1e-10)
        assert got_metrics.keys() == metrics.keys()
        for key, number in metrics.items():
            assert got_metrics[key].item() == pytest.approx(number.item(), rel=1e-10, abs=1e-12), key
    # DistributedDataParallel takes the mean over the ranks: the gradients carry the factor world size.
    joined = torch.cat([rank[name][1] for rank in ranks]) / WORLD
    assert (joined - grad).abs().max() <= 1e-10 * grad.abs().max()


@pytest.mark.parametrize("name", LOSSES)
def test_launches_and_collectives(ranks, name):
    for rank in ranks:
        assert tuple(rank[name][-1].values()) == LOSSES[name]
