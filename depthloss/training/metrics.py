"""Metrics of the validation during training; see `depthloss.training.evaluation.metrics`."""

from depthloss.training.evaluation.metrics import METRICS, DepthMetrics

__all__ = ["METRICS", "DepthMetrics"]
