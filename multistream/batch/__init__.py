"""Batch prediction and feature extraction as callables, for engines such as Ray Data, Daft and Spark."""

from multistream.batch.callables import Extractor, Predictor

__all__ = ["Extractor", "Predictor"]
