"""What commands print on stdout."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

if TYPE_CHECKING:
    from multistream.training.jobs import PlannedRun


class CommandResult(Protocol):
    """What a command's function returns."""

    def to_dict(self) -> dict[str, Any]: ...


AnyResult = TypeVar("AnyResult", bound=CommandResult)


def print_result(result: AnyResult, text: Callable[[AnyResult], str], *, json: bool) -> None:
    """The result as JSON, or as the `text` of it that people read."""
    print_data(result.to_dict(), "" if json else text(result), json=json)


def print_data(data: Mapping[str, Any] | Sequence[Any], text: str, *, json: bool) -> None:
    """Data as JSON, or the text that says the same."""
    if json:
        print_json(data)
    else:
        typer.echo(text)


def print_json(data: Mapping[str, Any] | Sequence[Any], *, indent: int | None = 2) -> None:
    """One JSON value on stdout; on one line with `indent` None."""
    text = jsonlib.dumps(data, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file's name that is not text, or a terminal that cannot show it
        text = jsonlib.dumps(data, indent=indent)
    typer.echo(text)


def print_plan(planned: Sequence[PlannedRun], *, json: bool) -> None:
    """What --plan prints: the runs with their status, a line or a JSON object each."""
    print_data([run.to_dict() for run in planned], "\n".join(map(str, planned)), json=json)
