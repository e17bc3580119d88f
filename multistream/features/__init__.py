"""Pooled features: computed once by frozen streams, used by every head, fusion and truncation."""

from multistream.features.caching import extract
from multistream.features.extraction import GROUP, Extracted

__all__ = ["GROUP", "Extracted", "extract"]
