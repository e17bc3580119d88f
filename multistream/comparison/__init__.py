"""Comparison: runs side by side, told apart by what their recipes differ in, and by paired tests. No torch here."""

from multistream.comparison.comparing import Comparison, Row, compare
from multistream.comparison.differences import Difference

__all__ = ["Comparison", "Difference", "Row", "compare"]
