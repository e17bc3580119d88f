"""multistream report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistream.cli.options import Device, Json, Precision, Quiet, Run, print_json


def report(
    run: Run,
    photos: Annotated[int, typer.Option(metavar="N", help="Photos to explain; 0 looks at none.")] = 24,
    against: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="A run on the same test part to hold it against; repeats.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write; RUN/report.html without.")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one HTML page that tells a run's whole story: data, results, evidence, cost, checks."""
    from multistream.console import Console
    from multistream.reporting import report as write

    console = Console(quiet=quiet)
    found = write(
        run, photos=photos, against=against or (), out=out, device=device, precision=precision, console=console
    )
    for check in found.checks:
        if not check.holds:
            console.warn(f"check: {check.promise}: {check.measured:.2g}, at most {check.limit:.2g}; {check.about}")
    if json:
        print_json(found.to_dict())
    else:
        typer.echo(f"{found.path}  {found.bytes / 1e6:.2f} MB, {found.photos} photos")
