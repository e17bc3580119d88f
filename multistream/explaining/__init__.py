"""Explanation: who gave how much to a decision, exactly where that can be said."""

from multistream.explaining.explainer import Explained, Explanation, explain
from multistream.explaining.storing import NpzWriter, write_overlays

__all__ = ["Explained", "Explanation", "NpzWriter", "explain", "write_overlays"]
