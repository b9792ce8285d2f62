"""Losses that published models train with, by the name of the model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..checks import check_known, check_number, check_scales, did_you_mean
from ..spec import Domain, Gradient, GradientSpec, Group, GtRange, LossSpec, Moments, Penalty, Pixel
from .base import DepthLoss, single_group
from .registry import LOSSES, build_loss, loss_class

_COMMON = ("gt_range", "backend", "process_group")


@dataclass(frozen=True)
class Recipe:
    """What a published model trains with.

    Attributes:
        loss: a name for `build_loss`, or a function that returns the spec and the weights of its
            keywords.
        source: where the original lies: repository and file, or a paper.
        commit: of that repository, or the version of that package; empty for a paper.
        formula: what is computed.
        options: keywords that the recipe gives to the loss.
        deviates: where ours differs from the original, and by which rule; empty: nowhere.
        inputs: what a call brings beside pred, gt and mask.
        gt_range: the pixels that the original counts, where it says so itself.
        input_domain: what `pred` and `gt` hold; empty: what the loss says.
    """

    loss: str | Callable[..., tuple[LossSpec, tuple[float, ...]]]
    source: str
    commit: str
    formula: str
    options: dict[str, Any] = field(default_factory=dict)
    deviates: str = ""
    inputs: tuple[str, ...] = ()
    gt_range: GtRange = None
    input_domain: str = ""

    @property
    def built(self) -> Callable[..., Any]:
        """The class or function that takes its keywords."""
        return loss_class(self.loss) if isinstance(self.loss, str) else self.loss

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """What `recipe` takes beside its name, with the defaults of the recipe."""
        own = dict(inspect.signature(self.built).parameters)
        common = inspect.signature(DepthLoss.__init__).parameters
        own |= {name: common[name] for name in _COMMON if name not in own}
        defaults = self.options | ({"gt_range": self.gt_range} if self.gt_range else {})
        return {key: p.replace(default=defaults.get(key, p.default)) for key, p in own.items()}


def _nlspn(
    l1_weight: float = 1.0, l2_weight: float = 1.0, max_depth: float = 10.0
) -> tuple[LossSpec, tuple[float, ...]]:
    domain = Domain(minimum=0.0, maximum=check_number("max_depth", max_depth, low=0.0, strict=True))
    spec = single_group(
        Pixel(name="l1", domain=domain, reduction="images-sum"),
        Pixel(name="l2", domain=domain, penalty=Penalty("l2"), reduction="images-sum"),
    )
    return spec, (l1_weight, l2_weight, 1.0)


def _vggt(
    alpha: float = 0.2, gradient_weight: float = 1.0, num_scales: int = 4, min_valid: int = 100
) -> tuple[LossSpec, tuple[float, ...]]:
    matching = GradientSpec(
        stencil="forward",
        mask="pair",
        downsample="strided",
        combine="mean",
        num_scales=check_scales("num_scales", num_scales),
    )
    terms = (
        Pixel(name="confidence_regression", confidence=alpha),
        Pixel(name="regression"),
        Gradient(name="gradient_matching", align="none", gradient=matching, eps=0.0, parts=False),
    )
    return LossSpec((Group(terms, min_valid=min_valid),)), (1.0, 1.0, gradient_weight, 1.0)


def _dust3r(alpha: float = 0.2) -> tuple[LossSpec, tuple[float, ...]]:
    return single_group(Pixel(name="confidence_regression", confidence=alpha)), ()


def _metric3d_ssi() -> tuple[LossSpec, tuple[float, ...]]:
    return single_group(Pixel(name="ssi", align="median", scale_floor="add")), ()


def _yolo(
    lam: float = 1.0, silog_weight: float = 1.0, gradient_weight: float = 0.5, min_valid: int = 10
) -> tuple[LossSpec, tuple[float, ...]]:
    domain = Domain(log=0.0, floor=1e-3)
    terms = (
        Moments(name="silog", domain=domain, lam=lam, eps=1e-6),
        Gradient(
            name="log_gradient",
            domain=domain,
            align="none",
            gradient=GradientSpec.preset("midas"),
            eps=0.0,
            parts=False,
        ),
    )
    return LossSpec((Group(terms, min_valid=min_valid),)), (silog_weight, gradient_weight, 1.0)


def _silog(preset: str, source: str, commit: str, deviates: str = "", **options: Any) -> Recipe:
    return Recipe("silog", source, commit, "SILog, see its preset", {"preset": preset, **options}, deviates)


_ROBUST = Recipe(
    "affine-invariant",
    "DepthAnything/Video-Depth-Anything, loss/loss.py; Ranftl et al. 2020; DPT, Depth Anything V1 and V2",
    "4f5ae23172ba60fd7bc11ef671cca678842c7072",
    "median and MAD per image; mean |R| of the 80% smallest of the batch + 0.5 gradient matching, 4 scales",
    {"trim": 0.2, "trim_over": "batch", "alpha": 0.5, "reduction": "pixels"},
    "the median is that of the valid pixels (there invalid ones count as 0); the trimmed sum is divided by "
    "the pixels it keeps (there by all valid ones)",
)
RECIPES: dict[str, Recipe] = {
    "midas": Recipe(
        "scale-shift-invariant",
        "Ranftl et al. 2020, scale- and shift-invariant MSE",
        "",
        "least squares per image; mean R^2/2 + 0.5 gradient matching, 4 scales",
        {"alpha": 0.5},
    ),
    "midas-robust": _ROBUST,
    "depth-anything-relative": _ROBUST,
    "e2e-ft": Recipe(
        "scale-shift-invariant",
        "VisualComputingInstitute/diffusion-e2e-ft, training/util/loss.py",
        "4ff5aad00f686e08d49e5ee55054e161dd0a7458",
        "least squares per image; mean |R|",
        {"alpha": 0.0, "data": "l1"},
        "an image whose prediction is constant gets the mean of its target (there 0)",
        input_domain="depth",
    ),
    "nlspn": Recipe(
        _nlspn,
        "zzangjinsun/NLSPN_ECCV20, src/loss; the same in youmi-zym/CompletionFormer",
        "ba33fa5d9ea62ca970026a145ab18fab76d79d4a",
        "depths clamped to [0, max_depth]; sum over the images of mean |p - g| + mean (p - g)^2",
        deviates="no 1e-8 beside the pixels of an image",
        gt_range=(1e-4, None),
        input_domain="depth",
    ),
    "vggt-depth": Recipe(
        _vggt,
        "facebookresearch/vggt, training/loss.py",
        "105a198122c56055b6a2daf2419d691127590614",
        "mean (c |p - g| - 0.2 ln c) + mean |p - g| + gradient matching, mean of 4 scales; 0 below 100 "
        "pixels",
        deviates="no quantile filter, no clamp at 100, no confidence in the gradient matching",
        inputs=("confidence",),
        input_domain="depth",
    ),
    "dust3r-confidence": Recipe(
        _dust3r,
        "naver/dust3r, dust3r/losses.py, ConfLoss, for a depth map",
        "",
        "mean (c |p - g| - 0.2 ln c)",
        deviates="of depth, where theirs is of points; both are normalised there by their mean distance",
        inputs=("confidence",),
        input_domain="depth",
    ),
    "metric3d-ssi": Recipe(
        _metric3d_ssi,
        "YvanYin/Metric3D, training/mono/model/losses/SSIL.py",
        "eb5b6fac0dc155e4e52f576e304fbf11655ff339",
        "(x - median)/(MAD + 1e-6) per image; mean |z_p - z_g| over the batch",
        deviates="no 1e-6 beside numbers of pixels",
        input_domain="depth",
    ),
    "metric3d-silog": Recipe(
        "silog",
        "YvanYin/Metric3D, training/mono/model/losses/SilogLoss.py",
        "eb5b6fac0dc155e4e52f576e304fbf11655ff339",
        "Var(l) + 0.5 mean(l)^2, no root",
        {"lam": 0.5, "root": False},
    ),
    "unidepth-silog": _silog(
        "unidepth",
        "lpiccinelli-eth/UniDepth, unidepth/ops/losses/silog.py",
        "8d8cfe4c7ee15297099983607febf0d4f32eb3d6",
        "an image's mean goes with its own variance (there with that of every image); an empty image counts "
        "0; no image is scale-invariant by itself",
    ),
    "yolo26-depth": Recipe(
        _yolo,
        "ultralytics, ultralytics/utils/loss.py, DepthLoss26",
        "8.4.190",
        "sqrt(Var(l) + 1e-6) of l = ln max(p, 0.001) - ln g, + 0.5 gradient matching of l; 0 below 10 pixels",
        deviates="the gradient matching is MiDaS's (there recursive block means over all pairs); not "
        "multiplied by the batch size",
        gt_range=(1e-3, None),
        input_domain="depth",
    ),
    "zoedepth": _silog(
        "zoedepth", "isl-org/ZoeDepth, zoedepth/trainers/loss.py", "d87f17b2f5fdcb174cf4fb115491f4a6c60de152"
    ),
    "adabins": _silog("adabins", "shariqfarooq123/AdaBins, loss.py", ""),
    "bts": _silog("bts", "cleinc/bts, pytorch/bts.py", ""),
    "depth-anything-v2-metric": _silog(
        "depth-anything-v2",
        "DepthAnything/Depth-Anything-V2, metric_depth/util/loss.py",
        "a561b849ebae10a6f5ef49e26c83cbbcd36c71bf",
    ),
    "packnet": _silog(
        "packnet",
        "TRI-ML/packnet-sfm, packnet_sfm/losses/supervised_loss.py, sparse-silog",
        "de53b310533ff6b01eaa23a8ba5ac01bac5587b1",
    ),
    "mmseg": _silog(
        "mmseg",
        "open-mmlab/mmsegmentation, mmseg/models/losses/silog_loss.py",
        "743171ddef1be38f916459e580ed4717abf0b906",
    ),
    "toolbox-sig": _silog(
        "toolbox-sig",
        "zhyever/Monocular-Depth-Estimation-Toolbox, depth/models/losses/sigloss.py",
        "",
        "no warm-up",
    ),
    "g2-monodepth": Recipe(
        "g2",
        "Wang-xjtu/G2-MonoDepth, src/losses.py",
        "6d449b74d8ae4d44705647cbf123ed178310f84c",
        "mean |p - g| + mean |z_p - z_g| + 0.5 gradient",
        inputs=("abs_mask",),
    ),
    "resnet-san": Recipe(
        "ssi-silog",
        "YoungseokOh/packnet-sfm-resnet-san, packnet_sfm/losses/ssi_silog_loss.py",
        "ff2c677bdfcf145940f5af35c86f982b0f6680cb",
        "0.7 SSI of inverse depth + 0.3 SILog of depth, scale 10",
        {"silog_scale": 10.0},
    ),
}


def available_recipes() -> tuple[str, ...]:
    """The names that `recipe` knows."""
    return tuple(RECIPES)


def recipe(name: str, **overrides: Any) -> DepthLoss:
    """Build what a published model trains with.

    docs/recipes.md has the formula and the source of each, and where ours differs and why. What `pred` and
    `gt` hold is the `input_domain` of the loss returned. The recipes ``"vggt-depth"`` and
    ``"dust3r-confidence"`` need ``confidence=`` with each call.

    Args:
        name: one of `available_recipes()`.
        **overrides: keywords of the loss behind it, over the recipe's own; each also takes `gt_range`,
            `backend` and `process_group`, see `DepthLoss`.

    Raises:
        ValueError: unknown name.
        TypeError: unknown keyword.
    """
    if not isinstance(name, str) or name not in RECIPES:
        base = name.removeprefix("sparse-") if isinstance(name, str) else ""
        if base in RECIPES:
            raise ValueError(f"a recipe takes no prefix: use recipe({base!r}) with mask=gt > 0")
        if base in LOSSES:
            raise ValueError(f"{name!r} is a loss: depthloss.build_loss({name!r})")
        raise ValueError(f"unknown recipe {name!r}{did_you_mean(name, RECIPES)}")
    found = RECIPES[name]
    check_known(f"recipe {name!r}", found.parameters, overrides)
    if isinstance(found.loss, str):
        loss = build_loss(found.loss, **(found.options | overrides))
    else:
        common = {key: overrides.pop(key) for key in _COMMON if key in overrides}
        spec, weights = found.loss(**overrides)
        loss = DepthLoss(spec, weights, **({"gt_range": found.gt_range} | common))
    if found.input_domain:
        loss.input_domain = found.input_domain
    return loss
