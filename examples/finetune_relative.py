"""Fine-tune a relative depth network as those of Hugging Face, whose classes refuse to compute a loss.

python examples/finetune_relative.py [--steps 100]

`DepthAnythingForDepthEstimation` and its siblings return `predicted_depth` [B, H, W], an inverse depth up to
scale and shift, and raise where `labels` are given. Take such a model for `Toy` below, and what its image
processor makes for `batch`.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import torch
from torch import Tensor, nn

import depthloss


class Toy(nn.Module):
    """Stands for `transformers.AutoModelForDepthEstimation.from_pretrained(...)`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 1, 5, padding=2), nn.Softplus()
        )

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        """As those classes do."""
        if labels is not None:
            raise NotImplementedError("Training is not implemented yet")
        return SimpleNamespace(predicted_depth=self.net(pixel_values)[:, 0])


def batch(size: int = 4) -> tuple[Tensor, Tensor]:
    """Stand-in data: images, and depth in metres [B, H, W], 0 where there is none."""
    y, x = torch.meshgrid(torch.linspace(0, 3, 48), torch.linspace(0, 4, 64), indexing="ij")
    phase = 6 * torch.rand(size, 1, 1)
    depth = 2 + torch.sin(x + phase) * torch.cos(y)
    rgb = torch.stack([1 / depth, depth / 3, torch.ones_like(depth)], 1) + 0.02 * torch.randn(size, 3, 48, 64)
    return rgb, torch.where(torch.rand_like(depth) < 0.7, depth, 0.0)


def main() -> None:
    """Train, and print what the loss reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    model = Toy()
    loss = depthloss.recipe("depth-anything-relative")  # of inverse depth, up to scale and shift
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        rgb, depth = batch()
        predicted = model(pixel_values=rgb).predicted_depth
        value = loss(predicted, depthloss.to_inverse_depth(depth), mask=depth > 0)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if step in (0, steps - 1):
            found = {name: round(x.item(), 4) for name, x in loss.metrics.items()}
            print(f"step {step}: loss {value.item():.4f} {found}")


if __name__ == "__main__":
    main()
