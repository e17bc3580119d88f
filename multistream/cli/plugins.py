"""`multistream plugins`: lists all components, and shows, checks and creates single ones."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from multistream.cli import options, output
from multistream.commands import command_line, quoted
from multistream.errors import PluginError, UsageError
from multistream.registry import PLURALS, Kind, Part, PartInfo, find, find_any, parts
from multistream.registry.building import Description, describe
from multistream.registry.scaffold import NewKind, new_plugin

app = typer.Typer(help="List, show, check and create plugins.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a component, or NAME@DISTRIBUTION.")]
OneKind = Annotated[
    Kind | None, typer.Option("--kind", help="Required if components of different kinds share this name.")
]


@app.callback(invoke_without_command=True)
def listing(
    context: typer.Context,
    load: Annotated[
        bool, typer.Option("--load", help="Import every component; slower, but catches all import errors.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List every component: its kind, its distribution, and whether it works."""
    if context.invoked_subcommand is not None:
        return
    rows = parts(imported=load)
    output.print_data([asdict(row) for row in rows], as_table(rows), json=as_json)
    broken = [row.status for row in rows].count("broken")
    if broken and not (quiet or as_json):
        typer.echo(f"{broken} of {len(rows)} components are broken; the others still work.", err=True)


@app.command()
def show(name: Name, kind: OneKind = None, as_json: options.Json = False) -> None:
    """Show a component: factory, options, variants, and the source of its weights."""
    shown = [describe(part) for part in _parts(name, kind)]
    output.print_data([asdict(each) for each in shown], "\n\n".join(map(as_text, shown)), json=as_json)


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="NAME[:VARIANT][@DISTRIBUTION], or NAME:PATH.")],
    kind: OneKind = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="Set an option of the component; repeatable."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Test a component against the contract of its kind; exit 69 if a check fails."""
    component_options = dict(map(_option, settings or ()))
    requirements: list[dict[str, str]] = []
    for part in _parts(name, kind):
        promises, broken = _checked(part, name, component_options)
        requirements += [{"kind": part.kind, "promise": promise} for promise in promises]
        if not as_json:
            typer.echo("\n".join(f"ok  {part.kind}: {promise}" for promise in promises))
        if broken:
            raise PluginError(PLURALS[part.kind], f"{name!r} breaks its contract: {broken}") from broken
    if as_json:
        output.print_json(requirements)


def _checked(part: Part, name: str, options: Mapping[str, Any]) -> tuple[Sequence[str], Exception | None]:
    """Returns the requirements that a component meets, and the error of the first one that it violates."""
    from multistream import testing  # it imports torch

    spec, path = (name, "") if part.kind != "dataset" else (part.name, name.partition(":")[2])
    try:
        return testing.check(part.kind, spec, options=options, path=path), None
    except testing.BrokenPromise as error:
        return error.kept, error


def _option(text: str) -> tuple[str, Any]:
    """Parses OPTION=VALUE to a name and a TOML value; a value that is not valid TOML is kept as text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError("--set", f"{text!r} is not OPTION=VALUE.", right="For example --set width=24.")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the component: a-z, 0-9 and _.")],
    kind: Annotated[NewKind, typer.Option("--kind", help="Kind of component the plugin provides.")] = "stream",
    out: Annotated[Path | None, typer.Option("--out", help="Folder to create. Default: multistream-NAME.")] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Create a minimal working plugin."""
    written = new_plugin(name, kind=kind, out=out.expanduser() if out else None)
    files = list(map(str, written))
    output.print_data(files, "\n".join(files), json=as_json)
    if not quiet:
        check = command_line("plugins", "check", f"{name}:PATH" if kind == "dataset" else name)
        typer.echo(f"Next: pip install {quoted('-e', written[0].parent)}, {check}", err=True)


def _parts(text: str, kind: Kind | None) -> tuple[Part, ...]:
    """Finds the components named NAME or NAME@DISTRIBUTION, of one kind or of all kinds."""
    name = re.split("[:@]", text, maxsplit=1)[0]
    distribution = None if "/" in text else text.partition("@")[2] or None  # a data set's path may contain an @
    return find_any(name, distribution=distribution) if kind is None else (find(kind, name, distribution=distribution),)


def as_table(rows: tuple[PartInfo, ...]) -> str:
    """Formats components in aligned columns; the error of a broken one is on a separate line."""
    cells = [("NAME", "KIND", "DISTRIBUTION", "VERSION", "STATUS")]
    cells += [(row.name, row.kind or "?", row.distribution, row.version, row.status) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    errors = [f"\n    {row.error}" if row.error else "" for row in rows]
    return "\n".join([head, *map(str.__add__, lines, errors)])


def as_text(shown: Description) -> str:
    """Formats the description of one component."""
    lines = [f"{shown.name}: a {shown.kind} of {shown.distribution} {shown.version}"]
    lines += [f"  factory   {shown.factory}", f"  takes     {shown.signature}"]
    if shown.variants:
        lines.append(f"  variants  {', '.join(shown.variants)}")
    for variant, source in shown.weights.items():
        lines.append(f"  weights   {variant}: " + ", ".join(f"{name} {value}" for name, value in source.items()))
    return "\n".join([*lines, "", *(f"  {line}".rstrip() for line in shown.doc.splitlines())]).rstrip()
