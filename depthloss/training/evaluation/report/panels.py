"""The pictures of a frame in the report: its maps as images with their colour bars, as HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.colors import Colormap, Normalize, to_hex
from PIL import Image

from depthloss.training.drawing.colours import (
    DEPTH_COLOURS,
    ERROR_COLOURS,
    depth_map,
    depth_norm,
    error_map,
    percent,
    relative_error,
    ticks,
)
from depthloss.training.drawing.figures import Sample
from depthloss.training.evaluation.wording import count, metric, number

WIDTH = 560  # widest image, in pixels
KEY_METRICS = ("abs_rel", "rmse", "mae", "silog", "a1")


@dataclass
class Panel:
    """One picture.

    Attributes:
        title: what it shows.
        image: uint8 [h, w, 3].
        note: in small under it.
    """

    title: str
    image: np.ndarray
    note: str = ""


def draw_panels(
    sample: Sample, limit: float, others: Mapping[str, np.ndarray] | None = None, name: str = ""
) -> list[Panel]:
    """Draw a frame: RGB and sparse input (if known), prediction, ground truth, signed relative error.

    With other methods: RGB, ground truth, and of each method the prediction and its error. All depth maps
    share one scale. Invalid pixels are grey.

    Args:
        sample: the frame; no size need be that of another.
        limit: where the scale of the relative errors ends, > 0.
        others: by name, what other methods predict, [H, W] in metres; or None.
        name: of the method whose prediction the sample has, if there are others.
    """
    norm = depth_norm(sample.depth, sample.prediction)

    def depth(title: str, values: np.ndarray) -> Panel:
        return Panel(title, _colour(depth_map(values, WIDTH), DEPTH_COLOURS, norm))

    def error(title: str, prediction: np.ndarray) -> Panel:
        values = error_map(relative_error(prediction, sample.depth), WIDTH)
        return Panel(title, _colour(values, ERROR_COLOURS, Normalize(-limit, limit)), lost(prediction))

    def lost(prediction: np.ndarray) -> str:
        pixels = np.count_nonzero(~np.isfinite(prediction[sample.depth > 0]))
        return f"{count(pixels)} px not finite" if pixels else ""

    rgb = [] if sample.rgb is None else [Panel("RGB", _rgb(sample.rgb))]
    gt = depth("ground truth", sample.depth)
    if others is not None:
        methods = {name: sample.prediction, **others}
        pairs = ((depth(who, values), error(f"error of {who}", values)) for who, values in methods.items())
        return [*rgb, gt, *(panel for pair in pairs for panel in pair)]
    sparse = [] if sample.input_depth is None else [depth("sparse input", sample.input_depth)]
    prediction = depth("prediction", sample.prediction)
    return [*rgb, *sparse, prediction, gt, error("error (pred − gt) / gt", sample.prediction)]


def frame_html(
    sample: Sample,
    row: Mapping[str, Any],
    limit: float,
    others: Mapping[str, tuple[np.ndarray, Mapping[str, Any]]] | None = None,
    place: str = "",
    name: str = "",
    lead: str = "abs_rel",
) -> str:
    """Return the figure of a frame.

    Args:
        sample: the frame.
        row: its row of `Evaluation.frames`; may be empty.
        limit: see `draw_panels`.
        others: by name, the prediction and row of the same frame of other methods; or None.
        place: of the frame among all, such as "worst of 100".
        name: of the method whose the sample is, if there are others.
        lead: the metric that is shown of each method.
    """
    panels = draw_panels(sample, limit, others and {who: one[0] for who, one in others.items()}, name)
    pictures = [_picture(panel) for panel in panels]
    bars = _bars(sample, limit)
    css, key = "panels", f'<div class="key">{bars}</div>'
    wide = f'<div class="key wide">{bars}</div>'
    if others is None:
        facts = [_fact(of, row[of]) for of in dict.fromkeys((lead, *KEY_METRICS)) if of in row]
        if len(panels) == 3:
            css += " row"
        else:
            pictures.insert(1 if sample.input_depth is None else len(pictures), key)
            wide = ""
    else:
        rows = {name: row, **{who: one[1] for who, one in others.items()}}
        facts = [f"{who} {lead} {number(r.get(lead))}" for who, r in rows.items() if r]
        # Columns of two: what is given, then of each method the prediction above its error.
        if sample.rgb is None:
            pictures.insert(1, key)
            wide = ""
        if len(pictures) > 8:
            css += " many"
    if "valid" in row:
        facts.append(f"{count(row['valid'])} valid pixels")
    where = f'<span class="place">{escape(place)}</span>' if place else ""
    return (
        f'<figure class="frame"><figcaption><strong>{escape(sample.name) or "unnamed"}</strong> {where}'
        f'<span class="facts">{" · ".join(map(escape, facts))}</span></figcaption>'
        f'<div class="{css}">{"".join(pictures)}</div>{wide}</figure>'
    )


def png_uri(png: bytes) -> str:
    """Return a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _fact(name: str, value: float | None) -> str:
    unit = metric(name).unit
    return f"{name} {number(value)}" + (f" {unit}" if unit == "m" else "")


def _picture(panel: Panel) -> str:
    file = io.BytesIO()
    Image.fromarray(panel.image).save(file, "PNG")
    height, width = panel.image.shape[:2]
    note = f' <span class="lost">{escape(panel.note)}</span>' if panel.note else ""
    css = " class=coarse" if width < 400 else ""  # few pixels are shown as the squares that they are
    title = escape(panel.title)
    return (
        f'<div class="panel"><img src="{png_uri(file.getvalue())}" alt="{title}" width="{width}" '
        f'height="{height}"{css}><span>{title}{note}</span></div>'
    )


def _bars(sample: Sample, limit: float) -> str:
    norm = depth_norm(sample.depth, sample.prediction)
    depth = _bar("depth", DEPTH_COLOURS, [f"{value:.3g} m" for value in ticks(norm)])
    marks = [percent(value) for value in np.linspace(-limit, limit, 5)]
    return (
        depth
        + _bar("error: blue is too near, red too far", ERROR_COLOURS, marks)
        + ('<p class="swatch"><i></i> no value</p>')
    )


def _bar(title: str, colours: Colormap, marks: list[str]) -> str:
    stops = ",".join(to_hex(colours(x)) for x in np.linspace(0, 1, 17))
    labels = "".join(f"<span>{escape(mark)}</span>" for mark in marks)
    return (
        f'<div class="colourbar"><em>{escape(title)}</em><div class="ramp" style="background:'
        f'linear-gradient(to right,{stops})"></div><div class="marks">{labels}</div></div>'
    )


def _colour(values: np.ndarray, colours: Colormap, norm: Normalize) -> np.ndarray:
    return colours(norm(np.ma.masked_invalid(values)), bytes=True)[..., :3]


def _rgb(rgb: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.round(255 * np.clip(np.nan_to_num(rgb), 0, 1)).astype(np.uint8))
    return np.asarray(image.reduce(k) if (k := -(-image.width // WIDTH)) > 1 else image)
