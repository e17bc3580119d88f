"""The report: one HTML page that tells the whole story of a run."""

from multistream.reporting.reporter import Report, report

__all__ = ["Report", "report"]
