"""Depth to inverse depth and back, for ground truth: invalid pixels are 0 on both sides."""

from __future__ import annotations

import torch
from torch import Tensor


def to_inverse_depth(depth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Inverse depth of a depth map: 1/depth at valid pixels, 0 at all others.

    The losses of inverse depth with the prefix ``sparse-`` take what it returns as it is: gt > 0 is the mask.

    Args:
        depth: of any shape, floating point, in metres. A pixel is valid where it is positive and finite, and
            so is 1/depth (1/1e-5 is Inf in float16).
        mask: of the shape of `depth`, non-zero = valid; None = every pixel.

    Returns:
        The inverse depth in 1/m, of the shape and dtype of `depth`. Differentiable; the gradient at invalid
        pixels is 0.

    Raises:
        TypeError: `depth` or `mask` is not a tensor.
        ValueError: `depth` is not floating point, or `mask` has another shape.
    """
    return _reciprocal("depth", depth, mask)


def to_depth(inverse_depth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Depth of an inverse depth map: 1/inverse_depth at valid pixels, 0 at all others.

    The inverse of `to_inverse_depth`. (The losses themselves convert by 1/max(x, 1e-6), so that a prediction
    of 0 is 1e6 m, and keeps a gradient where it is positive.)

    Args:
        inverse_depth: of any shape, floating point, in 1/m. A pixel is valid where it is positive and finite,
            and so is 1/inverse_depth.
        mask: of the shape of `inverse_depth`, non-zero = valid; None = every pixel.

    Returns:
        The depth in metres, of the shape and dtype of `inverse_depth`. Differentiable; the gradient at
        invalid pixels is 0.

    Raises:
        TypeError: `inverse_depth` or `mask` is not a tensor.
        ValueError: `inverse_depth` is not floating point, or `mask` has another shape.
    """
    return _reciprocal("inverse_depth", inverse_depth, mask)


def _reciprocal(name: str, x: Tensor, mask: Tensor | None) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(x).__name__}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must be floating point, convert integers with .float(); got {x.dtype}")
    inverse = x.detach().reciprocal()
    valid = (inverse > 0) & (inverse < torch.inf)
    if mask is not None:
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask must be a torch.Tensor or None; got {type(mask).__name__}")
        if mask.shape != x.shape:
            raise ValueError(f"mask must have the shape of {name}; got {tuple(mask.shape)}, {tuple(x.shape)}")
        valid = valid & (mask != 0)  # Not in place: under vmap the mask alone may be batched.
    # Selected before the division too: 0 · Inf in its gradient would be NaN.
    return torch.where(valid, torch.where(valid, x, 1.0).reciprocal(), 0.0)
