"""Pictures of the site, made at each build: a loss on a toy edge, and the data flow of the engine."""

from __future__ import annotations

import io
import re

import matplotlib
import torch
from torch import Tensor

from depthloss import DepthLoss

from .facts import evaluate

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

HEIGHT, WIDTH, NEAR, FAR = 32, 64, 2.0, 4.0
# The same file from the same data.
STYLE = {"svg.hashsalt": "depthloss", "svg.fonttype": "none", "font.size": 9}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False}


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    plt.close(figure)
    return out.getvalue()


def edge(blur: float = 0.0, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    """Depth [1, 1, H, W] of a step from 2 to 4 m, its ramp `blur` pixels wide."""
    x = torch.arange(WIDTH, dtype=torch.float64) + 0.5 - WIDTH / 2 - shift
    step = (x > 0).double() if blur == 0 else (x / blur + 0.5).clamp(0, 1)
    return (scale * (NEAR + (FAR - NEAR) * step)).expand(1, 1, HEIGHT, WIDTH).clone()


PREDICTIONS = {
    "blurred over 12 pixels": {"blur": 12.0},
    "shifted by 3 pixels": {"shift": 3.0},
    "10% too far": {"scale": 1.1},
}


def _value(loss: DepthLoss, depth: Tensor) -> tuple[float, Tensor]:
    """The loss against the sharp edge, and its gradient times the number of pixels."""
    inverse = loss.input_domain == "inverse depth"
    pred, gt = ((1.0 / x if inverse else x) for x in (depth, edge()))
    pred = pred.requires_grad_()
    value = evaluate(loss, pred, gt)
    (grad,) = torch.autograd.grad(value, pred)
    # A loss that is invariant to a change leaves rounding.
    return value.item() if value.abs() > 1e-9 else 0.0, grad * grad.numel()


def loss_on_an_edge(loss: DepthLoss) -> str:
    """Three predictions of an edge, the gradient along it, and the value as they get worse; SVG."""
    inverse = loss.input_domain == "inverse depth"
    with matplotlib.rc_context(STYLE):
        figure = plt.figure(figsize=(6.2, 6.6))
        grid = figure.add_gridspec(3, 2, left=0.11, right=0.98, top=0.96, bottom=0.07, hspace=0.5)
        profile, slope = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, :])
        profile.plot(edge()[0, 0, 0], color="black", linewidth=2.2, label="ground truth")
        for (name, options), dashes in zip(PREDICTIONS.items(), ("-", "--", ":"), strict=True):
            value, grad = _value(loss, edge(**options))
            line = profile.plot(edge(**options)[0, 0, 0], dashes, label=f"{name}: loss {value:.3g}")
            slope.plot(-grad[0, 0, HEIGHT // 2], dashes, color=line[0].get_color())
        profile.set(ylabel="depth, m", title="A row of three predictions", xlim=(0, WIDTH - 1))
        profile.legend(fontsize=8, frameon=False)
        unit = "1/m" if inverse else "m"
        slope.axhline(0, color="grey", linewidth=0.6)
        slope.set(
            xlim=(0, WIDTH - 1),
            xlabel="pixel of a row",
            ylabel=f"−∂L/∂p × pixels, per {unit}",
            title=f"Where it pushes the {'inverse depth' if inverse else 'depth'} predicted: up is larger",
        )
        for column, (label, key, values) in enumerate(
            (
                ("width of the blur, pixels", "blur", torch.linspace(0, 24, 13)),
                ("factor of the prediction", "scale", torch.linspace(0.7, 1.3, 25)),
            )
        ):
            axes = figure.add_subplot(grid[2, column])
            losses = [_value(loss, edge(**{key: float(v)}))[0] for v in values]
            axes.plot(values, losses, color="black")
            if max(losses) - min(losses) < 1e-9:
                axes.set_ylim(losses[0] - 1, losses[0] + 1)
            axes.set(xlabel=label, ylabel="loss" if column == 0 else None)
            axes.ticklabel_format(useOffset=False)
        return _svg(figure)


# Columns and rows of the boxes of the flowchart in docs/engine.md, which has the labels and the arrows.
PLACES = {
    "inputs": (0, 2.3),
    "weights": (2, 0),
    "moments": (1, 1),
    "pyramid": (1, 2),
    "sobel": (1, 3),
    "finish": (2, 1),
    "loss": (3, 1),
    "backward": (2, 3),
    "gradient": (3, 2.25),
    "dp": (4, 2.25),
}


def flowchart(text: str) -> str:
    """A flowchart as Mermaid writes it, `a["label"] -->|text| b`, as SVG.

    Raises:
        KeyError: a box that has no place in `PLACES`.
    """
    if missing := set(re.findall(r'(\w+)\["', text)) - PLACES.keys():
        raise KeyError(f"boxes of the flowchart without a place in website/figures.py: {sorted(missing)}")
    labels = dict(re.findall(r'(\w+)\["([^"]+)"\]', text))
    plain = re.sub(r'\["[^"]+"\]', "", text)
    arrows = re.findall(r"^\s*(\w+)\s*(-->|-\.->)\s*(?:\|([^|]+)\|)?\s*(\w+)", plain, re.M)
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(9.2, 3.6))
        figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
        boxes = {}
        for name, label in labels.items():
            column, row = PLACES[name]
            boxes[name] = axes.text(
                2.3 * column,
                -row,
                label.replace(", log", ",\nlog"),
                ha="center",
                va="center",
                bbox={"boxstyle": "round,pad=0.5", "facecolor": "#e8eefc", "edgecolor": "#3f51b5"},
            )
        for begin, kind, label, end in arrows:
            (x0, y0), (x1, y1) = boxes[begin].get_position(), boxes[end].get_position()
            axes.annotate(
                "",
                (x1, y1),
                (x0, y0),
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": "#555555",
                    "linestyle": "--" if "." in kind else "-",
                    "patchA": boxes[begin].get_bbox_patch(),
                    "patchB": boxes[end].get_bbox_patch(),
                    "shrinkA": 2,
                    "shrinkB": 2,
                },
            )
            if label:
                near = 0.35 if label == "codes" else 0.5
                at = (x0 + near * (x1 - x0), y0 + near * (y1 - y0))
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
                axes.text(*at, label, ha="center", va="center", fontsize=7.5, color="#333333", bbox=box)
        axes.set(xlim=(-0.9, 2.3 * 4 + 0.8), ylim=(-3.5, 0.5))
        axes.axis("off")
        return _svg(figure)
