"""Small inputs for the tests of the network."""

import torch

H, W = 64, 96


def sweep(batch=2, height=H, width=W, density=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    depth = 1 + 50 * torch.rand(batch, 1, height, width, generator=generator)
    return depth * (torch.rand(batch, 1, height, width, generator=generator) < density)


def image(batch=2, height=H, width=W, seed=0):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))
