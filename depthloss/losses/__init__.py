"""Drop-in loss modules."""

from .aligned import AffineInvariantLoss, ScaleShiftInvariantLoss, SSITrimLoss
from .base import DepthLoss
from .g2 import G2Loss, MultiScaleGradientLoss
from .multi_domain import AdaptiveMultiDomainLoss, FixedMultiDomainLoss
from .pointwise import AbsRelLoss, BerHuLoss, L1Loss, MSELoss
from .progressive import ProgressiveScaleAdaptiveLoss
from .recipes import RECIPES, available_recipes, recipe
from .registry import available_losses, build_loss
from .scale_adaptive import ScaleAdaptiveLoss
from .ssi import EnhancedSSILoss, ProgressiveEnhancedSSILoss, SILogLoss, SSILoss, SSISilogLoss
from .supervised import SupervisedLoss

__all__ = [
    "RECIPES",
    "AbsRelLoss",
    "AdaptiveMultiDomainLoss",
    "AffineInvariantLoss",
    "BerHuLoss",
    "DepthLoss",
    "EnhancedSSILoss",
    "FixedMultiDomainLoss",
    "G2Loss",
    "L1Loss",
    "MSELoss",
    "MultiScaleGradientLoss",
    "ProgressiveEnhancedSSILoss",
    "ProgressiveScaleAdaptiveLoss",
    "SILogLoss",
    "SSILoss",
    "SSISilogLoss",
    "SSITrimLoss",
    "ScaleAdaptiveLoss",
    "ScaleShiftInvariantLoss",
    "SupervisedLoss",
    "available_losses",
    "available_recipes",
    "build_loss",
    "recipe",
]
