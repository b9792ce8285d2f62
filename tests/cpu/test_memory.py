"""The memory of large codes and gradients is used again, but by nobody else while a tensor holds it."""

import copy
import gc
import io
import os
import threading

import pytest
import torch
from depthloss.kernels.cpu import memory

import depthloss as dl
from depthloss import dispatch

if dispatch.backend_status("cpu"):
    pytest.skip(f"the native engine: {dispatch.backend_status('cpu')}", allow_module_level=True)

SHAPE = (2, 1, 512, 640)  # a gradient of 2.5 MiB


@pytest.fixture(autouse=True)
def nothing_idle():
    gc.collect()
    memory.clear()
    yield
    memory.clear()


def _maps(shape=SHAPE, seed=0):
    rng = torch.Generator().manual_seed(seed)
    gt = torch.rand(shape, generator=rng) * 9 + 1
    return (gt * (0.8 + 0.4 * torch.rand(shape, generator=rng))).requires_grad_(), gt


def _gradient(pred, gt):
    return torch.autograd.grad(dl.G2Loss(backend="cpu")(pred, gt), pred)[0]


def test_memory_is_used_again_when_its_tensor_is_gone():
    pred, gt = _maps()
    first = _gradient(pred, gt)
    place, expected = first.data_ptr(), first.clone()
    del first
    again = _gradient(pred, gt)
    assert again.data_ptr() == place and torch.equal(again, expected)
    assert place % 64 == 0


def test_a_tensor_and_its_views_keep_their_memory():
    pred, gt = _maps()
    expected = _gradient(pred, gt).clone()
    rows = _gradient(pred, gt)[:, :, 100:101]
    others = [_gradient(*_maps(seed=i)) for i in range(1, 7)]
    assert torch.equal(rows, expected[:, :, 100:101])
    assert len({x.data_ptr() for x in others}) == 6
    for i, x in enumerate(others, 1):
        assert torch.equal(x, _gradient(*_maps(seed=i)))


def test_the_codes_of_a_pending_backward_stay():
    pairs = [_maps(seed=i) for i in range(3)]
    expected = [_gradient(*pair).clone() for pair in pairs]
    losses = [dl.G2Loss(backend="cpu")(*pair) for pair in pairs]
    for loss, (pred, _), gradient in reversed(list(zip(losses, pairs, expected, strict=True))):
        assert torch.equal(torch.autograd.grad(loss, pred)[0], gradient)


def test_gradients_add_up_and_are_copied_as_any():
    pred, gt = _maps()
    once = _gradient(pred, gt).clone()
    for _ in range(2):
        dl.G2Loss(backend="cpu")(pred, gt).backward()
    assert torch.equal(pred.grad, once + once)
    file = io.BytesIO()
    torch.save(pred.grad, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), pred.grad)
    assert torch.equal(copy.deepcopy(pred.grad), pred.grad)
    assert torch.equal(pred.grad.share_memory_(), once + once)


def test_a_gradient_may_be_changed_in_place():
    pred, gt = _maps()
    expected = 2 * _gradient(pred, gt)
    loss = dl.G2Loss(backend="cpu")
    for shape in (SHAPE, (2, 512, 640)):
        p = pred.detach().view(shape).requires_grad_()
        gradient = torch.autograd.grad(loss(p, gt.view(shape)), p, create_graph=True)[0]
        assert torch.equal(gradient.mul_(2).view(SHAPE), expected)
        assert torch.autograd.grad(loss(p, gt.view(shape)), p)[0].detach_().shape == shape


def test_another_default_device_changes_nothing():
    pred, gt = _maps()
    expected = _gradient(pred, gt).clone()
    with torch.device("meta"):
        gradient = _gradient(pred, gt)
    assert torch.equal(gradient, expected)


def test_no_more_than_four_pieces_wait():
    pieces = [memory.empty((n, 1 << 20), torch.uint8) for n in range(1, 8)]
    while pieces:
        del pieces[0]
    idle = lambda: sorted(piece.numel() >> 20 for piece in memory._idle)  # noqa: E731
    assert idle() == [4, 5, 6, 7]
    five = memory.empty((5 << 20,), torch.uint8)
    assert idle() == [4, 6, 7]
    # Neither a smaller piece than wanted nor one that is much larger.
    three = memory.empty((3 << 20,), torch.uint8)
    assert idle() == [4, 6, 7]
    del five, three
    assert idle() == [3, 4, 5, 7]  # 6 has waited longest
    memory.clear()
    assert idle() == []
    assert memory.empty((100,), torch.float64).shape == (100,)
    assert memory.empty((0, 4), torch.float32).shape == (0, 4)


def test_strides_are_those_of_pred():
    pred, gt = _maps((2, 1, 640, 512))
    turned = pred.detach().transpose(2, 3).requires_grad_()
    gradient = torch.autograd.grad(dl.G2Loss(backend="cpu")(turned, gt.transpose(2, 3)), turned)[0]
    assert gradient.stride() == turned.stride()
    straight = _gradient(turned.detach().contiguous().requires_grad_(), gt.transpose(2, 3).contiguous())
    assert torch.equal(gradient, straight)


def test_threads_never_get_the_same_memory():
    wrong = []

    def work(number):
        for i in range(300):
            x = memory.empty((1 << 20,), torch.uint8)
            x[::4096] = number
            y = memory.empty(((1 << 20) + i,), torch.uint8)
            y[::4096] = number + 100
            if not (x[::4096] == number).all() or not (y[::4096] == number + 100).all():
                wrong.append(number)
            del x, y

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(memory._idle) <= 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_child_has_memory_of_its_own():
    x = memory.empty((1 << 20,), torch.uint8)
    x[::4096] = 1
    child = os.fork()
    if not child:  # Little enough for one thread: those of PyTorch are the parent's.
        x[::4096] = 2
        del x
        memory.empty((1 << 20,), torch.uint8)[::4096] = 3
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (x[::4096] == 1).all()
