"""The report: one self-contained HTML page about a run."""

from multistream.reporting.report_writer import Report, report

__all__ = ["Report", "report"]
