"""Runs: the folder that one training leaves, and every file in it."""

from multistream.runs.folder import (
    CHECKPOINTS,
    METRICS,
    PREDICTIONS,
    RECIPE,
    SPLIT,
    SUMMARY,
    append_line,
    keep_lines,
    new_run,
    read_lines,
    read_summary,
    write_json,
)

__all__ = [
    "CHECKPOINTS",
    "METRICS",
    "PREDICTIONS",
    "RECIPE",
    "SPLIT",
    "SUMMARY",
    "append_line",
    "keep_lines",
    "new_run",
    "read_lines",
    "read_summary",
    "write_json",
]
