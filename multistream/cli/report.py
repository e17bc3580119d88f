"""multistream report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multistream.cli import options, output


def report(
    run: options.Run,
    photos: Annotated[
        int, typer.Option(metavar="N", help="Number of test photos to explain; 0: do not read any photos.")
    ] = 24,
    against: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="Another run to compare with (must have the same test split); repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Output file. Default: RUN/report.html.")] = None,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a single-page HTML report on a run: data, results, attribution, ablation, cost, checks."""
    from multistream.console import Console
    from multistream.reporting import report as write

    console = Console(quiet=quiet)
    written = write(
        run, photos=photos, against=against or (), out=out, device=device, precision=precision, console=console
    )
    for check in written.checks:
        if not check.passed:
            console.warn(f"check failed: {check.name}: {check.measured:.2g}, limit {check.limit:.2g}; {check.about}")
    output.print_result(
        written, lambda page: f"{page.path}  {page.bytes / 1e6:.2f} MB, {page.photos} images", json=json
    )
