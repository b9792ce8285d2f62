"""The losses as functions: ``name(pred, gt, mask=None, **keywords)`` -> 0-dim tensor, or with
``return_metrics=True`` (that, metrics).

Each takes the keywords of its module's constructor, which the class explains, and of its forward (`progress`,
`epoch`, and `abs_mask` for `g2_loss`). `adaptive_multi_domain_loss` also takes `log_var_structure` and
`log_var_scale`, the tensors to learn (default 0).
"""

from .pooled import (
    abs_rel_loss,
    affine_invariant_loss,
    berhu_loss,
    enhanced_ssi_loss,
    l1_loss,
    mse_loss,
    progressive_enhanced_ssi_loss,
    scale_shift_invariant_loss,
    silog_loss,
    ssi_loss,
    ssi_silog_loss,
    ssi_trim_loss,
)
from .structure import (
    adaptive_multi_domain_loss,
    fixed_multi_domain_loss,
    g2_loss,
    multi_scale_gradient_loss,
    progressive_scale_adaptive_loss,
    scale_adaptive_loss,
)

__all__ = [
    "abs_rel_loss",
    "adaptive_multi_domain_loss",
    "affine_invariant_loss",
    "berhu_loss",
    "enhanced_ssi_loss",
    "fixed_multi_domain_loss",
    "g2_loss",
    "l1_loss",
    "mse_loss",
    "multi_scale_gradient_loss",
    "progressive_enhanced_ssi_loss",
    "progressive_scale_adaptive_loss",
    "scale_adaptive_loss",
    "scale_shift_invariant_loss",
    "silog_loss",
    "ssi_loss",
    "ssi_silog_loss",
    "ssi_trim_loss",
]
