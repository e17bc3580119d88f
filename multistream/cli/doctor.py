"""multistream doctor"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

from multistream.cli import options, output
from multistream.errors import printable

if TYPE_CHECKING:
    from multistream.environment import Devices, Environment, Folder, Version


def doctor(as_json: options.Json = False, quiet: options.Quiet = False) -> None:
    """Check the installation: versions, extras, devices, plugins, folders, environment variables.

    Each fault is a line on stderr; the exit code is 69 if a plugin is broken, else that of the first fault.
    """
    from multistream.console import Console
    from multistream.environment import inspect_environment

    console = Console(quiet=quiet)
    found = inspect_environment()
    output.print_result(found, as_text, json=as_json)
    for warning in found.warnings:
        console.warn(warning)
    for fault in found.faults:
        typer.echo(fault, err=True)
    if found.faults:
        raise typer.Exit(found.exit_code)
    console.say("doctor: no faults")


def as_text(found: Environment) -> str:
    """Formats the environment, one section after the other."""
    sections = {
        "Versions": list(map(_version, found.versions)),
        "Extras": [f"{name:14} {_extra(name, missing)}" for name, missing in found.extras.items()],
        "Devices": _devices(found.devices) if found.devices else ["unknown: torch cannot be imported"],
        "Plugins": _plugins(found),
        "Folders": [
            f"cache          {_place(found.cache)}, {found.cache_bytes / 1e9:.3f} GB used",
            f"temporary      {_place(found.temporary)}",
        ],
        "Environment variables": _variables(found.variables),
    }
    return "\n\n".join(
        "\n  ".join([title, *(printable(line.rstrip()) for line in lines)]) for title, lines in sections.items()
    )


def _version(row: Version) -> str:
    verdict = "" if row.satisfied else "NOT SATISFIED"
    return f"{row.name:14} {row.version or 'missing':16} {row.requirement:16} {verdict}"


def _plugins(found: Environment) -> list[str]:
    counts = ", ".join(f"{kind} {count}" for kind, count in found.parts.items())
    others = (*found.broken, *found.disabled)
    return [counts or "none"] + [
        f"{row.status}: {row.name} of {row.distribution} {row.version}: {row.error}" for row in others
    ]


def _variables(variables: Mapping[str, str | None]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items() if value is not None] or ["none is set"]


def _extra(name: str, missing: tuple[str, ...]) -> str:
    return f"{', '.join(missing)} missing: pip install 'multistream[{name}]'" if missing else "installed"


def _devices(devices: Devices) -> list[str]:
    build = f"torch is built for CUDA {devices.cuda_build}" if devices.cuda_build else "torch is built without CUDA"
    return [
        f"cpu            {devices.threads} threads, {devices.cores} cores",
        *(
            f"cuda:{number:<9} {each.name}, {each.memory / 1e9:.0f} GB, compute capability {each.capability}, "
            f"driver {devices.driver or 'unknown'}"
            for number, each in enumerate(devices.cuda)
        ),
        f"cuda           {len(devices.cuda) or 'no'} devices; {build}",
        f"mps            {'available' if devices.mps else 'not available'}",
        f"auto           --device {devices.device}, --precision {devices.precision}",
    ]


def _place(folder: Folder) -> str:
    free = "free space unknown" if folder.free is None else f"{folder.free / 1e9:.1f} GB free"
    return f"{folder.path}, {'writable' if folder.writable else 'NOT WRITABLE'}, {free}"
