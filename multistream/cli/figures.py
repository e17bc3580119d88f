"""The option --plot, and figures as files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistream.errors import UsageError
from multistream.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DATES = {".pdf": "CreationDate", ".svg": "Date", ".png": None}
"""The kinds of figures, and what each calls the date that would make every file another."""


def _checked(path: Path | None) -> Path | None:
    """Refuses a file of an unknown kind before any work is done for it."""
    if path is not None and path.suffix.lower() not in DATES:
        raise UsageError("--plot", f"{path} has an unknown format.", right=f"It must end in {', '.join(DATES)}.")
    return path


Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE.pdf|svg|png", help="Save a figure (PDF, SVG or PNG).", callback=_checked),
]


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure, whole or not at all; the same figure gives the same bytes."""
    import matplotlib

    kind = path.suffix.lower()
    content = io.BytesIO()
    date = DATES[kind]
    with matplotlib.rc_context({"svg.hashsalt": "multistream", "pdf.fonttype": 42}):
        figure.savefig(content, format=kind[1:], dpi=200, metadata={date: None} if date else None)
    write_atomic(path.expanduser(), content.getvalue())
