"""A loss with learnable weights in a training loop of your own: plain PyTorch, no other part of the library.

python examples/own_training.py [--steps 200]
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import depthloss


def batch(size: int = 4) -> tuple[Tensor, Tensor]:
    """Stand-in data: images [B, 3, H, W] whose brightness tells the depth, 5% of the inverse depth (1/m)."""
    y, x = torch.meshgrid(torch.linspace(0, 3, 48), torch.linspace(0, 4, 64), indexing="ij")
    phase = 6 * torch.rand(size, 1, 1, 1)
    inverse_depth = 0.1 + 0.4 * torch.sigmoid(3 * torch.sin(x + phase) * torch.cos(y))
    rgb = inverse_depth * torch.tensor([1.5, 1.0, 0.5]).view(1, 3, 1, 1) + 0.02 * torch.randn(size, 3, 48, 64)
    measured = torch.rand_like(inverse_depth) < 0.05
    return rgb, torch.where(measured, inverse_depth, 0.0)


def main() -> None:
    """Train, and print what the loss reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1), nn.Softplus()
    )
    loss = depthloss.build_loss("sparse-adaptive-multi-domain")
    optimizer = torch.optim.Adam(
        [{"params": net.parameters()}, {"params": loss.parameters(), "weight_decay": 0.0}], lr=1e-2
    )
    for step in range(steps):
        rgb, gt = batch()
        value = loss(net(rgb), gt, progress=step / max(1, steps - 1))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        loss.clamp_parameters_()
        if step % max(1, steps // 5) == 0 or step == steps - 1:
            names = ("structure_loss", "scale_loss", "sigma_structure", "sigma_scale")
            print(
                f"step {step:4d}  total {value:.4f}", *(f"{name} {loss.metrics[name]:.4f}" for name in names)
            )


if __name__ == "__main__":
    main()
