"""The report of an evaluation, read as a browser reads it."""

import base64
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from depthloss.training.drawing.figures import Sample
from depthloss.training.evaluation.protocol import Protocol
from depthloss.training.evaluation.report import page
from depthloss.training.evaluation.report.page import page_html, write_page
from depthloss.training.evaluation.report.style import STYLE
from depthloss.training.evaluation.result import Evaluation
from depthloss.training.evaluation.wording import number

VOID = {"meta", "img", "line", "path", "br"}
PROTOCOL = Protocol(0.05, 80.0, "garg", "median", flip_tta=True, ranges=(0.0, 1.0, 10.0)).to_dict()
RANGES = (("[0, 1) m", 0.0, 1.0), ("[1, 10) m", 1.0, 10.0), ("[10, 80) m", 10.0, 80.0))


class Reader(HTMLParser):
    """Text, tables and attributes of a page; fails where tags do not fit together."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.text, self.tables, self.attributes = [], "", [], []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "small":
            self.handle_data("|")

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def table(self, first: str) -> dict[str, list[str]]:
        """Return the rows of the table whose first head is `first`, by their first cell."""
        [found] = [t for t in self.tables if t[0][0].strip("\xa0↑↓ ") == first]
        return {row[0].strip("\xa0↑↓ "): row[1:] for row in found}


def frame(index: int, value: float, name: str = "", valid: int = 48, **more) -> dict:
    row = {"name": name or f"frame-{index}", "index": index, "valid": valid, "nonfinite": 0}
    return {**row, "abs_rel": value, "rmse": 10 * value, "mae": 7 * value, "a1": 1 - value, **more}


def picture(row: dict, factor: float = 1.2, sparse: bool = False) -> Sample:
    rng = np.random.default_rng(row["index"])
    depth = rng.uniform(2, 40, (6, 8)) * (rng.random((6, 8)) < 0.8)
    input_depth = depth * (rng.random((6, 8)) < 0.2) if sparse else None
    return Sample(rng.random((6, 8, 3)), depth, factor * depth, input_depth, row["name"], row["index"])


def evaluation(scale: float = 1.0, classes: bool = True, **changes) -> Evaluation:
    frames = [frame(i, scale * (0.03 + 0.04 * i)) for i in range(5)]

    def row(i: int, **keys) -> dict:
        values = {
            "abs_rel": scale * (0.101 + 0.01 * i),
            "mae": scale * (0.5 + i),
            "a1": 0.9 - 0.01 * i / scale,
        }
        return {**keys, "pixels": 1000 + i, **values}

    ranges = [row(i, range=name, low=low, high=high) for i, (name, low, high) in enumerate(RANGES)]
    found = Evaluation(
        name="fine",
        protocol=dict(PROTOCOL),
        summary={
            **{"abs_rel": scale * 0.11, "rmse": scale * 1.1, "silog": 8.25, "a1": 1 - 0.11 * scale},
            **{"edge_abs_rel": scale * 0.3, "images": 5, "empty": 0, "nonfinite": 0},
        },
        ranges=ranges,
        classes=[row(10 + i, **{"class": c}, images=3 + i) for i, c in enumerate(("car", "road"))],
        class_ranges=[{"class": "car", **row(20 + i, range=r[0])} for i, r in enumerate(RANGES[:2])],
        frames=frames,
        samples=[picture(frames[i], 1 + 0.2 * scale) for i in (2, 4, 0)],
        origin={"command": "python evaluate.py a.ckpt", "torch": "2.13", "device": "cpu"},
    )
    if not classes:
        found.classes, found.class_ranges = [], []
    for key, value in changes.items():
        setattr(found, key, value)
    return found


def test_the_page_holds_the_numbers():
    found = evaluation()
    reader = Reader(page_html([found]))
    summary = reader.table("metric")
    for name in ("abs_rel", "rmse", "silog", "a1", "edge_abs_rel"):
        assert summary[name][1] == number(found.summary[name])
    assert summary["rmse"][0] == "m" and summary["images"][1] == "5"
    for key, rows in (("range", found.ranges), ("class", found.classes)):
        table = [t for t in reader.tables if t[0][0] == key][0]
        assert len(table) == 1 + len(rows)
        for row, cells in zip(rows, table[1:], strict=True):
            counts = [f"{row[c]:,}".replace(",", "\u202f") for c in ("pixels", "images") if c in row]
            assert cells == [row[key], *counts, *(number(row[m]) for m in ("abs_rel", "mae", "a1"))]
    matrix = [t for t in reader.tables if t[0][0] == "class"][1]
    assert matrix[0] == ["class", *(r[0] for r in RANGES)]
    assert matrix[1] == ["car", "0.3010|1\u202f020 px", "0.3110|1\u202f021 px", "–"]
    assert matrix[2] == ["road", "–", "–", "–"]
    worst = reader.table("frame")
    assert list(worst)[1:] == [f"frame-{i}" for i in (4, 3, 2, 1, 0)]
    assert worst["frame-4"] == ["4", "48", "0.1900", "1.900", "1.330", "0.8100"]
    assert reader.table("")["Good"] == ["[0.05, 0.1)", "1", "20.0 %"]
    assert "abs_rel 0.1100 over 5 images." in reader.text
    for words in ("crop garg", "0.05 m < gt < 80 m", "by its median", "python evaluate.py a.ckpt", "2.13"):
        assert words in reader.text


def test_bars_of_the_distances():
    reader = Reader(page_html([evaluation(), evaluation(2.0, name="base")]))
    drawn = [t for t in reader.tables if t[0][0] == "[0, 1) m" and len(t[0]) == 2]
    assert [row[1] for row in drawn[0]] == ["0.10100.2020", "0.11100.2220", "0.12100.2420"]
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", page_html([evaluation()]))]
    np.testing.assert_allclose(widths[:3], 80 * np.array([101, 111, 121]) / 121, atol=0.006)


def test_differences_from_the_baseline():
    html = page_html([evaluation(), evaluation(1.1, name="base")])
    reader = Reader(html)
    summary = reader.table("metric")
    assert summary["abs_rel"][1:3] == ["0.1100", "0.1210"]
    assert summary["abs_rel"][3].startswith("−0.0110 (−9.09 %) ✓|95 %: [−0.01")
    assert summary["a1"][3].startswith("+0.0110 (+1.25 %) ✓|95 %: [+0.00")
    assert summary["silog"][1:4] == ["8.250", "8.250", "±0 (±0 %) ="], "no frame has it: no interval"
    assert "base 0.1210: −0.0110 (−9.09 %), better" in reader.text
    for words in ("Against base: Of 5 metrics 4 better, 1 same.", "difference leaves out 0 in 3 of 3."):
        assert words in reader.text
    assert "On 5 of 5 images abs_rel is better." in reader.text
    assert reader.table("range")["[0, 1) m"][1] == "0.1010|−0.0101 ✓"
    assert (
        "<td class=better>−0.0110 (−9.09 %) ✓<small>95 %: " in html
        and '<small class="better">−0.0101 ✓</small>' in html
    )
    reader = Reader(page_html([evaluation(1.1), evaluation()]))
    assert reader.table("metric")["abs_rel"][3].startswith("+0.0110 (+10.0 %) ✗|")
    assert reader.table("range")["[0, 1) m"][1] == "0.1111|+0.0101 ✗"


def test_frames_of_both_side_by_side():
    candidate, baseline = evaluation(), evaluation(1.5, name="base")
    titles = [*("RGB", "ground truth", "fine", "error of fine", "base", "error of base")]
    reader = Reader(page_html([candidate, baseline]))
    assert [v for tag, key, v in reader.attributes if (tag, key) == ("img", "alt")] == 3 * titles
    assert "fine abs_rel 0.1900 · base abs_rel 0.2850 · 48 valid pixels" in reader.text
    baseline.samples = baseline.samples[1:2]
    reader = Reader(page_html([candidate, baseline]))
    assert "no prediction of base to show" in reader.text
    alone = ["RGB", "prediction", "ground truth", "error (pred − gt) / gt"]
    assert [v for tag, key, v in reader.attributes if (tag, key) == ("img", "alt")] == titles + 2 * alone


def test_frames_are_in_order_and_placed():
    facts = "abs_rel 0.1900 · rmse 1.900 m · mae 1.330 m · a1 0.8100 · 48 valid pixels"
    assert facts in Reader(page_html([evaluation()])).text
    text = Reader(page_html([evaluation()])).text
    places = [text.index(x) for x in ("rank 1 of 5, the worst", "rank 3 of 5", "rank 5 of 5, the best")]
    assert places == sorted(places)


@pytest.mark.parametrize("name", ["<b>&.png", "\"><script>alert('x')</script>", "x' onload='y"])
def test_names_are_escaped(name):
    found = evaluation(name=name)
    found.frames[4]["name"] = name
    found.samples = [picture(found.frames[4])]
    found.classes[0]["class"] = found.class_ranges[0]["class"] = name
    found.ranges[0]["range"] = name
    found.origin = {name: name}
    found.protocol["text"] = name
    reader = Reader(page_html([found, evaluation(name=name)]))
    assert not {tag for tag, _, _ in reader.attributes} & {"b", "script"}
    assert not [key for _, key, _ in reader.attributes if key.startswith("on")]
    assert reader.text.count(name) > 12
    for table in ("frame", "range"):
        assert name in reader.table(table)


def test_nothing_is_fetched_or_run(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss_epoch\n0,1\n1,0.5\n")
    html = page_html([evaluation(), evaluation(2.0)], tmp_path / "metrics.csv")
    reader = Reader(html)
    tags = {tag for tag, _, _ in reader.attributes}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base"}
    for tag, key, value in reader.attributes:
        if key in ("src", "href", "xlink:href", "action", "data"):
            assert value.startswith("data:image/png;base64," if tag == "img" else "#s")
    outside = re.sub(r'"data:image/png;base64,[^"]*"', "", html)
    assert not re.search(r"https?:|//|@import|url\(|javascript", outside)
    assert "default-src 'none'" in dict((k, v) for t, k, v in reader.attributes if t == "meta")["content"]
    ids = {value for _, key, value in reader.attributes if key == "id"}
    assert {v[1:] for t, k, v in reader.attributes if (t, k) == ("a", "href")} == ids


def test_the_images_are_whole():
    found = evaluation()
    sizes = []
    for tag, key, value in Reader(page_html([found])).attributes:
        if (tag, key) == ("img", "src"):
            with Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2]))) as image:
                image.load()
                sizes.append(image.size)
    assert sizes == 12 * [(8, 6)]


def test_curves_of_the_run(tmp_path):
    file = tmp_path / "metrics.csv"
    assert "run directory is not known" in Reader(page_html([evaluation()])).text
    file.write_text("step,other\n0,1\n")
    assert "nothing to draw" in Reader(page_html([evaluation()], curves=file)).text
    file.write_text("step,train/loss_epoch,lr/Depth\n0,1,1e-3\n1,0.5,1e-4\n")
    assert 'alt="curves of the training"' in page_html([evaluation()], curves=file)


def test_without_classes():
    text = Reader(page_html([evaluation(classes=False), evaluation(classes=False)])).text
    assert "By class" not in text and "the data has no classes" in text
    assert "By class" in Reader(page_html([evaluation(), evaluation(classes=False)])).text


def test_nothing_was_measured():
    nan = math.nan
    found = evaluation(classes=False, samples=[], frames=[frame(0, nan, valid=0), frame(1, nan, valid=0)])
    found.summary = {"abs_rel": nan, "rmse": nan, "images": 0, "empty": 2, "nonfinite": 0}
    found.ranges = [{"range": "[0, 80) m", "low": 0.0, "high": 80.0, "pixels": 0, "abs_rel": nan, "mae": nan}]
    for methods in ([found], [found, found]):
        reader = Reader(page_html(methods))
        assert "abs_rel has no value over 0 images" in reader.text
        for words in (
            "2 images have no pixel that counts",
            "No image has a pixel",
            "no ground truth in [0, 80) m",
        ):
            assert words in reader.text
        assert "There are no pictures" in reader.text and "Over the images" not in reader.text
        assert reader.table("metric")["abs_rel"][1] == "–" and reader.table("range")["[0, 80) m"][1] == "–"
        assert "NaN" not in reader.text and "nan" not in reader.text


def test_bare_evaluation():
    reader = Reader(page_html([Evaluation("bare", {}, {})]))
    assert "Evaluation of bare" in reader.text and "abs_rel has no value" in reader.text


def test_predictions_that_are_not_finite():
    found = evaluation()
    found.frames[1] |= {"abs_rel": math.nan, "rmse": math.nan, "nonfinite": 7}
    found.frames[1]["name"] = "lost"
    found.summary |= {"abs_rel": math.nan, "nonfinite": 7}
    found.ranges[1]["abs_rel"] = math.nan
    broken = picture(found.frames[1])
    broken.prediction[0, :] = np.inf
    found.samples.append(broken)
    reader = Reader(page_html([found, evaluation(1.1)]))
    assert "7 predictions of fine at pixels that count are not finite, in 1 image: lost" in reader.text
    assert "Over the 4 images without such a prediction abs_rel of fine is 0.1200" in reader.text
    assert reader.table("metric")["abs_rel"][1:4] == ["NaN", "0.1210", "– ✗"]
    assert reader.table("range")["[1, 10) m"][1] == "NaN| ✗"
    assert list(reader.table("frame"))[1] == "lost", "the worst"
    assert "rank 1 of 5, the worst" in reader.text
    assert f"{np.count_nonzero(broken.depth[0])} px not finite" in reader.text


def test_edges_that_were_left_out():
    found = evaluation(origin={"edge_images": 3})
    assert "measured on 3 of 5 images" in Reader(page_html([found])).text
    del found.summary["edge_abs_rel"]
    assert "they need dense ground truth" in Reader(page_html([found])).text
    found.protocol["edges"] = False
    assert "the protocol leaves them out" in Reader(page_html([found])).text


def test_a_baseline_that_is_not_alike():
    other = evaluation(frames=[frame(i, 0.1) for i in range(4)])
    other.protocol = {**PROTOCOL, "crop": "none", "ranges": [0.0, 1.0, 10.0]}
    text = Reader(page_html([evaluation(), other])).text
    assert "fine has another protocol, so the differences mean little: crop garg against none." in text
    assert "1 image was measured for only one of fine and fine" in text
    assert "What was not measured" in text
    assert "has another protocol" not in Reader(page_html([evaluation(), evaluation()])).text


def test_a_baseline_read_back_from_json():
    found = evaluation()
    found.summary["silog"] = math.nan
    again = Evaluation(**json.loads(json.dumps(found.to_dict())))
    reader = Reader(page_html([evaluation(), again]))
    assert reader.table("metric")["silog"][1:4] == ["8.250", "NaN", "– ✓"]


def test_the_page_is_whole_or_not_there(tmp_path, monkeypatch):
    out = tmp_path / "sub" / "report.html"
    write_page(out, [evaluation()])
    assert list(out.parent.iterdir()) == [out]
    before = out.read_text(encoding="utf-8")
    assert before == page_html([evaluation()]) and before.endswith("</html>\n")

    def full(self, text, encoding):
        self.write_bytes(text[:100].encode())
        raise OSError("no space left")

    monkeypatch.setattr(page.Path, "write_text", full)
    with pytest.raises(OSError, match="no space left"):
        write_page(out, [evaluation(2.0)])
    assert list(out.parent.iterdir()) == [out] and out.read_text(encoding="utf-8") == before


def luminance(colour: str) -> float:
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_text_is_legible_in_light_dark_and_print():
    light = dict(re.findall(r"--(\w+):\s*(#\w{6})", STYLE[: STYLE.index("@media")]))
    for media in ("", "prefers-color-scheme: dark", "@media print"):
        part = STYLE[STYLE.index(media) :] if media else ""
        theme = light | dict(re.findall(r"--(\w+):\s*(#\w{6})", part[: part.index("}")] if part else ""))
        for ink in ("text", "soft", "better", "worse"):
            for paper in ("page", "card", "head", "note"):
                a, b = sorted((luminance(theme[ink]), luminance(theme[paper])))
                assert (b + 0.05) / (a + 0.05) >= 4.5, (media, ink, paper)
