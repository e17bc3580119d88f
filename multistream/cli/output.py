"""What commands print on stdout, and what happens when its reader leaves, as `head` does: exit code 141, no message."""

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


EXIT_CODE = 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 141
"""As a shell reports a program that SIGPIPE ended."""


@contextmanager
def ends_quietly() -> Iterator[None]:
    """Around the program: where the reader of stdout or stderr has left, it ends with exit code 141 and no message.

    A broken pipe to anything else, such as a process of ours that died, stays an error. typer and rich both turn a
    broken pipe into exit code 1, and rich replaces stdout: so the outputs are duplicated before, to ask them later.
    """
    outputs = list(_duplicates())
    try:
        try:
            yield
        finally:
            _flush()  # here, for Python itself would report it at exit, with exit code 120
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
    """Whether this is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(output, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _discard_the_rest() -> None:
    """What is still in the buffers goes nowhere, so that nothing fails when Python flushes them at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)
    os.close(nowhere)
