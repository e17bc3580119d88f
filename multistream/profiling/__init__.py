"""Profiling: what a network costs, piece by piece."""

from multistream.profiling.machine import Roofline
from multistream.profiling.profiler import profile
from multistream.profiling.results import Profile, Row

__all__ = ["Profile", "Roofline", "Row", "profile"]
