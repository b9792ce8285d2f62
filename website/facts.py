"""What a loss does to scaled, shifted, mirrored and empty maps: found by evaluating it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import depthloss
from depthloss import DepthLoss

SHAPE = (2, 1, 48, 64)
Maps = tuple[Tensor, Tensor, Tensor]


def evaluate(loss: DepthLoss, pred: Tensor, gt: Tensor, mask: Tensor | None = None) -> Tensor:
    """Its value on the reference, so that a site needs no compiler; a confidence is 1 everywhere."""
    extra = {"confidence": torch.ones_like(gt)} if loss.spec.confidence else {}
    with depthloss.use_backend("reference"):
        return loss(pred, gt, mask, **extra)


def _maps(loss: DepthLoss) -> Maps:
    """A prediction up to a quarter off, of 1 to 9 m, in what the loss takes; 70% valid."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.rand(SHAPE, generator=generator, dtype=torch.float64)

    # The two images differ in how far off they are, so that their order and their weight show.
    gt = 1.0 + 8.0 * draw()
    pred = gt * (1.0 + torch.tensor([0.1, 0.25])[:, None, None, None] * (draw() - 0.4))
    if loss.input_domain == "inverse depth":
        pred, gt = 1.0 / pred, 1.0 / gt
    return pred, gt, draw() < 0.7


CHANGES: dict[str, Callable[[Tensor, Tensor, Tensor], Maps]] = {
    "prediction × 2": lambda p, g, m: (2 * p, g, m),
    "prediction + 0.1": lambda p, g, m: (p + 0.1, g, m),
    "both × 2": lambda p, g, m: (2 * p, 2 * g, m),
    "both + 0.1": lambda p, g, m: (p + 0.1, g + 0.1, m),
    "all mirrored": lambda p, g, m: tuple(x.flip(-1) for x in (p, g, m)),
    "invalid pixels of gt are NaN": lambda p, g, m: (p, torch.where(m, g, torch.nan), m),
}
FACTORS = {2.0: "× 2", 4.0: "× 4", 0.5: "× ½", 0.25: "× ¼"}


def change(new: float, old: float) -> str:
    """A value beside the one before, in words."""
    ratio = new / old
    for factor, words in ({1.0: "unchanged"} | FACTORS).items():
        error = abs(ratio / factor - 1)
        if error < 1e-5:
            return words if error < 1e-12 else f"{words}, to {error:.0e}"
    return f"changes (× {ratio:.3g})"


def invariances(loss: DepthLoss) -> list[tuple[str, str]]:
    """What is done to the maps, and what it does to the value."""
    maps = _maps(loss)
    old = evaluate(loss, *maps).item()
    rows = [(name, change(evaluate(loss, *f(*maps)).item(), old)) for name, f in CHANGES.items()]
    each = [evaluate(loss, *(x[b : b + 1] for x in maps)).item() for b in range(SHAPE[0])]
    return [*rows, ("images one by one, then their mean", change(sum(each) / len(each), old))]


def _with_gradient(loss: DepthLoss, pred: Tensor, gt: Tensor, mask: Tensor) -> str:
    pred = pred.clone().requires_grad_()
    value = evaluate(loss, pred, gt, mask)
    (grad,) = torch.autograd.grad(value, pred)
    largest = grad.abs().max().item()
    gradient = "gradient 0" if largest == 0 else f"gradient finite, largest {largest:.2g}"
    assert value.isfinite() and grad.isfinite().all()
    return f"{value.item():.4g}, {gradient}"


def empty_masks(loss: DepthLoss) -> list[tuple[str, str]]:
    """A kind of mask, and what the loss makes of it."""
    pred, gt, mask = _maps(loss)
    nothing, one, half = torch.zeros_like(mask), torch.zeros_like(mask), mask.clone()
    one[0, 0, 20, 30] = True
    half[1] = False
    single = evaluate(loss, *(x[:1] for x in (pred, gt, mask))).item()
    rows = [
        ("no valid pixel in the batch", _with_gradient(loss, pred, gt, nothing)),
        (
            "one image of two is empty",
            f"{change(evaluate(loss, pred, gt, half).item(), single)}, compared with the other image alone",
        ),
        ("one valid pixel", _with_gradient(loss, pred, gt, one)),
        ("a perfect prediction", _with_gradient(loss, gt, gt, mask)),
    ]
    least = max(group.min_valid for group in loss.spec.groups)
    if least:
        rows.append(
            (
                f"fewer than {least} valid pixels in the batch",
                "the part with this minimum is 0" if len(loss.spec.groups) > 1 else "0",
            )
        )
    for term in loss.spec.terms:
        if getattr(term, "align", None) == "packnet-trim":
            rows.append((f"fewer than {term.min_pixels} valid pixels in an image", "the image counts 0"))
    return rows


def used_by(name: str) -> list[str]:
    """The recipes that build a loss by its name."""
    return [recipe for recipe, found in depthloss.RECIPES.items() if found.loss == name]
