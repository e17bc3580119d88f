"""Figures as files, drawn by matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Final

from multistream.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS: Final = {".pdf": "CreationDate", ".svg": "Date", ".png": "Software"}
"""The formats of figures, and the metadata in each that would make two equal figures differ."""


def save_figure(figure: Figure, path: Path, *, dpi: int = 200) -> None:
    """Writes a figure atomically, in the format of the path's suffix; equal figures give equal bytes."""
    import matplotlib  # takes a second, and only figures need it

    suffix, content = path.suffix.lower(), io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "multistream", "pdf.fonttype": 42}):
        figure.savefig(content, format=suffix[1:], dpi=dpi, facecolor="white", metadata={FORMATS[suffix]: None})
    write_atomic(path.expanduser(), content.getvalue())
