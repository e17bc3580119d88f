"""Pooled features: computed once by frozen streams, used by every head, fusion and truncation."""

from multistream.features.extraction import extract
from multistream.features.pooled_groups import GROUP, Extracted

__all__ = ["GROUP", "Extracted", "extract"]
