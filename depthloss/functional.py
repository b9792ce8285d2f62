"""The losses as functions: ``name(pred, gt, mask=None, **keywords of the module) -> 0-dim tensor``.

Each takes the keywords of its module's constructor and of its forward (`progress`, `epoch`, and `abs_mask`
for `g2_loss`). `adaptive_multi_domain_loss` also takes `log_var_structure` and `log_var_scale`, the tensors
to learn (default 0).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torch import Tensor

from . import losses as _losses
from . import ops

_FORWARD = ("progress", "epoch", "abs_mask")
_LOG_VARS = ("log_var_structure", "log_var_scale")
_MAX_MODULES = 64
_modules: dict[str, _losses.DepthLoss] = {}


def _build(cls: type[_losses.DepthLoss], kwargs: dict[str, object]) -> str:
    """Build the module of these keywords unless it is there, and return its key."""
    key = f"{cls.__name__}({', '.join(f'{k}={v!r}' for k, v in sorted(kwargs.items()))})"
    if key not in _modules:
        while len(_modules) >= _MAX_MODULES:  # A keyword that follows a schedule must not pile them up.
            _modules.pop(next(iter(_modules)))
        _modules[key] = cls(**kwargs)
    return key


_build._dynamo_marked_constant = True  # As in ops: a compiled graph holds the key, not the building.


def _twin(cls: type[_losses.DepthLoss], name: str) -> Callable[..., Tensor]:
    def keyword_only(p: inspect.Parameter) -> inspect.Parameter:
        return p.replace(kind=inspect.Parameter.KEYWORD_ONLY)

    forward = [p for p in inspect.signature(cls.forward).parameters.values() if p.name != "self"]
    forward = [keyword_only(p) if p.name in _FORWARD else p for p in forward]
    learnable = _LOG_VARS if cls is _losses.AdaptiveMultiDomainLoss else ()
    extra = [
        inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Tensor | None)
        for n in learnable
    ]

    def function(pred: Tensor, gt: Tensor, mask: Tensor | None = None, **kwargs: object) -> Tensor:
        call = {key: kwargs.pop(key) for key in _FORWARD if key in kwargs}
        log_vars = [kwargs.pop(key, None) for key in learnable]
        group = kwargs.pop("process_group", None)
        # A group is no key: with one the module is built anew.
        module = _modules[_build(cls, kwargs)] if group is None else cls(**kwargs, process_group=group)
        if not learnable:
            return module(pred, gt, mask, **call)
        log_vars = tuple(pred.new_zeros(()) if v is None else v for v in log_vars)
        weights = module.weights(call.get("progress", 0.0), call.get("epoch", 0))
        return ops.evaluate(pred, gt, mask, None, module.spec, weights, log_vars, group, module.backend)[0]

    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"`depthloss.{cls.__name__}` as a function.\n\n{inspect.getdoc(cls)}"
    constructor = [keyword_only(p) for p in inspect.signature(cls).parameters.values()]
    function.__signature__ = inspect.Signature([*forward, *constructor, *extra], return_annotation=Tensor)
    return function


g2_loss = _twin(_losses.G2Loss, "g2_loss")
scale_adaptive_loss = _twin(_losses.ScaleAdaptiveLoss, "scale_adaptive_loss")
progressive_scale_adaptive_loss = _twin(
    _losses.ProgressiveScaleAdaptiveLoss, "progressive_scale_adaptive_loss"
)
multi_scale_gradient_loss = _twin(_losses.MultiScaleGradientLoss, "multi_scale_gradient_loss")
ssi_loss = _twin(_losses.SSILoss, "ssi_loss")
silog_loss = _twin(_losses.SILogLoss, "silog_loss")
ssi_silog_loss = _twin(_losses.SSISilogLoss, "ssi_silog_loss")
enhanced_ssi_loss = _twin(_losses.EnhancedSSILoss, "enhanced_ssi_loss")
progressive_enhanced_ssi_loss = _twin(_losses.ProgressiveEnhancedSSILoss, "progressive_enhanced_ssi_loss")
ssi_trim_loss = _twin(_losses.SSITrimLoss, "ssi_trim_loss")
berhu_loss = _twin(_losses.BerHuLoss, "berhu_loss")
abs_rel_loss = _twin(_losses.AbsRelLoss, "abs_rel_loss")
l1_loss = _twin(_losses.L1Loss, "l1_loss")
mse_loss = _twin(_losses.MSELoss, "mse_loss")
scale_shift_invariant_loss = _twin(_losses.ScaleShiftInvariantLoss, "scale_shift_invariant_loss")
affine_invariant_loss = _twin(_losses.AffineInvariantLoss, "affine_invariant_loss")
adaptive_multi_domain_loss = _twin(_losses.AdaptiveMultiDomainLoss, "adaptive_multi_domain_loss")
fixed_multi_domain_loss = _twin(_losses.FixedMultiDomainLoss, "fixed_multi_domain_loss")
