"""Output of commands on stdout, and the exit without a message (code 141) if its reader closes it, such as `head`."""

from __future__ import annotations

import json as jsonlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

if TYPE_CHECKING:
    from multistream.training.jobs import PlannedRun


class CommandResult(Protocol):
    """The result of a command's function."""

    def to_dict(self) -> dict[str, Any]: ...


AnyResult = TypeVar("AnyResult", bound=CommandResult)


def print_result(result: AnyResult, text: Callable[[AnyResult], str], *, json: bool) -> None:
    """Prints the result as JSON, or as the text that `text` returns."""
    print_data(result.to_dict(), "" if json else text(result), json=json)


def print_data(data: Mapping[str, Any] | Sequence[Any], text: str, *, json: bool) -> None:
    """Prints data as JSON, or the equivalent text."""
    if json:
        print_json(data)
    else:
        typer.echo(text)


def print_json(data: Mapping[str, Any] | Sequence[Any], *, indent: int | None = 2) -> None:
    """Prints one JSON value; on one line if `indent` is None."""
    text = jsonlib.dumps(data, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # a file name that is not text, or a terminal with another encoding
        text = jsonlib.dumps(data, indent=indent)
    typer.echo(text)


def print_plan(planned: Sequence[PlannedRun], *, json: bool) -> None:
    """Prints the output of --plan: the runs with their status, one line or JSON object each."""
    print_data([run.to_dict() for run in planned], "\n".join(map(str, planned)), json=json)


EXIT_CODE = 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 141
"""The exit code that a shell reports for a program ended by SIGPIPE."""


@contextmanager
def ends_quietly() -> Iterator[None]:
    """Exits with code 141 and without a message if the reader of stdout or stderr has closed it; wraps the program.

    Any other broken pipe, such as one to a child process that died, stays an error. typer and rich convert a broken
    pipe to exit code 1, and rich replaces stdout; therefore the outputs are duplicated first and polled afterwards.
    """
    outputs = list(_duplicates())
    try:
        try:
            yield
        finally:
            _flush()  # otherwise Python would report it at exit, with code 120
    except (SystemExit, BrokenPipeError) as error:
        broken = error if isinstance(error, BrokenPipeError) else error.__context__
        if not isinstance(broken, BrokenPipeError):
            raise
        if not any(map(_has_no_reader, outputs)):
            raise broken from None
        _discard_the_rest()
        raise SystemExit(EXIT_CODE) from None
    finally:
        for output in outputs:
            os.close(output)


def _duplicates() -> Iterator[int]:
    for output in (1, 2):
        with suppress(OSError):  # a program may start with a closed output
            yield os.dup(output)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _has_no_reader(output: int) -> bool:
    """Returns whether this is a pipe whose reader has closed it."""
    poll = select.poll()
    poll.register(output, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _discard_the_rest() -> None:
    """Redirects the outputs to the null device, so that flushing their buffers at exit does not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    os.close(nowhere)
