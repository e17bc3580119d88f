"""multistream predict"""

from __future__ import annotations

import json as jsonlib
import sys
from typing import Annotated

import typer

from multistream.cli.options import Device, Inputs, Json, Precision, Quiet, Run, pairs


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
    from multistream.model import load

    listed = [line for path in paths for line in (sys.stdin.read().splitlines() if path == "-" else [path])]
    model = load(run)
    bad = 0
    for result in model.predict(listed, inputs=pairs(input, "--input"), device=device, precision=precision):
        bad += result.status != "ok"
        if json:
            typer.echo(jsonlib.dumps(result.to_dict(), ensure_ascii=False))
        elif result.label is None:
            typer.echo(f"{result.path}\t{result.status}")
        else:
            typer.echo(f"{result.path}\t{result.label}\t{100 * result.probabilities[result.label]:.1f} %")
    if bad and not quiet:
        typer.echo(f"{bad} files could not be used; their lines say why.", err=True)
