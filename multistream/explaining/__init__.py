"""Explanation: who gave how much to a decision, exactly where that can be said."""

from multistream.explaining.explainer import Explainer, explain
from multistream.explaining.explanation import Arrays, Explanation
from multistream.explaining.overlays import write_overlay
from multistream.explaining.storing import NpzWriter
from multistream.explaining.targets import Target

__all__ = ["Arrays", "Explainer", "Explanation", "NpzWriter", "Target", "explain", "write_overlay"]
