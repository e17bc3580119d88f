"""Batches: prediction and extraction as a callable, for any engine that moves arrays (Ray Data, Daft, Spark)."""

from multistream.batch.extractor import Extractor
from multistream.batch.predictor import Predictor

__all__ = ["Extractor", "Predictor"]
