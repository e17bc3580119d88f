"""Weights: reading every format that people keep them in, and fitting them strictly into a stream."""

from multistream.weights.fitting import Fitted, fit
from multistream.weights.hub import from_hub
from multistream.weights.inspection import Inspection, convert, inspect
from multistream.weights.reading import WeightFile, read_tensors
from multistream.weights.source import Source

__all__ = ["Fitted", "Inspection", "Source", "WeightFile", "convert", "fit", "from_hub", "inspect", "read_tensors"]
