"""Pooled features of frozen streams: computed once, cached, verified and exported."""

from multistream.features.extraction import extract
from multistream.features.pooled_groups import GROUP, Extracted

__all__ = ["GROUP", "Extracted", "extract"]
