"""multistream predict"""

from __future__ import annotations

from typing import Annotated

import typer

from multistream.cli.options import Device, Inputs, Json, Precision, Quiet, Run, listed_paths, pairs, print_json


def predict(
    run: Run,
    paths: Annotated[list[str], typer.Argument(metavar="PATHS...", help="Files and folders; - reads a list on stdin.")],
    input: Inputs = None,
    device: Device = "auto",
    precision: Precision = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Class probabilities for photos, a line each; a damaged file costs a status, not the run."""
    from multistream.data.filenames import printable
    from multistream.inference.model import load

    model = load(run)
    bad = 0
    for result in model.predict(
        listed_paths(paths), inputs=pairs(input, "--input"), device=device, precision=precision
    ):
        bad += result.status != "ok"
        if json:
            print_json(result.to_dict(), indent=None)
        elif result.label is None:
            typer.echo(f"{printable(result.path)}\t{result.status}")
        else:
            typer.echo(
                f"{printable(result.path)}\t{printable(result.label)}\t{100 * result.probabilities[result.label]:.1f} %"
            )
    if bad and not quiet:
        typer.echo(f"{bad} files could not be used; their lines say why.", err=True)
