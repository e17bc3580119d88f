"""Explanation: the contributions of streams, stages, pixels and vector entries to a decision, exact if possible."""

from multistream.explaining.attribution import ExplanationRequest
from multistream.explaining.explanation import Explanation, ExplanationArrays
from multistream.explaining.npz import NpzWriter
from multistream.explaining.overlays import write_overlay
from multistream.explaining.pipeline import Explainer, explain
from multistream.explaining.targets import Target

__all__ = [
    "Explainer",
    "Explanation",
    "ExplanationArrays",
    "ExplanationRequest",
    "NpzWriter",
    "Target",
    "explain",
    "write_overlay",
]
