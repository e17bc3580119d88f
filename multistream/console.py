"""Progress and messages on stderr; the commands print results on stdout."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

Say = Callable[[str], None]
"""A function that prints one line of text."""

INTERVAL = 30.0
"""Seconds between two lines of progress where there is no terminal."""


class Bar(Protocol):
    """Counts the work that is done."""

    def advance(self, count: int = 1) -> None:
        """Tells that `count` more of the total are done."""


class Console:
    """Reports progress to the user. A quiet console prints only warnings, because they concern results.

    >>> Console(quiet=True).say("train: 12 epochs")
    """

    def __init__(self, *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.quiet, self._clock = quiet, clock
        self._print: Say = _to_stderr

    @classmethod
    def silent(cls) -> Console:
        """One that prints nothing, not even warnings: for processes next to the one that the user reads."""
        console = cls(quiet=True)
        console._print = lambda _: None
        return console

    def say(self, line: str) -> None:
        """Prints a line of news, unless quiet."""
        if not self.quiet:
            self._print(line)

    def warn(self, line: str) -> None:
        """Prints a warning, quiet or not."""
        self._print(f"warning: {line}")

    @contextmanager
    def progress(self, total: int, label: str, *, done: int = 0) -> Iterator[Bar]:
        """Shows how much of `total` is done, with the time left: a bar on a terminal, a line every 30 s elsewhere.

        `done` was so before: a resumed run's steps say nothing of its speed. Lines said meanwhile stand above the bar;
        a bar inside another bar's block counts in lines.
        """
        if self.quiet:
            yield _Silent()
        elif self._print is _to_stderr and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            with _drawn_bar(total, label, done=done) as (bar, self._print):
                try:
                    yield bar
                finally:
                    self._print = _to_stderr
        else:
            yield _Lines(total, label, done=done, say=self.say, clock=self._clock)


class _Silent:
    """Counts nothing: a quiet console."""

    def advance(self, count: int = 1) -> None:
        """Does nothing."""


class _Lines:
    """Progress for log files: a line now and then, none for what is done in less."""

    def __init__(self, total: int, label: str, *, done: int, say: Say, clock: Callable[[], float]) -> None:
        self.total, self.label, self._say, self._clock = total, label, say, clock
        self.done = self._before = done
        self._started = self._said = clock()

    def advance(self, count: int = 1) -> None:
        """Counts, and says where it stands if the last line is long ago."""
        self.done += count
        now = self._clock()
        if now - self._said >= INTERVAL:
            self._said = now
            self._say(self._line(now - self._started))

    def _line(self, seconds: float) -> str:
        share = f"{self.done:,} of {self.total:,} ({100 * self.done / max(1, self.total):.0f} %)"
        left = seconds / max(1, self.done - self._before) * max(0, self.total - self.done)
        return f"{self.label}: {share}, {_duration(seconds)} elapsed, {_duration(left)} left"


@contextmanager
def _drawn_bar(total: int, label: str, *, done: int) -> Iterator[tuple[Bar, Say]]:
    """A bar on the terminal, which goes when it is done, and how to print above it."""
    from rich.console import Console as Terminal  # rich costs 50 ms, which no --json needs
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left"))
    terminal = Terminal(stderr=True, highlight=False, markup=False, emoji=False)
    with Progress(*columns, *times, console=terminal, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task(label, total=total, completed=done)

        class Drawn:
            def advance(self, count: int = 1) -> None:
                progress.advance(task, count)

        yield Drawn(), lambda line: terminal.print(line, soft_wrap=True)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    """Seconds as a clock shows them.

    >>> _duration(3725)
    '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
