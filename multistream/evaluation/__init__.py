"""Evaluation: what probabilities are worth, once classes are matched by name."""

from multistream.evaluation.classes import ClassMatch, match_classes, read_class_map
from multistream.evaluation.metrics import Metrics, metrics

__all__ = ["ClassMatch", "Metrics", "match_classes", "metrics", "read_class_map"]
