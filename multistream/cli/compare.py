"""multistream compare"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from multistream.cli.figures import Plot, save_figure
from multistream.cli.options import Json, Quiet, print_json


class Format(StrEnum):
    """How the table is written."""

    table = "table"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"


class Against(StrEnum):
    """Which row the others are held against."""

    first = "first"
    best = "best"


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    against: Annotated[Against, typer.Option(help="The row that others are held against.")] = Against.first,
    published: Annotated[
        bool, typer.Option("--published", help="The published numbers on FI beside, marked as such.")
    ] = False,
    format: Annotated[Format, typer.Option(help="How the table is written.")] = Format.table,
    plot: Plot = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare runs: what differs, accuracy with interval, paired tests; seeds become mean and deviation."""
    from multistream.comparison.compare import compare as compare_runs
    from multistream.comparison.tables import FORMATS, told
    from multistream.console import Console

    console = Console(quiet=quiet)
    comparison = compare_runs(runs, against=against.value, with_published=published)
    if json:
        print_json(comparison.to_dict())
    else:
        typer.echo(FORMATS[format](comparison))
        for note in told(comparison) if format is Format.csv else ():
            console.say(note)
    if plot is not None:
        from multistream.comparison.figure import draw

        save_figure(draw(comparison), plot)
        console.say(f"figure: {plot}")
