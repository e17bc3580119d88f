"""multistream weights"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistream.cli.options import Json, print_json

if TYPE_CHECKING:
    from multistream.weights import Inspection

app = typer.Typer(help="Look into weight files, and convert them to safetensors.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help=".safetensors, .pth, .caffemodel, .binaryproto or .h5.")]


@app.command("inspect")
def inspect_command(
    file: File,
    all_: Annotated[bool, typer.Option("--all", help="List every tensor.")] = False,
    json: Json = False,
) -> None:
    """Say what a weight file holds, and whose names it uses."""
    from multistream.weights import inspect

    found = inspect(file)
    if json:
        print_json(found.to_dict())
    else:
        typer.echo(described(found, every=all_))


@app.command("convert")
def convert_command(
    file: File,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The .safetensors to write.")],
    json: Json = False,
) -> None:
    """Write a weight file as safetensors; Caffe's VGG16 under torchvision's names, for RGB."""
    from multistream.weights import convert

    found = convert(file, out)
    if json:
        print_json(found.to_dict())
    else:
        typer.echo(described(found, every=False))


def described(found: Inspection, *, every: bool) -> str:
    """An inspection as lines to read."""
    types = ", ".join(f"{count} {name}" for name, count in found.dtypes.items())
    lines = [
        f"{found.path}: {found.format}, {found.style}",
        f"{found.tensors:,} tensors ({types}), {found.parameters:,} parameters, {found.bytes:,} bytes",
        f"sha256 {found.sha256}",
        *found.notes,
    ]
    shown = list(found.shapes.items()) if every else list(found.shapes.items())[:6]
    lines += [f"  {name:50} {' x '.join(map(str, shape)) or 'scalar'}" for name, shape in shown]
    if len(shown) < found.tensors:
        lines.append(f"  and {found.tensors - len(shown):,} more (--all)")
    return "\n".join(lines)
