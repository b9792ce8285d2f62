"""`process_group`: two gloo processes equal one process on the joined batch."""

from __future__ import annotations

import copy
import inspect
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import fully_shard

import depthloss as dl

from . import cases

LEAVES_OUT = "ignored_params" in inspect.signature(fully_shard).parameters  # torch >= 2.7
WORLD = 2
SHAPE = (4, 1, 24, 41)


def joined_batch():
    """Four images; with the split into two ranks one rank has an almost empty half and few pixels of its
    own.
    """
    pred, gt = cases.maps(torch.float64, SHAPE)
    mask = cases.mask("70%", SHAPE).clone()
    mask[2] = False
    mask[3, :, 4:] = False
    pred[0, 0, 3, 5] *= 6  # berHu's c comes from one rank.
    return pred, gt, mask


# Losses with a weight, a confidence, or a value of [B]; on the backends that have them.
EXTRAS = {
    "weighted": lambda: dl.G2Loss(),
    "weighted fit": lambda: dl.ScaleShiftInvariantLoss(alpha=0.5),
    "confident": lambda: dl.recipe("vggt-depth", min_valid=5),
    "by image": lambda: dl.AffineInvariantLoss(alpha=0.5, reduction="none"),
}
BUILDS = {**cases.LOSSES, **EXTRAS}
OF_EXTRAS = [
    (name, backend)
    for name, build in EXTRAS.items()
    for backend in cases.BACKENDS
    if backend in (*build().spec.fused, "reference")
]


def extras_of(name: str, loss) -> dict[str, torch.Tensor]:
    """The keywords of the call of the joined batch."""
    rng = torch.Generator().manual_seed(7)
    maps = {key: 0.2 + torch.rand(SHAPE, generator=rng).double() for key in ("weight", "confidence")}
    return {
        key: x
        for key, x in maps.items()
        if (loss.spec.confidence if key == "confidence" else name in EXTRAS and name != "by image")
    }


def evaluate(loss, pred, gt, mask, **extras):
    pred = pred.clone().requires_grad_()
    if "confidence" in extras:
        extras["confidence"].requires_grad_()
    value = loss(pred, gt, mask, **extras)
    value.sum().backward()
    if "confidence" in extras:
        pred.grad += extras["confidence"].grad  # Each has a part of its own in every pixel.
    log_vars = [p.grad.clone() for p in loss.parameters()]
    return value.detach(), pred.grad, log_vars, {k: v.clone() for k, v in loss.metrics.items()}


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    half = SHAPE[0] // WORLD
    parts = [x[rank * half : (rank + 1) * half] for x in joined_batch()]
    results = {}
    for name, backend in (*cases.RUNS, *OF_EXTRAS):
        loss = BUILDS[name]().double()
        loss.process_group = dist.group.WORLD
        mine = {key: x[rank * half : (rank + 1) * half].clone() for key, x in extras_of(name, loss).items()}
        # A copy, as an averaged model holds one, works with the same ranks.
        with dl.use_backend(backend):
            results[name, backend] = evaluate(copy.deepcopy(loss), *parts, **mine)
    if LEAVES_OUT:
        results |= sharded(parts)
    torch.save(results, os.path.join(folder, f"{rank}.pt"))
    # The group ends with the process: destroyed just after a collective, torch 2.6 often hangs.


def sharded(parts: list[torch.Tensor]) -> dict:
    results = {}
    model = WithLoss(dl.AdaptiveMultiDomainLoss(process_group=dist.group.WORLD))
    net, loss = model.net, model.loss
    try:
        fully_shard(dl.AdaptiveMultiDomainLoss())
    except ValueError as error:
        results["refusal of fully_shard"] = str(error)
    fully_shard(model, ignored_params=set(loss.parameters()))
    value = model(*parts)
    value.backward()
    weights = [p.grad.full_tensor() for p in net.parameters()]
    results["fully_shard"] = (
        value.detach(),
        weights,
        [v.grad for v in loss.log_vars()],
        list(model.state_dict()),
    )
    return results


class WithLoss(torch.nn.Module):
    """A network that holds its loss."""

    def __init__(self, loss):
        super().__init__()
        torch.manual_seed(3)
        self.net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3, padding=1), torch.nn.Softplus()).double()
        self.loss = loss.double()

    def forward(self, x, gt, mask):
        return self.loss(self.net(x), gt, mask)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(worker, (str(folder),), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize(("name", "backend"), cases.RUNS)
def test_two_processes_equal_one(ranks, name, backend):
    with dl.use_backend(backend):
        value, grad, log_vars, metrics = evaluate(cases.LOSSES[name]().double(), *joined_batch())
    assert value != 0
    for rank in ranks:
        got, _, got_log_vars, got_metrics = rank[name, backend]
        assert got.item() == pytest.approx(value.item(), rel=1e-10)
        for mine, theirs in zip(got_log_vars, log_vars, strict=True):
            assert mine.item() == pytest.approx(theirs.item(), rel=1e-10)
        assert got_metrics.keys() == metrics.keys()
        for key, number in metrics.items():
            assert got_metrics[key].item() == pytest.approx(number.item(), rel=1e-10, abs=1e-12), key
    # DistributedDataParallel takes the mean over the ranks, so each rank's gradient carries the factor world
    # size.
    joined = torch.cat([rank[name, backend][1] for rank in ranks]) / WORLD
    assert (joined - grad).abs().max() <= 1e-9 * grad.abs().max()


@pytest.mark.parametrize(("name", "backend"), OF_EXTRAS)
def test_two_processes_with_extra_maps_equal_one(ranks, name, backend):
    """A loss of [B] has the values and gradients of its own images on each rank, without a factor."""
    loss = EXTRAS[name]().double()
    with dl.use_backend(backend):
        value, grad, _, metrics = evaluate(loss, *joined_batch(), **extras_of(name, loss))
    by_image = loss.spec.by_image
    joined = torch.cat([rank[name, backend][0] for rank in ranks]) if by_image else ranks[0][name, backend][0]
    torch.testing.assert_close(joined, value, rtol=1e-10, atol=1e-13)
    for rank in ranks:
        for key, number in metrics.items():
            found = rank[name, backend][3][key].item()
            assert found == pytest.approx(number.item(), rel=1e-10, abs=1e-12), key
    found = torch.cat([rank[name, backend][1] for rank in ranks]) / (1 if by_image else WORLD)
    assert (found - grad).abs().max() <= 1e-9 * grad.abs().max()


@pytest.mark.skipif(not LEAVES_OUT, reason="fully_shard of this torch has no ignored_params")
def test_a_sharded_model_equals_one_process(ranks):
    """FSDP shards no numbers: the log-variances stay whole, and with the group they agree on every rank."""
    pred, gt, mask = joined_batch()
    model = WithLoss(dl.AdaptiveMultiDomainLoss())
    value = model(pred, gt, mask)
    value.backward()
    expected = [p.grad for p in model.net.parameters()], [v.grad for v in model.loss.log_vars()]
    for rank in ranks:
        assert "doesn't support scalar parameters" in rank["refusal of fully_shard"]
        found, weights, slopes, names = rank["fully_shard"]
        torch.testing.assert_close(found, value.detach(), rtol=1e-10, atol=0)
        torch.testing.assert_close((weights, slopes), expected, rtol=1e-9, atol=1e-12)
        assert names == ["net.0.weight", "net.0.bias", "loss.log_var_structure", "loss.log_var_scale"]


def test_without_a_group_each_rank_reduces_its_own_batch():
    pred, gt, mask = joined_batch()
    loss = dl.L1Loss()
    halves = [loss(pred[i : i + 2], gt[i : i + 2], mask[i : i + 2]) for i in (0, 2)]
    assert halves[0] != halves[1] and loss(pred, gt, mask) != sum(halves) / 2
