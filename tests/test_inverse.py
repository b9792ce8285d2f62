"""Depth to inverse depth and back: invalid pixels are 0, with a zero gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import depthloss as dl

INVALID = [0.0, -0.0, -2.0, torch.nan, torch.inf, -torch.inf, 1e-45]
both = pytest.mark.parametrize("convert", [dl.to_inverse_depth, dl.to_depth], ids=lambda f: f.__name__)


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_invalid_pixels_are_zero(convert, dtype):
    x = torch.tensor([[4.0, *INVALID, 0.5, 0.25]], dtype=torch.float64).to(dtype).requires_grad_()
    mask = torch.ones_like(x)
    mask[..., -1] = 0
    y = convert(x, mask)
    values, slopes = [0.25] + [0.0] * 7 + [2.0, 0.0], [-0.0625] + [0.0] * 7 + [-4.0, 0.0]
    if dtype == torch.float64:
        values[7], slopes[7] = (1 / x[0, 7]).item(), -((1 / x[0, 7]).item() ** 2)  # It has a reciprocal here.
    assert y.dtype == dtype and y.tolist() == [values]
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([slopes], dtype=dtype), rtol=1e-12, atol=0)
    assert torch.equal(convert(x[:, :1]), torch.tensor([[0.25]], dtype=dtype))


def test_back_and_forth():
    depth = torch.rand(2, 1, 5, 7, dtype=torch.float64) * 80.0
    depth[:, :, 2] = 0.0
    torch.testing.assert_close(dl.to_depth(dl.to_inverse_depth(depth)), depth, rtol=1e-15, atol=0)
    assert torch.autograd.gradgradcheck(dl.to_inverse_depth, (depth + 0.1).requires_grad_())
    compiled = torch.compile(dl.to_inverse_depth, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(depth, depth > 9), dl.to_inverse_depth(depth, depth > 9))
    masks = torch.stack((depth > 9, depth > 20))
    of_masks = torch.vmap(dl.to_inverse_depth, in_dims=(None, 0))(depth, masks)
    assert torch.equal(of_masks, torch.stack([dl.to_inverse_depth(depth, mask) for mask in masks]))


@both
def test_what_does_not_fit_is_refused(convert):
    name = "depth" if convert is dl.to_inverse_depth else "inverse_depth"
    with pytest.raises(TypeError, match=f"^{name} must be a torch.Tensor; got list"):
        convert([1.0])
    with pytest.raises(TypeError, match="^mask must be a torch.Tensor or None; got ndarray"):
        convert(torch.ones(2), np.ones(2))
    with pytest.raises(ValueError, match=f"^{name} must be floating point, convert integers with .float"):
        convert(torch.ones(2, 2, dtype=torch.int32))
    with pytest.raises(ValueError, match=rf"^mask must have the shape of {name}; got \(2,\), \(2, 2\)"):
        convert(torch.ones(2, 2), torch.ones(2))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_inverse_depth_of_gt_with_holes_is_a_sparse_gt(backend):
    """1/0 is Inf, which counted as valid once."""
    depth = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(0)) * 9 + 1
    hole = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(1)) < 0.5
    pred = (1.1 / depth).requires_grad_()
    depth = depth.masked_fill(hole, 0.0)
    for name in ("silog", "scale-adaptive", "l1", "scale-adaptive-progressive"):
        loss = dl.build_loss(f"sparse-{name}", backend=backend)
        values = []
        for gt in (1 / depth, dl.to_inverse_depth(depth)):
            value = loss(pred, gt)
            (grad,) = torch.autograd.grad(value, pred)
            assert grad.isfinite().all()
            assert name == "scale-adaptive-progressive" or not grad[hole].any()  # It resizes the prediction.
            assert loss.metrics["num_valid_pixels"] == (~hole).sum()
            values.append(value.item())
        assert values[0] == values[1] > 0
