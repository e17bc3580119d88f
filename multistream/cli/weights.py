"""`multistream weights`: inspects weight files, and converts them to safetensors."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multistream.cli import options, output

if TYPE_CHECKING:
    from multistream.weights import Inspection

app = typer.Typer(help="Inspect weight files, and convert them to safetensors.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help=".safetensors, .pth, .caffemodel, .binaryproto or .h5.")]

SHOWN = 6
"""The number of listed tensors without --all."""


class Library(StrEnum):
    """The library whose tensor names a converted file gets."""

    torchvision = "torchvision"
    timm = "timm"


@app.command("inspect")
def inspect_command(
    file: File,
    all_: Annotated[bool, typer.Option("--all", help="List every tensor.")] = False,
    json: options.Json = False,
) -> None:
    """Show the tensors of a weight file, and which library's naming scheme they follow."""
    from multistream.weights import inspect

    inspection = inspect(file)
    output.print_result(inspection, lambda shown: described(shown, every=all_), json=json)


@app.command("convert")
def convert_command(
    file: File,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output .safetensors file.")],
    names: Annotated[
        Library | None,
        typer.Option(help="Naming scheme of the output; MobileNetV2, VGG16 and ResNet only."),
    ] = None,
    rgb: Annotated[
        bool,
        typer.Option(
            "--rgb",
            help="Convert the first layer of a Caffe VGG16 from BGR to RGB (not for the stream places, which "
            "expects BGR).",
        ),
    ] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert a weight file to safetensors; the tensors of a Caffe VGG16 are renamed to torchvision's names."""
    from multistream.weights import convert

    inspection = convert(file, out, names=names.value if names else None, rgb=rgb)
    output.print_result(inspection, described, json=json)
    if not quiet and (channels := inspection.metadata.get("channels")):
        typer.echo(
            f"The converted network expects {', '.join(channels)}, 0 to 255, with the mean subtracted.", err=True
        )


def described(found: Inspection, *, every: bool = False) -> str:
    """Formats an inspection as text."""
    types = ", ".join(f"{count} {name}" for name, count in found.dtypes.items())
    guess = f"{found.architecture} with the tensor names of {found.style}" if found.style else "unknown naming scheme"
    lines = [
        f"{found.path}: {found.format}, {guess}",
        f"{found.tensors:,} tensors ({types}), {found.parameters:,} parameters, {found.bytes:,} bytes",
        f"sha256 {found.sha256}",
        *found.notes,
    ]
    shown = found.tensors if every else SHOWN
    for name, shape in list(found.shapes.items())[:shown]:
        lines.append(f"  {_plain(name):50} {' x '.join(map(str, shape)) or 'scalar'}")
    if shown < found.tensors:
        lines.append(f"  and {found.tensors - shown:,} more (--all)")
    return "\n".join(lines)


def _plain(name: str) -> str:
    """Replaces control characters of a name from a file by "?"."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)
