"""Bad input is refused with a text that names the argument, what was got, and the fix."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch.distributed.distributed_c10d import GroupMember

import depthloss as dl
from depthloss import dispatch, functional
from depthloss.spec import Domain, Gradient, GradientSpec, Group, LossSpec, Moments, Penalty, Pixel

from . import cases

P = torch.rand(2, 1, 6, 7)


def raises(error: type[Exception], *texts: str):
    return pytest.raises(error, match=".*".join(map(re.escape, texts)))


@pytest.mark.parametrize(
    ("args", "texts"),
    [
        (
            (P, P[:, :, :5]),
            ("gt must have the shape of pred", "pred (2, 1, 6, 7) torch.float32", "gt (2, 1, 5, 7)"),
        ),
        ((P, P[:, 0]), ("gt must have the shape of pred", "gt (2, 6, 7)")),
        ((P[0, 0], P[0, 0]), ("pred must be [B, 1, H, W] or [B, H, W]", "pred (6, 7)")),
        ((P.expand(2, 3, 6, 7),) * 2, ("pred must be [B, 1, H, W] or [B, H, W]", "pred (2, 3, 6, 7)")),
        ((P, P, P[:1] > 0), ("mask must have the B, H, W of pred", "mask (1, 1, 6, 7) torch.bool")),
        ((P, P, P[..., :3] > 0), ("mask must have the B, H, W of pred", "mask (2, 1, 6, 3) torch.bool")),
        (((P * 1000).int(),) * 2, ("convert integer depth with .float()", "pred (2, 1, 6, 7) torch.int32")),
        ((P.to(torch.float8_e4m3fn),) * 2, ("pred and gt must be float16", "torch.float8_e4m3fn")),
        ((P, P.to(torch.complex64)), ("pred and gt must be float16, bfloat16, float32 or float64",)),
        ((P, P.to("meta")), ("all inputs must be on one device", "on cpu", "on meta")),
    ],
)
def test_inputs_that_do_not_fit(args, texts):
    for loss in (dl.L1Loss(), dl.ProgressiveScaleAdaptiveLoss()):
        with raises(ValueError, *texts):
            loss(*args)


def test_g2_checks_abs_mask():
    with raises(ValueError, "abs_mask must have the B, H, W of pred", "abs_mask (2, 1, 5, 7)"):
        dl.G2Loss()(P, P, abs_mask=P[:, :, :5] > 0)


def test_the_schedule_and_abs_mask_are_keyword_only():
    """AdaBins calls criterion(pred, gt, mask, True): no progress, but interpolate."""
    m = P > 0.5
    calls = [dl.build_loss(name) for name in dl.available_losses()]
    calls += [getattr(functional, f"{name}_loss") for name in ("g2", "enhanced_ssi", "l1")]
    for call in calls:
        with pytest.raises(TypeError, match="positional argument"):
            call(P, P, m, True)
    with pytest.raises(TypeError, match="positional argument"):
        dl.SupervisedLoss("l1")([P], P, False, 0.0, m, 3)
    for loss in (dl.EnhancedSSILoss(), dl.ProgressiveScaleAdaptiveLoss(num_scales=1)):
        assert not torch.equal(loss(P + 0.1, P, m, progress=1.0), loss(P + 0.1, P, m))
    # The four of packnet-sfm stay positional.
    assert dl.SupervisedLoss("enhanced-ssi")([P + 0.1], P, True, 1.0)["loss"] > 0


def test_inputs_that_are_no_tensors():
    with raises(TypeError, "gt must be a torch.Tensor; got list"):
        dl.L1Loss()(P, P.tolist())
    with raises(TypeError, "mask must be a torch.Tensor or None; got bool"):
        dl.L1Loss()(P, P, True)


@pytest.mark.parametrize(
    ("build", "error", "texts"),
    [
        (
            lambda: dl.build_loss("sparse-adabins"),
            ValueError,
            ("'adabins' is a preset: build_loss('sparse-silog', preset='adabins')",),
        ),
        (
            lambda: dl.build_loss("sparse-sill"),
            ValueError,
            (
                "unknown loss 'sparse-sill'; did you mean 'sparse-silog'? Known: g2",
                "; each also with the prefix",
            ),
        ),
        (lambda: dl.build_loss("my-l1"), ValueError, ("unknown loss 'my-l1'",)),
        (lambda: dl.build_loss("SILogLoss"), ValueError, ("'SILogLoss'; did you mean 'silog'?",)),
        (
            lambda: dl.build_loss("midas"),
            ValueError,
            ("published models train with is built by depthloss.recipe",),
        ),
        (
            lambda: dl.recipe("sparse-midas"),
            ValueError,
            ("a recipe takes no prefix: use recipe('midas') with mask=gt > 0",),
        ),
        (lambda: dl.recipe("sparse-l1"), ValueError, ("is a loss: depthloss.build_loss('sparse-l1')",)),
        (
            lambda: dl.build_loss("ssi", beta=1),
            TypeError,
            ("ssi has no keyword 'beta'. It has: alpha, gt_range, backend, process_group",),
        ),
        (
            lambda: dl.SupervisedLoss("sparse-g2", weihgts=1, lamda=1),
            TypeError,
            ("g2 has no keyword 'weihgts', 'lamda'; did you mean 'weights'? It has: variant",),
        ),
        *(
            (build, TypeError, ("min_depth'", "; did you mean gt_range=(low, high)? It has: "))
            for build in (
                lambda: dl.build_loss("sparse-l1", min_depth=3.0, max_depth=2.0),
                lambda: dl.SILogLoss(min_depth=0.1),
                lambda: dl.SupervisedLoss("g2", min_depth=0.1),
                lambda: functional.mse_loss(P, P, min_depth=0.1),
            )
        ),
        *(
            (
                build,
                TypeError,
                (f"SILogLoss has no keyword '{word}'; did you mean {given}? It has: lam, scale",),
            )
            for word, given, build in (
                ("variance_focus", "lam", lambda: dl.SILogLoss(variance_focus=0.85)),
                ("beta", "lam=1 - beta", lambda: dl.SILogLoss.preset("zoedepth", beta=0.15)),
                ("reductoin", "'reduction'", lambda: functional.silog_loss(P, P, reductoin="images")),
            )
        ),
        (lambda: dl.SupervisedLoss("l1", 0), ValueError, ("supervised_num_scales", "got 0")),
        *(
            (
                build,
                ValueError,
                ("unknown SILog preset 'adabin'; did you mean 'adabins'? Known: packnet, bts",),
            )
            for build in (
                lambda: dl.SILogLoss.preset("adabin"),
                lambda: dl.build_loss("silog", preset="adabin"),
            )
        ),
        *(
            (lambda x=x: dl.L1Loss(gt_range=x), ValueError, (f"gt_range must {text}; got {x!r}",))
            for x, text in (
                ((3.0, 2.0), "be (low, high) with low < high"),
                ((2.0, 2.0), "be (low, high) with low < high"),
                (80.0, "be (low, high), None at an open end, or None"),
                ((0.1, 1.0, 2.0), "be (low, high), None at an open end, or None"),
                ((0.1, float("nan")), "hold numbers, or None at an open end"),
                ((0.1, "80"), "hold numbers, or None at an open end"),
            )
        ),
        (
            lambda: dl.ScaleAdaptiveLoss(min_depth=5, max_depth=2),
            ValueError,
            ("min_depth must be below max_depth",),
        ),
        (lambda: dl.SSISilogLoss(min_depth=200), ValueError, ("min_depth=200", "max_depth=100.0")),
        (lambda: dl.SSISilogLoss(max_depth=1e-4), ValueError, ("min_depth=0.001", "max_depth=0.0001")),
        (lambda: dl.AdaptiveMultiDomainLoss(min_depth=3, max_depth=3), ValueError, ("min_depth=3",)),
        (lambda: dl.ScaleAdaptiveLoss(min_depth=-1), ValueError, ("min_depth must lie in", "got -1")),
        (
            lambda: dl.GradientSpec(mask="center"),
            ValueError,
            ("mask must be one of", "'centre'", "got 'center'"),
        ),
        (lambda: dl.GradientSpec(downsample="area"), ValueError, ("downsample must be one of", "'average'")),
        (lambda: dl.GradientSpec(border="reflect"), ValueError, ("border must be one of", "'replicate'")),
        (lambda: dl.GradientSpec(normalizer="n"), ValueError, ("normalizer must be one of",)),
        (lambda: dl.GradientSpec(combine="max"), ValueError, ("combine must be one of",)),
        (
            lambda: dl.GradientSpec(num_scales=7),
            ValueError,
            ("num_scales must be an integer from 1 to 6; got 7",),
        ),
        (
            lambda: dl.G2Loss(num_scales=3, gradient=dl.GradientSpec()),
            ValueError,
            ("num_scales=3 contradicts", "4"),
        ),
        (
            lambda: dl.G2Loss(gradient="centre"),
            TypeError,
            ("gradient must be a depthloss.GradientSpec", "got str"),
        ),
        (
            lambda: dl.SSISilogLoss(gradient_weight=1, gradient="x"),
            TypeError,
            ("gradient must be", "got str"),
        ),
        (
            lambda: dl.MultiScaleGradientLoss(scales=(1, 2, 3)),
            ValueError,
            ("scales must be 1, 2, 4, ...", "(1, 2, 3)"),
        ),
        (
            lambda: dl.MultiScaleGradientLoss(scales=(1, 2), gradient=dl.GradientSpec()),
            ValueError,
            ("num_scales=2 contradicts",),
        ),
        (
            lambda: dl.G2Loss("paper"),
            ValueError,
            ("variant must be one of 'published', 'document'; got 'paper'",),
        ),
        (lambda: dl.G2Loss(weights=(1, 1)), ValueError, ("weights must be three numbers",)),
        (
            lambda: dl.BerHuLoss(variant="tri"),
            ValueError,
            ("variant must be one of 'laina', 'packnet'; got 'tri'",),
        ),
        (lambda: dl.ScaleAdaptiveLoss(epsilon=0), ValueError, ("epsilon must lie in (0, inf]; got 0",)),
        (
            lambda: dl.ScaleAdaptiveLoss(lambda_sg=float("nan")),
            ValueError,
            ("lambda_sg must be a finite number",),
        ),
        (lambda: dl.ScaleAdaptiveLoss(statistics="some"), ValueError, ("statistics must be one of",)),
        (lambda: dl.SILogLoss(lam=1.5), ValueError, ("lam must lie in [0, 1]; got 1.5",)),
        (lambda: dl.SSITrimLoss(trim=1.0), ValueError, ("trim must lie in [0, 0.99]",)),
        (lambda: dl.SSISilogLoss(min_valid=-1), ValueError, ("min_valid must be an integer >= 0; got -1",)),
        (
            lambda: dl.AdaptiveMultiDomainLoss(log_var_bounds=(1, -1)),
            ValueError,
            ("log_var_bounds must be (low, high) with low < high",),
        ),
        (
            lambda: dl.ProgressiveScaleAdaptiveLoss(scale_schedule="cosine"),
            ValueError,
            ("scale_schedule must be one of 'linear', 'constant'; got 'cosine'",),
        ),
        (
            lambda: dl.SupervisedLoss("l1")([], P),
            ValueError,
            ("inv_depths must hold at least one prediction",),
        ),
        (lambda: dl.L1Loss(backend="cuda"), ValueError, ("backend must be 'auto' or one of", "got 'cuda'")),
        (lambda: dl.G2Loss(weights=None), ValueError, ("weights must be three numbers", "got None")),
        (lambda: dl.G2Loss(weights=(1, float("nan"), 1)), ValueError, ("weights must be a finite number",)),
        (lambda: dl.ScaleAdaptiveLoss(max_depth=0), ValueError, ("max_depth must lie in (0, inf]; got 0",)),
        (
            lambda: dl.ScaleAdaptiveLoss(use_inv_depth=True, min_depth=5, max_depth=1),
            ValueError,
            ("min_depth must be below max_depth",),
        ),
        (
            lambda: dl.EnhancedSSILoss(l1_weight=-0.1),
            ValueError,
            ("l1_weight must lie in [0, inf]; got -0.1",),
        ),
        (lambda: dl.SSISilogLoss(gradient="x"), TypeError, ("gradient must be", "got str")),
        (lambda: dl.SupervisedLoss(), TypeError, ("supervised_method",)),
        (
            lambda: dl.SupervisedLoss("l1")([P], P, masks=[P]),
            TypeError,
            ("masks must be one tensor", "got list"),
        ),
        *(
            (lambda loss=loss, given=given: loss(P, P, **given), TypeError, texts)
            for loss, given, texts in (
                (
                    dl.L1Loss(),
                    {"valid_mask": P},
                    ("a call of L1Loss has no keyword 'valid_mask'; did you mean 'mask'? It has: pred, gt",),
                ),
                (functional.l1_loss, {"valid_mask": P}, ("no keyword 'valid_mask'; did you mean 'mask'?",)),
                (dl.recipe("midas"), {"weights": P}, ("no keyword 'weights'; did you mean 'weight'?",)),
                (
                    dl.G2Loss(),
                    {"raw_mask": P},
                    ("a call of G2Loss", "'raw_mask'", "It has: pred", "abs_mask"),
                ),
                (dl.ProgressiveScaleAdaptiveLoss(), {"interpolate": True}, ("no keyword 'interpolate'. It",)),
                (dl.SupervisedLoss("l1"), {"mask": P}, ("of SupervisedLoss", "did you mean 'masks'?")),
                (
                    dl.SupervisedLoss("l1"),
                    {"return_logs": P},
                    ("return_logs must be True or False; got Tensor: give a mask as masks=",),
                ),
            )
        ),
        *(
            (
                lambda preds=preds: dl.SupervisedLoss("l1")(preds, P),
                TypeError,
                (f"inv_depths must be a tensor or a list of tensors; got {got}",),
            )
            for preds, got in (
                ({"inv_depths": P}, "dict"),
                (None, "NoneType"),
                ([P, P.numpy()], "list with ndarray"),
            )
        ),
        (
            lambda: dl.SupervisedLoss("l1")([P[..., ::2]], P.numpy()),
            TypeError,
            ("gt_inv_depth must be a torch.Tensor; got ndarray",),
        ),
        (
            lambda: dl.SupervisedLoss("l1")(P, P, weight=P.numpy()),
            TypeError,
            ("weight must be a tensor, or a list of one per prediction; got ndarray",),
        ),
        (
            lambda: dispatch.backend_status("auto"),
            ValueError,
            ("name must be one of 'triton', 'cpu', 'reference'",),
        ),
    ],
)
def test_arguments_that_make_no_sense(build, error, texts):
    with raises(error, *texts):
        build()


BUILD = {name: type(dl.build_loss(name)) for name in dl.available_losses()} | {
    "supervised": dl.SupervisedLoss
}
KEYWORDS = [
    (name, key)
    for name, cls in BUILD.items()
    for key, parameter in inspect.signature(cls).parameters.items()
    if parameter.kind is not inspect.Parameter.VAR_KEYWORD
]


@pytest.mark.parametrize(("name", "key"), KEYWORDS)
def test_every_keyword_refuses_what_it_cannot_mean(name, key):
    build = partial(dl.build_loss, name) if name != "supervised" else partial(dl.SupervisedLoss, "l1")
    build = partial(dl.SupervisedLoss) if key == "supervised_method" else build
    for bad in (["a"], {}, "zzz", object(), 5j, float("nan"), torch.zeros(2), b"1"):
        with pytest.raises((ValueError, TypeError)) as error:
            build(**{key: bad})
        assert key in str(error.value) or (name, bad) == ("supervised", "zzz")
        assert repr(bad) in str(error.value) or key == "gradient"


def test_numbers_of_numpy_are_numbers():
    plain = dl.G2Loss(num_scales=3, eps=0.5, weights=(1, 2, 0.25), gt_range=(0.5, 4))
    values = {
        "num_scales": np.int64(3),
        "eps": np.float32(0.5),
        "weights": (np.int32(1), np.float64(2), 0.25),
    }
    loss = dl.G2Loss(**values, gt_range=(np.float32(0.5), np.int8(4)))
    assert loss.spec == plain.spec and loss.spec.text == plain.spec.text
    assert torch.equal(loss(P + 1, P), plain(P + 1, P))
    assert dl.SILogLoss(unbiased=np.bool_(True)).spec == dl.SILogLoss(unbiased=True).spec


@pytest.mark.parametrize("progress", ["half", float("nan"), torch.ones(2), True, b"1", np.float32("nan")])
@pytest.mark.parametrize(
    "loss",
    [
        dl.EnhancedSSILoss(),
        dl.ProgressiveScaleAdaptiveLoss(),
        dl.SupervisedLoss("l1", progressive_scaling=0.1),
    ],
)
def test_the_progress_is_a_number(loss, progress):
    with raises(ValueError, f"progress must be a number from 0 to 1, or None; got {progress!r}"):
        loss(P, P, progress=progress)


@pytest.mark.parametrize("bad", ["yes", 1, None])
def test_return_metrics_is_a_flag(bad):
    for loss in (dl.L1Loss(), dl.G2Loss(), dl.ProgressiveScaleAdaptiveLoss()):
        with raises(ValueError, f"return_metrics must be True or False; got {bad!r}"):
            loss(P, P, return_metrics=bad)
        assert isinstance(loss(P, P, return_metrics=np.bool_(True)), tuple)


def test_the_epoch_is_a_number():
    with raises(ValueError, "epoch must be a number; got '3'"):
        dl.build_loss("progressive-ssi")(P, P, epoch="3")


@pytest.mark.parametrize("half", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5)])
def test_progress_and_epoch_of_other_kinds(half):
    for loss in (dl.EnhancedSSILoss(), dl.ProgressiveScaleAdaptiveLoss()):
        assert torch.equal(loss(P + 1, P, progress=half), loss(P + 1, P, progress=0.5))
    loss = dl.ProgressiveEnhancedSSILoss()
    assert torch.equal(loss(P + 1, P, epoch=10 * half), loss(P + 1, P, epoch=5))
    assert torch.equal(loss(P + 1, P, epoch=np.int64(3)), loss(P + 1, P, epoch=3))


def test_a_whole_number_beyond_floats():
    with raises(ValueError, "alpha must be a finite number; got a whole number beyond 1e308"):
        dl.SSILoss(alpha=10**400)


def test_a_process_group_is_one_with_this_rank():
    for group, got in (
        (object(), "<object object"),
        ("nccl", "'nccl'"),
        (GroupMember.NON_GROUP_MEMBER, "one of other ranks"),
    ):
        for build in (
            partial(dl.build_loss, "l1"),
            partial(functional.l1_loss, P, P),
            lambda process_group: setattr(dl.L1Loss(), "process_group", process_group),
        ):
            with raises(
                TypeError, "process_group must be a torch.distributed.ProcessGroup that this rank", got
            ):
                build(process_group=group)


@pytest.mark.parametrize("cls", (GradientSpec, LossSpec, Group, Pixel, Gradient, Moments, Domain, Penalty))
def test_an_unknown_keyword_of_what_a_loss_is_made_of(cls):
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    with raises(
        TypeError, f"{cls.__name__} has no keyword '{known[-1]}s'; did you mean '{known[-1]}'? It has: "
    ):
        cls(**{f"{known[-1]}s": 1})


def test_an_unknown_keyword_inside_a_graph():
    loss = dl.G2Loss()
    call = torch.compile(lambda p: loss(p, p, masks=p), backend="eager", fullgraph=True)
    with raises(Exception, "a call of G2Loss has no keyword 'masks'; did you mean 'mask'?"):
        call(P)


def test_a_loss_of_ones_own_may_have_other_keywords():
    class Own(dl.L1Loss):
        def __init__(self, factor: float = 1.0, **kwargs: object) -> None:
            super().__init__(**kwargs)
            self.factor = factor

    assert Own(factor=2.0, backend="reference").factor == 2.0 and Own(3.0).factor == 3.0
    with raises(TypeError, "unexpected keyword argument 'fctor'"):
        Own(fctor=2.0)


def test_backends_asked_for_by_name():
    with raises(RuntimeError, "backend='cpu' cannot run: this loss has no fused form on it"):
        cases.unfused(backend="cpu")(P, P)
    if os.environ.get("TRITON_INTERPRET") == "1" and dispatch.backend_status("triton") is None:
        assert dl.L1Loss(backend="triton")(P, P) == 0  # The interpreter takes CPU tensors.
    else:
        with raises(RuntimeError, "backend='triton' cannot run:", "backend='reference'"):
            dl.L1Loss(backend="triton")(P, P)
    with raises(ValueError, "backend must be"), dl.use_backend("fast"):
        pass
