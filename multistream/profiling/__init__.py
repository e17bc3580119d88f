"""Profiling: what a network costs, piece by piece."""

from multistream.profiling.machine import Roofline
from multistream.profiling.profiler import Profile, Row, profile

__all__ = ["Profile", "Roofline", "Row", "profile"]
