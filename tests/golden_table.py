"""Which loss is held against which golden file, with which keywords."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import depthloss as dl

from .golden_cases import Case

# Every file with its number of cases, so that none is lost.
COUNTS = {
    "berhu_laina": 9,
    "dav2_silog": 7,
    "fork_enhanced_ssi": 16,
    "fork_progressive_ssi": 13,
    "fork_ssi": 8,
    "fork_ssi_silog_c2ffa49": 15,
    "fork_ssi_silog_ff2c677": 15,
    "fork_ssi_trim": 11,
    "g2_document": 7,
    "g2_published": 11,
    "kendall": 8,
    "midas_gradient": 10,
    "midas_ssi_mse": 9,
    "mmseg_silog": 7,
    "multi_scale_gradient_document": 7,
    "scale_adaptive_quickstart": 13,
    "tri_abs_rel": 7,
    "tri_berhu": 8,
    "tri_silog": 7,
    "unidepth_silog": 10,
    "zoe_silog": 7,
    # Held by tests/test_golden_field.py.
    "barron_general": 7,
    "charbonnier": 7,
    "e2eft_ssi_l1": 7,
    "huber": 7,
    "log_gradient_midas": 7,
    "metric3d_hdn": 13,
    "metric3d_ssil": 7,
    "nlspn_l1l2": 8,
    "ultralytics_depth26": 11,
    "vda_robust_ssi": 10,
    "vggt_depth": 9,
}
# Cases where the contract differs from the original on purpose; each has its own test below.
DEVIATIONS = {
    ("berhu_laina", "few_a_through_c"): "c is detached",
    ("berhu_laina", "empty_d_through_c"): "c is detached",
    ("fork_ssi_silog_c2ffa49", "masknone_a"): "the mask counts for every term",
    ("fork_ssi_silog_c2ffa49", "wide_d_range_inverted"): "min_depth >= max_depth is an error",
    ("fork_ssi_silog_ff2c677", "wide_d_range_inverted"): "min_depth >= max_depth is an error",
    **{
        ("unidepth_silog", case): "an image's mean goes with its own variance"
        for case in ("dense_a", "d070_b", "empty_d", "few_a", "mixed_b", "wide_d")
    },
    ("unidepth_silog", "empty_d_dims3"): "an empty image counts 0",
    ("unidepth_silog", "wide_d_dims3_si"): "no image is scale-invariant by itself",
}


@dataclass(frozen=True)
class Row:
    """One loss against one file.

    Attributes:
        file: the file.
        loss: registry name, or a function that builds the module.
        options: keywords of the loss, of a case.
        call: keywords of the call, of a case.
        only: whether the row fits a case.
        sparse: an original called without a mask took it from gt > 0.
        metrics: component of the file -> metric of the module.
        level_eps: what the levels of the gradient term add to their number of responses; the original adds 0.
    """

    file: str
    loss: str | Callable[[], dl.DepthLoss]
    options: Callable[[Case], dict] = lambda case: {}
    call: Callable[[Case], dict] = lambda case: {}
    only: Callable[[Case], bool] = lambda case: True
    sparse: bool = True
    metrics: dict[str, str] = field(default_factory=dict)
    level_eps: float = 0.0

    def build(self, case: Case) -> dl.DepthLoss:
        if not isinstance(self.loss, str):
            return self.loss()
        sparse = self.sparse and case.flag("param_mask_none")
        return dl.build_loss(("sparse-" if sparse else "") + self.loss, **self.options(case))


def _silog(name: str) -> Callable[[], dl.DepthLoss]:
    return lambda: dl.build_loss("silog", preset=name)


def depth_range(case: Case) -> dict:
    return {"min_depth": case.number("param_min_depth"), "max_depth": case.number("param_max_depth")}


def _scale_adaptive(case: Case) -> dict:
    return {
        "lambda_sg": case.number("param_lambda_sg"),
        "num_scales": int(case.number("param_num_scales")),
        "use_inv_depth": case.flag("param_use_inv_depth"),
        "use_absolute": not case.flag("param_mask_none"),
    }


def structure_options(case: Case) -> dict:
    """Fixed multi-domain with nothing but the structure loss."""
    return _scale_adaptive(case) | {"min_depth": None, "max_depth": None, "w_structure": 1.0, "w_scale": 0.0}


_G2 = {"comp_A": "absolute", "comp_R": "relative", "comp_G": "gradient"}
_MIX = {
    "comp_ssi_component": "ssi_component",
    "comp_silog_component": "silog_component",
    "comp_l1_component": "l1_component",
    "comp_ssi_weight": "ssi_weight_used",
    "comp_l1_weight": "l1_weight_used",
    "comp_ssi_weight_used": "ssi_weight_used",
    "comp_l1_weight_used": "l1_weight_used",
}
_SA = {f"comp_gradient_scale_{k}": f"gradient/scale_{k}" for k in (1, 2, 3, 4)}
_SA |= {"comp_relative": "scale_adaptive/relative", "comp_absolute": "scale_adaptive/absolute"}
_SA_SUMS = {"comp_loss_sa": "loss_sa", "comp_loss_sg": "loss_sg"}
ROWS = [
    Row(
        "g2_published",
        "g2",
        lambda c: {"num_scales": int(c.number("param_k"))},
        lambda c: {"abs_mask": c["abs_mask"]},
        metrics=_G2,
    ),
    Row("g2_document", "g2", lambda c: {"variant": "document"}, metrics=_G2),
    Row(
        "multi_scale_gradient_document",
        "gradient",
        metrics={f"comp_scale_{2**k}": f"gradient/scale_{k + 1}" for k in range(4)},
    ),
    Row(
        "scale_adaptive_quickstart",
        "scale-adaptive",
        lambda c: _scale_adaptive(c) | {"statistics": "all"},
        sparse=False,
        metrics=_SA | _SA_SUMS,
    ),
    # On dense masks masked statistics and the support gradient are the documented form.
    Row(
        "scale_adaptive_quickstart",
        "scale-adaptive",
        _scale_adaptive,
        only=lambda c: bool(c["mask"].all()),
        sparse=False,
        metrics=_SA | _SA_SUMS,
        level_eps=1e-8,
    ),
    Row(
        "scale_adaptive_quickstart",
        "fixed-multi-domain",
        structure_options,
        only=lambda c: bool(c["mask"].all()),
        sparse=False,
        metrics=_SA | {"loss": "structure_loss"},
        level_eps=1e-8,
    ),
    Row("fork_ssi", "ssi", metrics={"loss": "ssi_component"}),
    Row("tri_silog", _silog("packnet"), metrics={"loss": "silog_component"}),
    Row("tri_silog", _silog("bts")),
    Row("dav2_silog", _silog("depth-anything-v2")),
    Row("zoe_silog", _silog("zoedepth")),
    Row("mmseg_silog", _silog("mmseg")),
    Row("unidepth_silog", _silog("unidepth")),
    Row(
        "fork_ssi_silog_ff2c677", "ssi-silog", lambda c: depth_range(c) | {"silog_scale": 10.0}, metrics=_MIX
    ),
    Row("fork_ssi_silog_c2ffa49", "ssi-silog", depth_range, metrics=_MIX),
    Row(
        "fork_ssi_silog_c2ffa49",
        "fixed-multi-domain",
        lambda c: depth_range(c) | {"w_structure": 0.0, "w_scale": 1.0},
        metrics=_MIX | {"loss": "scale_loss"},
    ),
    Row(
        "fork_enhanced_ssi",
        "enhanced-ssi",
        call=lambda c: {"progress": c.number("param_progress")},
        metrics=_MIX,
    ),
    Row(
        "fork_progressive_ssi",
        "progressive-ssi",
        call=lambda c: {"epoch": int(c.number("param_epoch"))},
        metrics=_MIX,
    ),
    Row("fork_ssi_trim", "ssi-trim", lambda c: {"trim": c.number("param_trim")}),
    Row("berhu_laina", "berhu", lambda c: {"threshold": c.number("param_threshold")}),
    Row("tri_berhu", "berhu", lambda c: {"threshold": c.number("param_threshold"), "variant": "packnet"}),
    Row("tri_abs_rel", "abs_rel", lambda c: {"variant": "packnet"}),
    Row(
        "midas_ssi_mse",
        "scale-shift-invariant",
        lambda c: {"alpha": 0.0, "reduction": "images" if c.flag("param_image_reduction") else "pixels"},
        metrics={"loss": "ssi_mse"},
    ),
]
