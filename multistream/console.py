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
"""Seconds between two lines of progress if stderr is not a terminal."""


class Bar(Protocol):
    """Counts completed work."""

    def advance(self, count: int = 1) -> None:
        """Adds `count` to the completed work."""


class Console:
    """Reports progress to the user. A quiet console prints only warnings, because they concern results.

    >>> Console(quiet=True).say("train: 12 epochs")
    """

    def __init__(self, *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.quiet, self._clock = quiet, clock
        self._print: Say = _to_stderr

    @classmethod
    def silent(cls) -> Console:
        """A console that prints nothing, not even warnings, for processes whose output the user does not read."""
        console = cls(quiet=True)
        console._print = lambda _: None
        return console

    def say(self, line: str) -> None:
        """Prints a line, unless quiet."""
        if not self.quiet:
            self._print(line)

    def warn(self, line: str) -> None:
        """Prints a warning, quiet or not."""
        self._print(f"warning: {line}")

    @contextmanager
    def progress(self, total: int, label: str, *, done: int = 0) -> Iterator[Bar]:
        """Shows how much of `total` is done, with the time left: a bar on a terminal, a line every 30 s elsewhere.

        `done` is what was completed before, such as by a run that is resumed; it does not count for the speed. Lines
        that are printed in the block appear above the bar. A bar inside another bar's block prints lines instead.
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
    """Progress that is not shown."""

    def advance(self, count: int = 1) -> None:
        """Does nothing."""


class _Lines:
    """Progress for log files: a line every INTERVAL seconds, and none for shorter work."""

    def __init__(self, total: int, label: str, *, done: int, say: Say, clock: Callable[[], float]) -> None:
        self.total, self.label, self._say, self._clock = total, label, say, clock
        self.done = self._before = done
        self._started = self._said = clock()

    def advance(self, count: int = 1) -> None:
        """Counts, and prints a line if the last one is INTERVAL seconds old."""
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
    """A bar on the terminal, removed at the end of the block, and a function that prints above it."""
    from rich.console import Console as Terminal  # importing rich takes 50 ms, and --json does not need it
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
    """Seconds as h:mm:ss.

    >>> _duration(3725)
    '1:02:05'
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
