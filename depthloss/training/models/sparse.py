"""Encoder of a sparse depth map: submanifold convolutions emulated with dense ones.

A site is active where a depth was measured. Convolutions read zeros at inactive sites, their results there
are dropped, and normalisation sees active sites only, so that no value at an inactive site, NaN included,
reaches an output or a gradient. All sizes are static: nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (64, 64, 128, 256, 512)
KERNELS = (5, 5, 3, 3, 3)


def masked_max_pool(x: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """Max-pool 3/2 over active sites.

    Args:
        x: ``[B, C, H, W]``, H and W even; values at inactive sites are not read.
        active: ``[B, 1, H, W]`` bool.

    Returns:
        ``[B, C, H/2, W/2]``, zero at inactive sites, and the new active set ``[B, 1, H/2, W/2]``: a site is
        active if any site of its 2×2 block was (that block lies inside the 3×3 window, so an active site has
        a finite maximum).
    """
    # Not −inf: in a window of nothing else, compiled max-pooling takes its index from the padding.
    lowest = torch.finfo(x.dtype).min
    pooled = F.max_pool2d(torch.where(active, x, lowest), 3, 2, 1)
    active = F.max_pool2d(active.to(x.dtype), 2) > 0
    return torch.where(active, pooled, 0.0), active


class _MaskedNormReLU(torch.autograd.Function):
    """y = where(active, relu((x − μ)·r·weight + bias), 0), μ and r = 1/σ over active sites.

    Statistics in fp32 or wider. Saves x − μ and y. By hand because the chain of torch operations takes twice
    the time and memory.
    """

    @staticmethod
    def forward(ctx, x, active, weight, bias, eps):  # noqa: D102
        dims, wide = (0, 2, 3), torch.promote_types(x.dtype, torch.float32)
        found = active.sum().to(wide)
        count = found.clamp(min=1)  # an empty sweep: μ = σ = 0 and every site is dropped
        mean = torch.where(active, x, 0.0).sum(dims, keepdim=True, dtype=wide) / count
        centred = torch.where(active, x - mean, 0.0)
        var = (centred * centred).sum(dims, keepdim=True) / count
        rstd = torch.rsqrt(var + eps)
        scale = rstd * weight.view(1, -1, 1, 1)
        y = torch.addcmul(bias.view(1, -1, 1, 1), centred, scale).relu_()
        y = torch.where(active, y, 0.0).to(x.dtype)
        ctx.save_for_backward(centred.to(x.dtype), y, active, scale, rstd, count)
        mean, var = mean.flatten(), var.flatten()
        ctx.mark_non_differentiable(mean, var, found)
        return y, mean, var, found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_y, *_):  # noqa: D102
        centred, y, active, scale, rstd, count = ctx.saved_tensors
        dims = (0, 2, 3)
        # y is zero at inactive sites: this selects there too.
        grad = torch.where(y > 0, grad_y, 0.0).to(rstd.dtype)
        grad_bias = grad.sum(dims, keepdim=True)
        grad_weight = (grad * centred).sum(dims, keepdim=True) * rstd
        grad_x = (
            (grad * scale)
            .sub_(scale * grad_bias / count)
            .addcmul_(centred.to(rstd.dtype), -scale * rstd * grad_weight / count)
        )
        grad_x = torch.where(active, grad_x, 0.0).to(y.dtype)
        return grad_x, None, grad_weight.flatten(), grad_bias.flatten(), None


class MaskedBatchNormReLU(nn.Module):
    """BatchNorm over active sites, then ReLU; zero at inactive sites.

    Statistics are those of this process's batch (not synchronised between ranks). A batch without active
    sites leaves the running statistics as they are; one with a single site leaves the running variance.
    First derivatives only.

    Args:
        channels: C.
        eps: added to the variance.
        momentum: weight of the new batch in the running statistics.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        """Normalise ``x [B, C, H, W]`` where ``active [B, 1, H, W]`` (bool)."""
        if self.training:
            y, mean, var, count = _MaskedNormReLU.apply(x, active, self.weight, self.bias, self.eps)
            with torch.no_grad():
                unbiased = var * (count / (count - 1).clamp(min=1))
                self.running_mean.lerp_(mean, self.momentum * (count > 0).to(mean.dtype))
                self.running_var.lerp_(unbiased, self.momentum * (count > 1).to(mean.dtype))
            return y
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        y = F.relu(torch.where(active, x, 0.0) * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1))
        return torch.where(active, y, 0.0).to(x.dtype)


class SparseStage(nn.Module):
    """Max-pool over active sites, then ``relu(bn(L1(x) + L2(x) + L3(x)))``.

    L1, L2 and L3 are one, two and three submanifold convolutions, normalised and rectified in between.

    Args:
        cin: input channels.
        cout: output channels; the inner ones are twice as many.
        kernel: side of every convolution.
    """

    def __init__(self, cin: int, cout: int, kernel: int) -> None:
        super().__init__()

        def conv(c: int, d: int) -> nn.Conv2d:
            return nn.Conv2d(c, d, kernel, padding=kernel // 2, bias=False)

        wide = 2 * cout
        self.conv1 = conv(cin, cout)
        self.conv2a, self.bn2a, self.conv2b = conv(cin, wide), MaskedBatchNormReLU(wide), conv(wide, cout)
        self.conv3a, self.bn3a = conv(cin, wide), MaskedBatchNormReLU(wide)
        self.conv3b, self.bn3b, self.conv3c = conv(wide, wide), MaskedBatchNormReLU(wide), conv(wide, cout)
        self.bn = MaskedBatchNormReLU(cout)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x [B, cin, H, W]``, ``active [B, 1, H, W]`` to ``[B, cout, H/2, W/2]`` and its active set.

        Every convolution reads zeros at inactive sites: the pooling and the normalisations put them there.
        Its own results at inactive sites need no mask, as the next normalisation drops them.
        """
        x, active = masked_max_pool(x, active)
        y = self.conv1(x)
        y = y + self.conv2b(self.bn2a(self.conv2a(x), active))
        x = self.bn3a(self.conv3a(x), active)
        y = y + self.conv3c(self.bn3b(self.conv3b(x), active))
        return self.bn(y, active), active


class SparseBranch(nn.Module):
    """Five stages at 1/2 … 1/32 with 64, 64, 128, 256 and 512 channels: 34,686,784 parameters.

    Args:
        out_channels: channels wanted per scale. Where they differ from the stage's (ResNet-50), a 1×1
            convolution without bias lifts the feature; it keeps inactive sites at zero.
    """

    def __init__(self, out_channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            SparseStage(cin, cout, kernel)
            for cin, cout, kernel in zip((1, *CHANNELS[:-1]), CHANNELS, KERNELS, strict=True)
        )
        self.lift = nn.ModuleList(
            nn.Identity() if want == have else nn.Conv2d(have, want, 1, bias=False)
            for have, want in zip(CHANNELS, out_channels, strict=True)
        )

    def forward(self, input_depth: Tensor) -> tuple[list[Tensor], Tensor]:
        """Encode a sweep.

        Args:
            input_depth: ``[B, 1, H, W]`` metres, H and W multiples of 32. A site is active where it is
                positive and finite; a batch without active sites gives zeros.

        Returns:
            Five features ``[B, C_k, H/2^k, W/2^k]``, zero at inactive sites, and ``[B]`` bool: the sample has
            a sweep.
        """
        active = (input_depth > 0) & (input_depth < torch.inf)
        has_sweep = active.flatten(1).any(1)
        x, features = input_depth, []
        for stage, lift in zip(self.stages, self.lift, strict=True):
            x, active = stage(x, active)
            features.append(lift(x))
        return features, has_sweep
