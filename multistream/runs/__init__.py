"""Runs: the folder that one training writes, and its files."""

from multistream.checksums import SUMS, check_checksum, remove_checksums, write_checksums
from multistream.runs.folder import (
    CHECKPOINTS,
    FOLDS,
    METRICS,
    PREDICTIONS,
    RECIPE,
    SPLIT,
    SUMMARY,
    append_line,
    first_free,
    folder_of,
    new_run,
    read_lines,
    read_summary,
    write_json,
    write_lines,
)

__all__ = [
    "CHECKPOINTS",
    "FOLDS",
    "METRICS",
    "PREDICTIONS",
    "RECIPE",
    "SPLIT",
    "SUMMARY",
    "SUMS",
    "append_line",
    "check_checksum",
    "first_free",
    "folder_of",
    "new_run",
    "read_lines",
    "read_summary",
    "remove_checksums",
    "write_checksums",
    "write_json",
    "write_lines",
]
