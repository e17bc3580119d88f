"""Options that several commands share, so that each reads the same everywhere."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from multistream.errors import UsageError

Json = Annotated[bool, typer.Option("--json", help="Machine-readable results on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]
DeviceSet = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.", show_default="auto")]
PrecisionSet = Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.", show_default="auto")]
"""Where "" leaves the recipe's setting as it is."""
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input", metavar="NAME=PATH", help="A stream's vectors (.npz, .csv, ...) or folder of maps; repeats."
    ),
]
Weights = Annotated[
    list[str] | None, typer.Option(metavar="KEY=FILE|RUN|hub|random", help="A stream's pretrained weights; repeats.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting of the recipe; repeats.")
]
RecipeWithoutRun = Annotated[
    str, typer.Option(metavar="FILE|RUN|NAME", help="Settings, without RUN.", show_default="default")
]
RunOrNone = Annotated[
    Path | None, typer.Argument(metavar="RUN", help="A run's folder; without one give --streams or --recipe.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or its model.safetensors.")]


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """`KEY=VALUE` options as a dict; `~` after the `=` is the home folder.

    >>> pairs(["object=a.safetensors"], "--weights")
    {'object': 'a.safetensors'}
    """
    found: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise UsageError(option, f"{text!r} is incomplete.", right="Write KEY=VALUE, and repeat the option.")
        if key in found:
            raise UsageError(option, f"{key!r} is given twice.")
        found[key] = str(Path(value).expanduser()) if value.startswith("~") else value
    return found


def print_json(data: Mapping[str, Any] | Sequence[Any], *, indent: int | None = 2) -> None:
    """One JSON value on stdout; on one line with `indent` None."""
    text = json.dumps(data, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file's name that is no text, or a terminal that cannot show it
        text = json.dumps(data, indent=indent)
    typer.echo(text)


def listed_paths(paths: Sequence[str]) -> list[str]:
    """The paths of a command; `-` stands for those on stdin, one a line, in whatever bytes the system names files."""
    return [line for path in paths for line in (_lines_of_stdin() if path == "-" else [path])]


def _lines_of_stdin() -> list[str]:
    lines = sys.stdin.buffer.read().split(b"\n")
    return [os.fsdecode(line.removesuffix(b"\r")) for line in lines if line.strip()]
