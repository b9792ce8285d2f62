"""Structure (scale-adaptive) and scale (SSI + SILog) together: weighted by learnable variances, or fixed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..checks import check_bounds, check_number
from ..spec import Backend, GradientSpec, Group, GtRange, LossSpec
from .base import DepthLoss, resolve_gradient
from .scale_adaptive import depth_domain, structure_terms
from .ssi import scale_terms


def _spec(
    lambda_sg: float,
    num_scales: int | None,
    use_absolute: bool,
    use_inv_depth: bool,
    ssi_weight: float,
    silog_weight: float,
    alpha_ssi: float,
    beta_silog: float,
    min_depth: float | None,
    max_depth: float | None,
    min_valid: int,
    gradient: GradientSpec | None,
    log_var_bounds: tuple[float, float] | None,
) -> tuple[LossSpec, tuple[float, ...]]:
    """The spec and the weights of its terms, which both multi-domain losses share."""
    pixel, sobel = structure_terms(
        depth_domain(use_inv_depth, min_depth, max_depth),
        resolve_gradient(gradient, num_scales, "scale-adaptive"),
        1e-8,
        use_absolute,
    )
    check_number("alpha_ssi", alpha_ssi, low=0.0)
    check_number("beta_silog", beta_silog, low=0.0, high=1.0)
    scale = scale_terms(alpha_ssi, 1.0 - beta_silog, 1.0, min_depth, max_depth)
    spec = LossSpec(
        (
            Group((*pixel, sobel), name="structure_loss", short_name="structure"),
            Group(scale, name="scale_loss", short_name="scale", min_valid=min_valid),
        ),
        log_var_bounds=log_var_bounds,
    )
    weights = (
        *(1.0 for _ in pixel),
        check_number("lambda_sg", lambda_sg, low=0.0),
        check_number("ssi_weight", ssi_weight),
        check_number("silog_weight", silog_weight),
    )
    return spec, weights


class AdaptiveMultiDomainLoss(DepthLoss):
    """``sum_i exp(-s_i)/2 L_i + s_i/2`` over structure and scale, with learnable log-variances s_i = ln
    sigma_i^2.

    Source: Kendall, Gal, Cipolla 2018, over the scale-adaptive and the SSI-SILog loss
    (packnet-sfm-resnet-san).

    Two things to know. At equilibrium sigma_i^2 = L_i, so the *larger* loss gets the *smaller* weight. And
    the total may be negative: it falls without bound as the losses do, which the bounds on s stop.

    Give ``log_var_structure`` and ``log_var_scale`` to the optimiser without weight decay, and call
    `clamp_parameters_` after each step. The forward never changes them; outside the bounds it uses the bound,
    with a gradient that leads back.

    Args:
        lambda_sg: weight of the gradient term in the structure loss.
        num_scales: its levels (default 4); not beside a `gradient` that has another number.
        use_absolute: with the absolute term in the structure loss.
        use_inv_depth: structure on inverse depth itself, without bounds.
        ssi_weight: weight of SSI in the scale loss.
        silog_weight: weight of SILog in the scale loss.
        alpha_ssi: of SSI.
        beta_silog: 1 - lam of SILog.
        min_depth: lower clamp in metres (structure unless `use_inv_depth`, and SILog).
        max_depth: upper clamp in metres.
        min_valid: with fewer valid pixels in the whole batch the scale part and its s/2 are left out.
        log_var_bounds: bounds of s.
        gradient: another form of the structure loss's gradient term.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: those of the terms of both parts, ``structure_loss``, ``scale_loss``, ``sigma_structure``,
    ``sigma_scale``, ``weight_structure``, ``weight_scale`` (normalised precisions), ``num_valid_pixels``,
    ``total_loss``.
    """

    def __init__(
        self,
        lambda_sg: float = 0.1,
        num_scales: int | None = None,
        use_absolute: bool = True,
        use_inv_depth: bool = False,
        ssi_weight: float = 0.7,
        silog_weight: float = 0.3,
        alpha_ssi: float = 0.85,
        beta_silog: float = 0.15,
        min_depth: float | None = 0.05,
        max_depth: float | None = 100.0,
        min_valid: int = 100,
        log_var_bounds: tuple[float, float] = (-10.0, 10.0),
        gradient: GradientSpec | None = None,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        bounds = check_bounds("log_var_bounds", log_var_bounds)
        spec, weights = _spec(
            lambda_sg,
            num_scales,
            use_absolute,
            use_inv_depth,
            ssi_weight,
            silog_weight,
            alpha_ssi,
            beta_silog,
            min_depth,
            max_depth,
            min_valid,
            gradient,
            bounds,
        )
        super().__init__(spec, weights, gt_range=gt_range, backend=backend, process_group=process_group)
        self.log_var_structure = nn.Parameter(torch.zeros(()))
        self.log_var_scale = nn.Parameter(torch.zeros(()))

    def log_vars(self) -> tuple[Tensor, ...]:
        """(log_var_structure, log_var_scale)."""
        return self.log_var_structure, self.log_var_scale

    @torch.no_grad()
    def clamp_parameters_(self) -> None:
        """Clamp both log-variances to `log_var_bounds`, in place."""
        if (bounds := self.spec.log_var_bounds) is not None:
            for parameter in self.log_vars():
                parameter.clamp_(*bounds)


class FixedMultiDomainLoss(DepthLoss):
    """``w_structure * L_structure + w_scale * L_scale``: the ablation partner of `AdaptiveMultiDomainLoss`.

    Args:
        w_structure: weight of the structure loss.
        w_scale: weight of the scale loss.
        lambda_sg: this and all others as in `AdaptiveMultiDomainLoss`.

    Metrics: those of the terms of both parts, ``structure_loss``, ``scale_loss``, ``num_valid_pixels``,
    ``total_loss``.
    """

    def __init__(
        self,
        w_structure: float = 0.4,
        w_scale: float = 0.6,
        lambda_sg: float = 0.1,
        num_scales: int | None = None,
        use_absolute: bool = True,
        use_inv_depth: bool = False,
        ssi_weight: float = 0.7,
        silog_weight: float = 0.3,
        alpha_ssi: float = 0.85,
        beta_silog: float = 0.15,
        min_depth: float | None = 0.05,
        max_depth: float | None = 100.0,
        min_valid: int = 100,
        gradient: GradientSpec | None = None,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        spec, weights = _spec(
            lambda_sg,
            num_scales,
            use_absolute,
            use_inv_depth,
            ssi_weight,
            silog_weight,
            alpha_ssi,
            beta_silog,
            min_depth,
            max_depth,
            min_valid,
            gradient,
            None,
        )
        super().__init__(
            spec,
            (*weights, check_number("w_structure", w_structure), check_number("w_scale", w_scale)),
            gt_range=gt_range,
            backend=backend,
            process_group=process_group,
        )
