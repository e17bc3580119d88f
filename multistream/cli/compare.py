"""multistream compare"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from multistream.cli import options, output
from multistream.figures import save_figure


class Format(StrEnum):
    """Format of the table."""

    table = "table"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"


class Against(StrEnum):
    """The row with which the others are compared."""

    first = "first"
    best = "best"


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of finished runs.")],
    against: Annotated[
        Against, typer.Option(help="Reference row: each difference is the row minus the reference.")
    ] = Against.first,
    measure: Annotated[
        str,
        typer.Option(
            metavar="MEASURE",
            help="What the tests compare: accuracy; nll (negative log-likelihood); map (mean average precision) if "
            "photos may have several labels; or, for runs with votes, chebyshev, clark, canberra, kl, cosine, "
            "intersection. Default: accuracy; with several labels, map.",
        ),
    ] = "",
    name: Annotated[
        list[str] | None, typer.Option(metavar="RUN=NAME", help="Label of a run in the table; repeatable.")
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            metavar="COLUMN,...",
            help="Columns to show, in this order: accuracy, interval, macro_f1, p_holm, ..., settings, or a setting's "
            "name. Default: all that apply.",
        ),
    ] = "",
    published: Annotated[
        bool, typer.Option("--published", help="Add the results published for the FI data set, marked as such.")
    ] = False,
    format: Annotated[Format, typer.Option(help="Format of the table.")] = Format.table,
    plot: options.Plot = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare runs: settings that differ, accuracy with a 95 % confidence interval, paired tests.

    Runs that differ only in their seed or split are combined into one row."""
    from multistream.comparison.compare import compare as compare_runs
    from multistream.comparison.tables import FORMATS, all_notes
    from multistream.console import Console

    console = Console(quiet=quiet)
    shown, names = options.items(columns), options.pairs(name, "--name")
    comparison = compare_runs(runs, against=against.value, measure=measure, names=names, with_published=published)
    output.print_result(comparison, lambda found: FORMATS[format](found, shown), json=json)
    if format is Format.csv and not json:
        for note in all_notes(comparison):
            console.say(note)
    if plot is not None:
        from multistream.comparison.figure import draw

        save_figure(draw(comparison), plot)
        console.say(f"figure: {plot}")
