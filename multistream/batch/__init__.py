"""Batch prediction and feature extraction as callables, for engines such as Ray Data, Daft and Spark."""

from multistream.batch.extractor import Extractor
from multistream.batch.predictor import Predictor

__all__ = ["Extractor", "Predictor"]
