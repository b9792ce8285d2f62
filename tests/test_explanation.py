"""`depthloss.explain`: exact numbers and texts."""

from __future__ import annotations

import copy
import math
import re
from pathlib import Path

import pytest
import torch

import depthloss as dl
from depthloss import dispatch
from depthloss.explanation import Level, Range, Term
from depthloss.losses.registry import LOSSES

from . import cases

P, G = cases.maps(torch.float64)
M = cases.mask("70%")
NAMES = (Path(__file__).parents[1] / "docs" / "use.md").read_text(encoding="utf-8")
GRADIENTS = ("gradient", "gradient_matching", "loss_sg", "gradient_component")
IN_METRES = "this loss expects depth in metres"
IN_INVERSE = "this loss expects inverse depth (1/m)"
RECIPROCAL = (
    "pred looks like the reciprocal of gt: their medians are {} and {}, "
    "so one seems to be metres, the other 1/m"
)
BOTH = "pred and gt look like {0}, with medians of {1} and {1}: "
CPU = dispatch.backend_status("cpu") is None


def warnings(loss="sparse-l1", p=P, g=G, m=None, **forward):
    loss = dl.build_loss(loss) if isinstance(loss, str) else loss
    return list(dl.explain(loss, p, g, m, **forward).warnings)


def test_the_table():
    gt = torch.full((2, 1, 3, 4), 4.0)
    gt[0, 0, 0] = torch.tensor([1.0, 2.0, 0.0, 0.0])
    gt[1] = 0.0
    loss = dl.build_loss("sparse-gradient", backend="reference", scales=(1, 2))
    found = dl.explain(loss, gt + 1.0, gt)
    assert (found.valid, found.pixels, found.expects) == (10, 24, "depth")
    assert found.pred == Range(2.0, 5.0, 5.0) and found.gt == Range(1.0, 4.0, 4.0)
    assert found.levels == (Level(1, 10, 24), Level(2, 1, 4))
    assert (found.backend, found.reason) == ("reference", "it was asked for by name")
    assert found.terms == (Term("gradient", found.total, 1.0, 1.0),)
    assert str(found) == (
        f"MultiScaleGradientLoss = {found.total:.6g}\n"
        "\n"
        "valid    10 of 24 pixels (41.7%)\n"
        "expects  depth in metres\n"
        "backend  reference: it was asked for by name\n"
        "\n"
        "valid pixels  min  median  max\n"
        "pred            2       5    5\n"
        "gt              1       4    4\n"
        "\n"
        "term      value  weight   share\n"
        f"gradient  {found.total:5.4g}       1  100.0%\n"
        "\n"
        "level  kept  cells\n"
        "1        10     24\n"
        "2         1      4\n"
        "kept: responses whose cell is more than half valid\n"
        "\n"
        "warnings\n"
        "- no pixel is valid in image 1"
    )


@pytest.mark.parametrize("name", cases.LOSSES)
def test_the_terms_are_the_total(name):
    """Of every loss, at any point of a training: the summands are those of the metrics, and add up."""
    loss = cases.LOSSES[name]().double()
    with torch.no_grad():
        for i, s in enumerate(loss.parameters()):
            s.fill_((0.7, -30.0)[i])  # One of them beyond its bound.
    for forward in ({}, {"progress": 0.3, "epoch": 7}, {"progress": None}):
        value = loss(P, G, M, **forward)
        found = dl.explain(loss, P, G, M, **forward)
        assert found.total == value.item() and found.loss == type(loss).__name__
        assert sum(t.value * t.weight for t in found.terms) == pytest.approx(found.total, rel=1e-12)
        assert sum(t.share for t in found.terms) == pytest.approx(1.0, rel=1e-12)
        named = {t.name: t.value for t in found.terms if not t.name.startswith("log_var_")}
        assert named == {name: loss.metrics[name].item() for name in named}
        kept = {f"gradient/support_{x.level}": x.kept for x in found.levels}
        assert kept == {k: v.item() for k, v in loss.metrics.items() if k.startswith("gradient/support")}
        assert all(0 <= x.kept <= x.cells for x in found.levels)
    weight = sum(t.weight for t in found.terms if t.name in GRADIENTS or t.name.endswith("_grad"))
    assert loss.gradient_weight(None) == pytest.approx(weight)


@pytest.mark.parametrize("name", dl.available_losses())
def test_the_loss_is_left_as_it_is(name):
    loss = dl.build_loss(f"sparse-{name}").double()
    for no_grad in (False, True):
        loss(P * 1.1, G, M)
        before, state = dict(loss.metrics), copy.deepcopy(loss.state_dict())
        attributes, rng = {k: v for k, v in vars(loss).items() if k != "_metrics"}, torch.get_rng_state()
        loss.register_forward_hook(lambda *_: pytest.fail("a hook ran"))
        p = P.clone().requires_grad_()
        with torch.set_grad_enabled(not no_grad):
            dl.explain(loss, p, G, M)
        assert loss.metrics == before and torch.equal(torch.get_rng_state(), rng) and p.grad is None
        assert loss.state_dict().keys() == state.keys() and loss.training
        assert all(torch.equal(v, state[k]) for k, v in loss.state_dict().items())
        assert {k: v for k, v in vars(loss).items() if k != "_metrics"} == attributes
        loss._forward_hooks.clear()


def test_the_domain_that_each_loss_expects():
    rows = re.findall(r"^\| (`.*?)\|.*\| ([a-z ]+) \|$", NAMES, re.M)
    table = {name: domain for names, domain in rows for name in re.findall(r"`([a-z0-9-]+)`", names)}
    for name, cls in LOSSES.items():
        assert cls.input_domain == table[name]
        assert dl.explain(dl.build_loss(name), P, G).expects == table[name]
        assert dl.SupervisedLoss(name).loss_func.input_domain == (
            "either" if table[name] == "either" else "inverse depth"
        )


def test_the_backend_and_why():
    def ran(loss, g=G):
        found = dl.explain(loss, P, g)
        return found.backend, found.reason

    why = "backend 'cpu' is not used: this loss has no fused form on it"
    assert ran(cases.unfused()) == ("reference", why)
    assert ran(dl.SSILoss(backend="reference")) == ("reference", "it was asked for by name")
    if not CPU:
        assert ran(dl.SSILoss())[1] == f"backend 'cpu' is not used: {dispatch.backend_status('cpu')}"
        return
    assert ran(dl.SSILoss()) == ("cpu", "it is the fastest for these tensors")
    assert ran(dl.SSILoss(backend="cpu")) == ("cpu", "it was asked for by name")
    with dl.use_backend("reference"):
        assert ran(dl.SSILoss(backend="cpu"))[0] == "reference"
    reason = "backend 'cpu' is not used: gt requires a gradient, which only the reference backend computes; "
    assert ran(dl.SSILoss(), G.clone().requires_grad_()) == ("reference", reason + "detach gt")
    with torch.inference_mode():
        g = G.clone()
    assert ran(dl.SSILoss(), g)[0] == "cpu"  # Nothing is saved for a backward.
    with pytest.raises(RuntimeError, match="backend='cpu' cannot run: this loss has no fused form on it"):
        dl.explain(cases.unfused(backend="cpu"), P, G)


@pytest.mark.parametrize(
    ("name", "kept", "levels"),
    [
        # The residual is 0 at invalid pixels, none of 6 x 8 and 3 x 4 cells (without a border) is left out.
        (
            "g2",
            "every response: the residual is 0 at invalid pixels, so edges of the mask count as edges",
            [(24, 24), (2, 2)],
        ),
        ("gradient", "responses whose cell is more than half valid", [(45, 48), (11, 12)]),
        ("scale-adaptive", "responses whose nine cells all hold a valid pixel", [(40, 48), (12, 12)]),
    ],
)
def test_what_kept_means(name, kept, levels):
    p, g = (x[:1, :, :6, :8].clone() for x in (P, G))
    mask = torch.ones(1, 1, 6, 8)
    mask[..., 0, :3] = 0.0
    found = dl.explain(dl.build_loss(name), p, g, mask)
    assert found.kept == kept and f"\nkept: {kept}\n" in f"{found}\n"
    assert [(x.kept, x.cells) for x in found.levels[:2]] == levels
    assert dl.explain(dl.L1Loss(), P, G).kept == ""


def test_levels_without_a_response():
    g = torch.zeros(1, 1, 16, 32, dtype=torch.float64)
    g[..., ::2, ::2] = 0.3
    text = "the gradient term kept no response at {}, as the ground truth is too sparse or too small for its "
    text += "cells"
    one = text.format("level 1 of 4: they add nothing to it")
    assert warnings("sparse-scale-adaptive", g + 0.1 * torch.rand_like(g), g)[0] == one
    loss = dl.build_loss("sparse-scale-adaptive", num_scales=1)
    assert warnings(loss, g + 0.1 * torch.rand_like(g), g)[0] == text.format("level 1 of 1: it is 0")
    loss = dl.build_loss("sparse-scale-adaptive-progressive")
    kept = "levels 1, 2, 3, 4 of 4: it is 0"
    g[..., 1:, 1:] = 0.0
    assert warnings(loss, g + 0.1 * torch.rand_like(g), g)[0] == text.format(kept)
    for unweighted in (dl.build_loss("sparse-scale-adaptive", lambda_sg=0.0), dl.build_loss("sparse-ssi")):
        assert not any("response" in x for x in warnings(unweighted, g + torch.rand_like(g), g))


RAW = "looks like millimetres, or the raw numbers of a file"
PER_RAW = "looks like the reciprocal of millimetres"
EITHER = "with medians of 2e+04 and 2e+04: this loss expects depth in metres or inverse depth (1/m)"
EITHER += ", pred and gt alike"
# Medians of 20 m, 0.05 1/m, 0.625 m and 1.6 1/m.
METRES = torch.tensor([10.0, 20.0, 20.0, 40.0]).repeat(2, 1, 6, 2)
INVERSE, NEAR = 1 / METRES, METRES / 32


@pytest.mark.parametrize(
    ("loss", "p", "g", "expected"),
    [
        ("ssi", INVERSE * 1.1, INVERSE, ""),
        ("ssi", 1 / NEAR, 1 / NEAR, ""),
        ("ssi", INVERSE * 100, INVERSE, ""),  # An untrained prediction.
        ("ssi", METRES, METRES, BOTH.format("metres", 20) + IN_INVERSE),
        ("ssi", INVERSE, METRES, f"gt looks like metres, with a median of 20: {IN_INVERSE}"),
        ("ssi", METRES * 1.2, INVERSE, RECIPROCAL.format(24, 0.05)),
        ("g2", METRES * 1.1, METRES, ""),
        ("g2", NEAR, NEAR, ""),
        ("g2", INVERSE, INVERSE, BOTH.format("inverse depth (1/m)", 0.05) + IN_METRES),
        ("g2", METRES, INVERSE, f"gt looks like inverse depth (1/m), with a median of 0.05: {IN_METRES}"),
        ("g2", INVERSE, METRES, RECIPROCAL.format(0.05, 20)),
        ("silog", METRES, METRES, ""),
        ("silog", INVERSE, INVERSE, ""),
        ("l1", METRES, INVERSE, RECIPROCAL.format(20, 0.05)),
        ("g2", METRES, METRES * 1000, f"gt {RAW}, with a median of 2e+04: {IN_METRES}"),
        ("silog", METRES * 1e3, METRES * 1e3, f"pred and gt {RAW[:4]}{RAW[5:]}, {EITHER}"),
        ("ssi", INVERSE, METRES * 1000, f"gt {RAW}, with a median of 2e+04: {IN_INVERSE}"),
        ("ssi", INVERSE, INVERSE / 1000, f"gt {PER_RAW}, with a median of 5e-05: {IN_INVERSE}"),
        ("affine-invariant", INVERSE, INVERSE / 1000, ""),
        ("abs-rel", METRES * 9, METRES * 9, ""),
    ],
)  # fmt: skip
def test_metres_and_their_inverse(loss, p, g, expected):
    assert warnings(dl.build_loss(loss, **({"num_scales": 2} if loss == "g2" else {})), p, g) == (
        [expected] if expected else []
    )
    holes = torch.ones_like(g)
    holes[..., :2, :] = 0.0  # Zeros without depth are no distances.
    assert (expected in warnings(f"sparse-{loss}", p, g * holes)) or not expected


def test_valid_pixels_that_are_not_finite():
    p, g, m = P.clone(), G.clone(), M.clone()
    m[1, 0, 4, 7:9] = m[2, 0, 0, 5] = True
    m[0, 0, 2, 2] = False
    p[1, 0, 4, 7], p[2, 0, 0, 5], p[0, 0, 2, 2] = torch.inf, torch.nan, torch.nan
    g[1, 0, 4, 8] = -torch.inf
    assert warnings("ssi", p, g, m) == [
        "pred is not finite at 2 valid pixels, first in image 1, row 4, column 7: inf",
        "gt is not finite at 1 valid pixel, first in image 1, row 4, column 8: -inf",
        'gt is 0 or less at 1 valid pixel: without depth there, give a mask or the prefix "sparse-"',
    ]
    found = dl.explain(dl.build_loss("ssi"), p, g, m)
    assert math.isnan(found.total) and found.pred.maximum == p[m & p.isfinite()].max()
    assert "ssi_component    nan       1   nan%" in str(found)


def test_other_things_that_are_hardly_meant():
    assert warnings("l1", P, G * 0) == [
        'gt is 0 or less at 2952 valid pixels: without depth there, give a mask or the prefix "sparse-"',
        "gt is constant over the valid pixels of images 0, 1, 2",
    ]
    assert warnings("l1", P * 0 + 0.5, G, G.new_tensor([1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(P.shape)) == [
        "no pixel is valid in image 1",
        "pred is constant over the valid pixels of images 0, 2",
    ]
    m = torch.ones_like(G)
    m[0, 0, 1, 3:5] = 0.25
    assert warnings("l1", m=m) == [
        "mask holds fractions at 2 pixels, such as 0.25: a pixel is valid wherever the mask is not 0"
    ]
    assert dl.explain(dl.build_loss("l1"), P, G, m).valid == m.numel()
    zero = P.clone()
    zero[0, 0, 3, 3] = 0.0
    assert warnings("silog", zero) == ["pred is 0 or less at 1 valid pixel, and the loss is not finite"]
    assert warnings(dl.build_loss("silog", clamp=1e-3), zero) == warnings("l1", zero) == []
    few = torch.zeros_like(M)
    few[0, 0, 0, :9] = True
    assert warnings("ssi-silog", m=few) == [
        "no pixel is valid in images 1, 2",
        "the loss is left out below 100 valid pixels",
    ]
    assert warnings("adaptive-multi-domain", m=few)[1:] == [
        "no pixel is valid in images 1, 2",
        "scale is left out below 100 valid pixels",
    ]
    empty = dl.explain(dl.build_loss("l1"), P, G, M & False)
    assert empty.warnings == ("no pixel is valid",) and empty.total == 0 and math.isnan(empty.gt.median)
    assert empty.terms == (Term("l1", 0.0, 1.0, None),) and "l1        0       1      –" in str(empty)
    assert warnings("l1", P[:0], G[:0]) == ["no pixel is valid"]


def test_valid_is_what_the_loss_says():
    g = G.clone()
    g[0, 0, 0, :4] = torch.tensor([0.0, -1.0, torch.inf, torch.nan])
    for loss in (
        dl.build_loss("sparse-l1"),
        dl.build_loss("sparse-l1", gt_range=(0.2, 0.8)),
        dl.build_loss("l1", gt_range=(0.2, None)),
        dl.build_loss("sparse-scale-adaptive-progressive", gt_range=(0.2, 0.8)),
    ):
        found = dl.explain(loss, P, g, M)
        loss(P, g, M)
        assert found.valid == loss.metrics["num_valid_pixels"].item()
        assert not any("finite" in text for text in found.warnings)


def test_the_scales_of_a_supervised_loss():
    loss = dl.SupervisedLoss("sparse-ssi", 2)
    preds = [P, P[..., ::2, ::2].contiguous(), P[..., ::4, ::4].contiguous()]
    found = dl.explain(loss, preds, G)
    metrics = loss(preds, G)["metrics"]
    for i, scale in enumerate((found, *found.coarser)):
        assert scale.total == metrics[f"scale_{i}/total_loss"].item()
        assert scale.pixels == preds[i].numel()
    assert len(found.coarser) == 1
    first, second = str(found).split("\n\nscale 1: ")
    assert first.startswith("SSILoss = ") and second.startswith("SSILoss = ")
    assert dl.explain(loss, P, G) == dl.explain(loss.loss_func, P, G)
    fewer = dl.SupervisedLoss("sparse-ssi", 3, progressive_scaling=0.3)
    assert [len(dl.explain(fewer, preds, G, progress=t).coarser) for t in (0.0, 0.5, 1.0)] == [2, 1, 0]

    weight = torch.rand_like(G)
    for given in (weight, [weight[..., : x.shape[-2], : x.shape[-1]] for x in preds]):
        metrics = loss(preds, G, weight=given)["metrics"]
        found = dl.explain(loss, preds, G, weight=given)
        totals = [x.total for x in (found, *found.coarser)]
        assert totals == [metrics[f"scale_{i}/total_loss"].item() for i in range(2)]


def test_weights_and_confidence():
    weight, confidence = torch.rand_like(G), 0.5 + torch.rand_like(G)
    p = P.clone()
    weight[:, :, :3], p[:, :, :3] = 0.0, torch.nan  # Invalid, and said to be nothing else.
    for name in ("vggt-depth", "dust3r-confidence", "midas"):
        loss = dl.recipe(name)
        forward = {"weight": weight} | ({"confidence": confidence} if loss.spec.confidence else {})
        found = dl.explain(loss, p, G, M, **forward)
        assert found.total == loss(p, G, M, **forward).item()
        assert found.valid == loss.metrics["num_valid_pixels"].item()
        assert not any("finite" in text for text in found.warnings)
        assert sum(t.value * t.weight for t in found.terms) == pytest.approx(found.total, rel=1e-12)
        assert sum(t.share for t in found.terms) == pytest.approx(1.0, rel=1e-12)
        if loss.spec.confidence:  # With c = 1 every term is its metric, also the one with a confidence.
            forward["confidence"] = torch.ones_like(G)
            terms = dl.explain(loss, p, G, M, **forward).terms
            loss(p, G, M, **forward)
            assert [t.value for t in terms] == pytest.approx(
                [loss.metrics[t.name].item() for t in terms], rel=1e-9
            )
    weight[0, 0, 5, :2] = weight.new_tensor([-1.0, torch.inf])
    assert "weight is negative or not finite at 2 valid pixels: the loss is NaN" in warnings(
        "l1", weight=weight
    )


def test_arguments_in_each_other_s_place():
    text = "gt requires a gradient and pred does not: they seem to be in each other's place"
    q = P.clone().requires_grad_()
    assert warnings("l1", G, q) == [text] and text not in warnings("l1", q, G)


def test_what_it_refuses():
    with pytest.raises(TypeError, match="loss must be a depthloss loss or SupervisedLoss; got MSELoss"):
        dl.explain(torch.nn.MSELoss(), P, G)
    with pytest.raises(ValueError, match="gt must have the shape of pred"):
        dl.explain(dl.L1Loss(), P, G[..., :3])
    with pytest.raises(ValueError, match="pred must hold at least one prediction; got an empty list"):
        dl.explain(dl.SupervisedLoss("l1"), [], G)
    with pytest.raises(TypeError, match="lamda"):
        dl.explain(dl.L1Loss(), P, G, lamda=1)
    text = "explain reads numbers, and inside a transform there are none: torch.func's 'vmap' is active"
    with pytest.raises(RuntimeError, match=text):
        torch.func.vmap(lambda p: dl.explain(dl.L1Loss(), p, G).total)(P[None])


def test_it_explains_the_batch_of_this_rank():
    loss = dl.L1Loss()
    loss.process_group = torch.distributed.ProcessGroup(0, 1)
    assert dl.explain(loss, P, G).total == dl.L1Loss()(P, G).item() and loss.process_group is not None


@pytest.mark.parametrize("dtype", cases.DTYPES)
def test_any_dtype_and_shape(dtype):
    p, g = P.to(dtype), G.to(dtype)
    found = dl.explain(dl.build_loss("g2"), p[:, 0], g[:, 0], M[:, 0].to(torch.uint8), abs_mask=M[:, 0])
    assert found.valid == M.sum() and found.gt.maximum == g[M].max().item()
