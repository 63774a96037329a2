"""Loggers: the metrics file, TensorBoard and Weights & Biases."""

from sparsebench.engine.loggers.build import build_loggers, close_loggers
from sparsebench.engine.loggers.metrics_file import MetricsFile

__all__ = ["MetricsFile", "build_loggers", "close_loggers"]
