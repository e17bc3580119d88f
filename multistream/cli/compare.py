"""multistream compare"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from multistream.cli.figures import Plot, save_figure
from multistream.cli.options import Json, Quiet, items, pairs, print_json


class Format(StrEnum):
    """Format of the table."""

    table = "table"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"


class Against(StrEnum):
    """The row that the others are compared with."""

    first = "first"
    best = "best"


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of finished runs.")],
    against: Annotated[Against, typer.Option(help="Reference run for the differences.")] = Against.first,
    name: Annotated[list[str] | None, typer.Option(metavar="RUN=NAME", help="Name of a run's row; repeatable.")] = None,
    columns: Annotated[
        str,
        typer.Option(
            metavar="COLUMN,...",
            help="Columns in this order: accuracy, interval, macro_f1, p_holm, ..., settings, or a setting's name.",
            show_default="all that apply",
        ),
    ] = "",
    published: Annotated[
        bool, typer.Option("--published", help="Add the published numbers on FI, marked as such.")
    ] = False,
    format: Annotated[Format, typer.Option(help="Format of the table.")] = Format.table,
    plot: Plot = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare runs: what differs, accuracy with interval, paired tests; several seeds or splits are one row."""
    from multistream.comparison.compare import compare as compare_runs
    from multistream.comparison.tables import FORMATS, all_notes
    from multistream.console import Console

    console = Console(quiet=quiet)
    shown = items(columns)
    comparison = compare_runs(runs, against=against.value, names=pairs(name, "--name"), with_published=published)
    if json:
        print_json(comparison.to_dict())
    else:
        typer.echo(FORMATS[format](comparison, shown))
        for note in all_notes(comparison) if format is Format.csv else ():
            console.say(note)
    if plot is not None:
        from multistream.comparison.figure import draw

        save_figure(draw(comparison), plot)
        console.say(f"figure: {plot}")
