"""Pooled means over valid pixels: L1, MSE, absolute relative error, berHu. For depth or inverse depth."""

from __future__ import annotations

from typing import Literal

import torch.distributed as dist

from ..checks import one_of
from ..spec import Backend, GtRange, Pointwise
from .base import DepthLoss, single_group


class _Pointwise(DepthLoss):
    input_domain = "either"


class L1Loss(_Pointwise):
    """Mean of |p - g| over the valid pixels of the batch. Metrics: ``l1``, ``num_valid_pixels``,
    ``total_loss``.
    """

    def __init__(
        self,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            single_group(Pointwise(name="l1", kind="l1")),
            gt_range=gt_range,
            backend=backend,
            process_group=process_group,
        )


class MSELoss(_Pointwise):
    """Mean of (p - g)^2 over the valid pixels of the batch. Metrics: ``mse``, ``num_valid_pixels``,
    ``total_loss``.
    """

    def __init__(
        self,
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(
            single_group(Pointwise(name="mse", kind="mse")),
            gt_range=gt_range,
            backend=backend,
            process_group=process_group,
        )


class AbsRelLoss(_Pointwise):
    """Mean of |p - g| / g over the valid pixels of the batch.

    Args:
        variant: ``"standard"``, or ``"packnet"``: divided by the prediction, as packnet-sfm does.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``abs_rel``, ``num_valid_pixels``, ``total_loss``.
    """

    def __init__(
        self,
        variant: Literal["standard", "packnet"] = "standard",
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        packnet = one_of("variant", variant, ("standard", "packnet")) == "packnet"
        term = Pointwise(name="abs_rel", kind="abs-rel-packnet" if packnet else "abs-rel")
        super().__init__(single_group(term), gt_range=gt_range, backend=backend, process_group=process_group)


class BerHuLoss(_Pointwise):
    """Reverse Huber: d = |p - g| where d <= c, else (d^2 + c^2)/(2c), with c = threshold * max d over the
    batch, detached.

    Source: Laina et al. 2016.

    Args:
        threshold: c as a fraction of the largest d.
        variant: ``"laina"``, or ``"packnet"``: packnet-sfm's form, whose c is signed and which counts large
            errors twice.
        gt_range: see `DepthLoss`.
        backend: see `DepthLoss`.
        process_group: see `DepthLoss`.

    Metrics: ``berhu``, ``num_valid_pixels``, ``total_loss``.
    """

    def __init__(
        self,
        threshold: float = 0.2,
        variant: Literal["laina", "packnet"] = "laina",
        *,
        gt_range: GtRange = None,
        backend: Backend = "auto",
        process_group: dist.ProcessGroup | None = None,
    ) -> None:
        packnet = one_of("variant", variant, ("laina", "packnet")) == "packnet"
        term = Pointwise(name="berhu", kind="berhu-packnet" if packnet else "berhu", threshold=threshold)
        super().__init__(single_group(term), gt_range=gt_range, backend=backend, process_group=process_group)
