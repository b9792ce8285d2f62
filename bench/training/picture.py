"""Draw the README's picture, docs/pictures/losses.png.

    python -m bench.training.picture [--out FILE] [--steps 300]

Above: a small network fitted to one rendered street with ground truth at 5% of the pixels, first with a mean
over all pixels, where a missing pixel counts as depth 0, then with the mask. Below: two predictions with the
same mean error, and the map r whose edges the gradient term measures.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import depthloss
from bench.harness import ROOT
from bench.training.sparse_gradient import predictions
from depthloss.training.data import SyntheticDataset

SIZE, DENSITY, FRAME = (96, 320), 0.05, 3


class Network(nn.Module):
    """Image -> inverse depth, with three levels and the position of each pixel."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        conv = lambda i, o, s=1: nn.Sequential(nn.Conv2d(i, o, 3, s, 1), nn.ReLU())  # noqa: E731
        self.down = nn.ModuleList([conv(5, width), conv(width, width, 2), conv(width, width, 2)])
        self.up = nn.ModuleList([conv(2 * width, width), conv(2 * width, width)])
        self.out = nn.Conv2d(width, 1, 3, 1, 1)

    def forward(self, rgb: Tensor) -> Tensor:
        """Inverse depth [1, 1, H, W] of an image [1, 3, H, W]."""
        h, w = rgb.shape[2:]
        y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        levels, z = [], torch.cat([rgb, x[None, None], y[None, None]], 1)
        for layer in self.down:
            z = layer(z)
            levels.append(z)
        for layer, skip in zip(self.up, levels[-2::-1], strict=True):
            z = layer(torch.cat([F.interpolate(z, size=skip.shape[2:]), skip], 1))
        return F.softplus(self.out(z)) / 10


def fit(rgb: Tensor, gt: Tensor, loss: depthloss.losses.DepthLoss, steps: int) -> Tensor:
    """The inverse depth of one image by a network that was fitted to it; gt in 1/m."""
    torch.manual_seed(0)
    net = Network()
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(net(rgb), gt).backward()
        optimiser.step()
    return net(rgb).detach()


def error(pred: Tensor, depth: Tensor) -> float:
    """abs_rel of an inverse depth over all of the dense ground truth."""
    valid = depth > 0
    return ((1 / pred - depth).abs() / depth)[valid].mean().item()


def main(argv: list[str]) -> int:
    """Fit, draw, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pictures" / "losses.png")
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args(argv)
    streets = [
        SyntheticDataset(length=8, image_shape=SIZE, min_depth=0.5, max_depth=80.0, train=False, gt=gt).load(
            FRAME
        )
        for gt in ("dense", DENSITY)
    ]
    rgb = torch.from_numpy(streets[0].rgb.copy()).permute(2, 0, 1)[None].float() / 255
    depth, sparse = (torch.from_numpy(s.depth.copy())[None, None] for s in streets)
    gt = depthloss.to_inverse_depth(sparse)
    naive = fit(rgb, gt, depthloss.L1Loss(), options.steps)
    masked = fit(rgb, gt, depthloss.build_loss("sparse-l1"), options.steps)
    smooth, sharp, _ = predictions(depth.double())
    loss = depthloss.build_loss("sparse-scale-adaptive")
    values = []
    for pred in (smooth, sharp):
        loss(pred, depthloss.to_inverse_depth(depth.double()))
        values.append((loss.metrics["scale_adaptive/relative"].item(), loss.metrics["loss_sg"].item()))
    draw(options.out, rgb, sparse, naive, masked, smooth, sharp, values, depth)
    print(f"wrote {options.out}")
    return 0


def draw(out, rgb, sparse, naive, masked, smooth, sharp, values, depth) -> None:
    """Write the picture."""
    matplotlib.use("Agg")
    figure, axes = plt.subplots(2, 4, figsize=(16, 3.6), constrained_layout=True)
    shown = F.max_pool2d(1 / sparse.clamp(min=1e-6) * (sparse > 0), 3, 1, 1)
    near = (1 / depth)[depth > 0].quantile(0.98).item()
    colours = plt.get_cmap("magma").with_extremes(under="white")

    def inverse(axis, x, title):
        axis.imshow(x[0, 0].float(), cmap=colours, vmin=1e-3, vmax=near)
        axis.set_title(title, fontsize=10)

    axes[0, 0].imshow(rgb[0].permute(1, 2, 0))
    axes[0, 0].set_title("image", fontsize=10)
    inverse(axes[0, 1], shown, f"ground truth: {DENSITY:.0%} of the pixels")
    inverse(axes[0, 2], naive.clamp(min=2e-3), "learnt without a mask")
    inverse(axes[0, 3], masked, f"learnt with a mask: abs_rel {error(masked, depth):.0%}")
    for i, (pred, name) in enumerate(((smooth, "edges lost"), (sharp, "edges kept"))):
        relative, gradient = values[i]
        inverse(
            axes[1, 2 * i],
            pred * (depth > 0),
            f"{name}: mean error {relative:.3f}, gradient term {gradient:.2f}",
        )
        residual = (1 / pred - depth).abs() * (depth > 0)
        axes[1, 2 * i + 1].imshow(residual[0, 0], cmap="Greys", vmin=0, vmax=10)
        axes[1, 2 * i + 1].set_title("its error, in metres (black: 10)", fontsize=10)
    for axis in axes.flat:
        axis.set_axis_off()
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.stem}.part{out.suffix}")
    figure.savefig(part, dpi=80)
    os.replace(part, out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
