"""Pooled features: computed once by frozen streams, used by every head, fusion and truncation."""

from multistream.features.extraction import GROUP, Extracted, extract

__all__ = ["GROUP", "Extracted", "extract"]
