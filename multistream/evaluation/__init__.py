"""Evaluation: what probabilities are worth, once classes are matched by name."""

from multistream.evaluation.classes import Mapped, map_classes, read_class_map
from multistream.evaluation.metrics import Metrics, metrics

__all__ = ["Mapped", "Metrics", "map_classes", "metrics", "read_class_map"]
