"""What happens when the reader of our output leaves, as `head` does: the program ends quietly with exit code 141."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

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
