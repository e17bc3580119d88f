"""multistream data"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistream.cli import options, output

if TYPE_CHECKING:
    from multistream.data.scan import Scan

app = typer.Typer(help="Check a data set, and split it.", no_args_is_help=True)

Source = Annotated[str, typer.Argument(metavar="DATA", help="Class folders, a CSV, or LAYOUT:PATH.")]
SHOWN = 10


@app.command()
def scan(data: Source, label: options.Label = "", json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Decode every file, and list damaged files, duplicates and placeholder images ("photo not available")."""
    from multistream.console import Console
    from multistream.data.decoding import Decoder
    from multistream.data.layouts.data_source import open_table
    from multistream.data.scan import scan as look_through
    from multistream.recipe import DataSettings

    settings = DataSettings()
    table = open_table(data, label=label)
    decoder = Decoder(64, max_pixels=settings.max_pixels, min_side=settings.min_side)
    with Console(quiet=quiet).progress(len(table), "scan") as bar:
        result = look_through(table, decoder, tick=bar.advance)
    output.print_result(result, described, json=json)


@app.command()
def split(
    data: Source,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="Output CSV (columns path, label, part, sha256); its paths are relative to its own folder.",
        ),
    ],
    fractions: Annotated[str, typer.Option(help="Percentages for train, val and test.")] = "80/5/15",
    seed: Annotated[int, typer.Option(help="Random seed.")] = 18,
    groups: options.Groups = "",
    label: options.Label = "",
    json: options.Json = False,
) -> None:
    """Assign each photo to train, val or test, and write a CSV with the assignment and the file's SHA-256.

    The CSV is a data set itself: pass it to train --data. If photos lie outside its folder, training also needs
    --set data.allow_outside=true.
    """
    from multistream.data.layouts.data_source import open_table
    from multistream.data.splits import split as draw
    from multistream.runs.split_file import write_split

    table = open_table(data, label=label)
    parts = draw(table, fractions=fractions, seed=seed, groups=groups)
    for note in (*parts.notes, *write_split(out.expanduser(), table, parts, as_data_set=True)):
        typer.echo(note, err=True)
    sizes = {name: len(rows) for name, rows in parts.named().items()}
    output.print_data(sizes, ", ".join(f"{name} {size:,}" for name, size in sizes.items()), json=json)


@app.command()
def demo(json: options.Json = False) -> None:
    """Create the demo set if it is missing, and print its folder and size."""
    from multistream.data.layouts.data_source import open_table

    table = open_table("")
    about = {"path": str(table.root), "images": len(table), "classes": list(table.classes)}
    output.print_data(about, f"{table.root}: {len(table):,} images in {len(table.classes)} classes", json=json)


def described(found: Scan) -> str:
    """Formats a scan as text."""
    classes = ", ".join(f"{name} {count:,}" for name, count in found.classes.items())
    lines = [f"{found.name}: {found.images:,} images ({classes})", *found.notes]
    lines += _some("cannot be used", [f"{bad.id}: {bad.reason}" for bad in found.unreadable])
    lines += _some("groups of identical files", map(", ".join, found.duplicates))
    lines += _some("of them in several splits", map(", ".join, found.across_parts))
    lines += _some("of them with several labels", map(", ".join, found.contradictory))
    lines += _some("groups of visually identical files", [", ".join(group[:4]) for group in found.same_picture])
    lines += _some("files of nearly one colour", found.one_colour)
    lines += [f"{count:,} files: {remark}" for remark, count in found.remarks.items()]
    return "\n".join([*lines, "clean" if found.is_clean else "check these before training"])


def _some(what: str, found: Iterable[str]) -> Iterator[str]:
    """Yields the number of entries and the first SHOWN of them."""
    entries = list(found)
    if entries:
        yield f"{len(entries):,} {what}:"
        yield from (f"  {entry}" for entry in entries[:SHOWN])
    if len(entries) > SHOWN:
        yield f"  and {len(entries) - SHOWN:,} more (--json lists all)"
